"""What a bot does with what a person did. One entry, ``handle``; safe to repeat for the same update.

Where people are many (groups, servers) it answers only what was meant for it, and only where an admin lets it.
"""

from __future__ import annotations

from enum import StrEnum

import structlog

from bots.core.account import Account, channel_of, report_form
from bots.core.actions import Action, Verb, decode
from bots.core.bot import Bot
from bots.core.commands import commands_of
from bots.core.incoming import Happening, Incoming
from bots.core.making import Maker
from bots.core.messages import Words
from bots.core.options import BadOption, Wish, parse, wish_of
from bots.core.refusals import is_final, option_view, refusal_view
from bots.core.screens import SHOWN_RATIOS
from bots.core.status import wish_of_job
from bots.core.views import Button, Form, View, plain, shorten
from bots.core.watching import Watchers
from tessera.client import ApiError, Model

log = structlog.get_logger(__name__)

MAKING = frozenset({"imagine", "video", "animate"})
MOTION = "gentle motion"  # what a picture does when nobody says what it should
ASKING = frozenset({Verb.EDIT, Verb.REPORT, Verb.PROMPT})
MAX_FORM_CHARS = 3500
MAX_OFFERED_MODELS = 25


class Opening(StrEnum):
    """How the answer to a press or a command begins, where a platform wants to know it at once."""

    EVERYBODY = "everybody"  # a new message that all see
    ASKER = "asker"  # a new message for who asked alone
    SAME = "same"  # the message whose button was pressed changes, or nothing does


def opening_of(incoming: Incoming) -> Opening:
    """How the answer begins. Pure."""
    if incoming.what is Happening.PRESS:
        action = decode(incoming.action)
        if action is None or action.verb in (Verb.ORIGINAL, Verb.SHOW):
            return Opening.ASKER
        if action.verb in (Verb.UPSCALE, Verb.VARY, Verb.AGAIN, Verb.EXTEND):
            return Opening.EVERYBODY
        if action.verb in (Verb.CANCEL, Verb.DELETE, Verb.OPTION) or incoming.options.get("screen") is True:
            return Opening.SAME
        return Opening.ASKER
    if incoming.what is Happening.FORM:
        action = decode(incoming.action)
        return Opening.ASKER if action is None or action.verb is Verb.REPORT else Opening.EVERYBODY
    return Opening.EVERYBODY if incoming.command in MAKING else Opening.ASKER


