"""What a person sees and changes beside results: tokens, plans, settings, history, links, reports, data, rules."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog

from bots.core import screens
from bots.core.actions import Action, Verb
from bots.core.bot import Bot
from bots.core.incoming import Happening, Incoming, Person
from bots.core.messages import LANGUAGES, Words
from bots.core.options import RATIOS
from bots.core.platform import ChatError, TooLarge
from bots.core.refusals import is_final, refusal_view
from bots.core.results import bring_originals, render, subject_of
from bots.core.views import Form, Media, View, plain
from bots.core.watching import Watchers
from tessera.client import ApiError, Client, Job
from tessera.jobs import JobState

log = structlog.get_logger(__name__)

WAITING = (JobState.CREATED, JobState.QUEUED, JobState.RUNNING)
MAX_CANCEL = 100
LINK_MINUTES = 10
MAX_CODE_CHARS = 64


class Account:
    """The screens of one bot."""

    def __init__(self, bot: Bot, watchers: Watchers) -> None:
        self._bot = bot
        self._watchers = watchers
        self._commands: dict[str, Callable[[Incoming, Words], Awaitable[None]]] = {
            "history": self._history,
            "usage": self._usage,
            "plans": self._plans,
            "settings": self._settings,
            "cancel": self._cancel_all,
            "help": self._help,
            "start": self._help,
            "link": self._link,
            "report": self._report,
            "terms": self._terms,
            "privacy": self._privacy,
            "rules": self._rules,
        }
        self._presses: dict[Verb, Callable[[Incoming, Action, Words], Awaitable[None]]] = {
            Verb.HISTORY: lambda incoming, action, words: self._history(incoming, words, page=action.index),
            Verb.SHOW: self._show,
            Verb.USAGE: lambda incoming, _, words: self._usage(incoming, words),
            Verb.PLANS: lambda incoming, _, words: self._plans(incoming, words),
            Verb.HELP: lambda incoming, _, words: self._help(incoming, words),
            Verb.SETTINGS: self._set,
            Verb.OPTION: self._option,
            Verb.CANCEL: self._cancel,
            Verb.DELETE: self._delete,
            Verb.ORIGINAL: self._original,
            Verb.ACCOUNT: self._data,
            Verb.RULES: self._rule,
        }

    def knows(self, command: str) -> bool:
        """Whether this command is answered here."""
        return command in self._commands

    async def command(self, incoming: Incoming, words: Words) -> None:
        """Answer a command. Raises ClientError when it is to be tried again."""
        await self._told(incoming, words, self._commands[incoming.command](incoming, words))

    async def press(self, incoming: Incoming, action: Action, words: Words) -> bool:
        """Answer a button; False for one that is not of a screen."""
        handler = self._presses.get(action.verb)
        if handler is None:
            return False
        await self._told(incoming, words, handler(incoming, action, words))
        return True

    async def reported(self, incoming: Incoming, action: Action, words: Words) -> None:
        """A report with its reason."""
        await self._told(incoming, words, self._report_job(incoming, action, words))

    async def _told(self, incoming: Incoming, words: Words, work: Awaitable[None]) -> None:
        try:
            await work
        except ApiError as error:
            if not is_final(error):
                raise
            view = refusal_view(error, words, self._bot.clock())
            if error.status in (404, 410):
                view = View(lines=(plain(words("refused-expired")),), only_for_asker=True)
            await self._bot.say.answer(incoming, view)

    async def _answer(self, incoming: Incoming, view: View) -> None:
        """A screen takes the place of the one whose button was pressed, unless that is a result."""
        instead = incoming.what is Happening.PRESS and incoming.options.get("screen") is True
        await self._bot.say.answer(incoming, view, instead=instead)

    # Tokens and plans

    async def _usage(self, incoming: Incoming, words: Words) -> None:
        client = self._bot.backend.of(incoming.person.identity)
        me = await client.me()
        identities = [each.identity for each in await client.identities()]
        await self._answer(incoming, screens.usage_view(me, words, self._bot.clock(), identities=identities))

    async def _plans(self, incoming: Incoming, words: Words) -> None:
        me = await self._bot.backend.of(incoming.person.identity).me()
        await self._answer(incoming, screens.plans_view(await self._bot.backend.plans(), me.plan, words))

    # Settings

    async def _settings(self, incoming: Incoming, words: Words, *, saved: bool = False) -> None:
        settings, _ = await self._bot.known(incoming.person)
        await self._answer(incoming, screens.settings_view(settings, words, saved=saved))

    async def _set(self, incoming: Incoming, action: Action, words: Words) -> None:
        name, is_value, value = action.value.partition("=")
        if not name:
            await self._settings(incoming, words)
            return
        models = await self._bot.backend.models(self._bot.kind, self._bot.config.models)
        if not is_value:
            await self._answer(incoming, screens.choices_view(name, models, words))
            return
        changes: dict[str, Any] = {}
        match name:
            case "model":
                chosen = models[int(value) - 1].id if value.isdecimal() and 0 < int(value) <= len(models) else None
                changes[f"{self._bot.kind}_model"] = chosen
            case "ratio":
                changes["ratio"] = value if value in RATIOS else None
            case "spoiler":
                changes["spoiler"] = value == "on"
            case "language":
                changes["language"] = value if value in LANGUAGES else None
            case _:
                await self._settings(incoming, words)
                return
        await self._bot.backend.change_settings(incoming.person, changes)
        settings, _ = await self._bot.known(incoming.person)
        words = self._bot.words(incoming.person, settings)
        await self._answer(incoming, screens.settings_view(settings, words, saved=True))

    async def _option(self, incoming: Incoming, action: Action, words: Words) -> None:
        name, _, value = action.value.partition("=")
        if name == "ratio" and value in RATIOS:
            await self._bot.backend.change_settings(incoming.person, {"ratio": value})
            await self._bot.say.notice(incoming, words("settings-ratio", value=value))

    # What was made

    async def _history(self, incoming: Incoming, words: Words, page: int = 0) -> None:
        page = min(page, screens.MAX_PAGES - 1)
        client = self._bot.backend.of(incoming.person.identity)
        wanted = screens.PAGE * (page + 1)
        found = await client.list_jobs(kind=self._bot.kind, limit=min(100, wanted + 1))
        jobs = found.data[wanted - screens.PAGE : wanted]
        entries = [(job, subject_of(self._bot, job, incoming.person).prompt) for job in jobs]
        more = len(found.data) > wanted or (found.next_cursor is not None and page + 1 < screens.MAX_PAGES)
        await self._answer(incoming, screens.history_view(entries, page, incoming.person.subject, words, more=more))

    async def _show(self, incoming: Incoming, action: Action, words: Words) -> None:
        if not await self._is_owner(incoming, action, words):
            return
        job = await self._bot.backend.of(incoming.person.identity).get_job(action.job_id)
        view = await render(self._bot, job, incoming.person, incoming.place, words)
        try:
            await self._bot.say.answer(incoming, view)
        except TooLarge:  # a limit of this very chat: as a link then
            linked = await render(self._bot, job, incoming.person, incoming.place, words, limit_bytes=0)
            await self._bot.say.answer(incoming, linked)

    async def _original(self, incoming: Incoming, action: Action, words: Words) -> None:
        job = await self._owned(action)
        owner = Person(provider=self._bot.config.platform, subject=action.owner)
        await bring_originals(self._bot, incoming, job, owner, words)

    async def _delete(self, incoming: Incoming, action: Action, words: Words) -> None:
        if not await self._is_owner(incoming, action, words):
            return
        client = self._bot.backend.of(incoming.person.identity)
        job = await client.get_job(action.job_id)
        for artifact in job.artifacts:
            await self._delete_file(client, artifact.id)
        if incoming.message is not None:
            await self._bot.say.delete(incoming.message)
        await self._bot.say.notice(incoming, words("deleted"))

    async def _delete_file(self, client: Client, artifact_id: str) -> None:
        try:
            await client.delete_artifact(artifact_id)
        except ApiError as error:
            if error.status not in (404, 410):  # it is gone already
                raise

    async def _cancel(self, incoming: Incoming, action: Action, words: Words) -> None:
        if not await self._is_owner(incoming, action, words):
            return
        self._watchers.cancelling(action.job_id)
        await self._bot.backend.of(incoming.person.identity).cancel(action.job_id)
        await self._bot.say.notice(incoming, words("cancelling"))

    async def _cancel_all(self, incoming: Incoming, words: Words) -> None:
        client = self._bot.backend.of(incoming.person.identity)
        found = await client.list_jobs(
            state=WAITING, kind=self._bot.kind, metadata={"bot": self._bot.config.id}, limit=MAX_CANCEL
        )
        for job in found.data:
            self._watchers.cancelling(job.id)
            await client.cancel(job.id)
        count = len(found.data)
        text = words("cancel-done", count=count) if count else words("cancel-none")
        await self._bot.say.answer(incoming, View(lines=(plain(text),), only_for_asker=True))

    async def _owned(self, action: Action) -> Job:
        return await self._bot.backend.of(f"{self._bot.config.platform}:{action.owner}").get_job(action.job_id)

    async def _is_owner(self, incoming: Incoming, action: Action, words: Words) -> bool:
        if action.owner == incoming.person.subject:
            return True
        await self._bot.say.notice(incoming, words("refused-foreign"), loud=True)
        return False

    # Help, terms

    async def _help(self, incoming: Incoming, words: Words) -> None:
        await self._answer(incoming, screens.help_view(self._bot.config.title, self._bot.kind, words))

    async def _terms(self, incoming: Incoming, words: Words) -> None:
        me = await self._bot.backend.of(incoming.person.identity).me()
        days = me.limits.get("retention_days", 3)
        await self._answer(incoming, screens.terms_view(int(days), words))

    # One quota for all platforms

    async def _link(self, incoming: Incoming, words: Words) -> None:
        code = (str(incoming.options.get("code") or "") or incoming.text).strip()
        client = self._bot.backend.of(incoming.person.identity)
        if not code:
            if not incoming.place.private and self._bot.config.platform == "telegram":
                await self._bot.say.answer(incoming, _only(words("link-private")))
                return
            made = await client.link_code()
            left = (made.expires_at - self._bot.clock()).total_seconds() / 60 if made.expires_at else LINK_MINUTES
            await self._bot.say.answer(incoming, screens.link_view(made.code, max(1, round(left)), words))
            return
        try:
            linked = await client.link(code[:MAX_CODE_CHARS])
        except ApiError as error:
            if error.status not in (404, 409, 410, 422):
                raise
            text = words("link-same") if error.status == 409 else words("link-wrong")
            await self._bot.say.answer(incoming, _only(text))
            return
        self._bot.backend.forget(incoming.person)
        identities = [each.identity for each in linked.identities]
        text = words("link-done", platforms=screens.platforms_of(identities))
        await self._bot.say.answer(incoming, _only(text))

    # Reports

    async def _report(self, incoming: Incoming, words: Words) -> None:
        await self._bot.say.answer(incoming, _only(words("ask-report-none")))

    async def _report_job(self, incoming: Incoming, action: Action, words: Words) -> None:
        reason = incoming.text.strip()[:1000]
        if not reason:
            await self._bot.say.answer(incoming, _only(words("ask-report-none")))
            return
        try:
            await self._bot.backend.of(incoming.person.identity).report(reason, job_id=action.job_id)
        except ApiError as error:
            if error.status != 404:
                raise
            await self._bot.say.answer(incoming, _only(words("report-unknown")))
            return
        await self._bot.say.answer(incoming, _only(words("report-thanks")))

    # A person's data

    async def _privacy(self, incoming: Incoming, words: Words) -> None:
        await self._answer(incoming, screens.privacy_view(words))

    async def _data(self, incoming: Incoming, action: Action, words: Words) -> None:
        client = self._bot.backend.of(incoming.person.identity)
        match action.value:
            case "export":
                await self._bot.say.answer(incoming, await self._export(client, words))
            case "delete":
                await self._answer(incoming, screens.erase_view(words))
            case "delete!":
                await client.delete_account((await client.me()).id)
                self._bot.backend.forget(incoming.person)
                await self._answer(incoming, _only(words("privacy-erased")))
            case _:
                await self._answer(incoming, screens.privacy_view(words))

    async def _export(self, client: Client, words: Words) -> View:
        with tempfile.TemporaryDirectory(prefix="tessera-export-") as folder:
            path = Path(folder) / "export.json"
            await client.export(path)
            data = await asyncio.to_thread(path.read_bytes)
        name = f"tessera-{self._bot.clock():%Y-%m-%d}.json"
        media = Media(name=name, media_type="application/json", data=data, as_file=True)
        return View(lines=(plain(words("privacy-export")),), media=(media,), only_for_asker=True)

    # The rules of a chat

    async def _rules(self, incoming: Incoming, words: Words) -> None:
        if incoming.place.private:
            await self._bot.say.answer(incoming, _only(words("rules-group")))
            return
        if await self._may_rule(incoming, words):
            rules = await self._bot.backend.rules(incoming.place)
            await self._answer(incoming, screens.rules_view(rules, channel_of(incoming), words))

    async def _rule(self, incoming: Incoming, action: Action, words: Words) -> None:
        if incoming.place.private or not await self._may_rule(incoming, words):
            return
        rules, channel = await self._bot.backend.rules(incoming.place), channel_of(incoming)
        channels = tuple(each for each in rules.channels if each != channel)
        match action.value:
            case "here":
                changed = screens.ChatRules(channels=(*channels, channel), adult=rules.adult, spoiler=rules.spoiler)
            case "not-here":
                changed = screens.ChatRules(channels=channels, adult=rules.adult, spoiler=rules.spoiler)
            case "everywhere":
                changed = screens.ChatRules(adult=rules.adult, spoiler=rules.spoiler)
            case "adult":
                changed = screens.ChatRules(channels=rules.channels, adult=not rules.adult, spoiler=rules.spoiler)
            case "spoiler":
                changed = screens.ChatRules(channels=rules.channels, adult=rules.adult, spoiler=not rules.spoiler)
            case _:
                return
        await self._bot.backend.change_rules(incoming.place, changed, incoming.person)
        await self._answer(incoming, screens.rules_view(changed, channel, words))

    async def _may_rule(self, incoming: Incoming, words: Words) -> bool:
        try:
            admin = await self._bot.say.is_admin(incoming.place, incoming.person.subject)
        except ChatError as error:
            log.info("admin_not_asked", bot=self._bot.config.id, reason=str(error))
            admin = False
        if not admin:
            await self._bot.say.answer(incoming, _only(words("rules-admins")))
        return admin


def channel_of(incoming: Incoming) -> str:
    """What an allow-list names: a channel of a server (with its threads), a topic of a group (``0``: none)."""
    place = incoming.place
    return place.thread or (place.chat if place.server else "0")


def report_form(action: Action, words: Words) -> Form:
    """What is wrong with it?"""
    return Form(
        title=words("ask-report-title"), label=words("ask-report-field"), action=action.encode(), max_length=500
    )


def _only(text: str) -> View:
    return View(lines=(plain(text),), only_for_asker=True)
