"""The scene grammar: from what was understood of a prompt to layers painted in the order of their distance."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from deployments.preview import creatures, land, sky, terrain, things, water
from deployments.preview.canvas import Layer, Sprite, flat
from deployments.preview.composition import Composition
from deployments.preview.noise import line, smooth
from deployments.preview.palette import COLOURS, Colour, mix, scale

Step = tuple[str, Callable[[], None]]


def generator(prompt: str, seed: int, salt: str = "") -> np.random.Generator:
    """The random source of a picture: prompt and seed alone decide it, on any machine."""
    digest = hashlib.sha256(f"{salt}{seed}\n{prompt}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


class Scene(Composition):
    """A composition and the steps that paint it onto the canvas."""

    def steps(self) -> list[Step]:
        """What to paint, far things first."""
        steps: list[Step] = [("sky", self._sky), ("light", self._lights)]
        if not self.has("space"):
            steps.append(("clouds", self._clouds))
        if self.has("mountains"):
            steps.append(("mountains", self._mountains))
        if self.has("city"):
            steps.append(("city", self._city))
        if self._watery():
            steps.append(("water", self._water))
        if self.has("lighthouse"):
            steps.append(("lighthouse", self._lighthouse))
        if self.has("beach"):
            steps.append(("beach", self._beach))
        if self.has("desert"):
            steps.append(("dunes", self._desert))
        if self.has("hills", "fields") or (self.has("forest") and not self._watery()):
            steps.append(("land", self._hills))
        if self.has("forest"):
            steps.append(("forest", self._forest))
        steps.append(("details", self._details))
        steps.append(("air", self._air))
        if self.has("cat", "dog", "person"):
            steps.append(("figure", lambda: self._creatures(-self.side)))
        return steps

    def _sky(self) -> None:
        if self.has("space"):
            self.canvas.rgb[:] = np.array(self.palette.sky[0], np.float32)
            sky.paint_sky(self.canvas, self.palette, self.canvas.height * 1.3, (-1e6, -1e6), self.rng)
            tones: tuple[Colour, Colour, Colour] = ((0.72, 0.2, 0.55), (0.16, 0.38, 0.85), (0.95, 0.5, 0.25))
            if self.wish.colours:
                first = self.wish.colours[0]
                tones = (first, mix(first, (0.2, 0.3, 0.9), 0.4), mix(self.wish.colours[-1], (1, 0.8, 0.5), 0.3))
            sky.paint_nebula(self.canvas, self.rng, tones)
        else:
            sky.paint_sky(self.canvas, self.palette, self.horizon, self.sun, self.rng)
            horizon = round(self.horizon)
            if horizon < self.canvas.height:
                self.canvas.rgb[horizon:] = np.array(self.palette.sky[3], np.float32)

    def _lights(self) -> None:
        canvas, palette, rng = self.canvas, self.palette, self.rng
        clear_night = self.night and not self.wish.storm and not self.has("rain", "fog")
        if clear_night or self.has("stars", "space"):
            sky.paint_stars(
                canvas, palette, self.horizon, rng, dense=self.has("stars", "space") or self.time == "space"
            )
        if self.has("aurora"):
            sky.paint_aurora(canvas, self.horizon, rng, self._own_colour(None))
        if self.has("planet", "space"):
            tone: Colour = self._own_colour(
                ((0.85, 0.62, 0.4), (0.45, 0.6, 0.85), (0.75, 0.45, 0.5))[int(rng.integers(3))]
            ) or (0.8, 0.6, 0.4)
            at = (canvas.width * (0.5 - 0.2 * self.side), canvas.height * (0.46 if self.has("space") else 0.28))
            sky.paint_planet(
                canvas,
                palette,
                at,
                canvas.unit * (17 if self.has("space") else 13),
                rng,
                ringed=bool(rng.random() < 0.6) or self.wish.says("saturn", "rings"),
                tone=tone,
            )
            if self.has("space"):
                sky.paint_planet(
                    canvas,
                    palette,
                    (canvas.width * (0.5 + 0.28 * self.side), canvas.height * 0.22),
                    canvas.unit * 4.2,
                    rng,
                    ringed=False,
                    tone=mix(tone, (0.6, 0.6, 0.65), 0.7),
                )
        if self.has("space"):
            return
        if (
            self.night
            and not self.has("aurora", "planet")
            and (self.has("moon") or not self.has("stars"))
            and not (self.wish.storm and not self.has("moon"))
            and self.wish.style != "neon"
        ):
            size = canvas.unit * (9.5 if self.has("cat", "dog", "birds") and self.has("moon") else 5.0)
            sky.paint_moon(canvas, palette, self.sun, size, crescent=self.wish.says("crescent"), rng=rng)
        elif not self.night:
            veiled = self.time in ("storm", "overcast") or self.wish.storm
            size = canvas.unit * (
                15 if self.wish.style == "vaporwave" else 4.4 if self.time in ("sunset", "dawn", "dusk") else 3.4
            )
            bare = self.wish.sun is not None or (not veiled and self.time != "dusk")
            sky.paint_sun(canvas, palette, self.sun, size, bare=bare, striped=self.wish.style == "vaporwave")
        if self.has("moon") and not self.night:
            sky.paint_moon(
                canvas,
                palette,
                (canvas.width - self.sun[0], self.horizon * 0.22),
                canvas.unit * 3.6,
                crescent=True,
                rng=rng,
            )
        if self.has("rainbow"):
            sky.paint_rainbow(canvas, self.horizon, rng)

    def _clouds(self) -> None:
        if self.wish.style in ("vaporwave", "minimal") or (
            self.has("stars", "aurora", "planet") and not self.has("clouds") and not self.wish.storm
        ):
            return
        cover = {
            "noon": 0.5,
            "golden": 0.52,
            "sunset": 0.56,
            "dawn": 0.48,
            "dusk": 0.5,
            "night": 0.36,
            "storm": 0.92,
            "overcast": 0.85,
            "autumn": 0.46,
        }.get(self.time, 0.45)
        cover += float(self.rng.uniform(-0.06, 0.06))
        if self.wish.storm:
            cover = 0.9
        elif self.has("clouds"):
            cover = max(cover, 0.66)
        elif self.wish.says("clear", "cloudless"):
            cover = 0.18
        sky.paint_clouds(
            self.canvas,
            self.palette,
            self.horizon,
            self.sun,
            self.rng,
            cover=cover,
            heavy=self.wish.storm or self.time == "overcast",
        )
        if self.has("lightning") or (self.wish.storm and self.rng.random() < 0.6):
            sky.paint_lightning(
                self.canvas,
                self.horizon,
                self.canvas.width * (0.5 + self.side * float(self.rng.uniform(0.18, 0.34))),
                self.rng,
            )

    def _mountains(self) -> None:
        grand = self.wish.says(
            "mountain", "mountains", "peak", "peaks", "alps", "alpine", "summit", "himalaya", "himalayas"
        )
        tall = 1.3 if grand else 0.85
        if self.wish.style == "minimal":
            land.paint_mountains(
                self.canvas, self.palette, self.horizon, self.side, self.rng, ranges=3, snow=False, tall=tall
            )
            return
        snow = 0.0 if self.has("desert") else 0.95 if self.has("snow") or self.wish.says("snowy", "snow") else 0.55
        terrain.paint_terrain(
            self.canvas,
            self.palette,
            self.horizon + 1,
            self.side,
            self.rng,
            snow=snow,
            tall=tall,
            woods=not self.has("desert"),
        )

    def _city(self) -> None:
        neon = self.wish.style == "neon" or self.wish.says("cyberpunk", "neon")
        tall = 0.4 if self.wish.says("village", "town") else 1.0
        land.paint_city(self.canvas, self.palette, self.horizon + 1, self.side, self.rng, tall=tall, neon=neon)

    def _water(self) -> None:
        canvas, palette = self.canvas, self.palette
        if self.has("forest", "mountains") and not self.has("sea", "city", "beach"):
            self._far_shore()
        if self.heavy:
            water.paint_water(
                canvas,
                palette,
                self.horizon,
                self.sun[0],
                self.rng,
                roughness=1.2,
                bottom=self.horizon + canvas.height * 0.08,
            )
            water.paint_heavy_sea(canvas, palette, self.horizon, self.rng, fury=1.0, rows=range(7), total=13)
            if self.has("boat"):
                self._boat(self.horizon + canvas.height * 0.13, tilt=0.22 * self.side)
            if not self.has("lighthouse"):
                water.paint_heavy_sea(canvas, palette, self.horizon, self.rng, fury=1.0, rows=range(7, 13), total=13)
            return
        rough = (
            0.1
            if self.has("lake", "river") and not self.has("sea")
            else 0.2
            if self.has("city") and not self.has("sea")
            else 0.6
        )
        if self.wish.says("calm", "still", "mirror", "glassy", "reflection", "quiet"):
            rough = 0.04
        elif self.wish.says("waves", "wave", "windy", "rough", "surf", "tsunami"):
            rough = 1.0
        water.paint_water(canvas, palette, self.horizon, self.sun[0], self.rng, roughness=rough)
        if self.has("boat"):
            self._boat(
                self.horizon + (canvas.height - self.horizon) * float(self.rng.uniform(0.2, 0.34)),
                tilt=0.05 * self.side,
            )
        if self.has("whale"):
            creatures.paint_whale(
                canvas,
                palette,
                canvas.width * (0.5 - 0.14 * self.side),
                self.horizon + 0.3 * (canvas.height - self.horizon),
                canvas.unit * 22,
                mirrored=False,
            )
        if self.wish.says("waves", "wave", "surf", "tsunami") and not self.has("beach", "lighthouse"):
            water.paint_heavy_sea(canvas, palette, self.horizon, self.rng, fury=0.65, rows=range(6, 13), total=13)

    def _far_shore(self) -> None:
        canvas, rng = self.canvas, self.rng
        feet = self.horizon + canvas.unit * 0.4 + 0 * line(rng, canvas.width, 50.0)
        rows = [(feet - canvas.unit * 1.2, canvas.unit * 4.5, 0.25), (feet, canvas.unit * 7.5, 0.45)]
        land.paint_forest(canvas, self.palette, rows, rng, snow=self.has("snow"), density=0.95)

    def _boat(self, at: float, *, tilt: float) -> None:
        canvas = self.canvas
        x = canvas.width * (0.5 - self.side * float(self.rng.uniform(0.1, 0.24)))
        sail = self._own_colour((0.95, 0.9, 0.8)) or (0.95, 0.9, 0.8)
        if self.has("lighthouse"):
            x = canvas.width * (0.5 + self.side * 0.2)
        size = canvas.unit * (12 if self.has("lighthouse", "city") else 20)
        things.paint_boat(canvas, self.palette, x, at, size, self.side, sail, tilt=tilt)

    def _lighthouse(self) -> None:
        canvas, palette, rng = self.canvas, self.palette, self.rng
        base = self.horizon + (canvas.height - self.horizon) * (0.46 if self.heavy else 0.4)
        rise = canvas.unit * (20 if self.heavy else 15)
        reach = min(0.66, 62 * canvas.unit / canvas.width)
        crest = land.paint_rocks(
            canvas, palette, -self.side, base, rise, self.side, rng, reach=reach, grassy=not self.heavy
        )
        at = min(0.32, 25 * canvas.unit / canvas.width)
        x = canvas.width * (at if self.side > 0 else 1 - at)
        foot = float(crest[int(np.clip(x, 0, canvas.width - 1))]) + canvas.unit * 1.6
        size = min(canvas.unit * 52, foot * 0.86)
        if not self.wish.storm or rng.random() < 0.7:
            hx = x - self.side * canvas.unit * 9
            ground = float(crest[int(np.clip(hx, 0, canvas.width - 1))])
            things.paint_house(
                canvas,
                palette,
                hx,
                ground + canvas.unit * 1.6,
                canvas.unit * 12,
                self.side,
                rng,
                wall=(0.8, 0.78, 0.74),
                near=0.5,
            )
        self.lamp = things.paint_lighthouse(canvas, palette, x, foot, size, self.side, self._band())
        if self.heavy:
            tip = canvas.width * (reach * 0.84 if self.side > 0 else 1 - reach * 0.84)
            for dx, big in ((1, 21.0), (8, 14.0), (-6, 16.0)):
                water.paint_spray(
                    canvas, palette, tip + self.side * dx * canvas.unit, base + canvas.unit * 2, canvas.unit * big, rng
                )
            water.paint_heavy_sea(canvas, palette, self.horizon, rng, fury=1.0, rows=range(7, 13), total=13)
        strength = 0.25 + 0.62 * palette.dusk
        if palette.dusk > 0.3 and self.lamp:
            angle = 0.12 * self.side if self.side > 0 else np.pi - 0.12
            things.paint_beams(
                canvas, palette, self.lamp, canvas.width * 0.34, float(angle) - 0.2 * self.side, strength
            )

    def _beach(self) -> None:
        canvas, rng = self.canvas, self.rng
        shore = canvas.height * 0.8
        land.paint_beach(canvas, self.palette, shore, rng)
        if self.wish.says("palm", "palms", "tropical", "island", "paradise", "caribbean", "hawaii"):
            for dx in (0.0, 0.1, -0.03)[: int(rng.integers(2, 4))]:
                x = canvas.width * (0.5 - self.side * (0.3 + dx))
                things.paint_palm(
                    canvas,
                    self.palette,
                    x,
                    canvas.height * float(rng.uniform(0.9, 0.97)),
                    canvas.unit * float(rng.uniform(44, 62)),
                    rng,
                )

    def _desert(self) -> None:
        canvas, palette = self.canvas, self.palette
        if self.wish.says("pyramid", "pyramids", "egypt"):
            self._pyramids()
        land.paint_dunes(canvas, palette, self.horizon, self.side, self.rng)

    def _pyramids(self) -> None:
        canvas, palette = self.canvas, self.palette
        for x, size in ((0.3, 34), (0.52, 46), (0.72, 26)):
            sprite = Sprite(canvas.unit * size, aspect=0.62)
            tone = mix(things.lit_by(palette, (0.85, 0.68, 0.45)), palette.haze, 0.35)
            dark = mix(scale(tone, 0.55), palette.haze, 0.15)
            sprite.polygon([(-1, 0), (0.1, 1.2), (1, 0)], dark if self.side < 0 else tone)
            sprite.polygon([(-1, 0), (0.1, 1.2), (0.35, 0)], tone if self.side < 0 else dark)
            canvas.add(sprite.layer("pyramid", canvas.width * x, self.horizon + canvas.unit * 3, near=0.15))

    def _hills(self) -> None:
        canvas, palette, rng, wish = self.canvas, self.palette, self.rng, self.wish
        lavender, wheat = wish.says("lavender"), wish.says("wheat", "corn", "barley", "farm")
        tone: Colour | None = (0.5, 0.4, 0.68) if lavender else (0.86, 0.68, 0.32) if wheat else None
        top = self.horizon - canvas.unit * 4  # the farthest crest goes up and down around it and must not show a gap
        if self._watery():
            top = canvas.height * 0.8  # a shore in front of the water
        snowy = self.has("snow")
        self.crests = land.paint_hills(
            canvas,
            palette,
            top,
            self.side,
            rng,
            layers=2 if self._watery() else 5,
            tone=tone,
            crops=bool(tone) or (self.has("fields") and not self.has("flowers")),
            snow=snowy,
            smoothness=0.7 if self.has("fields") else 1.0,
        )
        if self.has("castle"):
            x = canvas.width * (0.5 - 0.17 * self.side)
            foot = self._ground(x, 1)
            things.paint_castle(canvas, palette, x, foot + canvas.unit * 2, canvas.unit * 40, self.side)

    def _ground(self, x: float, layer: int) -> float:
        """Where the ground is at x on one of the land's layers (0 is the farthest)."""
        if not self.crests:
            return self.canvas.height * 0.9
        crest = self.crests[min(layer, len(self.crests) - 1)]
        return float(crest[int(np.clip(x, 0, self.canvas.width - 1))])

    def _forest(self) -> None:
        canvas, rng = self.canvas, self.rng
        if self._watery() and not self.crests:
            # Firs that frame the water from the sides.
            shore = canvas.height * 0.97 - canvas.unit * 3 * line(rng, canvas.width, canvas.unit * 60, 3)
            x = np.arange(canvas.width, dtype=np.float32) / canvas.width
            frame = np.abs(x - 0.5 - 0.06 * self.side) * 2
            feet = shore + canvas.height * 0.3 * np.clip(0.82 - frame, 0, 1)
            land.paint_forest(
                canvas,
                self.palette,
                [(feet.astype(np.float32), canvas.unit * 34, 0.97)],
                rng,
                snow=self.has("snow"),
                broad=0.0,
                density=0.85,
            )
            return
        if not self.crests:
            return
        rows = []
        share = (0.12, 0.3, 0.52, 0.74, 1.0)
        deep = not self.has(
            "hills", "fields", "house", "flowers", "cat", "dog", "person", "castle", "campfire", "road", "mushrooms"
        )
        for index, crest in enumerate(self.crests[: 5 if deep else 3]):
            near = share[min(index, 4)]
            rows.append((crest + canvas.unit * 1.0, canvas.unit * (5 + 30 * near**1.5), near))
        if deep:
            low = self.crests[-1] + canvas.height * 0.16
            rows.append((low.astype(np.float32), canvas.unit * 46, 1.0))
        land.paint_forest(
            canvas,
            self.palette,
            rows,
            rng,
            snow=self.has("snow"),
            broad=0.4 if self.wish.says("autumn", "oak", "birch", "woods", "jungle") else 0.08,
        )

    def _details(self) -> None:
        canvas, palette, rng, wish = self.canvas, self.palette, self.rng, self.wish
        width, height, unit = canvas.width, canvas.height, canvas.unit
        away = -self.side
        landed = bool(self.crests)
        if self.has("road") and (landed or self.has("desert")):
            top = self._ground(width / 2, 1) if landed else self.horizon + unit * 3
            land.paint_road(canvas, palette, top + unit * 2, rng)
        if self.has("windmill"):
            x = width * (0.5 + 0.2 * away)
            things.paint_windmill(
                canvas, palette, x, (self._ground(x, 2) if landed else self.horizon) + unit * 2.5, unit * 36, self.side
            )
        if self.has("house") and not self.has("lighthouse"):
            count = 5 if wish.says("village", "houses", "cottages") else 1
            for index in range(count):
                x = width * (0.5 + away * (0.17 if count == 1 else -0.3 + 0.16 * index))
                foot = self._ground(x, 2 + index % 2) + unit * 4 if landed else self.horizon + unit * 9
                things.paint_house(
                    canvas,
                    palette,
                    x,
                    foot,
                    unit * (25 if count == 1 else 13),
                    self.side,
                    rng,
                    wall=self._own_colour(None),
                    snow=self.has("snow"),
                )
        if self.has("castle") and not landed:
            things.paint_castle(canvas, palette, width * (0.5 + 0.17 * away), self.horizon + unit, unit * 40, self.side)
        if self.has("flowers"):
            top = self._ground(width / 2, 2) if landed else height * 0.75
            land.paint_flowers(
                canvas,
                palette,
                top,
                rng,
                self._flower_tones(),
                rows=wish.says("lavender", "tulips", "tulip", "field", "fields", "rows"),
            )
        if self.has("tree"):
            self._tree(landed)
        if self.has("campfire"):
            things.paint_glow_fire(canvas, palette, width * (0.5 + 0.1 * away), height * 0.91, unit * 13, rng)
        if self.has("mushrooms"):
            creatures.paint_mushrooms(
                canvas,
                palette,
                width * (0.5 + 0.12 * away),
                height * 0.93,
                unit * 22,
                rng,
                self._own_colour((0.78, 0.16, 0.12)) or (0.78, 0.16, 0.12),
            )
        if self.has("balloon"):
            tones: list[tuple[Colour, Colour]] = [
                ((0.85, 0.25, 0.2), (0.97, 0.85, 0.5)),
                ((0.2, 0.45, 0.75), (0.95, 0.9, 0.85)),
                ((0.95, 0.6, 0.2), (0.6, 0.2, 0.4)),
            ]
            for index, (x, y, size) in enumerate(
                ((0.5 + 0.16 * away, 0.5, 21), (0.5 - 0.2 * away, 0.34, 10), (0.5 - 0.33 * away, 0.46, 6))
            ):
                own = (self.wish.colours[0], (0.97, 0.92, 0.85)) if self.wish.colours and index == 0 else tones[index]
                things.paint_balloon(
                    canvas, palette, width * x, self.horizon * y + unit * size * 0.7, unit * size, own, self.side
                )
        if self.has("birds"):
            count = 5 if wish.says("bird", "eagle", "owl", "hawk", "raven", "crow", "gull") else 14
            creatures.paint_birds(
                canvas,
                palette,
                (width * 0.2, self.horizon * 0.18, width * 0.8, self.horizon * 0.66),
                rng,
                count=count,
                pale=self.wish.storm or wish.says("gulls", "gull", "seagulls", "doves", "dove"),
            )
        elif not self.night and not self.wish.storm and rng.random() < 0.45 and not self.has("space"):
            creatures.paint_birds(
                canvas,
                palette,
                (width * 0.25, self.horizon * 0.25, width * 0.75, self.horizon * 0.55),
                rng,
                count=6,
                pale=False,
            )

    def _tree(self, landed: bool) -> None:
        canvas, rng, wish = self.canvas, self.rng, self.wish
        blossom = wish.says("cherry", "blossom", "blossoms", "sakura")
        leaf: Colour = (
            (0.98, 0.68, 0.78)
            if blossom
            else (0.9, 0.46, 0.14)
            if self.time == "autumn" or wish.says("autumn", "maple")
            else (0.36, 0.56, 0.22)
        )
        leaf = self._own_colour(leaf) or leaf
        x = canvas.width * (0.5 - 0.17 * self.side)
        foot = self._ground(x, 3) + canvas.unit * 5 if landed else canvas.height * 0.9
        bare = wish.says("bare", "dead", "leafless") or (self.has("snow") and not blossom)
        things.paint_tree(canvas, self.palette, x, foot, canvas.unit * 60, self.side, rng, leaf, bare=bare)

    def _creatures(self, away: float) -> None:
        canvas, palette, wish = self.canvas, self.palette, self.wish
        width, height, unit = canvas.width, canvas.height, canvas.unit
        tone = self._own_colour(None)
        for name in ("cat", "dog"):
            if self.has(name):
                x = width * (0.5 + 0.13 * away)
                foot = height * 0.93
                self._mound(x, foot)
                size = unit * (34 if name == "cat" else 40)
                if name == "cat":
                    creatures.paint_cat(canvas, palette, x, foot + unit, size, mirrored=away < 0, tone=tone)
                else:
                    own = tone or ((0.8, 0.38, 0.12) if wish.says("fox", "foxes") else None)
                    creatures.paint_dog(canvas, palette, x, foot + unit, size, mirrored=away > 0, tone=own)
        if self.has("person") and not self.has("space"):
            x = width * (0.5 + 0.15 * away)
            size = unit * (32 if self.has("mountains", "sea", "hills") else 26)
            self._mound(x, height * 0.92)
            creatures.paint_person(
                canvas,
                palette,
                x,
                height * 0.93,
                size,
                coat=tone,
                hat=wish.says("hat", "wizard", "samurai", "monk", "traveller", "traveler", "wanderer", "cowboy"),
                mirrored=away < 0,
            )

    def _mound(self, x: float, foot: float) -> None:
        """Dark ground in front for a silhouette to stand on."""
        canvas = self.canvas
        xs = np.arange(canvas.width, dtype=np.float32)
        crest = (
            foot
            + canvas.unit * (9 * ((xs - x) / (canvas.unit * 60)) ** 2)
            - canvas.unit * 0.5 * line(self.rng, canvas.width, canvas.unit * 3, 4)
        )
        top = max(0, int(crest.min()) - 2)
        ys = np.arange(top, canvas.height, dtype=np.float32)[:, None]
        tone = creatures.silhouette(self.palette, mix(self.palette.grass, self.palette.deep, 0.5), 0.62)
        alpha = smooth(-0.8, 0.8, ys - crest[None, :])
        rgb = flat(alpha.shape, tone) + (0.4 * np.exp(-np.clip(ys - crest[None, :], 0, None) / (canvas.unit * 0.5)))[
            ..., None
        ] * (np.array(self.palette.sun, np.float32) - np.array(tone, np.float32))
        canvas.add(Layer(name="mound", rgb=rgb.astype(np.float32), alpha=alpha, top=top, near=0.95))

    def _flower_tones(self) -> list[Colour]:
        wish = self.wish
        if wish.colours:
            return [*wish.colours, mix(wish.colours[0], (1, 1, 1), 0.4)]
        for word, names in (
            ("lavender", ("lavender", "violet")),
            ("poppy", ("red", "scarlet")),
            ("poppies", ("red", "scarlet")),
            ("sunflowers", ("yellow", "amber")),
            ("sunflower", ("yellow", "amber")),
            ("tulips", ("red", "yellow", "pink")),
            ("roses", ("crimson", "rose")),
        ):
            if wish.says(word):
                return [COLOURS[name] for name in names]
        return [COLOURS[name] for name in ("scarlet", "pink", "yellow", "white", "violet")]

    def _air(self) -> None:
        canvas, palette, rng = self.canvas, self.palette, self.rng
        if self.has("fog") and self.wish.style != "minimal":
            sky.paint_fog(canvas, palette, self.horizon, rng, strength=0.85)
        elif not self.has("space") and not self.night and not self.heavy and self.wish.style != "minimal":
            sky.paint_fog(canvas, palette, self.horizon, rng, strength=0.14)
        if self.has("rain"):
            sky.paint_rain(canvas, palette, rng, strength=1.25 if self.wish.storm else 1.0)
        if self.has("snow"):
            sky.paint_snowfall(canvas, rng)
