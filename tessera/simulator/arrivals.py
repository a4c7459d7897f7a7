"""The load of a scenario: who sends which job when, and how long it will run. Drawn once, the same for all policies.

All chance is in here. Each group of users has a random stream of its own, so that a change to one leaves the others as
they were.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from tessera.jobs import Tier
from tessera.simulator.scenario import KUDOS, Arrivals, Scenario, ScenarioError, UserGroup

MAX_ATTEMPTS = 3  # a job whose every attempt fails is given up after so many

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimUser:
    """One user of a group."""

    id: UUID
    group: str
    tier: Tier
    kudos: float
    max_running: int | None


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadOfJobs:
    """Jobs in the order of their arrival, in columns. ``fails``: how many of a job's first attempts fail."""

    users: tuple[SimUser, ...]
    models: tuple[str, ...]
    at_s: Floats
    user: Integers
    model: Integers
    cost_mt: Integers
    seconds: Floats
    fails: Integers

    def __len__(self) -> int:
        return len(self.at_s)

    def only(self, chosen: NDArray[np.bool_]) -> LoadOfJobs:
        """These jobs alone; the users stay."""
        columns = ("at_s", "user", "model", "cost_mt", "seconds", "fails")
        return replace(self, **{name: getattr(self, name)[chosen] for name in columns})


def draw(scenario: Scenario, seed: int | None = None) -> LoadOfJobs:
    """All jobs of the scenario; the same seed draws the same jobs. Raises ScenarioError when nobody sends any."""
    if not scenario.users:
        raise ScenarioError(f"{scenario.name}: it has no users; with --from-history it says where the history runs.")
    seed = scenario.seed if seed is None else seed
    models = tuple(scenario.models)
    chance = {each.model: each.chance for each in scenario.failing}
    fail_chance = np.array([chance.get(name, 0.0) for name in models])
    seconds = np.array([model.seconds_per_unit for model in scenario.models.values()])
    tokens = np.array([model.tokens_per_unit for model in scenario.models.values()])
    spread = np.array([model.spread for model in scenario.models.values()])
    users: list[SimUser] = []
    at: list[Floats] = []
    who: list[Integers] = []
    which: list[Integers] = []
    units: list[Floats] = []
    noise: list[Floats] = []
    fails: list[Integers] = []
    for number, group in enumerate(scenario.users):
        random = np.random.default_rng([seed, number])
        times, of_user = _times(group, scenario.duration_s, random)
        kept = times < scenario.duration_s
        times, of_user = times[kept], of_user[kept]
        parts = np.array([group.mix.get(name, 0.0) for name in models])
        chosen = random.choice(len(models), size=len(times), p=parts / parts.sum())
        at.append(times)
        who.append(of_user + len(users))
        which.append(chosen)
        units.append(random.uniform(*group.units, size=len(times)))
        wide = spread[chosen]
        noise.append(np.exp(wide * random.standard_normal(len(times)) - wide**2 / 2))  # its mean is 1
        failed = random.random((len(times), MAX_ATTEMPTS)) < fail_chance[chosen][:, None]
        fails.append(np.cumprod(failed, axis=1).sum(axis=1).astype(np.int64))
        for _ in range(group.count):
            users.append(
                SimUser(
                    id=UUID(int=len(users) + 1),
                    group=group.name,
                    tier=group.tier,
                    kudos=KUDOS[group.tier] if group.kudos is None else group.kudos,
                    max_running=group.max_running,
                )
            )
    at_s = np.concatenate(at)
    order = np.argsort(at_s, kind="stable")
    model, amount = np.concatenate(which)[order], np.concatenate(units)[order]
    return LoadOfJobs(
        users=tuple(users),
        models=models,
        at_s=at_s[order],
        user=np.concatenate(who)[order],
        model=model,
        cost_mt=np.maximum(1, np.rint(amount * tokens[model] * 1000)).astype(np.int64),
        seconds=np.maximum(1e-3, amount * seconds[model] * np.concatenate(noise)[order]),
        fails=np.concatenate(fails)[order],
    )


def _times(group: UserGroup, duration_s: float, random: np.random.Generator) -> tuple[Floats, Integers]:
    """When each job of a group arrives, and the number of its user in the group."""
    how = group.arrivals
    begins = how.at_s + random.uniform(0.0, how.join_over_s, size=group.count)
    ends = np.full(group.count, duration_s) if how.for_s is None else begins + how.for_s
    spans = np.maximum(0.0, np.minimum(ends, duration_s) - begins)
    counts = _counts(how, group.count, spans, random)
    of_user = np.repeat(np.arange(group.count), counts)
    match how.process:
        case "batch":
            return begins[of_user], of_user
        case "flood":
            return begins[of_user] + random.uniform(0.0, how.for_s or 0.0, size=len(of_user)), of_user
        case "burst":
            times = begins[of_user] + random.uniform(0.0, 1.0, size=len(of_user)) * spans[of_user]
            return np.repeat(times, how.jobs or 1), np.repeat(of_user, how.jobs or 1)
        case _:
            return begins[of_user] + random.uniform(0.0, 1.0, size=len(of_user)) * spans[of_user], of_user


def _counts(how: Arrivals, users: int, spans: Floats, random: np.random.Generator) -> Integers:
    """How many jobs, or bursts, each user sends: given their number, those of a Poisson process lie uniformly."""
    match how.process:
        case "batch" | "flood":
            return np.full(users, how.jobs or 1)
        case "burst":
            return random.poisson(spans / (how.every_s or 1.0))
        case "pareto":
            rates = (random.pareto(how.alpha, size=users) + 1.0) * (how.alpha - 1.0) / how.alpha  # their mean is 1
            return random.poisson(spans * (how.per_hour or 0.0) / 3600.0 * rates)
        case _:
            return random.poisson(spans * (how.per_hour or 0.0) / 3600.0)
