"""Every route with a request that succeeds, and what its path is about: read by test_api_every_route.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.integration.route_world import BOT, form, picture


@dataclass(frozen=True, kw_only=True)
class Route:
    """``of``: the thing that is asked for, by the name of its maker in route_world. ``who`` may ask."""

    status: int = 200
    who: str = "owner"
    of: str | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    form: Callable[[], aiohttp.FormData] | None = None
    query: str = ""


OPERATOR, SERVICE = "operator", "service"
TEXT = {"kind": "text", "input": {"prompt": "say hello"}}
CHAT = {"model": "preview-text", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
HOOK = {"url": "https://hooks.example.org/x"}
CHAT_OF = {"platform": "telegram", "bot": "painter", "chat": "42"}
KIND, TARGET = {"kind": "music"}, {"target": "comfyui"}


def wav() -> bytes:
    """Half a second of silence."""
    samples = b"\x00\x00" * 8000
    head = b"RIFF" + (36 + len(samples)).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    shape = b"\x01\x00\x01\x00" + (16000).to_bytes(4, "little") + (32000).to_bytes(4, "little") + b"\x02\x00\x10\x00"
    return head + shape + b"data" + len(samples).to_bytes(4, "little") + samples


def edit() -> aiohttp.FormData:
    """A picture that is to be changed."""
    made = aiohttp.FormData({"prompt": "a boat", "model": "preview-image"})
    made.add_field("image", picture(), filename="a.png")
    return made


def recording() -> aiohttp.FormData:
    """Something to write down."""
    return form(wav(), "a.wav", model="preview-transcription")


def lines() -> aiohttp.FormData:
    """A batch of one."""
    return form(b'{"kind": "text", "model": "noop", "input": {"prompt": "hi"}}', "lines.jsonl")


def batch_file() -> aiohttp.FormData:
    """The file of a batch of OpenAI's."""
    line = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "noop"}}'
    return form(line, "lines.jsonl", purpose="batch")


def recorded() -> aiohttp.FormData:
    """A file to start from."""
    return form(picture(), "a.png")


