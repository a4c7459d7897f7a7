"""What is simulated: machines, models, users and what goes wrong, as a TOML file says it. Values only, all checked.

``read`` turns a text into a ``Scenario`` or says in one line per fault where it is and what it should be. The file's
keys are the fields below; docs/simulator.md has an example.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tessera.jobs import Kind, Tier

_SHIPPED = resources.files("tessera.simulator") / "scenarios"

# What AI-Horde would know of a user of each tier; our choice, large enough that +50 in 10 s matters after minutes.
KUDOS = {Tier.PRO: 10_000.0, Tier.STARTER: 2_000.0, Tier.FREE: 0.0, Tier.BATCH: 0.0}


class ScenarioError(ValueError):
    """The scenario cannot be used; the message says where and why."""


class Part(BaseModel):
    """A described thing: frozen, and a key that nobody reads is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class DeviceGroup(Part):
    """``count`` equal devices; ``speed`` 2 runs everything in half the time."""

    name: str = Field(min_length=1)
    count: int = Field(default=1, ge=1)
    vram_mib: int = Field(ge=0)
    speed: float = Field(default=1.0, gt=0)


class WorkerGroup(Part):
    """One worker of this description on each device of the group ``device``."""

    name: str = Field(min_length=1)
    device: str
    models: tuple[str, ...] = Field(min_length=1)
    slots: int = Field(default=1, ge=1)


class Model(Part):
    """``vram_mib`` 0: light, never loaded. A run takes units × ``seconds_per_unit``, spread log-normally."""

    kind: Kind
    vram_mib: int = Field(default=0, ge=0)
    load_s: float = Field(default=0.0, ge=0)
    seconds_per_unit: float = Field(gt=0)
    tokens_per_unit: float = Field(default=1.0, gt=0)
    spread: float = Field(default=0.1, ge=0, le=2)


class Arrivals(Part):
    """How the jobs of each user of a group arrive, from ``at_s`` on and for ``for_s`` (to the end without it).

    ``poisson``: ``per_hour``. ``pareto``: the same, but the users' rates are Pareto-distributed around it (``alpha``).
    ``burst``: ``jobs`` at once, every ``every_s`` on the mean. ``flood``: ``jobs`` spread over ``for_s``. ``batch``:
    ``jobs`` at once, one time. Users appear spread over ``join_over_s``.
    """

    process: Literal["poisson", "pareto", "burst", "flood", "batch"]
    per_hour: float | None = Field(default=None, gt=0)
    alpha: float = Field(default=1.5, gt=1)
    jobs: int | None = Field(default=None, ge=1)
    every_s: float | None = Field(default=None, gt=0)
    at_s: float = Field(default=0.0, ge=0)
    for_s: float | None = Field(default=None, gt=0)
    join_over_s: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {
            "poisson": ("per_hour",),
            "pareto": ("per_hour",),
            "burst": ("jobs", "every_s"),
            "flood": ("jobs", "for_s"),
            "batch": ("jobs",),
        }
        for name in needed[self.process]:
            if getattr(self, name) is None:
                raise ValueError(f"process '{self.process}' needs '{name}'")
        return self


class UserGroup(Part):
    """``count`` users. ``mix``: models and how much of each; a job has between ``units[0]`` and ``units[1]`` units.

    ``max_running`` is the plan's cap, which Tessera alone knows; without it nobody is capped. ``kudos`` is AI-Horde's.
    """

    name: str = Field(min_length=1)
    tier: Tier
    count: int = Field(default=1, ge=1)
    arrivals: Arrivals
    mix: dict[str, float] = Field(min_length=1)
    units: tuple[float, float] = (1.0, 1.0)
    max_running: int | None = Field(default=None, ge=1)
    kudos: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if not 0 < self.units[0] <= self.units[1]:
            raise ValueError("'units' are [least, most], both above 0")
        if min(self.mix.values()) < 0 or sum(self.mix.values()) <= 0:
            raise ValueError("the parts of 'mix' are not negative and not all 0")
        return self


