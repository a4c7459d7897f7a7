"""The client of the HTTP API: what CLI, bots, batches and benchmarks call. One method per thing that can be asked."""

from __future__ import annotations

import io
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import ExitStack, aclosing
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar
from urllib.parse import quote

import aiohttp

from tessera.client.bots import BotCalls
from tessera.client.errors import ApiError, BadAnswer, ConnectionFailed
from tessera.client.events import GIVE_UP_S, SILENCE_S, EventStream, Interruption
from tessera.client.files import open_temporary
from tessera.client.models import (
    AccountEntry,
    Answer,
    ApiKey,
    Artifact,
    Drain,
    Event,
    Explanation,
    Job,
    LedgerEntry,
    Me,
    Model,
    Page,
    Pause,
    Plan,
    Queue,
    Quote,
    Unpaused,
    Upload,
    Usage,
    User,
    Worker,
)
from tessera.client.moderation import ModerationCalls
from tessera.client.people import PeopleCalls
from tessera.client.sharing import SharingCalls
from tessera.client.transport import NeverConnected, RetryPolicy, Transport, Wait, describe, retry_delay_s
from tessera.client.webhooks import WebhookCalls

UPLOAD_PIECE_BYTES = 64 << 10
Progress = Callable[[int, int | None], None]
ItemT = TypeVar("ItemT", bound=Answer)


