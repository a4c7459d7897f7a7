"""What became of webhooks: each with its tries, and brought once more on request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from tessera.api.auth import Caller, Reader, User
from tessera.api.jobs.answers import answer, page
from tessera.api.jobs.submissions import refuse_parameter
from tessera.api.schemas import base as schemas
from tessera.api.schemas import webhooks as webhook_schemas
from tessera.api.services import Services
from tessera.api.state import api_of
from tessera.deliveries import DeliveryState
from tessera.errors import Conflict, NotFound
from tessera.ids import Prefix, parse, show
from tessera.store.database import Row, Transaction

router = APIRouter(tags=["webhooks"], prefix="/v1")


@router.get(
    "/deliveries",
    response_model=None,
    summary="List the webhooks that were or will be sent",
    responses={200: {"model": webhook_schemas.DeliveryPage}, **schemas.problems(401, 403, 422, 429, 503)},
)
async def list_deliveries(
    request: Request,
    caller: Reader,
    endpoint_id: Annotated[str | None, Query(max_length=64, description="only to this endpoint")] = None,
    job_id: Annotated[str | None, Query(max_length=64, description="only of this job")] = None,
    state: DeliveryState | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before")] = None,
) -> Response:
    """The newest first, kept for 30 days after their end. `last_error` says why the last try failed."""
    rows = await api_of(request).services.db.rows(
        "list_deliveries",
        user_id=caller.user_id,
        endpoint_id=read_id(Prefix.ENDPOINT, "endpoint_id", endpoint_id),
        job_id=read_id(Prefix.JOB, "job_id", job_id),
        state=state.value if state else None,
        before=read_id(Prefix.DELIVERY, "cursor", cursor),
        limit=limit + 1,
    )
    shown, rest = rows[:limit], rows[limit:]
    return page([delivery_answer(row) for row in shown], show(Prefix.DELIVERY, shown[-1]["id"]) if rest else None)


@router.get(
    "/deliveries/{delivery_id}",
    response_model=None,
    summary="A webhook with its tries",
    responses={200: {"model": webhook_schemas.DeliveryWithLog}, **schemas.problems(401, 403, 404, 429, 503)},
)
async def get_delivery(request: Request, delivery_id: str, caller: Reader) -> Response:
    """Each try with the status, the milliseconds and the first bytes of the answer."""
    services = api_of(request).services
    row = await _row(services, caller, delivery_id)
    return answer(await with_log(services, row, delivery_answer(row)))


@router.post(
    "/deliveries/{delivery_id}/replay",
    status_code=202,
    response_model=None,
    summary="Send a webhook once more",
    responses={202: {"model": webhook_schemas.Delivery}, **schemas.problems(401, 403, 404, 409, 429, 503)},
)
async def replay(request: Request, delivery_id: str, caller: User) -> Response:
    """One that was delivered or given up is sent again, under the same `webhook-id` and with a day of tries of its own.
    409 while it is still under way."""
    services = api_of(request).services
    row = await _row(services, caller, delivery_id)
    async with services.db.transaction() as transaction:
        await replayed(transaction, row)
    return answer(delivery_answer(await _row(services, caller, delivery_id)), 202)


async def replayed(transaction: Transaction, row: Row) -> None:
    """Put a delivery back, and wake who brings it. Raises Conflict while it has not ended."""
    found = await transaction.row("replay_delivery", id=row["id"])
    if found is None:
        raise Conflict("This delivery has not ended yet, and nothing was changed. It is tried again by itself.")
    await transaction.rows("ring_deliveries", name=found["bot"] or found["target"])


async def with_log(services: Services, row: Row, shown: dict[str, Any]) -> dict[str, Any]:
    """The delivery with its tries."""
    tries = await services.db.rows("tries_of_delivery", id=row["id"])
    return {**shown, "log": [{name: value for name, value in one.items() if value is not None} for one in tries]}


def delivery_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """A delivery, without its log."""
    shown: dict[str, Any] = {
        "id": show(Prefix.DELIVERY, row["id"]),
        "event": row["event"],
        "state": row["state"],
        "tries": row["tries"],
        "created_at": row["created_at"],
    }
    if row["url"] is not None:
        shown["url"] = row["url"]
    if row["endpoint_id"] is not None:
        shown["endpoint_id"] = show(Prefix.ENDPOINT, row["endpoint_id"])
    if row["job_id"] is not None:
        shown["job_id"] = show(Prefix.JOB, row["job_id"])
    for name in ("job_seq", "next_try_at", "last_error", "ended_at"):
        if row[name] is not None:
            shown[name] = row[name]
    return shown


def read_id(prefix: Prefix, name: str, given: str | None) -> Any:
    """The id in a parameter, or None. Raises InvalidInput."""
    if given is None:
        return None
    try:
        return parse(prefix, given)
    except NotFound:
        raise refuse_parameter(name, f"is not an id like {prefix.value}_01k…") from None


async def _row(services: Services, caller: Caller, delivery_id: str) -> Row:
    row = await services.db.row("get_delivery", id=parse(Prefix.DELIVERY, delivery_id), user_id=caller.user_id)
    if row is None:
        raise NotFound(
            f"There is no delivery {delivery_id[:64]!r} of yours. GET /v1/deliveries lists those that there are."
        )
    return row
