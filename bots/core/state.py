"""What a process of bots remembers for itself between two starts: which commands it has told its platform, and whose
progress it was showing.

Losing it costs a few calls at the next start, nothing else; what must not be lost is in the platform.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tessera.config import write_private


class StateFile:
    """A small JSON object in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            data = {}
        self._data: dict[str, str] = data if isinstance(data, dict) else {}
        self._writing = asyncio.Lock()

    def get(self, name: str) -> str | None:
        """What was kept under this name."""
        return self._data.get(name)

    def set(self, name: str, value: str) -> None:
        """Keep it. Raises OSError."""
        self._data[name] = value
        write_private(self._path, json.dumps(self._data, indent=1) + "\n")

    async def keep(self, name: str, value: str) -> None:
        """The same for what changes often: nobody waits for the disk. Raises OSError."""
        self._data[name] = value
        async with self._writing:
            await asyncio.to_thread(write_private, self._path, json.dumps(self._data, indent=1) + "\n")
