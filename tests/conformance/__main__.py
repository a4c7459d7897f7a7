"""``make conformance``: every engine against every case, as a table. ``COMFYUI_URL=… KOBOLDCPP_URL=…`` add servers.

The last line is ``passed N, not run M, failed K``. The exit code is 1 unless K is 0 and every case on a fake was run.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time
import traceback
from dataclasses import dataclass

import structlog

from tests.conformance.cases import Case, execute
from tests.conformance.harness import HarnessKind, HarnessMaker, NotRun
from tests.conformance.registry import cases as all_cases
from tests.conformance.registry import harness_makers

PASSED, FAILED, NOT_RUN, MEANINGLESS = "pass", "FAIL", "not run", "–"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One cell of the table."""

    verdict: str
    why: str = ""
    seconds: float = 0.0


def tell(text: str) -> None:
    """Write at once: a case may take long."""
    sys.stdout.write(text)
    sys.stdout.flush()


async def check(maker: HarnessMaker, row: Case) -> Result:
    """One case on a fresh harness. Never raises."""
    began = time.monotonic()
    harness = maker()
    try:
        await execute(harness, row)
    except NotRun as reason:
        if row.name in harness.without and harness.kind is HarnessKind.LIBRARY:
            return Result(verdict=MEANINGLESS, why=str(reason))
        verdict = NOT_RUN if harness.kind is HarnessKind.REAL else FAILED
        return Result(verdict=verdict, why=str(reason) if verdict == NOT_RUN else f"was not run: {reason}")
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 (whatever it is, it is a cell of the table)
        last = traceback.extract_tb(error.__traceback__)[-1]
        line = f" ({last.filename.rpartition('/')[2]}:{last.lineno}: {last.line})"
        if "--verbose" in sys.argv or "-v" in sys.argv:
            traceback.print_exc()
        return Result(verdict=FAILED, why=f"{type(error).__name__}: {error}{line}")
    return Result(verdict=PASSED, seconds=time.monotonic() - began)


async def run(only: list[str], cases: list[str]) -> int:
    """Check all, print the table, return the exit code."""
    makers = [maker for maker in harness_makers(os.environ) if not only or any(o in maker().name for o in only)]
    rows = [row for row in all_cases() if not cases or any(c in row.name for c in cases)]
    columns = [maker().name for maker in makers]
    if not makers or not rows:
        sys.stderr.write("there is nothing of that name to check\n")
        return 1
    width = max(len(row.name) for row in rows)
    tell(" ".join([" " * width, *(f"{name:>18}" for name in columns)]) + "\n")
    results: dict[tuple[str, str], Result] = {}
    for row in rows:
        tell(f"{row.name:<{width}} ")
        for maker, name in zip(makers, columns, strict=True):
            result = results[(row.name, name)] = await check(maker, row)
            shown = f"{result.verdict} {result.seconds:.1f} s" if result.verdict == PASSED else result.verdict
            tell(f"{shown:>18} ")
        tell("\n")
    _explain(results, columns)
    counts = {verdict: sum(r.verdict == verdict for r in results.values()) for verdict in (PASSED, NOT_RUN, FAILED)}
    tell(f"passed {counts[PASSED]}, not run {counts[NOT_RUN]}, failed {counts[FAILED]}\n")
    return 0 if counts[FAILED] == 0 else 1


def _explain(results: dict[tuple[str, str], Result], columns: list[str]) -> None:
    for verdict in (MEANINGLESS, NOT_RUN, FAILED):
        found = [(key, result) for key, result in results.items() if result.verdict == verdict]
        if found:
            tell(f"\n{verdict}:\n")
        for name in columns:
            reasons: dict[str, list[str]] = {}
            for (row, column), result in found:
                if column == name:
                    reasons.setdefault(result.why, []).append(row)
            for why, names in reasons.items():
                tell(f"  {name}: {'; '.join(names)}\n      {why}\n")
    tell("\n")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--engine", action="append", default=[], help="only harnesses with this in their name")
    parser.add_argument("--case", action="append", default=[], help="only cases with this in their name")
    parser.add_argument("--verbose", "-v", action="store_true", help="show the tracebacks of failures")
    arguments = parser.parse_args()
    if not arguments.verbose:  # what engines log of the faults that they are put through is no part of the table
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return asyncio.run(run(arguments.engine, arguments.case))


if __name__ == "__main__":
    sys.exit(main())
