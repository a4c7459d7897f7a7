"""Which music a prompt's words ask for: tempo, scale, harmony, instruments. Pure."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace

SCALES: dict[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
}

BRIGHT = frozenset({"major", "lydian", "mixolydian"})


@dataclass(frozen=True, kw_only=True)
class Style:
    """A kind of music. Progressions are scale degrees from 0, one chord a bar; ``swing`` is the share of a beat at
    which its second half falls; ``wet`` the share of reverb; ``density`` how busy the melody is, 0…1."""

    name: str
    bpm: tuple[int, int]
    scale: str
    progressions: tuple[tuple[int, ...], ...]
    beats: int = 4
    sevenths: bool = False
    chords: str = "piano"  # the instrument of the harmony
    pattern: str = "block"  # block, broken, arpeggio, strum, waltz, stabs, sustain, comp, ostinato
    bass: str = "bass"
    bass_pattern: str = "roots"  # roots, pulse, walking, offbeat, drone, waltz
    lead: str = "piano"
    drums: str = ""  # a key of music_score.DRUMS, or none
    pad: str = ""  # a second, sustained instrument under the harmony
    swing: float = 0.5
    wet: float = 0.2
    density: float = 0.5
    texture: str = ""  # crackle, rain, sea, wind


POP = ((0, 4, 5, 3), (5, 3, 0, 4), (0, 5, 3, 4), (0, 3, 5, 4))
SAD = ((0, 5, 2, 6), (0, 3, 5, 4), (0, 6, 5, 6), (0, 5, 3, 4))

STYLES: dict[str, Style] = {
    style.name: style
    for style in (
        Style(
            name="ambient",
            bpm=(56, 66),
            scale="lydian",
            progressions=((0, 4, 1, 3), (0, 2, 3, 5)),
            sevenths=True,
            chords="pad",
            pattern="sustain",
            bass="sub",
            bass_pattern="drone",
            lead="bell",
            wet=0.45,
            density=0.2,
        ),
        Style(
            name="piano",
            bpm=(66, 80),
            scale="major",
            progressions=(*POP, (0, 2, 3, 4)),
            pattern="broken",
            bass="piano",
            lead="piano",
            wet=0.26,
            density=0.45,
        ),
        Style(
            name="epic",
            bpm=(84, 100),
            scale="minor",
            progressions=((0, 5, 2, 6), (0, 6, 5, 4), (0, 2, 6, 3)),
            chords="strings",
            pattern="ostinato",
            pad="brass",
            bass="contrabass",
            bass_pattern="pulse",
            lead="brass",
            drums="taiko",
            wet=0.34,
            density=0.35,
        ),
        Style(
            name="dark",
            bpm=(58, 72),
            scale="phrygian",
            progressions=((0, 1, 0, 5), (0, 5, 1, 6)),
            chords="strings",
            pattern="sustain",
            bass="sub",
            bass_pattern="drone",
            lead="bell",
            drums="heart",
            wet=0.42,
            density=0.22,
            texture="wind",
        ),
        Style(
            name="happy",
            bpm=(112, 126),
            scale="major",
            progressions=POP,
            chords="guitar",
            pattern="strum",
            bass="bass",
            bass_pattern="roots",
            lead="marimba",
            drums="pop",
            wet=0.14,
            density=0.65,
        ),
        Style(
            name="techno",
            bpm=(124, 132),
            scale="minor",
            progressions=((0, 0, 5, 6), (0, 0, 3, 0), (0, 5, 0, 6)),
            chords="saw",
            pattern="stabs",
            bass="synth bass",
            bass_pattern="offbeat",
            lead="pluck",
            drums="techno",
            pad="pad",
            wet=0.2,
            density=0.7,
        ),
        Style(
            name="waltz",
            bpm=(138, 156),
            scale="major",
            progressions=((0, 0, 4, 4, 4, 4, 0, 0), (0, 3, 4, 0)),
            beats=3,
            pattern="waltz",
            chords="piano",
            bass="contrabass",
            bass_pattern="waltz",
            lead="violin",
            wet=0.24,
            density=0.55,
        ),
        Style(
            name="lofi",
            bpm=(72, 82),
            scale="dorian",
            progressions=((1, 4, 0, 5), (0, 3, 1, 4), (3, 2, 1, 0)),
            sevenths=True,
            chords="epiano",
            pattern="comp",
            bass="bass",
            bass_pattern="roots",
            lead="epiano",
            drums="lofi",
            swing=0.59,
            wet=0.18,
            density=0.35,
            texture="crackle",
        ),
        Style(
            name="jazz",
            bpm=(112, 132),
            scale="major",
            progressions=((1, 4, 0, 5), (0, 5, 1, 4), (2, 5, 1, 4)),
            sevenths=True,
            chords="piano",
            pattern="comp",
            bass="contrabass",
            bass_pattern="walking",
            lead="vibes",
            drums="swing",
            swing=0.64,
            wet=0.16,
            density=0.6,
        ),
        Style(
            name="synthwave",
            bpm=(96, 108),
            scale="minor",
            progressions=((0, 5, 2, 6), (0, 6, 5, 6)),
            chords="saw",
            pattern="arpeggio",
            pad="pad",
            bass="synth bass",
            bass_pattern="pulse",
            lead="lead",
            drums="synthwave",
            wet=0.26,
            density=0.45,
        ),
        Style(
            name="chiptune",
            bpm=(132, 150),
            scale="major",
            progressions=POP,
            chords="square",
            pattern="arpeggio",
            bass="triangle",
            bass_pattern="pulse",
            lead="square",
            drums="chip",
            wet=0.04,
            density=0.75,
        ),
        Style(
            name="folk",
            bpm=(92, 108),
            scale="mixolydian",
            progressions=((0, 6, 3, 0), (0, 3, 0, 4)),
            chords="guitar",
            pattern="broken",
            bass="contrabass",
            bass_pattern="roots",
            lead="flute",
            drums="shaker",
            wet=0.18,
            density=0.6,
        ),
        Style(
            name="rock",
            bpm=(116, 136),
            scale="minor",
            progressions=((0, 5, 6, 0), (0, 2, 6, 3)),
            chords="power",
            pattern="pulse",
            bass="bass",
            bass_pattern="pulse",
            lead="lead",
            drums="rock",
            wet=0.12,
            density=0.55,
        ),
        Style(
            name="classical",
            bpm=(96, 112),
            scale="major",
            progressions=((0, 3, 4, 0), (0, 5, 3, 4), (0, 4, 5, 2)),
            chords="strings",
            pattern="broken",
            bass="contrabass",
            bass_pattern="roots",
            lead="violin",
            wet=0.3,
            density=0.6,
        ),
        Style(
            name="lullaby",
            bpm=(66, 76),
            scale="major",
            progressions=((0, 3, 0, 4), (0, 5, 3, 4)),
            beats=3,
            chords="musicbox",
            pattern="broken",
            pad="pad",
            bass="sub",
            bass_pattern="drone",
            lead="musicbox",
            wet=0.32,
            density=0.45,
        ),
    )
}

_STYLE_WORDS: tuple[tuple[str, str], ...] = (
    ("waltz", r"waltz|walzer|3/4|ballroom"),
    ("lofi", r"lo-?fi|study|chill ?hop|chillout|chill|hip-?hop|trip-?hop"),
    ("jazz", r"jazz|swing|blues|bebop|bossa|smoky|noir"),
    ("techno", r"techno|edm|house|trance|dance|rave|club|drum and bass|dnb|electro"),
    ("synthwave", r"synth-?wave|retro-?wave|80s|eighties|cyberpunk|neon|outrun|vaporwave|synth"),
    ("chiptune", r"chip-?tune|8-?bit|video ?game|game|arcade|pixel"),
    ("epic", r"epic|cinematic|heroic|battle|trailer|orchestral|adventure|hero|war|dragon|triumph"),
    ("dark", r"dark|horror|scary|tense|sinister|haunted|ominous|fear|suspense"),
    ("lullaby", r"lullaby|music ?box|baby|sleepy|christmas|winter|snow"),
    ("rock", r"rock|metal|punk|grunge|electric guitar"),
    ("folk", r"folk|celtic|acoustic|guitar|campfire|country|medieval|tavern|irish"),
    ("classical", r"classical|baroque|orchestra|strings|string quartet|violin|symphony|mozart|bach"),
    ("happy", r"happy|upbeat|cheerful|joy|joyful|fun|ukulele|sunny|summer|party|birthday|bright"),
    ("ambient", r"ambient|calm|relax\w*|meditat\w*|sleep|peaceful|drone|space|yoga|dream\w*|soft|ocean|slow"),
    ("piano", r"piano|melanchol\w*|romantic|sad|love|nocturne|emotional"),
)
_LEADS = {
    "flute": "flute", "violin": "violin", "bell": "bell", "bells": "bell", "vibraphone": "vibes", "vibes": "vibes",
    "marimba": "marimba", "harp": "harp", "trumpet": "brass", "horn": "brass", "brass": "brass", "organ": "organ",
    "guitar": "guitar", "piano": "piano", "music box": "musicbox", "celesta": "musicbox", "cello": "violin",
    "saxophone": "brass", "sax": "brass", "rhodes": "epiano",
}  # fmt: skip
_TEXTURES = {"rain": "rain", "rainy": "rain", "storm": "rain", "sea": "sea", "ocean": "sea", "waves": "sea",
             "beach": "sea", "wind": "wind", "vinyl": "crackle"}  # fmt: skip
_KEYS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The music to make: its style with the prompt's wishes worked in, its exact tempo and key (0 is C)."""

    style: Style
    bpm: float
    key: int


