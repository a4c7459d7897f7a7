"""Small poems, stories and n-gram continuations for the preview text engine. Pure, given a Choice."""

from __future__ import annotations

import math
import random
import re
from collections import defaultdict

MAX_STORY_SENTENCES = 900  # about 8,192 text tokens, the most that a text may have


class Choice:
    """Chooses among alternatives that are ordered by preference.

    Temperature 0 always takes the first; higher temperatures make the later ones likelier, up to nearly even at 2.
    ``top_p`` leaves only the likeliest that together make up this share of all, at least one.
    """

    def __init__(self, rng: random.Random, temperature: float, top_p: float = 1.0) -> None:
        self._rng = rng
        self._temperature = temperature
        self._top_p = top_p

    def of(self, *options: str) -> str:
        """One of the options."""
        if self._temperature <= 0 or len(options) == 1:
            return options[0]
        weights = [math.exp(-index / (4.0 * self._temperature)) for index in range(len(options))]
        if self._top_p < 1:
            share = self._top_p * sum(weights)
            kept = next(n for n in range(1, len(weights) + 1) if sum(weights[:n]) >= share or n == len(weights))
            options, weights = options[:kept], weights[:kept]
        return self._rng.choices(options, weights)[0]

    def turned(self, options: list[str]) -> list[str]:
        """The options in a new order; at temperature 0, in their own."""
        if self._temperature <= 0:
            return list(options)
        return self._rng.sample(options, len(options))


_FIRST = ["{t} at first light", "a thought of {t}", "rain, and then {t}", "all day long, {t}", "somewhere still, {t}"]
_SECOND = [
    "the quiet road bends away",
    "a window holds the long dusk",
    "wind carries the smell of salt",
    "one lamp burns across the bay",
    "the river keeps what it hears",
]
_THIRD = [
    "no one counts the hours",
    "and the kettle sings",
    "the dark smells of leaves",
    "stars come, one by one",
    "I close my notebook",
]

_COUPLETS = [
    ("I went to look for {t} at dawn", "when half the stars were not yet gone"),
    ("The hills lay blue, the air was clear", "and {t} had never felt so near"),
    ("I asked the wind what it had heard", "of {t}; it answered with no word"),
    ("The river turned, the river shone", "and carried {t} on and on"),
    ("At noon the swallows wrote in air", "that {t} was waiting everywhere"),
    ("A lamp was lit, the day was done", "and {t} had outlived the sun"),
    ("So keep the door ajar tonight", "for {t} may come with morning light"),
]

_OPENINGS = [
    "Nobody in the village could say when {t} had first mattered so much.",
    "It began on a Tuesday, as things to do with {t} usually do.",
    "There was once a map on which somebody had drawn, very small, {t}.",
]
_WHO = ["Mara", "old Tobias", "the clockmaker", "Ines", "the ferryman", "a boy called Pim"]
_DID = [
    "walked down to the harbour and thought of {t}",
    "wrote a letter about {t} and did not send it",
    "heard a story of {t} from a stranger at the inn",
    "found a key under the stairs, and beside it a drawing of {t}",
    "asked the bees about {t}, as one does",
    "packed bread, a candle and a rope, and left for the hills",
    "laughed for the first time since the spring",
]
_THEN = [
    "The rain had stopped by then.",
    "Behind the church the swifts were circling.",
    "It was later than anybody thought.",
    "The sea said nothing, which was unusual.",
    "In the distance a door fell shut.",
    "All the lamps along the quay went on at once.",
]
_ENDINGS = [
    "And whoever asks about {t} there today is given tea, and the best chair.",
    "After that, nobody spoke of {t} again, and everybody thought of it at dusk.",
    "The map hangs in the school now; {t} has been drawn a little larger.",
]


def haiku(topic: str, choice: Choice) -> str:
    """Three lines about the topic."""
    return "\n".join((choice.of(*choice.turned(_FIRST)).format(t=topic), choice.of(*_SECOND), choice.of(*_THIRD)))


def poem(topic: str, choice: Choice) -> str:
    """Two stanzas of two couplets each."""
    couplets = [f"{a.format(t=topic)},\n{b.format(t=topic)}." for a, b in (_COUPLETS[i] for i in _indexes(choice))]
    return "\n".join(couplets[:2]) + "\n\n" + "\n".join(couplets[2:4])


def _indexes(choice: Choice) -> list[int]:
    order = choice.turned([str(index) for index in range(len(_COUPLETS) - 1)])[:3]
    return [*sorted(map(int, order)), len(_COUPLETS) - 1]


def story(topic: str, choice: Choice, *, long: bool) -> str:
    """A short story from templates; a long one goes on until the limit of text tokens ends it."""
    paragraphs = [choice.of(*_OPENINGS).format(t=topic)]
    count = 0
    while count < (MAX_STORY_SENTENCES if long else 9):
        parts = []
        for who, did, then in zip(choice.turned(_WHO), choice.turned(_DID), choice.turned(_THEN), strict=False):
            parts.append(f"{who[0].upper()}{who[1:]} {did.format(t=topic)}.")
            parts.append(then)
            count += 2
            if len(parts) >= 4:
                break
        paragraphs.append(" ".join(parts))
    paragraphs.append(choice.of(*_ENDINGS).format(t=topic))
    return "\n\n".join(paragraphs)


def ngrams(source: str, choice: Choice, *, limit: int) -> str:
    """A continuation of the source of at most ``limit`` words: each word follows the two before it somewhere."""
    tokens = re.findall(r"\S+", source)
    following: dict[tuple[str, str], list[str]] = defaultdict(list)
    for first, second, third in zip(tokens, tokens[1:], tokens[2:], strict=False):
        following[(first.lower(), second.lower())].append(third)
        following[("", second.lower())].append(third)
    out: list[str] = []
    before, last = tokens[-2].lower(), tokens[-1].lower()
    for _ in range(limit):
        options = following.get((before, last)) or following.get(("", last)) or tokens
        word = choice.of(*choice.turned(options[:200]))
        out.append(word)
        before, last = last, word.lower()
        if len(out) > limit * 2 // 3 and word.endswith((".", "!", "?")):
            break
    text = " ".join(out)
    return text if text.endswith((".", "!", "?")) else f"{text} …"
