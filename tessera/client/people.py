"""What the client asks about persons: whom a bot speaks for, and what belongs to a person rather than to a job."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import aiohttp

from tessera.client.errors import ConnectionFailed
from tessera.client.files import open_temporary
from tessera.client.models import Deleted, IdentityView, LinkCode, Linked, Page, PersonSettings, Resolved
from tessera.client.transport import NeverConnected, Transport, describe


class PeopleCalls:
    """The part of the client that is about persons; see ``Client``."""

    _transport: Transport

    def acting_for(self, identity: str) -> Self:
        """This client as the person of an identity ("telegram:123"), over the same connections. Needs a key of scope
        service.

        Cheap: make one for each request of a bot. It works while this client is open, and is not to be closed itself.
        Raises ClientError for an identity that no header can carry.
        """
        person = copy.copy(self)
        person._transport = self._transport.acting_for(identity)
        return person

    async def resolve(self, identity: str, *, display_name: str | None = None, locale: str | None = None) -> Resolved:
        """The user of an identity, made at first sight. Needs the scope service. Safe to repeat.

        An ApiError with status 403 says in words why a person is not let in, 429 when to try again.
        """
        told = {"display_name": display_name, "locale": locale}
        body = {"identity": identity, **{name: value for name, value in told.items() if value is not None}}
        return await self._transport.call(
            "POST", "/v1/internal/identities:resolve", Resolved, json=body, repeatable=True
        )

    async def settings(self) -> dict[str, Any]:
        """The person's settings, the same on every platform."""
        return (await self._transport.call("GET", "/v1/me/settings", PersonSettings)).settings

    async def change_settings(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Lay these over the person's settings; None takes one out. Returns all of them. Safe to repeat."""
        found = await self._transport.call(
            "PATCH", "/v1/me/settings", PersonSettings, json=dict(changes), repeatable=True
        )
        return found.settings

    async def identities(self) -> tuple[IdentityView, ...]:
        """Who the user is elsewhere, the oldest first."""
        return (await self._transport.call("GET", "/v1/identities", Page[IdentityView])).data

    async def link_code(self) -> LinkCode:
        """A code by which the user's account on another platform becomes part of this one. Replaces an unused one."""
        return await self._transport.call("POST", "/v1/identities/link-codes", LinkCode)

    async def link(self, code: str) -> Linked:
        """Become part of the account that made the code. It cannot be undone: ask the person first.

        Sent once: after a broken line ``me`` tells whose account this is now.
        """
        return await self._transport.call("POST", "/v1/identities/link", Linked, json={"code": code})

    async def unlink(self, identity: str) -> None:
        """Take an identity out of the account, which keeps everything. An ApiError with 409: it is the last one."""
        await self._transport.exchange("DELETE", f"/v1/identities/{quote(identity, safe='')}")

    async def export(self, path: Path) -> int:
        """Write everything that is kept about the user to a file, as JSON, whole or not at all. Returns its bytes."""
        done = 0
        with open_temporary(path) as (file, temporary):
            try:
                async with self._transport.open("GET", "/v1/me/export") as response:
                    async for chunk in response.content.iter_any():
                        file.write(chunk)
                        done += len(chunk)
            except NeverConnected as error:
                raise ConnectionFailed(self._transport.url, error.why) from error.__cause__
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                raise ConnectionFailed(self._transport.url, describe(error)) from error
            file.close()
            temporary.replace(path)
        return done

    async def delete_account(self, user_id: str) -> Deleted:
        """Delete the account for good. ``user_id`` must be its own id, as ``me`` tells it: who passes it means it."""
        path = "/v1/me"
        return await self._transport.call("DELETE", path, Deleted, params={"confirm": user_id})

    async def users_delete(self, user_id: str) -> Deleted:
        """Delete a user's account for good. Needs the scope admin."""
        return await self._transport.call("DELETE", f"/v1/admin/users/{quote(user_id, safe='')}", Deleted)
