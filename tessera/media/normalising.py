"""An upload as it is kept: written anew from what it shows and sounds like, and so without anything else in it.

Pictures are turned as EXIF says, brought to sRGB and encoded again; recordings and clips are copied, packet by packet,
into a new container that gets their first sound and first picture stream. What falls by the way: EXIF, GPS, XMP, ICC
and IPTC, comments, titles, cover pictures, chapters, subtitles, attachments, data streams, and bytes before or after
the file. CPU work on untrusted bytes: call it in a thread, never on an event loop.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import av.error
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin

from tessera.errors import PayloadTooLarge, UnsupportedMedia
from tessera.media.inspecting import (
    BROKEN_IMAGE,
    MAX_IMAGE_BYTES,
    Media,
    demuxer_of,
    inspect,
    is_cover,
    open_container,
    open_image,
)

# (start) A day of talking is no prompt, and a recording of it is decoded as a whole: 6 h at 48 kHz in stereo.
MAX_RECORDING_S = 6 * 3600.0
MAX_SAMPLES = int(MAX_RECORDING_S * 48_000 * 2)  # of all channels: a short file may claim 255 channels at 768 kHz
MAX_CHANNELS = 8
MAX_CLIP_PX = 4096 * 4096
# A progressive JPEG may be sent in any number of passes over all of its pixels. Cameras and editors use about ten.
MAX_JPEG_SCANS = 100
JPEG_QUALITY, WEBP_QUALITY = 95, 95
SPOKEN_RATE_HZ = 48_000  # of what has to be encoded again: above all that speech recognition reads

# demuxer → (FFmpeg's muxer, its options). bitexact: no name and version of the library, no time.
_EXACT = {"fflags": "+bitexact"}
_MUXERS: dict[str, tuple[str, dict[str, str]]] = {
    "wav": ("wav", _EXACT),
    "flac": ("flac", _EXACT),
    "ogg": ("ogg", _EXACT),
    "mp3": ("mp3", {**_EXACT, "id3v2_version": "0", "write_id3v1": "0"}),
    "aac": ("adts", _EXACT),
    "mov": ("mp4", {**_EXACT, "movflags": "+faststart"}),
    "matroska": ("matroska", _EXACT),
    "webm": ("webm", _EXACT),
    "avi": ("avi", _EXACT),
}
_PICTURE_FORMATS = {"image/jpeg": "JPEG", "image/webp": "WEBP"}  # all others become PNG, which loses nothing


@dataclass(frozen=True, kw_only=True)
class Normalised:
    """What is kept: its measures, and whether it is another type than what was sent."""

    media: Media
    converted: bool


def normalise(source: Path, target: Path) -> Normalised:
    """Write the file anew into ``target``, which is replaced.

    Raises UnsupportedMedia for what cannot be read or would take too much to decode, PayloadTooLarge for a picture of
    too many bytes.
    """
    _check_passes(source)
    found = inspect(source)
    if found.media_type.startswith("image/"):
        media = _picture(source, target, found)
    else:
        media = _recording(source, target, found)
    return Normalised(media=media, converted=media.media_type != found.media_type)


# ------------------------------------------------------------------ pictures


def _check_passes(source: Path) -> None:
    with source.open("rb") as file:
        if file.read(3) != b"\xff\xd8\xff":
            return
        file.seek(0)
        # Within coded pixels FF is always followed by 00 or a marker of restart: FF DA begins a pass.
        passes = file.read(MAX_IMAGE_BYTES).count(b"\xff\xda")
    if passes > MAX_JPEG_SCANS:
        raise UnsupportedMedia(
            f"The picture is sent in more than {MAX_JPEG_SCANS} passes, which takes too long to read. Nothing was"
            " stored; save it anew as JPEG or PNG."
        )


def _picture(source: Path, target: Path, found: Media) -> Media:
    kind = _PICTURE_FORMATS.get(found.media_type, "PNG")
    with open_image(source) as image:
        options: dict[str, Any] = {}
        if kind == "JPEG" and isinstance(image, JpegImagePlugin.JpegImageFile) and image.mode in ("RGB", "L"):
            # With its own tables a JPEG that is encoded again loses next to nothing.
            options = {"qtables": image.quantization, "subsampling": JpegImagePlugin.get_sampling(image)}
            if options["subsampling"] < 0:
                options = {}
        try:
            shown = _in_srgb(ImageOps.exif_transpose(image))
            shown = _in_mode(shown, kind)
        except BROKEN_IMAGE as error:
            raise _unreadable() from error
        shown.info = {name: value for name, value in shown.info.items() if name == "transparency"}
    match kind:
        case "JPEG":
            options = options or {"quality": JPEG_QUALITY, "subsampling": 0}
            shown.save(target, "JPEG", optimize=True, exif=b"", **options)
            media_type = "image/jpeg"
        case "WEBP":
            lossless = b"VP8L" in source.read_bytes()[:64]
            shown.save(target, "WEBP", quality=WEBP_QUALITY, lossless=lossless, method=2, exif=b"", exact=True)
            media_type = "image/webp"
        case _:
            shown.save(target, "PNG", exif=None)
            media_type = "image/png"
    return Media(media_type=media_type, width=shown.width, height=shown.height)


def _in_srgb(image: Image.Image) -> Image.Image:
    """The colours as they are meant, for nobody reads the profile after this. A broken profile is none."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
        meant = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = "RGBA" if image.mode == "RGBA" else "L" if image.mode == "L" else "RGB"
        if mode == "L":
            return image
        converted = ImageCms.profileToProfile(image, meant, ImageCms.createProfile("sRGB"), outputMode=mode)
        if converted is not None:
            return converted
    return image


