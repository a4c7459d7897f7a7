"""The ComfyUI engine against its fake's traps: what the shared conformance cases do not have."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deployments.comfyui.client import BadAnswer, ComfyClient, PromptState, Refused
from deployments.comfyui.engine import ComfyEngine
from deployments.comfyui.making import make_comfyui
from deployments.comfyui.workflows import load_workflow, load_workflows
from tessera.cli.app import main
from tessera.config import ConfigError, WorkerConfig
from tessera.engine import CancelState, Done, EngineJob, InputFile, Output, Preview, Progress, RunState, backend_id
from tessera.errors import BadOutput, Busy, EngineError, Lost, ModelMissing, OutOfMemory, Stuck
from tessera.manifests import Mode, installed, shipped
from tests.conformance.cases import following, until
from tests.conformance.engine_suite import check_stream, collected
from tests.conformance.harness_comfyui import QUICK, asked, shipped_files
from tests.fakes.comfyui import SLOW, FakeComfy

MODELS = ["sd15", "sdxl", "flux-schnell", "wan21", "wan22", "ltx-video", "hunyuan-video", "stable-audio", "ace-step"]

MASKED = {"image": (99, 99), "mask": (40, 20)}
CLIP = {"duration_s": 1, "fps": 8}
SQUARE = {"image": (64, 64)}


@pytest.fixture
async def server() -> AsyncIterator[FakeComfy]:
    fake = FakeComfy(shipped_files())
    await fake.start()
    yield fake
    await fake.kill()


@pytest.fixture
async def engine(server: FakeComfy) -> AsyncIterator[ComfyEngine]:
    made = ComfyEngine(server.url, load_workflows(shipped(), MODELS), patience=QUICK)
    yield made
    await made.close()


def drawn(width: int, height: int, kind: str = "PNG") -> InputFile:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(out, kind)
    return InputFile(media_type=f"image/{kind.lower()}", data=out.getvalue())


def slow(model: str = "sd15") -> EngineJob:
    return asked(model, prompt=f"a storm {SLOW}", width=64, height=64)


def foreign() -> dict[str, Any]:
    """A prompt that somebody queued in ComfyUI's own editor."""
    graph = json.loads(json.dumps(load_workflow(next(m for m in shipped() if m.name == "sd15")).graph))
    graph["6"]["inputs"]["text"] = f"by hand {SLOW} {uuid.uuid4()}"
    return dict(graph)


# ---------------------------------------------------------------------- every family makes what was asked for


