"""The short form of the chaos suite, on the run's one cluster: four faults, once each. `make chaos` is all of it."""

from __future__ import annotations

import random

from tests.acceptance.platform import Platform, wait_ready
from tests.chaos.faults import FAULTS, SHORT, Scene
from tests.chaos.load import Load, make_users
from tests.chaos.platform import Installation
from tests.chaos.report import Report
from tests.chaos.run import Run


async def test_nothing_is_lost_or_charged_twice_whatever_is_killed_under_load(platform: Platform) -> None:
    wait_ready(platform.api)
    seed = random.SystemRandom().randrange(10**6)
    faults = [fault for fault in FAULTS if fault.name in SHORT]
    report = Report(seed=seed, nodes="one node", store="-", titles={fault.name: fault.title for fault in faults})
    installation = Installation(
        home=platform.home, environ=dict(platform.environment), url=platform.url, key=platform.key
    )
    users, prober = await make_users(platform.url, platform.key)
    said: list[str] = []
    run = Run(
        installation=installation,
        load=Load(url=platform.url, users=users, seed=seed),
        prober=prober,
        faults=faults,
        scene=Scene(installation=installation, choose=random.Random(seed), store_is_a_mount=False),
        report=report,
        say=said.append,
        warm_s=(1.5, 4.0),  # the run's time is everybody's
        ask_workers_every=1000,  # once, at the end
    )
    await run.go(seconds=0, once=True)
    assert report.good, f"seed {seed}\n" + "\n".join(said)
    assert len(report.injections) == len(SHORT)