class Client(PeopleCalls, BotCalls, SharingCalls, ModerationCalls, WebhookCalls):
    """The API of one server, as one user. Use it as ``async with Client(url, api_key) as client``.

    ``on_behalf_of`` ("telegram:123") makes a service key act for one person, ``acting_for`` for any. Calls may run at
    the same time. Every method raises ApiError, ConnectionFailed or BadAnswer (all ClientError). Calls that may be
    repeated are, within ``retry``; ``on_wait`` is told of each pause.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        on_behalf_of: str | None = None,
        *,
        retry: RetryPolicy | None = None,
        on_wait: Callable[[Wait], None] | None = None,
    ) -> None:
        self._transport = Transport(url, api_key, on_behalf_of=on_behalf_of, retry=retry, on_wait=on_wait)

    @property
    def url(self) -> str:
        """The address of the server."""
        return self._transport.url

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, value, trace)

    # Jobs

    async def submit(
        self,
        kind: str,
        input: Mapping[str, Any],
        *,
        model: str | None = None,
        idempotency_key: str | None = None,
        tier: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        deadline: datetime | None = None,
        not_before: datetime | None = None,
        webhook: str | Mapping[str, Any] | None = None,
        delivery: Mapping[str, Any] | None = None,
        age_restricted: bool | None = None,
    ) -> Job:
        """Submit a job. Safe to repeat with the same ``idempotency_key`` for 24 hours; one is made when None.

        ``webhook``: an address for its events, or ``{url, events}``. ``delivery``: the chat that it came from, by a
        service key only: platform, bot and chat, and whatever else the bot wants back with each event.
        ``age_restricted``: whether what is for adults may be shown where this is asked for.
        """
        body = _submission(kind, input, model, tier, metadata, deadline, not_before)
        for name, value in (("webhook", webhook), ("delivery", delivery)):
            if value is not None:
                body[name] = value if isinstance(value, str) else dict(value)
        if age_restricted is not None:
            body["age_restricted"] = age_restricted
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return await self._transport.call("POST", "/v1/jobs", Job, json=body, headers=headers, repeatable=True)

    async def quote(
        self,
        kind: str,
        input: Mapping[str, Any],
        *,
        model: str | None = None,
        tier: str | None = None,
        deadline: datetime | None = None,
        not_before: datetime | None = None,
    ) -> Quote:
        """What a job would cost and whether it would be accepted now. Submits and holds nothing."""
        body = _submission(kind, input, model, tier, None, deadline, not_before)
        return await self._transport.call("POST", "/v1/jobs:quote", Quote, json=body, repeatable=True)

    async def get_job(self, job_id: str) -> Job:
        """The job as it is now."""
        return await self._transport.call("GET", f"/v1/jobs/{_part(job_id)}", Job)

    async def explain(self, job_id: str) -> Explanation:
        """Why the job waits, where it runs, or how it ended. Answered for every state, also without a scheduler."""
        return await self._transport.call("GET", f"/v1/jobs/{_part(job_id)}/explain", Explanation)

    async def list_jobs(
        self,
        *,
        state: str | Sequence[str] | None = None,
        kind: str | None = None,
        model: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        metadata: Mapping[str, str] | None = None,
        text: str | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> Page[Job]:
        """One page of the user's jobs, the newest first; ``next_cursor`` asks for the next page.

        ``text`` is looked for in the prompts, ``metadata`` on the top level of each job's. A page of such a search may
        be short or empty and not be the last: go on while there is a ``next_cursor``.
        """
        asked = {
            "kind": kind,
            "model": model,
            "created_after": created_after.isoformat() if created_after is not None else None,
            "created_before": created_before.isoformat() if created_before is not None else None,
            "q": text,
            "cursor": cursor,
            "limit": limit,
        }
        params = [(name, str(value)) for name, value in asked.items() if value is not None]
        params += [("state", str(one)) for one in ([state] if isinstance(state, str) else state or ())]
        params += [(f"metadata.{key}", value) for key, value in (metadata or {}).items()]
        return await self._transport.call("GET", "/v1/jobs", Page[Job], params=params)

    async def cancel(self, job_id: str) -> Job:
        """Ask for the job's end. The answer may still be running: its events tell when it is over. Safe to repeat."""
        return await self._transport.call("POST", f"/v1/jobs/{_part(job_id)}/cancel", Job, repeatable=True)

    async def retry(self, job_id: str, *, idempotency_key: str | None = None) -> Job:
        """A new job like one that has ended. Safe to repeat with the same ``idempotency_key``; see ``submit``."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        path = f"/v1/jobs/{_part(job_id)}/retry"
        return await self._transport.call("POST", path, Job, headers=headers, repeatable=True)

    def events(
        self,
        job_id: str,
        after: int | None = None,
        *,
        on_interruption: Callable[[Interruption], None] | None = None,
        silence_s: float = SILENCE_S,
        give_up_s: float = GIVE_UP_S,
    ) -> AsyncGenerator[Event]:
        """The job's events after that id (None: all) up to the final one, over broken lines too; see ``EventStream``.

        Close it (``contextlib.aclosing``) when it is left before its end.
        """
        path = f"/v1/jobs/{_part(job_id)}/events"
        return EventStream(
            self._transport,
            path,
            lambda: self.get_job(job_id),
            last_event_id=after,
            on_interruption=on_interruption,
            silence_s=silence_s,
            give_up_s=give_up_s,
        ).events()

    def all_events(
        self,
        after: int | None = None,
        *,
        on_interruption: Callable[[Interruption], None] | None = None,
        silence_s: float = SILENCE_S,
        give_up_s: float = GIVE_UP_S,
    ) -> AsyncGenerator[Event]:
        """The durable events of all of the user's jobs, without end, over broken lines too; see ``EventStream``.

        After ``after`` (an ``id`` of this stream, 0 for all that is kept), or from now on. Close it
        (``contextlib.aclosing``) when it is left.
        """
        return EventStream(
            self._transport,
            "/v1/events",
            None,
            last_event_id=after,
            on_interruption=on_interruption,
            silence_s=silence_s,
            give_up_s=give_up_s,
        ).events()

    async def wait(self, job_id: str, on_event: Callable[[Event], None] | None = None) -> Job:
        """Follow a job to its end and return it as it is then."""
        async with aclosing(self.events(job_id)) as events:
            async for event in events:
                if on_event is not None:
                    on_event(event)
        return await self.get_job(job_id)

    async def run(
        self,
        kind: str,
        input: Mapping[str, Any],
        *,
        on_event: Callable[[Event], None] | None = None,
        **options: Any,
    ) -> Job:
        """``submit`` (with its options), then ``wait``. The job may have failed: look at ``ok`` and ``error``."""
        job = await self.submit(kind, input, **options)
        return await self.wait(job.id, on_event)

    # Files

    async def artifacts(self, job_id: str) -> tuple[Artifact, ...]:
        """The files that a job has made so far."""
        return (await self._transport.call("GET", f"/v1/jobs/{_part(job_id)}/artifacts", Page[Artifact])).data

    async def stream(self, artifact: Artifact | str) -> AsyncGenerator[bytes]:
        """The bytes of an artifact, continued where it broke when the line breaks. The end means: all of them."""
        path = _artifact_path(artifact)
        expected = artifact.bytes if isinstance(artifact, Artifact) else None
        done, tries, waited_s = 0, 0, 0.0
        etag: str | None = None
        while True:
            before = done
            retry_after_s = None
            try:
                headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
                if done:
                    headers["Range"] = f"bytes={done}-"
                    if etag is not None:
                        headers["If-Range"] = etag
                async with self._transport.open("GET", path, headers=headers) as response:
                    if done and etag != response.headers.get("ETag"):
                        raise BadAnswer("The file changed while it was fetched: fetch it again.")
                    etag = response.headers.get("ETag")
                    skip = 0 if response.status == 206 else done
                    async for chunk in response.content.iter_any():
                        if skip:
                            chunk, skip = chunk[skip:], max(0, skip - len(chunk))
                        if chunk:
                            done += len(chunk)
                            yield chunk
                if expected is not None and done != expected:
                    raise BadAnswer(f"The file has {done} bytes instead of {expected}: fetch it again.")
                return
            except ApiError as error:
                if error.status not in {429, 502, 503, 504}:
                    raise
                failure: ApiError | ConnectionFailed = error
                retry_after_s = error.retry_after_s
            except NeverConnected as error:
                failure = ConnectionFailed(self.url, error.why)
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                failure = ConnectionFailed(self.url, describe(error))
            tries = 1 if done > before else tries + 1
            delay = retry_delay_s(
                self._transport.retry, tries=tries, waited_s=waited_s, retry_after_s=retry_after_s, jitter=1.0
            )
            if delay is None:
                raise failure
            waited_s += delay
            await self._transport.pause(failure, delay)

    async def download(self, artifact: Artifact | str, path: Path, progress: Progress | None = None) -> int:
        """Write an artifact to ``path``, which has either all of it or what was there before. Returns its bytes.

        ``progress`` is told the bytes so far and, where known, in all. Replaces an existing file.
        """
        expected = artifact.bytes if isinstance(artifact, Artifact) else None
        done = 0
        with open_temporary(path) as (file, temporary):
            async with aclosing(self.stream(artifact)) as chunks:
                async for chunk in chunks:
                    file.write(chunk)
                    done += len(chunk)
                    if progress is not None:
                        progress(done, expected)
            file.close()
            temporary.replace(path)
        return done

    async def upload(
        self, source: Path | bytes, *, name: str | None = None, progress: Progress | None = None
    ) -> Upload:
        """Bring a file to the server, to be named in an input. ``name`` is its name there, by default the path's.

        ``progress`` is told the bytes that were sent and those in all; a repetition after a broken line begins anew.
        """
        filename = name or (source.name if isinstance(source, Path) else "upload")

        with ExitStack() as opened:

            def form() -> aiohttp.FormData:
                # A file object is read in pieces, so that a long recording never lies in memory; each try has its own.
                body = io.BytesIO(source) if isinstance(source, bytes) else opened.enter_context(source.open("rb"))
                data = aiohttp.FormData()
                sent: Any = body if progress is None else _counted(body, progress)
                data.add_field("file", sent, filename=filename, content_type="application/octet-stream")
                return data

            # Repeated, it leaves an unused upload behind at most, which expires.
            return await self._transport.call("POST", "/v1/uploads", Upload, data=form, repeatable=True)

    # The catalogue

    async def models(self) -> tuple[Model, ...]:
        """The models of the server. Needs no API key."""
        return (await self._transport.call("GET", "/v1/models", Page[Model])).data

    async def plans(self) -> tuple[Plan, ...]:
        """The plans and what they allow. Needs no API key."""
        return (await self._transport.call("GET", "/v1/plans", Page[Plan])).data

    async def queue(self) -> Queue:
        """How much waits and runs, which models are loaded, and what is paused. Needs no API key."""
        return await self._transport.call("GET", "/v1/queue", Queue)

    # The account

    async def me(self) -> Me:
        """Whose API key this is, the plan and today's quota."""
        return await self._transport.call("GET", "/v1/me", Me)

    async def usage(self, days: int = 30) -> Usage:
        """What was used on the last ``days`` UTC days."""
        return await self._transport.call("GET", "/v1/usage", Usage, params={"days": str(days)})

    async def ledger(
        self,
        *,
        day: date | None = None,
        job_id: str | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> Page[LedgerEntry]:
        """One page of the user's ledger, the newest entry first; ``next_cursor`` asks for the next page."""
        asked = {"day": day, "job_id": job_id, "cursor": cursor, "limit": limit}
        params = {name: str(value) for name, value in asked.items() if value is not None}
        return await self._transport.call("GET", "/v1/ledger", Page[LedgerEntry], params=params)

    async def keys_create(
        self,
        name: str,
        *,
        scopes: tuple[str, ...] | None = None,
        daily_cap_tokens: float | None = None,
        expires_at: datetime | None = None,
    ) -> ApiKey:
        """Make an API key; its secret is in this answer only."""
        optional = {
            "scopes": list(scopes) if scopes is not None else None,
            "daily_cap_tokens": daily_cap_tokens,
            "expires_at": expires_at.isoformat() if expires_at else None,
        }
        body = {"name": name, **{k: v for k, v in optional.items() if v is not None}}
        return await self._transport.call("POST", "/v1/keys", ApiKey, json=body)

    async def keys_list(self) -> tuple[ApiKey, ...]:
        """The user's API keys, without their secrets."""
        return await self._all("/v1/keys", ApiKey)

    async def keys_revoke(self, key_id: str) -> None:
        """End an API key for good."""
        await self._transport.exchange("DELETE", f"/v1/keys/{_part(key_id)}")

    # The operator's

    async def users_create(self, name: str, plan: str) -> User:
        """Make a user with an API key; its secret is in this answer only. Needs the scope admin."""
        return await self._transport.call("POST", "/v1/admin/users", User, json={"name": name, "plan": plan})

    async def users_list(self) -> tuple[User, ...]:
        """All users. Needs the scope admin."""
        return await self._all("/v1/admin/users", User)

    async def users_set_plan(self, user_id: str, plan: str) -> User:
        """Put a user on another plan. Needs the scope admin. Safe to repeat."""
        return await self._transport.call(
            "PATCH", f"/v1/admin/users/{_part(user_id)}", User, json={"plan": plan}, repeatable=True
        )

    async def users_grant(self, user_id: str, tokens: Decimal, reason: str) -> AccountEntry:
        """Give a user tokens for today. Needs the scope admin. Sent once: a repetition would be a second grant."""
        body = {"tokens": _number(tokens), "reason": reason}
        return await self._transport.call("POST", f"/v1/admin/users/{_part(user_id)}/grant", AccountEntry, json=body)

    async def users_adjust(
        self, user_id: str, tokens: Decimal, reason: str, *, day: date | None = None
    ) -> AccountEntry:
        """Charge a user (``tokens`` above 0) or give back (below 0), on a day or today. Needs the scope admin.

        Sent once: a repetition would be a second adjustment.
        """
        body = {"tokens": _number(tokens), "reason": reason, **({"day": day.isoformat()} if day is not None else {})}
        return await self._transport.call("POST", f"/v1/admin/users/{_part(user_id)}/adjust", AccountEntry, json=body)

    async def workers(self) -> tuple[Worker, ...]:
        """The workers, with their drains. Needs the scope admin."""
        return await self._all("/v1/admin/workers", Worker)

    async def drain(self, target: str, for_s: float, reason: str = "") -> Drain:
        """No new jobs for a worker, or all workers of a node, for so long. Needs the scope admin. Safe to repeat."""
        body = {"for_s": for_s, "reason": reason}
        return await self._transport.call(
            "POST", f"/v1/admin/workers/{_part(target)}/drain", Drain, json=body, repeatable=True
        )

    async def resume(self, target: str) -> Drain:
        """End a drain before its time. Needs the scope admin. Safe to repeat."""
        return await self._transport.call("POST", f"/v1/admin/workers/{_part(target)}/resume", Drain, repeatable=True)

    async def pauses(self) -> tuple[Pause, ...]:
        """The kinds that are paused. Needs the scope admin."""
        return await self._all("/v1/admin/queue", Pause)

    async def pause(self, kind: str, message: str = "") -> Pause:
        """No job of the kind starts; submissions are accepted. Needs the scope admin. Safe to repeat."""
        path = f"/v1/admin/queue/{_part(kind)}/pause"
        return await self._transport.call("POST", path, Pause, json={"message": message}, repeatable=True)

    async def unpause(self, kind: str) -> Unpaused:
        """End the pause of a kind. Needs the scope admin. Safe to repeat."""
        return await self._transport.call("POST", f"/v1/admin/queue/{_part(kind)}/resume", Unpaused, repeatable=True)

    async def _all(self, path: str, item: type[ItemT]) -> tuple[ItemT, ...]:
        found: list[ItemT] = []
        cursor: str | None = None
        while True:
            params = {"cursor": cursor} if cursor else None
            page = await self._transport.call("GET", path, Page[item], params=params)  # type: ignore[valid-type]
            found.extend(page.data)
            if not page.next_cursor or page.next_cursor == cursor:
                return tuple(found)
            cursor = page.next_cursor


async def _counted(body: IO[bytes], progress: Progress) -> AsyncGenerator[bytes]:
    """A file in pieces, each told once it is on its way."""
    done, total = 0, body.seek(0, io.SEEK_END)
    body.seek(0)
    while piece := body.read(UPLOAD_PIECE_BYTES):
        yield piece
        done += len(piece)
        progress(done, total)


def _submission(
    kind: str,
    input: Mapping[str, Any],
    model: str | None,
    tier: str | None,
    metadata: Mapping[str, Any] | None,
    deadline: datetime | None,
    not_before: datetime | None,
) -> dict[str, Any]:
    """The body of a submission; what is None is left out."""
    optional = {
        "model": model,
        "tier": tier,
        "metadata": dict(metadata) if metadata is not None else None,
        "deadline": deadline.isoformat() if deadline else None,
        "not_before": not_before.isoformat() if not_before else None,
    }
    given = {name: value for name, value in optional.items() if value is not None}
    return {"kind": str(kind), "input": dict(input), **given}


def _number(amount: Decimal) -> int | float:
    """A decimal as the JSON number whose shortest text is the same."""
    return int(amount) if amount == int(amount) else float(amount)


def _part(identifier: str) -> str:
    """An id as one part of a path: whatever a person typed, it stays one part."""
    return quote(identifier, safe="") if identifier.strip(".") else "-"


def _artifact_path(artifact: Artifact | str) -> str:
    if isinstance(artifact, str):
        return f"/v1/artifacts/{_part(artifact)}"
    # Only a path on this server: the API key goes along.
    if artifact.url.startswith("/") and not artifact.url.startswith("//"):
        return quote(artifact.url, safe="/?=&%:~")
    return f"/v1/artifacts/{_part(artifact.id)}"
