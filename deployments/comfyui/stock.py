"""What a server has: which of the served models lack a node or a file there, asked now and then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from deployments.comfyui import checking
from deployments.comfyui.client import ComfyClient
from deployments.comfyui.workflows import Graph, Workflow
from tessera.manifests import Mode

CHECK_S = 60.0  # a file that was put into its place is found within a minute


class Stock:
    """``missing``: a model → what it lacks, in words, as it was last seen."""

    def __init__(self, client: ComfyClient, workflows: Mapping[str, Mapping[Mode, Workflow]]) -> None:
        self._client = client
        self._workflows = workflows
        self._infos: dict[str, Any] = {}
        self._looked_at: float | None = None
        self.missing: dict[str, str] = {}

    async def look(self) -> None:
        """Ask the server which nodes and files it has, unless it was asked within the last minute.

        A model counts as missing when none of its workflows can run; told is what the one from words lacks. Raises
        ServerAway or BadAnswer.
        """
        if self._looked_at is not None and time.monotonic() - self._looked_at < CHECK_S:
            return
        self._infos.clear()
        missing: dict[str, str] = {}
        for model, modes in self._workflows.items():
            lacks = []
            for _, workflow in sorted(modes.items(), key=lambda item: item[0] is not Mode.TEXT):
                infos = await self.node_infos(workflow.graph)
                lacks.append([problem.message for problem in checking.check(workflow, infos)])
            if lacks and all(lacks):
                missing[model] = lacks[0][0].rstrip(".")
        self.missing, self._looked_at = missing, time.monotonic()

    async def resolved(self, graph: Graph) -> Graph:
        """The graph with its files' names as this server writes them."""
        return checking.resolved(graph, await self.node_infos(graph))

    async def node_infos(self, graph: Graph) -> Mapping[str, Any]:
        """What the server says of the classes of a graph, and of others that were asked for before."""
        names = sorted({node["class_type"] for node in graph.values()} - set(self._infos))
        for name, info in zip(names, await asyncio.gather(*map(self._client.node_info, names)), strict=True):
            self._infos[name] = info
        return self._infos
