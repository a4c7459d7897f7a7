"""From an order to a file: upload, submit, follow, fetch, and tell what was made and what it took.

Ctrl-C while waiting leaves the event loop first and asks then, so that the question never competes with the live view
and a second Ctrl-C always leaves.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from tessera.cli.exits import CliError, ExitCode, tell
from tessera.cli.output import Target, check_target, default_stem, paths_for, render_text, reserve
from tessera.cli.progress import WAITING, JobProgress, View, advance, explained, make_view, submitted
from tessera.cli.screen import Screen, clean, stdin_is_terminal, stdout_is_terminal
from tessera.cli.session import make_client
from tessera.cli.telling import TEXT_KINDS, Made, tell_cancelled, tell_made, tell_submitted, words_of
from tessera.client import ApiError, Client, ClientError, Event, Interruption, Job, TextSoFar
from tessera.client.files import open_temporary
from tessera.jobs import Kind

if TYPE_CHECKING:
    from tessera.client import Artifact


EXPLAIN_AFTER_S = 1.0  # most jobs have started by then, and nobody has asked yet why not
EXPLAIN_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be made. ``files`` names local files (or ids) for fields of the input; ``words`` names the result."""

    kind: Kind
    input: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    tier: str | None = None
    target: Target
    wait: bool = True
    words: str = ""


def make(order: Order, screen: Screen) -> ExitCode:
    """Submit an order and see it through."""
    count = int(order.input.get("count") or 1)
    check_target(order.target, json_asked=screen.json, is_text=order.kind in TEXT_KINDS, count=count)
    for name, value in order.files.items():
        if not _is_id(value) and not Path(value).is_file():
            where = "" if name == "upload" else f"--{name}: "
            raise CliError(f"{where}there is no file {value}. Nothing was submitted.")
    work = _Work(screen, order.target, words=order.words)
    try:
        made = asyncio.run(work.order(order))
    except KeyboardInterrupt:
        return _interrupted(work.job, screen)
    if not order.wait:
        return tell_submitted(made.job, screen)
    return tell_made(made, screen, order.target)


def watch(job_id: str, target: Target, screen: Screen) -> ExitCode:
    """Take up a job that is already submitted, to its end."""
    work = _Work(screen, target)
    try:
        made = asyncio.run(work.take_up(job_id))
    except KeyboardInterrupt:
        return _interrupted(work.job, screen)
    return tell_made(made, screen, target)


def cancel(job_id: str, screen: Screen) -> ExitCode:
    """Cancel a job, wait until that is certain, and tell what was returned. 0 when it is cancelled."""
    try:
        job = asyncio.run(_cancel(job_id, screen))
    except KeyboardInterrupt:
        screen.say(f"Left. Whether it is cancelled, shows: tessera job {clean(job_id)}")
        return ExitCode.INTERRUPTED
    if screen.json:
        screen.print_json(job.dump())
    elif job.state == "cancelled":
        tell_cancelled(job, screen)
    else:
        screen.err.print(Text(f"Too late: the job is {job.state}. Nothing was changed."))
    return ExitCode.OK if job.state == "cancelled" else ExitCode.FAILED


async def _cancel(job_id: str, screen: Screen) -> Job:
    async with make_client(screen) as client:
        job = await client.cancel(job_id)
        return job if job.is_final else await client.wait(job_id)


