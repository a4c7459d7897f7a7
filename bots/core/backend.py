"""What the bots ask of the platform, through ``tessera.client`` alone, with a service key."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from bots.core.incoming import Incoming, MessageRef, Person, Place
from bots.core.screens import ChatRules
from tessera.client import ChatDelivery, Client, ClientError, InboxUpdate, Model, Plan, StoredUpdate

CATALOGUE_S = 20.0
PERSON_S = 20.0
RULES_S = 10.0
REMEMBERED = 10_000
# Short, so that what a killed process held is soon given out again; who is still at work notices that it got it twice.
UPDATE_LEASE_S = 60.0
DELIVERY_LEASE_S = 40.0
CLAIM_WAIT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Known:
    """A person as the platform knows one."""

    plan: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Errand:
    """Where the result of a job goes: what a bot keeps with it at the platform."""

    place: Place
    person: Person
    language: str
    reply_to: str = ""
    message: MessageRef | None = None

    def dump(self, platform: str, bot: str) -> dict[str, Any]:
        """As ``delivery`` of a submission."""
        return {
            "platform": platform,
            "bot": bot,
            "chat": self.place.chat,
            "place": asdict(replace(self.place, admin=False)),
            "person": asdict(self.person),
            "language": self.language,
            "reply_to": self.reply_to,
            **({"message": self.message.dump()} if self.message is not None else {}),
        }

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Errand:
        """From ``dump``. Raises KeyError or TypeError for what another version has written."""
        message = data.get("message")
        return cls(
            place=Place(**data["place"]),
            person=Person(**data["person"]),
            language=str(data["language"]),
            reply_to=str(data.get("reply_to") or ""),
            message=MessageRef.load(message) if message else None,
        )


class Backend:
    """The platform as one bot sees it. Every method raises ClientError."""

    def __init__(self, client: Client, platform: str, bot: str) -> None:
        self.client = client
        self.platform = platform
        self.bot = bot
        self._people: dict[str, tuple[float, Known]] = {}
        self._rules: dict[str, tuple[float, ChatRules]] = {}
        self._models: tuple[float, tuple[Model, ...]] = (-CATALOGUE_S, ())
        self._offline: tuple[float, frozenset[str], Mapping[str, str]] = (-CATALOGUE_S, frozenset(), {})

    def of(self, identity: str) -> Client:
        """The platform as a person sees it."""
        return self.client.acting_for(identity)

    # People

    async def person(self, person: Person) -> Known:
        """Plan and settings of a person, made at first sight; remembered for a few seconds."""
        now = time.monotonic()
        found = self._people.get(person.identity)
        if found is not None and found[0] > now:
            return found[1]
        resolved = await self.client.resolve(
            person.identity, display_name=person.name or None, locale=person.locale or None
        )
        known = Known(plan=resolved.user.plan, settings=resolved.settings)
        self._remember(person.identity, known)
        return known

    async def change_settings(self, person: Person, changes: Mapping[str, Any]) -> Mapping[str, Any]:
        """Lay these over the person's settings; the settings after it."""
        settings = await self.of(person.identity).change_settings(changes)
        known = await self.person(person)
        self._remember(person.identity, replace(known, settings=settings))
        return settings

    def forget(self, person: Person) -> None:
        """Ask anew next time."""
        self._people.pop(person.identity, None)

    def _remember(self, identity: str, known: Known) -> None:
        while len(self._people) >= REMEMBERED:
            del self._people[next(iter(self._people))]
        self._people[identity] = (time.monotonic() + PERSON_S, known)

    # The catalogue

    async def models(self, kind: str, allowed: Sequence[str] = ()) -> tuple[Model, ...]:
        """The models of a kind that this bot offers."""
        now = time.monotonic()
        if self._models[0] <= now:
            self._models = (now + CATALOGUE_S, await self.client.models())
        return tuple(model for model in self._models[1] if model.kind == kind and (not allowed or model.id in allowed))

    async def plans(self) -> tuple[Plan, ...]:
        """The plans."""
        return await self.client.plans()

    async def outage(self, model: str, kind: str) -> tuple[bool, str | None]:
        """Whether no engine for the model is up, and the operator's words where its kind is paused.

        Shown beside a place in the queue: where it cannot be found out, nothing is said.
        """
        now = time.monotonic()
        if self._offline[0] <= now:
            try:
                queue = await self.client.queue()
            except ClientError:
                return False, None
            offline = frozenset(each.id for each in queue.models if each.state == "offline")
            self._offline = (now + 5.0, offline, {pause.kind: pause.message for pause in queue.pauses})
        return model in self._offline[1], self._offline[2].get(kind)

    # The rules of chats

    async def rules(self, place: Place) -> ChatRules:
        """What the admin of a group or server allows."""
        if place.private:
            return ChatRules()
        chat, now = place.server or place.chat, time.monotonic()
        found = self._rules.get(chat)
        if found is None or found[0] <= now:
            stored = await self.client.chat_rules(self.platform, self.bot, chat)
            while len(self._rules) >= REMEMBERED:
                del self._rules[next(iter(self._rules))]
            found = self._rules[chat] = (now + RULES_S, ChatRules.read(stored))
        return found[1]

    async def change_rules(self, place: Place, rules: ChatRules, by: Person) -> None:
        """Keep new rules."""
        chat = place.server or place.chat
        await self.client.change_chat_rules(self.platform, self.bot, chat, rules.dump(), changed_by=by.identity)
        self._rules[chat] = (time.monotonic() + RULES_S, rules)

    # The inbox

    async def store(self, updates: Sequence[Incoming]) -> tuple[StoredUpdate, ...]:
        """Keep updates before the platform they came from forgets them. What is known already is not stored again.

        Of one person in one chat there is one under way at a time, in their order.
        """
        return await self.client.store_updates(
            self.platform,
            self.bot,
            [
                {
                    "update_id": update.update,
                    "lane": lane_of(update),
                    "data": update.dump(),
                }
                for update in updates
            ],
        )

    async def take(self, updates: Sequence[Incoming]) -> list[InboxUpdate | None]:
        """Keep updates and hold each under a lease; None for one that is known already."""
        now = datetime.now(UTC)
        given = [{"update_id": each.update, "lane": lane_of(each), "data": each.dump()} for each in updates]
        stored = await self.client.store_updates(self.platform, self.bot, given, lease_s=UPDATE_LEASE_S)
        return [
            InboxUpdate(
                update_id=update.update,
                lease_token=answer.lease_token,
                lease_expires_at=answer.lease_expires_at or now,
                lane=lane_of(update),
                data=kept["data"],
                tries=1,
                received_at=now,
            )
            if answer.stored and answer.lease_token is not None
            else None
            for update, kept, answer in zip(updates, given, stored, strict=True)
        ]

    async def claim_updates(self, most: int, wait_s: float = CLAIM_WAIT_S) -> tuple[InboxUpdate, ...]:
        """What was stored and not finished."""
        return await self.client.claim_updates(self.platform, self.bot, max=most, lease_s=UPDATE_LEASE_S, wait_s=wait_s)

    async def finish_update(self, update: InboxUpdate) -> None:
        """It is done."""
        await self.client.ack_updates(self.platform, self.bot, [update])

    async def release_update(
        self, update: InboxUpdate, error: str, retry_after_s: float, *, permanent: bool = False
    ) -> None:
        """It could not be done now, or never will be."""
        await self.client.release_update(
            self.platform, self.bot, update, error=error, retry_after_s=retry_after_s, permanent=permanent
        )

    # The outbox

    async def claim_deliveries(self, most: int, wait_s: float = CLAIM_WAIT_S) -> tuple[ChatDelivery, ...]:
        """Results to be brought."""
        found = await self.client.claim_deliveries(
            self.platform, self.bot, max=most, lease_s=DELIVERY_LEASE_S, wait_s=wait_s
        )
        return found.data

    async def errand(self, job_id: str) -> Errand:
        """What is kept with a job about its chat. Raises KeyError or TypeError for what another version has written."""
        return Errand.load(await self.client.job_delivery(job_id))

    async def set_message(self, job_id: str, ref: MessageRef) -> None:
        """Keep which message shows the job."""
        await self.client.change_job_delivery(job_id, {"message": ref.dump()})


def lane_of(update: Incoming) -> str:
    """Of one person in one chat one update is done at a time; many people in a group do not wait for each other."""
    return f"{update.place.chat}:{update.person.subject}"
