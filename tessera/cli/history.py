"""``tessera history``: what ran here, as a file that ``tessera simulate --from-history`` replays."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from tessera.cli.exits import CliError, ExitCode
from tessera.cli.options import JsonOption, QuietOption
from tessera.cli.screen import Screen, clean

if TYPE_CHECKING:
    from tessera.config import ClusterConfig
    from tessera.simulator.history import Header

DEFAULT_S_PER_TOKEN = 2.0  # of a model of which nothing has run


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands of this module."""
    app.command(
        "history",
        rich_help_panel=panel,
        epilog="[cyan]tessera history jobs.jsonl[/cyan]\n\n"
        "[cyan]tessera simulate --from-history jobs.jsonl[/cyan]   the same jobs under each policy",
    )(history)


def history(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the jobs, as JSON Lines.")],
    hours: Annotated[float, typer.Option("--hours", metavar="N", min=0.01, help="How far back.")] = 24.0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write down what ran here, for a simulation: when, whose (a number), which model, how long. No prompt, no name."""
    from tessera.config import Settings
    from tessera.errors import Unavailable
    from tessera.simulator.history import HistoryJob, dump
    from tessera.store import history as store

    screen = Screen(json=json, quiet=quiet)
    settings = Settings.from_environment()
    try:
        rows = asyncio.run(store.history(settings.database_url, hours * 3600))
    except Unavailable as error:
        raise CliError(
            "The database does not answer: 'tessera status' shows what is not running, 'tessera up' starts it.",
            code="unavailable",
            exit_code=ExitCode.UNREACHABLE,
        ) from error
    served = {model for worker in settings.cluster.enabled_workers() for model in worker.models}
    kept = [row for row in rows if row["model"] in served]
    if not kept:
        raise CliError(f"No job of the last {hours:g} hours ran here: there is nothing to write.", code="no_jobs")
    began = kept[0]["at"]
    jobs = [
        HistoryJob(
            at_s=row["at"] - began,
            user=str(row["user_number"]),
            tier=row["tier"],
            model=row["model"],
            cost_mt=row["cost_mt"],
            seconds=row["seconds"],
            fails=row["fails"],
            max_running=row["max_running"],
        )
        for row in kept
    ]
    header = machines(settings.cluster, kept, duration_s=jobs[-1].at_s + _after_the_last(kept))
    try:
        with file.open("wb") as out:
            out.writelines(dump(header, jobs))
    except OSError as error:
        raise CliError(f"{clean(file)} cannot be written: {clean(error.strerror)}.") from error
    if screen.json:
        document = {"file": str(file), "jobs": len(jobs), "left_out": len(rows) - len(kept)}
        screen.print_json({**document, "duration_s": header.duration_s})
        return
    screen.say(Text(f"Written: {file}, {len(jobs):,} jobs of {header.duration_s / 3600:.1f} hours."))
    if len(rows) > len(kept):
        screen.say(f"{len(rows) - len(kept):,} jobs were left out: no worker of the cluster file has their models.")


def machines(cluster: ClusterConfig, rows: Sequence[Mapping[str, Any]], *, duration_s: float) -> Header:
    """The cluster as the simulator describes machines; how long a model runs is what it was seen to take."""
    from tessera.catalog import catalog_of
    from tessera.simulator.history import FORMAT, Header

    seen: dict[str, list[float]] = {}
    for row in rows:
        if row["seconds"] is not None:
            seen.setdefault(row["model"], []).append(row["seconds"] / row["cost_mt"] * 1000)
    workers = cluster.enabled_workers()
    catalog = catalog_of(model for worker in workers for model in worker.models)
    used = {f"{worker.node}-{cluster.device_of(worker).name}" for worker in workers}
    return Header.model_validate(
        {
            "format": FORMAT,
            "duration_s": duration_s,
            "devices": [
                {"name": name, "vram_mib": device.vram_mib}
                for node in cluster.nodes
                for device in node.devices
                if (name := f"{node.name}-{device.name}") in used
            ],
            "workers": [
                {
                    "name": worker.name,
                    "device": f"{worker.node}-{cluster.device_of(worker).name}",
                    "models": worker.models,
                    "slots": worker.slots,
                }
                for worker in workers
            ],
            "models": {
                model.id: {
                    "kind": model.kind.value,
                    "vram_mib": model.vram_mib,
                    "load_s": model.load_s,
                    "seconds_per_unit": max(1e-3, _mean(seen.get(model.id, [DEFAULT_S_PER_TOKEN]))),
                    "spread": 0,
                }
                for model in catalog.models
            },
        }
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _after_the_last(rows: Sequence[Mapping[str, Any]]) -> float:
    """Time for the last job to run: the longest run of all, and a second for those that take none."""
    return max((row["seconds"] or 0.0 for row in rows), default=0.0) + 1.0
