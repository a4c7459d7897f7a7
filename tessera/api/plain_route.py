"""A route without FastAPI's way to it and through its parameters, for the one that is asked most.

https://fastapi.tiangolo.com/how-to/custom-request-and-route/
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from tessera.errors import TesseraError

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class PlainRoute(APIRoute):
    """Its endpoint takes the request, and nothing else, and answers with a Response.

    There are no parameters to find and no answer to serialise, so it is called as it is: 6 % less CPU for a submission.
    """

    def get_route_handler(self) -> Endpoint:
        """The endpoint itself. Raises TypeError for one that takes parameters."""
        if self.dependant.path_params or self.dependant.query_params or self.dependant.dependencies:
            raise TypeError(f"{self.path} takes parameters: it needs FastAPI's own route")
        endpoint: Endpoint = self.endpoint
        return endpoint


class PlainRoutes:
    """Middleware: plain routes are found by method and path and called at once; all else goes on to the application.

    Starlette's and FastAPI's seven layers between a middleware and an endpoint were a sixth of an ingress' CPU for a
    submission. What the endpoint raises is answered by the application's own handlers.
    """

    def __init__(self, app: ASGIApp, owner: FastAPI) -> None:
        self._app = app
        self._owner = owner
        self._routes = {
            (method, context.path): route
            for context in iter_route_contexts(owner.routes)
            if isinstance(route := context.original_route, PlainRoute)
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route  # as the router does: metrics and log name it
        request = Request(scope, receive, send)
        try:
            response = await route.endpoint(request)
        except (TesseraError, HTTPException) as error:
            known = TesseraError if isinstance(error, TesseraError) else HTTPException
            handler: Any = self._owner.exception_handlers[known]  # refusals.py
            response = await handler(request, error)
        await response(scope, receive, send)
