"""Reading OpenAI's requests: the fields that mean something here, those that can be ignored, and those that cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tessera.api.jobs.submissions import refuse
from tessera.errors import InvalidInput

SEEDS = 2**53  # OpenAI's seeds may be any 64-bit integer; ours may not

# Of every request: who the caller's own user is, and what OpenAI keeps or charges. They change nothing here.
_EVERYWHERE = frozenset({"user", "store", "service_tier", "safety_identifier", "prompt_cache_key", "extra_body"})


class Body(BaseModel):
    """A request.

    ``IGNORED`` are fields of OpenAI's that would only change taste or bookkeeping; ``ONLY`` are those that are
    understood with these values alone, and would change what is asked for with any other.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    IGNORED: ClassVar[frozenset[str]] = frozenset()
    ONLY: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    metadata: dict[str, str] = Field(default_factory=dict, max_length=16)

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Self:
        """The request in a JSON object or a form. Raises InvalidInput that names the parameter."""
        found: dict[str, Any] = {}
        for name, value in data.items():
            if value is None or name in cls.IGNORED or name in _EVERYWHERE:
                continue
            if name in cls.ONLY:
                if not any(
                    isinstance(value, bool) == isinstance(each, bool) and value == each for each in cls.ONLY[name]
                ):
                    raise refuse(name, _only(cls.ONLY[name]))
                continue
            found[name] = value
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            problems = [cls._problem(e) for e in error.errors(include_url=False, include_input=False)]
            text = "; ".join(f"{p['field']}: {p['message']}" for p in problems[:5])
            raise InvalidInput(f"Nothing was submitted or charged. {text}", errors=problems) from None

    @classmethod
    def _problem(cls, error: Any) -> dict[str, str]:
        place = [str(part) for part in error["loc"]]
        if error["type"] == "extra_forbidden" and len(place) == 1:
            shown = place[0][:64].replace("\x00", "\N{SYMBOL FOR NULL}")
            return {"field": shown, "message": "unknown parameter; check its spelling"}
        if error["type"] == "missing":
            return {"field": ".".join(place), "message": "is missing"}
        return {"field": ".".join(place) or "body", "message": error["msg"].removeprefix("Value error, ")}


def _only(values: tuple[Any, ...]) -> str:
    if not values:
        return "is not supported here: leave it out"
    return f"is supported here only as {' or '.join(repr(value) for value in values)}: leave it out"


def _seed(value: Any) -> Any:
    return value % SEEDS if isinstance(value, int) and not isinstance(value, bool) else value


def listed(value: Any) -> Any:
    """One value as a list of it."""
    return [value] if isinstance(value, str) else value


Seed = Annotated[int, BeforeValidator(_seed)]
Texts = Annotated[list[str], BeforeValidator(listed)]  # one text, or several


def read_size(size: str | None, default: tuple[int, int]) -> tuple[int, int]:
    """``1024x768`` → its width and height; ``auto`` and None are the default. Raises InvalidInput."""
    if size is None or size == "auto":
        return default
    width, _, height = size.partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit() and len(size) <= 11):
        raise refuse("size", 'must be "auto" or a width and a height in pixels, such as "1024x1024"')
    return int(width), int(height)
