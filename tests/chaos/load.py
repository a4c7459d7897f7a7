"""A steady mixed load of several users, as well-behaved clients: they retry under the same key, resume, and cancel.

Every choice comes from the seed; what the platform makes of it depends on its timing.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import aiohttp

from tessera.ids import Prefix, parse, show

FINAL = frozenset({"completed", "failed", "cancelled", "expired"})
SETTLE_S = 240.0  # a submission is repeated for so long; longer than the longest fault and its recovery
STREAM_S = 300.0
NO_ANSWER = (aiohttp.ClientError, asyncio.TimeoutError, OSError)


@dataclass(frozen=True, kw_only=True)
class User:
    """One client. ``per_s``: jobs per second, on average."""

    id: UUID
    name: str
    key: str
    plan: str
    per_s: float


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """A job that was answered 202."""

    user: User
    body: dict[str, Any]
    at: float


# (plan, users, jobs per second and user): together about seven a second, which two cores carry beside Ray.
# Below each plan's submissions per minute, so that few are refused.
USERS = (("pro", 3, 1.2), ("starter", 3, 0.8), ("free", 3, 0.4))


@dataclass(kw_only=True)
class Load:
    """Runs between ``start`` and ``close``; ``pause`` and ``resume`` stop and continue new submissions."""

    url: str
    users: list[User]
    seed: int
    accepted: dict[UUID, Accepted] = field(default_factory=dict)
    told_final: dict[UUID, str] = field(default_factory=dict)
    unanswered: list[tuple[UUID, str]] = field(default_factory=list)  # (user, key) of what was given up
    breaches: list[tuple[str, str, str]] = field(default_factory=list)  # (rule, job, detail)
    counts: Counter[str] = field(default_factory=Counter)
    _going: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _loops: list[asyncio.Task[None]] = field(default_factory=list)
    _session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        # A connection per request: a client that keeps one open would follow a dying replica's, and measure that.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector)
        self._loops = [asyncio.create_task(self._user(user)) for user in self.users]

    async def close(self) -> None:
        tasks = [*self._loops, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def resume(self) -> None:
        self._going.set()

    def pause(self) -> None:
        self._going.clear()

    async def quiet(self, timeout_s: float) -> bool:
        """After ``pause``: wait until every client has its answer and each stream its end."""
        end = time.monotonic() + timeout_s
        while self._tasks and time.monotonic() < end:
            await asyncio.wait(set(self._tasks), timeout=0.5)
        return not self._tasks

    @property
    def active(self) -> int:
        """Clients that wait for something."""
        return len(self._tasks)

    # ------------------------------------------------------------------ one user, one job

    async def _user(self, user: User) -> None:
        choose = random.Random(f"{self.seed} {user.name}")
        while True:
            await asyncio.sleep(choose.expovariate(user.per_s))
            await self._going.wait()
            self._spawn(self._job(user, _Choices.of(choose)))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.breaches.append(("client_failed", type(error).__name__, str(error)))

    async def _job(self, user: User, choices: _Choices) -> None:
        job = await self._submit(user, choices)
        if job is None:
            return
        if choices.again:
            # The same request under the same key, as a client that lost the answer: the same job.
            answer = await self._until_answered(user, "POST", "/v1/jobs", choices.body, key=choices.key)
            if answer is not None and answer[0] in (200, 202) and parse(Prefix.JOB, answer[1]["id"]) != job:
                self.breaches.append(("admitted_twice", str(job), f"the same key gave {answer[1]['id']}"))
        if choices.cancel_after_s is not None:
            self._spawn(self._cancel(user, job, choices.cancel_after_s))
        if choices.stream:
            await self._follow(user, job)

    async def _submit(self, user: User, choices: _Choices) -> UUID | None:
        self.counts["submitted"] += 1
        answer = await self._until_answered(user, "POST", "/v1/jobs", choices.body, key=choices.key)
        if answer is None:
            self.counts["given up"] += 1
            self.unanswered.append((user.id, choices.key))
            return None
        status, body = answer
        if status not in (200, 202):
            self.counts[f"refused {body.get('code', status)}"] += 1
            if status not in (402, 429):
                self.breaches.append(("refused_wrongly", user.name, f"{status} {json.dumps(body)[:300]}"))
            return None
        job = parse(Prefix.JOB, body["id"])
        if job in self.accepted:
            self.breaches.append(("admitted_twice", str(job), "was given to two submissions"))
        self.accepted[job] = Accepted(user=user, body=choices.body, at=time.monotonic())
        self.counts["accepted"] += 1
        return job

    async def _cancel(self, user: User, job: UUID, after_s: float) -> None:
        await asyncio.sleep(after_s)
        answer = await self._until_answered(user, "POST", f"/v1/jobs/{show(Prefix.JOB, job)}/cancel")
        if answer is None:
            return
        status, body = answer
        if status == 404:
            self.breaches.append(("unknown_later", str(job), "a cancel was answered 404"))
        elif status in (200, 202):
            self.counts["cancels"] += 1
            if body["state"] in FINAL:
                self._final(job, body["state"])

    async def _follow(self, user: User, job: UUID) -> None:
        """The job's stream, resumed as often as it breaks: each number once, in order, without a gap, up to the end."""
        last = 0
        end = time.monotonic() + STREAM_S
        while time.monotonic() < end:
            try:
                async for number, kind in self._events(user, job, last):
                    if number != last + 1:
                        self.breaches.append(("stream_with_a_gap", str(job), f"{kind} is {number} after {last}"))
                    last = number
                    if kind in FINAL:
                        self._final(job, kind)
                        self.counts["streams"] += 1
                        return
            except _Unknown:
                self.breaches.append(("unknown_later", str(job), "its events were answered 404"))
                return
            except NO_ANSWER:
                pass
            self.counts["streams resumed"] += 1
            await asyncio.sleep(0.5)
        self.breaches.append(("stream_without_end", str(job), f"no final event in {STREAM_S:.0f} s, last was {last}"))

    async def _events(self, user: User, job: UUID, last: int) -> AsyncIterator[tuple[int, str]]:
        assert self._session is not None
        headers = {"Authorization": f"Bearer {user.key}", **({"Last-Event-ID": str(last)} if last else {})}
        path = f"{self.url}/v1/jobs/{show(Prefix.JOB, job)}/events"
        # Heartbeats come every 15 s: who hears nothing for twice that has lost the other side.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=35)
        async with self._session.get(path, headers=headers, timeout=timeout) as answer:
            if answer.status == 404:
                raise _Unknown
            if answer.status != 200:
                return
            number, kind = "", ""
            async for raw in answer.content:
                line = raw.decode().rstrip("\r\n")
                name, _, value = line.partition(": ")
                if name == "id":
                    number = value
                elif name == "event":
                    kind = value
                elif not line:
                    if number:
                        yield int(number), kind
                    number, kind = "", ""

    def _final(self, job: UUID, state: str) -> None:
        before = self.told_final.setdefault(job, state)
        if before != state:
            self.breaches.append(("final_state_changed", str(job), f"was told {before}, then {state}"))

    # ------------------------------------------------------------------ HTTP as a client does it

    async def _until_answered(
        self, user: User, method: str, path: str, body: Any = None, *, key: str | None = None
    ) -> tuple[int, dict[str, Any]] | None:
        """Repeat until an answer that is no outage; None when that did not come in time."""
        headers = {"Idempotency-Key": key} if key is not None else None
        end = time.monotonic() + SETTLE_S
        pause_s = 0.2
        while time.monotonic() < end:
            try:
                status, answer = await self.request(user.key, method, path, body, headers=headers)
            except NO_ANSWER:
                self.counts["no answer"] += 1
            else:
                limited = status == 429 and answer.get("code") == "rate_limited"
                if status < 500 and not limited:
                    return status, answer
                self.counts[f"answered {status}"] += 1
                if limited:
                    await asyncio.sleep(min(5.0, float(answer.get("retry_after_s") or 1)))
            await asyncio.sleep(pause_s)
            pause_s = min(2.0, pause_s * 1.5)
        return None

    async def request(
        self,
        api_key: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 15.0,
    ) -> tuple[int, dict[str, Any]]:
        """One request, one answer. Raises one of NO_ANSWER."""
        assert self._session is not None
        named = {"Authorization": f"Bearer {api_key}", **(headers or {})}
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=5)
        async with self._session.request(method, self.url + path, json=body, headers=named, timeout=timeout) as answer:
            text = await answer.read()
            value: Any = {}
            with suppress(ValueError):
                value = json.loads(text)
            return answer.status, value if isinstance(value, dict) else {}

    async def artifact(self, user_id: UUID, job: UUID, index: int) -> tuple[int, bytes, str]:
        """Status, bytes and media type of a job's file, found and read over HTTP by its owner."""
        user = next(user for user in self.users if user.id == user_id)
        answer = await self._until_answered(user, "GET", f"/v1/jobs/{show(Prefix.JOB, job)}")
        if answer is None or answer[0] != 200 or index >= len(answer[1]["artifacts"]):
            return (answer[0] if answer else 0), b"", "the job shows no such file"
        assert self._session is not None
        url = self.url + answer[1]["artifacts"][index]["url"]
        timeout = aiohttp.ClientTimeout(total=30)
        for _ in range(5):
            with suppress(*NO_ANSWER):
                async with self._session.get(
                    url, headers={"Authorization": f"Bearer {user.key}"}, timeout=timeout
                ) as file:
                    if file.status not in (429, 503):
                        return file.status, await file.read(), file.headers.get("Content-Type", "")
            await asyncio.sleep(1)
        return 0, b"", "no answer"