def _in_mode(image: Image.Image, kind: str) -> Image.Image:
    """The picture in a mode that the format has."""
    if kind == "PNG":
        if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
            return image
        if image.mode == "I":
            return image.convert("I;16")
    elif kind == "JPEG" and image.mode == "L":
        return image
    if image.mode == "F":
        return image.convert("L")
    return image.convert("RGBA" if image.has_transparency_data and kind != "JPEG" else "RGB")


def _unreadable() -> UnsupportedMedia:
    return UnsupportedMedia(
        "The picture is broken and cannot be read. Nothing was stored; save it anew as PNG or JPEG."
    )


# ------------------------------------------------------------------ sound and clips


def _recording(source: Path, target: Path, found: Media) -> Media:
    duration_s = found.duration_s or 0.0
    if duration_s > MAX_RECORDING_S:
        raise UnsupportedMedia(
            f"The recording lasts {duration_s / 3600:.1f} hours, more than {MAX_RECORDING_S / 3600:g}. Nothing was"
            " stored; send it in parts."
        )
    if (found.width or 0) * (found.height or 0) > MAX_CLIP_PX:
        raise UnsupportedMedia("The clip's pictures are too large. Nothing was stored; send a smaller clip.")
    demuxer = demuxer_of(source)
    assert demuxer is not None, "inspect has found it"
    _check_sound(source, demuxer, duration_s)
    try:
        _copy(source, demuxer, target)
        kept = inspect(target)
        if abs((kept.duration_s or 0.0) - duration_s) <= 0.5 + duration_s / 50:
            # A tool may put another container's type here (a QuickTime file comes back as MP4): what is told is what is
            # there. The length is the one by which a transcript is priced.
            return replace(kept, duration_s=duration_s)
    except (av.error.FFmpegError, ValueError, UnsupportedMedia, OSError, NotImplementedError):
        pass  # a codec that the container does not take back, or a line of time that cannot be copied: encode it anew
    return _encoded_again(source, demuxer, target, duration_s)


