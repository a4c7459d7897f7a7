"""What goes through the pipes between a replica and its subprocess: frames of a JSON head and, where needed, bytes.

A frame is two big-endian u32, the lengths of head and body, then both. A head has ``id``, the call it belongs to.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

LENGTHS = struct.Struct(">II")
MAX_HEAD_BYTES = 64 << 20  # the transcript of a day, with the times of all its words
MAX_BODY_BYTES = 1 << 30

Frame = tuple[dict[str, Any], bytes]


class BrokenPipe(Exception):
    """The other side sent something else than a frame, or ended in the middle of one."""


def pack(head: Mapping[str, Any], body: bytes = b"") -> bytes:
    """One frame."""
    encoded = json.dumps(head, separators=(",", ":")).encode()
    return LENGTHS.pack(len(encoded), len(body)) + encoded + body


def read(stream: BinaryIO) -> Frame | None:
    """The next frame, None at the end of the stream. Blocks. Raises BrokenPipe."""
    lengths = stream.read(LENGTHS.size)
    if not lengths:
        return None
    head_bytes, body_bytes = _lengths(lengths)
    head, body = stream.read(head_bytes), stream.read(body_bytes)
    if len(head) < head_bytes or len(body) < body_bytes:
        raise BrokenPipe("the stream ended in the middle of a frame")
    return _head(head), body


async def receive(stream: asyncio.StreamReader) -> Frame | None:
    """The next frame, None at the end of the stream. Raises BrokenPipe."""
    try:
        lengths = await stream.readexactly(LENGTHS.size)
        head_bytes, body_bytes = _lengths(lengths)
        head, body = await stream.readexactly(head_bytes), await stream.readexactly(body_bytes)
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise BrokenPipe("the stream ended in the middle of a frame") from error
    return _head(head), body


def _lengths(data: bytes) -> tuple[int, int]:
    if len(data) < LENGTHS.size:
        raise BrokenPipe("the stream ended in the middle of a frame")
    head, body = LENGTHS.unpack(data)
    if head > MAX_HEAD_BYTES or body > MAX_BODY_BYTES:
        raise BrokenPipe("a frame is longer than any may be")
    return head, body


def _head(data: bytes) -> dict[str, Any]:
    try:
        head = json.loads(data)
    except ValueError as error:
        raise BrokenPipe("a frame's head is no JSON") from error
    if not isinstance(head, dict):
        raise BrokenPipe("a frame's head is no object")
    return head
