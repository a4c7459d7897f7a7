"""Ids: UUIDv7 inside, a prefix and 26 lowercase Crockford base32 characters outside (``job_01k…``).

Time-ordered ids keep the b-trees of hot tables dense. https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-7
https://www.crockford.com/base32.html
"""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

import uuid_utils

from tessera.errors import NotFound

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]  # ten bits at a time are half the steps
_VALUE = {char: value for value, char in enumerate(_ALPHABET)}


class Prefix(StrEnum):
    """What an id names."""

    JOB = "job"
    USER = "user"
    ARTIFACT = "art"
    UPLOAD = "upl"
    KEY = "key"
    REQUEST = "req"
    BATCH = "batch"
    FILE = "file"
    DELIVERY = "dlv"
    ENDPOINT = "whe"
    RULE = "rule"
    REPORT = "rep"


def new_id() -> UUID:
    """A new UUIDv7; ids made later by this process sort later."""
    return UUID(bytes=uuid_utils.uuid7().bytes)


def show(prefix: Prefix, value: UUID) -> str:
    """The id as people and programs outside see it."""
    number = value.int
    return prefix.value + "_" + "".join([_PAIRS[(number >> shift) & 1023] for shift in range(120, -1, -10)])


def parse(prefix: Prefix, text: str) -> UUID:
    """The inverse of ``show``. Raises NotFound for anything that ``show`` cannot have written."""
    head, _, body = text.partition("_")
    if head != prefix.value or len(body) != 26 or body[0] > "7":
        raise NotFound(f"There is no {text[:64]!r} here: an id looks like {prefix.value}_01k… with 26 characters.")
    number = 0
    for char in body:
        digit = _VALUE.get(char)
        if digit is None:
            raise NotFound(f"There is no {text[:64]!r} here: {char!r} cannot stand in an id.")
        number = number << 5 | digit
    return UUID(int=number)


def parse_beginning(prefix: Prefix, text: str) -> tuple[UUID, UUID]:
    """The first and the last id whose shown form begins with this text. Raises NotFound for what begins no id."""
    head, _, body = text.partition("_")
    if len(body) > 26:
        raise NotFound(f"There is no {text[:64]!r} here: an id looks like {prefix.value}_01k… with 26 characters.")
    if not body:
        body_low, body_high = "0" * 26, "7" + "z" * 25
    else:
        body_low, body_high = body.ljust(26, "0"), body.ljust(26, "z")
    return parse(prefix, f"{head}_{body_low}"), parse(prefix, f"{head}_{body_high}")
