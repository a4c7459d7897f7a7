"""What an operator does with the queue: pause a kind, so that none of its jobs starts, and end the pause.

A pause is a row; the scheduler reads it within a second, woken by the same transaction. Every act leaves a row in
audit_log, in that transaction too. Submissions are taken all the time, and what runs goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from tessera.api.auth import Caller, Operator
from tessera.api.jobs.answers import answer, page
from tessera.api.jobs.submissions import read_object, refuse, refuse_unknown
from tessera.api.schemas import base as schemas
from tessera.api.schemas import bodies
from tessera.api.state import api_of
from tessera.errors import NotFound
from tessera.ids import Prefix, show
from tessera.jobs import Kind
from tessera.store.database import Row, Transaction

router = APIRouter(tags=["operator"], prefix="/v1/admin")

MAX_MESSAGE = 200


@router.get(
    "/queue",
    response_model=None,
    summary="List the paused kinds",
    responses={200: {"model": schemas.PausePage}, **schemas.problems(401, 403, 429, 503)},
)
async def list_pauses(request: Request, caller: Operator) -> Response:
    """Empty while every kind is served."""
    rows = await api_of(request).services.db.rows("live_pauses")
    return page([_pause_answer(row) for row in rows])


@router.post(
    "/queue/{kind}/pause",
    response_model=None,
    summary="Pause a kind",
    responses={200: {"model": schemas.PauseAnswer}, **schemas.problems(400, 401, 403, 404, 422, 429, 503)},
    openapi_extra={"requestBody": bodies.PAUSE_BODY},
)
async def pause(request: Request, kind: str, caller: Operator) -> Response:
    """No job of the kind starts until the pause is ended. Those that run go on, those that wait keep their place, new
    ones are accepted; who asks why theirs waits is shown the message. Repeated, the pause gets the new message."""
    body = read_object(await request.body() or b"{}")
    refuse_unknown(body, ("message",))
    message, known = _read_message(body), _read_kind(kind)
    async with api_of(request).services.db.transaction() as transaction:
        actor = show(Prefix.USER, caller.user_id)
        row = await transaction.row("set_pause", kind=known, message=message, actor=actor)
        assert row is not None
        await _audit(transaction, caller, "pause", known, {"message": message})
        await transaction.execute("tell_pauses_changed")
    return answer(_pause_answer(row))


@router.post(
    "/queue/{kind}/resume",
    response_model=None,
    summary="End the pause of a kind",
    responses={200: {"model": schemas.UnpauseAnswer}, **schemas.problems(401, 403, 404, 429, 503)},
)
async def resume(request: Request, kind: str, caller: Operator) -> Response:
    """Its jobs start again, each in its place. Safe to repeat: `resumed` says whether there was a pause."""
    known = _read_kind(kind)
    async with api_of(request).services.db.transaction() as transaction:
        row = await transaction.row("clear_pause", kind=known)
        if row is not None:
            since = row["created_at"].isoformat()
            await _audit(transaction, caller, "unpause", known, {"message": row["message"], "since": since})
            await transaction.execute("tell_pauses_changed")
    return answer({"kind": known, "resumed": row is not None})


def _read_kind(kind: str) -> str:
    if kind not in set(Kind):
        raise NotFound(f"There is no kind {kind[:64]!r}, and nothing was changed. Kinds: {', '.join(Kind)}.")
    return kind


def _read_message(body: Mapping[str, Any]) -> str:
    value = body.get("message", "")
    if not isinstance(value, str) or len(value) > MAX_MESSAGE or not value.isprintable():
        raise refuse("message", f"must be a text of at most {MAX_MESSAGE} characters on one line")
    return value


def _pause_answer(row: Row) -> dict[str, Any]:
    return {"kind": row["kind"], "message": row["message"], "actor": row["actor"], "since": row["created_at"]}


async def _audit(transaction: Transaction, caller: Caller, action: str, kind: str, data: Mapping[str, Any]) -> None:
    await transaction.execute(
        "insert_audit", actor=show(Prefix.USER, caller.user_id), action=action, subject=kind, data=dict(data)
    )
