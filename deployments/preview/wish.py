"""What a prompt asks to see: its words as elements of a scene, a time of day, weather, a style and colours. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deployments.preview.palette import COLOURS, Colour

# element → the words that ask for it. Plurals and endings are written out where they differ.
ELEMENTS: dict[str, str] = {
    "lighthouse": r"light-?houses?|beacon",
    "sea": r"seas?|oceans?|waves?|coast(al)?|seaside|shores?|harbou?rs?|surf|bay|marine|tsunami|atlantic|pacific",
    "lake": r"lakes?|ponds?|fjords?|lagoons?|reflections?|mirror",
    "river": r"rivers?|streams?|creeks?|brook|canals?",
    "beach": r"beach(es)?|sand|island|islands|tropical|palms?|palm trees?",
    "mountains": r"mountains?|peaks?|alps|alpine|himalayas?|summits?|cliffs?|volcano|fjords?|ridge",
    "hills": r"hills?|hillside|countryside|meadows?|valleys?|landscape|pastures?|tuscany|highlands|grass|park|garden",
    "fields": r"fields?|wheat|farm|farmland|crops?|prairie|vineyards?|lavender|sunflowers?|poppy|poppies|tulips?",
    "forest": r"forests?|woods|woodland|pines?|firs?|spruces?|jungle|taiga|conifers?|christmas trees?",
    "desert": r"deserts?|dunes?|sahara|oasis|pyramids?|camels?|mars|canyon",
    "city": r"city|cities|skylines?|skyscrapers?|towns?|streets?|urban|downtown|buildings?|metropolis|new york|tokyo|"
            r"london|paris|manhattan|rooftops?|cityscape|cyberpunk",
    "house": r"houses?|villages?|hamlet|cabins?|cottages?|huts?|home|barns?|farmhouse|chalet|inn|tavern",
    "castle": r"castles?|fortress|palace|towers?|kingdom|medieval|citadel",
    "boat": r"boats?|ships?|sailboats?|sails?|sailing|yachts?|vessel|pirate|galleon|fishing",
    "tree": r"tree|oaks?|willows?|maples?|cherry blossoms?|blossoms?|sakura|baobab|birch(es)?|apple tree",
    "flowers": r"flowers?|roses?|daisy|daisies|tulips?|poppy|poppies|sunflowers?|lavender|bouquet|bloom(ing|s)?|"
               r"wildflowers?|garden",
    "cat": r"cats?|kittens?|kitty|feline",
    "dog": r"dogs?|pupp(y|ies)|wolf|wolves|fox(es)?|coyote",
    "birds": r"birds?|gulls?|seagulls?|crows?|ravens?|eagles?|swallows?|geese|flock|hawks?|parrots?|owls?|doves?",
    "person": r"person|people|man|woman|girl|boy|child|children|traveller|traveler|wanderer|hiker|samurai|"
              r"knight|wizard|"
              r"monk|figure|couple|lovers|astronaut|fisherman|king|queen|princess|portrait",
    "balloon": r"balloons?|airships?|zeppelins?|hot air",
    "windmill": r"windmills?|mills?|dutch|holland",
    "campfire": r"campfires?|bonfires?|fire|flames?|camping|tent",
    "road": r"roads?|paths?|highway|trail|lane|street",
    "whale": r"whales?|orcas?|dolphins?",
    "mushrooms": r"mushrooms?|toadstools?",
    "sun": r"sun|sunny|sunlight|sunshine|sunrise|sunset|sundown",
    "moon": r"moon|moonlight|moonlit|lunar|crescent|full moon",
    "stars": r"stars?|starry|milky way|galaxy|galaxies|constellations?|night sky|cosmos|cosmic|starlight",
    "planet": r"planets?|saturn|jupiter|alien|sci-?fi|spaceship",
    "space": r"space|nebulas?|nebulae|universe|outer space|interstellar|galaxy|galaxies|cosmos|cosmic|astronaut",
    "aurora": r"aurora|northern lights|borealis|polar lights",
    "rainbow": r"rainbows?",
    "lightning": r"lightning|thunder|thunderstorms?|bolts?",
    "clouds": r"clouds?|cloudy|sky|skies|heaven",
    "rain": r"rain|rainy|raining|downpour|drizzle|monsoon|wet",
    "snow": r"snow|snowy|snowfall|snowing|winter|blizzard|frozen|icy|ice|christmas|arctic|antarctic",
    "fog": r"fog|foggy|mist|misty|haze|hazy|smoke|morning mist",
}  # fmt: skip

TIMES: dict[str, str] = {
    "sunset": r"sunset|sundown|evening|twilight hour|red sky|romantic",
    "dawn": r"dawn|sunrise|morning|daybreak|early light",
    "golden": r"golden hour|afternoon|warm light|summer|late light",
    "dusk": r"dusk|twilight|blue hour|gloaming",
    "night": r"night|midnight|nocturne|moonlight|moonlit|moon|starry|stars|milky way|aurora|northern lights|"
    r"fireflies|dark",
    "noon": r"noon|midday|day|daylight|sunny|bright|clear sky|spring|blue sky",
    "storm": r"storm|stormy|tempest|hurricane|thunder|thunderstorms?|gale|dramatic|rough sea|raging|typhoon",
    "overcast": r"overcast|grey sky|gloomy|cloudy|rainy|fog|foggy|mist|misty",
    "autumn": r"autumn|fall|october|november|maple|harvest",
    "space": r"space|nebulas?|nebulae|universe|interstellar|cosmos|cosmic|galaxy|galaxies",
}

STYLES: dict[str, str] = {
    "oil": r"oil|oil painting|oil on canvas|impasto|van gogh|monet|impressionis[tm]\w*|painting|painterly|"
           r"palette knife|turner",
    "watercolor": r"water-?colou?rs?|aquarelle|wash",
    "sketch": r"sketch|pencil|graphite|charcoal|drawing|line art|etching|hatching|engraving",
    "pixel": r"pixel|pixel-?art|8-?bit|16-?bit|retro game",
    "neon": r"neon|cyberpunk|synthwave|glowing lights|blade runner",
    "vaporwave": r"vapou?rwave|retrowave|outrun|80s",
    "photo": r"photo|photograph|photographic|photorealistic|realistic|photorealism|cinematic|dslr|35mm|hdr",
    "minimal": r"minimal|minimalist|minimalistic|flat|vector|poster|simple|geometric|low poly|paper cut|papercut",
    "ink": r"ink|sumi-?e|calligraphy|ink wash|japanese painting|brush painting|chinese painting",
}  # fmt: skip

# Things whose own colour is meant when a colour stands before them.
_OWNERS = (
    r"cats?|kittens?|dogs?|fox(es)?|wolf|boats?|ships?|sails?|sailboats?|houses?|cottages?|roofs?|balloons?|trees?|roses?|"
    r"flowers?|tulips?|mushrooms?|toadstools?|lighthouses?|coat|dress|cloak|hat|hair|eyes|castle|birds?|"
    r"planets?|stripes?|doors?|umbrella|barns?|cabin|windmill|sun|moon"
)

# Colours that land and sky have of themselves: naming them changes nothing.
_NATURAL = {
    "green": r"hills?|fields?|grass|meadows?|forests?|woods?|leaves|valleys?|countryside|jungle|landscape|mountains?",
    "blue": r"sky|skies|sea|ocean|water|lake",
    "golden": r"hour",
    "white": r"snow|clouds?|waves?|foam|sand|beach",
}

WATER = ("sea", "lake", "river", "beach")
_ON_WATER = frozenset({"boat", "whale"})


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A prompt, understood.

    ``elements`` in no order; ``time`` "" leaves it to the seed, ``style`` "" is the house style; ``colours`` in the
    order of the prompt, ``tints`` those that are not the colour of one thing ("a black cat"): they
    steer the whole palette. ``sun``: the colour of the sun, if one was named. ``abstract``: nothing was recognised.
    """

    elements: frozenset[str]
    time: str
    storm: bool
    style: str
    colours: tuple[Colour, ...]
    tints: tuple[Colour, ...]
    sun: Colour | None
    abstract: bool
    words: frozenset[str]

    def has(self, *names: str) -> bool:
        return any(name in self.elements for name in names)

    def says(self, *words: str) -> bool:
        """Whether one of these single words stands in the prompt."""
        return any(word in self.words for word in words)


