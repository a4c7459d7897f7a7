"""Workflows as data: the shipped ones, a job's parameters in a graph, and a manifest for a graph nobody prepared."""

from __future__ import annotations

import copy
import dataclasses
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from deployments.comfyui import binding, checking
from deployments.comfyui.binding import Picture
from deployments.comfyui.failures import of_execution, of_refusal
from deployments.comfyui.manifest_text import manifest_text
from deployments.comfyui.progress import ProgressTracker, preview_of
from deployments.comfyui.proposals import propose
from deployments.comfyui.workflows import GraphError, Workflow, load_workflow, mode_of, parse_graph, workflow_for
from tessera.catalog import catalog_of
from tessera.engine import EngineJob
from tessera.errors import EngineError, InvalidInput, ModelMissing, OutOfMemory
from tessera.inputs import parse_input
from tessera.jobs import Kind
from tessera.manifests import ManifestError, Mode, Parameter, entries, parse_manifest, read_manifests, shipped
from tests.fakes.comfyui_nodes import NODES, object_info

SHIPPED = {manifest.name: manifest for manifest in shipped()}
FILES: dict[str, list[str]] = {}
for each in SHIPPED.values():
    for file in each.files:
        FILES.setdefault(file.folder, []).append(file.name)
INFOS = {name: object_info(name, {**FILES, "input": ["example.png"]}) for name in NODES}


def asked(model: str, kind: str, **given: Any) -> EngineJob:
    parsed = parse_input(Kind(kind), given).model_dump(mode="json")
    return EngineJob(id=uuid.uuid4(), kind=Kind(kind), model=model, input=parsed)


def bound(name: str, job: EngineJob, **pictures: tuple[int, int]) -> tuple[dict[str, Any], binding.Expected]:
    workflow = load_workflow(SHIPPED[name])
    known = {key: Picture(name=f"tessera/{key}.png", width=w, height=h) for key, (w, h) in pictures.items()}
    made = binding.bind(workflow, job, seed=5, pictures=known, prefix="tessera/x")
    return {node: value["inputs"] for node, value in made.graph.items()}, made.expected


# ---------------------------------------------------------------------- what is shipped


