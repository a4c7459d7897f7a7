# ruff: noqa: T201 (it prints a report)
"""``python -m tests.fuzz``: at least 10,000 requests, most of them by the description, the rest such as none allows."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import sys
import time
from collections import Counter

import structlog

from tests.fuzz.run import Result, by_schema, raw
from tests.fuzz.server import own_target

PHASES = "examples,coverage,fuzzing,stateful"
CALLERS = ("user", "operator", "service", "unknown")
RAW_SHARE = 0.4


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description="Fuzz the whole API on a server and a Postgres of its own. Exit 1 when a 5xx, a refusal that is no"
        " documented problem, or an answer that does not fit the description was seen.",
    )
    parser.add_argument("--requests", type=int, default=10_000, help="at least so many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="repeat a run (default: a new one)")
    return parser.parse_args()


async def main(wanted: int, seed: int) -> int:
    print(f"fuzz: seed {seed}, at least {wanted:,} requests", flush=True)
    began = time.monotonic()
    results: list[Result] = []
    statuses: Counter[int] = Counter()
    async with own_target() as target:
        findings = await raw(target, count=int(wanted * RAW_SHARE), seed=seed)
        print(f"  odd requests       {findings.requests:6,} requests, {len(findings.wrong)} wrong answers", flush=True)
        statuses += findings.statuses
        examples = 20
        while sum(statuses.values()) < wanted or len(results) < len(CALLERS):
            for caller in CALLERS:
                result = await by_schema(target, caller, max_examples=examples, seed=seed + len(results), phases=PHASES)
                results.append(result)
                statuses += result.statuses
                failed = sum(result.failures.values())
                print(f"  {caller:<18} {result.requests:6,} requests, {failed} failures", flush=True)
                if sum(statuses.values()) >= wanted and len(results) >= len(CALLERS):
                    break
            examples *= 2
    for wrong in findings.wrong[:20]:
        print(f"\nWRONG {wrong}")
    for result in results:
        if result.exit_code:
            print(f"\n=== as {result.caller} ===\n{result.output}")
    print("\n| status | answers |\n|---|---|")
    for status, count in sorted(statuses.items()):
        print(f"| {status or 'none'} | {count:,} |")
    errors = sum(count for status, count in statuses.items() if status >= 500 and status != 503)
    failures = len(findings.wrong) + sum(sum(result.failures.values()) for result in results)
    broken = [result for result in results if result.exit_code and not result.failures]
    total, seconds = sum(statuses.values()), time.monotonic() - began
    print(f"\nfuzz: {total:,} requests in {seconds:.0f} s, {errors} server errors, {failures} failures")
    return 1 if errors or failures or broken or total < wanted else 0


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # a client that leaves amid a stream is nothing to tell
    options = arguments()
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(asyncio.run(main(options.requests, options.seed or random.SystemRandom().randrange(10**6))))