def _check_sound(source: Path, demuxer: str, duration_s: float) -> None:
    with open_container(source, demuxer) as container:
        for stream in container.streams.audio:
            channels = stream.codec_context.channels or 1
            rate = stream.codec_context.sample_rate or 1
            if channels > MAX_CHANNELS or duration_s * rate * channels > MAX_SAMPLES:
                raise UnsupportedMedia(
                    f"The recording has {channels} channels at {rate} Hz for {duration_s:.0f} s, more than can be"
                    " decoded. Nothing was stored; save it in stereo at 48 kHz."
                )


def _copy(source: Path, demuxer: str, target: Path) -> None:
    """The first sound and the first picture stream, packet by packet."""
    with source.open("rb") as file:
        name = "webm" if demuxer == "matroska" and b"webm" in file.read(64) else demuxer
    muxer, options = _MUXERS[name]
    with (
        open_container(source, demuxer) as given,
        av.open(target, "w", format=muxer, container_options=options) as kept,
    ):
        pictures = next((s for s in given.streams.video if not is_cover(s)), None)
        sounds = next(iter(given.streams.audio), None)
        wanted = [stream for stream in (pictures, sounds) if stream is not None]
        copies: dict[int, Any] = {}
        for stream in wanted:
            copies[stream.index] = kept.add_stream_from_template(stream)
            copies[stream.index].metadata.clear()
        kept.metadata.clear()
        decoding = {stream.index: iter(_decoding_times(source, demuxer, stream.index)) for stream in wanted}
        for packet in given.demux(wanted):
            if packet.size == 0:
                continue  # the end of a stream
            dts = next(decoding[packet.stream.index], None)
            if packet.dts is None or demuxer == "matroska":
                packet.dts = dts
            packet.stream = copies[packet.stream.index]
            kept.mux(packet)


def _decoding_times(source: Path, demuxer: str, stream_index: int) -> list[int]:
    """When each packet of a stream is decoded: in order, and none later than it is shown.

    Matroska does not keep these times, and a container does not take pictures without them.
    """
    if demuxer != "matroska":
        return []
    with open_container(source, demuxer) as container:
        stream = container.streams[stream_index]
        shown = [packet.pts or 0 for packet in container.demux(stream) if packet.size > 0]
    in_order = sorted(shown)
    ahead = max((due - at for due, at in zip(in_order, shown, strict=True)), default=0)
    return [due - ahead for due in in_order]


def _encoded_again(source: Path, demuxer: str, target: Path, duration_s: float) -> Media:
    """The sound alone, as FLAC: what a clip or recording is uploaded for is its words."""
    with open_container(source, demuxer) as given:
        sounds = next(iter(given.streams.audio), None)
        if sounds is None:
            raise UnsupportedMedia("The clip cannot be read to its end. Nothing was stored; save it anew as MP4.")
        rate = min(SPOKEN_RATE_HZ, sounds.codec_context.sample_rate or SPOKEN_RATE_HZ)
        with av.open(target, "w", format="flac", container_options=_EXACT) as kept:
            stream = kept.add_stream("flac", rate=rate)
            assert isinstance(stream, av.AudioStream)
            stream.layout = "mono" if (sounds.codec_context.channels or 1) == 1 else "stereo"
            resampler = av.AudioResampler(format="s16", layout=stream.layout.name, rate=rate, frame_size=4096)
            samples = 0
            for frame in (*_frames(given, sounds), None):
                for resampled in resampler.resample(frame):
                    samples += resampled.samples
                    if samples > MAX_SAMPLES:
                        raise PayloadTooLarge("The recording is longer than it says. Nothing was stored.")
                    resampled.pts = None
                    kept.mux(stream.encode(resampled))
            kept.mux(stream.encode(None))
    return Media(media_type="audio/flac", duration_s=max(duration_s, round(samples / rate, 3)))


def _frames(container: Any, stream: Any) -> Any:
    """What can be decoded; a broken packet is left out, as players do."""
    for packet in container.demux(stream):
        with contextlib.suppress(av.error.InvalidDataError):
            yield from packet.decode()
