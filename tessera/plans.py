"""Plans and the limits that follow from them. The rows live in Postgres (sql/seed.sql). Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from tessera.errors import InvalidInput
from tessera.inputs import AnyInput, ImageInput, VideoInput
from tessera.jobs import Tier

MT_PER_TOKEN = 1000  # tokens are kept as integer millitokens


def tokens(millitokens: int) -> float | int:
    """Millitokens as the decimal with at most three places that the API shows."""
    whole, rest = divmod(millitokens, MT_PER_TOKEN)
    return whole if rest == 0 else round(millitokens / MT_PER_TOKEN, 3)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a plan allows. A user row may override each; None there inherits (the columns have the same names)."""

    daily_mt: int  # millitokens a UTC day
    submissions_per_min: int
    requests_per_min: int  # all other requests
    max_queued: int  # created and queued jobs at once
    max_running: int
    max_image_px: int  # pixels of one image's area
    max_video_s: float
    retention_days: int

    def overridden(self, overrides: dict[str, Any]) -> Limits:
        """These limits with the values of ``overrides`` that are not None."""
        return replace(self, **{f.name: overrides[f.name] for f in fields(self) if overrides.get(f.name) is not None})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """free, starter or pro: a price, limits and a tier."""

    id: str
    title: str
    price_usd_cents: int  # a month
    tier: Tier
    limits: Limits


def check_limits(limits: Limits, plan: str, data: AnyInput) -> None:
    """Refuse an input that is larger than the user's plan allows. Raises InvalidInput that names the limit."""
    if isinstance(data, ImageInput) and data.scale is None:
        area = data.width * data.height
        if area > limits.max_image_px:
            side = int(limits.max_image_px**0.5)
            raise InvalidInput(
                f"Nothing was submitted or charged. {data.width}×{data.height} is larger than the {side}×{side} pixels"
                f" of plan {plan}: ask for a smaller size, or change the plan (GET /v1/plans).",
                errors=[{"field": "input.width", "message": f"width × height must be at most {limits.max_image_px}"}],
            )
    if isinstance(data, VideoInput):
        area = data.width * data.height
        if area > limits.max_image_px:
            raise InvalidInput(
                f"Nothing was submitted or charged. {data.width}×{data.height} is larger than plan {plan} allows.",
                errors=[{"field": "input.width", "message": f"width × height must be at most {limits.max_image_px}"}],
            )
        if data.duration_s > limits.max_video_s:
            raise InvalidInput(
                f"Nothing was submitted or charged. {data.duration_s:g} s is longer than the {limits.max_video_s:g} s"
                f" of plan {plan}: ask for a shorter clip, or change the plan (GET /v1/plans).",
                errors=[{"field": "input.duration_s", "message": f"must be at most {limits.max_video_s:g}"}],
            )