class Away(Part):
    """The workers of ``worker`` on ``device`` (one device: its group, or ``group-3``) go at ``at_s`` for ``for_s``."""

    device: str
    worker: str | None = None
    at_s: float = Field(ge=0)
    for_s: float = Field(gt=0)


class Failing(Part):
    """A run of ``model`` fails after half its time with this chance."""

    model: str
    chance: float = Field(gt=0, le=1)


class Scenario(Part):
    """A whole scenario. Jobs arrive, and time passes, for ``duration_s``; what waits then still waits.

    Without ``users`` it describes machines, for a history to be replayed on.
    """

    name: str = ""
    title: str = Field(min_length=1)
    about: str = ""
    duration_s: float = Field(gt=0)
    seed: int = Field(default=1, ge=0)
    devices: tuple[DeviceGroup, ...] = Field(min_length=1)
    workers: tuple[WorkerGroup, ...] = Field(min_length=1)
    models: dict[str, Model] = Field(min_length=1)
    users: tuple[UserGroup, ...] = ()
    away: tuple[Away, ...] = ()
    failing: tuple[Failing, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        faults = list(self._faults())
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _faults(self) -> Iterator[str]:
        vram = {group.name: group.vram_mib for group in self.devices}
        devices = {name for group in self.devices for name in (group.name, *device_names(group))}
        for worker in self.workers:
            if worker.device not in vram:
                yield f"worker '{worker.name}' is on device '{worker.device}', which is not described"
            for model in worker.models:
                if model not in self.models:
                    yield f"worker '{worker.name}' has model '{model}', which is not described"
                elif self.models[model].vram_mib > vram.get(worker.device, 2**62):
                    yield f"model '{model}' does not fit device '{worker.device}'"
        served = {model for worker in self.workers for model in worker.models}
        for users in self.users:
            for model in users.mix:
                if model not in served:
                    yield f"users '{users.name}' want model '{model}', which no worker has"
        for away in self.away:
            if away.device not in devices:
                yield f"device '{away.device}' goes away, but is not described"
            elif away.worker is not None and away.worker not in {worker.name for worker in self.workers}:
                yield f"worker '{away.worker}' goes away, but is not described"
        for failing in self.failing:
            if failing.model not in self.models:
                yield f"model '{failing.model}' fails, but is not described"
        for what, names in (
            ("devices", [group.name for group in self.devices]),
            ("users", [group.name for group in self.users]),
            ("workers", [f"{group.device}/{group.name}" for group in self.workers]),
        ):
            if len(set(names)) < len(names):
                yield f"two {what} have the same name"


def device_names(group: DeviceGroup) -> list[str]:
    """The names of a group's devices: the group's own when it is one, else numbered from 0."""
    return [group.name] if group.count == 1 else [f"{group.name}-{number}" for number in range(group.count)]


def read(text: str, name: str) -> Scenario:
    """A scenario from the text of its file; ``ScenarioError`` says what is wrong with it."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{name}: this is no TOML: {error}") from error
    try:
        return Scenario.model_validate({**values, "name": name})
    except ValidationError as error:
        raise ScenarioError(f"{name}: " + "\n".join(faults_of(error))) from error


def faults_of(error: ValidationError) -> list[str]:
    """One line for each fault: where it is, and what it should be."""
    return [
        (".".join(str(part) for part in fault["loc"]) or "scenario") + ": " + fault["msg"].removeprefix("Value error, ")
        for fault in error.errors()
    ]


def shipped() -> list[str]:
    """The names of the scenarios that come with Tessera."""
    return sorted(each.name.removesuffix(".toml") for each in _SHIPPED.iterdir() if each.name.endswith(".toml"))


def load(name: str) -> Scenario:
    """A shipped scenario by its name, or one from a file by its path."""
    if name in shipped():
        return read((_SHIPPED / f"{name}.toml").read_text(encoding="utf-8"), name)
    path = Path(name)
    if path.suffix != ".toml" and not path.is_file():
        raise ScenarioError(
            f"There is no scenario '{name}'. Shipped are: {', '.join(shipped())}. Or name a .toml file."
        )
    try:
        return read(path.read_text(encoding="utf-8"), path.stem)
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{name} cannot be read: {error}") from error
