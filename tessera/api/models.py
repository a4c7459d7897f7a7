"""The catalogue of models. Needs no key."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from tessera.api import schemas
from tessera.api.answers import page
from tessera.api.state import api_of
from tessera.catalog import Catalog, Model
from tessera.inputs import INPUTS
from tessera.jobs import Kind

router = APIRouter(tags=["catalogue"])

INPUT_SCHEMAS: dict[Kind, dict[str, Any]] = {kind: model.model_json_schema() for kind, model in INPUTS.items()}


@router.get(
    "/v1/models",
    response_model=None,
    summary="List the models",
    responses={200: {"model": schemas.ModelPage}},
    openapi_extra={"security": []},
)
async def list_models(request: Request) -> Response:
    """What can be asked for, with the JSON Schema of its input. `state` is `offline` while no worker runs it."""
    api = api_of(request)
    workers = await api.workers.get()
    ready = None if workers is None else {model for worker in workers if worker.online for model in worker.models}
    return page(
        [model_answer(model, api.services.catalog, ready) for model in api.services.catalog.models if not model.hidden]
    )


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