class _Unknown(Exception):
    """A job that was accepted is answered 404."""


@dataclass(frozen=True, kw_only=True)
class _Choices:
    """What one client does, drawn at once so that the order of tasks does not change the draw."""

    body: dict[str, Any]
    key: str
    again: bool
    stream: bool
    cancel_after_s: float | None

    @classmethod
    def of(cls, choose: random.Random) -> _Choices:
        body = _body(choose)
        return cls(
            body=body,
            key=str(UUID(int=choose.getrandbits(128))),
            again=choose.random() < 0.05,
            stream=choose.random() < 0.4,
            cancel_after_s=choose.uniform(0, 2.5) if choose.random() < 0.12 else None,
        )


def _body(choose: random.Random) -> dict[str, Any]:
    what = choose.choices(("sleep", "long", "fail", "image", "speech"), (52, 20, 6, 11, 11))[0]
    body: dict[str, Any]
    match what:
        case "sleep":
            body = _noop(f"sleep {choose.uniform(0.02, 1.5):.2f}")
        case "long":
            body = _noop(f"sleep {choose.uniform(3, 9):.2f}")
        case "fail":
            body = _noop(f"fail {choose.choice(('invalid', 'oom', 'lost', 'bad'))}")
        case "image":
            words = f"chaos {choose.getrandbits(32):08x}"
            body = {"kind": "image", "input": {"prompt": words, "width": 128, "height": 96}}
        case _:
            body = {"kind": "speech", "input": {"text": f"Chaos number {choose.getrandbits(20)}."}}
    if choose.random() < 0.15:
        body["tier"] = "batch"
    return body


def _noop(prompt: str) -> dict[str, Any]:
    return {"kind": "text", "model": "noop", "input": {"prompt": prompt}}


async def make_users(url: str, operator_key: str) -> tuple[list[User], User]:
    """The load's users and the one who probes, by the operator's API."""
    found: list[User] = []
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {operator_key}"}) as session:
        for plan, count, per_s in (*USERS, ("pro", 1, 0.0)):
            for number in range(count):
                name = f"chaos-{plan}-{number}" if per_s else "chaos-probe"
                # A home's users stay unless it is removed: the name is made new where it is taken.
                for wanted in (name, f"{name}-{uuid4().hex[:6]}"):
                    async with session.post(f"{url}/v1/admin/users", json={"name": wanted, "plan": plan}) as answer:
                        made = await answer.json()
                        if answer.status == 201:
                            break
                assert answer.status == 201, made
                identity = parse(Prefix.USER, made["id"])
                found.append(User(id=identity, name=name, key=made["api_key"], plan=plan, per_s=per_s))
    return found[:-1], found[-1]
