"""What the client asks about single files beyond their bytes: links to them, their end, and reports about them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tessera.client.models import Report, SharedLink
from tessera.client.transport import Transport


class SharingCalls:
    """The part of the client that is about files that others see; see ``Client``."""

    _transport: Transport

    async def share(self, artifact_id: str, *, expires_in_s: int = 86_400) -> SharedLink:
        """A link by which anybody reads the file, without a key, until its time is over. Safe to repeat."""
        path = f"/v1/artifacts/{quote(artifact_id, safe='')}/share"
        return await self._transport.call(
            "POST", path, SharedLink, json={"expires_in_s": expires_in_s}, repeatable=True
        )

    async def delete_artifact(self, artifact_id: str) -> None:
        """Delete a file for good, with its links. Safe to repeat."""
        await self._transport.exchange("DELETE", f"/v1/artifacts/{quote(artifact_id, safe='')}", repeatable=True)

    async def report(self, reason: str, *, job_id: str | None = None, artifact_id: str | None = None) -> Report:
        """Tell the operators that a result should not be there. Safe to repeat: one that waits is answered again."""
        named = {"job_id": job_id, "artifact_id": artifact_id}
        body: dict[str, Any] = {"reason": reason, **{name: value for name, value in named.items() if value is not None}}
        return await self._transport.call("POST", "/v1/reports", Report, json=body, repeatable=True)