@pytest.mark.parametrize(
    ("model", "kind", "given", "files"),
    [
        ("sdxl", "image", {"prompt": "a", "width": 72, "height": 100, "count": 2}, {}),
        ("sdxl", "image", {"prompt": "a", "width": 90, "height": 60, "image": "u", "count": 2}, {"image": (300, 50)}),
        ("sd15", "image", {"prompt": "a", "width": 90, "height": 60, "image": "u", "mask": "m"}, MASKED),
        ("sdxl", "image", {"image": "u", "scale": 2.5}, {"image": (31, 20)}),
        ("flux-schnell", "image", {"prompt": "a", "width": 50, "height": 50}, {}),
        ("wan21", "video", {"prompt": "a", "width": 100, "height": 80, "duration_s": 1, "fps": 10}, {}),
        ("wan22", "video", {"prompt": "a", "width": 96, "height": 66, **CLIP, "image": "u"}, SQUARE),
        ("ltx-video", "video", {"prompt": "a", "width": 70, "height": 64, "duration_s": 1, "fps": 9}, {}),
        ("hunyuan-video", "video", {"prompt": "a", "width": 64, "height": 64, **CLIP, "image": "u"}, SQUARE),
        ("stable-audio", "music", {"prompt": "rain", "duration_s": 2}, {}),
        ("ace-step", "music", {"prompt": "lo-fi, piano", "duration_s": 3}, {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
async def test_each_family_makes_a_file_of_exactly_the_size_and_length_asked_for(
    engine: ComfyEngine, model: str, kind: str, given: dict[str, Any], files: dict[str, tuple[int, int]]
) -> None:
    job = dataclasses.replace(asked(model, kind, **given), files={name: drawn(*size) for name, size in files.items()})
    events = await collected(engine, job)
    check_stream(events)
    outputs = [event for event in events if isinstance(event, Output)]
    assert len(outputs) == given.get("count", 1)
    for output in outputs:
        if kind != "music":
            scale = given.get("scale")
            wanted = (round(31 * scale), round(20 * scale)) if scale else (given["width"], given["height"])
            assert (output.width, output.height) == wanted
        if "duration_s" in given:
            assert output.duration_s is not None and abs(output.duration_s - given["duration_s"]) < 0.3
    assert isinstance(events[-1], Done) and events[-1].output["engine"] == "comfyui/0.24.0"


async def test_progress_has_steps_and_previews_are_small_pictures(server: FakeComfy, engine: ComfyEngine) -> None:
    server.knobs.step_s = 0.03
    events = await collected(engine, asked("sd15", prompt="a", width=64, height=64))
    notes = [event.note for event in events if isinstance(event, Progress)]
    assert any(note and note.startswith("drawing, step ") for note in notes)
    previews = [event for event in events if isinstance(event, Preview)]
    assert previews and all(p.media_type == "image/jpeg" and p.data[:2] == b"\xff\xd8" for p in previews)
    assert len(previews) < 20  # throttled: not one for each step


async def test_the_seed_of_a_run_is_told_and_gives_the_same_again(engine: ComfyEngine) -> None:
    job = asked("sd15", prompt="a", width=64, height=64)
    first = await collected(engine, job)
    assert isinstance(first[-1], Done)
    seed = first[-1].output["seed"]
    again = await collected(engine, asked("sd15", prompt="a", width=64, height=64, seed=seed))
    assert [e.data for e in first if isinstance(e, Output)] == [e.data for e in again if isinstance(e, Output)]


# ---------------------------------------------------------------------- the traps of the wire


@pytest.mark.parametrize("knob", ["silent_sockets", "no_sockets"])
async def test_a_run_needs_no_socket(server: FakeComfy, engine: ComfyEngine, knob: str) -> None:
    setattr(server.knobs, knob, True)
    check_stream(await collected(engine, asked("sd15", prompt="a", width=64, height=64)))


async def test_a_server_without_the_jobs_route_works(server: FakeComfy, engine: ComfyEngine) -> None:
    server.knobs.jobs_route = False
    job = asked("sd15", prompt="a", width=64, height=64)
    check_stream(await collected(engine, job))
    assert await engine.reconcile(job.id, 1) is RunState.DONE


async def test_a_graph_that_would_run_in_part_is_stopped_and_fails(server: FakeComfy, tmp_path: Path) -> None:
    graph = json.loads(load_workflow(next(m for m in shipped() if m.name == "sd15")).manifest.graph_file.read_text())
    graph["40"] = {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "gone.pth"}}
    graph["41"] = {"class_type": "ImageUpscaleWithModel", "inputs": {"upscale_model": ["40", 0], "image": ["8", 0]}}
    graph["42"] = {"class_type": "SaveImage", "inputs": {"images": ["41", 0], "filename_prefix": "x"}}
    base = next(m for m in shipped() if m.name == "sd15")
    (tmp_path / "sd15.json").write_text(json.dumps(graph))
    workflow = load_workflow(base.model_copy(update={"folder": tmp_path, "outputs": ("9", "42")}))
    engine = ComfyEngine(server.url, {"sd15": {Mode.TEXT: workflow}}, patience=QUICK)
    job = slow()
    with pytest.raises(ModelMissing, match=r"gone\.pth"):
        await collected(engine, job)

    async def stopped() -> bool:
        return server.running is None and not server.queue

    await until(stopped)
    await engine.close()


async def test_a_run_that_is_given_up_while_the_server_makes_no_sense_does_not_go_on_there(
    server: FakeComfy, engine: ComfyEngine
) -> None:
    job = slow()
    async with following(engine, job) as run:
        await run.begun()
        server.knobs.garbage = True
        await run.ended()
        assert isinstance(run.error, Lost) and server.running is not None
        server.knobs.garbage = False

    async def stopped() -> bool:
        return server.running is None

    await until(stopped)
    assert set(server.interrupts) == {backend_id(job.id, 1)}
    check_stream(await collected(engine, asked("sd15", prompt="a", width=64, height=64)))


async def test_an_answer_that_is_lost_after_the_prompt_was_taken_runs_it_once(
    server: FakeComfy, engine: ComfyEngine
) -> None:
    server.knobs.lose_answer_once = True
    job = asked("sd15", prompt="a", width=64, height=64)
    check_stream(await collected(engine, job))
    assert server.submitted[backend_id(job.id, 1)] == 1


async def test_an_interruption_by_somebody_else_is_tried_again_and_not_called_cancelled(
    server: FakeComfy, engine: ComfyEngine
) -> None:
    server.knobs.stray_interrupt_once = True
    job = asked("sd15", prompt="a", width=64, height=64)
    with pytest.raises(Lost, match="somebody else"):
        await collected(engine, job)
    check_stream(await collected(engine, job, attempt=2))


async def test_a_node_that_fails_ends_the_run_and_only_the_operator_reads_its_error(
    server: FakeComfy, engine: ComfyEngine
) -> None:
    server.knobs.fail_once = "mat1 and mat2 shapes cannot be multiplied (/srv/secret/nodes.py)"
    job = asked("sd15", prompt="a", width=64, height=64)
    with pytest.raises(EngineError, match="failed at its work") as failure:
        await collected(engine, job)
    assert "/srv/secret" not in failure.value.message and "/srv/secret" in str(failure.value.details)
    assert await engine.reconcile(job.id, 1) is RunState.FAILED


async def test_every_interrupt_names_its_prompt(server: FakeComfy, engine: ComfyEngine) -> None:
    job = slow()
    async with following(engine, job) as run:
        await run.begun()
        await engine.cancel(job.id, 1)
        await run.ended()

    async def stopped() -> bool:
        return server.running is None

    await until(stopped)
    assert set(server.interrupts) == {backend_id(job.id, 1)}


async def test_a_repeated_job_gets_a_file_of_its_own_though_all_is_cached(
    server: FakeComfy, engine: ComfyEngine
) -> None:
    job = asked("sd15", prompt="a", width=64, height=64, seed=4)
    again = dataclasses.replace(job, id=uuid.uuid4())
    for each in (job, again):
        check_stream(await collected(engine, each))
    assert {name.partition("_")[0] for _, _, name in server.outputs} == {
        backend_id(job.id, 1),
        backend_id(again.id, 1),
    }


@pytest.mark.parametrize(
    ("knob", "said"),
    [("wrong_size_once", "72 × 64"), ("no_image_once", "cannot be read"), ("empty_outputs_once", "0 of 1 files")],
)
async def test_what_is_not_what_was_asked_for_is_a_bad_output(
    server: FakeComfy, engine: ComfyEngine, knob: str, said: str, tmp_path: Path
) -> None:
    setattr(server.knobs, knob, True)
    with pytest.raises(BadOutput, match=said):
        await collected(engine, asked("sd15", prompt="a", width=64, height=64))


async def test_an_old_server_that_gives_its_own_ids_is_refused(server: FakeComfy, engine: ComfyEngine) -> None:
    server.knobs.own_ids = True
    with pytest.raises(BadAnswer, match="does not take our id"):
        await collected(engine, asked("sd15", prompt="a", width=64, height=64))


async def test_an_id_that_is_no_canonical_uuid_is_refused_by_the_fake_as_by_the_real_one(server: FakeComfy) -> None:
    client = ComfyClient(server.url)
    with pytest.raises(Refused) as refusal:
        await client.submit(str(uuid.uuid4()).upper(), foreign(), client_id="x")
    assert refusal.value.error["type"] == "invalid_prompt_id"
    await client.close()


# ---------------------------------------------------------------------- dead workers, foreign work


async def test_a_server_that_begins_nothing_is_stuck_and_unhealthy_until_it_is_restarted(
    server: FakeComfy, engine: ComfyEngine
) -> None:
    server.knobs.dead_worker = True
    with pytest.raises(Stuck, match="has to be restarted"):
        await collected(engine, asked("sd15", prompt="a", width=64, height=64))
    server.put(foreign())
    with pytest.raises(Stuck):
        await collected(engine, asked("sd15", prompt="a", width=64, height=64))
    assert "its worker has died" in (await engine.probe()).message
    await server.kill()
    server.knobs.dead_worker = False
    await server.start()
    assert (await engine.probe()).ok
    check_stream(await collected(engine, asked("sd15", prompt="a", width=64, height=64)))


async def test_a_run_without_any_progress_is_stuck(server: FakeComfy) -> None:
    patience = dataclasses.replace(QUICK, silent_s=0.4)
    engine = ComfyEngine(server.url, load_workflows(shipped(), ["sd15"]), patience=patience)
    server.knobs.frozen = True
    with pytest.raises(Stuck):
        await collected(engine, asked("sd15", prompt="a", width=64, height=64))
    assert not (await engine.probe()).ok
    await engine.close()


async def test_a_prompt_of_somebody_else_is_waited_for_and_never_stopped(
    server: FakeComfy, engine: ComfyEngine
) -> None:
    server.knobs.slow_step_s = 0.02
    by_hand = server.put(foreign())
    job = asked("sd15", prompt="a", width=64, height=64)
    events = []
    async for event in engine.run(job, 1):
        events.append(event)
        if server.running is not None and server.running.id == by_hand:
            assert backend_id(job.id, 1) not in server.submitted  # one prompt on the server: an interrupt is global
    check_stream(events)
    assert "waiting for the image server to be free" in [e.note for e in events if isinstance(e, Progress)]
    assert server.history[by_hand]["status"]["status_str"] == "success"
    assert server.interrupts == []


async def test_work_of_somebody_else_that_takes_too_long_is_busy_and_the_job_keeps_its_place(
    server: FakeComfy,
) -> None:
    engine = ComfyEngine(
        server.url, load_workflows(shipped(), ["sd15"]), patience=dataclasses.replace(QUICK, queue_s=0.3)
    )
    server.put(foreign())
    with pytest.raises(Busy, match="somebody else"):
        await collected(engine, asked("sd15", prompt="a", width=64, height=64))
    await engine.close()


async def test_the_next_run_waits_until_a_cancelled_one_has_really_stopped(
    server: FakeComfy, engine: ComfyEngine
) -> None:
    first = slow()
    async with following(engine, first) as run:
        await run.begun()
        server.knobs.frozen = True  # in the middle of a long step, where no interrupt lands
        assert await engine.cancel(first.id, 1) is CancelState.CANCELLED
        await run.ended()
        assert server.running is not None  # the iterator did not wait for it
        server.knobs.frozen = False
    second = asked("sd15", prompt="a", width=64, height=64)
    check_stream(await collected(engine, second))
    entry = server.history[backend_id(second.id, 1)]
    assert entry["status"]["status_str"] == "success"
    assert all(each in (None, backend_id(first.id, 1)) for each in server.interrupts)


# ---------------------------------------------------------------------- a process that is replaced


async def test_a_prompt_that_waits_in_the_server_is_found_cancelled_and_leaves_no_trace(
    server: FakeComfy, engine: ComfyEngine
) -> None:
    server.put(foreign())
    waiting = slow()
    graph = load_workflow(next(m for m in shipped() if m.name == "sd15")).graph
    server.put(json.loads(json.dumps(graph)), backend_id(waiting.id, 1))
    assert await engine.reconcile(waiting.id, 1) is RunState.PENDING
    assert await engine.cancel(waiting.id, 1) is CancelState.CANCELLED
    assert backend_id(waiting.id, 1) not in [item.id for item in server.queue]
    assert await engine.reconcile(waiting.id, 1) is RunState.CANCELLED
    assert server.running is not None and server.interrupts == []  # the one that runs was not touched
    client = ComfyClient(server.url)
    assert (await client.find(backend_id(waiting.id, 1))).state is PromptState.ABSENT
    await client.close()


async def test_a_run_that_ended_while_nobody_looked_is_collected_with_its_seed(
    server: FakeComfy, engine: ComfyEngine
) -> None:
    server.knobs.step_s = 0.02
    job = asked("sd15", prompt="a", width=64, height=64)
    run = engine.run(job, 1)
    async for _ in run:
        if await engine.reconcile(job.id, 1) is RunState.RUNNING:
            break
    await run.aclose()  # type: ignore[attr-defined]
    prompt_id = backend_id(job.id, 1)

    async def has_ended() -> bool:
        return prompt_id in server.history

    await until(has_ended)
    successor = ComfyEngine(server.url, load_workflows(shipped(), ["sd15"]), patience=QUICK)
    assert await successor.reconcile(job.id, 1) is RunState.DONE
    events = await collected(successor, job)
    check_stream(events)
    assert isinstance(events[-1], Done)
    assert events[-1].output["seed"] == server.graphs[prompt_id]["3"]["inputs"]["seed"]
    assert server.submitted[prompt_id] == 1
    await successor.close()


async def test_a_cancel_that_nobody_answers_goes_first_when_the_server_is_back(
    server: FakeComfy, engine: ComfyEngine
) -> None:
    job = slow()
    async with following(engine, job) as run:
        await run.begun()
        server.knobs.garbage = True
        assert await engine.cancel(job.id, 1) is CancelState.CANCELLED
        await run.ended()
        assert server.running is not None
        server.knobs.garbage = False

    async def stopped() -> bool:
        return server.running is None

    await until(stopped)
    assert server.history[backend_id(job.id, 1)]["status"]["messages"][-1][0] == "execution_interrupted"


# ---------------------------------------------------------------------- memory


async def test_memory_is_freed_after_running_out_of_it_and_on_a_release(server: FakeComfy, engine: ComfyEngine) -> None:
    server.knobs.oom_once = True
    with pytest.raises(OutOfMemory):
        await collected(engine, asked("sd15", prompt="a", width=64, height=64))
    assert server.freed == 1
    await engine.ensure("sd15")
    await engine.ensure("flux-schnell")
    assert sorted((await engine.models()).resident) == ["flux-schnell", "sd15"]
    warmed = list(server.graphs.values())[-2:]
    assert all(graph["3"]["inputs"]["steps"] == 1 for graph in warmed)
    await engine.release(["sd15"])
    assert server.freed == 2 and list((await engine.models()).resident) == []
    await engine.release()
    assert server.freed == 2


async def test_a_model_that_starts_from_a_picture_only_is_loaded_with_a_grey_one(server: FakeComfy) -> None:
    only = {"sd15": {Mode.IMAGE: load_workflow(next(m for m in shipped() if m.name == "sd15-image"))}}
    engine = ComfyEngine(server.url, only, patience=QUICK)
    await engine.ensure("sd15")
    assert list((await engine.models()).resident) == ["sd15"]
    await engine.close()


# ---------------------------------------------------------------------- what it is


async def test_a_kobold_that_imitates_it_is_told_apart(server: FakeComfy, engine: ComfyEngine) -> None:
    server.knobs.is_kobold = True
    health = await engine.probe()
    assert not health.ok and "KoboldCPP" in health.message


async def test_a_model_whose_files_are_not_there_is_not_offered(server: FakeComfy) -> None:
    server.files["checkpoints"].remove("sd_xl_base_1.0.safetensors")
    server.files["upscale_models"].clear()
    engine = ComfyEngine(server.url, load_workflows(shipped(), ["sd15", "sdxl"]), patience=QUICK)
    health = await engine.probe()
    assert health.ok and "sd_xl_base_1.0.safetensors" in health.message
    assert list((await engine.models()).available) == ["sd15"]
    await engine.close()


async def test_a_file_in_a_subfolder_of_windows_is_found(server: FakeComfy, engine: ComfyEngine) -> None:
    server.files["checkpoints"] = ["sd\\v1-5-pruned-emaonly-fp16.safetensors"]
    job = asked("sd15", prompt="a", width=64, height=64)
    check_stream(await collected(engine, job))
    assert server.graphs[backend_id(job.id, 1)]["4"]["inputs"]["ckpt_name"].startswith("sd\\")


def entry(**options: Any) -> WorkerConfig:
    return WorkerConfig(name="comfyui", engine="comfyui", models=("sd15",), node="pc1", slots=1, options=options)


def test_a_workers_entry_is_checked_before_anything_starts(tmp_path: Path) -> None:
    environ = {"TESSERA_HOME": str(tmp_path)}
    assert isinstance(make_comfyui(entry(url="http://127.0.0.1:9", poll_s=2), environ), ComfyEngine)
    with pytest.raises(ConfigError, match="no option 'ulr'"):
        make_comfyui(entry(ulr="x"), environ)
    with pytest.raises(ConfigError, match="slots = 1"):
        make_comfyui(entry().model_copy(update={"slots": 2}), environ)
    with pytest.raises(ConfigError, match="no workflow for the model nothing"):
        make_comfyui(entry().model_copy(update={"models": ("nothing",)}), environ)


# ---------------------------------------------------------------------- a workflow that nobody prepared

FIVE_NODES = {
    "12": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5-pruned-emaonly-fp16.safetensors"}},
    "31": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["12", 1]}},
    "7": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
    "44": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["12", 0], "positive": ["31", 0], "negative": ["31", 0], "latent_image": ["7", 0], "seed": 1,
            "steps": 4, "cfg": 1, "sampler_name": "euler", "scheduler": "simple", "denoise": 1,
        },
    },
    "50": {"class_type": "VAEDecode", "inputs": {"samples": ["44", 0], "vae": ["12", 2]}},
    "51": {"class_type": "SaveImage", "inputs": {"images": ["50", 0], "filename_prefix": "mine"}},
}  # fmt: skip


