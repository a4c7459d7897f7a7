"""A UTC day as a parameter of a request."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated

from pydantic import BeforeValidator


def _iso(given: object) -> object:
    """Only 2030-01-31 is a day: pydantic also takes a number for the seconds since 1970."""
    if isinstance(given, str) and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", given):
        raise ValueError("must be a day such as 2030-01-31")
    return given


Day = Annotated[date, BeforeValidator(_iso)]
