"""``audio/transcriptions`` and ``audio/translations``: https://platform.openai.com/docs/api-reference/audio"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BeforeValidator, Field

from tessera.api.artifacts.uploads import keep_upload
from tessera.api.events.streams import EventStreamResponse
from tessera.api.forms import received_form
from tessera.api.jobs.answers import json_bytes
from tessera.api.middleware import MAX_UPLOAD_BYTES
from tessera.api.openai import schemas
from tessera.api.openai.bodies import Body, listed
from tessera.api.openai.runs import Asked, asked, headers_of, result_of, submission_of, wanted
from tessera.ids import Prefix, show
from tessera.jobs import Kind
from tessera.store.database import Row
from tessera.subtitles import srt, vtt

router = APIRouter(tags=["openai"])

# OpenAI names languages in English words where we have the code.
_LANGUAGES = {
    "ar": "arabic", "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish",
    "fi": "finnish", "fr": "french", "he": "hebrew", "hi": "hindi", "hu": "hungarian", "id": "indonesian",
    "it": "italian", "ja": "japanese", "ko": "korean", "nl": "dutch", "no": "norwegian", "pl": "polish",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sv": "swedish", "th": "thai", "tr": "turkish",
    "uk": "ukrainian", "vi": "vietnamese", "zh": "chinese",
}  # fmt: skip
_CODES = {name: code for code, name in _LANGUAGES.items()}


def _language(value: Any) -> Any:
    """A code, also with a region (``en-US``), or an English name."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    return _CODES.get(text, text.replace("_", "-").partition("-")[0]) or None


class TranslationBody(Body):
    """A recording whose words are wanted in English."""

    model: str = Field(min_length=1, max_length=200)
    prompt: str = ""
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: float = 0.0


class TranscriptionBody(TranslationBody):
    """A recording whose words are wanted."""

    IGNORED: ClassVar[frozenset[str]] = frozenset({"chunking_strategy"})
    ONLY: ClassVar[Mapping[str, tuple[Any, ...]]] = {"include": ([],)}

    language: Annotated[str | None, BeforeValidator(_language)] = None
    timestamp_granularities: Annotated[list[Literal["word", "segment"]], BeforeValidator(listed)] = Field(
        default_factory=list, max_length=2
    )
    stream: bool = False


@router.post(
    "/openai/v1/audio/transcriptions",
    response_model=None,
    summary="Write down a recording",
    responses={
        200: schemas.answers(
            schemas.Transcript,
            "The words, in the format asked for: JSON, or `text/plain` for text, srt and vtt.",
            schemas.TRANSCRIPT_EXAMPLE,
            stream=True,
        ),
        **schemas.errors(400, 401, 402, 403, 404, 413, 415, 429, 500, 503),
    },
    openapi_extra={
        "requestBody": schemas.form(TranscriptionBody, "file", required=("file",)),
        "parameters": [schemas.IDEMPOTENCY_KEY],
    },
)
async def transcriptions(request: Request) -> Response:
    """A transcription job of a recording or clip of at most 100 MiB."""
    return await _transcribed(await asked(request), TranscriptionBody, translate=False)


@router.post(
    "/openai/v1/audio/translations",
    response_model=None,
    summary="Write down a recording in English",
    responses={
        200: schemas.answers(
            schemas.Transcript,
            "The words in English, in the format asked for: JSON, or `text/plain` for text, srt and vtt.",
            schemas.TRANSCRIPT_EXAMPLE,
        ),
        **schemas.errors(400, 401, 402, 403, 404, 413, 415, 429, 500, 503),
    },
    openapi_extra={
        "requestBody": schemas.form(TranslationBody, "file", required=("file",)),
        "parameters": [schemas.IDEMPOTENCY_KEY],
    },
)
async def translations(request: Request) -> Response:
    """A transcription job with `translate`."""
    return await _transcribed(await asked(request), TranslationBody, translate=True)


