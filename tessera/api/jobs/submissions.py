"""From the body of POST /v1/jobs to a Submission: read, checked field by field, completed with its files, priced.

Nothing here writes. What is refused costs nothing, and the refusal names the field.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from tessera.admission import Submission
from tessera.api.auth import Caller
from tessera.api.jobs.answers import FILES_KEY
from tessera.api.services import Services
from tessera.catalog import Model
from tessera.errors import BadRequest, InvalidInput, NotFound
from tessera.ids import Prefix, new_id, parse
from tessera.inputs import FILE_FIELDS, AnyInput, ImageInput, TranscriptionInput, parse_input
from tessera.jobs import Kind, Tier
from tessera.plans import check_limits
from tessera.pricing import price_mt
from tessera.store.database import Row

MAX_METADATA_BYTES = 4096
MAX_METADATA_DEPTH = 8
MAX_IDEMPOTENCY_KEY_CHARS = 255
MAX_AHEAD = timedelta(days=30)  # of not_before: longer than any plan but pro keeps a job
SEEDS = 2**32  # of those that we choose: short enough to be typed again
MAX_SCALED_PX = 4096 * 4096  # the largest picture of the product; a plan's limit may be smaller

FIELDS = (
    "kind",
    "model",
    "input",
    "tier",
    "metadata",
    "deadline",
    "not_before",
    "webhook",
    "delivery",
    "age_restricted",
)
_NOTHING = "Nothing was submitted or charged."


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A body that can be understood; not yet who asks, nor what it costs."""

    kind: Kind
    model: str | None
    data: AnyInput
    batch: bool
    metadata: Mapping[str, Any]
    deadline: datetime | None
    not_before: datetime | None
    body: Mapping[str, Any]
    age_restricted: bool = False  # whether such content may be shown where it is asked for


def refuse(field: str, message: str) -> InvalidInput:
    """The refusal of one field."""
    return InvalidInput(f"{_NOTHING} {field}: {message}", errors=[{"field": field, "message": message}])


def refuse_parameter(name: str, message: str) -> InvalidInput:
    """The refusal of one parameter of a question."""
    return InvalidInput(
        f"The request is not valid, and nothing was done. {name}: {message}",
        errors=[{"field": name, "message": message}],
    )


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises BadRequest."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        hint = "" if body else " The body is empty."
        raise BadRequest(
            f"The body is not valid JSON ({error.msg}, line {error.lineno}, column {error.colno}).{hint}"
            " Nothing was done; send a JSON object."
        ) from None
    if not isinstance(found, dict):
        raise BadRequest("The body is valid JSON, but not an object. Nothing was done; send {…}.")
    return found


