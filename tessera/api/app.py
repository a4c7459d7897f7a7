"""The application: every route, the middleware, the documentation. No lifespan: the entry point owns the services."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import compile_path

from tessera import __version__
from tessera.api import docs, health, internal_workers, models, plans, queue, reports
from tessera.api.accounts import identities, keys, leaving, ledger, linking
from tessera.api.accounts import me as account
from tessera.api.accounts import settings as person_settings
from tessera.api.admin import banner as admin_banner
from tessera.api.admin import bans as admin_bans
from tessera.api.admin import deliveries as admin_deliveries
from tessera.api.admin import jobs as admin_jobs
from tessera.api.admin import queue as admin_queue
from tessera.api.admin import reports as admin_reports
from tessera.api.admin import rules as admin_rules
from tessera.api.admin import users as admin
from tessera.api.admin import workers as admin_workers
from tessera.api.artifacts import routes as artifacts
from tessera.api.artifacts import shares, uploads
from tessera.api.auth import Authenticator
from tessera.api.batches import routes as batches
from tessera.api.callers import People
from tessera.api.deliveries import chat_rules, chats, inbox, webhooks
from tessera.api.deliveries import log as delivery_log
from tessera.api.depth import DepthGauge
from tessera.api.description import describe
from tessera.api.events import routes as events
from tessera.api.jobs import explanations, quotes
from tessera.api.jobs import routes as jobs
from tessera.api.metrics import Metrics
from tessera.api.middleware import GatewayMiddleware
from tessera.api.openai.routes import ROUTERS
from tessera.api.plain_route import PlainRoutes
from tessera.api.refusals import add_handlers
from tessera.api.services import Services
from tessera.api.state import Api
from tessera.api.workers import Workers


def create_app(services: Services, *, echo_request_id: bool = True) -> FastAPI:
    """The API over these services, which the caller has started and will close.

    ``echo_request_id``: whether the app itself sends X-Request-Id; not where the server around it does (Ray Serve).
    """
    metrics = Metrics()
    settings = services.settings
    people = People(
        services.db, secret=settings.secret_for("identities"), per_min=settings.cluster.ingress.signups_per_min
    )
    authenticator = Authenticator(services.db, people, services.clock)
    services.feed.on_account.append(authenticator.forget_user)
    api = Api(
        services=services,
        authenticator=authenticator,
        metrics=metrics,
        workers=Workers(services.scheduler),
        depth=DepthGauge(services),
    )
    app = FastAPI(title="Tessera", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.api = api
    # Routes are looked through in this order, by Serve and then by FastAPI, 1 to 2 µs each: those asked most first.
    for router in (jobs.router, events.router, health.router, *ROUTERS):
        app.include_router(router)
    for module in (
        quotes,
        explanations,
        artifacts,
        shares,
        uploads,
        models,
        plans,
        queue,
        account,
        person_settings,
        linking,
        leaving,
        ledger,
        keys,
        batches,
        reports,
    ):
        app.include_router(module.router)
    for module in (
        webhooks,
        delivery_log,
        identities,
        internal_workers,
        chats,
        chat_rules,
        inbox,
        admin,
        admin_jobs,
        admin_deliveries,
        admin_workers,
        admin_queue,
        docs,
    ):
        app.include_router(module.router)
    for module in (admin_banner, admin_bans, admin_reports, admin_rules):
        app.include_router(module.router)
    app.include_router(shares.operators)
    add_handlers(app)
    app.add_middleware(PlainRoutes, owner=app)
    app.add_middleware(  # the last one is the outermost
        GatewayMiddleware,
        metrics=metrics,
        standing=services.standing,
        echo_request_id=echo_request_id,
        body_silence_s=services.body_silence_s,
    )
    for context in iter_route_contexts(app.routes):
        pattern, _, _ = compile_path(context.path or "")
        api.patterns.append((pattern, set(context.methods or ())))
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]  # FastAPI's own way to change it
    return app
