"""The HTTP ingress: the FastAPI app of ``tessera.api`` as a Serve deployment, with its collaborators built once.

Serve's HAProxy listens and balances; a replica answers on its own event loop, so nothing here may block it.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

from ray import serve

from deployments.scheduler_handle import ActorScheduler
from tessera.admission import Admission
from tessera.api.app import create_app
from tessera.api.batches.expander import Expander
from tessera.api.deliveries.bell import Bell
from tessera.api.deliveries.sender import Sender
from tessera.api.events.feed import Feed
from tessera.api.services import Services, utc_now
from tessera.api.standing import Standing
from tessera.api.watermarks import Watermarks
from tessera.artifacts import open_store
from tessera.catalog import catalog_of
from tessera.config import Settings
from tessera.logs import configure_logs
from tessera.outbound import Outbound
from tessera.store.database import Database

if TYPE_CHECKING:
    from fastapi import FastAPI

GC_OBJECTS = 10_000  # some tens of requests; a collection was 2 % of a replica's time
POOL = 8  # connections of a replica for reads; admission and the feed hold three more


@serve.ingress()
class Ingress:
    """One replica. The app is built when the replica is, from what ``tessera up`` has written down."""

    async def __init__(self) -> None:  # type: ignore[misc]  # Serve awaits it
        configure_logs("ingress")
        settings = Settings.from_environment()
        scheduler = ActorScheduler()
        db = Database.open(settings.database_url, pool_size=POOL, name="tessera-ingress")
        artifacts = open_store(settings.artifacts_url)
        outbound, bell = Outbound(settings.cluster.outbound.allow), Bell(settings.database_url)
        self._services = Services(
            settings=settings,
            catalog=catalog_of(
                (m for worker in settings.cluster.enabled_workers() for m in worker.models), home=settings.home
            ),
            db=db,
            admission=Admission(settings.database_url),
            artifacts=artifacts,
            scheduler=scheduler,
            feed=Feed(settings.database_url, scheduler),
            watermarks=Watermarks(settings.cluster.ingress, db, artifacts),
            outbound=outbound,
            bell=bell,
            sender=Sender(settings.database_url, outbound, bell, utc_now),
            standing=Standing(db),
        )
        self._services.feed.start()
        self._services.sender.start()
        self._services.bell.start()
        self._services.watermarks.start()
        self._expander = Expander(self._services)
        self._expander.start()
        # What is here now stays: collections need not look through it again and again, nor after every 700 new objects.
        gc.freeze()
        gc.set_threshold(GC_OBJECTS, 10, 10)

    async def __serve_build_asgi_app__(self) -> FastAPI:
        # Serve adds the id that it has found or made in the request.
        return create_app(self._services, echo_request_id=False)

    async def check_health(self) -> None:
        """Serve asks this: a replica whose loop is blocked for long is replaced. Postgres is not its business."""

    async def __del__(self) -> None:
        services: Any = getattr(self, "_services", None)
        if services is not None:
            await self._expander.close()
            await services.watermarks.close()
            await services.feed.close()
            await services.bell.close()
            await services.sender.close()
            await services.outbound.close()
            await services.admission.close()
            await services.standing.close()
            await services.db.close()
