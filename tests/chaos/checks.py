"""What must hold once the load is quiet: the database's own story, what clients were told, and bytes over HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import asyncpg

from tests.chaos.load import Load
from tests.chaos.platform import Installation

_BLOCK = re.compile(r"^-- name: (\w+)\n(.*?)(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)

# Rules whose breach means that a job was lost or a person charged twice; the others are told by their names.
LOST = frozenset({"not_final", "unknown_later", "completed_without_files", "artifact_unreadable"})
DOUBLE = frozenset({"charged_more_or_less_than_once", "ended_more_or_less_than_once", "admitted_twice"})


@dataclass(frozen=True, kw_only=True)
class Breach:
    """One rule that does not hold for one subject."""

    rule: str
    subject: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.subject} {self.detail}"


@dataclass(kw_only=True)
class Checker:
    """Looks at one installation again and again; remembers which artifacts it has read already."""

    installation: Installation
    load: Load
    _read: set[UUID] = field(default_factory=set)
    _said: set[tuple[str, str]] = field(default_factory=set)

    async def check(self) -> list[Breach]:
        """Every breach that was not told before."""
        connection = await asyncpg.connect(self.installation.settings().database_url)
        try:
            breaches = await self._of_the_database(connection)
            breaches += await self._of_the_load(connection)
            breaches += await self._of_the_artifacts(connection)
        finally:
            await connection.close()
        breaches += [Breach(rule=rule, subject=job, detail=detail) for rule, job, detail in self.load.breaches]
        fresh = [breach for breach in breaches if (breach.rule, breach.subject) not in self._said]
        self._said |= {(breach.rule, breach.subject) for breach in fresh}
        return fresh

    async def _of_the_database(self, connection: asyncpg.Connection) -> list[Breach]:
        users = [user.id for user in self.load.users]
        return [
            Breach(rule=name, subject=row["subject"], detail=row["detail"])
            for name, text in rules().items()
            for row in await connection.fetch(text, *([users] if "$1" in text else []))
        ]

    async def _of_the_load(self, connection: asyncpg.Connection) -> list[Breach]:
        """What clients were told against what is there."""
        rows = await connection.fetch(
            "SELECT id, state FROM jobs WHERE user_id = ANY ($1)", [user.id for user in self.load.users]
        )
        states = {row["id"]: row["state"] for row in rows}
        breaches = [
            Breach(rule="unknown_later", subject=str(job), detail="was answered 202 and is not there")
            for job in self.load.accepted
            if job not in states
        ]
        # A submission is repeated under its key until it is answered: so nothing else may be there, but for those that
        # were given up unanswered.
        given_up = {
            await connection.fetchval("SELECT job_id FROM idempotency_keys WHERE user_id = $1 AND key = $2", user, key)
            for user, key in self.load.unanswered
        }
        breaches += [
            Breach(rule="admitted_twice", subject=str(job), detail="is there, and no client was told of it")
            for job in states.keys() - self.load.accepted.keys() - given_up
        ]
        return breaches + [
            Breach(rule="final_state_changed", subject=str(job), detail=f"was told {told}, is {states[job]}")
            for job, told in self.load.told_final.items()
            if job in states and states[job] != told
        ]

    async def _of_the_artifacts(self, connection: asyncpg.Connection) -> list[Breach]:
        """Each artifact of a completed job, read over HTTP by its owner, is what its row says."""
        rows = await connection.fetch(
            "SELECT a.id, a.job_id, a.user_id, a.index, a.sha256, a.media_type, a.bytes FROM artifacts a"
            " JOIN jobs j ON j.id = a.job_id AND j.state = 'completed' WHERE a.user_id = ANY ($1)",
            [user.id for user in self.load.users],
        )
        fresh = [row for row in rows if row["id"] not in self._read]
        limit = asyncio.Semaphore(4)

        async def read(row: asyncpg.Record) -> Breach | None:
            async with limit:
                status, body, media_type = await self.load.artifact(row["user_id"], row["job_id"], row["index"])
            said = f"{status} {media_type} {len(body)} B"
            if (status, media_type, len(body)) != (200, row["media_type"], row["bytes"]):
                return Breach(rule="artifact_unreadable", subject=str(row["job_id"]), detail=said)
            if hashlib.sha256(body).hexdigest() != row["sha256"]:
                return Breach(rule="artifact_unreadable", subject=str(row["job_id"]), detail="other bytes than stored")
            self._read.add(row["id"])
            return None

        return [breach for breach in await asyncio.gather(*map(read, fresh)) if breach is not None]

    @property
    def artifacts_read(self) -> int:
        return len(self._read)


def rules() -> dict[str, str]:
    """The statements of checks.sql by name."""
    return dict(_BLOCK.findall(Path(__file__).with_name("checks.sql").read_text(encoding="utf-8")))
