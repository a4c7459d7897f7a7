"""The files of a transcript: what the words of its output look like as SubRip, WebVTT, JSON or plain text. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tessera.engine import Output
from tessera.subtitles import srt, vtt

MEDIA_TYPES = {"srt": "application/x-subrip", "vtt": "text/vtt", "json": "application/json", "txt": "text/plain"}


def transcript_files(output: Mapping[str, Any], formats: Iterable[str]) -> list[Output]:
    """One file for each format that was asked for, in this order, each once."""
    return [
        Output(
            index=index,
            media_type=MEDIA_TYPES[format_],
            data=_text(output, format_).encode(),
            duration_s=output.get("duration_s"),
        )
        for index, format_ in enumerate(dict.fromkeys(formats))
    ]


def _text(output: Mapping[str, Any], format_: str) -> str:
    match format_:
        case "srt":
            return srt(output["segments"])
        case "vtt":
            return vtt(output["segments"])
        case "json":
            return json.dumps(output, ensure_ascii=False, indent=1) + "\n"
    return "".join(f"{' '.join(str(segment['text']).split())}\n" for segment in output["segments"])
