"""Text: answers without a language model, streamed at a pace that can be seen.

What can be done exactly is done (arithmetic, counting, lists, extracting, summarising what was given); everything
else gets an honest answer that says what this engine is. A *text token* is, here, a run of up to 16 letters, digits
or underscores, or one other visible character: the regular expression ``TOKEN``. White space counts for nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deployments.preview import answers
from deployments.preview.flag import CancelFlag
from tessera.engine import Chunk, Done, EngineEvent, EngineJob, Progress
from tessera.errors import InvalidInput

ENGINE = "preview-text/1"

TOKEN = re.compile(r"\w{1,16}|[^\w\s]")
_PIECE = re.compile(r"\s*(?:\w{1,16}|[^\w\s])|\s+$")

CHUNKS_PER_S = 10  # as fast as an eye follows; the first chunk leaves at once


def check() -> None:
    """Always works: nothing but the standard library is needed."""


def count_tokens(text: str) -> int:
    """Text tokens of a text, by the rule of this module."""
    return sum(1 for _ in TOKEN.finditer(text))


def run(job: EngineJob, flag: CancelFlag, *, tokens_per_s: float = 100.0) -> Iterator[EngineEvent]:
    """Answer ``input.prompt`` or ``input.messages`` in chunks, then Done with the usage. 0 means no pacing."""
    given = job.input
    messages = conversation(given)
    flag.check()
    reply = answers.reply(
        messages,
        seed=int(given.get("seed") or 0),
        temperature=float(given.get("temperature") or 0.0),
        top_p=float(given.get("top_p") or 1.0),
    )
    pieces, finish_reason = limited(reply, int(given.get("max_tokens") or 256), list(given.get("stop") or []))
    offset = 0
    for text, done in _paced(pieces, tokens_per_s, flag):
        yield Chunk(offset=offset, text=text)
        offset += len(text)
        yield Progress(fraction=done / len(pieces), note="writing")
    text = "".join(pieces)
    prompt_tokens = sum(count_tokens(content) for _, content in messages)
    completion_tokens = count_tokens(text)
    yield Done(
        output={
            "text": text,
            "finish_reason": finish_reason,
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
            "engine": ENGINE,
            "preview": True,
        },
        cost_units=prompt_tokens + completion_tokens,
    )


def conversation(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The input as (role, content) pairs. Raises InvalidInput where nothing was asked."""
    messages = [(str(m["role"]), str(m["content"])) for m in given.get("messages") or []]
    if given.get("prompt"):
        messages.append(("user", str(given["prompt"])))
    if not any(content.strip() for _, content in messages):
        raise InvalidInput("There is nothing to answer. Nothing was charged; give 'prompt' or 'messages' with words.")
    return messages


def limited(reply: str, max_tokens: int, stop: Sequence[str]) -> tuple[list[str], str]:
    """The reply in pieces of one text token each, cut before the first stop sequence or after ``max_tokens``.

    The finish reason is ``length`` only where the limit did cut something off.
    """
    pieces = _PIECE.findall(reply)
    visible = [piece for piece in pieces if piece.strip()]
    kept = "".join(visible[:max_tokens])
    finish_reason = "length" if len(visible) > max_tokens else "stop"
    found = [at for at in (kept.find(sequence) for sequence in stop if sequence) if at >= 0]
    if found:
        kept, finish_reason = kept[: min(found)], "stop"
    return _PIECE.findall(kept), finish_reason


def _paced(pieces: list[str], tokens_per_s: float, flag: CancelFlag) -> Iterator[tuple[str, int]]:
    """Chunks of text with the number of pieces out so far: the first piece at once, then ten chunks a second."""
    start = time.monotonic()
    step = max(1, round(tokens_per_s / CHUNKS_PER_S)) if tokens_per_s else 64
    done = 0
    while done < len(pieces):
        flag.check()
        upto = min(len(pieces), done + (step if done else 1))
        if tokens_per_s and done:
            flag.pause(start + upto / tokens_per_s - time.monotonic())
        yield "".join(pieces[done:upto]), upto
        done = upto
