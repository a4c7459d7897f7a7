"""What operators ask of the client about content: rules, the review of reports, closed accounts, and the banner."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

from tessera.client.models import Answer, Banner, Page, User
from tessera.client.transport import Transport

ItemT = TypeVar("ItemT", bound=Answer)


class Rule(Answer):
    """A rule of moderation; an operator's."""

    id: str
    match: str = "words"
    text: str = ""
    action: str = ""
    age_restricted: bool = False
    kinds: tuple[str, ...] = ()
    note: str = ""


class Review(Answer):
    """A report as an operator sees it; ``job`` is what it is about, while that is there."""

    id: str
    category: str = ""
    reason: str = ""
    state: str = ""
    job_id: str | None = None
    artifact_id: str | None = None
    created_at: datetime | None = None
    owner_id: str | None = None
    refunded_tokens: int | float | None = None
    note: str | None = None
    job: dict[str, Any] | None = None


class BannerOrNot(Answer):
    """The banner, None while there is none."""

    banner: Banner | None = None


class ModerationCalls:
    """The part of the client that is about content; see ``Client``. Needs the scope admin."""

    _transport: Transport

    async def rules(self) -> tuple[Rule, ...]:
        """The rules of moderation, the newest first."""
        return await self._pages("/v1/admin/moderation/rules", Rule)

    async def add_rule(self, text: str, action: str, **more: Any) -> Rule:
        """Add a rule; ``more`` are match, age_restricted, kinds, note."""
        body = {"text": text, "action": action, **more}
        return await self._transport.call("POST", "/v1/admin/moderation/rules", Rule, json=body)

    async def delete_rule(self, rule_id: str) -> None:
        """End a rule."""
        await self._transport.exchange("DELETE", f"/v1/admin/moderation/rules/{_part(rule_id)}")

    async def reports(self, *, state: str | None = None) -> tuple[Review, ...]:
        """All reports of a state, the newest first."""
        return await self._pages("/v1/admin/reports", Review, {"state": state} if state is not None else {})

    async def review(self, report_id: str, decision: str, note: str = "") -> Review:
        """``decision`` is uphold or dismiss. Sent once."""
        path = f"/v1/admin/reports/{_part(report_id)}/{decision}"
        return await self._transport.call("POST", path, Review, json={"note": note})

    async def ban(self, user_id: str, reason: str) -> User:
        """Close a user's account. Safe to repeat."""
        path = f"/v1/admin/users/{_part(user_id)}/ban"
        return await self._transport.call("POST", path, User, json={"reason": reason}, repeatable=True)

    async def unban(self, user_id: str) -> User:
        """Reopen a user's account. Safe to repeat."""
        return await self._transport.call("POST", f"/v1/admin/users/{_part(user_id)}/unban", User, repeatable=True)

    async def banner(self) -> Banner | None:
        """What everybody is told, None while there is nothing."""
        return (await self._transport.call("GET", "/v1/admin/banner", BannerOrNot)).banner

    async def set_banner(self, message: str) -> Banner | None:
        """Tell everybody. Safe to repeat."""
        body = {"message": message}
        found = await self._transport.call("PUT", "/v1/admin/banner", BannerOrNot, json=body, repeatable=True)
        return found.banner

    async def clear_banner(self) -> None:
        """Tell nobody anything any more. Safe to repeat."""
        await self._transport.exchange("DELETE", "/v1/admin/banner")

    async def _pages(self, path: str, item: type[ItemT], asked: Mapping[str, str] | None = None) -> tuple[ItemT, ...]:
        """All pages of a list."""
        found: list[ItemT] = []
        cursor: str | None = None
        while True:
            params = {**(asked or {}), **({"cursor": cursor} if cursor else {})}
            page = await self._transport.call("GET", path, Page[item], params=params or None)  # type: ignore[valid-type]
            found.extend(page.data)
            if not page.next_cursor or page.next_cursor == cursor:
                return tuple(found)
            cursor = page.next_cursor


def _part(identifier: str) -> str:
    return quote(identifier, safe="") if identifier.strip(".") else "-"
