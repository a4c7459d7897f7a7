"""Rows of Postgres as the JSON of the API: public ids, tokens instead of millitokens, nothing internal.

These build plain dicts, which orjson writes: validating our own answers would cost more than everything else on the way
of a submission. ``schemas/base.py`` documents them, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from fastapi import Response

from tessera.admission import Admitted, Submission
from tessera.ids import Prefix, show
from tessera.jobs import EventType, JobState
from tessera.plans import tokens
from tessera.ports import Place

FILES_KEY = "_files"  # in jobs.input: the hashes of its files, for the worker; never shown
_INTERNAL_EVENTS = frozenset({"cancel_requested", "plan_changed", "owner_changed"})


def json_bytes(value: Any) -> bytes:
    """JSON, with times as RFC 3339 in UTC."""
    return orjson.dumps(value, option=orjson.OPT_UTC_Z)


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(json_bytes(value), status_code=status, headers=dict(headers or {}), media_type="application/json")


def page(data: list[dict[str, Any]], next_cursor: str | None = None) -> Response:
    """A page of a list."""
    return answer({"data": data, "next_cursor": next_cursor})


# ------------------------------------------------------------------ jobs


def job_urls(job_id: str) -> dict[str, str]:
    """The addresses of a job, as paths on this server."""
    path = f"/v1/jobs/{job_id}"
    return {"self": path, "events": f"{path}/events", "explain": f"{path}/explain", "cancel": f"{path}/cancel"}


def admitted_answer(submission: Submission, admitted: Admitted) -> dict[str, Any]:
    """The job as it is at the moment of its admission, without reading it back."""
    job_id = show(Prefix.JOB, admitted.job_id)
    return {
        "id": job_id,
        "kind": submission.kind,
        "model": submission.model,
        "state": admitted.state or JobState.QUEUED.value,
        "tier": admitted.tier,
        "cost_tokens": tokens(submission.cost_mt),
        "created_at": admitted.admitted_at,
        "attempt": 0,
        "input": _shown_input(submission.input),
        "metadata": submission.metadata,
        "artifacts": [],
        "urls": job_urls(job_id),
        **({"not_before": submission.not_before} if submission.not_before else {}),
        **({"deadline": submission.deadline} if submission.deadline else {}),
        **({"retried_from": show(Prefix.JOB, submission.retried_from)} if submission.retried_from else {}),
        **({"webhook": webhook_answer(submission.webhook)} if submission.webhook else {}),
        **({"spoiler": True} if (submission.moderation or {}).get("spoiler") else {}),
    }


def job_answer(row: Mapping[str, Any], place: Place | None = None) -> dict[str, Any]:
    """A job. ``place`` only while it is queued."""
    job_id = show(Prefix.JOB, row["id"])
    shown: dict[str, Any] = {
        "id": job_id,
        "kind": row["kind"],
        "model": row["model"],
        "state": row["state"],
        "tier": row["tier"],
        "cost_tokens": tokens(row["cost_mt"]),
        "created_at": row["created_at"],
        "attempt": row["attempt"],
        "input": _shown_input(row["input"]),
        "metadata": row["metadata"],
        "artifacts": [artifact_answer(artifact) for artifact in row["artifacts"]],
        "urls": job_urls(job_id),
    }
    if place is not None and row["state"] == JobState.QUEUED:
        shown.update(place_data(place))
    for name in ("started_at", "finished_at", "not_before", "deadline", "output"):
        if row[name] is not None:
            shown[name] = row[name]
    if row["cancel_requested_at"] is not None and row["state"] == JobState.RUNNING:
        shown["cancel_requested_at"] = row["cancel_requested_at"]
    if row["retried_from"] is not None:
        shown["retried_from"] = show(Prefix.JOB, row["retried_from"])
    if row["webhook"] is not None:
        shown["webhook"] = webhook_answer(row["webhook"])
    _add_moderation(shown, row["moderation"])
    if row["charged_mt"] is not None:
        shown["charged_tokens"] = tokens(row["charged_mt"])
    if row["error"] is not None:
        shown["error"] = error_answer(row["error"], refunded_mt=row["cost_mt"] - (row["charged_mt"] or 0))
    for name in ("engine", "preview"):
        if row["output"] is not None and name in row["output"]:
            shown[name] = row["output"][name]
    return shown


def _add_moderation(shown: dict[str, Any], marks: Mapping[str, Any] | None) -> None:
    """A spoiler is to be hidden until it is asked for: the job says so, and so does everything that could be shown of
    it. What was withheld is not shown at all."""
    if marks is None:
        return
    if marks.get("withheld"):
        shown["withheld"] = True
        shown["artifacts"] = []
        shown.pop("output", None)
    elif marks.get("spoiler"):
        shown["spoiler"] = True
        shown["artifacts"] = [{**artifact, "spoiler": True} for artifact in shown["artifacts"]]
        if "output" in shown:
            shown["output"] = {**shown["output"], "spoiler": True}


def webhook_answer(webhook: Mapping[str, Any]) -> dict[str, Any]:
    """Where a job's events are sent to."""
    return {"url": webhook["url"], "events": webhook["events"]}


