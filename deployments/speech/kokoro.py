"""Kokoro-82M on ONNX Runtime: phonemes in, 24 kHz sound out.

Its words are read by espeak-ng; what the network was trained on writes some sounds otherwise than espeak-ng does, so
they are written over. Run here instead of by one of the packages around it, because those bring a phonemizer under the
GPL into the process, cut what is longer than the network takes, and cannot be cancelled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from deployments import espeak
from tessera.errors import EngineError, InvalidInput

RATE_HZ = 24_000
MAX_TOKENS = 510  # the network's, without the two that stand around them
SPEEDS = (0.5, 2.0)  # beyond these it slurs

_VOCABULARY = Path(__file__).with_name("kokoro_vocab.json")
_PUNCTUATION = ';:,.!?—…"()“”'
# Signs that people write, as those that the network knows.
_SIGNS = str.maketrans(
    {"«": "“", "»": "”", "„": "“", "–": "—", "‘": "'", "’": "'", "¿": "", "¡": "", "*": "", "_": " "}
)
_CLAUSE = re.compile(rf"[^{re.escape(_PUNCTUATION)}]+|[{re.escape(_PUNCTUATION)}]")

# espeak-ng's writing → the network's; longer ones first. ^ ties two letters of one sound.
_COMMON = {"a^ɪ": "I", "a^ʊ": "W", "d^ʒ": "ʤ", "e^ɪ": "A", "t^ʃ": "ʧ", "ɔ^ɪ": "Y", "t^s": "ʦ", "d^z": "ʣ"}
_ENGLISH = {
    **_COMMON,
    "ə^l": "ᵊl",
    "ʔˌn\u0329": "tᵊn",
    "ʔn\u0329": "tᵊn",
    "n\u0329": "ᵊn",
    "ʔ": "t",
    "ɚ": "əɹ",
    "ɐ": "ə",
    "ʲ": "",
    "r": "ɹ",
    "x": "k",
    "ç": "k",
    "ɬ": "l",
    "\u0303": "",
}
_AMERICAN = {"o^ʊ": "O", "ɜːɹ": "ɜɹ", "ɜː": "ɜɹ", "ɪ^ə": "iə", "i^ə": "iə", "ɾ": "T", "ː": ""}
_BRITISH = {"e^ə": "ɛː", "ə^ʊ": "Q", "i^ə": "ɪə"}
_OTHER = {**_COMMON, "o^ʊ": "O", "ə^ʊ": "Q"}


class Kokoro:
    """One network and its voices. ``provider``: ONNX Runtime's name of the device. Raises EngineError."""

    def __init__(self, model: Path, voices: Path, *, threads: int, provider: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(model), sess_options=options, providers=[provider])
        except Exception as error:  # ONNX Runtime's own classes have no common base
            raise EngineError(f"{model.name} cannot be loaded ({str(error).splitlines()[0][:200]}).") from error
        self._inputs = {each.name: each.type for each in self._session.get_inputs()}
        if not {"style", "speed"} <= set(self._inputs) or not {"tokens", "input_ids"} & set(self._inputs):
            raise EngineError(f"{model.name} is not a Kokoro network: its inputs are {', '.join(self._inputs)}.")
        self._voices = read_voices(voices)

    @property
    def voices(self) -> list[str]:
        """Their names."""
        return sorted(self._voices)

    def speak(self, phonemes: str, voice: str, speed: float) -> NDArray[np.float32]:
        """The sound of these phonemes, at most MAX_TOKENS of them."""
        vocabulary = _vocabulary()
        tokens = [vocabulary[symbol] for symbol in phonemes if symbol in vocabulary][:MAX_TOKENS]
        if not tokens:
            return np.zeros(0, np.float32)
        styles = self._voices[voice]
        style = styles[min(len(tokens), len(styles) - 1)].reshape(1, -1).astype(np.float32)
        given: dict[str, Any] = {
            ("tokens" if "tokens" in self._inputs else "input_ids"): np.array([[0, *tokens, 0]], np.int64),
            "style": style,
            "speed": np.array([speed], np.int32 if "int32" in self._inputs["speed"] else np.float32),
        }
        return np.asarray(self._session.run(None, given)[0], np.float32).reshape(-1)


def phonemes_of(text: str, language: str) -> Iterator[str]:
    """What the network reads for a sentence, in parts that it can take, punctuation kept: it is how it breathes."""
    written = "".join(_clauses(text.translate(_SIGNS), language)).strip()
    while len(written) > MAX_TOKENS:
        head = written[:MAX_TOKENS]
        cut = max(head.rfind(mark) for mark in _PUNCTUATION) + 1
        if cut < MAX_TOKENS // 4:
            cut = head.rfind(" ") + 1 or MAX_TOKENS
        yield written[:cut].strip()
        written = written[cut:].strip()
    if written:
        yield written


def _clauses(text: str, language: str) -> Iterator[str]:
    for match in _CLAUSE.finditer(_numbers_kept(text)):
        part = match.group().replace("\ue000", ".").replace("\ue001", ",").replace("\ue002", ":")
        if part in _PUNCTUATION:
            yield part
        elif part.strip():
            lead = " " if part[0].isspace() else ""
            trail = " " if part[-1].isspace() else ""
            yield lead + rewritten(espeak.phonemes(part.strip(), language), language) + trail
        else:
            yield " "


def _numbers_kept(text: str) -> str:
    """The text with the signs inside of numbers, times, addresses and abbreviations hidden: those are no pauses."""
    hidden = {".": "\ue000", ",": "\ue001", ":": "\ue002"}
    text = re.sub(r"(?<=\w)[.,:](?=\w)", lambda match: hidden[match.group()], text)
    return re.sub(r"\b(?:[A-Z]|[MDJS]rs?|Ms|Prof|St|vs|etc|No)\.(?=\s)", lambda m: m.group()[:-1] + "\ue000", text)


def rewritten(ipa: str, language: str) -> str:
    """espeak-ng's writing as the network's, for a language of espeak-ng's."""
    english = {**_ENGLISH, **(_AMERICAN if language == "en-us" else _BRITISH)}
    table = english if language.startswith("en") else _OTHER
    for said in sorted(table, key=len, reverse=True):
        ipa = ipa.replace(said, table[said])
    if language.startswith("en"):
        # A mark under a consonant says that it is a syllable: the network writes a short vowel before it.
        ipa = re.sub(r"(\S)\u0329", r"ᵊ\1", ipa)
    return ipa.replace("^", "").replace("-", "")


def read_voices(path: Path) -> Mapping[str, NDArray[np.float32]]:
    """The voices of one file (an npz of arrays) or of a folder (raw float32, one file a voice). Raises EngineError."""
    try:
        if path.is_dir():
            return {file.stem: np.fromfile(file, np.float32).reshape(-1, 1, 256) for file in sorted(path.glob("*.bin"))}
        with np.load(path, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name], np.float32) for name in archive.files}
    except (OSError, ValueError) as error:
        raise EngineError(f"The voices in {path.name} cannot be read ({error}).") from error


@cache
def _vocabulary() -> Mapping[str, int]:
    data: dict[str, int] = json.loads(_VOCABULARY.read_text(encoding="utf-8"))["vocab"]
    return data


def check_words(text: str) -> None:
    """Raises InvalidInput where there is nothing to be spoken."""
    if not any(char.isalnum() for char in text):
        raise InvalidInput("There is nothing in 'text' that can be spoken. Nothing was charged; send words.")
