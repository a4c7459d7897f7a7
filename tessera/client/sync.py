"""The client without async: for a script or a notebook. Each call runs on one event loop in a thread of its own.

with SyncClient(url, api_key) as client:
    job = client.run("image", {"prompt": "a lighthouse in a storm"})
    client.download(job.artifacts[0], Path("lighthouse.png"))
    endpoints = client.call(lambda it: it.webhook_endpoints())
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tessera.client.client import Client, Progress
from tessera.client.models import Artifact, Event, Job, Me, Model, Page, Quote, Upload, Usage

T = TypeVar("T")


class SyncClient:
    """The same server, answers and errors as ``Client``; its arguments are those of ``Client``.

    The calls of every day are here by name; ``call`` reaches all others. It blocks: not for an event loop.
    """

    def __init__(self, url: str, api_key: str | None = None, on_behalf_of: str | None = None, **options: Any) -> None:
        self._client = Client(url, api_key, on_behalf_of, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tessera-client", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._client.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._run(self._client.__aexit__(kind, value, trace))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # an interrupted caller leaves nothing running behind
            raise

    def _iterate(self, items: AsyncGenerator[T]) -> Iterator[T]:
        try:
            while True:
                try:
                    yield self._run(anext(items))
                except StopAsyncIteration:
                    return
        finally:
            self._run(items.aclose())

    def call(self, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """Any call of ``Client``: ``client.call(lambda it: it.rotate_webhook_secret())``."""
        return self._run(work(self._client))

    def submit(self, kind: str, input: Mapping[str, Any], **options: Any) -> Job:
        """See ``Client.submit``."""
        return self._run(self._client.submit(kind, input, **options))

    def run(self, kind: str, input: Mapping[str, Any], **options: Any) -> Job:
        """See ``Client.run``: submit, and wait for the end."""
        return self._run(self._client.run(kind, input, **options))

    def wait(self, job_id: str, on_event: Callable[[Event], None] | None = None) -> Job:
        """See ``Client.wait``."""
        return self._run(self._client.wait(job_id, on_event))

    def events(self, job_id: str, *, after: int | None = None) -> Iterator[Event]:
        """See ``Client.events``."""
        return self._iterate(self._client.events(job_id, after))

    def all_events(self, *, after: int | None = None) -> Iterator[Event]:
        """See ``Client.all_events``; without end."""
        return self._iterate(self._client.all_events(after))

    def stream(self, artifact: Artifact | str) -> Iterator[bytes]:
        """See ``Client.stream``."""
        return self._iterate(self._client.stream(artifact))

    def get_job(self, job_id: str) -> Job:
        """See ``Client.get_job``."""
        return self._run(self._client.get_job(job_id))

    def list_jobs(self, **filters: Any) -> Page[Job]:
        """See ``Client.list_jobs``."""
        return self._run(self._client.list_jobs(**filters))

    def cancel(self, job_id: str) -> Job:
        """See ``Client.cancel``."""
        return self._run(self._client.cancel(job_id))

    def quote(self, kind: str, input: Mapping[str, Any], **options: Any) -> Quote:
        """See ``Client.quote``."""
        return self._run(self._client.quote(kind, input, **options))

    def upload(self, source: Path | bytes, *, name: str | None = None, progress: Progress | None = None) -> Upload:
        """See ``Client.upload``."""
        return self._run(self._client.upload(source, name=name, progress=progress))

    def download(self, artifact: Artifact | str, path: Path, progress: Progress | None = None) -> int:
        """See ``Client.download``."""
        return self._run(self._client.download(artifact, path, progress))

    def models(self) -> tuple[Model, ...]:
        """See ``Client.models``."""
        return self._run(self._client.models())

    def me(self) -> Me:
        """See ``Client.me``."""
        return self._run(self._client.me())

    def usage(self, days: int = 30) -> Usage:
        """See ``Client.usage``."""
        return self._run(self._client.usage(days))