def place_data(place: Place) -> dict[str, Any]:
    """Position and ETA as job and ``queued`` event show them."""
    return {"position": place.position, "eta": eta_range(place.eta_low_s, place.eta_high_s)}


def eta_range(low_s: float | None, high_s: float | None) -> dict[str, int] | None:
    """An ETA in whole seconds, for nobody can promise more; None where nobody can say."""
    return None if low_s is None or high_s is None else {"low_s": round(low_s), "high_s": round(high_s)}


def error_answer(error: Mapping[str, Any], *, refunded_mt: int) -> dict[str, Any]:
    """Why a job failed, and what was given back."""
    return {
        "code": error.get("code", "internal_error"),
        "message": error.get("message", ""),
        "retryable": bool(error.get("retryable", False)),
        "refunded_tokens": tokens(refunded_mt),
    }


def artifact_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """An output file. Hashes stay inside."""
    identifier = row["id"] if isinstance(row["id"], UUID) else UUID(row["id"])
    artifact_id = show(Prefix.ARTIFACT, identifier)
    shown: dict[str, Any] = {"id": artifact_id, "media_type": row["media_type"], "bytes": row["bytes"]}
    for name in ("width", "height", "duration_s"):
        if row.get(name) is not None:
            shown[name] = row[name]
    shown["url"] = f"/v1/artifacts/{artifact_id}"
    if row.get("thumbnail_sha256") is not None:
        shown["thumbnail_url"] = f"/v1/artifacts/{artifact_id}/thumbnail"
    return shown


def upload_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """An input file."""
    shown: dict[str, Any] = {
        "id": show(Prefix.UPLOAD, row["id"]),
        "media_type": row["media_type"],
        "bytes": row["bytes"],
        "expires_at": row["expires_at"],
    }
    for name in ("width", "height", "duration_s"):
        if row.get(name) is not None:
            shown[name] = row[name]
    return shown


def _shown_input(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != FILES_KEY}


# ------------------------------------------------------------------ events


def is_public(event: Mapping[str, Any]) -> bool:
    """Whether an event of job_events is for subscribers."""
    return event["job_seq"] is not None and event["type"] not in _INTERNAL_EVENTS


def event_data(event_type: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a durable event as subscribers see it."""
    if event_type == EventType.OUTPUT:
        return artifact_answer(data)
    shown: dict[str, Any] = {}
    for name, value in data.items():
        if value is None:
            continue
        if name == "error" and isinstance(value, Mapping):
            shown["error"] = error_answer(value, refunded_mt=data.get("refunded_mt") or 0)
        elif name.endswith("_mt"):
            shown[name.removesuffix("_mt") + "_tokens"] = tokens(value)
        else:
            shown[name] = value
    return shown


def sse(
    *, job_id: str, event_type: str, at: datetime, attempt: int, data: Mapping[str, Any], event_id: int | None = None
) -> bytes:
    """One server-sent event. Only durable ones have an id. https://html.spec.whatwg.org/multipage/server-sent-events.html"""
    body: dict[str, Any] = {"job_id": job_id, "type": event_type, "at": at, "attempt": attempt, "data": data}
    head = b""
    if event_id is not None:
        body = {"id": event_id, **body}
        head = b"id: %d\n" % event_id
    return b"%sevent: %s\ndata: %s\n\n" % (head, event_type.encode(), json_bytes(body))
