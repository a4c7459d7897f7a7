"""What the admin of a group or a server allows a bot there: small JSON that only the bots read and write."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import Field

from tessera.api.auth import Service
from tessera.api.deliveries.fields import MAX_CHAT_CHARS, read_bot
from tessera.api.jobs.answers import answer
from tessera.api.jobs.submissions import check_json, read_object, refuse, refuse_unknown
from tessera.api.schemas import base as schemas
from tessera.api.schemas.base import Answer
from tessera.api.schemas.bodies import body
from tessera.api.state import api_of
from tessera.errors import NotFound

router = APIRouter(tags=["internal"], prefix="/v1/internal")

MAX_RULES_BYTES = 4096
MAX_RULES_DEPTH = 4
_PATH = "/chats/{platform}/{bot}/{chat}/rules"
_RULES: dict[str, Any] = {"channels": ["1234"], "adult": False, "spoiler": False}


class ChatRules(Answer):
    rules: dict[str, Any] = Field(description="empty where no admin has set any", examples=[_RULES])


RULES_BODY = body(
    {
        "type": "object",
        "required": ["rules", "changed_by"],
        "additionalProperties": False,
        "properties": {
            "rules": {"type": "object", "additionalProperties": True, "description": "replaces what was there"},
            "changed_by": {"type": "string", "minLength": 1, "maxLength": 320, "examples": ["telegram:123456789"]},
        },
    },
    {"one channel": {"rules": _RULES, "changed_by": "discord:123456789012345678"}},
)


@router.get(
    _PATH,
    response_model=None,
    summary="The rules of a chat",
    responses={200: {"model": ChatRules}, **schemas.problems(401, 403, 404, 422, 503)},
)
async def get_rules(request: Request, platform: str, bot: str, chat: str, caller: Service) -> Response:
    """What the admin of a group or a server has set for this bot; empty when nothing was."""
    row = await api_of(request).services.db.row("chat_rules", bot=_bot(platform, bot), chat=_chat(chat))
    return answer({"rules": row["rules"] if row is not None else {}})


@router.put(
    _PATH,
    response_model=None,
    summary="Set the rules of a chat",
    responses={200: {"model": ChatRules}, **schemas.problems(400, 401, 403, 404, 413, 422, 503)},
    openapi_extra={"requestBody": RULES_BODY},
)
async def put_rules(request: Request, platform: str, bot: str, chat: str, caller: Service) -> Response:
    """Replaces them all. The bot has asked its platform whether `changed_by` is an admin there. Safe to repeat."""
    body = read_object(await request.body())
    refuse_unknown(body, ("rules", "changed_by"))
    rules, changed_by = body.get("rules"), body.get("changed_by")
    if not isinstance(rules, dict):
        raise refuse("rules", "must be an object")
    check_json("rules", rules, MAX_RULES_DEPTH)
    if len(orjson.dumps(rules)) > MAX_RULES_BYTES:
        raise refuse("rules", f"is larger than {MAX_RULES_BYTES} bytes")
    if not isinstance(changed_by, str) or not 1 <= len(changed_by) <= 320 or not changed_by.isprintable():
        raise refuse("changed_by", "must be the identity of the admin, such as telegram:123456789")
    row = await api_of(request).services.db.row(
        "set_chat_rules", bot=_bot(platform, bot), chat=_chat(chat), rules=rules, changed_by=changed_by
    )
    return answer({"rules": row["rules"] if row is not None else rules})


def _bot(platform: str, bot: str) -> str:
    return read_bot({"platform": platform, "bot": bot})


def _chat(chat: str) -> str:
    if not chat or len(chat) > MAX_CHAT_CHARS or not chat.isprintable():
        raise NotFound("There is no such chat.")
    return chat
