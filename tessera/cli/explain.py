"""``explain ID``: why a job waits, on one page, and what its user can do about it.

What each code of a reason means to a person stands here, once; the sentences about this very job come from the API.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tessera.cli.options import JsonOption
from tessera.cli.screen import Screen, clean, number, span, span_range, stdout_is_terminal, table, tokens
from tessera.cli.session import call
from tessera.jobs import FINAL, JobState, Tier
from tessera.ports import WaitCode

if TYPE_CHECKING:
    from tessera.client import Client, Explanation, WaitReason

WATCH_EVERY_S = 2.0
BAR = 24  # columns of the longest bar


@dataclass(frozen=True, kw_only=True)
class Wait:
    """A code in words, for "waits for …", and the next step to take; ``{id}`` there is the job's."""

    words: str
    step: str


WAITS: Mapping[WaitCode, Wait] = {
    WaitCode.NOT_BEFORE: Wait(
        words="the time you asked for",
        step="Nothing has to be done. To have it sooner: 'tessera cancel {id}', then submit it without a time.",
    ),
    WaitCode.BACKOFF: Wait(
        words="the pause after a failed run",
        step="Nothing has to be done: it is tried again by itself, in its old place.",
    ),
    WaitCode.PAUSED: Wait(
        words="the end of an operator's pause",
        step="It starts when the operator ends the pause ('tessera unpause KIND'). Not worth the wait: "
        "'tessera cancel {id}', all tokens come back.",
    ),
    WaitCode.RUNNING_CAP: Wait(
        words="your own running jobs",
        step="It starts when one of yours ends: 'tessera jobs --state running'. Larger plans: 'tessera plans'.",
    ),
    WaitCode.WORKER_OFFLINE: Wait(
        words="a worker that is away",
        step="It starts when the worker is back. Which models are up: 'tessera models'. On the platform's machine: "
        "'tessera status'.",
    ),
    WaitCode.DRAINING: Wait(
        words="the end of a drain",
        step="It starts when the drain is over, or its operator ends it ('tessera resume WORKER'). Not worth the wait: "
        "'tessera cancel {id}', all tokens come back.",
    ),
    WaitCode.EXCLUDED: Wait(
        words="its model, left out after failures",
        step="Nothing has to be done: the model is tried again by itself. Other models: 'tessera models'.",
    ),
    WaitCode.CIRCUIT_OPEN: Wait(
        words="its workers, left out after failures",
        step="Nothing has to be done: they are tried again by themselves. On the platform's machine: 'tessera logs'.",
    ),
    WaitCode.DOES_NOT_FIT: Wait(
        words="a device that is large enough",
        step="Waiting does not help: 'tessera cancel {id}' returns all tokens, 'tessera models' lists other models.",
    ),
    WaitCode.MODEL_LOAD: Wait(
        words="its model to be loaded",
        step="Nothing has to be done: it starts when the model is loaded. See it start: 'tessera job {id} --watch'.",
    ),
    WaitCode.VIDEO_SHARE: Wait(
        words="video's share of the device",
        step="Nothing has to be done: the share comes back as time goes on. See it start: 'tessera job {id} --watch'.",
    ),
    WaitCode.AHEAD: Wait(
        words="its turn",
        step="Nothing has to be done. See it start: 'tessera job {id} --watch'. What comes first: 'tessera plans'.",
    ),
    WaitCode.SLOTS_BUSY: Wait(
        words="a free slot",
        step="Nothing has to be done: it is next. See it start: 'tessera job {id} --watch'.",
    ),
    WaitCode.SCHEDULER_RESTARTING: Wait(
        words="the scheduler",
        step="Wait some seconds: 'tessera explain {id} --watch'. If it stays so, on the platform's machine: "
        "'tessera status'.",
    ),
}

_STEPS: Mapping[JobState, str] = {
    JobState.CREATED: "Not worth the wait: 'tessera cancel {id}', all tokens come back.",
    JobState.QUEUED: "See it start: 'tessera job {id} --watch'. Not worth the wait: 'tessera cancel {id}'.",
    JobState.RUNNING: "See its end: 'tessera job {id} --watch'. Stop it: 'tessera cancel {id}'.",
    JobState.COMPLETED: "Fetch what it made: 'tessera job {id} --watch'.",
    JobState.FAILED: "Its input and error: 'tessera job {id}'. To try again, submit it anew.",
    JobState.CANCELLED: "To have it after all, submit it anew.",
    JobState.EXPIRED: "Submit it anew with a later deadline, or with none.",
}

