"""``tessera simulate``: the scheduling policy beside its peers' on a virtual clock. It needs no platform."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.status import Status
from rich.text import Text

from tessera.cli.exits import CliError
from tessera.cli.options import JsonOption, QuietOption
from tessera.cli.screen import Screen, clean, span, stderr_is_terminal, table

if TYPE_CHECKING:
    from tessera.simulator import LoadOfJobs, Scenario

T = TypeVar("T")
SHOWN_AFTER_S = 1.0  # what is done sooner needs no progress


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands of this module."""
    app.command(
        "simulate",
        rich_help_panel=panel,
        epilog="[cyan]tessera simulate --list[/cyan]\n\n[cyan]tessera simulate video-day --policy tessera --policy fifo"
        "[/cyan]\n\n[cyan]tessera simulate --out results[/cyan]   all of them, with tables and a page of plots"
        "\n\n[cyan]tessera simulate --from-history jobs.jsonl[/cyan]   what really ran, under each policy",
    )(simulate)


def simulate(
    scenarios: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SCENARIO]…", help="A shipped one by name, or a .toml file; all shipped without it."),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", metavar="NAME", help="Only this: tessera, fifo, strict, horde, invoke. Repeat it."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", min=0, help="Draw other jobs than the scenario's own.")
    ] = None,
    from_history: Annotated[
        Path | None,
        typer.Option(
            "--from-history",
            metavar="FILE",
            help="Replay the jobs that 'tessera history' has written, on their own machines or on those of a scenario.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write tables, numbers and plots into this folder."),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", metavar="", help="Name the shipped scenarios.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run the scheduling policy and those of its peers on the same simulated load, and compare them."""
    from tessera import simulator

    screen = Screen(json=json, quiet=quiet)
    if listed:
        _list([_scenario(name) for name in simulator.shipped()], screen)
        return
    policies = list(dict.fromkeys(policy or simulator.POLICIES))
    for name in policies:
        if name not in simulator.POLICIES:
            known = list(simulator.POLICIES)
            raise CliError(f"There is no policy '{clean(name)}'. Known are: {', '.join(known)}.", known=known)
    chosen = _loads(scenarios or [], from_history, seed)
    if out is not None:
        _folder(out)
    _run(chosen, policies, out, screen)


@dataclass(frozen=True)
class _Chosen:
    """A scenario to run, and where its jobs come from: they are drawn, or read, when its turn comes."""

    scenario: Scenario
    seed: int | None
    load: Callable[[], LoadOfJobs]


def _loads(names: list[str], from_history: Path | None, seed: int | None) -> list[_Chosen]:
    from tessera import simulator

    if from_history is None:
        return [_drawn(_scenario(name), seed) for name in names or simulator.shipped()]
    if seed is not None:
        raise CliError("--seed draws jobs; with --from-history there is nothing to draw.")
    if not names:
        return [_replayed(from_history, None)]
    return [_replayed(from_history, _scenario(name)) for name in names]


def _drawn(scenario: Scenario, seed: int | None) -> _Chosen:
    from tessera import simulator

    used = scenario.seed if seed is None else seed
    return _Chosen(scenario, used, lambda: _told(lambda: simulator.draw(scenario, used)))


def _replayed(file: Path, machines: Scenario | None) -> _Chosen:
    from tessera import simulator

    scenario, load = _told(lambda: simulator.load_history(str(file), machines))
    return _Chosen(scenario, None, lambda: load)


def _told(work: Callable[[], T]) -> T:
    """The work, with its fault in one line."""
    from tessera import simulator

    try:
        return work()
    except simulator.ScenarioError as error:
        raise CliError(clean(error), code="scenario") from error


def _run(chosen: list[_Chosen], policies: list[str], out: Path | None, screen: Screen) -> None:
    from tessera import simulator
    from tessera.simulator import metrics, plot, report

    documents: list[dict[str, Any]] = []
    texts, runs = [], []
    silent = screen.json or screen.quiet or not stderr_is_terminal()
    with nullcontext() if silent else Status("", console=screen.err) as status:
        for each in chosen:
            began, scenario = time.monotonic(), each.scenario
            load = each.load()

            def told(name: str, done: float, began: float = began, scenario: Scenario = scenario) -> None:
                if status is not None and time.monotonic() - began > SHOWN_AFTER_S:
                    status.update(Text(f"{scenario.name}: {name} {done:.0%}"))

            alone = simulator.own_shares(scenario, load, progress=told) if len(policies) > 1 else None
            records, results = [], []
            for name in policies:
                [record] = simulator.run(scenario, load, [name], progress=told)
                results.append(metrics.measure(record, alone))
                records.append(plot.drawn(record))
            runs.append(records)
            texts.append(report.markdown(scenario, results))
            documents.append(
                {"scenario": scenario.name, "seed": each.seed, "results": [result.dump() for result in results]}
            )
            if not screen.json:
                screen.out.print(texts[-1], markup=False)
                screen.say(f"{clean(scenario.name)} took {span(time.monotonic() - began)}.")
    if out is not None:
        import json

        (out / "report.md").write_text("\n".join(texts), encoding="utf-8")
        (out / "results.json").write_text(json.dumps(documents, indent=1) + "\n", encoding="utf-8")
        (out / "plot.html").write_text(plot.page(runs), encoding="utf-8")
        for records in runs:
            (out / f"{records[0].scenario.name}.svg").write_text(plot.picture(records), encoding="utf-8")
        screen.say(Text(f"Written to {out}: report.md, results.json, plot.html, and an .svg for each scenario."))
    if screen.json:
        screen.print_json({"scenarios": documents})


def _scenario(name: str) -> Scenario:
    from tessera import simulator

    return _told(lambda: simulator.load(name))


def _folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CliError(f"The folder {clean(out)} cannot be made: {clean(error.strerror)}.") from error


def _list(found: list[Scenario], screen: Screen) -> None:
    if screen.json:
        screen.print_json({"scenarios": [{"name": s.name, "title": s.title, "about": s.about} for s in found]})
        return
    rows = table("NAME", "WHAT")
    for scenario in found:
        rows.add_row(Text(scenario.name), Text(f"{scenario.title}. {scenario.about}"))
    screen.print_table(rows)
