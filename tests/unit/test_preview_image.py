"""Images: what a prompt asks for is in the picture, and what was asked to stay the same stays the same."""

from __future__ import annotations

import io
import uuid
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deployments.preview import image, pictures
from deployments.preview.flag import CancelFlag, Cancelled
from deployments.preview.palette import COLOURS
from deployments.preview.wish import understood
from tessera.engine import Done, EngineJob, InputFile, Output, Preview
from tessera.errors import InvalidInput
from tessera.inputs import parse_input
from tessera.jobs import Kind


def encoded(picture: Image.Image, format_: str = "PNG", **options: Any) -> InputFile:
    buffer = io.BytesIO()
    picture.save(buffer, format_, **options)
    return InputFile(media_type=f"image/{format_.lower()}", data=buffer.getvalue())


def job(files: dict[str, InputFile] | None = None, **given: Any) -> EngineJob:
    given = {"prompt": "a boat on a lake", "width": 96, "height": 80, "seed": 3} | given
    given |= {name: f"upl_{name}" for name in files or {}}
    parsed = parse_input(Kind.IMAGE, given).model_dump(mode="json")
    return EngineJob(id=uuid.uuid4(), kind=Kind.IMAGE, model="preview-image", input=parsed, files=files or {})


def made(asked: EngineJob) -> list[Image.Image]:
    events = list(image.run(asked, CancelFlag()))
    assert isinstance(events[-1], Done)
    return [opened(event) for event in events if isinstance(event, Output)]


def opened(output: Output) -> Image.Image:
    picture = Image.open(io.BytesIO(output.data))
    picture.load()
    assert (picture.format, picture.size) == ("PNG", (output.width, output.height))
    return picture


# One prompt for each part of the grammar.
PROMPTS = """
a cat on a hill under the moon / a fox in the snow / gulls over a rough sea with waves / a tropical beach with palms
a castle at dawn / a windmill among tulips / hot air balloons / a campfire by the lake / northern lights / a rainbow
galaxy with planets / a whale at dusk / a road in the desert with pyramids / red toadstools / a bare tree in fog
a knight in the mountains / cyberpunk city in the rain / a village in the snow at night / lightning at sea with a ship
lavender fields / a lighthouse at noon / crescent moon and stars / something unnameable in teal and gold / storm
"""


def photograph(width: int = 60, height: int = 40) -> Image.Image:
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    return Image.fromarray(ramp.astype(np.uint8))


@pytest.mark.parametrize("size", [(16, 16), (96, 80), (16, 600), (700, 16), (333, 257)])
def test_any_size_comes_out_as_asked(size: tuple[int, int]) -> None:
    (picture,) = made(job(width=size[0], height=size[1]))
    assert picture.size == size


@pytest.mark.parametrize(
    "style",
    ["oil painting", "watercolor", "pencil sketch", "pixel art", "neon", "photo", "minimal", "vaporwave", "ink"],
)
def test_each_style_gives_the_same_scene_another_surface(style: str) -> None:
    (plain,), (styled,) = made(job(prompt="mountains")), made(job(prompt=f"mountains, {style}"))
    difference = np.abs(np.asarray(plain, dtype=int) - np.asarray(styled, dtype=int)).mean()
    assert difference > 4


@pytest.mark.parametrize(
    "prompt", [prompt.strip() for prompt in PROMPTS.replace("\n", "/").split("/") if prompt.strip()]
)
def test_every_part_of_the_scene_grammar_can_be_painted(prompt: str) -> None:
    (picture,) = made(job(prompt=prompt, width=64, height=48))
    assert np.asarray(picture).std() > 5


def test_a_count_gives_pictures_of_consecutive_seeds() -> None:
    both = made(job(count=2, seed=10))
    alone = made(job(count=1, seed=11))
    assert both[1].tobytes() == alone[0].tobytes()
    assert both[0].tobytes() != both[1].tobytes()


def test_a_named_colour_is_seen_in_the_picture() -> None:
    (red,), (teal,) = (made(job(prompt=f"abstract waves of silk in {name}")) for name in ("red", "teal"))
    means = [np.asarray(picture).reshape(-1, 3).mean(axis=0) for picture in (red, teal)]
    assert means[0][0] > means[0][2] + 10
    assert means[1][2] > means[1][0] + 10


def test_night_is_darker_than_noon() -> None:
    (night,), (noon,) = made(job(prompt="hills at night")), made(job(prompt="hills at noon"))
    assert np.asarray(night).mean() < np.asarray(noon).mean() - 30


@pytest.mark.parametrize(
    ("prompt", "present", "absent"),
    [
        ("a lighthouse in a storm, oil painting", {"lighthouse", "sea"}, {"city"}),
        ("mountains without snow", {"mountains"}, {"snow"}),
        ("a forest, no birds", {"forest"}, {"birds"}),
        ("the wanderer above the sea of fog", {"person", "fog", "mountains"}, {"sea"}),
        ("a sailboat", {"boat", "sea"}, set()),
    ],
)
def test_the_words_of_a_prompt_become_elements(prompt: str, present: set[str], absent: set[str]) -> None:
    wish = understood(prompt)
    assert present <= wish.elements
    assert not absent & wish.elements


