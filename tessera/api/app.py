"""The application: every route, the middleware, the documentation. No lifespan: the entry point owns the services."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts
from starlette.routing import compile_path

from tessera import __version__
from tessera.api import (
    account,
    admin,
    admin_queue,
    admin_workers,
    artifacts,
    docs,
    events,
    explanations,
    health,
    jobs,
    keys,
    ledger,
    models,
    plans,
    queue,
    quotes,
    schemas,
    uploads,
)
from tessera.api.auth import Authenticator
from tessera.api.depth import DepthGauge
from tessera.api.limits import RequestLimiter
from tessera.api.metrics import Metrics
from tessera.api.middleware import GatewayMiddleware
from tessera.api.problems import add_handlers, error_codes
from tessera.api.services import Services
from tessera.api.state import Api
from tessera.api.workers import Workers

DESCRIPTION = """\
Six kinds of job (image, video, text, transcription, speech, music), one way for all: submit, follow, fetch.

Errors are problems (RFC 9457) with a stable `code`. Lists come in pages by `next_cursor`. Times are UTC. Tokens are
decimals with at most three places: 1 token is one image of 1024×1024.
"""

_TAGS = [
    {"name": "jobs", "description": "Submit, follow, cancel."},
    {"name": "artifacts", "description": "What jobs have made."},
    {"name": "uploads", "description": "What jobs start from."},
    {"name": "catalogue", "description": "What can be asked for, and what it costs."},
    {"name": "account", "description": "Who you are, what you used, your keys."},
    {"name": "operator", "description": "Users and workers, for a key of scope `admin`."},
    {"name": "operations", "description": "Health and numbers."},
]


def create_app(services: Services, *, echo_request_id: bool = True) -> FastAPI:
    """The API over these services, which the caller has started and will close.

    ``echo_request_id``: whether the app itself sends X-Request-Id; not where the server around it does (Ray Serve).
    """
    metrics = Metrics()
    authenticator = Authenticator(services.db, RequestLimiter(), services.clock)
    api = Api(
        services=services,
        authenticator=authenticator,
        metrics=metrics,
        workers=Workers(services.scheduler),
        depth=DepthGauge(services),
    )
    app = FastAPI(title="Tessera", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.api = api
    # The routes of submissions first: they are looked through in this order.
    for module in (jobs, quotes, events, explanations, artifacts, uploads, models, plans, queue, account, ledger, keys):
        app.include_router(module.router)
    for module in (admin, admin_workers, admin_queue, health, docs):
        app.include_router(module.router)
    add_handlers(app)
    app.add_middleware(GatewayMiddleware, metrics=metrics, echo_request_id=echo_request_id)
    for context in iter_route_contexts(app.routes):
        pattern, _, _ = compile_path(context.path or "")
        api.patterns.append((pattern, set(context.methods or ())))
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's own way to change it
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The description of the API, made once: with the inputs, the problem, and the key that most routes need."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, tags=_TAGS
        )
        components = schema.setdefault("components", {})
        components.setdefault("schemas", {}).update(
            {
                **schemas.input_schemas(),
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
        schema["x-errors"] = error_codes()
        app.openapi_schema = schema
    return app.openapi_schema
