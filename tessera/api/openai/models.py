"""``models``: every name under which a model can be asked for. https://platform.openai.com/docs/api-reference/models"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from tessera.api.auth import Reader
from tessera.api.jobs.answers import answer
from tessera.api.openai import schemas
from tessera.api.state import api_of
from tessera.catalog import Model
from tessera.errors import UnknownModel

router = APIRouter(tags=["openai"])

CREATED = 1_735_689_600  # OpenAI's models have a birthday; those of a catalogue have none: 2025-01-01


@router.get(
    "/openai/v1/models",
    response_model=None,
    summary="List the models in OpenAI's shape",
    responses={
        200: schemas.answers(
            schemas.OpenAIModelList, "The models.", {"object": "list", "data": [schemas.MODEL_EXAMPLE]}
        ),
        **schemas.errors(401, 403, 429, 503),
    },
)
async def list_models(request: Request, caller: Reader) -> Response:
    """Each model under its own id and under each alias; `root` is the id."""
    models = [model for model in api_of(request).services.catalog.models if not model.hidden]
    data = [_shown(model, name) for model in models for name in (model.id, *model.aliases)]
    return answer({"object": "list", "data": data})


@router.get(
    "/openai/v1/models/{model:path}",
    response_model=None,
    summary="One model in OpenAI's shape",
    responses={
        200: schemas.answers(schemas.OpenAIModel, "The model.", schemas.MODEL_EXAMPLE),
        **schemas.errors(401, 403, 404, 429, 503),
    },
)
async def get_model(request: Request, model: str, caller: Reader) -> Response:
    """By its id or an alias."""
    for found in api_of(request).services.catalog.models:
        if model == found.id or model in found.aliases:
            return answer(_shown(found, model))
    raise UnknownModel(f"There is no model {model[:64]!r}. GET /openai/v1/models lists those that there are.")


def _shown(model: Model, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": CREATED,
        "owned_by": "tessera",
        "kind": model.kind.value,
        "root": model.id,
    }
