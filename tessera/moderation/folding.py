"""One text, read as a person reads it: what is written to look the same is made the same. Pure.

Rules look for words; people who want past a rule write ``ｎ а k е d``, ``n4k3d`` or ``n.a.k.e.d``. ``readings`` gives
the ways in which a text may be meant, the plain one first. An ordinary prompt has one reading, at the price of two
looks at it. Compatibility forms: https://www.unicode.org/reports/tr15/, lookalikes: https://www.unicode.org/reports/tr39/
"""

from __future__ import annotations

import re
import unicodedata

# Letters of other scripts, and signs, that are drawn like a Latin letter. Only what is in fonts that people have.
_LOOKALIKES = str.maketrans(
    {
        **dict(zip("авекмнорстухьіїјѕԁԛԝһҽғүӏ", "abekmhopctyxbiijsdqwhefyl", strict=True)),  # Cyrillic
        **dict(zip("αβγεηικνορτυχω", "abyenikvoptuxw", strict=True)),  # Greek
        **dict(zip("օոսցհյզաց", "onughjqwg", strict=True)),  # Armenian
        **dict(zip("ıɪʟɴʀʏʙɢʜᴀᴄᴅᴇᴊᴋᴍᴏᴘᴛᴜᴠᴡᴢꜱɑɡʋ", "iilnrybghacdejkmoptuvwzsagu", strict=True)),
        **dict(zip("øđłħŧ", "odlht", strict=True)),
        "æ": "ae",
        "œ": "oe",
        "ß": "ss",
    }
)
# What does not show: zero-width characters, marks of direction, soft hyphens, variation selectors, tags, fillers.
_UNSEEN = re.compile("[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
                     "\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]")  # fmt: skip
_LEET_SIGN = re.compile(r"[0134578@$!|+€£]")
# Letters with such signs among them. Every quantifier is possessive: no text makes these patterns go back.
_LEET_WORD = re.compile(r"(?<![a-z0-9@$!|+€£])(?:[a-z]++[0-9@$!|+€£]|[0-9@$!|+€£]++[a-z])[a-z0-9@$!|+€£]*+")
_AGE_LIKE = re.compile(r"\d+(?:yo|y|st|nd|rd|th|k|p|px|mm|x\d+|s|d|fps|am|pm)")
_LEET = {"0": "o", "3": "e", "4": "a", "5": "s", "7": "t", "8": "b", "@": "a", "$": "s", "+": "t", "€": "e", "£": "l"}
_LEET_I = str.maketrans({**_LEET, "1": "i", "!": "i", "|": "i"})
_LEET_L = str.maketrans({**_LEET, "1": "l", "!": "l", "|": "l"})
# Three or more single letters with one and the same kind of thing between them: s p a c e d, d.o.t.t.e.d, d-a-s-h-e-d.
_SPACED = re.compile(r"(?<![^\W_])[^\W\d_](?:(?: ?[.\-_*/,~·•] ?| )[^\W\d_](?![^\W_])){2,}+")
_BETWEEN = re.compile(r"[\W_]+")
_REPEATED = re.compile(r"(.)\1+")
_L_AS_I = str.maketrans("l", "i")


def plain(text: str) -> str:
    """The text without what does not show or does not count: case, accents, compatibility forms, unseen characters."""
    if text.isascii():
        return text.lower()
    shown = _UNSEEN.sub("", unicodedata.normalize("NFKC", text)).casefold()
    marked = unicodedata.normalize("NFD", shown)
    return unicodedata.normalize("NFC", "".join(each for each in marked if unicodedata.category(each) != "Mn"))


def readings(text: str) -> tuple[str, ...]:
    """The ways in which a text may be meant, without repetition: plain, with lookalikes as Latin letters, with digits
    and signs as the letters that they stand for, with spaced letters joined."""
    first = plain(text)
    found = [first]
    if not first.isascii():
        found.append(first.translate(_LOOKALIKES))
    if _LEET_SIGN.search(found[-1]) is not None:
        found += [_spelled(found[-1], _LEET_I), _spelled(found[-1], _LEET_L)]
    for reading in dict.fromkeys(found):
        if _SPACED.search(reading) is not None:
            found.append(_SPACED.sub(lambda match: _BETWEEN.sub("", match[0]), reading))
    return tuple(dict.fromkeys(found))


def skeleton(reading: str) -> str:
    """A reading with ``l`` as ``i`` and no letter doubled, so that ``ch1ld`` and ``chiild`` are ``child``'s skeleton.

    For short lists of terms only: different words may have the same one.
    """
    return _REPEATED.sub(r"\1", reading.translate(_L_AS_I))


def _spelled(text: str, table: dict[int, str]) -> str:
    return _LEET_WORD.sub(lambda match: _letters(match[0], table), text)


def _letters(word: str, table: dict[int, str]) -> str:
    """A word of letters and signs as letters; a number with its unit stays what it is."""
    return word if _AGE_LIKE.fullmatch(word) else word.rstrip("!").translate(table)