async def test_an_exported_workflow_is_added_checked_and_run_with_its_bindings(
    server: FakeComfy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    exported = tmp_path / "My Portrait.json"
    exported.write_text(json.dumps(FIVE_NODES))
    assert await asyncio.to_thread(main, ["workflows", "add", str(exported), "--url", server.url]) == 0
    assert await asyncio.to_thread(main, ["workflows", "check", "my-portrait", "--url", server.url]) == 0
    assert await asyncio.to_thread(main, ["workflows", "show", "my-portrait"]) == 0
    assert await asyncio.to_thread(main, ["workflows", "add", str(exported), "--url", server.url]) == 2
    assert "is there already" in capsys.readouterr().err
    found, problems = installed(tmp_path)
    assert problems == []
    engine = ComfyEngine(server.url, load_workflows(found, ["my-portrait"]), patience=QUICK)
    job = asked("my-portrait", prompt="a dog", width=96, height=64, count=2, seed=9)
    events = await collected(engine, job)
    check_stream(events)
    graph = server.graphs[backend_id(job.id, 1)]
    assert graph["31"]["inputs"]["text"] == "a dog"
    assert (graph["44"]["inputs"]["seed"], graph["7"]["inputs"]["batch_size"]) == (9, 2)
    assert [(e.width, e.height) for e in events if isinstance(e, Output)] == [(96, 64)] * 2
    await engine.close()


async def test_adding_a_workflow_names_the_node_and_the_file_that_the_server_lacks(
    server: FakeComfy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    server.files["checkpoints"] = ["other.safetensors"]
    graph = json.loads(json.dumps(FIVE_NODES))
    graph["50"]["class_type"] = "FancyDecode"
    exported = tmp_path / "fancy.json"
    exported.write_text(json.dumps(graph))
    assert await asyncio.to_thread(main, ["workflows", "add", str(exported), "--url", server.url, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert {(p["lack"], p["name"]) for p in said["problems"]} == {
        ("node", "FancyDecode"),
        ("file", "v1-5-pruned-emaonly-fp16.safetensors"),
    }
    exported.write_text(json.dumps({"nodes": [], "links": []}))
    assert await asyncio.to_thread(main, ["workflows", "add", str(exported), "--url", server.url]) == 2
    assert "Export (API)" in capsys.readouterr().err


async def test_the_commands_say_what_to_do_where_no_comfyui_answers(
    server: FakeComfy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    assert await asyncio.to_thread(main, ["workflows", "list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["data"]) == len(shipped())
    server.knobs.is_kobold = True
    assert await asyncio.to_thread(main, ["workflows", "check", "--url", server.url]) == 2
    assert "KoboldCPP" in capsys.readouterr().err
    await server.kill()
    assert await asyncio.to_thread(main, ["workflows", "check", "--url", server.url]) == 2
    assert "Start ComfyUI" in capsys.readouterr().err
