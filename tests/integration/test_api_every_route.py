"""Every route of the description: it works for who may, and for nobody else. A route that is not in the table fails."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests import described
from tests.integration.route_table import ROUTES, Route
from tests.integration.route_world import Thing, World, world

# Who has a good key without any of these scopes. A key of scope service that names nobody may do nothing of a person's.
WITHOUT = {
    frozenset({"read", "jobs", "admin"}): ("service",),
    frozenset({"jobs"}): ("reader", "service"),
    frozenset({"service", "admin"}): ("owner", "reader"),
    frozenset({"admin"}): ("owner", "reader", "no_admin", "service"),
}
# Where the thing in the path is nobody's, or what is unknown is answered otherwise, and why.
SHARED = {
    "GET /openai/v1/models/{model}": "the catalogue is everybody's",
    "GET /v1/links/{artifact_id}": "the signature is the key",
}
UNKNOWN = {"target": "nowhere", "worker": "nowhere", "kind": "poetry", "model": "nothing", "platform": "nowhere"}


@pytest.fixture
async def everything(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with world(database_url, tmp_path) as made:
        yield made


def operations() -> dict[str, dict[str, Any]]:
    """ "METHOD path" → what the description says of it."""
    return {
        f"{method.upper()} {path}": operation
        for path, methods in described.description()["paths"].items()
        for method, operation in methods.items()
    }


async def send(
    world: World, name: str, thing: Thing, *, key: str | None, who: str = "", params: dict[str, str] | None = None
) -> tuple[aiohttp.ClientResponse, Any]:
    """The request of the table, with a key."""
    route = ROUTES[name]
    method, path = name.split(" ", 1)
    given = {**route.params, **thing.params} if params is None else params
    path = re.sub(r"\{(\w+)[^}]*\}", lambda match: given[match[1]], path)
    if query := thing.query or route.query:
        path += f"?{query}"
    options: dict[str, Any] = {}
    body = thing.json if thing.json is not None else route.json
    if route.form is not None:
        options["data"] = route.form()
    elif body is not None:
        options["json"] = body
    if path.startswith("/v1/events"):
        return await head_of(world, path, key)
    return await world.api.call(method, path, key=key, headers=world.headers(who), **options)


async def head_of(world: World, path: str, key: str | None) -> tuple[aiohttp.ClientResponse, Any]:
    """The beginning of a stream that has no end."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with world.api.http.get(world.api.url + path, headers=headers) as answer:
        return answer, (await answer.json() if answer.status >= 400 else None)


def code_of(name: str, body: Any) -> str:
    """The code of a refusal, in the shape of its address."""
    if "/openai/" in name:
        return str(body["error"]["code"])
    return str(body["code"])


def nobodys(thing: Thing, route: Route) -> dict[str, str]:
    """The same parameters, none of which names anything."""
    made = {}
    for name, value in {**route.params, **thing.params}.items():
        prefix, _, rest = value.partition("_")
        made[name] = f"{prefix}_{'0' * len(rest)}" if rest else UNKNOWN.get(name, "0" * 16)
    return made


def test_every_route_is_in_the_table() -> None:
    assert set(ROUTES) == set(operations())


async def test_every_route_that_needs_a_key_is_401_without_and_with_a_wrong_one(everything: World) -> None:
    wrong = []
    for name, operation in operations().items():
        if operation.get("security") == [] or name == "GET /metrics":  # open on loopback (test_api_access.py)
            continue
        thing = Thing(params=dict.fromkeys(re.findall(r"\{(\w+)", name), "job_00000000000000000000000000"))
        for key in (None, "tsr_0123456789abcdef_" + "x" * 43):
            answer, body = await send(everything, name, thing, key=key, params=dict(thing.params))
            expected = "invalid_api_key" if "/openai/" in name else "unauthorized"
            if answer.status != 401 or code_of(name, body) != expected or "WWW-Authenticate" not in answer.headers:
                wrong.append((name, answer.status, body))
    assert wrong == []


async def test_every_route_is_403_for_a_key_without_its_scopes(everything: World) -> None:
    wrong, asked = [], 0
    for name, operation in operations().items():
        scopes = frozenset(operation.get("x-scopes", ()))
        if not scopes or name == "GET /metrics":
            continue
        thing = Thing(params=dict.fromkeys(re.findall(r"\{(\w+)", name), "job_00000000000000000000000000"))
        for who in WITHOUT[scopes]:
            asked += 1
            answer, body = await send(
                everything, name, thing, key=everything.keys[who], who=who, params=dict(thing.params)
            )
            if answer.status != 403 or code_of(name, body) != "forbidden":
                wrong.append((name, who, answer.status, body))
    assert wrong == []
    assert asked > len(ROUTES)


async def test_every_route_works_for_its_owner_after_a_stranger_got_nothing(everything: World) -> None:
    wrong: list[tuple[object, ...]] = []
    foreign = 0
    for name, operation in operations().items():
        route = ROUTES[name]
        thing = await everything.thing(route.of) if route.of else Thing()
        own = thing.key or everything.keys.get(route.who)
        scopes = set(operation.get("x-scopes", ()))
        if "{" in name and name not in SHARED:
            if "jobs" in scopes:  # of a user's: somebody else has it
                answer, body = await send(everything, name, thing, key=everything.keys["stranger"])
                foreign += 1
                if answer.status != 404:
                    wrong.append((name, "a stranger", answer.status, body))
            if "/chats/" not in name:  # a chat that nobody has set rules for has the default ones
                answer, body = await send(everything, name, thing, key=own, params=nobodys(thing, route))
                if answer.status != 404:
                    wrong.append((name, "of nothing", answer.status, body))
        answer, body = await send(everything, name, thing, key=own, who=route.who)
        if answer.status != route.status:
            wrong.append((name, "the owner", answer.status, body))
    assert wrong == []
    assert foreign >= 34
