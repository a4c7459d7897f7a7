"""The scheduler's link to one worker: whether it is online, what it runs, and everything that it tells.

A link outlives a leader's term: it keeps its watch stream open, opens it again when it breaks, and hands outcomes on
until they are acknowledged. Silence is 'offline', never 'failed': what follows the dispatcher decides by leases.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import structlog

from tessera.ports import LiveEvent, WorkerStatus
from tessera.runs import Outcome, RunKey, RunSpec, StartAnswer, WorkerAway, WorkerPort

log = structlog.get_logger(__name__)

SILENCE_S = 8.0  # four heartbeats: a busy replica may be late with some
# Acknowledgements gather for so long: nobody waits for one, and a call costs about 1 ms of CPU on either side, whatever
# it carries. Sent after each commit they were a third of all calls to a worker.
ACK_GAP_S = 0.1
RECONNECT_S = (0.2, 0.5, 1.0, 2.0)


class WorkerLink:
    """One worker as the scheduler sees it. ``start`` and ``stop`` it once."""

    def __init__(
        self,
        name: str,
        port: WorkerPort,
        *,
        models: Sequence[str],
        slots: int,
        on_events: Callable[[Sequence[LiveEvent]], None],
        on_outcome: Callable[[str, Outcome], None],
        on_change: Callable[[], None],
        node: str = "",
        device: str = "",
    ) -> None:
        self.name = name
        self.node = node
        self.device = device
        self.models = frozenset(models)
        self.slots = slots
        self.online = False
        self.message = "not heard of yet"
        self.offline_since: datetime | None = datetime.now(UTC)  # None while it is online
        self.instance = ""
        self.running: frozenset[RunKey] = frozenset()  # what the worker itself says
        self.assigned: set[RunKey] = set()  # what this scheduler has given it and not seen end
        self.heard_at = time.monotonic()  # of the last batch; before the first one, of the link's start
        self.listed = asyncio.Event()  # set while its list of runs is known and fresh
        self.draining_until: datetime | None = None  # it gets no new run before; set by scheduler/drains.py
        self.resident: tuple[str, ...] = ()  # the models that its engine has loaded, as it last said
        self.engine_away = ""  # why its engine cannot work, as it last said
        self.engine_away_since: datetime | None = None
        self._port = port
        self._on_events = on_events
        self._on_outcome = on_outcome
        self._on_change = on_change
        self._task: asyncio.Task[None] | None = None
        self._seen_on: dict[RunKey, str] = {}  # run → the worker's process that was known to have it
        self._orphans: set[RunKey] = set()  # to be cancelled when it is back
        self._unacked: set[RunKey] = set()  # outcomes that are durable, which it may not know yet
        self._acking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._watch(), name=f"link-{self.name}")

    async def stop(self) -> None:
        """Stop watching."""
        tasks = [task for task in (self._task, self._acking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def silent_s(self) -> float:
        """Seconds since the worker was last heard of."""
        return time.monotonic() - self.heard_at

    @property
    def busy(self) -> int:
        """The slots that are taken; runs of an earlier leader that the worker still has take theirs too."""
        return len(self.assigned | self.running)

    @property
    def works(self) -> bool:
        """Whether it is there, and its engine too."""
        return self.online and not self.engine_away

    @property
    def takes_jobs(self) -> bool:
        """Whether it works and no operator drains it."""
        return self.works and self.draining_until is None

    def status(self) -> WorkerStatus:
        """The worker for people."""
        return WorkerStatus(
            name=self.name,
            online=self.works,
            models=sorted(self.models),
            slots=self.slots,
            running=self.busy,
            message=(self.engine_away if self.online else "") or self.message,
            node=self.node,
            device=self.device,
            offline_since=self.offline_since or self.engine_away_since,
            draining_until=self.draining_until,
            resident=self.resident,
        )

    async def begin(self, specs: Sequence[RunSpec]) -> list[tuple[RunSpec, StartAnswer]]:
        """Start runs on the worker. Raises WorkerAway: then they may or may not have started."""
        answers = list(zip(specs, await self._port.start(specs), strict=True))
        self._seen_on.update({spec.key: self.instance for spec, answer in answers if answer is not StartAnswer.BUSY})
        return answers

    async def adopt(self, specs: Sequence[RunSpec]) -> list[StartAnswer]:
        """Have the worker take up runs that a lost process of it had begun. Raises WorkerAway: then nobody knows."""
        instance = self.instance
        answers = list(await self._port.adopt(specs))
        for spec, answer in zip(specs, answers, strict=True):
            if answer in (StartAnswer.STARTED, StartAnswer.KNOWN):
                self._seen_on[spec.key] = instance
        return answers

    async def ensure(self, model: str) -> None:
        """Have the worker load a model. Raises WorkerAway, Busy or another EngineError."""
        await self._port.ensure(model)

    async def release(self, models: Sequence[str] | None = None) -> None:
        """Have the worker unload models, None: all. Raises WorkerAway, Busy or another EngineError."""
        await self._port.release(models)

    def died_with_its_process(self, key: RunKey) -> bool:
        """Whether a run was on a process of the worker that another one has replaced."""
        return self.online and key not in self.running and self._seen_on.get(key, self.instance) != self.instance

    async def cancel(self, keys: Sequence[RunKey]) -> None:
        """Ask for a cancel; when the worker is away, it is the first thing asked of it when it is back."""
        try:
            await self._port.cancel(keys)
        except WorkerAway:
            self._orphans.update(keys)

    def ack(self, keys: Sequence[RunKey]) -> None:
        """The outcomes are durable: the worker is told soon. A lost ack is repeated when it is heard of again.

        Its stream may outlive the call: a line that was cut for a moment loses the one and keeps the other.
        """
        self._unacked.update(keys)
        self._ack_soon()

    def _ack_soon(self) -> None:
        if self._unacked and (self._acking is None or self._acking.done()):
            self._acking = asyncio.create_task(self._send_acks(), name=f"ack-{self.name}")

    async def _send_acks(self) -> None:
        while self._unacked:
            await asyncio.sleep(ACK_GAP_S)
            keys, self._unacked = sorted(self._unacked), set()
            try:
                await self._port.ack(keys)
            except WorkerAway:
                log.info("ack_lost", worker=self.name, runs=len(keys))
                self._unacked.update(keys)
                return
            except BaseException:
                self._unacked.update(keys)
                raise

    def ended(self, key: RunKey) -> None:
        """The run is over for the scheduler: its slot is free."""
        self.assigned.discard(key)
        self._seen_on.pop(key, None)
        self.running -= {key}

    async def _watch(self) -> None:
        failures = 0
        while True:
            try:
                async with asyncio.timeout(SILENCE_S) as limit:
                    async for batch in self._port.watch():
                        limit.reschedule(asyncio.get_running_loop().time() + SILENCE_S)
                        failures = 0
                        self.resident = tuple(batch.resident)
                        self._hear_of_engine(batch.away)
                        await self._heard(batch.instance, batch.running)
                        if batch.events:
                            self._on_events(batch.events)
                        for outcome in batch.outcomes:
                            self._on_outcome(self.name, outcome)
                        if batch.outcomes:
                            self._on_change()
                self._lost("its stream ended")
            except (WorkerAway, TimeoutError) as error:
                self._lost(str(error) or "silent")
            delay = RECONNECT_S[min(failures, len(RECONNECT_S) - 1)]
            failures += 1
            await asyncio.sleep(delay)

    async def _heard(self, instance: str, running: Sequence[RunKey]) -> None:
        self.heard_at = time.monotonic()
        self.running = frozenset(running)
        self._seen_on.update(dict.fromkeys(running, instance))
        if self._orphans:
            orphans, self._orphans = self._orphans, set()
            await self.cancel(sorted(orphans))
        self._ack_soon()
        if not self.online or instance != self.instance:
            log.info("worker_online", worker=self.name, instance=instance[:8], running=len(running))
            self.instance = instance
            self.online = True
            self.offline_since = None
            self.message = ""
            self.listed.set()
            self._on_change()

    def _hear_of_engine(self, away: str) -> None:
        """What the worker says of its engine. Its runs are its own to end; it only gets no new ones meanwhile."""
        if bool(away) != bool(self.engine_away):
            log.warning("engine_away" if away else "engine_back", worker=self.name, why=away)
            self.engine_away, self.engine_away_since = away, datetime.now(UTC) if away else None
            self._on_change()
        self.engine_away = away

    def _lost(self, why: str) -> None:
        self.listed.clear()
        if self.online:
            log.warning("worker_offline", worker=self.name, why=why)
            self.online = False
            self.offline_since = datetime.now(UTC)
            self.message = why
            self._on_change()
