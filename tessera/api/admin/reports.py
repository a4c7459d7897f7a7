"""Reports of abuse, and jobs that a rule has flagged, as operators review them.

Every act leaves a row in audit_log, in the same transaction; also that somebody looked at a reported file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from tessera.api.admin.rules import read_note
from tessera.api.artifacts.files import BYTES, file_of
from tessera.api.auth import Caller, Operator
from tessera.api.jobs.answers import FILES_KEY, answer, page
from tessera.api.jobs.routes import read_cursor
from tessera.api.jobs.submissions import read_object, refuse
from tessera.api.reports import report_answer
from tessera.api.schemas import base as schemas
from tessera.api.schemas import moderation as moderation_schemas
from tessera.api.state import api_of
from tessera.errors import Conflict, NotFound
from tessera.ids import Prefix, parse, show
from tessera.plans import tokens
from tessera.store.database import Row, Transaction

router = APIRouter(tags=["operator"], prefix="/v1/admin")


@router.get(
    "/reports",
    response_model=None,
    summary="List the reports",
    responses={200: {"model": moderation_schemas.ReviewPage}, **schemas.problems(401, 403, 404, 422, 429, 503)},
)
async def list_reports(
    request: Request,
    caller: Operator,
    state: Annotated[moderation_schemas.ReportState | None, Query()] = None,
    user_id: Annotated[str | None, Query(max_length=64, description="only of this user's jobs")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """The newest first, with the prompt that each is about. Jobs that a rule has flagged are among them, with category
    `flagged` and without a reporter."""
    db = api_of(request).services.db
    before = None
    if cursor is not None:
        before = await db.row("get_report", id=read_cursor(Prefix.REPORT, cursor))
        if before is None:
            raise refuse("cursor", "is not one of ours: take 'next_cursor' of the page before")
    rows = await db.rows(
        "list_reports",
        state=state,
        owner_id=parse(Prefix.USER, user_id) if user_id is not None else None,
        before_at=before["created_at"] if before is not None else None,
        before=before["id"] if before is not None else None,
        limit=limit + 1,
    )
    data = [_review_answer(row) for row in rows[:limit]]
    return page(data, data[-1]["id"] if len(rows) > limit else None)


@router.get(
    "/reports/{report_id}",
    response_model=None,
    summary="A report",
    responses={200: {"model": moderation_schemas.Review}, **schemas.problems(401, 403, 404, 429, 503)},
)
async def get_report(request: Request, report_id: str, caller: Operator) -> Response:
    """With what it is about."""
    return answer(_review_answer(await _report(request, report_id)))


@router.get(
    "/reports/{report_id}/artifacts/{artifact_id}",
    response_model=None,
    summary="A reported file",
    responses={
        200: {"content": BYTES},
        206: {"description": "The asked range."},
        304: {"description": "You have it already (If-None-Match)."},
        **schemas.problems(401, 403, 404, 410, 416, 429, 503),
    },
)
async def get_reported_file(request: Request, report_id: str, artifact_id: str, caller: Operator) -> Response:
    """A file of the reported job, also a withheld one, for the review. That it was looked at is in the audit log."""
    report = await _report(request, report_id)
    identifier = parse(Prefix.ARTIFACT, artifact_id)
    services = api_of(request).services
    async with services.db.transaction() as transaction:
        row = await transaction.row("artifact_for_review", id=identifier)
        if row is None or row["job_id"] != report["job_id"]:
            raise NotFound(f"There is no file {artifact_id[:64]!r} that this report is about.")
        await _audit(
            transaction, caller, "view_reported_file", show(Prefix.REPORT, report["id"]), {"file": artifact_id}
        )
    return file_of(services, request, row, artifact_id)


@router.post(
    "/reports/{report_id}/uphold",
    response_model=None,
    summary="Uphold a report",
    responses={200: {"model": moderation_schemas.Review}, **schemas.problems(400, 401, 403, 404, 409, 422, 429, 503)},
    openapi_extra={"requestBody": moderation_schemas.REVIEW_BODY},
)
async def uphold(request: Request, report_id: str, caller: Operator) -> Response:
    """Withholds the file, or all that the job has made: whoever asks for it gets 451. Its owner gets back what was
    charged for it, three times a day. A waiting job is ended; for a running one its end is asked for and the answer is
    409: uphold the report again when it has ended."""
    note = read_note(read_object(await request.body() or b"{}"))
    identifier = parse(Prefix.REPORT, report_id)
    row = await api_of(request).services.db.row(
        "uphold_report",
        id=identifier,
        actor=show(Prefix.USER, caller.user_id),
        subject=show(Prefix.REPORT, identifier),
        note=note,
    )
    assert row is not None
    match row["outcome"]:
        case "unknown":
            raise _no_report(report_id)
        case "reviewed":
            raise Conflict("This report was reviewed already. Nothing was changed.")
        case "running":
            raise Conflict(
                "The job still runs. Its end was asked for, and nothing is withheld yet: uphold the report again in a"
                " few seconds."
            )
    return answer(_review_answer(await _report(request, report_id)))


@router.post(
    "/reports/{report_id}/dismiss",
    response_model=None,
    summary="Dismiss a report",
    responses={200: {"model": moderation_schemas.Review}, **schemas.problems(400, 401, 403, 404, 409, 422, 429, 503)},
    openapi_extra={"requestBody": moderation_schemas.REVIEW_BODY},
)
async def dismiss(request: Request, report_id: str, caller: Operator) -> Response:
    """Nothing happens to the job and its files."""
    note = read_note(read_object(await request.body() or b"{}"))
    report = await _report(request, report_id)
    async with api_of(request).services.db.transaction() as transaction:
        actor = show(Prefix.USER, caller.user_id)
        if not await transaction.execute("dismiss_report", id=report["id"], actor=actor, note=note):
            raise Conflict("This report was reviewed already. Nothing was changed.")
        await _audit(transaction, caller, "dismiss_report", show(Prefix.REPORT, report["id"]), {"note": note})
    return answer(_review_answer(await _report(request, report_id)))


async def _report(request: Request, report_id: str) -> Row:
    row = await api_of(request).services.db.row("get_report", id=parse(Prefix.REPORT, report_id))
    if row is None:
        raise _no_report(report_id)
    return row


def _review_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    shown = report_answer(row)
    for name, prefix in (("owner_id", Prefix.USER), ("reporter_id", Prefix.USER)):
        if row[name] is not None:
            shown[name] = show(prefix, row[name])
    if row["reviewed_by"] is not None:
        shown |= {
            "reviewed_by": row["reviewed_by"],
            "note": row["note"],
            "refunded_tokens": tokens(row["refunded_mt"]),
        }
    if row["kind"] is not None:
        marks: Mapping[str, Any] = row["moderation"] or {}
        shown["job"] = {
            "kind": row["kind"],
            "state": row["job_state"],
            "input": {name: value for name, value in row["input"].items() if name != FILES_KEY},
            "rules": list(marks.get("rules", [])),
            "withheld": bool(marks.get("withheld")),
        }
    return shown


async def _audit(transaction: Transaction, caller: Caller, action: str, subject: str, data: Mapping[str, Any]) -> None:
    await transaction.execute(
        "insert_audit", actor=show(Prefix.USER, caller.user_id), action=action, subject=subject, data=dict(data)
    )


def _no_report(report_id: str) -> NotFound:
    return NotFound(f"There is no report {report_id[:64]!r}. GET /v1/admin/reports lists those that there are.")
