"""Structured logs: one JSON object a line, with request_id and job_id where they are known, and without secrets."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

_SECRET = re.compile(
    r"tsr_[0-9a-f]+_[\w-]+"  # an API key
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"  # name and password in an address
    r"|whsec_[\w+/=-]+"  # a webhook's secret
    r"|(?<![\w-])(?:bot)?\d{5,}:[\w-]{30,}"  # a Telegram bot's token, also in the path of a call
    r"|(?<![\w-])[\w-]{23,}\.[\w-]{6}\.[\w-]{27,}"  # a Discord bot's
)
_NUMBERS = frozenset({int, float, bool, type(None)})
# What every line of this task says besides. One variable: structlog has one for each name and looks for them among all.
_said: ContextVar[Mapping[str, Any]] = ContextVar("said_in_logs", default={})  # noqa: B039 (never changed in place)


def bind(**values: Any) -> Token[Mapping[str, Any]]:
    """From here on every line of this task, and of those that it begins, says these too. ``unbind`` ends it."""
    return _said.set({**_said.get(), **values})


def unbind(token: Token[Mapping[str, Any]]) -> None:
    """Back to what was said before ``bind`` returned this token."""
    _said.reset(token)


def _line(_logger: Any, method: str, event: MutableMapping[str, Any]) -> bytes:
    """An event as a line, without keys, tokens and passwords in any text of it, whoever put them there.

    One step for what structlog does in six: a request and a run write a line each, and this was a seventh of all the
    Python of a job.
    """
    shown: dict[str, Any] = {**_said.get(), **event}
    if "exc_info" in shown:
        structlog.processors.format_exc_info(None, method, shown)
    # All texts at once, each on a line of its own, over whose end no pattern reaches; a number hides nothing.
    texts = [value if isinstance(value, str) else str(value) for value in shown.values() if type(value) not in _NUMBERS]
    if _SECRET.search("\n".join(texts)) is not None:
        for name, value in shown.items():
            text = str(value)
            if _SECRET.search(text) is not None:
                shown[name] = _SECRET.sub("[hidden]", text)
    shown["level"] = method
    shown["timestamp"] = datetime.now(UTC)
    try:
        return orjson.dumps(shown, default=str, option=orjson.OPT_UTC_Z)
    except (TypeError, ValueError):  # half a character of UTF-16, an integer of more than 64 bits: escaped, not refused
        return json.dumps(shown, default=str).encode()


def configure_logs(part: str, *, level: int = logging.INFO) -> None:
    """Set up the process's logs, once, at its entry point. ``part`` names it in every line.

    They go to the process's own stderr, which Ray and the keeper keep in files; not to ``sys.stderr``, for which Serve
    puts an object of its own that looks at the call stack for each line (a quarter of an ingress replica's time).
    """
    structlog.configure(
        processors=[_line],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(file=(sys.__stderr__ or sys.stderr).buffer),
        cache_logger_on_first_use=True,
    )
    bind(part=part)
