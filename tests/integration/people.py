"""Service keys, and the persons for whom they ask: shared by the tests about identities."""

from __future__ import annotations

from typing import Any

import aiohttp

from tessera.store.audit import audit
from tests.integration.api_server import Api


async def service_key(api: Api, *scopes: str) -> str:
    """A key of an operator with the scope ``service`` and these."""
    operator = await api.add_user(is_admin=True)
    return await api.add_key(user_id=operator, scopes=["service", *scopes])


class Person:
    """Somebody who speaks through a bot."""

    def __init__(self, api: Api, key: str, identity: str) -> None:
        self.api = api
        self.key = key
        self.identity = identity

    async def call(self, method: str, path: str, **options: Any) -> tuple[aiohttp.ClientResponse, Any]:
        """One request on behalf of the person."""
        headers = {"Tessera-On-Behalf-Of": self.identity, **options.pop("headers", {})}
        return await self.api.call(method, path, key=self.key, headers=headers, **options)

    async def get(self, path: str) -> dict[str, Any]:
        """What a request that succeeds answers."""
        answer, body = await self.call("GET", path)
        assert answer.status == 200, body
        return dict(body)

    async def submit(self, kind: str = "text", **data: Any) -> dict[str, Any]:
        """A job that is accepted."""
        answer, job = await self.call("POST", "/v1/jobs", json={"kind": kind, "input": data or {"prompt": "hello"}})
        assert answer.status == 202, job
        return dict(job)


async def balanced(api: Api) -> None:
    """Whether the books balance, each difference told."""
    found = await audit(api.services.settings.database_url)
    assert found.balanced, [check.dump() for check in found.checks if check.differences]
