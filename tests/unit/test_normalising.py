"""What is kept of an upload: what it shows and sounds like, and nothing else."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from tessera.errors import PayloadTooLarge, UnsupportedMedia
from tessera.media.inspecting import Media, inspect
from tessera.media.normalising import MAX_JPEG_SCANS, normalise
from tests.unit.media_files import clip, picture, recording, sound

SECRET = b"my-home-address"


def kept(tmp_path: Path, data: bytes) -> tuple[Media, bytes]:
    """What becomes of a file."""
    source, target = tmp_path / "sent", tmp_path / "kept"
    source.write_bytes(data)
    media = normalise(source, target).media
    return media, target.read_bytes()


def photo(kind: str = "JPEG", *, orientation: int = 1, **options: Any) -> bytes:
    """A picture whose left half is red, with EXIF that tells more than it should."""
    image = Image.new("RGB", (60, 40), "white")
    image.paste((255, 0, 0), (0, 0, 30, 40))
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = SECRET.decode()
    exif.get_ifd(0x8825)[29] = "2026:01:01"
    out = io.BytesIO()
    image.save(out, kind, exif=exif, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_no_metadata_of_a_picture_is_kept(tmp_path: Path, kind: str) -> None:
    sent = photo(kind)
    assert SECRET in sent
    media, data = kept(tmp_path, sent)
    assert SECRET not in data
    with Image.open(io.BytesIO(data)) as image:
        assert not image.getexif()
        assert not {"exif", "xmp", "icc_profile", "comment", "XML:com.adobe.xmp"} & set(image.info)
    assert (media.width, media.height) == (60, 40)


def test_texts_comments_and_what_hangs_behind_the_file_are_not_kept(tmp_path: Path) -> None:
    told = PngImagePlugin.PngInfo()
    told.add_text("Comment", SECRET.decode())
    told.add_itxt("XML:com.adobe.xmp", SECRET.decode())
    out = io.BytesIO()
    Image.new("RGB", (9, 9)).save(out, "PNG", pnginfo=told)
    for sent in (out.getvalue(), photo("JPEG", comment=SECRET), picture("PNG") + b"<script>" + SECRET):
        assert SECRET in sent
        assert SECRET not in kept(tmp_path, sent)[1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_kept_as_it_is_seen(tmp_path: Path, orientation: int) -> None:
    media, data = kept(tmp_path, photo(orientation=orientation))
    with Image.open(io.BytesIO(data)) as image:
        turned = orientation >= 5
        assert (media.width, media.height) == image.size == ((40, 60) if turned else (60, 40))
        red = {
            side
            for side, at in {"left": (3, 20), "right": (-4, 20), "top": (20, 3), "bottom": (20, -4)}.items()
            if (pixel := image.convert("RGB").getpixel((at[0] % image.width, at[1] % image.height)))[1] < 100  # type: ignore[index]
            and pixel[0] > 200  # type: ignore[index]
        }
    side = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}[orientation]
    assert side in red
    assert {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[side] not in red


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("GIF", "image/png"), ("BMP", "image/png"),
     ("TIFF", "image/png")],
)  # fmt: skip
def test_pictures_are_kept_in_a_type_that_every_engine_reads(tmp_path: Path, kind: str, media_type: str) -> None:
    media, data = kept(tmp_path, picture(kind))
    assert media.media_type == media_type == inspect(data).media_type


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "F", "I", "YCbCr"])
def test_every_mode_can_be_kept(tmp_path: Path, mode: str) -> None:
    kind = "PNG" if mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else "TIFF"
    image = Image.new(mode, (12, 8))
    out = io.BytesIO()
    image.save(out, kind)
    assert kept(tmp_path, out.getvalue())[0].width == 12


def test_transparency_and_exact_pixels_of_a_png_stay(tmp_path: Path) -> None:
    image = Image.new("RGBA", (20, 20), (10, 20, 30, 40))
    out = io.BytesIO()
    image.save(out, "PNG")
    with Image.open(io.BytesIO(kept(tmp_path, out.getvalue())[1])) as found:
        assert found.getpixel((3, 3)) == (10, 20, 30, 40)


def test_a_jpeg_loses_next_to_nothing(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(out, "JPEG", quality=85)
    with (
        Image.open(io.BytesIO(out.getvalue())) as before,
        Image.open(io.BytesIO(kept(tmp_path, out.getvalue())[1])) as after,
    ):
        differences = [abs(a - b) for a, b in zip(before.tobytes(), after.tobytes(), strict=True)]
    assert max(differences) <= 3


def test_colours_are_brought_to_srgb(tmp_path: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 100, 50)).save(out, "JPEG", quality=100, icc_profile=lab.tobytes())
    media, data = kept(tmp_path, out.getvalue())
    with Image.open(io.BytesIO(data)) as image:
        assert "icc_profile" not in image.info
        red, green, blue = image.getpixel((4, 4))  # type: ignore[misc]
    assert abs(red - 200) + abs(green - 100) + abs(blue - 50) < 12
    assert media.media_type == "image/jpeg"


def test_a_broken_profile_is_none(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(out, "PNG", icc_profile=b"nonsense" * 30)
    assert kept(tmp_path, out.getvalue())[0].media_type == "image/png"


def test_a_jpeg_of_too_many_passes_is_refused(tmp_path: Path) -> None:
    data = picture("JPEG")
    scan = data[data.index(b"\xff\xda") : -2]
    with pytest.raises(UnsupportedMedia, match="passes"):
        kept(tmp_path, data[:-2] + scan * MAX_JPEG_SCANS + data[-2:])


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes that would be as large as it says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100_000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [png_that_claims(60_000, 60_000), png_that_claims(2**31 - 1, 1), b"<svg xmlns='http://www.w3.org/2000/svg'/>",
     b"<?xml version='1.0'?><svg/>", b"<!doctype html><script>1</script>", b"GIF89a<script>", b"%PDF-1.7",
     b"PK\x03\x04", b"\x1f\x8b\x08\0", b"#EXTM3U\nfile:///etc/passwd"],
)  # fmt: skip
def test_bombs_pages_and_other_types_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UnsupportedMedia, match="Nothing was stored"):
        kept(tmp_path, data)


# ------------------------------------------------------------------ sound and clips


def told(data: bytes) -> dict[str, str]:
    """All that a container says beside its content."""
    with av.open(io.BytesIO(data)) as container:
        found = {**container.metadata}
        for stream in container.streams:
            found |= stream.metadata
    return {name: value for name, value in found.items() if name.lower() not in ("language", "duration", "handler_name",
            "vendor_id", "major_brand", "minor_version", "compatible_brands")}  # fmt: skip


def tagged(container: str, codec: str) -> bytes:
    """A recording with a title and a comment."""
    out = io.BytesIO()
    with av.open(io.BytesIO(recording("flac", "flac"))) as given, av.open(out, "w", format=container) as made:
        made.metadata.update({"title": SECRET.decode(), "comment": SECRET.decode(), "location": "+48.1+011.5/"})
        stream: Any = made.add_stream(codec, rate=48_000)
        stream.layout = "mono"
        for frame in given.decode(audio=0):
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
    return out.getvalue()


@pytest.mark.parametrize(
    ("container", "codec"),
    [("wav", "pcm_s16le"), ("mp3", "libmp3lame"), ("flac", "flac"), ("ogg", "libopus"), ("mp4", "aac"),
     ("webm", "libopus"), ("matroska", "flac"), ("mov", "aac")],
)  # fmt: skip
def test_no_metadata_of_a_recording_is_kept(tmp_path: Path, container: str, codec: str) -> None:
    sent = tagged(container, codec)
    assert SECRET in sent
    media, data = kept(tmp_path, sent)
    assert SECRET not in data
    assert b"+48.1" not in data
    assert not {name for name in told(data) if name.lower() in ("title", "comment", "location", "artist")}
    before, after = inspect(sent), inspect(data)
    assert media.duration_s == before.duration_s
    assert abs((after.duration_s or 0) - (before.duration_s or 0)) < 0.1


@pytest.mark.parametrize(
    ("make", "media_type"),
    [(lambda: clip("mp4", audio="aac"), "video/mp4"), (lambda: clip("mov", audio="aac"), "video/mp4"),
     (lambda: clip("webm", "libvpx", audio="libopus"), "video/webm"),
     (lambda: clip("matroska", audio="aac"), "video/x-matroska"),
     (lambda: clip("avi", "mpeg4", audio="libmp3lame"), "video/x-msvideo"), (lambda: clip("mp4"), "video/mp4")],
)  # fmt: skip
def test_clips_keep_their_sound_and_their_pictures(tmp_path: Path, make: Any, media_type: str) -> None:
    sent = make()
    media, data = kept(tmp_path, sent)
    assert (media.media_type, media.width, media.height) == (media_type, 64, 48)
    with av.open(io.BytesIO(sent)) as before, av.open(io.BytesIO(data)) as after:
        assert [s.type for s in before.streams] == [s.type for s in after.streams]
        for stream in range(len(before.streams)):
            assert sum(1 for _ in after.decode(after.streams[stream])) > 0
            after.seek(0)


def test_a_wav_of_plain_samples_stays_what_it_is(tmp_path: Path) -> None:
    assert kept(tmp_path, sound()) == (Media(media_type="audio/wav", duration_s=2.0), sound())


def test_a_recording_that_would_last_for_days_is_refused(tmp_path: Path) -> None:
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + 400_000, b"WAVE", b"fmt ", 16, 1, 1, 1, 1, 1, 8, b"data", 400_000
    )
    with pytest.raises(UnsupportedMedia, match="hours"):
        kept(tmp_path, head + b"\x80" * 400_000)


def test_a_picture_of_too_many_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PayloadTooLarge):
        kept(tmp_path, b"\x89PNG\r\n\x1a\n" + b"\0" * (31 << 20))


def test_broken_bytes_are_refused_and_never_crash(tmp_path: Path) -> None:
    for whole in (picture("JPEG"), picture("PNG"), sound(), recording("mp4", "aac"), clip("webm", "libvpx")):
        for cut in range(0, len(whole), max(1, len(whole) // 12)):
            for data in (whole[:cut], whole[:cut] + b"\xff" * 40 + whole[cut + 40 :]):
                try:
                    kept(tmp_path, data)
                except UnsupportedMedia:
                    continue
