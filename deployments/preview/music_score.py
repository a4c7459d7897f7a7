"""A piece of music as notes: harmony, bass, melody and drums, bar by bar. Pure, given a random source."""

from __future__ import annotations

import random
from dataclasses import dataclass

from deployments.preview.music_styles import SCALES, Plan


@dataclass(frozen=True, kw_only=True)
class Note:
    """One sound. ``beat`` counts from the start of its bar, ``beats`` is its length; ``pitch`` a MIDI number (for a
    drum, 0); ``velocity`` 0…1; ``pan`` -1 (left) … 1 (right)."""

    beat: float
    beats: float
    pitch: int
    velocity: float
    sound: str
    pan: float = 0.0


# Patterns on a grid of sixteenths: (sound, steps with velocities 0…9).
DRUMS: dict[str, tuple[tuple[str, str], ...]] = {
    "pop": (("kick", "9000000090900000"), ("snare", "0000800000008000"), ("hat", "6040604060406040")),
    "rock": (("kick", "9000000090900000"), ("snare", "0000900000009000"), ("hat", "7050705070507050")),
    "techno": (("kick", "9000900090009000"), ("clap", "0000700000007000"), ("hat", "0060006000600062"),
               ("shaker", "3232323232323232")),
    "synthwave": (("kick", "9000000090000000"), ("gated", "0000900000009000"), ("hat", "5050505050505053")),
    "lofi": (("kick", "8000000300800000"), ("rim", "0000700000007001"), ("hat", "4030403240304030")),
    "swing": (("ride", "6000603060006030"), ("brush", "0000500000005000"), ("kick", "3000000020000000"),
              ("pedal", "0000500000005000")),
    "taiko": (("taiko", "9000005090006060"), ("lowtaiko", "9000000070000000"), ("shaker", "3030303030303030")),
    "heart": (("lowtaiko", "6040000000000000"),),
    "chip": (("kick", "9000000090000000"), ("chipsnare", "0000800000008000"), ("chiphat", "5050505050505050")),
    "shaker": (("shaker", "6030503060305030"), ("kick", "5000000040000000")),
}  # fmt: skip
_PAN = {"hat": 0.25, "shaker": -0.3, "ride": 0.3, "pedal": 0.25, "rim": -0.1, "taiko": 0.15, "lowtaiko": -0.1}

_RHYTHMS_4 = ((1, 1, 1, 1), (1.5, 0.5, 1, 1), (0.5, 0.5, 1, 2), (2, 1, 1), (1, 0.5, 0.5, 2), (1.5, 1.5, 1), (3, 1),
              (0.5, 0.5, 0.5, 0.5, 1, 1), (2, 2), (0.5, 1, 0.5, 1, 1), (1, 1, 0.5, 0.5, 0.5, 0.5))  # fmt: skip
_RHYTHMS_3 = ((1, 1, 1), (2, 1), (1.5, 0.5, 1), (3,), (1, 0.5, 0.5, 1), (0.5, 0.5, 1, 1))