def plan(prompt: str, rng: random.Random) -> Plan:
    """What the prompt asks for; what it leaves open is drawn from ``rng``."""
    text = prompt.lower()

    def says(pattern: str) -> bool:
        return re.search(rf"\b(?:{pattern})\b", text) is not None

    found = [name for name, pattern in _STYLE_WORDS if says(pattern)]
    name = found[0] if found else rng.choice(("piano", "lofi", "ambient", "synthwave", "folk"))
    style = STYLES[name]
    if "piano" in text and name == "ambient":
        style = replace(style, chords="piano", pattern="broken", lead="piano", pad="pad", wet=0.3)
    elif "piano" in text and name not in ("piano", "jazz"):
        style = replace(style, chords="piano" if style.chords != "epiano" else "epiano", lead="piano")
    for word, lead in _LEADS.items():
        if says(word) and word != "piano":
            style = replace(style, lead=lead)
    for word, texture in _TEXTURES.items():
        if says(word):
            style = replace(style, texture=texture)
    if says(r"sad|melanchol\w*|dark|gloomy|lonely|minor|tragic|haunt\w*") and style.scale in BRIGHT:
        style = replace(style, scale="minor", progressions=SAD)
    elif says(r"happy|bright|cheerful|joyful|major|triumph\w*|hopeful") and style.scale not in BRIGHT:
        style = replace(style, scale="major", progressions=POP)
    if says(r"no drums|without drums|drumless"):
        style = replace(style, drums="")
    elif says(r"drums?|beat|beats|percussion") and not style.drums:
        style = replace(style, drums="pop" if style.beats == 4 else "shaker")
    bpm = float(rng.randint(*style.bpm))
    if says(r"fast|energetic|quick|presto|driving|rapid"):
        bpm *= 1.18
    elif says(r"slow|slowly|adagio|gentle|calm|sleepy|sad"):
        bpm *= 0.88
    if match := re.search(r"\b(\d{2,3})\s*bpm\b", text):
        bpm = float(min(220, max(40, int(match[1]))))
    key = rng.choice((0, 2, 3, 5, 7, 9, 10))
    if match := re.search(r"\b(?:in )?([a-g])([#♯b♭]|[ -](?:sharp|flat))? (major|minor)\b", text):
        shift = 0 if not match[2] else 1 if match[2] in "#♯" or "sharp" in match[2] else -1
        key = (_KEYS[match[1]] + shift) % 12
        style = replace(style, scale=match[3], progressions=POP if match[3] == "major" else SAD)
    return Plan(style=style, bpm=bpm, key=key)
