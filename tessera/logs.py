"""Structured logs: one JSON object a line, with request_id and job_id where they are known, and without secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_SECRET = re.compile(r"tsr_[0-9a-f]+_[\w-]+|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")


def _hide_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Cut API keys and passwords in addresses out of every text, whoever put them there."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = _SECRET.sub("[hidden]", value)
    return event


def configure_logs(part: str, *, level: int = logging.INFO) -> None:
    """Set up the process's logs, once, at its entry point. ``part`` names it in every line.

    They go to stderr: Ray and the keeper keep that in files.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _hide_secrets,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(part=part)
