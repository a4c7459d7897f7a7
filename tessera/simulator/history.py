"""A load that really was: an export of jobs, replayed in place of a drawn one. Values only, all checked.

The file is JSON Lines (https://jsonlines.org). Its first line describes the machines as a scenario does; each further
line is a job::

    {"format": "tessera-history/1", "duration_s": 86400, "devices": [...], "workers": [...], "models": {...}}
    {"at_s": 12.5, "user": "1", "tier": "pro", "model": "sdxl", "cost_mt": 1000, "seconds": 4.1}

``seconds``: what the run took on a device of speed 1; without it the job is taken to run as others of its model did.
``fails`` (0): how many of its first attempts failed. ``max_running`` (no cap): of its user, as his plan has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

import numpy as np
import orjson
from pydantic import Field, ValidationError

from tessera.jobs import Tier
from tessera.simulator.arrivals import MAX_ATTEMPTS, LoadOfJobs, SimUser
from tessera.simulator.scenario import KUDOS, DeviceGroup, Model, Part, Scenario, ScenarioError, WorkerGroup, faults_of

T = TypeVar("T", bound=Part)

FORMAT = "tessera-history/1"
MIN_RUN_S = 1e-3


class Header(Part):
    """The first line. What it leaves out comes from the scenario that the history is replayed in."""

    format: Literal["tessera-history/1"]
    duration_s: float = Field(gt=0)
    devices: tuple[DeviceGroup, ...] = ()
    workers: tuple[WorkerGroup, ...] = ()
    models: dict[str, Model] = Field(default_factory=dict)


class HistoryJob(Part):
    """One line, one job."""

    at_s: float = Field(ge=0)
    user: str = Field(min_length=1)
    tier: Tier
    model: str
    cost_mt: Annotated[int, Field(ge=1)]
    seconds: float | None = Field(default=None, ge=0)
    fails: int = Field(default=0, ge=0)
    max_running: int | None = Field(default=None, ge=1)


def dump(header: Header, jobs: Iterable[HistoryJob]) -> Iterator[bytes]:
    """The lines of a file."""
    yield orjson.dumps(header.model_dump(mode="json")) + b"\n"
    for job in jobs:
        yield orjson.dumps(job.model_dump(mode="json", exclude_none=True)) + b"\n"


def load_history(path: str, machines: Scenario | None = None) -> tuple[Scenario, LoadOfJobs]:
    """The scenario and the load of a file; ``machines``: the scenario whose devices run it instead of its own.

    Raises ScenarioError, which says the line.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise ScenarioError(f"{path} cannot be read: {error}") from error
    if not lines:
        raise ScenarioError(f"{path} is empty: 'tessera history' writes such a file.")
    header = _read(Header, lines[0], f"{path}, line 1")
    jobs = [_read(HistoryJob, line, f"{path}, line {n}") for n, line in enumerate(lines[1:], 2) if line.strip()]
    jobs = sorted((job for job in jobs if job.at_s < header.duration_s), key=lambda job: job.at_s)
    if not jobs:
        raise ScenarioError(f"{path} has no job within its {header.duration_s:g} s.")
    scenario = _scenario(Path(path).stem, header, machines)
    served = {model for worker in scenario.workers for model in worker.models}
    missing = sorted({job.model for job in jobs} - served)
    if missing:
        raise ScenarioError(f"{path}: no worker has the model '{missing[0]}', which jobs of this history want.")
    return scenario, _load(scenario, jobs)


def _read(kind: type[T], line: bytes, where: str) -> T:
    try:
        return kind.model_validate(orjson.loads(line))
    except orjson.JSONDecodeError as error:
        raise ScenarioError(f"{where}: this is no JSON: {error}") from error
    except ValidationError as error:
        raise ScenarioError(f"{where}: " + "; ".join(faults_of(error))) from error


def _scenario(name: str, header: Header, machines: Scenario | None) -> Scenario:
    about: dict[str, Any] = {"title": "A replay of real jobs", "about": "Replayed from an export."}
    try:
        if machines is not None:
            values = {**machines.model_dump(), **about, "name": f"{name}-on-{machines.name}", "users": ()}
            return Scenario.model_validate({**values, "duration_s": header.duration_s, "failing": ()})
        values = header.model_dump(exclude={"format"})
        return Scenario.model_validate({**values, **about, "name": name})
    except ValidationError as error:
        raise ScenarioError(f"{name}: " + "; ".join(faults_of(error))) from error


def _load(scenario: Scenario, jobs: list[HistoryJob]) -> LoadOfJobs:
    users: dict[tuple[str, Tier], int] = {}
    caps: dict[tuple[str, Tier], int | None] = {}
    for job in jobs:
        users.setdefault((job.user, job.tier), len(users))
        caps[job.user, job.tier] = job.max_running
    models = {model: place for place, model in enumerate(scenario.models)}
    rates = _rates(scenario, jobs)
    return LoadOfJobs(
        users=tuple(
            SimUser(id=UUID(int=n + 1), group=key[0], tier=key[1], kudos=KUDOS[key[1]], max_running=caps[key])
            for key, n in users.items()
        ),
        models=tuple(models),
        at_s=np.array([job.at_s for job in jobs], dtype=np.float64),
        user=np.array([users[job.user, job.tier] for job in jobs], dtype=np.int64),
        model=np.array([models[job.model] for job in jobs], dtype=np.int64),
        cost_mt=np.array([job.cost_mt for job in jobs], dtype=np.int64),
        seconds=np.array(
            [max(MIN_RUN_S, rates[job.model] * job.cost_mt if job.seconds is None else job.seconds) for job in jobs],
            dtype=np.float64,
        ),
        fails=np.array([min(job.fails, MAX_ATTEMPTS) for job in jobs], dtype=np.int64),
    )


def _rates(scenario: Scenario, jobs: list[HistoryJob]) -> dict[str, float]:
    """Seconds per millitoken of each model: the median of what ran, else what the model is described with."""
    seen: dict[str, list[float]] = {}
    for job in jobs:
        if job.seconds is not None:
            seen.setdefault(job.model, []).append(job.seconds / job.cost_mt)
    return {
        name: float(np.median(seen[name])) if name in seen else model.seconds_per_unit / model.tokens_per_unit / 1000
        for name, model in scenario.models.items()
    }