async def _transcribed(caller: Asked, shape: type[TranslationBody], *, translate: bool) -> Response:
    async with received_form(caller.request, files=("file",), max_bytes=MAX_UPLOAD_BYTES) as form:
        fields = form.data(lists=("timestamp_granularities", "include"))
        body = shape.read(fields)
        file = form.file("file")
        upload = await keep_upload(caller.api, caller.caller.user_id, file.path, file.size)
    data: dict[str, Any] = {
        "upload": show(Prefix.UPLOAD, upload["id"]),
        "translate": translate,
        "prompt": body.prompt,
        "temperature": body.temperature,
    }
    stream = False
    granularities: list[str] = []
    if isinstance(body, TranscriptionBody):
        granularities, stream = list(body.timestamp_granularities), body.stream
        data.update({"language": body.language, "word_timestamps": "word" in granularities})
    # The same bytes sent again are the same request, whatever id their upload gets.
    wish = wanted(Kind.TRANSCRIPTION, body.model, data, {**fields, "file": upload["sha256"]}, body.metadata)
    submission = await submission_of(caller, wish)
    if stream:
        return EventStreamResponse(_streamed(await result_of(caller, submission)))
    row = await result_of(caller, submission)
    return _answer(row, body.response_format, granularities, task="translate" if translate else "transcribe")


def _answer(row: Row, response_format: str, granularities: list[str], *, task: str) -> Response:
    output = row["output"] or {}
    text, segments = str(output.get("text") or ""), output.get("segments") or []
    match response_format:
        case "text":
            return Response(text + "\n", headers=headers_of(row), media_type="text/plain")
        case "srt":
            return Response(srt(segments), headers=headers_of(row), media_type="text/plain")
        case "vtt":
            return Response(vtt(segments), headers=headers_of(row), media_type="text/plain")
    shown: dict[str, Any] = {"text": text}
    if response_format == "verbose_json":
        language = str(output.get("language") or "")
        shown = {
            "task": task,
            "language": _LANGUAGES.get(language, language),
            "duration": _seconds(output),
            "text": text,
        }
        if not granularities or "segment" in granularities:
            shown["segments"] = [_segment(n, segment, row["input"]) for n, segment in enumerate(segments)]
        if "word" in granularities:
            shown["words"] = [
                {"word": word.get("text", ""), "start": word.get("start_s"), "end": word.get("end_s")}
                for word in output.get("words") or []
            ]
    shown["usage"] = {"type": "duration", "seconds": max(1, round(_seconds(output)))}
    return Response(json_bytes(shown), headers=headers_of(row), media_type="application/json")


def _seconds(output: Mapping[str, Any]) -> float:
    return float(output.get("duration_s") or 0.0)


def _segment(number: int, segment: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """A segment; what an engine does not measure is 0."""
    return {
        "id": number,
        "seek": 0,
        "start": segment.get("start_s"),
        "end": segment.get("end_s"),
        "text": segment.get("text", ""),
        "tokens": segment.get("tokens") or [],
        "temperature": segment.get("temperature", data.get("temperature") or 0.0),
        "avg_logprob": segment.get("avg_logprob", 0.0),
        "compression_ratio": segment.get("compression_ratio", 0.0),
        "no_speech_prob": segment.get("no_speech_prob", 0.0),
    }


async def _streamed(row: Row) -> AsyncGenerator[bytes]:
    """The words in pieces, one for each segment, then all of them."""
    output = row["output"] or {}
    text, rest = str(output.get("text") or ""), str(output.get("text") or "")
    for segment in output.get("segments") or []:
        piece = str(segment.get("text") or "")
        at = rest.find(piece)
        if not piece or at < 0:
            continue
        delta, rest = rest[: at + len(piece)], rest[at + len(piece) :]
        yield _event("transcript.text.delta", delta=delta)
    if rest:
        yield _event("transcript.text.delta", delta=rest)
    yield _event("transcript.text.done", text=text)
    yield b"data: [DONE]\n\n"


def _event(kind: str, **data: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), json_bytes({"type": kind, **data}))
