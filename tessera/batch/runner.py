"""Runs a batch: submits line by line, follows what is in flight, fetches what has ended, and can be killed anywhere.

One coroutine submits, in the order of the file, with an Idempotency-Key made of the file's content and the line: sent
again after any death it finds the same job. What has a job is followed by the user's one event stream; a look at the
job itself, now and then, is the guarantee. A used-up quota, a full queue and a server that is away are waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tessera.batch.journal import Journal
from tessera.batch.lines import BatchFile, Line
from tessera.batch.results import FILES, file_name, refused, result_of, summary, write_all
from tessera.client import ApiError, Client, ClientError, Job

REPORT_EVERY_S = 10.0
WRITE_EVERY_S = 15.0
FIRST_LOOK_S, LAST_LOOK_S = 2.0, 30.0  # at a job of which no event has come, doubled in between
MAX_IN_FLIGHT = 64  # (start) enough to keep every worker busy; more would only wait there instead of here
LONGEST_NAP_S = 600.0  # a grant, a larger plan or a cancelled job may end a wait early: look again
METADATA_KEY = "batch"

Say = Callable[[str], None]


@dataclass(kw_only=True)
class Options:
    """How a batch is run. ``in_flight`` None: half of the plan's queue, at most MAX_IN_FLIGHT."""

    out: Path
    in_flight: int | None = None
    run: str = ""
    retry_failed: bool = False


@dataclass(kw_only=True)
class _Following:
    """The jobs in flight, and who waits for their end."""

    ends: dict[str, asyncio.Event] = field(default_factory=dict)

    def of(self, job_id: str) -> asyncio.Event:
        return self.ends.setdefault(job_id, asyncio.Event())


