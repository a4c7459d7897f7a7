"""Whose voice a name means: Kokoro's own names, languages, and the names of OpenAI's catalogue. Pure.

The first letter of Kokoro's names is the language, the second f or m. Those of Japanese and Mandarin are left out:
their words need another reading than espeak-ng's. https://huggingface.co/hexgrad/Kokoro-82M/blob/main/VOICES.md
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

# The first letter of a voice → espeak-ng's language.
LANGUAGES = {"a": "en-us", "b": "en", "e": "es", "f": "fr-fr", "h": "hi", "i": "it", "p": "pt-br"}

# A language → its best voice, by the grades of the model's own list.
BEST = {
    "en": "af_heart",
    "en-us": "af_heart",
    "en-gb": "bf_emma",
    "es": "ef_dora",
    "fr": "ff_siwis",
    "hi": "hf_alpha",
    "it": "if_sara",
    "pt": "pf_dora",
    "pt-br": "pf_dora",
}

OPENAI = {
    "alloy": "af_alloy",
    "ash": "am_adam",
    "ballad": "bm_george",
    "coral": "af_bella",
    "echo": "am_echo",
    "fable": "bm_fable",
    "nova": "af_nova",
    "onyx": "am_onyx",
    "sage": "af_sarah",
    "shimmer": "af_sky",
    "verse": "am_puck",
    "cedar": "am_michael",
    "marin": "af_nicole",
}


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A voice of Kokoro's, and the espeak-ng language that its words are read in."""

    name: str
    language: str


def resolve(name: str, there: Collection[str]) -> Voice | None:
    """The voice of this name among those that are there; None where Kokoro has none.

    A name that means a voice which is not there means another one of its language.
    """
    lowered = name.strip().lower().replace("_", "-")
    wanted = OPENAI.get(lowered) or BEST.get(lowered) or BEST.get(lowered.split("-")[0])
    own = name.strip().lower().replace("-", "_")
    if own in there and own[:1] in LANGUAGES:
        return Voice(name=own, language=LANGUAGES[own[0]])
    if wanted is None:
        return None
    if wanted not in there:
        alike = sorted(voice for voice in there if voice[:1] == wanted[0])
        if not alike:
            return None
        wanted = next((voice for voice in alike if voice[1:2] == wanted[1]), alike[0])
    return Voice(name=wanted, language=LANGUAGES[wanted[0]])


def offered(there: Iterable[str]) -> list[str]:
    """Those of a model's voices that can be asked for."""
    return sorted(voice for voice in there if voice[:1] in LANGUAGES and voice[1:3] in ("f_", "m_"))
