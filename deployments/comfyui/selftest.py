"""A real tiny job that needs no model: whether a server works off its queue and delivers what it has made."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

from deployments.comfyui.binding import Expected
from deployments.comfyui.client import BadAnswer, ComfyClient, PromptState, Refused, file_refs
from deployments.comfyui.outputs import verify
from deployments.comfyui.progress import ProgressTracker
from deployments.comfyui.run import Patience, PromptRun
from tessera.errors import BadOutput, Busy, Stuck
from tessera.jobs import Kind

SIDE = 64
GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": SIDE, "height": SIDE, "batch_size": 1, "color": 255}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


async def tiny_job(client: ComfyClient, patience: Patience) -> str:
    """What it showed, in words. It waits behind what runs. Raises EngineError."""
    prompt_id, began = str(uuid4()), time.monotonic()
    try:
        tracker = ProgressTracker(prompt_id, GRAPH, ("2",))
        async with PromptRun(client, prompt_id, tracker, asyncio.Event(), patience) as prompt:
            await client.submit(prompt_id, GRAPH, client_id=prompt_id)
            async for _ in prompt.follow():
                pass
    except Refused as refused:
        raise BadAnswer(f"It refuses a picture of one colour: {refused}.") from refused
    except (Stuck, Busy, asyncio.CancelledError):
        await client.delete_pending(prompt_id)  # it waits behind somebody: it must not run later, for nobody
        raise
    files = file_refs(prompt.found.outputs, ["2"])
    if prompt.found.state is not PromptState.SUCCEEDED or not files:
        raise BadOutput("It made no picture of one colour. Its own log says why.")
    data = await client.download(files[0], max_bytes=1 << 20)
    await asyncio.to_thread(verify, data, Expected(kind=Kind.IMAGE, width=SIDE, height=SIDE))
    return f"a picture in {time.monotonic() - began:.1f} s"
