"""``audio/speech``: https://platform.openai.com/docs/api-reference/audio/createSpeech"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BeforeValidator, Field

from tessera.api.events.streams import EventStreamResponse
from tessera.api.jobs.answers import json_bytes
from tessera.api.jobs.submissions import Wanted, read_object
from tessera.api.openai import schemas
from tessera.api.openai.bodies import Body
from tessera.api.openai.runs import Asked, asked, bytes_of, headers_of, result_of, submission_of, wanted
from tessera.errors import BadOutput
from tessera.jobs import Kind
from tessera.media.transcoding import SOUND_TYPES, sound
from tessera.store.database import Row

router = APIRouter(tags=["openai"])

PIECE_BYTES = 48 << 10  # of a stream's events; Base64 makes 64 KiB of it
_MADE = {"mp3": "mp3", "opus": "opus"}  # what engines make by themselves; all else is made of WAV


def _voice(value: Any) -> Any:
    return value.get("id") if isinstance(value, dict) else value


class SpeechBody(Body):
    """Words to be spoken."""

    IGNORED: ClassVar[frozenset[str]] = frozenset({"instructions"})

    model: str = Field(min_length=1, max_length=200)
    input: str
    voice: Annotated[str, BeforeValidator(_voice)] = "alloy"
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    speed: float = 1.0
    stream_format: Literal["audio", "sse"] | None = "audio"


def speech_wanted(body: Mapping[str, Any]) -> tuple[SpeechBody, Wanted]:
    """What a body asks for. Raises InvalidInput."""
    read = SpeechBody.read(body)
    data = {
        "text": read.input,
        "voice": read.voice,
        "speed": read.speed,
        "format": _MADE.get(read.response_format, "wav"),
    }
    return read, wanted(Kind.SPEECH, read.model, data, body, read.metadata)


@router.post(
    "/openai/v1/audio/speech",
    response_model=None,
    summary="Speak a text",
    responses={
        200: schemas.bytes_of("The recording.", *SOUND_TYPES.values(), "text/event-stream"),
        **schemas.errors(400, 401, 402, 403, 404, 413, 429, 500, 503),
    },
    openapi_extra={
        "requestBody": schemas.body(
            SpeechBody, {"speech": {"model": "tts-1", "voice": "alloy", "input": "Good morning. The kettle is on."}}
        ),
        "parameters": [schemas.IDEMPOTENCY_KEY],
    },
)
async def speech(request: Request) -> Response:
    """A speech job. `pcm` is 24 kHz, 16 bits, one channel, little endian, without a header."""
    caller = await asked(request)
    body, wish = speech_wanted(read_object(await request.body()))
    row = await result_of(caller, await submission_of(caller, wish))
    data = await _recording(caller, row, body.response_format)
    if body.stream_format == "sse":
        return EventStreamResponse(_streamed(data))
    headers = {**headers_of(row), "X-Content-Type-Options": "nosniff"}
    return Response(data, headers=headers, media_type=SOUND_TYPES[body.response_format])


async def _recording(caller: Asked, row: Row, wanted_format: str) -> bytes:
    if not row["artifacts"]:
        raise BadOutput("The engine made no recording. The tokens are returned.")
    made = row["artifacts"][0]
    data = await bytes_of(caller.api.services, caller.caller.user_id, made["id"])
    if made["media_type"] == SOUND_TYPES[wanted_format]:
        return data
    async with caller.api.media:
        return await asyncio.to_thread(sound, data, wanted_format)


async def _streamed(data: bytes) -> AsyncGenerator[bytes]:
    for start in range(0, len(data), PIECE_BYTES):
        piece = base64.b64encode(data[start : start + PIECE_BYTES]).decode()
        yield b"data: %s\n\n" % json_bytes({"type": "speech.audio.delta", "audio": piece})
    usage = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    yield b"data: %s\n\n" % json_bytes({"type": "speech.audio.done", "usage": usage})
