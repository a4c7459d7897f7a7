"""What comes out of a batch: a line for each line that went in, in its order; what went wrong in a file of its own."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from tessera.api.batches.lines import Endpoint, Shape, custom_id_of, read_lines
from tessera.api.jobs.answers import job_answer, json_bytes
from tessera.api.openai.chat import chat_answer
from tessera.api.openai.completions import completion_answer
from tessera.api.openai.errors import JobFailed, envelope, status_of
from tessera.api.openai.images import Gallery, ImageBody
from tessera.api.openai.texts import public_id
from tessera.api.services import Services
from tessera.errors import Gone
from tessera.ids import Prefix, new_id, show
from tessera.jobs import JobState
from tessera.store.database import Row

PAGE = 100  # lines that are in memory at a time: texts may have tens of KB each
KEPT = timedelta(days=30)  # a file of a batch, as OpenAI keeps its own

_UNDONE = {
    "cancelled": ("batch_cancelled", "The batch was cancelled before this line's turn. Nothing was charged for it."),
    "expired": ("batch_expired", "The batch's time was over before this line's turn. Nothing was charged for it."),
    "failed": ("batch_failed", "The batch was given up before this line's turn. Nothing was charged for it."),
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of a file. ``good`` says of which."""

    good: bool
    data: Mapping[str, Any]


class ResultWriter:
    """Writes the files of batches that have come to their end."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._media = asyncio.Semaphore(1)  # requests go first

    async def files_of(self, batch: Row, now: datetime) -> list[dict[str, Any]]:
        """Write the files of a batch and store them; as ``end_batch`` takes them. Safe to repeat.

        Raises StorageFull or Unavailable.
        """
        files = []
        async with _temporary() as output, _temporary() as errors:
            async with aclosing(self._results(batch)) as pages:
                async for page in pages:
                    good = b"".join(json_bytes(r.data) + b"\n" for r in page if r.good)
                    bad = b"".join(json_bytes(r.data) + b"\n" for r in page if not r.good)
                    await asyncio.to_thread(_write, ((output, good), (errors, bad)))
            name = show(Prefix.BATCH, batch["id"])
            for role, file, filename in (
                ("output", output, f"{name}_output.jsonl"),
                ("error", errors, f"{name}_errors.jsonl"),
            ):
                size = file.tell()
                if size == 0:
                    continue
                files.append(
                    {
                        "role": role,
                        "id": str(new_id()),
                        "filename": filename,
                        "sha256": await self._services.artifacts.put_file(Path(file.name)),
                        "bytes": size,
                        "expires_at": now + KEPT,
                    }
                )
        return files

    async def _results(self, batch: Row) -> AsyncGenerator[list[Result]]:
        """Pages of results: of the lines that were read, then of those whose turn never came."""
        db, last = self._services.db, 0
        while rows := await db.rows("batch_lines_after", batch_id=batch["id"], line=last, limit=PAGE):
            ids = [row["job_id"] for row in rows if row["job_id"] is not None]
            jobs = {job["id"]: job for job in await db.rows("jobs_of_lines", ids=ids, user_id=batch["user_id"])}
            yield [await self._result(batch, row, jobs.get(row["job_id"])) for row in rows]
            last = rows[-1]["line"]
        if batch["ends_as"] == "completed":
            return
        code, message = _UNDONE[batch["ends_as"]]
        undone: list[Result] = []
        left = read_lines(
            self._services.artifacts,
            batch["sha256"],
            batch["bytes"],
            number=batch["next_line"],
            byte=batch["next_byte"],
        )
        async with aclosing(left) as lines:
            async for line in lines:
                error = {"code": code, "message": message}
                undone.append(Result(good=False, data=_undone(batch, line.number, custom_id_of(line), error)))
                if len(undone) >= PAGE:
                    yield undone
                    undone = []
        yield undone

    async def _result(self, batch: Row, line: Row, job: Row | None) -> Result:
        if line["job_id"] is not None and job is None:
            gone = {"code": "gone", "message": "The job was deleted before its batch came to its end."}
            return Result(good=False, data=_undone(batch, line["line"], line["custom_id"], gone))
        if batch["shape"] == Shape.NATIVE:
            return _native(line, job)
        return await self._openai(batch, line, job)

    async def _openai(self, batch: Row, line: Row, job: Row | None) -> Result:
        request_id = _request_id(batch, line["line"])
        head = {"id": request_id, "custom_id": line["custom_id"]}
        if job is None:
            status, body = _refusal(line["error"], request_id)
        elif job["state"] != JobState.COMPLETED:
            failed = JobFailed(job)
            status, body = status_of(failed), envelope(failed, request_id)
        else:
            try:
                status, body = 200, await self._body(batch, line, job)
            except Gone as gone:
                status, body = status_of(gone), envelope(gone, request_id)
        response = {"status_code": status, "request_id": request_id, "body": body}
        return Result(good=status == 200, data={**head, "response": response, "error": None})

    async def _body(self, batch: Row, line: Row, job: Row) -> dict[str, Any]:
        match Endpoint(batch["endpoint"]):
            case Endpoint.CHAT:
                return chat_answer(job)
            case Endpoint.COMPLETIONS:
                return completion_answer(job)
            case Endpoint.IMAGES:
                gallery = Gallery(
                    services=self._services,
                    media=self._media,
                    user_id=batch["user_id"],
                    base_url=self._services.settings.http_url,
                )
                return await gallery.answer(job, ImageBody(prompt="", **(line["options"] or {})))


def _native(line: Row, job: Row | None) -> Result:
    head: dict[str, Any] = {"line": line["line"]}
    if line["custom_id"]:
        head["custom_id"] = line["custom_id"]
    if job is None:
        return Result(good=False, data={**head, "error": line["error"]})
    return Result(good=job["state"] == JobState.COMPLETED, data={**head, "job": job_answer(job)})


def _undone(batch: Row, number: int, custom_id: str, error: Mapping[str, Any]) -> dict[str, Any]:
    if batch["shape"] == Shape.OPENAI:
        return {"id": _request_id(batch, number), "custom_id": custom_id, "response": None, "error": error}
    return {"line": number, **({"custom_id": custom_id} if custom_id else {}), "error": {**error, "retryable": True}}


def _refusal(error: Mapping[str, Any], request_id: str) -> tuple[int, dict[str, Any]]:
    """The refusal of a line, as the expander (OpenAI's shape already) or the database has noted it."""
    if "status" in error:
        return int(error["status"]), {"error": {**error["error"], "request_id": request_id}}
    shown = {"message": error.get("message"), "type": "insufficient_quota", "param": None, "code": error.get("code")}
    return 402, {"error": {**shown, "request_id": request_id}}


def _request_id(batch: Row, number: int) -> str:
    return f"{public_id('batch_req', _uuid(batch['id']))}-{number}"


def _uuid(value: UUID | str) -> UUID:
    return value if isinstance(value, UUID) else UUID(value)


@asynccontextmanager
async def _temporary() -> AsyncGenerator[IO[bytes]]:
    with tempfile.NamedTemporaryFile(prefix="tessera-batch-") as file:
        yield file


def _write(parts: tuple[tuple[IO[bytes], bytes], ...]) -> None:
    for file, data in parts:
        file.write(data)
        file.flush()