class Score:
    """A whole piece of ``bars`` bars: ``bar(n)`` gives the notes that begin in bar n, the same at every call."""

    def __init__(self, plan: Plan, bars: int, seed: str) -> None:
        self.plan = plan
        self.bars = bars
        self._seed = seed
        self._scale = SCALES[plan.style.scale]
        rng = random.Random(seed)  # noqa: S311 music is no secret
        progressions = list(plan.style.progressions)
        rng.shuffle(progressions)
        self._verse, self._bridge = progressions[0], progressions[-1]
        self._rhythms = self._make_rhythms(rng)
        self._contours = [[rng.choice((-2, -1, -1, 1, 1, 2, 0)) for _ in range(8)] for _ in range(3)]
        self._voicings = self._lead_voices()

    def bar(self, number: int) -> list[Note]:
        style, last = self.plan.style, number == self.bars - 1
        rng = random.Random(f"{self._seed}:{number}")  # noqa: S311
        energy = self._energy(number)
        notes = self._harmony(number, rng, energy)
        if style.pad:
            notes += self._sustained(number, style.pad, 0.5)
        if energy >= 0.3 or last:
            notes += self._bass(number, rng)
        if energy >= 0.45 or last:
            notes += self._melody(number, rng)
        if style.drums and energy >= 0.55 and not last:
            notes += self._drums(number, rng, energy)
        elif style.drums and last:
            notes.append(Note(beat=0, beats=4, pitch=0, velocity=0.5, sound="cymbal"))
        return notes

    def _energy(self, number: int) -> float:
        """How full bar ``number`` is: intro, verse, bridge with a break, and an outro, whatever the length."""
        if self.bars <= 6:
            return (0.5, 0.7, 1.0, 1.0, 1.0, 0.5)[number]
        intro = 2 if self.bars < 20 else 4
        if number < intro:
            return 0.2 if number < intro // 2 else 0.35
        if number >= self.bars - 2:
            return 0.5
        if self.bars >= 20 and self._section(number) == 1 and (number // 4) % 2 == 0:
            return 0.5
        return 0.7 if number < intro + 4 else 1.0

    def _section(self, number: int) -> int:
        """0 verse, 1 bridge: eight bars each, verse twice as often."""
        return 1 if (number // 8) % 3 == 2 else 0

    def _degree(self, number: int) -> int:
        if number == self.bars - 1:
            return 0
        progression = self._bridge if self._section(number) else self._verse
        return progression[number % len(progression)]

    def _pitch(self, degree: int, base: int) -> int:
        """The MIDI number of a scale degree counted from the key's tonic at or above ``base``."""
        octave, step = divmod(degree, len(self._scale))
        return base + self.plan.key + 12 * octave + self._scale[step]

    def _chord(self, number: int) -> list[int]:
        """Pitch classes of the bar's chord, root first."""
        root = self._degree(number)
        thirds = (0, 2, 4, 6) if self.plan.style.sevenths else (0, 2, 4)
        if self.plan.style.chords == "power":
            thirds = (0, 4, 7)
        return [self._pitch(root + third, 0) % 12 for third in thirds]

    def _lead_voices(self) -> list[list[int]]:
        """Voicings around middle C in which each voice moves as little as it can."""
        voicings: list[list[int]] = []
        centre = 60.0
        for number in range(self.bars):
            best: list[int] = []
            for lowest in range(52, 64):
                voicing: list[int] = []
                pitch = lowest
                classes = set(self._chord(number))
                while len(voicing) < len(classes):
                    if pitch % 12 in classes - {p % 12 for p in voicing}:
                        voicing.append(pitch)
                    pitch += 1
                if not best or abs(sum(voicing) / len(voicing) - centre) < abs(sum(best) / len(best) - centre):
                    best = voicing
            voicings.append(best)
            centre = 0.7 * sum(best) / len(best) + 0.3 * 61.0
        return voicings

    def _make_rhythms(self, rng: random.Random) -> list[tuple[float, ...]]:
        pool = _RHYTHMS_3 if self.plan.style.beats == 3 else _RHYTHMS_4
        wanted = 1.5 + 4.0 * self.plan.style.density
        ranked = sorted(pool, key=lambda rhythm: abs(len(rhythm) - wanted) + rng.random())
        return [tuple(map(float, rhythm)) for rhythm in ranked[:3]]

    def _swung(self, beat: float) -> float:
        whole, part = divmod(beat, 1.0)
        swing = self.plan.style.swing
        return whole + (part * 2 * swing if part <= 0.5 else swing + (part - 0.5) * 2 * (1 - swing))

    def _sustained(self, number: int, sound: str, velocity: float) -> list[Note]:
        beats = float(self.plan.style.beats)
        return [Note(beat=0, beats=beats, pitch=p, velocity=velocity, sound=sound) for p in self._voicings[number]]

    def _harmony(self, number: int, rng: random.Random, energy: float) -> list[Note]:
        style, chord = self.plan.style, self._voicings[number]
        beats, sound = style.beats, style.chords
        level = 0.45 + 0.2 * energy
        if number == self.bars - 1 and style.pattern != "sustain":
            spread = 0.06 if sound in ("piano", "guitar", "harp", "epiano") else 0.0
            return [Note(beat=i * spread, beats=beats, pitch=p, velocity=0.6, sound=sound) for i, p in enumerate(chord)]
        match style.pattern:
            case "sustain" | "block":
                return self._sustained(number, sound, level)
            case "broken":
                order = [*chord, chord[-1] + 12 if len(chord) < 4 else chord[2], *reversed(chord[1:])]
                step = 0.5
                return [
                    Note(
                        beat=i * step,
                        beats=1.6,
                        pitch=order[i % len(order)],
                        velocity=level * (0.95 if i % 2 else 1.1) * rng.uniform(0.9, 1.0),
                        sound=sound,
                        pan=-0.15 + 0.3 * (i % 3) / 2,
                    )
                    for i in range(int(beats / step))
                ]
            case "arpeggio" | "ostinato":
                step = 0.25 if style.pattern == "arpeggio" else 0.5
                order = (
                    [*chord, *(p + 12 for p in chord)]
                    if style.pattern == "arpeggio"
                    else [chord[0], chord[-1], chord[1], chord[-1]]
                )
                return [
                    Note(
                        beat=i * step,
                        beats=step * 0.9,
                        pitch=order[i % len(order)],
                        velocity=level * (1.0 if i % 4 == 0 else 0.72),
                        sound=sound,
                        pan=0.4 * (-1) ** i,
                    )
                    for i in range(int(beats / step))
                ]
            case "strum":
                hits = ((0.0, 1.0), (1.0, 0.7), (1.5, 0.6), (2.5, 0.7), (3.0, 0.85), (3.5, 0.55))
                return [
                    Note(
                        beat=beat + 0.02 * (i if k % 2 == 0 else len(chord) - i),
                        beats=0.9,
                        pitch=p,
                        velocity=level * loud,
                        sound=sound,
                        pan=-0.2,
                    )
                    for k, (beat, loud) in enumerate(hits)
                    if beat < beats
                    for i, p in enumerate(chord)
                ]
            case "waltz":
                return [
                    Note(beat=b, beats=0.8, pitch=p, velocity=level * 0.75, sound=sound, pan=0.1)
                    for b in (1.0, 2.0)
                    for p in chord
                ]
            case "stabs":
                return [
                    Note(beat=b, beats=0.35, pitch=p, velocity=level, sound=sound)
                    for b in (0.5, 1.5, 2.25, 3.5)
                    for p in chord
                ]
            case "pulse":
                return [
                    Note(
                        beat=i / 2,
                        beats=0.48,
                        pitch=p - 12,
                        velocity=level * (1.0 if i % 4 == 0 else 0.8),
                        sound=sound,
                        pan=0.5 * (-1) ** k,
                    )
                    for i in range(beats * 2)
                    for k, p in enumerate(chord)
                ]
            case _:  # comp: short chords at places that vary from bar to bar
                places = rng.choice(((0.0, 2.5), (0.0, 1.5, 3.0), (0.5, 2.0), (0.0, 3.5), (1.0, 2.5)))
                held = 1.7 if sound == "epiano" else 0.9
                return [
                    Note(
                        beat=self._swung(b) + 0.012 * i,
                        beats=held,
                        pitch=p,
                        velocity=level * rng.uniform(0.85, 1.0),
                        sound=sound,
                        pan=-0.1,
                    )
                    for b in places
                    for i, p in enumerate(chord)
                ]

    def _bass(self, number: int, rng: random.Random) -> list[Note]:
        style = self.plan.style
        root = self._pitch(self._degree(number) % 7, 24)
        root = root - 12 if root > 45 else root + 12 if root < 31 else root
        fifth, sound, beats = root + 7, style.bass, style.beats

        def note(beat: float, length: float, pitch: int, velocity: float = 0.8) -> Note:
            return Note(beat=self._swung(beat), beats=length, pitch=pitch, velocity=velocity, sound=sound)

        if number == self.bars - 1:
            return [note(0, beats, root)]
        match style.bass_pattern:
            case "drone":
                return [note(0, beats * 1.02, root, 0.6)]
            case "pulse":
                return [
                    note(i / 2, 0.45, root + (12 if i % 8 == 7 else 0), 0.85 if i % 2 == 0 else 0.65)
                    for i in range(beats * 2)
                ]
            case "offbeat":
                return [note(b + 0.5, 0.4, root) for b in range(beats)] + [
                    note(b + 0.75, 0.22, root, 0.5) for b in range(beats)
                ]
            case "walking":
                following = self._pitch(self._degree((number + 1) % self.bars) % 7, 24)
                following = following - 12 if following > 45 else following + 12 if following < 31 else following
                third = self._pitch(self._degree(number) % 7 + 2, 24)
                third = third - 12 if third > 48 else third
                approach = following + rng.choice((-1, 1, 2))
                return [note(b, 0.9, p, 0.75) for b, p in enumerate((root, third, fifth, approach))]
            case "waltz":
                return [note(0, 1.2, root if number % 2 == 0 else fifth - 12, 0.8)]
            case _:
                if beats == 3:
                    return [note(0, 2.8, root)]
                return [note(0, 1.8, root), note(2, 1.4, rng.choice((root, fifth)), 0.65), note(3.5, 0.45, root, 0.55)]

    def _melody(self, number: int, rng: random.Random) -> list[Note]:
        """A motif, its answer, the motif again and an ending (a b a c), on chord tones where the bar is strong."""
        style = self.plan.style
        if number == self.bars - 1:
            return [
                Note(
                    beat=0,
                    beats=style.beats,
                    pitch=self._pitch(0, 72 if self.plan.key < 7 else 60),
                    velocity=0.6,
                    sound=style.lead,
                )
            ]
        place = (0, 1, 0, 2)[number % 4]
        rhythm = self._rhythms[place]
        if style.density < 0.3 and number % 2:
            return []
        chord = set(self._chord(number))
        degree = (
            self._degree(number) % 7 + (7 if self._degree(number) % 7 < 4 else 0) + (2 if self._section(number) else 0)
        )
        notes, beat = [], 0.0
        for index, length in enumerate(rhythm):
            degree += self._contours[place][index % 8] if index else 0
            degree = min(13, max(2, degree))
            pitch = self._pitch(degree, 60)
            if beat % 2 == 0 or length >= 2:
                pitch = min((p for p in range(pitch - 4, pitch + 5) if p % 12 in chord), key=lambda p: abs(p - pitch))
            pitch = pitch - 12 if pitch > 86 else pitch
            silent = index and rng.random() < 0.12
            if not silent:
                loud = (0.72 if beat % 2 == 0 else 0.6) * rng.uniform(0.92, 1.05)
                notes.append(
                    Note(
                        beat=self._swung(beat),
                        beats=length * 0.96,
                        pitch=pitch,
                        velocity=loud,
                        sound=style.lead,
                        pan=0.12,
                    )
                )
            beat += length
        return notes

    def _drums(self, number: int, rng: random.Random, energy: float) -> list[Note]:
        style, notes = self.plan.style, []
        for sound, steps in DRUMS[style.drums]:
            for step in range(style.beats * 4):
                value = int(steps[step % 16])
                if number % 8 == 7 and step >= 12 and sound in ("snare", "gated", "taiko", "clap", "rim", "chipsnare"):
                    value = 5 + step - 12  # a fill leads into the next section
                if not value:
                    continue
                beat = self._swung(step / 4)
                velocity = value / 9 * energy**0.5 * rng.uniform(0.9, 1.0)
                notes.append(
                    Note(beat=beat, beats=0.5, pitch=0, velocity=velocity, sound=sound, pan=_PAN.get(sound, 0.0))
                )
        if number % 8 == 0 and number:
            notes.append(Note(beat=0, beats=4, pitch=0, velocity=0.45, sound="cymbal", pan=-0.2))
        return notes
