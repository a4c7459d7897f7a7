"""Where a user's events go to: the endpoints of the account, and the secrets that sign what is sent (docs/webhooks.md).

A secret can be read again by who could replace it anyway. A new one signs beside the old one for a while.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response

from tessera.api.auth import Caller, Reader, User
from tessera.api.deliveries.fields import read_events, read_number, read_url
from tessera.api.deliveries.log import delivery_answer
from tessera.api.deliveries.sender import account_secret
from tessera.api.jobs.answers import answer, page
from tessera.api.jobs.submissions import read_object, refuse, refuse_unknown
from tessera.api.schemas import base as schemas
from tessera.api.schemas import webhooks as webhook_schemas
from tessera.api.services import Services
from tessera.api.state import api_of
from tessera.deliveries import SECRET_BYTES, TEST_EVENT, show_secret
from tessera.errors import Conflict, NotFound
from tessera.ids import Prefix, new_id, parse, show
from tessera.store.database import Row

router = APIRouter(tags=["webhooks"], prefix="/v1")

MAX_ENDPOINTS = 20
MAX_DESCRIPTION_CHARS = 200
DEFAULT_OVERLAP_S, MAX_OVERLAP_S = 86_400.0, 604_800.0
_PRIVATE = {"Cache-Control": "no-store"}


@router.post(
    "/webhook-endpoints",
    status_code=201,
    response_model=None,
    summary="Add a webhook endpoint",
    responses={201: {"model": webhook_schemas.NewEndpoint}, **schemas.problems(400, 401, 403, 409, 413, 422, 429, 503)},
    openapi_extra={"requestBody": webhook_schemas.ENDPOINT_BODY},
)
async def create(request: Request, caller: User) -> Response:
    """The events of all your jobs are sent there from now on, signed with `secret`. Only public addresses are reached,
    and no redirect is followed. Test it with `POST /v1/webhook-endpoints/{id}/test`."""
    services = api_of(request).services
    body = read_object(await request.body())
    refuse_unknown(body, ("url", "events", "description"))
    endpoint_id, secret = new_id(), secrets.token_bytes(SECRET_BYTES)
    async with services.db.transaction() as transaction:
        await transaction.rows("lock_user_of_endpoints", user_id=caller.user_id)
        added = await transaction.execute(
            "insert_endpoint",
            id=endpoint_id,
            user_id=caller.user_id,
            url=read_url(body.get("url"), services.outbound, "url"),
            secret=secret,
            events=read_events(body.get("events"), "events"),
            description=_description(body) or "",
            most=MAX_ENDPOINTS,
        )
    if not added:
        raise Conflict(
            f"There are {MAX_ENDPOINTS} endpoints already. Nothing was added; delete one that is not needed."
        )
    row = await _row(services, caller, show(Prefix.ENDPOINT, endpoint_id))
    return answer({**endpoint_answer(row), "secret": show_secret(secret)}, 201, _PRIVATE)


@router.get(
    "/webhook-endpoints",
    response_model=None,
    summary="List the webhook endpoints",
    responses={200: {"model": webhook_schemas.EndpointPage}, **schemas.problems(401, 403, 429, 503)},
)
async def list_endpoints(request: Request, caller: Reader) -> Response:
    """The newest first; disabled ones too."""
    rows = await api_of(request).services.db.rows("list_endpoints", user_id=caller.user_id)
    return page([endpoint_answer(row) for row in rows])


@router.get(
    "/webhook-endpoints/{endpoint_id}",
    response_model=None,
    summary="A webhook endpoint",
    responses={200: {"model": webhook_schemas.Endpoint}, **schemas.problems(401, 403, 404, 429, 503)},
)
async def get_endpoint(request: Request, endpoint_id: str, caller: Reader) -> Response:
    """Without its secret, which has a route of its own."""
    return answer(endpoint_answer(await _row(api_of(request).services, caller, endpoint_id)))


@router.patch(
    "/webhook-endpoints/{endpoint_id}",
    response_model=None,
    summary="Change a webhook endpoint",
    responses={200: {"model": webhook_schemas.Endpoint}, **schemas.problems(400, 401, 403, 404, 413, 422, 429, 503)},
    openapi_extra={"requestBody": webhook_schemas.CHANGE_BODY},
)
async def change(request: Request, endpoint_id: str, caller: User) -> Response:
    """Fields that are left out stay. `disabled: true` ends what waits for it; `false` takes it up again, also after it
    answered 410 or failed for days, with the events from then on: replay what was missed."""
    services = api_of(request).services
    body = read_object(await request.body())
    refuse_unknown(body, ("url", "events", "description", "disabled"))
    disabled = body.get("disabled")
    if disabled is not None and not isinstance(disabled, bool):
        raise refuse("disabled", "must be true or false")
    identifier = _parse(endpoint_id)
    url = read_url(body["url"], services.outbound, "url") if body.get("url") is not None else None
    events = read_events(body["events"], "events") if body.get("events") is not None else None
    async with services.db.transaction() as transaction:
        changed = await transaction.execute(
            "change_endpoint",
            id=identifier,
            user_id=caller.user_id,
            url=url,
            events=events,
            description=_description(body),
            disabled=disabled,
        )
        if not changed:
            raise _no_endpoint(endpoint_id)
        await transaction.rows("ring_deliveries", name=str(identifier))
    return answer(endpoint_answer(await _row(services, caller, endpoint_id)))


@router.delete(
    "/webhook-endpoints/{endpoint_id}",
    status_code=204,
    response_model=None,
    summary="Delete a webhook endpoint",
    responses={204: {"description": "Nothing more is sent there."}, **schemas.problems(401, 403, 404, 429, 503)},
)
async def delete(request: Request, endpoint_id: str, caller: User) -> Response:
    """What waits for it is given up; its log stays for a month."""
    identifier = _parse(endpoint_id)
    async with api_of(request).services.db.transaction() as transaction:
        if not await transaction.execute("delete_endpoint", id=identifier, user_id=caller.user_id):
            raise _no_endpoint(endpoint_id)
        await transaction.rows("ring_deliveries", name=str(identifier))
    return Response(status_code=204)


@router.get(
    "/webhook-endpoints/{endpoint_id}/secret",
    response_model=None,
    summary="The secret of a webhook endpoint",
    responses={200: {"model": webhook_schemas.Secret}, **schemas.problems(401, 403, 404, 429, 503)},
)
async def get_secret(request: Request, endpoint_id: str, caller: User) -> Response:
    """For a library of Standard Webhooks, as it is."""
    services = api_of(request).services
    row = await services.db.row("secret_of_endpoint", id=_parse(endpoint_id), user_id=caller.user_id)
    if row is None:
        raise _no_endpoint(endpoint_id)
    return answer(_secret_answer(services, row), headers=_PRIVATE)


@router.post(
    "/webhook-endpoints/{endpoint_id}/rotate",
    response_model=None,
    summary="Replace the secret of a webhook endpoint",
    responses={200: {"model": webhook_schemas.Secret}, **schemas.problems(400, 401, 403, 404, 413, 422, 429, 503)},
    openapi_extra={"requestBody": webhook_schemas.ROTATE_BODY},
)
async def rotate(request: Request, endpoint_id: str, caller: User) -> Response:
    """For `overlap_s` (a day without) each webhook carries two signatures, so that a receiver may still have the old
    secret. Rotated again meanwhile, the older one of the two ends at once."""
    services = api_of(request).services
    row = await services.db.row(
        "rotate_secret_of_endpoint",
        id=_parse(endpoint_id),
        user_id=caller.user_id,
        secret=secrets.token_bytes(SECRET_BYTES),
        overlap_s=_overlap_s(await request.body()),
    )
    if row is None:
        raise _no_endpoint(endpoint_id)
    return answer(_secret_answer(services, row), headers=_PRIVATE)


@router.post(
    "/webhook-endpoints/{endpoint_id}/test",
    status_code=202,
    response_model=None,
    summary="Test a webhook endpoint",
    responses={202: {"model": webhook_schemas.Delivery}, **schemas.problems(401, 403, 404, 409, 429, 503)},
)
async def test(request: Request, endpoint_id: str, caller: User) -> Response:
    """Send an event of type `test`, as any other is sent. `GET /v1/deliveries/{id}` tells what came of it."""
    services = api_of(request).services
    row = await _row(services, caller, endpoint_id)
    if row["disabled_at"] is not None:
        raise Conflict(
            "This endpoint is disabled, and nothing was sent. Enable it first: PATCH it with disabled: false."
        )
    async with services.db.transaction() as transaction:
        added = await transaction.row(
            "add_test_delivery", endpoint_id=row["id"], user_id=caller.user_id, event=TEST_EVENT
        )
        assert added is not None
        await transaction.rows("ring_deliveries", name=str(row["id"]))
    delivery = await services.db.row("get_delivery", id=added["id"], user_id=caller.user_id)
    assert delivery is not None
    return answer(delivery_answer(delivery), 202)


@router.get(
    "/webhook-secret",
    response_model=None,
    summary="The secret of your jobs' own webhooks",
    responses={200: {"model": webhook_schemas.Secret}, **schemas.problems(401, 403, 429, 503)},
)
async def get_account_secret(request: Request, caller: User) -> Response:
    """What signs the webhooks that a job names in `webhook`; endpoints have their own secrets."""
    services = api_of(request).services
    return answer(_secret_answer(services, await account_secret(services.db, caller.user_id)), headers=_PRIVATE)


@router.post(
    "/webhook-secret/rotate",
    response_model=None,
    summary="Replace the secret of your jobs' own webhooks",
    responses={200: {"model": webhook_schemas.Secret}, **schemas.problems(400, 401, 403, 413, 422, 429, 503)},
    openapi_extra={"requestBody": webhook_schemas.ROTATE_BODY},
)
async def rotate_account_secret(request: Request, caller: User) -> Response:
    """With two signatures for `overlap_s`, as for an endpoint."""
    services = api_of(request).services
    overlap_s = _overlap_s(await request.body())
    await account_secret(services.db, caller.user_id)
    row = await services.db.row(
        "rotate_webhook_secret",
        user_id=caller.user_id,
        secret=secrets.token_bytes(SECRET_BYTES),
        overlap_s=overlap_s,
    )
    assert row is not None
    return answer(_secret_answer(services, row), headers=_PRIVATE)


def endpoint_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """An endpoint, without its secret."""
    shown: dict[str, Any] = {
        "id": show(Prefix.ENDPOINT, row["id"]),
        "url": row["url"],
        "events": list(row["events"]),
        "description": row["description"],
        "created_at": row["created_at"],
        "disabled": row["disabled_at"] is not None,
        "failed_in_a_row": row["failed_in_a_row"],
    }
    for name in ("disabled_at", "disabled_reason"):
        if row[name] is not None:
            shown[name] = row[name]
    return shown


def _secret_answer(services: Services, row: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"secret": show_secret(bytes(row["secret"]))}
    if row["old_secret_until"] is not None and row["old_secret_until"] > services.clock():
        shown["old_secret_until"] = row["old_secret_until"]
    return shown


def _overlap_s(raw: bytes) -> float:
    body = read_object(raw or b"{}")
    refuse_unknown(body, ("overlap_s",))
    found = read_number(body, "overlap_s", default=DEFAULT_OVERLAP_S, low=0, high=MAX_OVERLAP_S)
    assert found is not None
    return found


def _description(body: Mapping[str, Any]) -> str | None:
    value = body.get("description")
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > MAX_DESCRIPTION_CHARS or not value.isprintable():
        raise refuse("description", f"must be a text of at most {MAX_DESCRIPTION_CHARS} characters on one line")
    return value


async def _row(services: Services, caller: Caller, endpoint_id: str) -> Row:
    """The user's endpoint. Raises NotFound, also for somebody else's."""
    row = await services.db.row("get_endpoint", id=_parse(endpoint_id), user_id=caller.user_id)
    if row is None:
        raise _no_endpoint(endpoint_id)
    return row


def _parse(endpoint_id: str) -> UUID:
    return parse(Prefix.ENDPOINT, endpoint_id)


def _no_endpoint(endpoint_id: str) -> NotFound:
    return NotFound(
        f"There is no webhook endpoint {endpoint_id[:64]!r} of yours. GET /v1/webhook-endpoints lists them."
    )