def refuse_unknown(body: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raises InvalidInput, by name, for fields that nobody would read."""
    for name in body:
        if name not in known:
            shown = name[:64].replace("\x00", "\N{SYMBOL FOR NULL}")
            raise refuse(shown, f"unknown field; the body takes {', '.join(known)}")


def read_submission(raw: bytes, now: datetime) -> Wanted:
    """Check everything that the body alone can tell. Raises BadRequest or InvalidInput."""
    body = read_object(raw)
    refuse_unknown(body, FIELDS)
    kind = _kind(body.get("kind"))
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise refuse("model", "must be a text, the id of a model from GET /v1/models")
    data = body.get("input")
    if not isinstance(data, dict):
        raise refuse("input", "must be an object with the fields of the kind" if "input" in body else "is missing")
    if body.get("tier") not in (None, "batch"):
        raise refuse("tier", 'can only be "batch", for work that may wait; any other tier follows from the plan')
    deadline = read_time(body, "deadline")
    not_before = read_time(body, "not_before")
    if deadline is not None and deadline <= now:
        raise refuse("deadline", "is over already")
    if not_before is not None and not_before > now + MAX_AHEAD:
        raise refuse("not_before", f"can be at most {MAX_AHEAD.days} days ahead")
    if deadline is not None and not_before is not None and deadline <= not_before:
        raise refuse("deadline", "must be after not_before")
    return Wanted(
        kind=kind,
        model=model,
        data=parse_input(kind, data),
        batch=body.get("tier") == "batch",
        metadata=read_metadata(body.get("metadata")),
        deadline=deadline,
        not_before=not_before,
        body=body,
        age_restricted=_age_restricted(body),
    )


def plainly(
    kind: Kind,
    model: str | None,
    data: AnyInput,
    *,
    body: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    batch: bool = False,
) -> Wanted:
    """What another shape of the API asks for: an input that is checked already, to be run as soon as can be.

    ``body`` is what an Idempotency-Key is bound to. Raises InvalidInput for metadata that cannot be stored.
    """
    return Wanted(
        kind=kind,
        model=model,
        data=data,
        batch=batch,
        metadata=read_metadata(metadata),
        deadline=None,
        not_before=None,
        body=body,
    )


def wanted_again(job: Mapping[str, Any]) -> Wanted:
    """What a job that has ended wanted: the same, now. Raises InvalidInput for an input that is valid no more.

    Its times are over and are left out. ``body`` names the job, so that an Idempotency-Key is bound to it.
    """
    kind = Kind(job["kind"])
    return Wanted(
        kind=kind,
        model=job["model"],
        data=parse_input(kind, {name: value for name, value in job["input"].items() if name != FILES_KEY}),
        batch=job["tier"] == Tier.BATCH,
        metadata=job["metadata"],
        deadline=None,
        not_before=None,
        body={"retried_from": str(job["id"])},
        age_restricted=bool((job["moderation"] or {}).get("age_restricted")),
    )


def read_idempotency_key(given: str | None) -> str | None:
    """The header's value, or None. Raises InvalidInput."""
    if given is None:
        return None
    if not 1 <= len(given) <= MAX_IDEMPOTENCY_KEY_CHARS or not (given.isascii() and given.isprintable()):
        raise refuse("Idempotency-Key", f"must have 1 to {MAX_IDEMPOTENCY_KEY_CHARS} printable ASCII characters")
    return given


@dataclass(frozen=True, kw_only=True, slots=True)
class Priced:
    """What is wanted, complete: every default filled in, its files found, its price known."""

    model: Model
    input: Mapping[str, Any]
    files: Mapping[str, Row]
    cost_mt: int


async def prepare(
    services: Services,
    caller: Caller,
    wanted: Wanted,
    *,
    idempotency_key: str | None,
    request_id: str,
    webhook: Mapping[str, Any] | None = None,
    delivery: Mapping[str, Any] | None = None,
    retried_from: UUID | None = None,
) -> Submission:
    """Complete and price what is wanted, for this caller.

    Raises UnknownModel, InvalidInput (a limit of the plan, a file that is not there), ContentBlocked, or Unavailable.
    """
    # The size first: it needs no look at the files, and says more to who is over it.
    check_limits(caller.limits, caller.plan, wanted.data)
    moderation = await moderate(services, wanted)
    priced = await price(services, caller, wanted)
    check_scale(caller, wanted.data, priced)
    return submission_of(
        caller,
        wanted,
        priced,
        idempotency_key=idempotency_key,
        request_id=request_id,
        webhook=webhook,
        delivery=delivery,
        retried_from=retried_from,
        moderation=moderation,
    )


async def moderate(services: Services, wanted: Wanted) -> dict[str, Any] | None:
    """What moderation keeps with the job, None for the ordinary one. Raises ContentBlocked, or Unavailable."""
    verdict = await services.standing.screen(wanted.data, wanted.kind.value, age_restricted=wanted.age_restricted)
    marks = verdict.marks()
    if wanted.age_restricted:
        return {**(marks or {}), "age_restricted": True}
    return marks


async def price(services: Services, caller: Caller, wanted: Wanted) -> Priced:
    """Complete and price what is wanted, whatever the caller's plan allows.

    Raises UnknownModel, InvalidInput (a file that is not there), or Unavailable.
    """
    model = services.catalog.resolve(wanted.kind, wanted.model)
    data = wanted.data.model_dump(mode="json")
    if data.get("seed", 0) is None:
        data["seed"] = secrets.randbelow(SEEDS)
    files = await _files(services, caller.user_id, wanted.data)
    if files:
        data[FILES_KEY] = {
            field: {"sha256": row["sha256"], "media_type": row["media_type"]} for field, row in files.items()
        }
    cost_mt = model.flat_mt if model.flat_mt is not None else _price_mt(wanted.data, files)
    return Priced(model=model, input=data, files=files, cost_mt=cost_mt)


def submission_of(
    caller: Caller,
    wanted: Wanted,
    priced: Priced,
    *,
    idempotency_key: str | None,
    request_id: str,
    webhook: Mapping[str, Any] | None = None,
    delivery: Mapping[str, Any] | None = None,
    retried_from: UUID | None = None,
    moderation: Mapping[str, Any] | None = None,
) -> Submission:
    """What admission takes, under a new id; made once, for a copy costs more than what it adds."""
    return Submission(
        id=new_id(),
        user_id=caller.user_id,
        api_key_id=caller.key_id,
        kind=wanted.kind.value,
        model=priced.model.id,
        batch=wanted.batch,
        input=priced.input,
        metadata=wanted.metadata,
        cost_mt=priced.cost_mt,
        not_before=wanted.not_before,
        deadline=wanted.deadline,
        idempotency_key=idempotency_key,
        body_sha256=_digest(wanted.body) if idempotency_key is not None else None,
        request_id=request_id,
        webhook=webhook,
        delivery=delivery,
        retried_from=retried_from,
        moderation=moderation,
    )


def _kind(value: object) -> Kind:
    try:
        return Kind(value)  # type: ignore[arg-type]  # anything else is a ValueError
    except (ValueError, TypeError):
        known = ", ".join(kind.value for kind in Kind)
        raise refuse("kind", "is missing" if value is None else f"must be one of {known}") from None


def read_time(body: Mapping[str, Any], field: str) -> datetime | None:
    """A time with its zone, or None when it was not given. Raises InvalidInput."""
    value = body.get(field)
    if value is None:
        return None
    example = 'a time with its zone, such as "2030-01-31T12:00:00Z"'
    if not isinstance(value, str) or len(value) > 40:
        raise refuse(field, f"must be {example}")
    try:
        found = datetime.fromisoformat(value)
        if found.utcoffset() is None or not 2000 <= found.year <= 2200:
            raise ValueError(value)
    except ValueError:
        raise refuse(field, f"must be {example}") from None
    return found


def _age_restricted(body: Mapping[str, Any]) -> bool:
    """Whether the caller says that age-restricted content is allowed; a bot says so of the chat, in its delivery."""
    found = False
    delivery = body.get("delivery")
    places = (("age_restricted", body), ("delivery.age_restricted", delivery if isinstance(delivery, dict) else {}))
    for field, place in places:
        value = place.get("age_restricted")
        if value is not None and not isinstance(value, bool):
            raise refuse(field, "must be true or false: whether age-restricted content is allowed there")
        found = found or bool(value)
    return found


def read_metadata(value: object) -> Mapping[str, Any]:
    """What a user may keep with a job or a batch. Raises InvalidInput."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise refuse("metadata", "must be an object")
    check_json("metadata", value, MAX_METADATA_DEPTH)
    if len(orjson.dumps(value)) > MAX_METADATA_BYTES:
        raise refuse("metadata", f"is larger than {MAX_METADATA_BYTES} bytes")
    return value


def check_json(field: str, value: object, depth: int) -> None:
    """What jsonb and orjson can hold: no NUL, no bottomless nesting. Raises InvalidInput that names the field."""
    if depth == 0:
        raise refuse(field, "is nested too deeply")
    if isinstance(value, str):
        if "\x00" in value:
            raise refuse(field, "contains a NUL character, which cannot be stored: remove it")
    elif isinstance(value, dict):
        for name, item in value.items():
            check_json(field, name, depth)
            check_json(field, item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            check_json(field, item, depth - 1)


def _digest(body: Mapping[str, Any]) -> bytes:
    """The hash of the body's meaning: the order of its fields and its white space do not count."""
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()


# ------------------------------------------------------------------ files


async def _files(services: Services, user_id: UUID, data: AnyInput) -> dict[str, Row]:
    """The rows of the input's file fields; only the same user's, only of a type that fits."""
    found: dict[str, Row] = {}
    fields = type(data).model_fields  # asking a model for what it has not costs pydantic 4 µs each time
    for field in FILE_FIELDS:
        given = getattr(data, field) if field in fields else None
        if given is None:
            continue
        row = await _file(services, user_id, field, given)
        wanted = ("audio", "video") if field == "upload" else ("image",)
        if row["media_type"].partition("/")[0] not in wanted:
            what = "a recording (WAV, MP3, M4A, …)" if field == "upload" else "a picture (PNG, JPEG, WebP, …)"
            raise refuse(f"input.{field}", f"is of type {row['media_type']}, but must be {what}")
        found[field] = row
    return found


async def _file(services: Services, user_id: UUID, field: str, given: str) -> Row:
    missing = refuse(
        f"input.{field}",
        f"there is no upload or artifact {given[:64]!r} of yours: send the file by POST /v1/uploads and use its id",
    )
    for prefix, query in ((Prefix.UPLOAD, "upload_for_use"), (Prefix.ARTIFACT, "artifact_for_use")):
        if given.startswith(prefix + "_"):
            try:
                identifier = parse(prefix, given)
            except NotFound:
                raise missing from None
            row = await services.db.row(query, id=identifier, user_id=user_id)
            if row is None:
                raise missing
            if not row["usable"]:
                raise refuse(f"input.{field}", "has expired or was deleted: upload the file again")
            return row
    raise missing


def _price_mt(data: AnyInput, files: Mapping[str, Row]) -> int:
    if isinstance(data, TranscriptionInput):
        return price_mt(data, audio_s=files["upload"]["duration_s"])
    if isinstance(data, ImageInput) and data.scale is not None:
        return price_mt(data, source_px=_source_px(files))
    return price_mt(data)


def check_scale(caller: Caller, data: AnyInput, priced: Priced) -> None:
    """Refuse a picture that would be enlarged past the plan's limit: its size is known by its file only.

    Raises InvalidInput.
    """
    if not isinstance(data, ImageInput) or data.scale is None or priced.model.flat_mt is not None:
        return
    allowed_px = min(caller.limits.max_image_px, MAX_SCALED_PX)
    if _source_px(priced.files) * data.scale**2 > allowed_px:
        side = int(allowed_px**0.5)
        raise refuse(
            "input.scale",
            f"the enlarged picture would have more than the {side}×{side} pixels of plan {caller.plan}:"
            " use a smaller factor or a smaller picture",
        )


def _source_px(files: Mapping[str, Row]) -> int:
    return (files["image"]["width"] or 0) * (files["image"]["height"] or 0)
