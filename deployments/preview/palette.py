"""Colours: the light of a time of day as one palette, and what colour words do to it. Pure.

A colour is an (r, g, b) of floats 0…1 as they are shown (not linear light).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

Colour = tuple[float, float, float]


def colour(code: str) -> Colour:
    """The colour of '#rrggbb'."""
    return (int(code[1:3], 16) / 255, int(code[3:5], 16) / 255, int(code[5:7], 16) / 255)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """From ``a`` (share 0) to ``b`` (share 1)."""
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


def scale(a: Colour, factor: float) -> Colour:
    return (min(1.0, a[0] * factor), min(1.0, a[1] * factor), min(1.0, a[2] * factor))


def luminance(a: Colour) -> float:
    return 0.299 * a[0] + 0.587 * a[1] + 0.114 * a[2]


@dataclass(frozen=True, kw_only=True)
class Palette:
    """The light of a scene. ``sky``: zenith, upper, lower, horizon. ``sun``: the light itself. ``lit`` and ``dark``:
    clouds in light and in shade. ``haze``: what distance turns into. ``ground``, ``grass``, ``rock``: near, in light.
    ``deep`` and ``crest``: water in shade and shone through. ``light``: multiplies the colours of things.
    ``dusk``: 0 in full day … 1 at night: how much windows and lamps glow."""

    sky: tuple[Colour, Colour, Colour, Colour]
    sun: Colour
    lit: Colour
    dark: Colour
    haze: Colour
    ground: Colour
    grass: Colour
    rock: Colour
    deep: Colour
    crest: Colour
    light: Colour
    dusk: float

    def mixed(self, other: Palette, share: float) -> Palette:
        """The light between this palette and another."""
        changes: dict[str, object] = {}
        for spec in fields(self):
            mine, theirs = getattr(self, spec.name), getattr(other, spec.name)
            if spec.name == "sky":
                changes["sky"] = tuple(mix(a, b, share) for a, b in zip(mine, theirs, strict=True))
            elif spec.name == "dusk":
                changes["dusk"] = mine + (theirs - mine) * share
            else:
                changes[spec.name] = mix(mine, theirs, share)
        return replace(self, **changes)  # type: ignore[arg-type]

    def tinted(self, tints: Sequence[Colour], share: float = 0.42) -> Palette:
        """The palette steered towards colours; each keeps its brightness, so the light stays readable."""
        if not tints:
            return self

        def tint(own: Colour, towards: Colour, amount: float) -> Colour:
            level = luminance(own) / max(0.08, luminance(towards))
            same = (min(1.0, towards[0] * level), min(1.0, towards[1] * level), min(1.0, towards[2] * level))
            return mix(own, same, amount)

        first, last = tints[0], tints[-1]
        sky = self.sky
        return replace(
            self,
            sky=(
                tint(sky[0], first, share),
                tint(sky[1], first, share * 1.1),
                tint(sky[2], mix(first, last, 0.6), share),
                tint(sky[3], last, share * 0.8),
            ),
            sun=tint(self.sun, last, share * 0.6),
            lit=tint(self.lit, last, share * 0.6),
            dark=tint(self.dark, first, share),
            haze=tint(self.haze, last, share * 0.8),
            ground=tint(self.ground, first, share * 0.7),
            grass=tint(self.grass, first, share * 0.5),
            rock=tint(self.rock, first, share * 0.6),
            deep=tint(self.deep, first, share),
            crest=tint(self.crest, first, share),
        )


def _palette(sky: str, sun: str, clouds: str, haze: str, land: str, water: str, light: str, dusk: float) -> Palette:
    stops = [colour(code) for code in sky.split()]
    lit, dark = (colour(code) for code in clouds.split())
    ground, grass, rock = (colour(code) for code in land.split())
    deep, crest = (colour(code) for code in water.split())
    return Palette(
        sky=(stops[0], stops[1], stops[2], stops[3]),
        sun=colour(sun),
        lit=lit,
        dark=dark,
        haze=colour(haze),
        ground=ground,
        grass=grass,
        rock=rock,
        deep=deep,
        crest=crest,
        light=colour(light),
        dusk=dusk,
    )


PALETTES: dict[str, Palette] = {
    "noon": _palette("#2a6ab0 #5f9fd6 #a4cdea #e2f0f4", "#fff4d2", "#ffffff #8fa9c2", "#b3cfe0",
                     "#8a7a58 #6f9a48 #8d8579", "#0d4a70 #3fa0a8", "#ffffff", 0.0),
    "golden": _palette("#4277ab #86b2cb #edd9a8 #ffd58c", "#ffe9a8", "#fff3d6 #b08f83", "#e8cda0",
                       "#8d6d42 #8f9440 #8f775c", "#1c4f66 #6fa591", "#fff0d4", 0.1),
    "sunset": _palette("#262a5e #79477f #e0696a #ffbd66", "#ffdf8c", "#ffb98a #5c3e6c", "#dc8a78",
                       "#4a3040 #54493a #553f4c", "#1d2450 #b06070", "#f0c0a8", 0.45),
    "dawn": _palette("#4a6299 #8f92c0 #f0bdb4 #ffe6bd", "#fff0c8", "#ffe3d4 #8f86b0", "#dcc3c8",
                     "#6d5f60 #7d8a62 #77707c", "#35567f #a3b6c8", "#fbe4d8", 0.2),
    "dusk": _palette("#10183c #2f3b74 #8d5f8f #f2a274", "#ffc890", "#d98a8a #2c2f58", "#8d6f90",
                     "#2a2636 #303a3a #34303f", "#111c3f #5f6a96", "#a99ab8", 0.8),
    "night": _palette("#040a1c #0a1b3e #173565 #3a6290", "#eaf2ff", "#7f9cc4 #101c38", "#2f4f7d",
                      "#141d2b #16283a #1e2a3a", "#050f24 #2f5a80", "#6f86ac", 1.0),
    "storm": _palette("#111b29 #23364a #51636c #d8c69a", "#ffe9b4", "#b3b6ac #1b2735", "#76868a",
                      "#3a3a36 #46523e #3c4044", "#0a1d2a #58a096", "#c2c6c2", 0.6),
    "overcast": _palette("#7f8d99 #9ba8b1 #bcc5ca #dfe1dc", "#fbf8ea", "#eef0ee #8b98a3", "#c3cbcf",
                         "#77705f #77855f #7f7f7c", "#3a5560 #86a3a3", "#dfe3e4", 0.15),
    "neon": _palette("#080420 #231052 #6c1a86 #ff4f9e", "#ff9fe0", "#c04fc8 #170a3c", "#7a2a90",
                     "#140a2a #1a1440 #1c1238", "#070626 #2fb4d8", "#9a86d8", 1.0),
    "vaporwave": _palette("#1d1150 #5b2f9c #d655b4 #ffb68c", "#ffe08a", "#ffa0d0 #4a2a8c", "#c766b8",
                          "#2a1552 #3a2a7a #3c2468", "#1a1458 #4fd0e0", "#e0b0e8", 0.7),
    "space": _palette("#02030c #070a22 #140f38 #241a4c", "#fff2d8", "#7a5fb0 #0a0a24", "#3a2f6a",
                      "#1a1828 #201f34 #2a2638", "#04061a #3a4a90", "#a0a0c8", 1.0),
    "autumn": _palette("#5b83a8 #a3b9be #ecd3a4 #f7c988", "#ffe6a6", "#fff0d8 #a88d86", "#dfc5a0",
                       "#80592f #a8792f #86705c", "#2a4a58 #8a9a80", "#fdeacb", 0.12),
}  # fmt: skip

COLOURS: dict[str, Colour] = {
    name: colour(code)
    for name, code in {
        "red": "#d0382f", "crimson": "#b0202f", "scarlet": "#e0301e", "orange": "#f0862a", "amber": "#f5a623",
        "golden": "#f0b83c", "gold": "#f0b83c", "yellow": "#f6d743", "green": "#3f9a4a", "emerald": "#1f9d6b",
        "teal": "#138d90", "turquoise": "#2cc1bd", "cyan": "#32c5e0", "blue": "#2f6fd0", "azure": "#3f9ae8",
        "indigo": "#3f3fa8", "navy": "#1c2f6a", "violet": "#7f4fd0", "purple": "#7a3fa8", "magenta": "#cf3fa8",
        "pink": "#f08ab0", "rose": "#e86a8a", "brown": "#8a5f3c", "black": "#26262c", "white": "#f4f4f2",
        "grey": "#8f9499", "gray": "#8f9499", "silver": "#b8c0c8", "lavender": "#b49fe0", "coral": "#f27a66",
        "peach": "#f8b88f", "mint": "#8fdcb8", "copper": "#b8703f", "bronze": "#a5753a", "rust": "#b0522a",
        "pastel": "#f0c8d0", "monochrome": "#8a8a8a", "sepia": "#a88a62",
    }.items()
}  # fmt: skip
