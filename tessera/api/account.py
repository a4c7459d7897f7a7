"""Whose key this is, and what was used."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from tessera.api import schemas
from tessera.api.answers import answer
from tessera.api.auth import Caller, Reader
from tessera.api.plans import limits_answer
from tessera.api.services import Services
from tessera.api.state import api_of
from tessera.errors import Unauthorized
from tessera.ids import Prefix, show
from tessera.plans import tokens

router = APIRouter(tags=["account"])


@router.get(
    "/v1/me",
    response_model=None,
    summary="Whose key this is",
    responses={200: {"model": schemas.Me}, **schemas.problems(401, 429, 503)},
)
async def me(request: Request, caller: Reader) -> Response:
    """The user, the plan with its limits, and today's quota."""
    quota, now = await _quota(api_of(request).services, caller)
    return answer(
        {
            "id": show(Prefix.USER, caller.user_id),
            "name": caller.name,
            "plan": caller.plan,
            "tier": caller.tier.value,
            "scopes": sorted(caller.scopes),
            "limits": limits_answer(caller.limits),
            "quota": quota,
            "jobs": now,
        }
    )


@router.get(
    "/v1/usage",
    response_model=None,
    summary="What was used",
    responses={200: {"model": schemas.Usage}, **schemas.problems(401, 422, 429, 503)},
)
async def usage(
    request: Request,
    caller: Reader,
    days: Annotated[int, Query(ge=1, le=366, description="UTC days, today among them")] = 30,
) -> Response:
    """Tokens and jobs by day and kind, the newest day first. Kind `account` is what was given back for days gone by."""
    services = api_of(request).services
    rows = await services.db.rows("usage_of_user", user_id=caller.user_id, days=days)
    quota, _ = await _quota(services, caller)
    data = [
        {"day": row["day"], "kind": row["kind"], "used_tokens": tokens(row["used_mt"]), "jobs": row["jobs"]}
        for row in rows
    ]
    return answer({"data": data, "today": quota})


async def _quota(services: Services, caller: Caller) -> tuple[dict[str, Any], dict[str, int]]:
    row = await services.db.row("quota_of_user", user_id=caller.user_id)
    if row is None:
        raise Unauthorized("The user of this API key no longer exists.")
    quota = {
        "used_tokens": tokens(row["used_mt"]),
        "daily_tokens": tokens(row["daily_mt"]),
        "remaining_tokens": tokens(max(0, row["daily_mt"] - row["used_mt"])),
        "resets_at": row["resets_at"],
    }
    return quota, {"queued": row["queued"], "running": row["running"]}