def _found(patterns: dict[str, str], text: str) -> set[str]:
    return {name for name, pattern in patterns.items() if re.search(rf"\b(?:{pattern})\b", text)}


def understood(prompt: str, negative: str = "") -> Wish:
    """What ``prompt`` asks for without what ``negative`` names."""
    text = re.sub(r"\bsea of (fog|clouds?|mist)", r"mountains in \1", prompt.lower())
    text = re.sub(r"\bno (\w+)|\bwithout (?:any |a )?(\w+)", " ", text)
    unwanted = (
        negative.lower()
        + " "
        + " ".join(
            first or second for first, second in re.findall(r"\bno (\w+)|\bwithout (?:any |a )?(\w+)", prompt.lower())
        )
    )
    elements = _found(ELEMENTS, text) - _found(ELEMENTS, unwanted)
    times = _found(TIMES, text) - _found(TIMES, unwanted)
    styles = _found(STYLES, text) - _found(STYLES, unwanted)
    barred = set(re.findall(r"\w+", unwanted))
    named = [
        (COLOURS[word], word, owner)
        for word, owner in re.findall(r"([a-z]+)(?=\W+([a-z]+))?", text)
        if word in COLOURS and word not in barred and not (word in _NATURAL and re.fullmatch(_NATURAL[word], owner))
    ]
    tints = tuple(tone for tone, _, owner in named if not re.fullmatch(_OWNERS, owner))
    colours = tuple(tone for tone, _, owner in named if owner not in ("sun", "moon"))
    storm = "storm" in times or ("lightning" in elements)
    times.discard("storm")
    if "space" in times and not elements & {"space", "stars", "planet"}:
        times.discard("space")
    time = next(
        (
            name
            for name in ("sunset", "dawn", "dusk", "night", "space", "golden", "autumn", "overcast", "noon")
            if name in times
        ),
        "",
    )
    if "space" in elements and not elements & {"sea", "mountains", "hills", "forest", "city", "lake", "desert"}:
        time = "space"
    style = next(
        (
            name
            for name in ("pixel", "watercolor", "sketch", "ink", "vaporwave", "neon", "minimal", "oil", "photo")
            if name in styles
        ),
        "",
    )
    abstract = not elements and not storm and time in ("", "golden", "noon")
    if elements & _ON_WATER and not elements & set(WATER) and not _found(ELEMENTS, unwanted) & set(WATER):
        elements.add("sea")
    if "lighthouse" in elements and "sea" not in _found(ELEMENTS, unwanted):
        elements.add("sea")
    return Wish(
        elements=frozenset(elements),
        time=time,
        storm=storm,
        style=style,
        colours=colours[:3],
        tints=tints[:3],
        sun=next((COLOURS[word] for word in re.findall(r"([a-z]+) (?:sun|moon)\b", text) if word in COLOURS), None),
        abstract=abstract,
        words=frozenset(re.findall(r"[a-z]+", text)),
    )
