"""ComfyUI: the engine on its fake, and on a real server where ``COMFYUI_URL`` names one."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from deployments.comfyui.engine import ComfyEngine
from deployments.comfyui.run import Patience
from deployments.comfyui.workflows import Workflow, load_workflow, load_workflows
from tessera.engine import Engine, EngineJob, backend_id
from tessera.inputs import parse_input
from tessera.jobs import Kind
from tessera.manifests import Mode, parse_manifest, shipped
from tests.conformance.harness import Harness, HarnessKind, HarnessMaker, NotRun
from tests.conformance.real_server import RealServer, real_server
from tests.fakes.comfyui import SLOW, FakeComfy

QUICK = Patience(
    poll_s=0.05,
    preview_s=0.05,
    away_s=0.8,
    queue_s=5.0,
    dead_s=0.5,
    silent_s=5.0,
    socket_s=1.0,
    download_bytes=4 << 20,
)
MISSING = "wan21"


def asked(model: str, kind: str = "image", **given: Any) -> EngineJob:
    parsed = parse_input(Kind(kind), given).model_dump(mode="json")
    return EngineJob(id=uuid.uuid4(), kind=Kind(kind), model=model, input=parsed)


def shipped_files(*, without: str = "") -> dict[str, list[str]]:
    """The files that the shipped workflows need, by folder; those that only one model needs can be left out."""
    kept = {file.name for m in shipped() if m.model != without for file in m.files}
    files: dict[str, list[str]] = {}
    for manifest in shipped():
        for file in manifest.files:
            if file.name in kept and file.name not in files.setdefault(file.folder, []):
                files[file.folder].append(file.name)
    return files


class ComfyHarness(Harness):
    """What the fake and the real server have in common: engines that are closed at the end."""

    slots = 1

    def __init__(self) -> None:
        self._engines: list[ComfyEngine] = []

    def _made(self, url: str, workflows: Mapping[str, Mapping[Mode, Workflow]], patience: Patience) -> Engine:
        engine = ComfyEngine(url, workflows, patience=patience)
        self._engines.append(engine)
        return engine

    async def close(self) -> None:
        for engine in self._engines:
            await engine.close()


class FakeComfyHarness(ComfyHarness):
    """The shipped SD1.5 workflow on the fake. Its weights are there, those of Wan 2.1 are not."""

    name = "comfyui (fake)"
    kind = HarnessKind.FAKE

    async def open(self) -> None:
        self.server = FakeComfy(shipped_files(without=MISSING))
        await self.server.start()

    async def close(self) -> None:
        await super().close()
        await self.server.kill()

    def engine(self) -> Engine:
        return self._made(self.server.url, load_workflows(shipped(), ["sd15", MISSING]), QUICK)

    def quick(self) -> EngineJob:
        return asked("sd15", prompt="a boat", width=100, height=72, count=2, seed=7)

    def slow(self) -> EngineJob:
        return asked("sd15", prompt=f"a storm {SLOW}", width=64, height=64)

    def bad(self) -> EngineJob:
        return asked("sd15", prompt="a boat", width=4096, height=4096)

    def of_missing_model(self) -> EngineJob:
        return asked(MISSING, "video", prompt="a boat", width=64, height=64)

    async def submissions(self, job: EngineJob, attempt: int) -> int | None:
        return self.server.submitted.get(backend_id(job.id, attempt), 0)

    async def kill(self) -> None:
        await self.server.kill()

    async def start(self) -> None:
        await self.server.start()

    async def delay_answers(self, seconds: float) -> None:
        self.server.knobs.delay_s = seconds

    async def answer_garbage(self, on: bool) -> None:
        self.server.knobs.garbage = on

    async def break_connections(self) -> None:
        self.server.break_connections()

    async def run_out_of_memory_once(self) -> None:
        self.server.knobs.oom_once = True

    async def deliver_too_much_once(self) -> None:
        self.server.knobs.too_much_once = True


# ---------------------------------------------------------------------- a real server


REAL = Patience(poll_s=0.5, preview_s=0.5, away_s=20.0, queue_s=60.0, dead_s=20.0, silent_s=300.0)
NO_CHECKPOINT = "the server has no checkpoint that could be loaded and unloaded"
MANIFEST = """
model = "{model}"
outputs = ["9"]

