"""``python -m tests.chaos --minutes 15 --seed N``: the chaos suite from the command line (docs/chaos.md)."""

from __future__ import annotations

import argparse
import asyncio
import atexit
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from tests.chaos import faults, nodes
from tests.chaos.load import Load, make_users
from tests.chaos.platform import DidNotStart, Installation, free_port, make
from tests.chaos.report import Report
from tests.chaos.run import Run

CONSOLE = Console(highlight=False, soft_wrap=True)
KEPT = "kept"  # in a folder that a person wants to look at


def main() -> int:
    options = _options()
    wanted = [fault for fault in faults.FAULTS if options.faults is None or fault.name in options.faults]
    for name in [*nodes.remove_leftovers(), *_remove_folders()]:
        CONSOLE.print(f"removed {name}, left by an earlier run")
    isolated = options.nodes == 2 and not options.beside and nodes.isolation_possible()
    folder = Path(tempfile.mkdtemp(prefix=f"{nodes.PREFIX}{os.getpid()}-"))
    node = nodes.SecondNode(folder=folder, isolated=isolated) if options.nodes == 2 else None
    installation = make(folder, node=node, port=free_port())
    mounted = faults.mount_store(installation.home)
    usable = [
        fault
        for fault in wanted
        if (node is not None or not fault.two_nodes) and (isolated or not fault.network) and (mounted or not fault.root)
    ]
    report = Report(
        seed=options.seed,
        nodes=node.title if node is not None else "one node",
        store="a file system of its own under the artifact folder" if mounted else "the artifact folder moved away",
        titles={fault.name: fault.title for fault in usable},
    )
    CONSOLE.print(f"seed {options.seed} · {report.nodes} · full: {report.store}")
    CONSOLE.print(f"faults: {', '.join(fault.name for fault in usable)} · {folder}")
    left_out = [fault.name for fault in wanted if fault not in usable]
    if left_out:
        CONSOLE.print(f"not possible here: {', '.join(left_out)}")

    cleaned = False

    def clean() -> None:
        nonlocal cleaned
        if cleaned:
            return
        cleaned = True
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it behind
        ended = installation.down()
        if node is not None:
            node.remove()
        faults.unmount_store(installation.home)
        if ended and not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            (folder / KEPT).touch()
            CONSOLE.print(f"kept: {folder}")

    atexit.register(clean)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        asyncio.run(_chaos(installation, usable, report, options, mounted))
    except DidNotStart as error:
        CONSOLE.print(f"the platform did not start:\n{error}", markup=False)
        return 2
    except KeyboardInterrupt:
        report.stopped = "interrupted"
    except Exception as error:  # noqa: BLE001 (told with the table; what was seen until then counts)
        CONSOLE.print_exception()
        report.stopped = f"the suite itself failed: {type(error).__name__}: {error}"
    finally:
        _keep_logs(installation, options, report)
        clean()
    _tell(report, options)
    return 0 if report.good else 1


async def _chaos(
    installation: Installation,
    usable: list[faults.Fault],
    report: Report,
    options: argparse.Namespace,
    mounted: bool,
) -> None:
    began = time.monotonic()

    def say(text: str) -> None:
        CONSOLE.print(f"{time.monotonic() - began:7.1f} s  {text}", markup=False)

    node = installation.node
    try:
        if node is not None:
            node.wire()
        say("starting the platform")
        await installation.up()
        say(f"up at {installation.url}")
        users, prober = await make_users(installation.url, installation.key)
        load = Load(url=installation.url, users=users, seed=options.seed)
        run = Run(
            installation=installation,
            load=load,
            prober=prober,
            faults=usable,
            scene=faults.Scene(installation=installation, choose=random.Random(options.seed), store_is_a_mount=mounted),
            report=report,
            say=say,
        )
        await run.go(seconds=options.minutes * 60, once=options.short)
    finally:
        if node is not None:
            await node.close()


def _remove_folders() -> list[str]:
    """End and remove the homes of runs that were killed: their pid is in the name."""
    removed = []
    for folder in Path(tempfile.gettempdir()).glob(f"{nodes.PREFIX}*-*"):
        pid = folder.name.removeprefix(nodes.PREFIX).split("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists() and not (folder / KEPT).exists():
            left = make(folder, node=None, port=free_port())
            ended = left.down()
            faults.unmount_store(left.home)
            if ended:
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(str(folder))
    return removed


def _keep_logs(installation: Installation, options: argparse.Namespace, report: Report) -> None:
    """A run that found something leaves its logs beside it."""
    if report.good or options.logs is None:
        return
    options.logs.mkdir(parents=True, exist_ok=True)
    for source in (installation.home / "logs", installation.session_logs(), installation.home.parent / "pc1"):
        target = options.logs / (source.name if source.name != "logs" else source.parent.name)
        if source.exists():
            shutil.copytree(source, target, dirs_exist_ok=True, ignore_dangling_symlinks=True, ignore=_no_sockets)


def _no_sockets(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if not (Path(folder) / name).is_file() and not (Path(folder) / name).is_dir()}


def _tell(report: Report, options: argparse.Namespace) -> None:
    wide = Console(highlight=False, width=max(CONSOLE.width, 130))
    wide.print(report.table())
    wide.print(f"{report.nodes}; full: {report.store}")
    wide.print(" · ".join(f"{name} {value}" for name, value in sorted(report.counts.items())))
    wide.print(f"tessera audit: {report.audit or 'not run'}", markup=False)
    if report.stopped:
        wide.print(f"stopped: {report.stopped}", markup=False)
    for breach in report.breaches():
        wide.print(f"BREACH {breach}", markup=False)
    again = f"make chaos CHAOS='--seed {report.seed} --minutes {options.minutes:g}'"
    wide.print("zeros where they belong" if report.good else f"NOT good; the same faults again: {again}")
    if options.json is not None:
        options.json.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    names = [fault.name for fault in faults.FAULTS]
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="faults are injected for so long (15)")
    parser.add_argument("--seed", type=int, default=None, help="of all choices; printed, so that a run can be repeated")
    parser.add_argument("--faults", type=_names(names), default=None, help=f"some of {','.join(names)}")
    parser.add_argument("--short", action="store_true", help="each fault once, whatever the minutes")
    parser.add_argument("--nodes", type=int, choices=(1, 2), default=2, help="nodes of the cluster (2)")
    parser.add_argument("--beside", action="store_true", help="the second node without namespaces, as where not root")
    parser.add_argument("--json", type=Path, default=None, help="write the result there")
    parser.add_argument("--logs", type=Path, default=None, help="copy all logs there when something was found")
    parser.add_argument("--keep", action="store_true", help="leave the home in place at the end")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**6)
    return options


def _names(known: list[str]):  # type: ignore[no-untyped-def]
    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known are {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main())
