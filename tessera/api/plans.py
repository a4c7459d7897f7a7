"""The plans: what each costs and allows. Needs no key."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from tessera.api.auth import limits_of
from tessera.api.jobs.answers import page
from tessera.api.schemas import base as schemas
from tessera.api.state import api_of
from tessera.plans import Limits, tokens

router = APIRouter(tags=["catalogue"])


@router.get(
    "/v1/plans",
    response_model=None,
    summary="List the plans",
    responses={200: {"model": schemas.PlanPage}, **schemas.problems(503)},
    openapi_extra={"security": []},
)
async def list_plans(request: Request) -> Response:
    """The smallest first."""
    rows = await api_of(request).services.db.rows("list_plans")
    return page(
        [
            {
                "id": row["id"],
                "title": row["title"],
                "price_usd_per_month": _dollars(row["price_usd_cents"]),
                "daily_tokens": tokens(row["daily_mt"]),
                "tier": row["tier"],
                "limits": limits_answer(limits_of(row)),
            }
            for row in rows
        ]
    )


def limits_answer(limits: Limits) -> dict[str, Any]:
    """Limits with tokens instead of millitokens."""
    return {
        "daily_tokens": tokens(limits.daily_mt),
        "submissions_per_min": limits.submissions_per_min,
        "requests_per_min": limits.requests_per_min,
        "max_queued": limits.max_queued,
        "max_running": limits.max_running,
        "max_image_px": limits.max_image_px,
        "max_video_s": limits.max_video_s,
        "retention_days": limits.retention_days,
    }


def _dollars(cents: int) -> int | float:
    return cents // 100 if cents % 100 == 0 else cents / 100
