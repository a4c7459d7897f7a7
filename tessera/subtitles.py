"""The segments of a transcript as subtitles: SubRip and WebVTT. Pure.

https://www.w3.org/TR/webvtt1/ · SubRip has no standard; players agree on what is written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def srt(segments: Iterable[Mapping[str, Any]]) -> str:
    """SubRip of segments ``{start_s, end_s, text}``; the empty text for none."""
    return "\n".join(
        f"{index}\n{_clock(s.get('start_s'), ',')} --> {_clock(s.get('end_s'), ',')}\n{_caption(s)}\n"
        for index, s in enumerate(segments, start=1)
    )


def vtt(segments: Iterable[Mapping[str, Any]]) -> str:
    """WebVTT of segments ``{start_s, end_s, text}``; a header alone for none."""
    blocks = [f"{_clock(s.get('start_s'), '.')} --> {_clock(s.get('end_s'), '.')}\n{_caption(s)}\n" for s in segments]
    return "\n".join(["WEBVTT\n", *blocks])


def _caption(segment: Mapping[str, Any]) -> str:
    """One line, without the arrow that would end a cue's head."""
    return " ".join(str(segment.get("text") or "").split()).replace("-->", "->")


def _clock(seconds: object, point: str) -> str:
    ms = round(float(seconds) * 1000) if isinstance(seconds, (int, float)) else 0
    rest, ms = divmod(max(0, ms), 1000)
    minutes, second = divmod(rest, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02d}:{minute:02d}:{second:02d}{point}{ms:03d}"