class Conversation:
    """All that one bot answers."""

    def __init__(self, bot: Bot, watchers: Watchers) -> None:
        self._bot = bot
        self._maker = Maker(bot, watchers)
        self._account = Account(bot, watchers)
        self._commands = {command.name: command for command in commands_of(bot.kind)}

    async def handle(self, incoming: Incoming) -> None:
        """Do what was asked. Raises ClientError or ChatError when it is to be tried again."""
        self._bot.metrics.updates.labels(self._bot.config.id, incoming.what.value).inc()
        if incoming.what is Happening.MOVED:
            self._bot.say.moved(incoming.place.chat, incoming.text)
            return
        words = await self._words(incoming)
        if words is None:
            return
        if not await self._may_answer(incoming, words):
            return
        match incoming.what:
            case Happening.COMMAND | Happening.MENU:
                await self._command(incoming, words)
            case Happening.TEXT:
                await self._text(incoming, words)
            case Happening.PRESS:
                await self._press(incoming, words)
            case Happening.FORM:
                await self._form(incoming, words)

    async def form_for(self, incoming: Incoming) -> Form | None:
        """The form that this press or command opens at once, where a platform wants it as the first answer."""
        if incoming.what is Happening.COMMAND:
            if incoming.command not in MAKING or incoming.options.get("prompt") or incoming.file:
                return None
            words = await self._bot.words_of(incoming)
            try:
                wish = wish_of("", incoming.options)
            except BadOption:
                return None
            return self._prompt_form(Action(verb=Verb.PROMPT), wish.text(), words)
        action = decode(incoming.action) if incoming.what is Happening.PRESS else None
        if action is None or action.verb not in ASKING:
            return None
        words = await self._bot.words_of(incoming)
        if action.verb is Verb.REPORT:
            return report_form(action, words)
        old = await self._old_wish(action) if action.verb is Verb.EDIT else ""
        return self._prompt_form(action, old, words)

    async def models(self, typed: str) -> list[Model]:
        """The models whose id or title has what was typed so far."""
        wanted = typed.strip().lower()
        models = await self._bot.backend.models(self._bot.kind, self._bot.config.models)
        return [model for model in models if wanted in model.id.lower() or wanted in model.title.lower()][
            :MAX_OFFERED_MODELS
        ]

    # Who is answered, and where

    async def _words(self, incoming: Incoming) -> Words | None:
        try:
            settings, _ = await self._bot.known(incoming.person)
        except ApiError as error:
            if not is_final(error) or error.code == "rate_limited":  # many new people at once: it is kept, and goes on
                raise
            words = self._bot.words(incoming.person, None)
            await self._bot.say.answer(incoming, refusal_view(error, words, self._bot.clock()))
            return None
        return self._bot.words(incoming.person, settings)

    async def _may_answer(self, incoming: Incoming, words: Words) -> bool:
        if incoming.place.private or incoming.command == "rules":
            return True
        action = decode(incoming.action)
        if action is not None and action.verb in (Verb.RULES, Verb.CANCEL, Verb.DELETE):
            return True
        rules = await self._bot.backend.rules(incoming.place)
        if rules.allow(channel_of(incoming)):
            return True
        if incoming.what is Happening.PRESS:
            await self._bot.say.notice(incoming, words("refused-here"), loud=True)
        elif incoming.place.server:  # where only the asker sees it; elsewhere silence is more polite
            await self._bot.say.answer(incoming, _only(words("refused-here")))
        return False

    # What was done

    async def _command(self, incoming: Incoming, words: Words) -> None:
        name = incoming.command
        if name in MAKING and name in self._commands:
            await self._make(incoming, words)
        elif name == "report" and (action := decode(incoming.action)) is not None and action.job:
            report = Action(verb=Verb.REPORT, job=action.job, owner=action.owner)
            if incoming.text.strip():
                await self._account.reported(incoming, report, words)
            else:
                await self._bot.say.ask(incoming, report_form(report, words), _only(words("ask-report")))
        elif self._account.knows(name):
            await self._account.command(incoming, words)
        elif incoming.place.private:
            await self._bot.say.answer(incoming, _only(words("unknown-command")))

    async def _make(self, incoming: Incoming, words: Words) -> None:
        wish = await self._read(incoming, words)
        if wish is None:
            return
        if incoming.command == "animate" and not incoming.file:
            await self._bot.say.answer(incoming, _only(words("ask-animate")))
        elif not wish.prompt and incoming.file and self._bot.kind == "video":
            await self._maker.wish(incoming, Wish(prompt=MOTION).over(wish), words)
        elif not wish.prompt and incoming.file:
            await self._ask_about_picture(incoming, wish, words)
        elif not wish.prompt:
            await self._ask_prompt(incoming, wish, words)
        else:
            await self._maker.wish(incoming, wish, words)

    async def _text(self, incoming: Incoming, words: Words) -> None:
        if not incoming.text.strip() and not incoming.file:
            await self._ask_prompt(incoming, Wish(), words)
            return
        await self._make(incoming, words)

    async def _press(self, incoming: Incoming, words: Words) -> None:
        action = decode(incoming.action)
        if action is None:
            await self._bot.say.notice(incoming, words("stale-button"), loud=True)
        elif action.verb in ASKING:
            form = await self._form_of(incoming, action, words)
            if form is not None:
                text = words("ask-report") if action.verb is Verb.REPORT else words("ask-edit")
                await self._bot.say.notice(incoming)
                view = View(lines=(plain(text),), quote=shorten(form.value, 800))
                await self._bot.say.ask(incoming, form, view)
        elif await self._account.press(incoming, action, words):
            await self._bot.say.notice(incoming)
        else:
            await self._bot.say.notice(incoming)
            await self._maker.press(incoming, action, words)

    async def _form(self, incoming: Incoming, words: Words) -> None:
        action = decode(incoming.action)
        if action is None:
            await self._bot.say.answer(incoming, _only(words("stale-button")))
        elif action.verb is Verb.REPORT:
            await self._account.reported(incoming, action, words)
        else:
            wish = await self._read(incoming, words)
            if wish is None:
                return
            if not wish.prompt:
                await self._bot.say.answer(
                    incoming, _only(words("ask-image" if self._bot.kind == "image" else "ask-video"))
                )
            elif action.verb is Verb.EDIT:
                await self._maker.edited(incoming, action, wish, words)
            else:
                own = action.owner == incoming.person.subject
                await self._maker.wish(incoming, wish, words, source=action.value if own and action.value else None)

    async def _read(self, incoming: Incoming, words: Words) -> Wish | None:
        """The wish in an update: typed in the text, chosen as options, or both."""
        try:
            typed = parse(incoming.text)
            chosen = wish_of(str(incoming.options.get("prompt") or ""), incoming.options)
            if chosen.prompt:
                typed_in_option = parse(chosen.prompt)
                chosen = wish_of(typed_in_option.prompt, incoming.options).over(typed_in_option)
            return chosen.over(typed)
        except BadOption as error:
            await self._bot.say.answer(incoming, option_view(error, words))
            return None

    # Questions

    async def _ask_prompt(self, incoming: Incoming, wish: Wish, words: Words) -> None:
        text = words("ask-image" if self._bot.kind == "image" else "ask-video")
        ratios = tuple(
            Button(label=ratio, action=Action(verb=Verb.OPTION, value=f"ratio={ratio}").encode())
            for ratio in SHOWN_RATIOS
        )
        settings = Button(label=words("button-settings"), action=Action(verb=Verb.SETTINGS).encode())
        view = View(lines=(plain(text),), rows=(ratios[:4], ratios[4:], (settings,)), only_for_asker=True)
        await self._bot.say.ask(incoming, self._prompt_form(Action(verb=Verb.PROMPT), wish.text(), words), view)

    async def _ask_about_picture(self, incoming: Incoming, wish: Wish, words: Words) -> None:
        """The words to a picture that came without: the question carries it, so that the answer belongs to it."""
        upload = await self._maker.keep_picture(incoming, words)
        if upload is not None:
            action = Action(verb=Verb.PROMPT, owner=incoming.person.subject, value=upload)
            view = View(lines=(plain(words("ask-picture")),), only_for_asker=True)
            await self._bot.say.ask(incoming, self._prompt_form(action, wish.text(), words), view)

    def _prompt_form(self, action: Action, value: str, words: Words) -> Form:
        return Form(
            title=words("ask-title"),
            label=words("ask-field"),
            action=action.encode(),
            value=value[:MAX_FORM_CHARS],
            max_length=MAX_FORM_CHARS,
        )

    async def _form_of(self, incoming: Incoming, action: Action, words: Words) -> Form | None:
        if action.verb is Verb.REPORT:
            return report_form(action, words)
        try:
            old = await self._old_wish(action) if action.verb is Verb.EDIT else ""
            return self._prompt_form(action, old, words)
        except ApiError as error:
            if not is_final(error):
                raise
            await self._bot.say.answer(incoming, _only(words("refused-expired")))
            return None

    async def _old_wish(self, action: Action) -> str:
        """What was asked for, to be changed. Raises ClientError."""
        job = await self._maker.job_of(action)
        return wish_of_job(job, look=self._bot.config.look, model_named=False).text()


def _only(text: str) -> View:
    return View(lines=(plain(text),), only_for_asker=True)
