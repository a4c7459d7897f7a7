"""Transcription: pocketsphinx with the US English model of its wheel.

Open dictation with it is rough (a word error rate of 0.89 was measured on free speech), and it says so by ``preview``.
Audio is decoded as a stream: memory does not grow with the recording.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pocketsphinx

from deployments.preview.flag import CancelFlag
from deployments.transcripts import transcript_files
from tessera.engine import Done, EngineEvent, EngineJob, Progress
from tessera.errors import EngineError, InvalidInput

ENGINE = "preview-transcription/1"
SAMPLE_RATE_HZ = 16_000

# A speech region without a pause is cut here: the decoder's work at the end of an utterance grows with its length and
# cannot be interrupted (measured: 1.0 s after 10 s of speech; without that second pass the words are clearly worse).
MAX_UTTERANCE_S = 7.0

# The voice detector lets short pauses pass as speech; these end a segment too.
_PAUSE_S = 0.24
_QUIET = 0.06  # of the loudest frame of the utterance

_BYTES_PER_S = 2 * SAMPLE_RATE_HZ
_FRAMES_PER_S = 100  # of the decoder's time, its default


@dataclass(frozen=True, kw_only=True)
class _Word:
    """One word; times in seconds from the start of the recording."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, kw_only=True)
class _Segment:
    """Words between two pauses; times in seconds from the start of the recording."""

    start_s: float
    end_s: float
    text: str
    words: tuple[_Word, ...] = ()


def check() -> None:
    """Raises EngineError where the acoustic model of the wheel is absent."""
    if not (Path(pocketsphinx.get_model_path("en-us")) / "en-us").is_dir():
        raise EngineError("pocketsphinx has no en-us model. Install pocketsphinx again.")


def run(job: EngineJob, flag: CancelFlag) -> Iterator[EngineEvent]:
    """Write down ``files['upload']``: progress by position, then Done with text and segments."""
    language = job.input.get("language")
    if language not in (None, "en"):
        raise InvalidInput(
            f"The preview transcription understands English only, not {language!r}. Nothing was charged; "
            "leave 'language' out, set it to 'en', or choose another model."
        )
    upload = job.files.get("upload")
    if upload is None or not upload.data:
        raise InvalidInput("The recording is missing or empty. Nothing was charged; upload an audio file.")
    yield Progress(fraction=0.0, note="listening")
    segments: list[_Segment] = []
    duration_s = 0.0
    for step in _transcribe(upload.data, flag):
        if isinstance(step, Progress):
            yield step
        elif isinstance(step, _Segment):
            segments.append(step)
        else:
            duration_s = step
    yield Progress(fraction=1.0)
    output: dict[str, Any] = {
        "text": " ".join(segment.text for segment in segments),
        "language": "en",
        "duration_s": round(duration_s, 3),
        "segments": [_timed(segment) for segment in segments],
    }
    if job.input.get("word_timestamps"):
        output["words"] = [_timed(word) for segment in segments for word in segment.words]
    output = {**output, "engine": ENGINE, "preview": True}
    yield from transcript_files(output, job.input.get("formats") or ())
    yield Done(output=output)


def _timed(part: _Segment | _Word) -> dict[str, Any]:
    return {"start_s": round(part.start_s, 2), "end_s": round(part.end_s, 2), "text": part.text}


def _transcribe(data: bytes, flag: CancelFlag) -> Iterator[Progress | _Segment | float]:
    """Progress and segments as they come; at last the length of the recording in seconds."""
    listener = _Listener()
    position = 0
    for pcm, total_s in _decoded(data, flag):
        for start in range(0, len(pcm), listener.frame_bytes):
            flag.check()
            piece = pcm[start : start + listener.frame_bytes]
            yield from listener.hear(piece)
            position += len(piece)
        heard_s = position / _BYTES_PER_S
        if total_s:
            yield Progress(fraction=min(0.99, heard_s / total_s), note="listening")
    flag.check()
    yield from listener.end()
    yield position / _BYTES_PER_S