class Runner:
    """One run of a batch. ``say`` gets the log, ``tell`` one line of progress each time that it changes."""

    def __init__(
        self, client: Client, file: BatchFile, options: Options, *, say: Say, tell: Say = lambda line: None
    ) -> None:
        self._client = client
        self._file = file
        self._options = options
        self._say = say
        self._tell = tell
        self._following = _Following()
        self._flying = 0
        self._begun = time.monotonic()
        self._ended_before = 0
        self._why_waiting = ""

    async def run(self) -> dict[str, Any]:
        """Bring the batch to its end and return its summary. Raises JournalError, or ClientError for what no patience
        mends (a wrong key). Cancelled, it writes down what there is; run again, it goes on there."""
        journal = Journal(self._options.out, self._file, self._options.run, self._client.url)
        self._journal = journal
        try:
            if self._options.retry_failed:
                self._begin_failed_anew()
            self._ended_before = len(journal.ended)
            if self._ended_before or journal.jobs:
                known = len(set(journal.jobs) - set(journal.ended))
                self._say(
                    f"Going on: {self._ended_before} of {len(self._file.lines)} lines are done, {known} have a job."
                )
            (self._options.out / FILES).mkdir(exist_ok=True)
            beside = [
                asyncio.create_task(work) for work in (self._follow(), self._report(), self._write_now_and_then())
            ]
            try:
                await self._submit_all()
            finally:
                for task in beside:
                    task.cancel()
                await asyncio.gather(*beside, return_exceptions=True)
                self._tell(self._line())
                self._write()
            return self._summary()
        finally:
            journal.close()

    # ------------------------------------------------------------------ submitting

    def _begin_failed_anew(self) -> None:
        for number, result in list(self._journal.ended.items()):
            if result["state"] != "completed":
                self._journal.write({"line": number, "again": self._journal.tries.get(number, 0) + 1})

    async def _submit_all(self) -> None:
        places = asyncio.Semaphore(await self._in_flight())
        try:
            async with asyncio.TaskGroup() as group:
                for line in self._file.lines:
                    if line.number in self._journal.ended:
                        continue
                    await places.acquire()
                    job_id = self._journal.jobs.get(line.number) or await self._submit(line)
                    if job_id is None:
                        places.release()
                        continue
                    self._flying += 1
                    group.create_task(self._bring_home(line, job_id, places))
        except BaseExceptionGroup as errors:
            # The first one ended the others; what they were doing is in the journal.
            raise errors.exceptions[0] from None

    async def _in_flight(self) -> int:
        if self._options.in_flight is not None:
            return self._options.in_flight
        most = (await self._client.me()).limits.get("max_queued")
        queue = int(most) if isinstance(most, int | float) else 2 * MAX_IN_FLIGHT
        return max(1, min(MAX_IN_FLIGHT, queue // 2))

    async def _submit(self, line: Line) -> str | None:
        """The job of a line, None for one that never becomes any."""
        if line.error is not None or line.kind is None:
            self._end(line, refused(line, "invalid_line", f"Line {line.number} {line.error}"))
            return None
        again = self._journal.tries.get(line.number, 0)
        name = f"{self._file.sha256[:32]}{'.' + self._options.run if self._options.run else ''}"
        label = f"{line.number}{'.' + str(again) if again else ''}"
        while True:
            try:
                uploads = await self._upload(line)
                job = await self._client.submit(
                    line.kind,
                    {**line.input, **uploads},
                    model=line.model,
                    tier="batch",
                    idempotency_key=f"batch:{name}:{label}",
                    metadata={METADATA_KEY: name, "line": label, "id": line.custom_id[:200]},
                )
            except OSError as error:
                self._end(line, refused(line, "file", f"Line {line.number}: {error.filename}: {error.strerror}"))
                return None
            except ApiError as error:
                job_id = await self._after_refusal(line, error, name, label)
                if job_id is _AGAIN:
                    continue
                if job_id is None:
                    return None
            else:
                job_id = job.id
            self._why_waiting = ""
            self._journal.write({"line": line.number, "job": job_id})
            return job_id

    async def _upload(self, line: Line) -> dict[str, str]:
        """The ids of a line's files, uploaded once."""
        found: dict[str, str] = {}
        for name, path in line.files.items():
            known = self._journal.uploads.get((line.number, name))
            if known is None:
                known = (await self._client.upload(path)).id
                self._journal.write({"line": line.number, "field": name, "upload": known})
            found[name] = known
        return found

    async def _after_refusal(self, line: Line, error: ApiError, name: str, label: str) -> str | None:
        """_AGAIN after a wait, the id of a job that is there already, or None for a line that is refused for good."""
        if error.code == "idempotency_mismatch":
            # It was submitted before, with another upload of its file: that job is the one.
            page = await self._client.list_jobs(metadata={METADATA_KEY: name, "line": label})
            if page.data:
                return page.data[0].id
        cost, daily = error.details.get("cost_tokens", 0), error.details.get("daily_tokens", 0)
        never = error.status == 402 and cost > daily  # no day is long enough for it
        if error.status in (402, 429, 502, 503, 504) and not never:
            await self._wait(error)
            return _AGAIN
        if error.status in (401, 403):
            raise error
        self._end(line, refused(line, error.code, error.message))
        return None

    async def _wait(self, error: ApiError) -> None:
        wait_s = min(LONGEST_NAP_S, max(1.0, error.retry_after_s or 5.0))
        if error.code != self._why_waiting:
            self._why_waiting = error.code
            until = datetime.fromtimestamp(time.time() + (error.retry_after_s or wait_s), UTC)
            self._say(f"Waiting, nothing is lost ({error.message} Going on at about {until:%Y-%m-%d %H:%M:%S} UTC).")
        await asyncio.sleep(wait_s)

    # ------------------------------------------------------------------ following

    async def _follow(self) -> None:
        """Wake who waits for a job, by the stream of all of the user's events. Whatever ends it, looks go on."""
        while True:
            try:
                async with aclosing(self._client.all_events()) as events:
                    async for event in events:
                        if event.is_final and event.job_id in self._following.ends:
                            self._following.of(event.job_id).set()
            except ClientError as error:
                self._say(f"The stream of events ended ({error.message}); looking at the jobs instead.")
            await asyncio.sleep(FIRST_LOOK_S)

    async def _bring_home(self, line: Line, job_id: str, places: asyncio.Semaphore) -> None:
        try:
            job = await self._until_final(line, job_id)
            if job is not None:
                self._end(line, result_of(line, job, await self._fetch(line, job)))
        finally:
            self._following.ends.pop(job_id, None)
            self._flying -= 1
            places.release()

    async def _until_final(self, line: Line, job_id: str) -> Job | None:
        """The job once it has ended; None (and the line ended) for one that is gone."""
        ended, wait_s = self._following.of(job_id), FIRST_LOOK_S
        while True:
            try:
                job = await self._client.get_job(job_id)
            except ApiError as error:
                if error.status == 404:
                    gone = f"Line {line.number}: its job {job_id} was deleted before its result was fetched."
                    self._end(line, refused(line, "gone", gone, retryable=True))
                    return None
                await self._wait(error)
                continue
            if job.is_final:
                return job
            try:
                async with asyncio.timeout(wait_s):
                    await ended.wait()
            except TimeoutError:
                wait_s = min(LAST_LOOK_S, wait_s * 2)

    async def _fetch(self, line: Line, job: Job) -> list[str]:
        names = []
        for index, artifact in enumerate(job.artifacts):
            name = f"{FILES}/{file_name(line, index, artifact)}"
            path = self._options.out / name
            if not path.exists() or path.stat().st_size != artifact.bytes:
                await self._client.download(artifact, path)
            names.append(name)
        return names

    def _end(self, line: Line, result: dict[str, Any]) -> None:
        self._journal.write({"line": line.number, "result": result})
        if result["state"] != "completed":
            self._say(f"Line {line.number} ({line.custom_id}): {result['error']['message']}")

    # ------------------------------------------------------------------ telling

    async def _report(self) -> None:
        last = ""
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            if (line := self._line()) != last:
                last = line
                self._say(line)
                self._tell(line)

    async def _write_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            self._write()

    def _line(self) -> str:
        """The progress in one line."""
        totals = self._summary()
        done = len(self._journal.ended)
        seconds = time.monotonic() - self._begun
        rate = (done - self._ended_before) / seconds if seconds else 0.0
        parts = [f"{done} of {totals['lines']} lines done", f"{totals['completed']} completed"]
        parts += [f"{totals[name]} {name}" for name in ("failed", "refused") if totals[name]]
        parts.append(f"{self._flying} in flight")
        if rate > 0 and done < totals["lines"]:
            parts.append(f"about {_span((totals['lines'] - done) / rate)} left")
        if self._why_waiting:
            parts.append(f"waiting: {self._why_waiting}")
        return " · ".join(parts)

    def _summary(self) -> dict[str, Any]:
        waiting = len(self._file.lines) - len(self._journal.ended)
        return summary(self._file, self._journal.ended, seconds=time.monotonic() - self._begun, waiting=waiting)

    def _write(self) -> None:
        write_all(self._options.out, self._file, self._journal.ended, self._summary())


_AGAIN = "again"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
