"""espeak-ng, whose library and data come in the wheel of espeakng-loader: it speaks, and it tells the sounds of words.

The library is global to the process and not re-entrant: one lock guards it, held for one sentence at a time, so that
several runs take turns and a cancel lands between sentences. It keeps the phase of its oscillators from one sentence to
the next: the same text gives the same words in the same time, not the same samples. The C interface:
https://github.com/espeak-ng/espeak-ng/blob/master/src/include/espeak-ng/speak_lib.h
"""

from __future__ import annotations

import ctypes
import threading
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any

import espeakng_loader

from tessera.errors import EngineError

SAMPLE_RATE_HZ = 22_050
DEFAULT_PITCH = 50

_NORMAL_WPM = 175
_MIN_WPM = 80  # espeak-ng speaks no slower; the rest of a slow speed comes from gaps between the words

# From speak_lib.h.
_RETRIEVAL, _DONT_EXIT, _CHARS_UTF8 = 1, 0x8000, 1
_RATE, _PITCH, _WORD_GAP = 1, 3, 7
_IPA, _TIE = 0x02, 0x80

_lock = threading.Lock()

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def check() -> None:
    """Raises EngineError where espeak-ng does not load."""
    with _lock:
        _library()


def knows(voice: str) -> bool:
    """Whether espeak-ng has this voice. Raises EngineError where it does not load."""
    with _lock:
        return int(_library().espeak_SetVoiceByName(voice.encode())) == 0


def plain(text: str) -> str:
    """The text without control characters: espeak-ng reads commands after a character 1; nothing else is special,
    because neither SSML nor phoneme mode is switched on. Line ends stay: they end a sentence."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs", "Co") else " " for char in text
    )


def pace(speed: float) -> tuple[int, int]:
    """Words per minute, and the gap between words in units of 10 ms, for a speed (1 is normal)."""
    wpm = _NORMAL_WPM * speed
    if wpm >= _MIN_WPM:
        return round(wpm), 0
    return _MIN_WPM, round(100 * (60.0 / wpm - 60.0 / _MIN_WPM))


def speak(text: str, voice: str, pitch: int, speed: float, stop: Callable[[], bool]) -> bytes:
    """One sentence as 22,050 Hz mono s16 samples; cut short once ``stop`` says so. Raises EngineError."""
    pcm = bytearray()

    def take(samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            pcm.extend(ctypes.string_at(samples, 2 * count))
        return int(stop())  # 1 stops the synthesis

    callback = _Callback(take)
    wpm, gap = pace(speed)
    encoded = text.encode() + b"\0"
    with _lock:
        library = _library()
        library.espeak_SetSynthCallback(callback)
        library.espeak_SetVoiceByName(voice.encode())
        library.espeak_SetParameter(_RATE, wpm, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        library.espeak_SetParameter(_WORD_GAP, gap, 0)
        status = library.espeak_Synth(encoded, len(encoded), 0, 1, 0, _CHARS_UTF8, None, None)
        library.espeak_Synchronize()
    if status != 0:
        raise EngineError(f"espeak-ng refused the text (status {status}). The tokens are returned.")
    return bytes(pcm)


def phonemes(text: str, voice: str) -> str:
    """The sounds of one clause in the International Phonetic Alphabet, with stress, two letters of one sound tied by ^.

    Punctuation is lost, and only the first clause is read: the caller gives it one at a time. Raises EngineError.
    """
    encoded = text.encode() + b"\0"
    said: list[str] = []
    with _lock:
        library = _library()
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise EngineError(f"espeak-ng has no voice {voice}. The tokens are returned.")
        buffer = ctypes.c_char_p(encoded)
        place = ctypes.c_void_p(ctypes.cast(buffer, ctypes.c_void_p).value)
        mode = _IPA | _TIE | (ord("^") << 8)
        while place.value:  # it gives one clause at a time, and decides itself where one ends
            piece = library.espeak_TextToPhonemes(ctypes.byref(place), _CHARS_UTF8, mode)
            if piece:
                said.append(piece.decode())
    return " ".join(" ".join(said).split())


@cache
def _library() -> ctypes.CDLL:
    """The loaded and initialised library. The caller holds the lock."""
    try:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
    except OSError as error:
        raise EngineError(f"espeak-ng does not load: {error}") from error
    data_path = str(espeakng_loader.get_data_path()).encode()
    if library.espeak_Initialize(_RETRIEVAL, 0, data_path, _DONT_EXIT) != SAMPLE_RATE_HZ:
        raise EngineError("espeak-ng does not find its data. Install espeakng-loader again.")
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    library.espeak_TextToPhonemes.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    return library