def _decoded(data: bytes, flag: CancelFlag) -> Iterator[tuple[bytes, float | None]]:
    """The recording as 16 kHz mono s16, about half a second at a time, with its whole length where it tells one.

    Raises InvalidInput where it is no audio that FFmpeg can read.
    """
    try:
        with av.open(io.BytesIO(data), "r") as container:
            if not container.streams.audio:
                raise InvalidInput(
                    "The file has no sound. Nothing was charged; upload an audio or video file with speech."
                )
            stream = container.streams.audio[0]
            total_s = None if container.duration is None else container.duration / av.time_base
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
            pending = bytearray()
            for frame in container.decode(stream):
                flag.check()
                for resampled in resampler.resample(frame):
                    pending += resampled.to_ndarray().tobytes()
                if len(pending) >= _BYTES_PER_S // 2:
                    yield bytes(pending), total_s
                    pending.clear()
            for resampled in resampler.resample(None):
                pending += resampled.to_ndarray().tobytes()
            if pending:
                yield bytes(pending), total_s
    except (av.error.FFmpegError, ValueError) as error:
        raise InvalidInput(
            f"The recording cannot be decoded ({type(error).__name__}). Nothing was charged; "
            "upload it as WAV, MP3, FLAC, Ogg, M4A or WebM."
        ) from error


class _Listener:
    """Voice activity detection in front of the decoder: speech becomes utterances, pauses end them."""

    def __init__(self) -> None:
        self._endpointer: Any = pocketsphinx.Endpointer(sample_rate=SAMPLE_RATE_HZ)
        self._decoder: Any = pocketsphinx.Decoder(samprate=SAMPLE_RATE_HZ, loglevel="FATAL")
        self.frame_bytes: int = self._endpointer.frame_bytes
        self._rest = b""
        self._start_s = 0.0
        self._utterance_s: float | None = None
        self._loudest, self._quiet_s = 0.0, 0.0

    def hear(self, pcm: bytes) -> Iterator[_Segment]:
        """Take the next samples, any number of them; gives the segments that ended in them."""
        self._rest += pcm
        while len(self._rest) > self.frame_bytes:
            # The last full frame stays back: the endpointer wants to be told which one is the last.
            frame, self._rest = self._rest[: self.frame_bytes], self._rest[self.frame_bytes :]
            was_speech = self._endpointer.in_speech
            speech = self._endpointer.process(frame)
            if speech is None:
                continue
            if not was_speech:
                self._begin(self._endpointer.speech_start)
            yield from self._take(speech)
            if not self._endpointer.in_speech:
                yield from self._finish(self._endpointer.speech_end)

    def end(self) -> Iterator[_Segment]:
        """The recording is over; gives the last segment, if speech was going on."""
        if self._endpointer.in_speech:
            speech = self._endpointer.end_stream(self._rest)
            if speech:
                yield from self._take(speech)
            yield from self._finish(self._endpointer.speech_end)
        elif self._utterance_s is not None:
            yield from self._finish(self._start_s + self._utterance_s)

    def _begin(self, start_s: float) -> None:
        self._start_s, self._utterance_s = start_s, 0.0
        self._loudest, self._quiet_s = 0.0, 0.0
        self._decoder.start_utt()

    def _take(self, speech: bytes) -> Iterator[_Segment]:
        assert self._utterance_s is not None
        self._decoder.process_raw(speech, no_search=False, full_utt=False)
        length_s = len(speech) / _BYTES_PER_S
        self._utterance_s += length_s
        loud = float(np.abs(np.frombuffer(speech, dtype="<i2").astype(np.float32)).mean())
        self._loudest = max(self._loudest, loud)
        self._quiet_s = self._quiet_s + length_s if loud < _QUIET * self._loudest else 0.0
        paused = self._quiet_s >= _PAUSE_S and self._utterance_s >= 4 * _PAUSE_S
        if paused or self._utterance_s >= MAX_UTTERANCE_S:
            cut_s = self._start_s + self._utterance_s
            yield from self._finish(cut_s)
            self._begin(cut_s)

    def _finish(self, end_s: float) -> Iterator[_Segment]:
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        start_s, self._utterance_s = self._start_s, None
        text = written(hypothesis.hypstr) if hypothesis is not None else ""
        if text:
            end_s = max(start_s, end_s)
            yield _Segment(start_s=start_s, end_s=end_s, text=text, words=tuple(self._words(start_s, end_s)))

    def _words(self, start_s: float, end_s: float) -> Iterator[_Word]:
        """The words of the utterance that has just ended, inside of its times."""
        for part in self._decoder.seg():
            text = written(part.word)
            if text:
                begins_s = min(start_s + part.start_frame / _FRAMES_PER_S, end_s)
                ends_s = min(start_s + (part.end_frame + 1) / _FRAMES_PER_S, end_s)
                yield _Word(start_s=begins_s, end_s=ends_s, text=text)


def written(words: str) -> str:
    """The decoder's words as a person writes them: no noise marks, no pronunciation numbers, 'I' in capitals."""
    words = re.sub(r"<[^>]*>|\[[^\]]*\]|\(\d+\)", " ", words)
    words = re.sub(r"\bi\b", "I", words)
    return " ".join(words.split())
