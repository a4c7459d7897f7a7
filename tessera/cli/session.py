"""From a command to the API: which server, one client, one event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tessera.cli.screen import Screen, clean, span

if TYPE_CHECKING:
    from tessera.client import Client, Wait

T = TypeVar("T")


def make_client(screen: Screen) -> Client:
    """A client for the server of the environment or of TESSERA_HOME, not yet connected. Tells of long waits."""
    from tessera.client import Client, RetryPolicy, find_credentials

    def on_wait(wait: Wait) -> None:
        if wait.delay_s >= 1:
            screen.say(f"[dim]waiting {span(wait.delay_s)}: {clean(wait.why).replace('[', chr(92) + '[')}[/dim]")

    found = find_credentials(os.environ, Path.cwd())
    # Four tries answer "it is not running" in under two seconds and still bridge a restarting ingress replica.
    return Client(found.url, found.api_key, retry=RetryPolicy(attempts=4), on_wait=on_wait)


def call(work: Callable[[Client], Awaitable[T]], screen: Screen) -> T:
    """Run ``work`` with a connected client. Its errors go to the caller."""

    async def whole() -> T:
        async with make_client(screen) as client:
            return await work(client)

    return asyncio.run(whole())
