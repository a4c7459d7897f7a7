"""A sender of webhooks in a process of its own, to be killed: ``python -m tests.integration.sender_process DSN``."""

from __future__ import annotations

import asyncio
import sys

from tessera.api.deliveries.bell import Bell
from tessera.api.deliveries.sender import Sender
from tessera.api.services import utc_now
from tessera.outbound import Outbound


async def main(dsn: str) -> None:
    """Send for ever."""
    bell = Bell(dsn)
    sender = Sender(dsn, Outbound(("127.0.0.1/32",)), bell, utc_now, scan_s=0.2)
    bell.start()
    sender.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
