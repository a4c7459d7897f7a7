"""What holds for everybody, as this replica knows it: the rules of moderation, the banner, the keys of links.

Both change rarely and are asked for at every submission, so they are kept in memory and looked up again in the
background: what an operator changes is known to every replica within MAX_AGE_S.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import structlog

from tessera.errors import ContentBlocked, Unavailable
from tessera.inputs import AnyInput
from tessera.moderation.screening import NO_RULES, Action, Match, Rule, RuleSet, Verdict, is_long, refusal, screen
from tessera.share_links import Generations
from tessera.store.database import Database, Row

log = structlog.get_logger(__name__)

REFRESH_S = 0.8  # older than this it is looked up again, while what is known is used
MAX_AGE_S = 2.0  # older than this nobody uses it before it was looked up again
CATCH_UP_S = 0.25  # what a request waits for a banner at most
OUTAGE_AGE_S = 60.0  # unless Postgres is away: then the rules of a minute ago are better than none


@dataclass(frozen=True, kw_only=True)
class Banner:
    """What the operator tells everybody, on one line."""

    message: str
    since: datetime

    def answer(self) -> dict[str, Any]:
        """As the API shows it."""
        return {"message": self.message, "since": self.since}

    def header(self) -> bytes:
        """As the header Tessera-Banner carries it: ASCII, everything else percent-encoded."""
        return quote(self.message, safe=" !#$&'()*+,-./:;=?@[]^_`{|}~").encode()


class Standing:
    """Rules and banner of one replica. Make it once, and ``close`` it."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._clock = clock
        self._rules = NO_RULES
        self._version = 0
        self._banner: Banner | None = None
        self._shares = Generations(current=1, before_until=None)
        self._known_at = float("-inf")
        self._changes = 0  # how often this replica has changed something
        self._looking: asyncio.Task[None] | None = None

    @property
    def last_banner(self) -> Banner | None:
        """The banner as far as it is known, for headers, which wait for nobody: a newer one is looked for meanwhile."""
        if self._clock() - self._known_at > REFRESH_S:
            self._look()
        return self._banner

    async def catch_up(self) -> None:
        """Look again if nobody has for a while, for a moment at most: an idle replica knows an old banner."""
        if self._clock() - self._known_at > MAX_AGE_S:
            await asyncio.wait({self._look()}, timeout=CATCH_UP_S)  # what went wrong is told by _looked

    async def banner(self) -> Banner | None:
        """The banner of now. Raises Unavailable."""
        await self._fresh()
        return self._banner

    async def rules(self) -> RuleSet:
        """The rules, at most MAX_AGE_S old. Raises Unavailable."""
        await self._fresh()
        return self._rules

    async def share_generations(self) -> Generations:
        """Which keys sign links to files. Raises Unavailable."""
        await self._fresh()
        return self._shares

    async def screen(self, data: AnyInput, kind: str, *, age_restricted: bool) -> Verdict:
        """Whether an input may be run. Raises ContentBlocked when it may not, or Unavailable."""
        rules = await self.rules()
        if is_long(data):
            verdict = await asyncio.to_thread(screen, rules, data, kind, age_restricted=age_restricted)
        else:
            verdict = screen(rules, data, kind, age_restricted=age_restricted)
        refused: ContentBlocked | None = refusal(verdict)
        if refused is not None:
            log.info("content_blocked", kind=kind, why=verdict.blocked, rules=[str(rule) for rule in verdict.rules])
            raise refused
        return verdict

    def forget(self) -> None:
        """Look anew before the next answer: this replica has changed something."""
        self._known_at = float("-inf")
        self._changes += 1

    async def close(self) -> None:
        """End what runs in the background."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _fresh(self) -> None:
        while True:
            age_s = self._clock() - self._known_at
            if age_s <= REFRESH_S:
                return
            looking = self._look()
            if age_s <= MAX_AGE_S:
                return
            changes = self._changes
            try:
                await asyncio.shield(looking)
            except Unavailable:
                if self._clock() - self._known_at > OUTAGE_AGE_S:
                    raise
                return
            if changes == self._changes and self._known_at != float("-inf"):
                return
            # This look began before a change of ours and may have missed it.

    def _look(self) -> asyncio.Task[None]:
        """One look at a time, for all who wait for it."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._read())
            self._looking.add_done_callback(self._looked)
        return self._looking

    @staticmethod
    def _looked(task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, Unavailable):
            log.warning("standing_not_read", code=error.code)
        else:
            log.error("standing_not_read", exc_info=error)

    async def _read(self) -> None:
        began, changes = self._clock(), self._changes  # what was true then: a change after it may be missing
        try:
            row = await self._db.row("read_standing")
            assert row is not None, "the migration has made the row"
            if row["rules_version"] != self._version:
                rows = await self._db.rows("live_rules")
                self._rules = await asyncio.to_thread(_compiled, rows)
                self._version = row["rules_version"]
            message = row["banner"]
            self._banner = Banner(message=message, since=row["banner_since"]) if message is not None else None
            self._shares = Generations(current=row["share_generation"], before_until=row["share_before_until"])
            if changes == self._changes:
                self._known_at = began
        finally:
            self._looking = None


def rule_of(row: Row) -> Rule:
    """A row of moderation_rules."""
    return Rule(
        id=row["id"],
        match=Match(row["match"]),
        text=row["text"],
        action=Action(row["action"]),
        age_restricted=row["age_restricted"],
        kinds=tuple(row["kinds"]),
    )


def _compiled(rows: list[Row]) -> RuleSet:
    return RuleSet(rule_of(row) for row in rows)
