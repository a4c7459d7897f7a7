"""The catalogue of models. Needs no key."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from tessera import pricing
from tessera.api.jobs.answers import page
from tessera.api.queue import model_state
from tessera.api.schemas import base as schemas
from tessera.api.state import api_of
from tessera.catalog import Catalog, Model
from tessera.inputs import INPUTS
from tessera.jobs import Kind
from tessera.plans import tokens

router = APIRouter(tags=["catalogue"])

# What one token buys, in the words of pricing.py.
_UNITS: dict[Kind, tuple[str, int]] = {
    Kind.IMAGE: ("pixel", pricing.IMAGE_PX),
    Kind.VIDEO: ("pixel of a frame", pricing.IMAGE_PX * pricing.VIDEO_FRAMES),
    Kind.TEXT: ("text token", pricing.TEXT_TOKENS),
    Kind.TRANSCRIPTION: ("second", pricing.TRANSCRIPTION_S),
    Kind.SPEECH: ("character", pricing.SPEECH_CHARS),
    Kind.MUSIC: ("second", pricing.MUSIC_S),
}
_BOUNDS = {
    "minimum": "min",
    "exclusiveMinimum": "above",
    "maximum": "max",
    "exclusiveMaximum": "below",
    "minLength": "min_chars",
    "maxLength": "max_chars",
    "maxItems": "max_items",
}
INPUT_SCHEMAS: dict[Kind, dict[str, Any]] = {kind: model.model_json_schema() for kind, model in INPUTS.items()}


@router.get(
    "/v1/models",
    response_model=None,
    summary="List the models",
    responses={200: {"model": schemas.ModelPage}},
    openapi_extra={"security": []},
)
async def list_models(request: Request) -> Response:
    """What can be asked for, with the JSON Schema of its input. `state` is `offline` while no worker runs it; `loaded`
    is `warm` where a job could start at once, `cold` where the model has to be loaded first."""
    api = api_of(request)
    workers = await api.workers.get()
    ready = None if workers is None else {model for worker in workers if worker.online for model in worker.models}
    return page(
        [
            {
                **model_answer(model, api.services.catalog, ready),
                "loaded": model_state(model, workers),
                "price_formula": price_formula(model),
                "limits": limits_of_input(model.kind),
            }
            for model in api.services.catalog.models
            if not model.hidden
        ]
    )


def price_formula(model: Model) -> dict[str, Any]:
    """The price as numbers: `tokens` for each `per` of `unit`, rounded up to 0.001: what a quote reckons."""
    if model.flat_mt is not None:
        return {"unit": "job", "per": 1, "tokens": tokens(model.flat_mt)}
    unit, per = _UNITS[model.kind]
    return {"unit": unit, "per": per, "tokens": 1}


def limits_of_input(kind: Kind) -> dict[str, dict[str, int | float]]:
    """The bounds of each number and text of the input, from its schema; a plan's may be smaller (`GET /v1/plans`)."""
    found: dict[str, dict[str, int | float]] = {}
    for name, about in INPUT_SCHEMAS[kind]["properties"].items():
        parts = [about, *about.get("anyOf", ())]
        bounds = {_BOUNDS[key]: part[key] for part in parts for key in _BOUNDS if key in part}
        if bounds:
            found[name] = bounds
    return found


def model_answer(model: Model, catalog: Catalog, ready: set[str] | None) -> dict[str, Any]:
    """A catalogue entry. ``ready``: the models of workers that are up, None while nobody knows."""
    state = "unknown" if ready is None else "ready" if model.id in ready else "offline"
    shown: dict[str, Any] = {
        "id": model.id,
        "kind": model.kind.value,
        "title": model.title,
        "description": model.description,
        "engine": model.engine,
        "preview": model.preview,
        "price": model.price,
        "default": catalog.resolve(model.kind, None) is model,
        "aliases": list(model.aliases),
        "state": state,
        "input_schema": INPUT_SCHEMAS[model.kind],
        "examples": list(model.examples),
    }
    if model.voices:
        shown["voices"] = list(model.voices)
    return shown
