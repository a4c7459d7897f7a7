"""The composition of a scene: what is in it, in which light, where horizon and sun stand. Decided, not painted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deployments.preview.canvas import Canvas
from deployments.preview.noise import Field
from deployments.preview.palette import PALETTES, Colour, Palette
from deployments.preview.wish import Wish

_TERRAIN = ("sea", "lake", "river", "beach", "mountains", "hills", "fields", "forest", "desert", "city")

# What stands around a subject when the prompt does not say.
_SURROUNDINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("planet", ("desert", "stars")),
    ("castle", ("mountains", "hills")),
    ("campfire", ("mountains", "forest", "lake")),
    ("balloon", ("mountains", "hills")),
    ("mushrooms", ("forest",)),
    ("windmill", ("fields",)),
    ("flowers", ("fields",)),
    ("house", ("mountains", "hills", "forest")),
    ("tree", ("hills",)),
    ("dog", ("forest", "hills")),
    ("cat", ("hills",)),
    ("person", ("mountains", "hills")),
    ("road", ("hills",)),
    ("aurora", ("mountains", "lake", "forest")),
    ("birds", ("sea",)),
    ("moon", ("mountains", "lake")),
    ("stars", ("mountains", "forest")),
    ("rainbow", ("hills", "fields")),
    ("lightning", ("sea",)),
    ("snow", ("mountains", "forest")),
    ("rain", ("city",)),
    ("fog", ("forest", "mountains")),
    ("clouds", ("hills",)),
    ("sun", ("sea",)),
)


class Composition:
    """One picture to be: what was wished, completed with what a picture needs; the seed decides what is left open."""

    def __init__(self, wish: Wish, canvas: Canvas, rng: np.random.Generator) -> None:
        self.wish, self.canvas, self.rng = wish, canvas, rng
        self.elements = set(wish.elements)
        self._complete()
        self.time = wish.time or self._own_time()
        self.palette = self._light()
        self.side = float(rng.choice((-1.0, 1.0)))  # where the light comes from; the subject stands on the other side
        self.horizon = canvas.height * self._horizon_share()
        self.sun = self._sun_place()
        self.lamp: tuple[float, float] | None = None
        self.crests: list[Field] = []

    def has(self, *names: str) -> bool:
        return any(name in self.elements for name in names)

    @property
    def night(self) -> bool:
        return self.palette.dusk > 0.72

    @property
    def heavy(self) -> bool:
        return self.wish.storm and self.has("sea")

    def _complete(self) -> None:
        """Add the surroundings that a subject needs when no terrain was asked for."""
        if self.has("space"):
            return
        if not self.has(*_TERRAIN):
            for subject, around in _SURROUNDINGS:
                if subject in self.elements:
                    self.elements.update(around)
                    break
            else:
                self.elements.update(
                    ("sea",) if self.wish.storm else ("mountains", "lake") if self.rng.random() < 0.5 else ("hills",)
                )
        if self.has("mountains", "city") and not self.has(
            "sea", "lake", "river", "beach", "hills", "fields", "forest", "desert"
        ):
            if self.has("city") and not self.has("snow", "mountains"):
                pass  # a city stands at the water: see _watery
            elif self.has("snow", "city", "fog", "person", "castle", "house"):
                self.elements.add("hills")
            else:
                self.elements.update(("lake", "forest") if self.rng.random() < 0.6 else ("hills", "forest"))
        if self.wish.storm and not self.has("snow"):
            self.elements.add("rain")

    def _own_time(self) -> str:
        if self.wish.style == "neon" or self.wish.says("cyberpunk"):
            return "night"
        if self.has("stars", "moon", "aurora", "planet", "campfire"):
            return "night" if not self.has("campfire") else "dusk"
        if self.wish.storm:
            return "storm"
        if self.has("rain", "fog"):
            return "dusk" if self.has("city") else "overcast"
        if self.has("snow"):
            return str(self.rng.choice(("dawn", "noon", "dusk")))
        if self.has("cat", "dog"):
            return str(self.rng.choice(("sunset", "dusk", "night")))
        if self.has("city"):
            return str(self.rng.choice(("dusk", "sunset", "night", "golden")))
        return str(self.rng.choice(("golden", "sunset", "dawn", "noon", "golden")))

    def _light(self) -> Palette:
        palette = PALETTES[self.time]
        if self.wish.style == "neon" or self.wish.says("cyberpunk", "neon"):
            palette = PALETTES["neon"]
        elif self.wish.style == "vaporwave":
            palette = PALETTES["vaporwave"]
        elif self.wish.storm and self.time != "storm":
            palette = palette.mixed(PALETTES["storm"], 0.55)
        elif self.has("rain", "fog") and self.time in ("noon", "golden", "sunset", "dawn"):
            palette = palette.mixed(PALETTES["overcast"], 0.4)
        if self.wish.says("autumn", "october", "maple") and self.time != "autumn":
            palette = palette.mixed(PALETTES["autumn"], 0.3)
        palette = palette.tinted(self.wish.tints)
        return palette if self.wish.sun is None else replace(palette, sun=self.wish.sun)

    def _horizon_share(self) -> float:
        if self.has("space"):
            return 1.0
        jitter = float(self.rng.uniform(-0.025, 0.025))
        if self.heavy:
            return 0.54 + jitter
        if self.has("city"):
            return 0.7 + jitter
        if self.has("aurora", "stars", "planet", "rainbow", "balloon", "birds", "moon") and not self.has(
            "fields", "flowers"
        ):
            return 0.68 + jitter
        if self.has("mountains"):
            return 0.6 + jitter
        if self.has("fields", "flowers", "road", "river", "beach", "lake"):
            return 0.48 + jitter
        return 0.58 + jitter

    def _sun_place(self) -> tuple[float, float]:
        width, rng = self.canvas.width, self.rng
        x = width * (0.5 + self.side * float(rng.uniform(0.1, 0.26)))
        if self.heavy or self.has("cat"):
            x = width * (0.5 + self.side * float(rng.uniform(0.06, 0.18)))
        heights = {
            "noon": 0.2,
            "golden": 0.5,
            "autumn": 0.45,
            "sunset": 0.84,
            "dawn": 0.78,
            "dusk": 0.93,
            "storm": 0.88,
            "night": 0.3,
            "overcast": 0.4,
            "space": 0.3,
        }
        share = heights.get(self.time, 0.5) + float(rng.uniform(-0.05, 0.05))
        if self.palette is PALETTES["vaporwave"] or self.wish.style in ("vaporwave",):
            share = 0.66
        if self.wish.style == "minimal":
            share = 0.34
        elif self.has("mountains", "city") and share > 0.6:
            share -= 0.16
        return x, self.horizon * share

    def _watery(self) -> bool:
        return self.has("sea", "lake", "river", "beach") or (
            self.has("city") and not self.has("hills", "fields", "desert", "forest", "snow")
        )

    def _band(self) -> Colour:
        return self.wish.colours[0] if self.wish.colours else (0.72, 0.16, 0.13)

    def _own_colour(self, fallback: Colour | None) -> Colour | None:
        return self.wish.colours[0] if self.wish.colours else fallback