def test_the_families_that_are_promised_are_shipped_with_their_modes() -> None:
    modes: dict[str, set[str]] = {}
    for manifest in SHIPPED.values():
        modes.setdefault(manifest.model, set()).add(manifest.mode.value)
    picture = {"text", "image", "inpaint", "upscale"}
    assert modes["sd15"] == modes["sdxl"] == picture
    assert all(modes[name] == {"text", "image"} for name in ("wan21", "wan22", "ltx-video", "hunyuan-video"))
    assert all(modes[name] == {"text"} for name in ("flux-schnell", "stable-audio", "ace-step"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_workflow_fits_its_graph_and_the_nodes_of_a_server(name: str) -> None:
    manifest = SHIPPED[name]
    workflow = load_workflow(manifest)
    assert checking.check(workflow, INFOS) == []
    named = {value for node in workflow.graph.values() for value in node["inputs"].values() if isinstance(value, str)}
    assert all(file.name in named and file.source.startswith("https://") for file in manifest.files)
    loaded = {value for value in named if value.endswith((".safetensors", ".pth"))}
    assert loaded == {file.name for file in manifest.files}
    entry = entries(SHIPPED.values())[manifest.model]
    assert entry.licence_url and entry.vram_mib and entry.price


def test_the_catalogue_takes_models_from_manifests_only_where_a_worker_serves_them() -> None:
    catalog = catalog_of(["preview-image", "sdxl"])
    assert [model.id for model in catalog.models] == ["sdxl", "preview-image"]
    assert catalog.resolve(Kind.IMAGE, None).id == "sdxl"
    assert catalog.models[0].vram_mib == 9000
    assert [model.id for model in catalog_of(["preview-image"]).models] == ["preview-image"]


def test_an_operators_workflow_takes_the_place_of_the_shipped_one(tmp_path: Path) -> None:
    folder = tmp_path / "workflows"
    folder.mkdir()
    text = (SHIPPED["sd15"].folder / "sd15.toml").read_text().replace("vram_mib = 4000", "vram_mib = 6000")
    (folder / "mine.toml").write_text(text)
    (folder / "broken.toml").write_text('model = "x"')
    found, problems = read_manifests(SHIPPED["sd15"].folder, folder)
    assert [m.name for m in found if m.model == "sd15" and m.mode is Mode.TEXT] == ["mine"]
    assert len(problems) == 1 and "broken.toml" in problems[0]
    assert catalog_of(["sd15"], home=tmp_path).models[0].vram_mib == 6000


# ---------------------------------------------------------------------- a job in a graph


def test_a_size_is_rounded_up_for_the_model_and_cut_out_of_the_middle() -> None:
    inputs, expected = bound("sd15", asked("sd15", "image", prompt="a boat", width=100, height=75, count=3))
    assert (inputs["5"]["width"], inputs["5"]["height"], inputs["5"]["batch_size"]) == (104, 80, 3)
    crop = inputs["20"]
    assert (crop["width"], crop["height"], crop["x"], crop["y"]) == (100, 75, 2, 2)
    assert (expected.width, expected.height, expected.count) == (100, 75, 3)
    assert (inputs["6"]["text"], inputs["7"]["text"], inputs["3"]["seed"]) == ("a boat", "", 5)
    assert inputs["9"]["filename_prefix"] == "tessera/x"


def test_a_strength_stays_a_fraction_where_the_export_wrote_a_whole_number() -> None:
    workflow = load_workflow(SHIPPED["sd15-image"])
    graph = copy.deepcopy(dict(workflow.graph))
    graph["3"]["inputs"]["denoise"] = 1
    put = binding.put(dataclasses.replace(workflow, graph=graph), {Parameter.STRENGTH: 0.35})
    assert put["3"]["inputs"]["denoise"] == 0.35


def test_frames_are_rounded_up_to_what_the_model_makes_and_cut_to_what_was_asked() -> None:
    job = asked("wan21", "video", prompt="a boat", width=320, height=200, duration_s=2, fps=12)
    inputs, expected = bound("wan21", job)
    assert (inputs["40"]["length"], inputs["21"]["length"], inputs["22"]["fps"]) == (25, 24, 12)
    assert (inputs["40"]["width"], inputs["40"]["height"]) == (320, 208)
    assert (expected.width, expected.height, expected.duration_s) == (320, 200, 2.0)
    ltx = asked("ltx-video", "video", prompt="a boat", width=320, height=200, duration_s=1, fps=24)
    inputs, _ = bound("ltx-video", ltx)
    assert (inputs["70"]["length"], inputs["69"]["frame_rate"]) == (25, 24)


def test_an_enlargement_has_the_pictures_own_size_times_the_scale() -> None:
    job = asked("sdxl", "image", image="upl_1", scale=1.5)
    inputs, expected = bound("sdxl-upscale", job, image=(333, 200))
    assert (inputs["32"]["width"], inputs["32"]["height"]) == (500, 300)
    assert (expected.width, expected.height) == (500, 300)
    assert inputs["10"]["image"] == "tessera/image.png"


@pytest.mark.parametrize(
    ("name", "job", "said"),
    [
        ("sd15", asked("sd15", "image", prompt="a", width=4096, height=4096), "at most as many as 2048 × 2048"),
        (
            "wan21",
            asked("wan21", "video", prompt="a", duration_s=16, fps=30),
            "480 frames; this model makes at most 129",
        ),
        ("stable-audio", asked("stable-audio", "music", prompt="a", duration_s=120), "at most 47 s"),
        ("stable-audio", asked("stable-audio", "music", prompt="a", lyrics="la la"), "does not sing"),
        ("sd15-image", asked("sd15", "image", prompt="a"), "'image' is missing"),
    ],
)
def test_what_a_model_cannot_do_is_refused_with_its_numbers(name: str, job: EngineJob, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as refusal:
        bound(name, job)
    assert "Nothing was charged" in refusal.value.message


def test_the_words_of_a_song_are_sung_and_without_any_it_is_an_instrumental() -> None:
    song, _ = bound("ace-step", asked("ace-step", "music", prompt="folk", lyrics="[verse]\nOver the sea"))
    assert song["14"]["lyrics"] == "[verse]\nOver the sea"
    plain, _ = bound("ace-step", asked("ace-step", "music", prompt="folk"))
    assert plain["14"]["lyrics"] == "[inst]"


def test_a_job_gets_the_workflow_that_its_input_needs_or_is_told_what_the_model_can() -> None:
    assert mode_of({"image": "a", "mask": "b"}) is Mode.INPAINT
    assert mode_of({"image": "a", "scale": 2.0}) is Mode.UPSCALE
    only = {Mode.TEXT: load_workflow(SHIPPED["flux-schnell"])}
    with pytest.raises(InvalidInput, match=r"flux-schnell does not work from a picture .* it works from words"):
        workflow_for(only, "flux-schnell", {"image": "upl_1"})


# ---------------------------------------------------------------------- what a server lacks


def test_a_missing_node_and_a_missing_file_are_told_by_name_with_the_page_to_get_it_from() -> None:
    workflow = load_workflow(SHIPPED["wan21"])
    infos = {name: object_info(name, {"vae": FILES["vae"]}) for name in NODES if name != "SaveVideo"}
    problems = {(problem.lack.value, problem.name): problem.message for problem in checking.check(workflow, infos)}
    assert ("node", "SaveVideo") in problems
    told = problems[("file", "wan2.1_t2v_1.3B_fp16.safetensors")]
    assert "models/diffusion_models" in told and "https://huggingface.co/" in told
    assert ("file", "wan_2.1_vae.safetensors") not in problems


def test_a_file_in_a_subfolder_or_behind_a_backslash_is_found_unless_two_have_its_name() -> None:
    assert checking.resolve("a.safetensors", ["sd\\a.safetensors", "b.safetensors"]) == "sd\\a.safetensors"
    assert checking.resolve("sd/a.safetensors", ["sd\\a.safetensors"]) == "sd\\a.safetensors"
    assert checking.resolve("a.safetensors", ["x/a.safetensors", "y/a.safetensors"]) is None
    assert checking.resolve("euler", ["other/euler"]) is None


def test_both_shapes_of_a_choice_are_read() -> None:
    assert checking.choices_of([["a", "b"], {}]) == ["a", "b"]
    assert checking.choices_of(["COMBO", {"options": ["a"]}]) == ["a"]
    assert checking.choices_of(["INT", {"min": 0}]) is None


# ---------------------------------------------------------------------- what an error means


def test_errors_are_sorted_by_what_is_to_be_done() -> None:
    manifest = SHIPPED["sd15"]
    extra = {"input_name": "ckpt_name", "received_value": "gone.safetensors"}
    missing = {"4": {"errors": [{"type": "value_not_in_list", "extra_info": extra}], "class_type": "Loader"}}
    assert isinstance(of_refusal({}, missing, manifest), ModelMissing)
    assert "gone.safetensors" in of_refusal({}, missing, manifest).message
    large = {
        "type": "value_bigger_than_max",
        "message": "Value 9 bigger than max",
        "extra_info": {"input_name": "width"},
    }
    told = of_refusal({}, {"5": {"errors": [large], "class_type": "EmptyLatentImage"}}, manifest)
    assert isinstance(told, InvalidInput) and "'width'" in told.message
    assert isinstance(of_refusal({"type": "missing_node_type", "message": "no X"}, {}, manifest), ModelMissing)
    for kind, text in (("torch.OutOfMemoryError", ""), ("RuntimeError", "CUDA error: out of memory")):
        error = {"exception_type": kind, "exception_message": text, "node_type": "KSampler"}
        assert isinstance(of_execution(error, manifest), OutOfMemory)
    other = of_execution({"exception_type": "ValueError", "exception_message": "shape /secret/path"}, manifest)
    assert type(other) is EngineError and "/secret/path" not in other.message
    assert other.details["why"] == "shape /secret/path"


# ---------------------------------------------------------------------- progress


def test_the_fraction_follows_steps_counts_cached_nodes_and_never_falls() -> None:
    workflow = load_workflow(SHIPPED["sd15"])
    tracker = ProgressTracker("p", workflow.graph, ("9",))
    seen = []

    def take(event: str, **data: Any) -> None:
        tracker.take(json.dumps({"type": event, "data": {"prompt_id": "p", **data}}))
        seen.append(tracker.told.fraction)

    take("execution_start")
    take("execution_cached", nodes=["4", "6", "7"])
    before = tracker.told.fraction
    take("executing", node="3")
    for step in range(1, 21):
        state = {"value": step, "max": 20, "state": "running"}
        take("progress_state", nodes={"3": state})
    assert before < 0.15 and tracker.told.fraction > 0.7 and tracker.told.note == "drawing, step 20 of 20"
    take("progress", value=1, max=20, node="3")
    tracker.take(json.dumps({"type": "progress", "data": {"prompt_id": "other", "node": "8", "value": 1, "max": 1}}))
    for nonsense in ("", "[]", '{"type": 1}', '{"type":"progress","data":{"node":["x"],"value":"a","max":0}}'):
        tracker.take(nonsense)
    assert seen == sorted(seen)
    take("executing", node=None)
    assert tracker.ended and tracker.told.fraction < 1.0


def test_previews_of_both_shapes_are_read_and_anothers_are_not() -> None:
    about = json.dumps({"prompt_id": "p", "image_type": "image/png"}).encode()
    with_metadata = (4).to_bytes(4, "big") + len(about).to_bytes(4, "big") + about + b"image"
    assert preview_of(with_metadata, "p") == ("image/png", b"image")
    assert preview_of(with_metadata, "q") is None
    assert preview_of(b"\0\0\0\x01\0\0\0\x01jpeg", "p") == ("image/jpeg", b"jpeg")
    for broken in (b"", b"\0\0\0\x01", b"\0\0\0\x04\xff\xff\xff\xff{", b"\0\0\0\x09\0\0\0\x01x"):
        assert preview_of(broken, "p") is None


# ---------------------------------------------------------------------- a graph that nobody prepared


def test_a_graph_of_the_editor_is_refused_with_the_menu_to_use() -> None:
    with pytest.raises(GraphError, match=r"Export \(API\)"):
        parse_graph('{"nodes": [{"id": 1}], "links": [], "version": 0.4}', where="mine.json")
    with pytest.raises(GraphError, match="comes from node '9', which is gone"):
        parse_graph('{"3": {"class_type": "A", "inputs": {"x": ["9", 0]}}}', where="mine.json")
    assert list(parse_graph('{"prompt": {"3": {"class_type": "A", "inputs": {}}}}', where="mine.json")) == ["3"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_proposal_finds_what_the_shipped_manifests_bind(name: str) -> None:
    manifest = SHIPPED[name]
    workflow = load_workflow(manifest)
    proposal = propose(workflow.graph, INFOS)
    assert (proposal.kind, proposal.mode) == (entries(SHIPPED.values())[manifest.model].kind, manifest.mode)
    assert proposal.outputs == list(manifest.outputs)
    assert {file for file, _ in proposal.files} == {file.name for file in manifest.files}
    for parameter in (Parameter.PROMPT, Parameter.SEED, Parameter.STEPS, Parameter.IMAGE, Parameter.PREFIX):
        assert sorted(proposal.bind.get(parameter, [])) == sorted(manifest.bind.get(parameter, ())), parameter
    if manifest.mode in (Mode.TEXT, Mode.IMAGE):
        assert set(manifest.bind.get(Parameter.WIDTH, ())) <= set(proposal.bind.get(Parameter.WIDTH, []))


def test_a_proposal_is_a_manifest_that_can_be_read_again(tmp_path: Path) -> None:
    graph = load_workflow(SHIPPED["ltx-video"]).graph
    infos = copy.deepcopy(INFOS)
    infos["EmptyLTXVLatentVideo"]["input"]["required"]["width"][1]["step"] = 32
    proposal = propose(graph, infos)
    text = manifest_text(
        proposal, model="mine", title='My "clips"', vram_mib=9000, licence="x", licence_url="", frame_step=8
    )
    manifest = parse_manifest(text, name="mine", folder=tmp_path)
    (tmp_path / "mine.json").write_text(json.dumps(graph))
    workflow = load_workflow(manifest)
    assert isinstance(workflow, Workflow)
    assert (manifest.size.multiple, manifest.size.frame_step) == (32, 8)
    assert manifest.entry is not None and manifest.entry.title == 'My "clips"'


def _chain(*nodes: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """A graph whose nodes follow each other: each takes what the one before gives, by its input named "<"."""
    graph: dict[str, Any] = {}
    for number, (class_type, inputs) in enumerate(nodes, start=1):
        linked = {name: [str(number - 1), 0] if value == "<" else value for name, value in inputs.items()}
        graph[str(number)] = {"class_type": class_type, "inputs": linked}
    return graph


EMPTY = ("EmptyImage", {"width": 512, "height": 384, "batch_size": 1, "color": 0})
SCALE = ("ImageScale", {"image": "<", "upscale_method": "lanczos", "width": 640, "height": 480, "crop": "disabled"})
INVERT = ("ImageInvert", {"image": "<"})
SAVE = ("SaveImage", {"images": "<", "filename_prefix": "x"})
PICTURE = ("LoadImage", {"image": "example.png"})
FACTOR = ("ImageScaleBy", {"image": "<", "upscale_method": "area", "scale_by": 2.0})


def test_a_graph_without_a_model_takes_no_words_and_its_size_at_the_last_node_that_has_one(tmp_path: Path) -> None:
    graph = _chain(EMPTY, SCALE, INVERT, ("ImageBlur", {"image": "<", "blur_radius": 2, "sigma": 1.0}), SAVE)
    proposal = propose(graph, {})
    assert (proposal.kind, proposal.mode, proposal.files) == (Kind.IMAGE, Mode.TEXT, [])
    assert proposal.bind == {
        Parameter.PREFIX: ["5.filename_prefix"],
        Parameter.WIDTH: ["2.width"],
        Parameter.HEIGHT: ["2.height"],
        Parameter.COUNT: ["1.batch_size"],
        Parameter.PROMPT: [],
    }
    assert any("words change nothing" in doubt for doubt in proposal.doubts)
    text = manifest_text(proposal, model="five", title="Five", vram_mib=0, licence="x", licence_url="")
    (tmp_path / "five.json").write_text(json.dumps(graph))
    workflow = load_workflow(parse_manifest(text, name="five", folder=tmp_path))
    job = asked("five", "image", prompt="a boat", width=200, height=104)
    made = binding.bind(workflow, job, seed=1, pictures={}, prefix="p")
    assert (made.graph["2"]["inputs"]["width"], made.graph["1"]["inputs"]["width"]) == (200, 512)
    assert (made.expected.width, made.expected.height) == (200, 104)


def test_a_proposal_binds_no_size_that_the_result_would_not_have() -> None:
    doubled = propose(_chain(EMPTY, FACTOR, SAVE), {})
    assert Parameter.WIDTH not in doubled.bind
    assert any("by a factor of its own" in doubt for doubt in doubled.doubts)
    cropped = propose(_chain(EMPTY, ("ImageCrop", {"image": "<", "width": 9, "height": 9, "x": 0, "y": 0}), SAVE), {})
    assert cropped.bind[Parameter.WIDTH] == ["1.width"]
    assert (cropped.bind[Parameter.CROP_WIDTH], cropped.bind[Parameter.CROP_Y]) == (["2.width"], ["2.y"])


def test_a_picture_is_enlarged_only_by_a_graph_that_scales_it() -> None:
    changed, enlarged = propose(_chain(PICTURE, INVERT, SAVE), {}), propose(_chain(PICTURE, SCALE, SAVE), {})
    assert (changed.mode, enlarged.mode) == (Mode.IMAGE, Mode.UPSCALE)
    assert enlarged.bind[Parameter.SCALED_WIDTH] == ["2.width"] and Parameter.WIDTH not in enlarged.bind


def test_the_pictures_of_a_batch_are_the_frames_of_a_clip() -> None:
    clip = ("CreateVideo", {"images": "<", "fps": 8.0})
    proposal = propose(_chain(EMPTY, clip, ("SaveVideo", {"video": "<", "filename_prefix": "x"})), {})
    assert proposal.kind is Kind.VIDEO
    assert (proposal.bind[Parameter.FRAMES], proposal.bind[Parameter.FPS]) == (["1.batch_size"], ["2.fps"])


def test_only_a_prompt_may_be_bound_to_nothing(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"bind\.width names no input"):
        parse_manifest(
            'model = "m"\noutputs = ["9"]\n[bind]\nprompt = []\nprefix = ["9.x"]\nwidth = []', name="m", folder=tmp_path
        )


def test_a_manifest_without_a_prefix_or_a_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="prefix is missing"):
        parse_manifest('model = "m"\noutputs = ["9"]\n[bind]\nprompt = ["6.text"]', name="m", folder=tmp_path)
    with pytest.raises(ManifestError, match="prompt is missing"):
        parse_manifest('model = "m"\noutputs = ["9"]\n[bind]\nprefix = ["9.x"]', name="m", folder=tmp_path)
