"""The preview engines and the noop engine held against the rules of the Engine protocol."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import subprocess
import sys
import uuid
import wave
from typing import Any

import numpy as np
import pytest

from deployments.noop import NoopEngine
from deployments.preview.engine import PreviewEngine
from tessera.engine import CancelState, Done, EngineJob, InputFile, RunState
from tessera.errors import Busy, InvalidInput, ModelMissing
from tessera.inputs import parse_input
from tessera.jobs import Kind
from tests.conformance.engine_suite import Case, check_cancel, check_stream, collected, renewed, results


def job(kind: str, model: str | None = None, files: dict[str, InputFile] | None = None, **given: Any) -> EngineJob:
    parsed = parse_input(Kind(kind), given).model_dump(mode="json")
    return EngineJob(
        id=uuid.uuid4(), kind=Kind(kind), model=model or f"preview-{kind}", input=parsed, files=files or {}
    )


def recording(seconds: float) -> InputFile:
    """Noise in bursts, as far as a voice detector is concerned: speech."""
    rng = np.random.default_rng(1)
    t = np.arange(int(16_000 * seconds)) / 16_000
    samples = rng.normal(0, 4000, len(t)) * (np.sin(2 * np.pi * 3 * t) > 0) + 6000 * np.sin(2 * np.pi * 180 * t)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(samples.astype("<i2").tobytes())
    return InputFile(media_type="audio/wav", data=buffer.getvalue())


def sound(seconds: float) -> dict[str, InputFile]:
    return {"upload": recording(seconds)}


BROKEN = InputFile(media_type="application/octet-stream", data=b"not what it says" * 40)

CASES = [
    Case(
        name="image",
        engine=lambda: PreviewEngine(["preview-image"]),
        quick=job("image", prompt="a boat on a lake", width=96, height=64, count=2, seed=5),
        slow=job("image", prompt="a lighthouse in a storm, oil painting", width=2048, height=2048, count=8, seed=5),
        bad=job("image", prompt="a boat", image="upl_1", files={"image": BROKEN}),
    ),
    Case(
        name="video",
        engine=lambda: PreviewEngine(["preview-video"]),
        quick=job("video", prompt="a boat on a lake", width=64, height=64, duration_s=0.5, fps=4, seed=5),
        slow=job("video", prompt="a storm at sea, oil painting", width=512, height=512, duration_s=16, fps=24, seed=5),
        bad=job("video", prompt="a boat", image="upl_1", files={"image": BROKEN}),
    ),
    Case(
        name="text",
        engine=lambda: PreviewEngine(["preview-text"]),
        quick=job("text", prompt="2 + 3", seed=5),
        slow=job("text", prompt="tell me a long story about the sea", max_tokens=8192, seed=5),
        bad=None,
    ),
    Case(
        name="transcription",
        engine=lambda: PreviewEngine(["preview-transcription"]),
        quick=job("transcription", upload="upl_1", files=sound(1.0)),
        slow=job("transcription", upload="upl_1", files=sound(90.0)),
        bad=job("transcription", upload="upl_1", language="de", files=sound(1.0)),
    ),
    Case(
        name="speech",
        engine=lambda: PreviewEngine(["preview-speech"]),
        quick=job("speech", text="Hello there."),
        slow=job("speech", text="The sea is wide and the boat is small. " * 500, speed=0.25),
        bad=job("speech", text="Hello", voice="klingon"),
    ),
    Case(
        name="music",
        engine=lambda: PreviewEngine(["preview-music"]),
        quick=job("music", prompt="calm piano", duration_s=2, seed=5),
        slow=job("music", prompt="epic orchestra", duration_s=300, seed=5),
        bad=None,
    ),
    Case(
        name="noop",
        engine=NoopEngine,
        quick=job("text", model="noop", prompt="sleep 0.25"),
        slow=job("text", model="noop", prompt="sleep 30"),
        bad=job("text", model="noop", prompt="fail invalid"),
    ),
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@each_case
async def test_a_run_tells_its_progress_and_ends_with_exactly_one_done(case: Case) -> None:
    engine, asked = case.engine(), renewed(case.quick)
    events = await collected(engine, asked)
    check_stream(events)
    done = events[-1]
    assert isinstance(done, Done)
    assert done.output["engine"].startswith(case.name if case.name == "noop" else f"preview-{case.name}/")
    assert case.name == "noop" or done.output["preview"] is True
    assert await engine.reconcile(asked.id, 1) is RunState.DONE
    assert await engine.cancel(asked.id, 1) is CancelState.FINISHED
    assert (await engine.capacity()).running == 0


@pytest.mark.parametrize("case", [case for case in CASES if case.name != "speech"], ids=lambda case: case.name)
async def test_the_same_input_gives_the_same_result(case: Case) -> None:
    engine = case.engine()
    assert results(await collected(engine, renewed(case.quick))) == results(
        await collected(engine, renewed(case.quick))
    )


@each_case
async def test_a_cancel_ends_the_run_within_a_second_without_done(case: Case) -> None:
    engine = case.engine()
    await check_cancel(engine, renewed(case.slow))
    assert (await engine.capacity()).running == 0


@each_case
async def test_an_attempt_that_was_never_started_is_lost_and_its_cancel_unknown(case: Case) -> None:
    engine = case.engine()
    await collected(engine, case.quick, attempt=2)
    assert await engine.cancel(uuid.uuid4(), 1) is CancelState.UNKNOWN
    assert await engine.reconcile(uuid.uuid4(), 1) is RunState.LOST
    assert await engine.reconcile(case.quick.id, 1) is RunState.LOST
    assert await engine.reconcile(case.quick.id, 2) is RunState.DONE


@each_case
async def test_a_run_cancelled_before_its_first_step_makes_nothing(case: Case) -> None:
    engine, asked = case.engine(), renewed(case.slow)
    run = engine.run(asked, 1)
    assert await engine.reconcile(asked.id, 1) is RunState.PENDING
    assert await engine.cancel(asked.id, 1) is CancelState.CANCELLED
    assert [event async for event in run] == []
    assert await engine.reconcile(asked.id, 1) is RunState.CANCELLED


@pytest.mark.parametrize("case", [case for case in CASES if case.bad], ids=lambda case: case.name)
async def test_an_input_that_cannot_work_is_refused_and_the_run_failed(case: Case) -> None:
    assert case.bad is not None
    engine, asked = case.engine(), renewed(case.bad)
    with pytest.raises(InvalidInput) as refusal:
        await collected(engine, asked)
    assert case.name == "noop" or "Nothing was charged" in refusal.value.message
    assert await engine.reconcile(asked.id, 1) is RunState.FAILED
    assert (await engine.capacity()).running == 0


@each_case
async def test_one_run_more_than_there_are_slots_is_told_to_back_off(case: Case) -> None:
    engine, first = case.engine(), renewed(case.slow)
    running = engine.run(first, 1)
    await anext(running)
    with pytest.raises(Busy):
        await collected(engine, renewed(case.quick))
    await engine.cancel(first.id, 1)
    assert not any(isinstance(event, Done) for event in [event async for event in running])


@each_case
async def test_the_engine_is_healthy_and_names_its_models(case: Case) -> None:
    engine = case.engine()
    health, models = await engine.probe(), await engine.models()
    assert health.ok, health.message
    assert list(models.available) == [case.quick.model]
    await engine.ensure(case.quick.model)
    with pytest.raises(ModelMissing):
        await engine.ensure("no-such-model")


@each_case
async def test_a_job_for_a_model_that_is_not_served_is_refused(case: Case) -> None:
    foreign = dataclasses.replace(renewed(case.quick), model="no-such-model")
    with pytest.raises(ModelMissing):
        await collected(case.engine(), foreign)


@pytest.mark.parametrize(
    ("model", "needless"),
    [
        ("preview-text", {"numpy", "PIL", "av", "pocketsphinx", "espeakng_loader", "ray"}),
        ("preview-image", {"av", "pocketsphinx", "espeakng_loader", "ray"}),
        ("preview-speech", {"pocketsphinx", "PIL", "ray"}),
    ],
)
def test_a_worker_imports_the_libraries_of_its_models_only(model: str, needless: set[str]) -> None:
    code = (
        "import sys; from deployments.preview.engine import PreviewEngine; "
        f"PreviewEngine([{model!r}]); print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not needless & set(ran.stdout.split())


async def test_a_reader_that_leaves_frees_the_slot() -> None:
    engine, asked = PreviewEngine(["preview-music"]), renewed(CASES[5].slow)
    running = engine.run(asked, 1)
    await anext(running)
    await running.aclose()  # type: ignore[attr-defined]
    for _ in range(200):
        if (await engine.capacity()).running == 0:
            break
        await asyncio.sleep(0.01)
    assert await engine.reconcile(asked.id, 1) is RunState.CANCELLED
