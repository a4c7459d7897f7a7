"""Reports of abuse: a job or a file should not be there, says somebody. Operators decide (``admin/reports.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from tessera.api.artifacts.shares import LAST_SECOND, shared_row
from tessera.api.auth import Caller, Reader, User
from tessera.api.jobs.answers import answer, page
from tessera.api.jobs.routes import read_cursor
from tessera.api.jobs.submissions import read_object, refuse, refuse_unknown
from tessera.api.schemas import base as schemas
from tessera.api.schemas import moderation as moderation_schemas
from tessera.api.services import Services
from tessera.api.state import api_of
from tessera.errors import Forbidden, NotFound, RateLimited
from tessera.ids import Prefix, new_id, parse, show
from tessera.share_links import PATH
from tessera.store.database import Row

router = APIRouter(tags=["account"])

MAX_REASON_CHARS = 1000
MAX_OPEN = 50  # reports of one person that wait: more are noise, and would bury those of others
ABOUT = ("job_id", "artifact_id", "shared_url")


@router.post(
    "/v1/reports",
    status_code=201,
    response_model=None,
    summary="Report abuse",
    responses={
        200: {"model": moderation_schemas.Report, "description": "You have reported it before; it still waits."},
        201: {"model": moderation_schemas.Report},
        **schemas.problems(400, 401, 403, 404, 422, 429, 503),
    },
    openapi_extra={"requestBody": moderation_schemas.REPORT_BODY},
)
async def report(request: Request, caller: User) -> Response:
    """Of a job or file of one's own, or of somebody else's file by the link to it (`shared_url`). A bot that acts for a
    person may name anybody's job or file: it has shown it to them. An operator looks at it; nothing happens before.

    The owner is never told who has reported. Safe to repeat: a report that still waits is answered again.
    """
    body = read_object(await request.body())
    refuse_unknown(body, (*ABOUT, "reason", "category"))
    reason, category = _reason(body), _category(body)
    services = api_of(request).services
    job_id, artifact_id, owner_id = await _about(services, caller, body)
    async with services.db.transaction() as transaction:
        counted = await transaction.row("count_open_reports_of", reporter_id=caller.user_id)
        if counted is not None and counted["waiting"] >= MAX_OPEN:
            raise RateLimited(
                f"{MAX_OPEN} of your reports wait for an operator. Nothing was reported; try again tomorrow.",
                retry_after_s=86_400.0,
            )
        made = await transaction.execute(
            "insert_report",
            id=new_id(),
            job_id=job_id,
            artifact_id=artifact_id,
            owner_id=owner_id,
            reporter_id=caller.user_id,
            category=category,
            reason=reason,
        )
        row = await transaction.row("open_report_of", reporter_id=caller.user_id, about=artifact_id or job_id)
    assert row is not None
    return answer(report_answer(row), 201 if made else 200)


@router.get(
    "/v1/reports",
    response_model=None,
    summary="List one's reports",
    responses={200: {"model": moderation_schemas.ReportPage}, **schemas.problems(401, 403, 422, 429, 503)},
)
async def list_reports(
    request: Request,
    caller: Reader,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before")] = None,
) -> Response:
    """What the user has reported, the newest first, and what became of it."""
    rows = await api_of(request).services.db.rows(
        "list_reports_of", reporter_id=caller.user_id, before=read_cursor(Prefix.REPORT, cursor), limit=limit + 1
    )
    data = [report_answer(row) for row in rows[:limit]]
    return page(data, data[-1]["id"] if len(rows) > limit else None)


def report_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """A report as who made it sees it."""
    shown: dict[str, Any] = {
        "id": show(Prefix.REPORT, row["id"]),
        "category": row["category"],
        "reason": row["reason"],
        "state": row["state"],
        "created_at": row["created_at"],
    }
    for name, prefix in (("job_id", Prefix.JOB), ("artifact_id", Prefix.ARTIFACT)):
        if row[name] is not None:
            shown[name] = show(prefix, row[name])
    if row["reviewed_at"] is not None:
        shown["reviewed_at"] = row["reviewed_at"]
    return shown


async def _about(services: Services, caller: Caller, body: Mapping[str, Any]) -> tuple[UUID, UUID | None, UUID]:
    """Job, file and owner of what is reported. Raises InvalidInput, NotFound, Forbidden."""
    given = [name for name in ABOUT if body.get(name) is not None]
    if len(given) != 1 or not isinstance(body[given[0]], str):
        raise refuse(given[0] if given else "job_id", f"give exactly one of {', '.join(ABOUT)}, as a text")
    name, value = given[0], str(body[given[0]])
    may_any = caller.identity is not None
    if name == "job_id":
        job = await services.db.row("job_for_report", id=parse(Prefix.JOB, value), user_id=caller.user_id, any=may_any)
        if job is None:
            raise NotFound(f"There is no job {value[:64]!r} of yours. To report somebody else's, give the link to it.")
        return job["id"], None, job["user_id"]
    if name == "artifact_id":
        found = await services.db.row(
            "artifact_for_report", id=parse(Prefix.ARTIFACT, value), user_id=caller.user_id, any=may_any
        )
        if found is None:
            raise NotFound(f"There is no file {value[:64]!r} of yours. To report somebody else's, give the link to it.")
    else:
        found = await _shared(services, value)
    return found["job_id"], found["id"], found["user_id"]


async def _shared(services: Services, url: str) -> Row:
    """The artifact of a link, with or without a server before its path. Raises InvalidInput, Forbidden, NotFound."""
    wrong = refuse("shared_url", "must be a link to a file, as POST /v1/artifacts/{artifact_id}/share makes them")
    try:
        parts = urlsplit(url[:2048])
        query = parse_qs(parts.query)
        expires, key = int(query["expires"][0]), int(query["key"][0])
        signature = query["signature"][0]
    except (ValueError, KeyError):
        raise wrong from None
    head, _, artifact_id = parts.path.rpartition("/")
    if head != PATH or not 0 <= expires <= LAST_SECOND or not 0 <= key < 2**31:
        raise wrong
    try:
        return await shared_row(services, artifact_id, expires=expires, key=key, signature=signature)
    except Forbidden as error:
        raise refuse("shared_url", error.message) from None


def _reason(body: Mapping[str, Any]) -> str:
    value = body.get("reason")
    if not isinstance(value, str) or not value.strip():
        raise refuse("reason", "is missing: say what is wrong" if value is None else "must be a text that is not empty")
    if len(value) > MAX_REASON_CHARS or "\x00" in value or (not value.isascii() and not _encodable(value)):
        raise refuse("reason", f"must have at most {MAX_REASON_CHARS} characters that can be stored")
    return value.strip()


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _category(body: Mapping[str, Any]) -> str:
    value = body.get("category", moderation_schemas.ReportCategory.OTHER)
    if value not in list(moderation_schemas.ReportCategory):
        raise refuse("category", f"must be one of {', '.join(moderation_schemas.ReportCategory)}")
    return str(value)
