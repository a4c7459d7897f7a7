"""A line to a server that can be cut and mended: what a stopped Postgres or a pulled cable looks like from here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable


class CutLine:
    """Forwards TCP to ``host:port`` while it is whole. Listens on ``self.port``."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Transport | asyncio.StreamWriter] = set()
        self._deaf = False
        self.delay_s = 0.0  # of all that the server says
        self.port = 0

    async def mend(self) -> None:
        """Take connections, on the same port as before."""
        self._deaf = False
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def deafen(self) -> None:
        """From now on nothing that the server says arrives; what is said to it does."""
        self._deaf = True

    async def cut(self) -> None:
        """Break every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        self._open |= {writer, far_writer}
        try:
            await asyncio.gather(
                _pump(reader, far_writer), _pump(far_reader, writer, lambda: self._deaf, lambda: self.delay_s)
            )
        finally:
            self._open -= {writer, far_writer}


async def _pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    deaf: Callable[[], bool] = lambda: False,
    delay_s: Callable[[], float] = lambda: 0.0,
) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            await asyncio.sleep(delay_s())
            if not deaf():
                writer.write(data)
                await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def cut_line(host: str, port: int) -> AsyncIterator[CutLine]:
    """A whole line, taken down at the end."""
    line = CutLine(host, port)
    await line.mend()
    try:
        yield line
    finally:
        await line.cut()
