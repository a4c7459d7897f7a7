"""How fast a bot may speak: the platform's limits as a budget (pure), and who goes first when it is short.

Results go before replies, replies before first statuses; progress is sent only where nobody waits and the chat has
room to spare. A flood wait freezes the chat, or all of them: what waits goes on after it, progress is dropped.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from bots.core.platform import FloodWait, Unreachable, Urgency

ResultT = TypeVar("ResultT")

# Progress leaves this share of a group's minute to what people wait for.
GROUP_RESERVE = 0.5
CHATS_KEPT = 5_000
BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass
class Sent:
    """One message to a group: when it began to be sent, then when the platform had surely counted it."""

    at: float


@dataclass
class _ChatBudget:
    next_at: float = 0.0  # when the chat may get its next message
    frozen_until: float = 0.0
    sent: deque[Sent] = field(default_factory=deque)  # of a group, within the window


class Budget:
    """What may be sent when. Pure: every method gets ``now`` (seconds of any clock that does not go back)."""

    def __init__(self, *, chat_per_s: float, group_per_window: int, all_per_s: float, window_s: float = 60.0) -> None:
        self._chat_gap_s = 1.0 / chat_per_s
        self._all_gap_s = 1.0 / all_per_s
        self._group_per_window = group_per_window  # 0: no such limit
        self._window_s = window_s
        self._chats: dict[str, _ChatBudget] = {}
        self._next_at = 0.0
        self._frozen_until = 0.0

    def ready_at(self, chat: str, now: float, *, group: bool) -> float:
        """The earliest moment at which this chat may get a message."""
        budget = self._chat(chat)
        ready = max(self._next_at, self._frozen_until, budget.next_at, budget.frozen_until)
        if group and self._group_per_window:
            self._forget(budget, now)
            if len(budget.sent) >= self._group_per_window:
                times = sorted(sent.at for sent in budget.sent)
                ready = max(ready, times[-self._group_per_window] + self._window_s)
        return ready

    def has_room(self, chat: str, now: float, *, group: bool) -> bool:
        """Whether the chat may get a message now that nobody would miss."""
        if self.ready_at(chat, now, group=group) > now:
            return False
        if group and self._group_per_window:
            return len(self._chat(chat).sent) < self._group_per_window * (1 - GROUP_RESERVE)
        return True

    def take(self, chat: str, now: float, *, group: bool) -> Sent:
        """A message is sent now; ``done`` is told when it was. A slow line does not shorten the window so."""
        budget = self._chat(chat)
        self._next_at = max(self._next_at, now) + self._all_gap_s
        budget.next_at = now + self._chat_gap_s
        sent = Sent(now)
        if group and self._group_per_window:
            self._forget(budget, now)
            budget.sent.append(sent)
        return sent

    def done(self, sent: Sent, now: float) -> None:
        """The platform has answered."""
        sent.at = now

    def freeze(self, chat: str, until: float) -> None:
        """The platform said when to go on; with an empty ``chat`` for all of them."""
        if chat:
            budget = self._chat(chat)
            budget.frozen_until = max(budget.frozen_until, until)
        else:
            self._frozen_until = max(self._frozen_until, until)

    def _chat(self, chat: str) -> _ChatBudget:
        if chat not in self._chats:
            if len(self._chats) >= CHATS_KEPT:  # the oldest is the least likely to be within its second
                del self._chats[next(iter(self._chats))]
            self._chats[chat] = _ChatBudget()
        return self._chats[chat]

    def _forget(self, budget: _ChatBudget, now: float) -> None:
        while budget.sent and budget.sent[0].at <= now - self._window_s:
            budget.sent.popleft()


@dataclass(order=True)
class _Waiter:
    urgency: Urgency
    order: int
    chat: str = field(compare=False)
    group: bool = field(compare=False)
    turn: asyncio.Future[Sent] = field(compare=False)


class Pacer:
    """The turns of one bot. ``on_flood`` is told of each flood wait."""

    def __init__(
        self,
        budget: Budget,
        *,
        on_flood: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget = budget
        self._on_flood = on_flood
        self._clock = clock
        self._waiting: list[_Waiter] = []
        self._order = itertools.count()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def run(
        self,
        chat: str,
        call: Callable[[], Awaitable[ResultT]],
        *,
        group: bool,
        urgency: Urgency,
        tries: int = 5,
    ) -> ResultT:
        """Call it when it is its turn. After a flood wait it is called again, however long that takes.

        ``tries``: how often it is called again when the platform is unreachable; what may not happen twice takes 1.
        Raises what the call raises, never FloodWait.
        """
        tried = 0
        while True:
            sent = await self._turn(chat, group, urgency)
            try:
                return await call()
            except FloodWait as flood:
                self.flood(flood, chat)
            except Unreachable:
                tried += 1
                if tried >= tries:
                    raise
            finally:
                self._budget.done(sent, self._clock())
            if tried:
                await asyncio.sleep(BACKOFF_S[min(tried, len(BACKOFF_S)) - 1])

    async def try_now(self, chat: str, call: Callable[[], Awaitable[object]], *, group: bool) -> bool:
        """Call it if nothing else wants the turn; False when it was not called or came too fast."""
        now = self._clock()
        if self._waiting or not self._budget.has_room(chat, now, group=group):
            return False
        sent = self._budget.take(chat, now, group=group)
        try:
            await call()
        except FloodWait as flood:
            self.flood(flood, chat)
            return False
        finally:
            self._budget.done(sent, self._clock())
        return True

    def flood(self, flood: FloodWait, chat: str) -> None:
        """Hold everything back that the platform does not want now."""
        self._budget.freeze(flood.chat or chat, self._clock() + flood.wait_s)
        if self._on_flood is not None:
            self._on_flood(flood.wait_s)

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    def waiting_in(self, chat: str) -> int:
        """How many wait for their turn in a chat."""
        return sum(waiter.chat == chat for waiter in self._waiting)

    async def close(self) -> None:
        """End the task that gives out turns; who still waits is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        for waiter in self._waiting:
            waiter.turn.cancel()
        self._waiting.clear()

    async def _turn(self, chat: str, group: bool, urgency: Urgency) -> Sent:
        waiter = _Waiter(urgency, next(self._order), chat, group, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._give_turns())
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            raise

    async def _give_turns(self) -> None:
        while True:
            self._changed.clear()
            now = self._clock()
            soonest: float | None = None
            seen: set[str] = set()
            for waiter in sorted(self._waiting):
                if waiter.chat in seen:  # somebody goes before it in its own chat
                    continue
                seen.add(waiter.chat)
                ready = self._budget.ready_at(waiter.chat, now, group=waiter.group)
                if ready <= now:
                    sent = self._budget.take(waiter.chat, now, group=waiter.group)
                    self._waiting.remove(waiter)
                    if not waiter.turn.done():
                        waiter.turn.set_result(sent)
                    soonest = now
                    break
                soonest = ready if soonest is None else min(soonest, ready)
            if soonest is not None and soonest <= now:
                continue
            try:
                async with asyncio.timeout(None if soonest is None else soonest - now):
                    await self._changed.wait()
            except TimeoutError:
                pass
