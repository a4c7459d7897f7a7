"""How a ComfyUI says what is wrong with a prompt."""

from __future__ import annotations

import uuid
from typing import Any

from aiohttp import web


def is_canonical(value: Any) -> bool:
    try:
        return isinstance(value, str) and str(uuid.UUID(value)) == value
    except ValueError:
        return False


def number_errors(name: str, takes: str, value: Any, details: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        number = float(value) if takes.startswith("FLOAT") else int(value)
    except (TypeError, ValueError):
        return [problem("invalid_input_type", "Failed to convert an input value", name, **details)]
    low, _, high = takes.partition(" ")[2].partition("..")
    if high and number > float(high):
        return [problem("value_bigger_than_max", f"Value {number} bigger than max of {high}", name, **details)]
    if low and number < float(low):
        return [problem("value_smaller_than_min", f"Value {number} smaller than min of {low}", name, **details)]
    return []


def problem(kind: str, message: str, details: str = "", **extra: Any) -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


def refused(kind: str, message: str) -> web.Response:
    return web.json_response({"error": problem(kind, message), "node_errors": {}}, status=400)
