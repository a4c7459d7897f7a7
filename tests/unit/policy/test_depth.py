"""What a decision looks at does not grow with the queue: entries are counted, not seconds."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import pytest

from tessera.jobs import Tier
from tessera.policy import queue as queue_module
from tests.unit.policy.world import Worker, World, heavy, user


class CountingHeap:
    """heapq, with its calls counted."""

    def __init__(self) -> None:
        self.calls = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        self.calls += 1
        return getattr(heapq, name)  # type: ignore[no-any-return]


def busy(depth: int, users: int) -> World:
    models = {name: heavy(5, 5.0) for name in "abcd"}
    world = World(models, [Worker("w", frozenset("ab"), 2), Worker("v", frozenset("cd"), 1)])
    for model in models:
        world.knows(model)
    for n in range(depth):
        world.submit(user(1 + n % users), "abcd"[n % 4], list(Tier)[n // 4 % 4], cap=3)
    return world


@pytest.mark.parametrize("users", [20, 500])
def test_a_decision_looks_at_as_many_entries_with_100_times_the_jobs(
    users: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    for depth in (1_000, 100_000):
        world = busy(depth, users)
        heap = CountingHeap()
        monkeypatch.setattr(queue_module, "heapq", heap)
        calls: list[int] = []
        plan = world.policy.plan

        def counted(*args: Any, plan: Any = plan, heap: Any = heap, calls: list[int] = calls) -> Any:
            before, made = heap.calls, plan(*args)
            calls.append(heap.calls - before)
            return made

        monkeypatch.setattr(world.policy, "plan", counted)
        world.run(60)
        monkeypatch.undo()
        looked.append(sum(calls) / len(calls))
    assert looked[1] <= 2 * looked[0] + 1


def test_what_a_change_costs_does_not_grow_with_the_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = []
    for depth in (1_000, 100_000):
        world = busy(depth, 20)
        heap = CountingHeap()
        monkeypatch.setattr(queue_module, "heapq", heap)
        job = world.submit(user(1))
        world.cancel(job)
        monkeypatch.undo()
        costs.append(heap.calls)
    assert costs[1] <= costs[0] + 1
