"""Video: the image engine's scene with its layers in motion, or a picture under a moving camera, as H.264 MP4.

The scene is painted once, a little larger than the frame and at a reduced size; each frame only moves its layers.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from deployments.preview import motion, pictures
from deployments.preview.flag import CancelFlag
from tessera.engine import Done, EngineEvent, EngineJob, Output, Progress
from tessera.errors import EngineError

ENGINE = "preview-video/1"

_PREVIEW_INTERVAL_S = 1.0


def check() -> None:
    """Raises EngineError where PyAV has no H.264 encoder."""
    if "libx264" not in av.codecs_available:
        raise EngineError("PyAV was built without libx264. Install the wheel of PyAV.")


def run(job: EngineJob, flag: CancelFlag) -> Iterator[EngineEvent]:
    """One MP4 of ``round(duration_s * fps)`` frames, then Done."""
    given = job.input
    width, height, fps = int(given.get("width") or 512), int(given.get("height") or 512), int(given.get("fps") or 12)
    frames = max(1, round(float(given.get("duration_s") or 2.0) * fps))
    seed, prompt = int(given.get("seed") or 0), str(given["prompt"])
    has_picture = given.get("image") is not None or "image" in job.files
    picture = pictures.on_white(pictures.opened(job, "image")) if has_picture else None
    yield Progress(fraction=0.0, note="setting the scene")
    shoot: Callable[[int], Image.Image]
    if picture is not None:
        shoot = motion.moving_picture(picture, prompt, seed, (width, height), frames, fps, flag)
    else:
        shoot = motion.moving_scene(prompt, seed, (width, height), frames, fps, flag)
    yield Progress(fraction=0.1, note="filming")
    # A file, not memory: FFmpeg moves the index to the front (faststart) by opening its output a second time.
    with tempfile.TemporaryDirectory(prefix="preview-video-") as folder:
        path = Path(folder) / "clip.mp4"
        yield from _filmed(path, shoot, (width, height), frames, fps, flag)
        data = path.read_bytes()
    flag.check()
    duration_s = frames / fps
    yield Progress(fraction=1.0)
    yield Output(index=0, media_type="video/mp4", data=data, width=width, height=height, duration_s=duration_s)
    yield Done(
        output={
            "width": width,
            "height": height,
            "frames": frames,
            "fps": fps,
            "duration_s": round(duration_s, 3),
            "seed": seed,
            "engine": ENGINE,
            "preview": True,
        }
    )


def _filmed(
    path: Path, shoot: Callable[[int], Image.Image], size: tuple[int, int], frames: int, fps: int, flag: CancelFlag
) -> Iterator[EngineEvent]:
    """Encode the frames into the file, with progress after each and a preview every second."""
    told_at = float("-inf")
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "20"}
        stream.codec_context.time_base = Fraction(1, fps)
        for number in range(frames):
            flag.check()
            image = shoot(number)
            frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
            yield Progress(fraction=0.1 + 0.88 * (number + 1) / frames, note=f"frame {number + 1} of {frames}")
            if time.monotonic() - told_at >= _PREVIEW_INTERVAL_S:
                told_at = time.monotonic()
                yield pictures.preview(image)
        container.mux(stream.encode(None))
