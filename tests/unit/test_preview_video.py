"""Videos: the container says what was asked, its frames decode, and something moves in them."""

from __future__ import annotations

import io
import uuid
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from deployments.preview import video
from deployments.preview.flag import CancelFlag
from tessera.engine import Done, EngineJob, InputFile, Output, Progress
from tessera.inputs import parse_input
from tessera.jobs import Kind


def filmed(files: dict[str, InputFile] | None = None, **given: Any) -> tuple[Output, list[np.ndarray[Any, Any]]]:
    given = {"prompt": "a boat on a lake", "width": 96, "height": 64, "duration_s": 1.0, "fps": 6, "seed": 2} | given
    given |= {name: f"upl_{name}" for name in files or {}}
    parsed = parse_input(Kind.VIDEO, given).model_dump(mode="json")
    asked = EngineJob(id=uuid.uuid4(), kind=Kind.VIDEO, model="preview-video", input=parsed, files=files or {})
    events = list(video.run(asked, CancelFlag()))
    assert isinstance(events[-1], Done)
    assert sum(isinstance(event, Progress) for event in events) >= round(given["duration_s"] * given["fps"])
    output = next(event for event in events if isinstance(event, Output))
    with av.open(io.BytesIO(output.data)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert container.duration is not None
        assert container.duration / av.time_base == pytest.approx(output.duration_s, abs=0.02)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    return output, frames


@pytest.mark.parametrize(("duration_s", "fps"), [(0.25, 1), (1.0, 6), (0.7, 30), (1.5, 7)])
def test_a_clip_has_the_frames_and_the_duration_asked_for(duration_s: float, fps: int) -> None:
    output, frames = filmed(duration_s=duration_s, fps=fps)
    assert len(frames) == max(1, round(duration_s * fps))
    assert frames[0].shape == (64, 96, 3)
    assert output.duration_s == pytest.approx(len(frames) / fps)


def test_the_index_comes_first_so_that_a_browser_can_start_at_once() -> None:
    output, _ = filmed()
    assert output.data.find(b"moov") < output.data.find(b"mdat")


@pytest.mark.parametrize(
    "prompt",
    [
        "a storm at sea with a lighthouse",
        "rain in the city at night",
        "silk",
        "snow in a forest",
        "pixel art clouds over hills",
    ],
)
def test_something_moves_from_frame_to_frame(prompt: str) -> None:
    _, frames = filmed(prompt=prompt)
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 0.5


def test_a_picture_is_animated_and_stays_recognisable() -> None:
    source = np.zeros((80, 120, 3), dtype=np.uint8)
    source[:, :60] = (220, 40, 30)
    source[:, 60:] = (20, 60, 200)
    buffer = io.BytesIO()
    Image.fromarray(source).save(buffer, "PNG")
    _, frames = filmed({"image": InputFile(media_type="image/png", data=buffer.getvalue())}, prompt="rain")
    left, right = frames[2][:, :30].reshape(-1, 3).mean(axis=0), frames[2][:, -30:].reshape(-1, 3).mean(axis=0)
    assert left[0] > left[2] + 60
    assert right[2] > right[0] + 60


def test_a_large_frame_is_filmed_small_and_enlarged() -> None:
    _, frames = filmed(width=1280, height=720, duration_s=0.25, fps=4)
    assert frames[0].shape == (720, 1280, 3)
