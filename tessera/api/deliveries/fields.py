"""The fields of a submission that say where its events go: ``webhook`` for developers, ``delivery`` for bots."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson
from yarl import URL

from tessera.api.auth import Caller
from tessera.api.jobs.submissions import check_json, refuse, refuse_unknown
from tessera.deliveries import EVENT_TYPES, FINAL_TYPES
from tessera.errors import AddressRefused, Forbidden, NotFound
from tessera.ids import Prefix, parse
from tessera.outbound import Outbound
from tessera.scopes import Scope

WEBHOOK_FIELDS = ("url", "events")
MAX_DELIVERY_BYTES = 4096
MAX_DELIVERY_DEPTH = 4
MAX_CHAT_CHARS = 128
MAX_ITEMS = 100  # deliveries in one call
# What names the lane of a chat; a bot may change the rest of its delivery later.
DELIVERY_NAMES = ("platform", "bot", "chat")

_PLATFORM = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_BOT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def read_webhook(body: Mapping[str, Any], outbound: Outbound) -> dict[str, Any] | None:
    """``webhook``: an address, or ``{url, events?}``; as it is stored. Raises InvalidInput, AddressRefused."""
    value = body.get("webhook")
    if value is None:
        return None
    if isinstance(value, str):
        value = {"url": value}
    if not isinstance(value, dict):
        raise refuse("webhook", 'must be an address, or an object {"url": "https://…", "events": […]}')
    for name in value:
        if name not in WEBHOOK_FIELDS:
            raise refuse(f"webhook.{name[:64]}", f"unknown field; it takes {', '.join(WEBHOOK_FIELDS)}")
    url = read_url(value.get("url"), outbound, "webhook.url")
    return {
        "url": url,
        "events": read_events(value.get("events"), "webhook.events"),
        "origin": str(URL(url).origin()),
    }


def read_url(value: object, outbound: Outbound, field: str) -> str:
    """An address that may be posted to, as it will be. Raises InvalidInput, or AddressRefused that names the field."""
    if not isinstance(value, str) or not value:
        raise refuse(field, "must be an address that begins with https:// or http://")
    try:
        return str(outbound.check(value))
    except AddressRefused as error:
        raise AddressRefused(f"{field}: {error.message}", errors=[{"field": field, "message": error.message}]) from None


def read_events(value: object, field: str) -> list[str]:
    """Types of events without repetition, in their usual order; how jobs end when None. Raises InvalidInput."""
    if value is None:
        return list(FINAL_TYPES)
    if not isinstance(value, list) or not value or not all(one in EVENT_TYPES for one in value):
        raise refuse(field, f"must be a list of some of {', '.join(EVENT_TYPES)}")
    return [one for one in EVENT_TYPES if one in value]


def read_delivery(body: Mapping[str, Any], caller: Caller) -> dict[str, Any] | None:
    """``delivery``: the chat that a job came from; only by a service key. Raises Forbidden, InvalidInput."""
    value = body.get("delivery")
    if value is None:
        return None
    if caller.identity is None and Scope.SERVICE not in caller.scopes:
        raise Forbidden(
            "Only a service key, which a bot has, may name a chat in 'delivery'. Nothing was submitted or charged;"
            " leave it out, or use 'webhook'."
        )
    if not isinstance(value, dict):
        raise refuse("delivery", "must be an object with platform, bot and chat")
    for name, pattern in (("platform", _PLATFORM), ("bot", _BOT)):
        if not isinstance(value.get(name), str) or pattern.fullmatch(value[name]) is None:
            raise refuse(f"delivery.{name}", f"must be a name like {'telegram' if name == 'platform' else 'painter-1'}")
    chat = value.get("chat")
    if isinstance(chat, bool) or not isinstance(chat, str | int) or not 1 <= len(str(chat)) <= MAX_CHAT_CHARS:
        raise refuse("delivery.chat", f"must be the id of the chat, of at most {MAX_CHAT_CHARS} characters")
    delivery = {**value, "events": read_events(value.get("events"), "delivery.events")}
    check_delivery(delivery)
    return delivery


def check_delivery(delivery: Mapping[str, Any]) -> None:
    """Whether it can be stored. Raises InvalidInput."""
    check_json("delivery", delivery, MAX_DELIVERY_DEPTH)
    if len(orjson.dumps(delivery)) > MAX_DELIVERY_BYTES:
        raise refuse("delivery", f"is larger than {MAX_DELIVERY_BYTES} bytes")


def read_bot(body: Mapping[str, Any]) -> str:
    """``platform`` and ``bot`` as the name of a bot. Raises InvalidInput."""
    for name, pattern in (("platform", _PLATFORM), ("bot", _BOT)):
        value = body.get(name)
        if not isinstance(value, str) or pattern.fullmatch(value) is None:
            raise refuse(name, f"must be a name like {'telegram' if name == 'platform' else 'painter-1'}")
    return f"{body['platform']}:{body['bot']}"


def read_number(body: Mapping[str, Any], name: str, *, default: float | None, low: float, high: float) -> float | None:
    """A number within its bounds, ``default`` when it was not given. Raises InvalidInput."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise refuse(name, f"must be a number from {low:g} to {high:g}")
    return float(value)


def read_items(body: Mapping[str, Any], name: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """A list of objects with these fields at most, each with its ``lease_token``. Raises InvalidInput."""
    value = body.get(name)
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_ITEMS:
        raise refuse(name, f"must be a list of 1 to {MAX_ITEMS}")
    for item in value:
        if not isinstance(item, dict):
            raise refuse(name, "must hold objects")
        refuse_unknown(item, tuple(fields))
    return value


def read_lease(item: Mapping[str, Any]) -> dict[str, Any]:
    """``id`` and ``lease_token`` of a claimed delivery, for the database. Raises InvalidInput."""
    return {"id": str(read_delivery_id(item.get("id"))), "lease_token": read_token(item)}


def read_delivery_id(value: object) -> UUID:
    """The id of a delivery in a body. Raises InvalidInput."""
    try:
        return parse(Prefix.DELIVERY, value if isinstance(value, str) else "")
    except NotFound:
        raise refuse("id", "must be the id of a delivery, dlv_…") from None


def read_token(item: Mapping[str, Any]) -> str:
    """The token of a lease. Raises InvalidInput."""
    value = item.get("lease_token")
    try:
        return str(UUID(value if isinstance(value, str) else ""))
    except ValueError:
        raise refuse("lease_token", "must be the one that came with the claim") from None


def read_error(item: Mapping[str, Any]) -> str | None:
    """What went wrong, in at most 500 characters that can be stored. Raises InvalidInput."""
    value = item.get("error")
    if value is None:
        return None
    if not isinstance(value, str):
        raise refuse("error", "must be a text")
    return value.replace("\x00", "\N{SYMBOL FOR NULL}")[:500]
