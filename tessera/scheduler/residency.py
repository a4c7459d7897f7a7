"""Carrying out the policy's swaps: unload what leaves, load what comes, and tell the policy what is really there.

A load takes as long as it takes, beside the dispatch loop; its failure leaves the (worker, model) out for a while, and
the jobs keep their places. What a worker says of its resident models is the truth: it is taken over when it changes.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from tessera.errors import Busy, EngineError
from tessera.policy import Load
from tessera.runs import WorkerAway
from tessera.scheduler.board import Board

log = structlog.get_logger(__name__)

BUSY_S = 0.5


class Residency:
    """What is loaded where. One per term."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._told: dict[str, tuple[str, ...]] = {}  # worker → what it last said of its resident models

    def sync(self, now: float) -> None:
        """Take over what the workers say of their resident models, where it has changed."""
        for link in self._board.links.values():
            if link.device not in self._board.policy.devices:
                continue
            if not link.online:
                # Whatever it was loading, too: a call over a line that was cut may hang for as long as a load may take.
                self._board.policy.forget_worker(link.device, link.name)
                self._told.pop(link.name, None)
                continue
            said = tuple(sorted(link.resident))
            if self._told.get(link.name) == said:
                continue
            self._told[link.name] = said
            device = self._board.policy.devices[link.device]
            for model in [m for m, each in device.resident.items() if each.worker == link.name and m not in said]:
                self._board.policy.found_gone(link.device, model)
            leaving = (device.loading.model, *device.loading.evict) if device.loading is not None else ()
            for model in said:
                if model not in leaving:
                    self._board.policy.found_resident(link.device, link.name, model, now)

    def start(self, load: Load) -> None:
        """Carry out a load that the policy has decided on."""
        self._board.spawn(self._load(load))

    async def _load(self, load: Load) -> None:
        board, swap, policy = self._board, load.swap, self._board.policy
        link = board.links[swap.worker]
        began = time.monotonic()
        log.info("model_loading", model=swap.model, worker=swap.worker, evict=list(swap.evict))
        try:
            for other in board.links.values():
                leaving = [model for model in swap.evict if model in other.models]
                if other.device == link.device and leaving:
                    await other.release(leaving)
            await link.ensure(swap.model)
        except (WorkerAway, EngineError) as error:
            why = error.code if isinstance(error, EngineError) else "worker_lost"
            log.warning("model_not_loaded", model=swap.model, worker=swap.worker, why=why, error=str(error))
            if isinstance(error, Busy):
                await asyncio.sleep(BUSY_S)  # a run that was about to end still uses what is to leave
            if policy.devices[load.device].loading is not swap:
                return  # given up meanwhile: its worker went away
            if not isinstance(error, Busy):
                board.failures.load_failed(swap.worker, swap.model, time.time())
            policy.load_failed(load.device)
            for other in board.links.values():
                if other.device == link.device:
                    self._told.pop(other.name, None)  # what is really there now is asked anew
        else:
            if policy.devices[load.device].loading is not swap:
                return  # the worker was away meanwhile; what it says of its resident models counts
            policy.loaded(load.device, time.time(), time.monotonic() - began)
            log.info("model_loaded", model=swap.model, worker=swap.worker, seconds=round(time.monotonic() - began, 2))
        board.changed.set()
