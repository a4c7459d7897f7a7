"""Which of a user's jobs a list shows: the filters of GET /v1/jobs, read and bounded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from fastapi import Request

from tessera.api.jobs.submissions import read_time, refuse_parameter
from tessera.errors import InvalidInput
from tessera.jobs import JobState

METADATA = "metadata."
MAX_METADATA_FILTERS = 5
MAX_METADATA_KEY_CHARS = 64
MAX_METADATA_VALUE_CHARS = 200
MAX_TEXT_CHARS = 200
# Text and metadata have no index: one page looks through so many of the user's jobs at most, and the cursor goes on.
SCANNED = 5000

_ZONE = re.compile(r" (\d\d:?\d\d)$")

METADATA_PARAMETER = {
    "name": "metadata.{key}",
    "in": "query",
    "required": False,
    "schema": {"type": "string", "maxLength": MAX_METADATA_VALUE_CHARS},
    "example": "order-1",
    "description": "jobs whose metadata has this value under this key of its top level, such as `metadata.order=17`:"
    f" a text, number, true, false or null. At most {MAX_METADATA_FILTERS}",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class JobFilter:
    """What ``list_jobs`` is asked for. ``metadata``: for each key the objects of which one must be contained."""

    states: Sequence[str] | None
    after: datetime | None
    before: datetime | None
    metadata: Sequence[Sequence[dict[str, Any]]]
    text: str | None

    @property
    def is_search(self) -> bool:
        """Whether the content of jobs has to be read: then one page looks at SCANNED of them at most."""
        return bool(self.metadata) or self.text is not None


def read_filter(
    request: Request,
    *,
    states: Sequence[JobState] | None,
    created_after: str | None,
    created_before: str | None,
    text: str | None,
) -> JobFilter:
    """Raises InvalidInput, which names the parameter."""
    if text is not None and "\x00" in text:
        raise refuse_parameter("q", "contains a NUL character, which no prompt has")
    return JobFilter(
        states=[state.value for state in states] if states else None,
        after=time_parameter("created_after", created_after),
        before=time_parameter("created_before", created_before),
        metadata=_metadata(request),
        text=text,
    )


def time_parameter(name: str, given: str | None) -> datetime | None:
    """A time with its zone in a query, None where none was given. Raises InvalidInput."""
    # A plus sign that was not encoded arrives as a space.
    value = _ZONE.sub(r"+\1", given) if given is not None and "T" in given else given
    try:
        return read_time({name: value}, name)
    except InvalidInput:
        message = 'must be a time with its zone, such as "2030-01-31T12:00:00Z"'
        raise refuse_parameter(name, message) from None


def _metadata(request: Request) -> list[list[dict[str, Any]]]:
    given = [(name, value) for name, value in request.query_params.multi_items() if name.startswith(METADATA)]
    if len(given) > MAX_METADATA_FILTERS:
        raise refuse_parameter("metadata", f"at most {MAX_METADATA_FILTERS} keys can be asked for at once")
    found = []
    for name, value in given:
        key = name.removeprefix(METADATA)
        shown = name[:MAX_METADATA_KEY_CHARS].replace("\x00", "\N{SYMBOL FOR NULL}")
        if not 1 <= len(key) <= MAX_METADATA_KEY_CHARS or "\x00" in key:
            raise refuse_parameter(
                shown, f"the key must have 1 to {MAX_METADATA_KEY_CHARS} characters, none of them NUL"
            )
        if len(value) > MAX_METADATA_VALUE_CHARS or "\x00" in value:
            raise refuse_parameter(shown, f"must have at most {MAX_METADATA_VALUE_CHARS} characters, none of them NUL")
        found.append([{key: meant} for meant in _meanings(value)])
    return found


def _meanings(value: str) -> list[Any]:
    """The text, and what it is as JSON where that is no text: who set 17 finds it by 17."""
    try:
        meant = orjson.loads(value)
    except orjson.JSONDecodeError:
        return [value]
    return [value, meant] if meant is None or isinstance(meant, bool | int | float) else [value]