class _Work:
    """One run of ``make`` or ``watch``; ``job`` is what is known when it is interrupted."""

    def __init__(self, screen: Screen, target: Target, *, words: str = "") -> None:
        self.job: Job | None = None
        self._screen = screen
        self._target = target
        self._words = words
        self._progress = JobProgress()
        self._text = TextSoFar()
        self._view: View | None = None

    async def order(self, order: Order) -> Made:
        with make_view(self._screen) as self._view:
            async with make_client(self._screen) as client:
                asked = dict(order.input)
                for name, value in order.files.items():
                    if _is_id(value):
                        asked[name] = value
                        continue
                    self._show(replace(self._progress, phase=f"uploading {Path(value).name}"))
                    asked[name] = (await client.upload(Path(value))).id
                self._show(replace(self._progress, phase="submitting"))
                self.job = await client.submit(order.kind, asked, model=order.model, tier=order.tier)
                if not order.wait:
                    return Made(job=self.job)
                return await self._see_through(client, self.job)

    async def take_up(self, job_id: str) -> Made:
        with make_view(self._screen) as self._view:
            async with make_client(self._screen) as client:
                self.job = await client.get_job(job_id)
                # Only now is it known what the job makes.
                is_text = self.job.kind in TEXT_KINDS
                several = max(1, len(self.job.artifacts))
                check_target(self._target, json_asked=self._screen.json, is_text=is_text, count=several)
                self._words = self._words or words_of(self.job)
                return await self._see_through(client, self.job)

    async def _see_through(self, client: Client, job: Job) -> Made:
        if not job.is_final:
            self._show(submitted(self._progress, job, time.monotonic()))
            explaining = asyncio.create_task(self._explain_while_it_waits(client, job.id))
            try:
                async with aclosing(client.events(job.id, on_interruption=self._trouble)) as events:
                    async for event in events:
                        self._on_event(event)
            finally:
                explaining.cancel()
                await asyncio.gather(explaining, return_exceptions=True)
            job = self.job = await client.get_job(job.id)
        if not job.ok:
            return Made(job=job)
        self._show(replace(self._progress, phase="fetching", fraction=None, note="", preview=None))
        try:
            files = await self._deliver(client, job)
        except OSError as error:
            raise CliError(
                f"The job is done, but its result could not be written ({error.strerror or error}). It is safe on the "
                f"server: tessera job {job.id} --out FILE",
                code="not_written",
                exit_code=ExitCode.FAILED,
                job_id=job.id,
            ) from error
        quota = None
        with suppress(ClientError):  # the remark about what is left is not worth a failure
            quota = (await client.me()).quota
        return Made(job=job, files=tuple(files), quota=quota)

    # Following

    async def _explain_while_it_waits(self, client: Client, job_id: str) -> None:
        """Say beside the position why the job waits. An older server cannot; of a job that starts soon nobody asks."""
        pause_s = EXPLAIN_AFTER_S
        while not self._screen.quiet:
            await asyncio.sleep(pause_s)
            pause_s = EXPLAIN_EVERY_S
            if self._progress.phase in WAITING:
                try:
                    explanation = await client.explain(job_id)
                except ApiError:
                    return
                except ClientError:
                    continue  # the events tell of a broken line
                self._show(explained(self._progress, explanation))

    def _show(self, progress: JobProgress) -> None:
        self._progress = progress
        if self._view is not None:
            self._view.show(progress)

    def _trouble(self, interruption: Interruption) -> None:
        self._show(replace(self._progress, trouble=f"{interruption.why}: trying again, the job goes on"))

    def _on_event(self, event: Event) -> None:
        new = self._text.feed(event)
        if event.is_retry and self._streamed:
            self._streamed = False
            sys.stdout.write("\n")
            self._screen.say(Text(f"  starting again: {clean(event.data.get('reason'))}", style="yellow"))
        if new and self._streams:
            self._write_text(new)
        self._show(advance(self._progress, event, time.monotonic()))

    _streamed = False  # whether any text is on the terminal

    @property
    def _streams(self) -> bool:
        """Whether text goes to the terminal as it comes. A pipe gets it whole: a retry voids what was sent before."""
        job = self.job
        return (
            job is not None
            and job.kind == Kind.TEXT
            and self._target.out is None
            and not self._screen.json
            and stdout_is_terminal()
        )

    def _write_text(self, text: str) -> None:
        if self._view is not None:
            self._view.pause()
        self._streamed = True
        sys.stdout.write(clean(text))
        sys.stdout.flush()

    # Delivering

    async def _deliver(self, client: Client, job: Job) -> list[Path]:
        if job.kind in TEXT_KINDS and job.output is not None:
            return self._deliver_text(job, job.output)
        if self._target.to_stdout:
            if len(job.artifacts) != 1:
                raise CliError(f"The job has {len(job.artifacts)} files and stdout takes one: use --out FOLDER/.")
            async with aclosing(client.stream(job.artifacts[0])) as chunks:
                async for chunk in chunks:
                    sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            return []
        return [await self._fetch(client, artifact, path) for artifact, path in self._named(job)]

    def _named(self, job: Job) -> list[tuple[Artifact, Path]]:
        paths = paths_for(self._target, job.artifacts, stem=default_stem(self._words, job))
        return list(zip(job.artifacts, paths, strict=True))

    async def _fetch(self, client: Client, artifact: Artifact, path: Path) -> Path:
        if self._target.folder is None or self._target.force:
            await client.download(artifact, path)
            return path
        path = reserve(path)
        try:
            await client.download(artifact, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def _deliver_text(self, job: Job, output: dict[str, Any]) -> list[Path]:
        if self._target.out is not None and not self._target.to_stdout:
            ending = {"text": ".txt"}.get(self._target.format, f".{self._target.format}")
            folder = self._target.folder
            path = Path(self._target.out) if folder is None else folder / (default_stem(self._words, job) + ending)
            if folder is not None and not self._target.force:
                path = reserve(path)
            with open_temporary(path) as (file, temporary):
                file.write(render_text(output, self._target.format).encode())
                file.close()
                temporary.replace(path)
            return [path]
        if self._screen.json:
            return []
        if self._view is not None:
            self._view.pause()
        whole = render_text(output, self._target.format)
        rest: str | None = whole
        if self._streamed:
            rest = self._text.finish(whole)
            if rest is None:  # what is on the terminal is not its beginning
                rest = "\n" + whole
        sys.stdout.write(clean(rest) if stdout_is_terminal() else rest or "")
        sys.stdout.flush()
        return []


def _is_id(value: str) -> bool:
    return value.startswith(("upl_", "art_")) and not Path(value).exists()


# Interrupted


def _interrupted(job: Job | None, screen: Screen) -> ExitCode:
    """Ctrl-C: ask what is to become of the job. Whatever is answered, the command ends as interrupted."""
    if job is None:
        message = "Interrupted. If the job was already accepted, 'tessera jobs' shows it."
        if screen.json:
            screen.print_json({"error": {"code": "interrupted", "message": message}})
        else:
            screen.err.print(Text(message))
        return ExitCode.INTERRUPTED
    resume = f"tessera job {job.id} --watch"
    if screen.json or not stdin_is_terminal():
        message = f"Interrupted; the job goes on. Take it up: {resume}"
        if screen.json:
            screen.print_json({"error": {"code": "interrupted", "message": message, "job_id": job.id}})
        else:
            screen.err.print(Text(message))
        return ExitCode.INTERRUPTED
    if job.is_final:
        screen.err.print(Text(f"The job is {job.state} already. Fetch its result: {resume}"))
        return ExitCode.INTERRUPTED
    try:
        sys.stderr.write(f"\nCancel {job.id}? Else it goes on without you. [y/N] ")
        sys.stderr.flush()
        answer = sys.stdin.readline().strip().lower()
        if answer in {"y", "yes"}:
            ended = asyncio.run(_cancel(job.id, screen))
            if ended.state == "cancelled":
                tell_cancelled(ended, screen)
            else:
                screen.err.print(Text(f"It was {ended.state} before the cancel arrived. Its result: {resume}"))
            return ExitCode.INTERRUPTED
    except KeyboardInterrupt:
        sys.stderr.write("\n")
    except ClientError as error:
        tell(error, screen, debug=False)
    screen.err.print(Text(f"The job goes on. Take it up: {resume}"))
    return ExitCode.INTERRUPTED