def test_a_negative_prompt_takes_elements_and_styles_away() -> None:
    wish = understood("oil painting of a boat and birds at sea", "birds, oil painting")
    assert "birds" not in wish.elements
    assert wish.style == ""
    assert "boat" in wish.elements


def test_the_colour_of_one_thing_does_not_tint_the_whole_picture() -> None:
    assert understood("a black cat").tints == ()
    assert understood("a teal morning").tints == (COLOURS["teal"],)


def test_a_prompt_that_names_nothing_is_painted_as_an_abstract() -> None:
    assert understood("thoughts about tuesday").abstract
    assert not understood("a cat").abstract


def test_the_file_names_its_software_and_not_the_prompt() -> None:
    events = list(image.run(job(prompt="a secret lake"), CancelFlag()))
    data = next(event.data for event in events if isinstance(event, Output))
    assert opened(next(event for event in events if isinstance(event, Output))).info == {"Software": "Tessera preview"}
    assert b"secret" not in data


def test_previews_are_small_jpegs() -> None:
    previews = [event for event in image.run(job(width=512, height=512), CancelFlag()) if isinstance(event, Preview)]
    assert 1 <= len(previews) <= 2
    for preview in previews:
        assert len(preview.data) <= 40_000
        assert Image.open(io.BytesIO(preview.data)).format == "JPEG"


def test_strength_zero_returns_the_picture_and_more_strength_changes_more() -> None:
    source = photograph(96, 80)
    changes = []
    for strength in (0.0, 0.3, 0.9):
        (picture,) = made(job({"image": encoded(source)}, strength=strength))
        changes.append(float(np.abs(np.asarray(picture, dtype=int) - np.asarray(source, dtype=int)).mean()))
    assert changes[0] == 0
    assert 0 < changes[1] < changes[2]


def test_only_the_white_part_of_a_mask_changes() -> None:
    source, mask = photograph(60, 40), Image.new("L", (60, 40))
    mask.paste(255, (30, 0, 60, 40))
    (picture,) = made(job({"image": encoded(source), "mask": encoded(mask)}, width=120, height=80, strength=1.0))
    before, after = np.asarray(pictures.fitted(source, 120, 80)), np.asarray(picture)
    assert np.array_equal(before[:, :59], after[:, :59])
    assert np.abs(before[:, 75:].astype(int) - after[:, 75:]).mean() > 5


def test_scale_enlarges_the_picture_and_keeps_its_transparency() -> None:
    source = photograph(50, 30).convert("RGBA")
    source.putalpha(Image.linear_gradient("L").resize((50, 30)))
    (picture,) = made(job({"image": encoded(source)}, prompt="", scale=2.5))
    assert (picture.size, picture.mode) == ((125, 75), "RGBA")


def test_enlarging_beyond_the_limit_is_refused_with_the_largest_factor() -> None:
    with pytest.raises(InvalidInput, match=r"4096 per side.*at most 2\.73"):
        made(job({"image": encoded(photograph(1500, 20))}, prompt="", scale=4))


def test_a_picture_taken_sideways_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (picture,) = made(job({"image": encoded(photograph(60, 40), "JPEG", exif=exif)}, prompt="", scale=1))
    assert picture.size == (40, 60)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pictures_of_every_mode_are_read(mode: str) -> None:
    source = Image.new("I;16", (40, 30), 30_000) if mode == "I;16" else photograph(40, 30).convert(mode)
    (picture,) = made(job({"image": encoded(source)}, strength=0.4))
    assert picture.size == (96, 80)


def test_a_transparent_palette_picture_is_read() -> None:
    source = photograph(40, 30).convert("P")
    (picture,) = made(job({"image": encoded(source, transparency=0)}, prompt="", scale=1))
    assert picture.mode == "RGBA"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"\x89PNG\r\n\x1a\n" + b"\x00" * 60,
        encoded(Image.effect_noise((60, 40), 90)).data[:900],
    ],
)
def test_a_picture_that_cannot_be_decoded_is_refused_in_a_sentence(data: bytes) -> None:
    broken = InputFile(media_type="image/png", data=data)
    with pytest.raises(InvalidInput, match=r"Nothing was charged"):
        made(job({"image": broken}))


@pytest.mark.parametrize("side", [8_000, 12_000, 20_000])
def test_a_decompression_bomb_is_refused_before_it_unpacks(side: int) -> None:
    bomb = encoded(Image.new("1", (side, side)))
    with pytest.raises(InvalidInput, match="48 megapixels"):
        made(job({"image": bomb}))


def test_a_cancel_is_noticed_while_a_png_is_written() -> None:
    flag = CancelFlag()
    flag.set()
    with pytest.raises(Cancelled):
        pictures.png(photograph(), flag)
