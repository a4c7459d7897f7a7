"""Structured logs: one JSON object a line, with request_id and job_id where they are known, and without secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
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


def _hide_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Cut keys, tokens and passwords out of every text, whoever put them there: libraries, too."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = _SECRET.sub("[hidden]", value)
    return event


def _dumps(event: Any, **_: Any) -> bytes:
    return orjson.dumps(event, default=str)


def configure_logs(part: str, *, level: int = logging.INFO) -> None:
    """Set up the process's logs, once, at its entry point. ``part`` names it in every line.

    They go to the process's own stderr, which Ray and the keeper keep in files; not to ``sys.stderr``, for which Serve
    puts an object of its own that looks at the call stack for each line (a quarter of an ingress replica's time).
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _hide_secrets,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(file=(sys.__stderr__ or sys.stderr).buffer),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(part=part)