EPILOG = """[bold]Examples[/bold]

[cyan]tessera explain job_01k…[/cyan]

[cyan]tessera explain job_01k… --watch[/cyan]   again every two seconds, until it ends

[cyan]tessera explain job_01k… --json | jq -r '.reasons[].code'[/cyan]"""


def explain(
    id: Annotated[str, typer.Argument(metavar="ID", help="A job's id, like job_01k….")],
    watch: Annotated[
        bool, typer.Option("--watch", "-w", metavar="", help="Ask again every two seconds until the job ends.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Say why a job waits: what for, its place, what is ahead, where it can run, and when it may be done."""
    screen = Screen(json=json)
    if watch:
        _watch(id, screen)
        return
    found = call(lambda client: client.explain(id), screen)
    if json:
        screen.print_json(found.dump())
    else:
        _print(found, screen)


def _watch(job_id: str, screen: Screen) -> None:
    """Follow a job to its end. Ctrl-C is how one leaves, so it is no failure. With --json, the last state is told."""
    seen: list[Explanation] = []
    try:
        if screen.json or not stdout_is_terminal():
            call(lambda client: _follow(client, job_id, seen, screen, None), screen)
        else:
            with Live(console=screen.out, auto_refresh=False) as live:
                call(lambda client: _follow(client, job_id, seen, screen, live), screen)
    except KeyboardInterrupt:
        pass
    if screen.json and seen:
        screen.print_json(seen[-1].dump())


async def _follow(client: Client, job_id: str, seen: list[Explanation], screen: Screen, live: Live | None) -> None:
    while True:
        found = await client.explain(job_id)
        if live is not None:
            live.update(Group(*page(found)), refresh=True)
        elif not screen.json:
            _print_change(seen[-1] if seen else None, found, screen)
        seen[:] = [found]
        if found.is_final:
            return
        await asyncio.sleep(WATCH_EVERY_S)


def _print_change(before: Explanation | None, found: Explanation, screen: Screen) -> None:
    """For logs: one line at each change, and the page at the end."""
    if found.is_final:
        _print(found, screen)
    elif before is None or (before.state, before.summary, before.position) != (
        found.state,
        found.summary,
        found.position,
    ):
        place = f" #{found.position}" if found.position else ""
        sys.stdout.write(f"{found.state}{place} {' '.join(clean(found.summary).split())}\n")
        sys.stdout.flush()


def _print(found: Explanation, screen: Screen) -> None:
    for part in page(found):
        screen.print_table(part)


# ------------------------------------------------------------------ the page


def page(found: Explanation) -> list[RenderableType]:
    """The explanation for a person, from top to bottom: the sentence, the reasons, the facts, the workers, the step."""
    parts: list[RenderableType] = [Text(clean(found.summary) or f"The job is {found.state}.", style="bold")]
    if found.reasons:
        parts += [Text(), _reasons(found)]
    parts += [Text(), _facts(found)]
    if found.workers:
        parts += [Text(), _workers(found)]
    return [*parts, Text(), Text(f"Next: {next_step(found)}", style="cyan")]


def next_step(found: Explanation) -> str:
    """What its user can do now. A code that is newer than this program has the step of the job's state."""
    for reason in found.reasons:
        wait = _known(reason.code)
        if wait is not None:
            return wait.step.format(id=clean(found.id))
    step = _STEPS.get(JobState(found.state)) if found.state in set(JobState) else None
    return (step or "'tessera job {id}' shows it.").format(id=clean(found.id))


def words_of_code(code: str) -> str:
    """What a job with this reason waits for, in words."""
    wait = _known(code)
    return wait.words if wait is not None else clean(code).replace("_", " ")


def _known(code: str) -> Wait | None:
    return WAITS[WaitCode(code)] if code in set(WaitCode) else None


def _reasons(found: Explanation) -> RenderableType:
    rows = table("WAITS FOR", "CODE", "UNTIL", "WHY")
    for reason in found.reasons:
        rows.add_row(
            Text(words_of_code(reason.code), style="yellow"),
            Text(clean(reason.code), style="dim"),
            _until(reason, found.as_of),
            Text(clean(reason.message)),
        )
    return _last_wraps(rows)


def _until(reason: WaitReason, now: datetime | None) -> str:
    """By the server's clock, whatever this machine's says."""
    if reason.until is None or now is None:
        return "–"
    left_s = (reason.until - now).total_seconds()
    return f"in {span(max(1, round(left_s)))}" if left_s > 0 else "now"


def _facts(found: Explanation) -> RenderableType:
    rows = table("", "")
    rows.show_header = False

    def row(name: str, value: str | Text) -> None:
        if value:
            rows.add_row(Text(name, style="dim"), value)

    row("job", clean(found.id))
    row("state", " ".join(part for part in (found.state, _since(found)) if part))
    row("what", f"{clean(found.kind)}, by {clean(found.model)}" if found.kind else "")
    row("place", place(found))
    row("ahead", _ahead(found))
    row("done", _eta(found))
    row("yours", _own(found))
    row("attempt", _attempts(found))
    if found.state in FINAL and found.charged_tokens is not None:
        row("tokens", f"{tokens(found.charged_tokens)} charged, {tokens(found.refunded_tokens)} returned")
    if found.error is not None:
        row("error", Text(f"{clean(found.error.message)} ({clean(found.error.code)})", style="red"))
    return rows


def _since(found: Explanation) -> str:
    since = {
        JobState.CREATED.value: found.created_at,
        JobState.QUEUED.value: found.queued_since,
        JobState.RUNNING.value: found.started_at,
    }.get(found.state)
    where = f" on {clean(found.worker)}" if found.worker else ""
    if since is None or found.as_of is None:
        return where.strip()
    return f"for {span(max(0, round((found.as_of - since).total_seconds())))}{where}"


def place(found: Explanation) -> str:
    """``3rd of your own, 12th in tier free, 40th overall``."""
    if found.state != JobState.QUEUED or not found.position:
        return ""
    parts = []
    if found.position_of_user:
        parts.append(f"{ordinal(found.position_of_user)} of your own")
    if found.position_in_tier:
        parts.append(f"{ordinal(found.position_in_tier)} in tier {clean(found.tier)}")
    return ", ".join([*parts, f"{ordinal(found.position)} overall"])


def ordinal(number: int) -> str:
    """``1st``, ``12th``, ``1,002nd``."""
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


def _ahead(found: Explanation) -> Text:
    """One line per tier with a bar, the highest tier first."""
    ahead = {tier: count for tier, count in (found.ahead or {}).items() if count > 0}
    if found.state != JobState.QUEUED or found.ahead is None:
        return Text()
    if not ahead:
        return Text("nothing")
    ranked = [tier.value for tier in Tier if tier in ahead]
    most = max(ahead.values())
    mine = f" ({found.own_jobs_ahead:,} of them yours)" if found.own_jobs_ahead else ""
    lines = [
        Text.assemble(
            f"{clean(tier):<8}",
            ("▇" * max(1, round(BAR * ahead[tier] / most)), "cyan"),
            f" {ahead[tier]:,}",
            (mine if tier == found.tier else "", "dim"),
        )
        for tier in [*ranked, *sorted(ahead.keys() - set(ranked))]
    ]
    return Text("\n").join(lines)


def _eta(found: Explanation) -> str:
    if found.eta is None or found.state in FINAL:
        return ""
    own = f"; its own run takes about {span(max(1, round(found.own_s)))}" if found.own_s else ""
    return f"in {span_range(found.eta.low_s, found.eta.high_s)}{own}"


def _own(found: Explanation) -> str:
    if found.running_of_user is None or found.max_running is None:
        return ""
    said = f"{number(found.running_of_user)} of {number(found.max_running)} running"
    if found.queued_of_user is not None and found.max_queued is not None:
        said += f", {number(found.queued_of_user)} of {number(found.max_queued)} waiting"
    return said


def _attempts(found: Explanation) -> str:
    failure = found.last_failure
    if failure is None:
        return str(found.attempt) if found.attempt > 1 else ""
    where = f" on {clean(failure.worker)}" if failure.worker else ""
    said = f"{found.attempt} so far, {found.failures} counted as failed; attempt {failure.attempt}{where}"
    return f"{said}: {clean(failure.message)} ({clean(failure.code)})"


def _workers(found: Explanation) -> RenderableType:
    operator = any(worker.slots is not None for worker in found.workers)
    more = ("FREE", "LOADED") if operator else ()
    rows = table("WORKER", "DEVICE", "CAN RUN IT", *more, "WHY NOT", right=("FREE",))
    for worker in found.workers:
        device = "/".join(clean(part) for part in (worker.node, worker.device) if part) or "–"
        can = Text("yes", style="green") if worker.can_run else Text("no" if worker.online else "away", style="yellow")
        cells: list[str | Text] = [Text(clean(worker.name), style="bold"), device, can]
        if operator:
            cells += [f"{worker.free_slots} of {worker.slots}", "yes" if worker.resident else "no"]
        rows.add_row(*cells, Text(clean(worker.why_not)))
    return _last_wraps(rows)


def _last_wraps(rows: Table) -> Table:
    """Where room is short, the sentence in the last column takes more lines; names and codes stay whole."""
    for column in rows.columns:
        column.no_wrap = column is not rows.columns[-1]
    return rows