[bind]
prompt = ["6.text"]
seed = ["{seed}"]
{steps}
width = ["5.width"]
height = ["5.height"]
prefix = ["9.filename_prefix"]
"""


class RealComfyHarness(RealServer, ComfyHarness):
    """A server that was given by its address, with whatever checkpoint it has; without one, graphs that need none."""

    kind = HarnessKind.REAL
    hang_s = 400.0  # on a CPU a step takes seconds
    name = "comfyui (real)"
    probe_path = "/system_stats"

    async def open(self) -> None:
        self._address = await self.connect()
        timeout = aiohttp.ClientTimeout(total=30)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{self.url}/object_info/CheckpointLoaderSimple") as answer,
        ):
            known = (await answer.json())["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"]
        choices = known[0] if isinstance(known[0], list) else known[1].get("options", [])
        self._checkpoint = next(iter(choices), None)
        self._folder = tempfile.TemporaryDirectory(prefix="conformance-")

    async def close(self) -> None:
        await super().close()
        await self.line.cut()
        self._folder.cleanup()

    def engine(self) -> Engine:
        found = {}
        for model, graph in self._graphs().items():
            folder = Path(self._folder.name)
            (folder / f"{model}.json").write_text(json.dumps(graph))
            seed = "5.color" if "EmptyImage" in str(graph) else "3.seed"
            steps = 'steps = ["3.steps"]' if "3" in graph else ""
            text = MANIFEST.format(model=model, seed=seed, steps=steps)
            manifest = parse_manifest(text, name=model, folder=folder)
            found[model] = {Mode.TEXT: load_workflow(manifest)}
        return self._made(self._address, found, REAL)

    def quick(self) -> EngineJob:
        return self._asked("quick")

    def slow(self) -> EngineJob:
        return self._asked("slow")

    def heavy(self) -> EngineJob:
        if self._checkpoint is None:
            raise NotRun(NO_CHECKPOINT)
        return self.slow()

    def bad(self) -> EngineJob:
        job = self._asked("quick")
        return replace(job, input={**job.input, "image": "upl_1"})  # this workflow starts from words only

    def of_missing_model(self) -> EngineJob:
        return self._asked("gone")

    async def deliver_too_much_once(self) -> None:
        for engine in self._engines:
            engine._patience = replace(engine._patience, download_bytes=16)  # any picture is too large then

    def _asked(self, model: str) -> EngineJob:
        seed = uuid.uuid4().int % (1 << 24)  # never cached
        return asked(model, prompt=f"a boat {seed}", width=64, height=64, seed=seed)

    def _graphs(self) -> dict[str, Any]:
        gone = _sampled("no-such-file.safetensors", steps=1)
        if self._checkpoint is None:
            return {"quick": _scaled(times=2, side=256), "slow": _scaled(times=24, side=3072), "gone": gone}
        return {
            "quick": _sampled(self._checkpoint, steps=2),
            "slow": _sampled(self._checkpoint, steps=5000),
            "gone": gone,
        }


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def _sampled(checkpoint: str, *, steps: int) -> dict[str, Any]:
    sampler = {"cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0, "steps": steps, "seed": 0}
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    return {
        "3": _node("KSampler", **sampler, **links),
        "4": _node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "5": _node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "6": _node("CLIPTextEncode", text="", clip=["4", 1]),
        "7": _node("CLIPTextEncode", text="", clip=["4", 1]),
        "8": _node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": _node("SaveImage", filename_prefix="tessera", images=["8", 0]),
    }


def _scaled(*, times: int, side: int) -> dict[str, Any]:
    """Work without a model: a picture that is enlarged and made small again, over and over.

    Few and large steps: to compare a graph with its cache, ComfyUI takes minutes for a chain of hundreds of nodes.
    """
    graph = {
        "5": _node("EmptyImage", width=64, height=64, batch_size=1, color=0),
        "6": _node("CLIPTextEncode", text="", clip=["4", 1]),  # never needed, so never run
        "4": _node("CheckpointLoaderSimple", ckpt_name="unused"),
    }
    last = "5"
    for number in range(times):
        for name, size in ((f"up{number}", side + number), (f"down{number}", 64)):
            graph[name] = _node(
                "ImageScale", image=[last, 0], upscale_method="lanczos", width=size, height=size, crop="disabled"
            )
            last = name
    graph["9"] = _node("SaveImage", filename_prefix="tessera", images=[last, 0])
    return graph


def harnesses(environ: Mapping[str, str]) -> list[HarnessMaker]:
    """The fake; and the real server that the environment names."""
    found: list[HarnessMaker] = [FakeComfyHarness]
    if (server := real_server(environ, "COMFYUI")) is not None:
        found.append(type("RealComfy", (RealComfyHarness,), server))
    return found
