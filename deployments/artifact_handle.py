"""The artifact store for workers on other nodes: a deployment pinned to the head node, and its handle as a port.

Bytes travel through Ray's object store, node to node, and are durable on the head node before a row speaks of them.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from tessera.artifacts import open_store
from tessera.config import Settings
from tessera.errors import TesseraError, Unavailable
from tessera.logs import configure_logs

APPLICATION = "artifacts"
DEPLOYMENT = "artifact-store"
TIMEOUT_S = 120.0  # 100 MB over a 100 Mbit/s link takes 8 s; a busy disk a few times that


class ServedStore:
    """The store behind its handle (tessera.ports.ArtifactPort)."""

    async def __init__(self) -> None:  # type: ignore[misc]  # Serve awaits it
        configure_logs(DEPLOYMENT)
        self._store = open_store(Settings.from_environment().artifacts_url)

    async def put(self, data: bytes) -> str:
        return await self._store.put(data)

    async def get(self, sha256: str) -> bytes:
        return await self._store.get(sha256)

    async def put_manifest(self, name: str, data: bytes) -> None:
        await self._store.put_manifest(name, data)

    async def get_manifest(self, name: str) -> bytes | None:
        return await self._store.get_manifest(name)

    async def delete_manifest(self, name: str) -> None:
        await self._store.delete_manifest(name)


class HandleStore:
    """Calls the served store (tessera.ports.ArtifactPort). Raises Unavailable when it does not answer."""

    def __init__(self) -> None:
        self._handle: Any = None

    async def _call(self, method: str, *arguments: object) -> Any:
        if self._handle is None:
            self._handle = serve.get_deployment_handle(DEPLOYMENT, APPLICATION)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await getattr(self._handle, method).remote(*arguments)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, TesseraError):
                raise cause from error
            raise Unavailable(retry_after_s=2) from error
        except (RayError, RayServeException, TimeoutError) as error:
            self._handle = None
            raise Unavailable(retry_after_s=2) from error

    async def put(self, data: bytes) -> str:
        return str(await self._call("put", data))

    async def get(self, sha256: str) -> bytes:
        return bytes(await self._call("get", sha256))

    async def put_manifest(self, name: str, data: bytes) -> None:
        await self._call("put_manifest", name, data)

    async def get_manifest(self, name: str) -> bytes | None:
        data: bytes | None = await self._call("get_manifest", name)
        return data

    async def delete_manifest(self, name: str) -> None:
        await self._call("delete_manifest", name)
