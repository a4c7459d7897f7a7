"""What the client asks for a bot: deliveries to its chats, and the inbox of what its platform has sent.

All of it needs a key of the scope service, and none of it names a person. A lease is held by a token; a call about a
lease that is over answers ``stale`` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from tessera.client.delivery_models import (
    ChatDelivery,
    ChatRules,
    ChatTarget,
    ClaimedChats,
    InboxUpdate,
    InboxUpdates,
    Settled,
    SettledList,
    StoredUpdate,
    StoredUpdates,
)
from tessera.client.transport import Transport


class BotCalls:
    """The part of the client that is about bots; see ``Client``."""

    _transport: Transport

    async def claim_deliveries(
        self, platform: str, bot: str, *, max: int = 20, lease_s: float = 60.0, wait_s: float = 0.0
    ) -> ClaimedChats:
        """The next delivery of each of the bot's chats, leased; waits up to ``wait_s`` (30 at most) for the first.

        Acknowledge, release or extend each. What a killed bot held comes again when its leases are over.
        """
        body = {"platform": platform, "bot": bot, "max": max, "lease_s": lease_s, "wait_s": wait_s}
        return await self._transport.call(
            "POST", "/v1/internal/deliveries:claim", ClaimedChats, json=body, repeatable=True
        )

    async def ack_deliveries(self, deliveries: Sequence[ChatDelivery]) -> tuple[Settled, ...]:
        """They were posted. Safe to repeat."""
        return await self._settle("/v1/internal/deliveries:ack", [_lease(one) for one in deliveries])

    async def release_delivery(
        self,
        delivery: ChatDelivery,
        *,
        error: str | None = None,
        retry_after_s: float | None = None,
        permanent: bool = False,
    ) -> Settled:
        """It could not be posted. Without ``error`` (a flood wait, a bot that stops) it does not count as a try."""
        item = {**_lease(delivery), "error": error, "retry_after_s": retry_after_s, "permanent": permanent}
        return (await self._settle("/v1/internal/deliveries:release", [item]))[0]

    async def extend_deliveries(
        self, deliveries: Sequence[ChatDelivery], *, lease_s: float = 60.0
    ) -> tuple[Settled, ...]:
        """Begin their leases anew: something large is still being sent."""
        body = {"deliveries": [_lease(one) for one in deliveries], "lease_s": lease_s}
        path = "/v1/internal/deliveries:extend"
        return (await self._transport.call("POST", path, SettledList, json=body, repeatable=True)).data

    async def job_delivery(self, job_id: str) -> dict[str, Any]:
        """The chat of a job, as the bot stored it."""
        path = f"/v1/internal/jobs/{quote(job_id, safe='')}/delivery"
        return (await self._transport.call("GET", path, ChatTarget)).dump()

    async def change_job_delivery(self, job_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Lay these over the chat of a job (the status message's id); None takes one out. Safe to repeat."""
        path = f"/v1/internal/jobs/{quote(job_id, safe='')}/delivery"
        found = await self._transport.call("PATCH", path, ChatTarget, json=dict(changes), repeatable=True)
        return found.dump()

    async def store_updates(
        self, platform: str, bot: str, updates: Sequence[Mapping[str, Any]], *, lease_s: float | None = None
    ) -> tuple[StoredUpdate, ...]:
        """Store what the platform has sent, before it is acknowledged there: ``{update_id, lane?, data}`` each.

        Safe to repeat: what is known is not ``stored`` again. With ``lease_s`` the new ones are leased to the caller.
        """
        body: dict[str, Any] = {"platform": platform, "bot": bot, "updates": [dict(one) for one in updates]}
        if lease_s is not None:
            body["lease_s"] = lease_s
        return (
            await self._transport.call("POST", "/v1/internal/inbox", StoredUpdates, json=body, repeatable=True)
        ).data

    async def claim_updates(
        self, platform: str, bot: str, *, max: int = 20, lease_s: float = 60.0, wait_s: float = 0.0
    ) -> tuple[InboxUpdate, ...]:
        """The next unfinished update of each lane, leased: what is left after a restart."""
        body = {"platform": platform, "bot": bot, "max": max, "lease_s": lease_s, "wait_s": wait_s}
        found = await self._transport.call("POST", "/v1/internal/inbox:claim", InboxUpdates, json=body, repeatable=True)
        return found.data

    async def ack_updates(
        self, platform: str, bot: str, updates: Sequence[InboxUpdate | StoredUpdate]
    ) -> tuple[Settled, ...]:
        """They are done. Safe to repeat."""
        items = [{"update_id": one.update_id, "lease_token": one.lease_token} for one in updates]
        body = {"platform": platform, "bot": bot, "updates": items}
        path = "/v1/internal/inbox:ack"
        return (await self._transport.call("POST", path, SettledList, json=body, repeatable=True)).data

    async def release_update(
        self,
        platform: str,
        bot: str,
        update: InboxUpdate | StoredUpdate,
        *,
        error: str | None = None,
        retry_after_s: float | None = None,
        permanent: bool = False,
    ) -> Settled:
        """It could not be done now; it comes again after ``retry_after_s``, or with ``permanent`` never."""
        item = {
            "update_id": update.update_id,
            "lease_token": update.lease_token,
            "error": error,
            "retry_after_s": retry_after_s,
            "permanent": permanent,
        }
        body = {"platform": platform, "bot": bot, "updates": [item]}
        path = "/v1/internal/inbox:release"
        return (await self._transport.call("POST", path, SettledList, json=body, repeatable=True)).data[0]

    async def chat_rules(self, platform: str, bot: str, chat: str) -> dict[str, Any]:
        """What the admin of a group or a server allows a bot there; empty where nobody has set anything."""
        return (await self._transport.call("GET", _rules_path(platform, bot, chat), ChatRules)).rules

    async def change_chat_rules(
        self, platform: str, bot: str, chat: str, rules: Mapping[str, Any], *, changed_by: str
    ) -> dict[str, Any]:
        """Replace the rules of a chat, by the will of the admin ``changed_by`` ("telegram:123"). Safe to repeat."""
        body = {"rules": dict(rules), "changed_by": changed_by}
        path = _rules_path(platform, bot, chat)
        return (await self._transport.call("PUT", path, ChatRules, json=body, repeatable=True)).rules

    async def _settle(self, path: str, items: list[dict[str, Any]]) -> tuple[Settled, ...]:
        found = await self._transport.call("POST", path, SettledList, json={"deliveries": items}, repeatable=True)
        return found.data


def _rules_path(platform: str, bot: str, chat: str) -> str:
    parts = (quote(part, safe="") for part in (platform, bot, chat))
    return f"/v1/internal/chats/{'/'.join(parts)}/rules"


def _lease(delivery: ChatDelivery) -> dict[str, Any]:
    return {"id": delivery.id, "lease_token": delivery.lease_token}
