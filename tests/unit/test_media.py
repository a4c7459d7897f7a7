"""What a file is, is found by its content alone; what cannot be read is refused with a sentence, never a crash."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from PIL import Image

from tessera.errors import PayloadTooLarge, UnsupportedMedia
from tessera.media.inspecting import Media, extension, inspect, thumbnail, thumbnail_type
from tests.unit.media_files import clip, picture, recording, sound

PICTURES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
}
RECORDINGS = [
    (lambda: sound(), "audio/wav"),
    (lambda: recording("mp3", "libmp3lame"), "audio/mpeg"),
    (lambda: recording("flac", "flac"), "audio/flac"),
    (lambda: recording("ogg", "libopus"), "audio/ogg"),
    (lambda: recording("ipod", "aac"), "audio/mp4"),
    (lambda: recording("adts", "aac"), "audio/aac"),
    (lambda: recording("webm", "libopus"), "audio/webm"),
]
CLIPS = [
    (lambda: clip("mp4"), "video/mp4"),
    (lambda: clip("mp4", audio="aac"), "video/mp4"),
    (lambda: clip("mov", audio="aac"), "video/quicktime"),
    (lambda: clip("webm", "libvpx", "libopus"), "video/webm"),
    (lambda: clip("matroska"), "video/x-matroska"),
    (lambda: clip("avi", "mpeg4"), "video/x-msvideo"),
]


@pytest.mark.parametrize(("kind", "media_type"), PICTURES.items())
def test_pictures_are_known_by_content_and_measured(kind: str, media_type: str) -> None:
    assert inspect(picture(kind)) == Media(media_type=media_type, width=100, height=70)


@pytest.mark.parametrize(("make", "media_type"), RECORDINGS, ids=[kind for _, kind in RECORDINGS])
def test_recordings_are_known_by_content_and_measured(make, media_type: str) -> None:  # type: ignore[no-untyped-def]
    found = inspect(make())
    assert (found.media_type, found.width) == (media_type, None)
    assert found.duration_s == pytest.approx(2.0, abs=0.06)


@pytest.mark.parametrize(("make", "media_type"), CLIPS)
def test_clips_are_known_by_content_and_measured(make, media_type: str) -> None:  # type: ignore[no-untyped-def]
    found = inspect(make())
    assert (found.media_type, found.width, found.height) == (media_type, 64, 48)
    assert found.duration_s == pytest.approx(2.0, abs=0.1)


def test_a_file_on_disk_is_read_like_bytes(tmp_path: Path) -> None:
    path = tmp_path / "lies.txt"
    path.write_bytes(picture("PNG"))
    assert inspect(path) == inspect(picture("PNG"))
    path.write_bytes(sound())
    assert inspect(path) == inspect(sound())


def test_a_photo_turned_by_exif_is_measured_as_it_is_seen() -> None:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (100, 70)).save(out, "JPEG", exif=exif)
    found = inspect(out.getvalue())
    assert (found.width, found.height) == (70, 100)
    small = Image.open(io.BytesIO(thumbnail(out.getvalue(), "image/jpeg") or b""))
    assert small.size == (70, 100)


def test_the_length_of_a_recording_comes_from_its_samples_not_from_its_header() -> None:
    lying = bytearray(sound(2.0))
    lying[40:44] = b"\xff\xff\xff\xff"  # a data chunk of 4 GiB, as streaming encoders write it
    assert inspect(bytes(lying)).duration_s == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"%PDF-1.7",
        b"#EXTM3U\nhttp://203.0.113.9/x.ts\n",
        b"<svg/>",
        b"ffconcat version 1.0\nfile /etc/passwd",
    ],
)
def test_other_types_are_refused_with_those_that_are_known(data: bytes) -> None:
    with pytest.raises(UnsupportedMedia, match="PNG, JPEG"):
        inspect(data)


def test_an_empty_file_says_so() -> None:
    with pytest.raises(UnsupportedMedia, match="empty"):
        inspect(b"")


@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_cut_short_is_refused(kind: str) -> None:
    data = picture(kind)
    with pytest.raises(UnsupportedMedia, match="broken or incomplete"):
        inspect(data[: len(data) // 2])


def test_a_recording_without_sound_is_refused() -> None:
    with pytest.raises(UnsupportedMedia):
        inspect(sound(0.0))


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    for side in (8_000, 30_000):
        out = io.BytesIO()
        Image.new("1", (side, side)).save(out, "PNG")
        with pytest.raises(UnsupportedMedia, match="50 million"):
            inspect(out.getvalue())


def test_a_picture_of_too_many_bytes_is_refused() -> None:
    with pytest.raises(PayloadTooLarge, match="30"):
        inspect(picture("PNG") + b"\0" * (31 << 20))


@pytest.mark.filterwarnings("ignore")  # Pillow warns of broken EXIF
def test_broken_bytes_are_refused_and_never_crash() -> None:
    """The seed is fixed; a failure names what was raised."""
    chance = random.Random(7)
    seeds = [picture(kind) for kind in PICTURES] + [make() for make, _ in (*RECORDINGS, *CLIPS)]
    for _ in range(300):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.choice([1, 5, 40])):
            data[chance.randrange(min(len(data), chance.choice([64, 1024, len(data)])))] = chance.randrange(256)
        try:
            found = inspect(bytes(data))
        except (UnsupportedMedia, PayloadTooLarge):
            continue
        thumbnail(bytes(data), found.media_type)


# ------------------------------------------------------------------ thumbnails


@pytest.mark.parametrize("kind", PICTURES)
def test_a_thumbnail_of_a_picture_fits_and_keeps_the_shape(kind: str) -> None:
    data = thumbnail(picture(kind, 1200, 600), PICTURES[kind])
    assert data is not None
    with Image.open(io.BytesIO(data)) as small:
        assert small.size == (512, 256)
        assert Image.MIME[small.format or ""] == thumbnail_type(data)


def test_a_thumbnail_keeps_transparency() -> None:
    out = io.BytesIO()
    Image.new("RGBA", (900, 900), (255, 0, 0, 0)).save(out, "PNG")
    data = thumbnail(out.getvalue(), "image/png")
    assert data is not None
    assert thumbnail_type(data) == "image/webp"
    with Image.open(io.BytesIO(data)) as small:
        assert small.convert("RGBA").getpixel((5, 5))[3] == 0  # type: ignore[index]


def test_sixteen_bits_of_grey_are_scaled_and_not_cut() -> None:
    out = io.BytesIO()
    Image.new("I;16", (64, 64), 32_768).save(out, "PNG")
    with Image.open(io.BytesIO(thumbnail(out.getvalue(), "image/png") or b"")) as small:
        assert small.convert("L").getpixel((5, 5)) == pytest.approx(128, abs=3)


def test_the_thumbnail_of_a_clip_is_its_first_frame_that_is_not_black() -> None:
    with Image.open(io.BytesIO(thumbnail(clip("mp4", black=6), "video/mp4") or b"")) as small:
        assert small.size == (64, 48)
        assert small.convert("L").getpixel((30, 20)) > 150  # type: ignore[operator]


def test_a_clip_that_stays_black_still_has_a_thumbnail() -> None:
    assert thumbnail(clip("mp4", black=99), "video/mp4") is not None


@pytest.mark.parametrize(("data", "media_type"), [(b"x", "image/png"), (b"x", "video/mp4"), (b"x", "audio/wav")])
def test_what_has_no_look_has_no_thumbnail(data: bytes, media_type: str) -> None:
    assert thumbnail(data, media_type) is None


def test_extensions() -> None:
    assert [extension(kind) for kind in ("image/jpeg", "audio/mpeg", "text/plain; charset=utf-8", "x/y")] == [
        *("jpg", "mp3", "txt", "bin")
    ]
