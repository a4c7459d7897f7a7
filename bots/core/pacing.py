"""How fast a bot may speak: the platform's limits as a budget (pure), and who goes first when it is short.

Results go before replies, replies before first statuses; progress is sent only where nobody waits and there is room to
spare. A flood wait freezes the chat, or all of them: what waits goes on after it, progress is dropped.

What leaves evenly may arrive in bunches, so a limit is kept where the platform counts, not where we send: see Window.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from bots.core.platform import FloodWait, Unreachable, Urgency

ResultT = TypeVar("ResultT")

# Progress leaves this share, of all places and of a group's, to what people wait for.
PROGRESS_RESERVE = 0.5
# Results on their way leave this share of all places to others: thirty slow uploads keep nobody from an answer.
RESULT_RESERVE = 0.25
CHATS_KEPT = 5_000
BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0)


class Window:
    """At most ``places`` messages within any ``span_s`` of the platform's time.

    The platform counts a message at a moment that we cannot see, somewhere between its start and its answer. So it has
    its place from its start until ``span_s`` after its answer: whoever gets the place then is counted later than that.
    """

    def __init__(self, places: int, span_s: float) -> None:
        self._places = places
        self._span_s = span_s
        self._unanswered = 0
        self._answered: deque[float] = deque()  # when, ascending

    def held(self, now: float) -> int:
        """How many places are taken."""
        while self._answered and self._answered[0] + self._span_s <= now:
            self._answered.popleft()
        return self._unanswered + len(self._answered)

    def has_spare(self, now: float) -> bool:
        """Whether there is a place that people who wait would not miss."""
        return self.held(now) < self._places * (1 - PROGRESS_RESERVE)

    def ready_at(self, now: float) -> float:
        """When a place is free. Infinite while that needs an answer that has not come."""
        over = self.held(now) - self._places
        if over < 0:
            return now
        return self._answered[over] + self._span_s if over < len(self._answered) else math.inf

    def begin(self) -> None:
        """A message begins to be sent."""
        self._unanswered += 1

    def end(self, now: float) -> None:
        """One of them was answered, has failed or was given up."""
        self._unanswered -= 1
        self._answered.append(now)


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One message on its way, and where it has a place."""

    urgency: Urgency
    windows: tuple[Window, ...]


@dataclass
class _ChatBudget:
    window: Window  # of a group
    next_at: float = 0.0  # when the chat may get its next message
    frozen_until: float = 0.0


class Budget:
    """What may be sent when. Pure: every method gets ``now`` (seconds of any clock that does not go back)."""

    def __init__(
        self,
        *,
        chat_per_s: float,
        group_per_window: int,
        all_per_window: int,
        group_window_s: float = 60.0,
        all_window_s: float = 1.0,
    ) -> None:
        self._chat_gap_s = 1.0 / chat_per_s
        self._group_per_window = group_per_window  # 0: no such limit
        self._group_window_s = group_window_s
        # Evenly, too: what is sent at once is answered late, and keeps its place for so long.
        self._all_gap_s = all_window_s / all_per_window
        self._all = Window(all_per_window, all_window_s)
        self._results_at_once = max(1, int(all_per_window * (1 - RESULT_RESERVE)))
        self._results = 0  # that are on their way
        self._chats: dict[str, _ChatBudget] = {}
        self._next_at = 0.0
        self._frozen_until = 0.0

    def ready_at(self, chat: str, now: float, *, group: bool, urgency: Urgency) -> float:
        """The earliest moment at which this chat may get a message; infinite while that needs an answer to another."""
        if urgency is Urgency.RESULT and self._results >= self._results_at_once:
            return math.inf
        budget = self._chat(chat)
        ready = max(self._next_at, self._frozen_until, budget.next_at, budget.frozen_until, self._all.ready_at(now))
        if group and self._group_per_window:
            ready = max(ready, budget.window.ready_at(now))
        return ready

    def has_room(self, chat: str, now: float, *, group: bool) -> bool:
        """Whether the chat may get a message now that nobody would miss."""
        if self.ready_at(chat, now, group=group, urgency=Urgency.PROGRESS) > now or not self._all.has_spare(now):
            return False
        return not (group and self._group_per_window) or self._chat(chat).window.has_spare(now)

    def take(self, chat: str, now: float, *, group: bool, urgency: Urgency) -> Sent:
        """A message is sent now. ``done`` must be called once it is over, whatever came of it."""
        budget = self._chat(chat)
        # Who was woken a little late does not make the next one later.
        self._next_at = max(self._next_at, now - self._all_gap_s) + self._all_gap_s
        budget.next_at = now + self._chat_gap_s
        windows = (self._all, budget.window) if group and self._group_per_window else (self._all,)
        for window in windows:
            window.begin()
        self._results += urgency is Urgency.RESULT
        return Sent(urgency=urgency, windows=windows)

    def done(self, sent: Sent, now: float) -> None:
        """The platform has answered, or will not."""
        for window in sent.windows:
            window.end(now)
        self._results -= sent.urgency is Urgency.RESULT

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
            self._chats[chat] = _ChatBudget(Window(self._group_per_window, self._group_window_s))
        return self._chats[chat]


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
                self._done(sent)
            if tried:
                await asyncio.sleep(BACKOFF_S[min(tried, len(BACKOFF_S)) - 1])

    async def try_now(self, chat: str, call: Callable[[], Awaitable[object]], *, group: bool) -> bool:
        """Call it if nothing else wants the turn; False when it was not called or came too fast."""
        now = self._clock()
        if self._waiting or not self._budget.has_room(chat, now, group=group):
            return False
        sent = self._budget.take(chat, now, group=group, urgency=Urgency.PROGRESS)
        try:
            await call()
        except FloodWait as flood:
            self.flood(flood, chat)
            return False
        finally:
            self._done(sent)
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
            if waiter.turn.done() and not waiter.turn.cancelled():  # it got its turn, and will not use it
                self._done(waiter.turn.result())
            raise

    def _done(self, sent: Sent) -> None:
        self._budget.done(sent, self._clock())
        self._changed.set()

    async def _give_turns(self) -> None:
        while True:
            self._changed.clear()
            now = self._clock()
            soonest: float | None = None
            seen: set[str] = set()
            for waiter in sorted(self._waiting):
                if waiter.turn.done():  # cancelled, and not yet gone
                    continue
                if waiter.chat in seen:  # somebody goes before it in its own chat
                    continue
                seen.add(waiter.chat)
                ready = self._budget.ready_at(waiter.chat, now, group=waiter.group, urgency=waiter.urgency)
                if ready <= now:
                    sent = self._budget.take(waiter.chat, now, group=waiter.group, urgency=waiter.urgency)
                    self._waiting.remove(waiter)
                    waiter.turn.set_result(sent)
                    soonest = now
                    break
                if ready < math.inf:
                    soonest = ready if soonest is None else min(soonest, ready)
            if soonest is not None and soonest <= now:
                continue
            try:
                async with asyncio.timeout(None if soonest is None else soonest - now):
                    await self._changed.wait()
            except TimeoutError:
                pass