ROUTES: Mapping[str, Route] = {
    # jobs
    "POST /v1/jobs": Route(status=202, json=TEXT),
    "GET /v1/jobs": Route(),
    "GET /v1/jobs/{job_id}": Route(of="queued"),
    "POST /v1/jobs/{job_id}/cancel": Route(of="queued"),
    "POST /v1/jobs/{job_id}/retry": Route(status=202, of="ended"),
    "GET /v1/jobs/{job_id}/artifacts": Route(of="queued"),
    "POST /v1/jobs:quote": Route(json=TEXT),
    "GET /v1/jobs/{job_id}/events": Route(of="ended"),
    "GET /v1/events": Route(),
    "GET /v1/jobs/{job_id}/explain": Route(of="queued"),
    # artifacts, uploads
    "GET /v1/artifacts": Route(),
    "GET /v1/artifacts/{artifact_id}": Route(of="artifact"),
    "DELETE /v1/artifacts/{artifact_id}": Route(status=204, of="artifact"),
    "GET /v1/artifacts/{artifact_id}/thumbnail": Route(of="artifact"),
    "POST /v1/artifacts/{artifact_id}/share": Route(status=201, of="artifact", json={}),
    "GET /v1/links/{artifact_id}": Route(who="nobody", of="link"),
    "POST /v1/uploads": Route(status=201, form=recorded),
    # batches
    "POST /v1/batches": Route(status=201, form=lines),
    "GET /v1/batches": Route(),
    "GET /v1/batches/{batch_id}": Route(of="batch"),
    "POST /v1/batches/{batch_id}/cancel": Route(of="batch"),
    "GET /v1/batches/{batch_id}/output": Route(of="ended_batch"),
    "GET /v1/batches/{batch_id}/errors": Route(of="ended_batch"),
    # OpenAI's shapes
    "POST /openai/v1/chat/completions": Route(json=CHAT),
    "POST /openai/v1/completions": Route(json={"model": "preview-text", "prompt": "hello", "max_tokens": 5}),
    "POST /openai/v1/images/generations": Route(json={"prompt": "a boat", "size": "64x64"}),
    "POST /openai/v1/images/edits": Route(form=edit),
    "POST /openai/v1/audio/transcriptions": Route(form=recording),
    "POST /openai/v1/audio/translations": Route(form=recording),
    "POST /openai/v1/audio/speech": Route(json={"model": "preview-speech", "input": "Hello.", "voice": "alloy"}),
    "POST /openai/v1/videos": Route(json={"prompt": "the sea"}),
    "GET /openai/v1/videos": Route(),
    "GET /openai/v1/videos/{video_id}": Route(of="video"),
    "DELETE /openai/v1/videos/{video_id}": Route(of="ended_video"),
    "GET /openai/v1/videos/{video_id}/content": Route(of="ended_video"),
    "GET /openai/v1/models": Route(),
    "GET /openai/v1/models/{model}": Route(params={"model": "preview-text"}),
    "POST /openai/v1/files": Route(form=batch_file),
    "GET /openai/v1/files": Route(),
    "GET /openai/v1/files/{file_id}": Route(of="file"),
    "DELETE /openai/v1/files/{file_id}": Route(of="file"),
    "GET /openai/v1/files/{file_id}/content": Route(of="file"),
    "POST /openai/v1/batches": Route(of="file_to_begin"),
    "GET /openai/v1/batches": Route(),
    "GET /openai/v1/batches/{batch_id}": Route(of="openai_batch"),
    "POST /openai/v1/batches/{batch_id}/cancel": Route(of="openai_batch"),
    # catalogue, health
    "GET /v1/models": Route(who="nobody"),
    "GET /v1/plans": Route(who="nobody"),
    "GET /v1/queue": Route(who="nobody"),
    "GET /healthz": Route(who="nobody"),
    "GET /readyz": Route(who="nobody"),
    "GET /metrics": Route(who=OPERATOR),
    # account
    "GET /v1/me": Route(),
    "DELETE /v1/me": Route(of="leaving"),
    "GET /v1/usage": Route(),
    "GET /v1/me/settings": Route(),
    "PATCH /v1/me/settings": Route(json={"language": "de"}),
    "GET /v1/identities": Route(),
    "POST /v1/identities/link-codes": Route(status=201),
    "POST /v1/identities/link": Route(of="joining"),
    "DELETE /v1/identities/{identity}": Route(status=204, of="identity"),
    "GET /v1/me/export": Route(),
    "GET /v1/ledger": Route(),
    "GET /v1/keys": Route(),
    "POST /v1/keys": Route(status=201, json={"name": "script"}),
    "GET /v1/keys/{key_id}": Route(of="key"),
    "PATCH /v1/keys/{key_id}": Route(of="key", json={"name": "older"}),
    "DELETE /v1/keys/{key_id}": Route(status=204, of="key"),
    "POST /v1/reports": Route(status=201, of="artifact_to_report"),
    "GET /v1/reports": Route(),
    # webhooks
    "GET /v1/webhook-endpoints": Route(),
    "POST /v1/webhook-endpoints": Route(status=201, json=HOOK),
    "GET /v1/webhook-endpoints/{endpoint_id}": Route(of="endpoint"),
    "PATCH /v1/webhook-endpoints/{endpoint_id}": Route(of="endpoint", json={"description": "mine"}),
    "DELETE /v1/webhook-endpoints/{endpoint_id}": Route(status=204, of="endpoint"),
    "GET /v1/webhook-endpoints/{endpoint_id}/secret": Route(of="endpoint"),
    "POST /v1/webhook-endpoints/{endpoint_id}/rotate": Route(of="endpoint"),
    "POST /v1/webhook-endpoints/{endpoint_id}/test": Route(status=202, of="endpoint"),
    "GET /v1/webhook-secret": Route(),
    "POST /v1/webhook-secret/rotate": Route(),
    "GET /v1/deliveries": Route(),
    "GET /v1/deliveries/{delivery_id}": Route(of="delivery"),
    "POST /v1/deliveries/{delivery_id}/replay": Route(status=202, of="delivery"),
    # internal
    "POST /v1/internal/identities:resolve": Route(status=201, who=SERVICE, json={"identity": "telegram:99"}),
    "GET /v1/internal/workers": Route(who=SERVICE),
    "POST /v1/internal/workers/{target}/drain": Route(who=SERVICE, params=TARGET, json={"for_s": 60}),
    "POST /v1/internal/workers/{target}/resume": Route(who=SERVICE, params=TARGET),
    "POST /v1/internal/queue/{kind}/pause": Route(who=SERVICE, params=KIND),
    "POST /v1/internal/queue/{kind}/resume": Route(who=SERVICE, params=KIND),
    "GET /v1/internal/exclusions": Route(who=SERVICE),
    "PUT /v1/internal/workers/{worker}/exclusions/{model}": Route(
        who=SERVICE, params={"worker": "text", "model": "noop"}, json={"for_s": 60}
    ),
    "DELETE /v1/internal/workers/{worker}/exclusions/{model}": Route(who=SERVICE, of="exclusion"),
    "POST /v1/internal/deliveries:claim": Route(who=SERVICE, json=BOT),
    "POST /v1/internal/deliveries:ack": Route(who=SERVICE, of="claimed"),
    "POST /v1/internal/deliveries:release": Route(who=SERVICE, of="claimed"),
    "POST /v1/internal/deliveries:extend": Route(who=SERVICE, of="claimed"),
    "GET /v1/internal/jobs/{job_id}/delivery": Route(who=SERVICE, of="chat_job"),
    "PATCH /v1/internal/jobs/{job_id}/delivery": Route(who=SERVICE, of="chat_job", json={"message": 7}),
    "GET /v1/internal/chats/{platform}/{bot}/{chat}/rules": Route(who=SERVICE, params=CHAT_OF),
    "PUT /v1/internal/chats/{platform}/{bot}/{chat}/rules": Route(
        who=SERVICE, params=CHAT_OF, json={"rules": {"kinds": ["image"]}, "changed_by": "telegram:1"}
    ),
    "POST /v1/internal/inbox": Route(who=SERVICE, json={**BOT, "updates": [{"update_id": 1, "data": {}}]}),
    "POST /v1/internal/inbox:claim": Route(who=SERVICE, json=BOT),
    "POST /v1/internal/inbox:ack": Route(who=SERVICE, of="update"),
    "POST /v1/internal/inbox:release": Route(who=SERVICE, of="update"),
    "POST /v1/internal/jobs/{job_id}/requeue": Route(who=SERVICE, of="running"),
    # operators
    "GET /v1/admin/users": Route(who=OPERATOR),
    "POST /v1/admin/users": Route(status=201, who=OPERATOR, json={"name": "Ada"}),
    "GET /v1/admin/users/{user_id}": Route(who=OPERATOR, of="user"),
    "PATCH /v1/admin/users/{user_id}": Route(who=OPERATOR, of="user", json={"plan": "starter"}),
    "DELETE /v1/admin/users/{user_id}": Route(who=OPERATOR, of="user"),
    "POST /v1/admin/users/{user_id}/grant": Route(
        status=201, who=OPERATOR, of="user", json={"tokens": 1, "reason": "sorry"}
    ),
    "POST /v1/admin/users/{user_id}/adjust": Route(
        status=201, who=OPERATOR, of="user", json={"tokens": 1, "reason": "wrong"}
    ),
    "POST /v1/admin/users/{user_id}/ban": Route(who=OPERATOR, of="user", json={"reason": "spam"}),
    "POST /v1/admin/users/{user_id}/unban": Route(who=OPERATOR, of="banned"),
    "GET /v1/admin/audit": Route(who=OPERATOR),
    "GET /v1/admin/jobs": Route(who=OPERATOR),
    "POST /v1/admin/jobs/{job_id}/requeue": Route(who=OPERATOR, of="running"),
    "POST /v1/admin/jobs/{job_id}/fail": Route(who=OPERATOR, of="queued"),
    "GET /v1/admin/deliveries": Route(who=OPERATOR),
    "POST /v1/admin/deliveries/pause": Route(who=OPERATOR),
    "POST /v1/admin/deliveries/resume": Route(who=OPERATOR),
    "POST /v1/admin/deliveries/{delivery_id}/replay": Route(status=202, who=OPERATOR, of="delivery"),
    "GET /v1/admin/workers": Route(who=OPERATOR),
    "POST /v1/admin/workers/{target}/drain": Route(who=OPERATOR, params=TARGET, json={"for_s": 60}),
    "POST /v1/admin/workers/{target}/resume": Route(who=OPERATOR, params=TARGET),
    "GET /v1/admin/queue": Route(who=OPERATOR),
    "POST /v1/admin/queue/{kind}/pause": Route(who=OPERATOR, params=KIND),
    "POST /v1/admin/queue/{kind}/resume": Route(who=OPERATOR, params=KIND),
    "GET /v1/admin/banner": Route(who=OPERATOR),
    "PUT /v1/admin/banner": Route(who=OPERATOR, json={"message": "Back at ten."}),
    "DELETE /v1/admin/banner": Route(status=204, who=OPERATOR),
    "GET /v1/admin/reports": Route(who=OPERATOR),
    "GET /v1/admin/reports/{report_id}": Route(who=OPERATOR, of="report"),
    "GET /v1/admin/reports/{report_id}/artifacts/{artifact_id}": Route(who=OPERATOR, of="report"),
    "POST /v1/admin/reports/{report_id}/uphold": Route(who=OPERATOR, of="report"),
    "POST /v1/admin/reports/{report_id}/dismiss": Route(who=OPERATOR, of="report"),
    "GET /v1/admin/moderation/rules": Route(who=OPERATOR),
    "POST /v1/admin/moderation/rules": Route(status=201, who=OPERATOR, json={"text": "sponge", "action": "flag"}),
    "GET /v1/admin/moderation/rules/{rule_id}": Route(who=OPERATOR, of="rule"),
    "PATCH /v1/admin/moderation/rules/{rule_id}": Route(who=OPERATOR, of="rule", json={"note": "seen"}),
    "DELETE /v1/admin/moderation/rules/{rule_id}": Route(status=204, who=OPERATOR, of="rule"),
    "POST /v1/admin/shares/rotate": Route(who=OPERATOR, json={"keep_for_s": 60}),
}
