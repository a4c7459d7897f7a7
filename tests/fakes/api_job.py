"""A job of the fake server, and how it is shown: the wire shapes of Tessera's API."""

from __future__ import annotations

import asyncio
from typing import Any

NOW = "2026-01-05T12:00:00Z"
FINAL = {"completed", "failed", "cancelled", "expired"}


class FakeJob:
    def __init__(self, number: int, body: dict[str, Any]) -> None:
        self.id = f"job_01k{number:023d}"
        self.body = body
        self.state = "queued"
        self.attempt = 0
        self.text = ""
        self.log: list[dict[str, Any]] = []
        self.output: dict[str, Any] | None = None
        self.artifacts: list[dict[str, Any]] = []
        self.error: dict[str, Any] | None = None
        self.charged: float | None = None
        self.changed = asyncio.Condition()
        self.cancel = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def emit(self, type: str, data: dict[str, Any] | None = None, *, durable: bool) -> None:
        async with self.changed:
            number = 1 + sum(1 for e in self.log if e["id"] is not None) if durable else None
            self.log.append(
                {
                    "id": number,
                    "job_id": self.id,
                    "type": type,
                    "at": NOW,
                    "attempt": self.attempt,
                    "data": data or {},
                }
            )
            self.changed.notify_all()

    def show(self, extra: dict[str, Any]) -> dict[str, Any]:
        job: dict[str, Any] = {
            "id": self.id,
            "kind": self.body["kind"],
            "model": self.body.get("model") or f"preview-{self.body['kind']}",
            "state": self.state,
            "tier": self.body.get("tier") or "pro",
            "cost_tokens": 0.75,
            "created_at": NOW,
            "attempt": self.attempt,
            "input": self.body["input"],
            "metadata": self.body.get("metadata") or {},
            "artifacts": self.artifacts,
            "engine": "preview",
            "preview": True,
            "urls": {
                "self": f"/v1/jobs/{self.id}",
                "events": f"/v1/jobs/{self.id}/events",
                "explain": f"/v1/jobs/{self.id}/explain",
                "cancel": f"/v1/jobs/{self.id}/cancel",
            },
            **extra,
        }
        if self.state == "queued":
            job |= {"position": 3, "eta": {"low_s": 4, "high_s": 9}}
        if self.attempt:
            job["started_at"] = NOW
        if self.state in FINAL:
            job |= {"finished_at": "2026-01-05T12:00:08.400000Z", "charged_tokens": self.charged}
        if self.output is not None:
            job["output"] = self.output
        if self.error is not None:
            job["error"] = self.error
        return job

    def explain(self, changes: dict[str, Any]) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "id": self.id,
            "kind": self.body["kind"],
            "model": self.body.get("model") or f"preview-{self.body['kind']}",
            "tier": self.body.get("tier") or "pro",
            "state": self.state,
            "summary": f"It is {self.state}.",
            "as_of": NOW,
            "created_at": NOW,
            "attempt": self.attempt,
            "failures": 0,
            "reasons": [],
            "workers": [],
        }
        if self.state in FINAL:
            shown |= {"finished_at": NOW, "charged_tokens": self.charged, "refunded_tokens": 0.75 - (self.charged or 0)}
            return shown | ({"error": self.error} if self.error else {})
        shown |= {"queued_since": NOW, "queued_of_user": 1, "max_queued": 25, "running_of_user": 1, "max_running": 1}
        if self.state == "running":
            return shown | {"worker": "preview-1", "started_at": NOW, "eta": {"low_s": 4, "high_s": 9}}
        worker = {"name": "preview-1", "node": "pc2", "device": "cpu", "online": True}
        return {
            **shown,
            "reasons": [reason("ahead", "Three jobs come first.")],
            "position": 3,
            "position_in_tier": 2,
            "position_of_user": 1,
            "ahead": {"pro": 2},
            "own_jobs_ahead": 0,
            "workers": [{**worker, "can_run": False, "why_not": "all its slots are taken"}],
            "eta": {"low_s": 4, "high_s": 9},
            "own_s": 2.5,
            **changes,
        }


def reason(code: str, message: str = "It waits.", **more: Any) -> dict[str, Any]:
    """One reason of an explanation; ``until`` is a time."""
    return {"code": code, "message": message, "data": {}, **more}
