"""Runs schemathesis against a target, once for each kind of caller, and the raw requests beside it."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.fuzz.requests import Findings, Maker, fuzz, routes_of
from tests.fuzz.server import ON_BEHALF, PERSON, Target

CONFIG = Path(__file__).parent / "schemathesis.toml"


@dataclass(kw_only=True)
class Result:
    """One caller's run: its requests by status, the failures by title, and what schemathesis printed."""

    caller: str
    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    output: str = ""
    exit_code: int = 0


async def by_schema(target: Target, caller: str, *, max_examples: int, seed: int, phases: str) -> Result:
    """What the description allows and forbids, for one caller."""
    with tempfile.TemporaryDirectory(prefix="tessera-st-") as folder:
        report, described = Path(folder) / "report.ndjson", Path(folder) / "openapi.json"
        described.write_text(json.dumps(_hurried(_without_persons(await _description(target)))))
        headers = {"Authorization": f"Bearer {target.keys[caller]}"}
        if caller == "service":
            headers[ON_BEHALF] = PERSON
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "schemathesis.cli", f"--config-file={CONFIG}", "run", str(described), "--url", target.api.url),
            *(part for name, value in headers.items() for part in ("--header", f"{name}: {value}")),
            *("--max-examples", str(max_examples), "--seed", str(seed), "--phases", phases),
            *("--report", "ndjson", "--report-ndjson-path", str(report), "--output-truncate", "true"),
            *(("--exclude-path-regex", "^/v1/(admin|internal)/") if caller == "user" else ()),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=folder,
        )
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        result = Result(caller=caller, output=output.decode(errors="replace"), exit_code=process.returncode or 0)
        if report.exists():
            _read(report, result)
    return result


async def _description(target: Target) -> dict[str, Any]:
    async with aiohttp.ClientSession() as http, http.get(f"{target.api.url}/openapi.json") as answer:
        return dict(await answer.json())


def _without_persons(description: dict[str, Any]) -> dict[str, Any]:
    """The description without the header that only service keys may send: at random, it would get everybody refused."""
    for methods in description["paths"].values():
        for operation in methods.values():
            if "parameters" in operation:
                operation["parameters"] = [
                    parameter for parameter in operation["parameters"] if parameter.get("name") != ON_BEHALF
                ]
    return description


def _hurried(described: Any) -> Any:
    """The same without the wish to wait for news, up to half a minute a call."""
    if isinstance(described, dict):
        return {name: _hurried(value) for name, value in described.items() if name != "wait_s"}
    return [_hurried(each) for each in described] if isinstance(described, list) else described


def _read(report: Path, result: Result) -> None:
    """Count the interactions of a report."""
    for line in report.read_text(encoding="utf-8", errors="replace").splitlines():
        event = json.loads(line)
        scenario = event.get("ScenarioFinished")
        if scenario is None:
            continue
        for interaction in scenario.get("recorder", {}).get("interactions", {}).values():
            result.requests += 1
            answer = interaction.get("response")
            result.statuses[answer["status_code"] if answer else 0] += 1
        for checks in scenario.get("recorder", {}).get("checks", {}).values():
            for check in checks:
                if check.get("status") == "failure":
                    result.failures[f"{check['name']}: {check['failure_info']['failure']['title']}"] += 1


async def raw(target: Target, *, count: int, seed: int) -> Findings:
    """What no schema would make."""
    description = await _description(target)
    maker = Maker(
        seed,
        routes_of(description),
        list(target.keys.values()),
        {"job_id": [target.job_id], "artifact_id": [target.artifact_id]},
    )
    return await fuzz(target.api.url, maker, {error["code"] for error in description["x-errors"]}, count)
