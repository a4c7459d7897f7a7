"""The API's own description, OpenAPI 3.1: what FastAPI makes of the routes, with inputs, problems, keys and scopes."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts

from tessera.api.auth import ON_BEHALF_OF, SCOPES
from tessera.api.problems import error_codes
from tessera.api.schemas import base as schemas
from tessera.api.schemas import bodies

DESCRIPTION = """\
Six kinds of job (image, video, text, transcription, speech, music), one way for all: submit, follow, fetch.

Errors are problems (RFC 9457) with a stable `code`. Lists come in pages by `next_cursor`. Times are UTC. Tokens are
decimals with at most three places: 1 token is one image of 1024×1024.
"""

_NOT_FOR_PERSONS = ("/v1/admin/", "/v1/internal/")

_TAGS = [
    {"name": "jobs", "description": "Submit, follow, cancel."},
    {"name": "artifacts", "description": "What jobs have made."},
    {"name": "uploads", "description": "What jobs start from."},
    {"name": "batches", "description": "Many jobs of one file, when there is room for them."},
    {"name": "openai", "description": "OpenAI's shapes: its SDKs work unchanged (docs/openai.md)."},
    {"name": "catalogue", "description": "What can be asked for, and what it costs."},
    {"name": "account", "description": "Who you are, what you used, your keys."},
    {"name": "webhooks", "description": "Where the events of your jobs are sent to, and what became of each."},
    {"name": "internal", "description": "What bots and workers ask, with a key of scope `service` or `admin`."},
    {"name": "operator", "description": "Users and workers, for a key of scope `admin`."},
    {"name": "operations", "description": "Health and numbers."},
]


def describe(app: FastAPI) -> dict[str, Any]:
    """The description of the API, made once: with the inputs, the problem, and the key that most routes need."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, tags=_TAGS
        )
        components = schema.setdefault("components", {})
        components.setdefault("schemas", {}).update(
            {
                **bodies.input_schemas(),
                "Problem": schemas.Problem.model_json_schema(ref_template="#/components/schemas/{model}"),
                "Event": schemas.Event.model_json_schema(ref_template="#/components/schemas/{model}"),
            }
        )
        for name, model in schemas.Problem.model_json_schema().get("$defs", {}).items():
            components["schemas"][name] = model
        components["schemas"]["Problem"].pop("$defs", None)
        components["securitySchemes"] = {
            "apiKey": {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "tsr_…",
                "description": "`tessera keys create`",
            }
        }
        schema["security"] = [{"apiKey": []}]
        components.setdefault("parameters", {})["OnBehalfOf"] = {
            "name": ON_BEHALF_OF,
            "in": "header",
            "required": False,
            "schema": {"type": "string", "maxLength": 320},
            "example": "telegram:123456789",
            "description": "for a key of scope `service`: the person for whom it asks, made at first sight; limits,"
            " quota and ownership are the person's. 403 for any other key",
        }
        for path, methods in schema["paths"].items():
            for operation in methods.values():
                if (
                    path.startswith("/v1/")
                    and not path.startswith(_NOT_FOR_PERSONS)
                    and operation.get("security") != []
                ):
                    operation.setdefault("parameters", []).append({"$ref": "#/components/parameters/OnBehalfOf"})
                    for status, refusal in schemas.problems(403, 422).items():
                        operation["responses"].setdefault(str(status), refusal)
        _say_scopes(app, schema)
        schema["x-errors"] = error_codes()
        app.openapi_schema = schema
    return app.openapi_schema


def _say_scopes(app: FastAPI, schema: dict[str, Any]) -> None:
    """``x-scopes`` of each operation: the scopes of a key of which one is enough; none where no key is needed."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for context in iter_route_contexts(app.routes):
        dependant = getattr(context, "dependant", None)
        for method in context.methods or ():
            if dependant is not None:
                path = re.sub(r":\w+\}", "}", context.path or "")  # as it is described: without how it is read
                found[path, method.lower()] = _scopes(dependant)
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            if operation.get("security") != []:
                # Submissions ask for their scope themselves, for they are counted apart.
                operation.setdefault("x-scopes", list(found.get((path, method), ()) or ("jobs",)))


def _scopes(dependant: Dependant) -> tuple[str, ...]:
    for part in dependant.dependencies:
        if part.call in SCOPES:
            scopes: tuple[str, ...] = SCOPES[part.call]
            return scopes
    return ()
