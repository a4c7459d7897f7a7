"""The rules by which operators moderate prompts: what is looked for, and what is done then.

Every act leaves a row in audit_log, in the same transaction. A change is known to every ingress replica within two
seconds (``standing.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from tessera.api.auth import Caller, Operator
from tessera.api.jobs.answers import answer, page
from tessera.api.jobs.routes import read_cursor
from tessera.api.jobs.submissions import read_object, refuse, refuse_unknown
from tessera.api.schemas import base as schemas
from tessera.api.schemas import moderation as moderation_schemas
from tessera.api.state import api_of
from tessera.errors import Conflict, NotFound
from tessera.ids import Prefix, new_id, parse, show
from tessera.jobs import Kind
from tessera.moderation.screening import MAX_RULES, Action, Match, check_rule
from tessera.store.database import Transaction

router = APIRouter(tags=["operator"], prefix="/v1/admin")

MAX_NOTE_CHARS = 500


@router.get(
    "/moderation/rules",
    response_model=None,
    summary="List the rules",
    responses={200: {"model": moderation_schemas.RulePage}, **schemas.problems(401, 403, 422, 429, 503)},
)
async def list_rules(
    request: Request,
    caller: Operator,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """The newest first. What is refused always is in none of them and cannot be switched off."""
    rows = await api_of(request).services.db.rows(
        "list_rules", before=read_cursor(Prefix.RULE, cursor), limit=limit + 1
    )
    data = [_rule_answer(row) for row in rows[:limit]]
    return page(data, data[-1]["id"] if len(rows) > limit else None)


@router.post(
    "/moderation/rules",
    status_code=201,
    response_model=None,
    summary="Add a rule",
    responses={201: {"model": moderation_schemas.RuleAnswer}, **schemas.problems(400, 401, 403, 409, 422, 429, 503)},
    openapi_extra={"requestBody": moderation_schemas.RULE_BODY},
)
async def create_rule(request: Request, caller: Operator) -> Response:
    """Holds for what is submitted from now on, everywhere within two seconds. `words` are found whole, in any case and
    in thin disguise; a `pattern` is a regular expression of RE2."""
    body = read_object(await request.body())
    refuse_unknown(body, ("match", "text", "action", "age_restricted", "kinds", "note"))
    match, text = _match(body), body.get("text")
    if not isinstance(text, str):
        raise refuse("text", "is missing" if text is None else "must be a text")
    what = {"match": match.value, "text": check_rule(match, text), **_behaviour(body, {})}
    rule_id = new_id()
    services = api_of(request).services
    async with services.db.transaction() as transaction:
        await transaction.execute("rules_changed")
        counted = await transaction.row("count_rules")
        assert counted is not None
        if counted["rules"] >= MAX_RULES:
            raise Conflict(f"There are {MAX_RULES} rules already, and nothing was added. Join some into one pattern.")
        actor = show(Prefix.USER, caller.user_id)
        if not await transaction.execute("insert_rule", id=rule_id, actor=actor, **what):
            raise Conflict("There is a rule that looks for exactly this already. Nothing was added; change that one.")
        await _audit(transaction, caller, "create_rule", show(Prefix.RULE, rule_id), what)
        row = await transaction.row("get_rule", id=rule_id)
    services.standing.forget()
    assert row is not None
    return answer(_rule_answer(row), 201)


@router.get(
    "/moderation/rules/{rule_id}",
    response_model=None,
    summary="A rule",
    responses={200: {"model": moderation_schemas.RuleAnswer}, **schemas.problems(401, 403, 404, 429, 503)},
)
async def get_rule(request: Request, rule_id: str, caller: Operator) -> Response:
    """With who changed it last, and why."""
    row = await api_of(request).services.db.row("get_rule", id=parse(Prefix.RULE, rule_id))
    if row is None:
        raise _no_rule(rule_id)
    return answer(_rule_answer(row))


@router.patch(
    "/moderation/rules/{rule_id}",
    response_model=None,
    summary="Change a rule",
    responses={200: {"model": moderation_schemas.RuleAnswer}, **schemas.problems(400, 401, 403, 404, 422, 429, 503)},
    openapi_extra={"requestBody": moderation_schemas.RULE_CHANGE_BODY},
)
async def change_rule(request: Request, rule_id: str, caller: Operator) -> Response:
    """What it does, never what it looks for: that would be another rule. What is not given stays. Safe to repeat."""
    body = read_object(await request.body())
    refuse_unknown(body, ("action", "age_restricted", "kinds", "note"))
    identifier = parse(Prefix.RULE, rule_id)
    services = api_of(request).services
    async with services.db.transaction() as transaction:
        await transaction.execute("rules_changed")
        before = await transaction.row("get_rule", id=identifier)
        if before is None:
            raise _no_rule(rule_id)
        after = _behaviour(body, before)
        await transaction.execute("change_rule", id=identifier, actor=show(Prefix.USER, caller.user_id), **after)
        changed = {name: [before[name], value] for name, value in after.items() if before[name] != value}
        await _audit(transaction, caller, "change_rule", show(Prefix.RULE, identifier), changed)
        row = await transaction.row("get_rule", id=identifier)
    services.standing.forget()
    assert row is not None
    return answer(_rule_answer(row))


@router.delete(
    "/moderation/rules/{rule_id}",
    status_code=204,
    response_model=None,
    summary="Delete a rule",
    responses={204: {"description": "It no longer holds."}, **schemas.problems(401, 403, 404, 429, 503)},
)
async def delete_rule(request: Request, rule_id: str, caller: Operator) -> Response:
    """Within two seconds it holds nowhere. Jobs that it has marked stay marked."""
    identifier = parse(Prefix.RULE, rule_id)
    services = api_of(request).services
    async with services.db.transaction() as transaction:
        await transaction.execute("rules_changed")
        row = await transaction.row("get_rule", id=identifier)
        if row is None:
            raise _no_rule(rule_id)
        await transaction.execute("delete_rule", id=identifier)
        was = {name: row[name] for name in ("match", "text", "action", "age_restricted", "kinds")}
        await _audit(transaction, caller, "delete_rule", show(Prefix.RULE, identifier), was)
    services.standing.forget()
    return Response(status_code=204)


def _match(body: Mapping[str, Any]) -> Match:
    value = body.get("match", Match.WORDS.value)
    if value not in list(Match):
        raise refuse("match", f"must be one of {', '.join(Match)}")
    return Match(value)


def _behaviour(body: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What a rule does, as given over what it did before. Raises InvalidInput."""
    action = body.get("action", before.get("action"))
    if action not in list(Action):
        raise refuse("action", "is missing" if action is None else f"must be one of {', '.join(Action)}")
    age_restricted = body.get("age_restricted", before.get("age_restricted", False))
    if not isinstance(age_restricted, bool):
        raise refuse("age_restricted", "must be true or false")
    kinds = body.get("kinds", before.get("kinds", []))
    if not isinstance(kinds, list) or not all(isinstance(kind, str) and kind in set(Kind) for kind in kinds):
        raise refuse("kinds", f"must be a list of some of {', '.join(Kind)}; empty for all")
    return {
        "action": action,
        "age_restricted": age_restricted,
        "kinds": [kind.value for kind in Kind if kind in kinds],
        "note": read_note({"note": body.get("note", before.get("note", ""))}),
    }


def read_note(body: Mapping[str, Any]) -> str:
    """``note`` alone, one line. Raises InvalidInput."""
    refuse_unknown(body, ("note",))
    value = body.get("note", "")
    if not isinstance(value, str) or len(value) > MAX_NOTE_CHARS or not value.isprintable():
        raise refuse("note", f"must be a text of at most {MAX_NOTE_CHARS} characters on one line")
    return value


def _rule_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("match", "text", "action", "age_restricted", "kinds", "note", "actor", "created_at", "changed_at")
    return {"id": show(Prefix.RULE, row["id"]), **{name: row[name] for name in names}}


async def _audit(transaction: Transaction, caller: Caller, action: str, subject: str, data: Mapping[str, Any]) -> None:
    await transaction.execute(
        "insert_audit", actor=show(Prefix.USER, caller.user_id), action=action, subject=subject, data=dict(data)
    )


def _no_rule(rule_id: str) -> NotFound:
    return NotFound(f"There is no rule {rule_id[:64]!r}. GET /v1/admin/moderation/rules lists those that there are.")
