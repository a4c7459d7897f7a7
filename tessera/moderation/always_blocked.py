"""What is refused always, whatever an operator configures: no rule, setting or plan lets it through. Pure.

Two categories. Sexual content about minors: a word for a minor, or an age under 18, near a sexual word. And sexual
pictures of real people without their consent, as tools that undress make them. The lists are short and plain on
purpose: they stop what is asked for openly or in thin disguise, and leave innocent sentences alone (the tests have
both). They are no substitute for an operator's own rules, for reports, and for their review.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

import re2

from tessera.moderation.folding import plain, readings, skeleton


class Category(StrEnum):
    """What is always refused."""

    SEXUAL_MINORS = "sexual_minors"
    NONCONSENSUAL_INTIMATE = "nonconsensual_intimate"


# In prose, words so far apart still belong together: two sentences. A picture's prompt is one thing, whatever its
# length.
NEAR_CHARS = 120


def _terms(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_SEXUAL = _terms(
    """
    nsfw porn porno porns pornographic pornography hentai xxx erotic erotica erotically nude nudes nudity naked
    nakedness topless bottomless undress undressed undressing unclothed disrobed blowjob handjob cunnilingus
    fellatio masturbate masturbates masturbating masturbation orgasm orgasms ejaculate ejaculation cumshot creampie
    penis penises vagina vaginas vulva pussy genitals genitalia nipples labia clitoris boobs tits breasts dildo
    vibrator lewd slutty slut whore horny seductive seductively sexy sexily sexual sexually sexualized sexualised
    fetish bdsm striptease stripper stripping lingerie upskirt intercourse fuck fucks fucked fucking gangbang
    threesome rape raped raping molest molested molesting incest bukkake ahegao deepthroat anal rimjob milf fap
    """
)
_SEXUAL_PHRASES = (
    "having sex",
    "have sex",
    "has sex",
    "had sex",
    "sex with",
    "sex scene",
    "sex act",
    "sex acts",
    "oral sex",
    "sex tape",
    "sex toy",
    "sex slave",
    "making love",
    "without clothes",
    "without any clothes",
    "no clothes",
    "no clothing",
    "wearing nothing",
    "spread legs",
    "legs spread",
    "spreading legs",
    "in the nude",
    "bare breasts",
    "bare chested girl",
    "see through clothes",
    "onlyfans",
)
_MINOR = _terms(
    """
    child children childs kid kids kiddie kiddy toddler toddlers infant infants newborn preteen preteens tween
    tweens teen teens teenage teenaged teenager teenagers underage underaged minors schoolgirl schoolgirls schoolboy
    schoolboys schoolchild schoolchildren schoolkid schoolkids prepubescent pubescent prepubertal kindergartner
    kindergartener kindergarten preschooler preschool loli lolis shota shotas jailbait adolescent adolescents
    juvenile juveniles girlchild
    """
)
_MINOR_PHRASES = (
    "little girl",
    "little girls",
    "little boy",
    "little boys",
    "young girl",
    "young girls",
    "young boy",
    "young boys",
    "small girl",
    "small boy",
    "baby girl age",
    "school girl",
    "school girls",
    "school boy",
    "school boys",
    "pre teen",
    "pre teens",
    "under age",
    "elementary school",
    "primary school",
    "middle school",
    "grade schooler",
    "junior high",
    "high school student",
    "high school girl",
    "high school boy",
    "first grader",
    "third grader",
    "fifth grader",
    "sixth grader",
    "nude baby",
    "naked baby",
)
# Never innocent, whatever stands beside it.
_ALWAYS = (
    "lolicon",
    "shotacon",
    "toddlercon",
    "childporn",
    "child porn",
    "child porno",
    "child pornography",
    "kiddie porn",
    "kiddy porn",
    "kid porn",
    "teen porn",
    "teenporn",
    "preteen porn",
    "baby porn",
    "pedo porn",
    "pedoporn",
    "pthc",
    "jailbait porn",
    "underage porn",
    "underage sex",
    "sex with a child",
    "sex with children",
    "sex with a minor",
    "sex with minors",
    "kinderporno",
    "kinderpornografie",
    "pornografia infantil",
    "pornographie enfantine",
    "pedopornografia",
    "pedopornographie",
)
_ALWAYS_ELSEWHERE = (
    "детское порно",
    "детская порнография",
    "порно с детьми",
    "голая девочка",
    "голые дети",
    "голый ребенок",
    "儿童色情",
    "兒童色情",
    "幼女色情",
    "児童ポルノ",
    "아동 포르노",
)
# Said by itself, each of these is about something else: taken out before anything is looked for.
_INNOCENT = (
    "naked mole rat",
    "naked mole rats",
    "naked eye",
    "naked truth",
    "naked cat",
    "nude color",
    "nude colors",
    "nude colour",
    "nude colours",
    "nude colored",
    "nude coloured",
    "nude tone",
    "nude tones",
    "nude lipstick",
    "nude shade",
    "nude shades",
    "nude palette",
    "nude heels",
    "nude pink",
    "pussy willow",
    "pussy willows",
    "pussy cat",
    "sexual abuse",
    "sexually abused",
    "sexual assault",
    "sexually assaulted",
    "sexual exploitation",
    "sexually exploited",
    "sexual violence",
    "sexual harassment",
    "sexual education",
    "sexual health",
    "sexual orientation",
    "sexual reproduction",
    "sexual development",
    "sexual dimorphism",
    "sexual predator",
    "sexual predators",
    "sexual offender",
    "sexual offences",
    "sexual offenses",
    "against rape",
    "rape prevention",
    "anti rape",
    "rape seed",
    "rape crisis",
    "kid gloves",
    "kids menu",
    "elementary school teacher",
    "primary school teacher",
    "middle school teacher",
    "kindergarten teacher",
    "preschool teacher",
    "child psychologist",
    "child of god",
    "inner child",
    "no kids",
    "no children",
    "no child",
    "child free",
    "childfree",
)
_UNDRESSING = (
    r"(?:undress|nudify|nudity filter|strip)(?:es|ing)? (?:her|him|them|this|that|my|the) ?(?:\w+ ){0,2}"
    r"(?:girl|woman|lady|photo|picture|image|friend|ex|girlfriend|wife|coworker|colleague|classmate|teacher|neighbou?r)",
    r"(?:remove|take off|erase|delete) (?:her|his|their|the) (?:\w+ )?(?:clothes|clothing|dress|shirt|bikini|bra|top)"
    r"(?: (?:from|in|of|on) (?:this|that|the|my) (?:photo|picture|image|photograph|woman|girl|person))?",
    r"deep ?fakes? (?:\w+ ){0,2}(?:porn|nudes?|naked|sex)",
    r"(?:porn|nudes?|naked|sex) deep ?fakes?",
    r"nudify",
)
_CLOTHING = re.compile(r"\b(?:clothe[sd]?|clothing|dressed|underwear|panties|pants|swimsuit|bra)\b")

# An age under 18, in digits or words; not of what ages well.
_AGED = (
    r"(?:whisk(?:e)?y|scotch|wine|rum|bourbon|cognac|port|cheese|car|house|home|building|tree|dog|cat|horse|company|"
)
_AGED += r"marriage|laptop|computer|phone|bottle|malt|barrel|church|bridge|boat|truck|recipe)"
_WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
_NUMBER = rf"(?:[1-9]|1[0-7]|{'|'.join(_WORDS.split())})"
_AGE = re.compile(
    rf"(?<![\w.,/])(?:age[ds]?|aged)[ :]{{1,3}}{_NUMBER}(?![\w.]|,\d)"
    rf"|(?<![\w.,/]){_NUMBER}[ -]?(?:y(?:ea)?rs?[ -]{{1,2}}olds?|y[/.]?o\b\.?)(?![ -]+(?:\w+ )?{_AGED}\b)"
)
# "Never write sexual content about minors" is what a careful assistant is told.
_FORBIDS = re.compile(
    r"\b(?:do not|don'?t|never|must not|mustn'?t|may not|cannot|can'?t|will not|won'?t|should not|refuse to|avoid|no)\b"
    r"[^.!?\n]{0,40}\b(?:write|writing|produce|producing|generate|generating|create|creating|include|including|depict"
    r"|depicting|describe|describing|engage|engaging|allow|allowed|provide|discuss|show|contain|content|sexuali[sz]e"
    r"|sexuali[sz]ing)\b[^.!?\n]*"
)
_TURNED_ROUND = re.compile(r"\b(?:but|except|unless|other than|anything else|instead|only)\b")
_NO_LETTERS = re.compile(r"[^\w]+")


def _words(text: str) -> str:
    """A reading as words with single spaces between them."""
    return _NO_LETTERS.sub(" ", text.replace("_", " ")).strip()


def _bones(terms: Iterable[str]) -> str:
    """The skeletons of these terms, as alternatives of a pattern."""
    known = sorted({skeleton(_words(plain(term))) for term in terms}, key=lambda term: (-len(term), term))
    return "|".join(re2.escape(term) for term in known)


def _any_of(terms: Iterable[str]) -> Any:
    """Finds one of the terms, as whole words, in the skeleton of words. By RE2: one pass, however many there are."""
    return re2.compile(rf"\b(?:{_bones(terms)})\b")


_SEXUAL_BONES = _bones([*_SEXUAL, *_SEXUAL_PHRASES])
_SEXUAL_TERMS = re2.compile(rf"\b(?:{_SEXUAL_BONES})\b")
_MINOR_TERMS = _any_of([*_MINOR, *_MINOR_PHRASES])
_INNOCENT_TERMS = _any_of(_INNOCENT)
# Written as one word, as spaced letters and hashtags are.
_JOINED_SEXUAL = _bones(_terms("naked nude nudes nsfw porn hentai sex sexy"))
_JOINED_MINOR = _bones(
    _terms(
        "child children kid kids littlegirl littleboy younggirl toddler schoolgirl preteen underage loli shota infant"
    )
)
_JOINED = rf"(?:{_JOINED_SEXUAL})(?:{_JOINED_MINOR})|(?:{_JOINED_MINOR})(?:{_JOINED_SEXUAL})"
_ALWAYS_BONES = f"{_bones(_ALWAYS)}|{_JOINED}"
_ALWAYS_TERMS = re2.compile(rf"\b(?:{_ALWAYS_BONES})\b")
# Either, in one look: nearly every prompt has neither.
_SUSPICIOUS_TERMS = re2.compile(rf"\b(?:{_SEXUAL_BONES}|{_ALWAYS_BONES})\b")
_UNDRESSING_TERMS = re.compile("|".join(rf"\b(?:{term})\b" for term in _UNDRESSING))
_ELSEWHERE = tuple(plain(term) for term in _ALWAYS_ELSEWHERE)


def found_in(texts: Sequence[str], *, negative: Sequence[str] = (), prose: bool) -> Category | None:
    """The category that these texts of one submission fall under together, None for ordinary ones.

    ``prose``: they are read or said (an answer, speech, lyrics), so that words far apart have nothing to do with each
    other; else they describe one picture. ``negative`` says what the picture should not have: a list, whose entries are
    looked at one by one.
    """
    for text in texts:
        for reading in readings(text):
            category = _look(reading, prose=prose)
            if category is not None:
                return category
    for text in negative:
        if _CLOTHING.search(plain(text)) is not None and any(map(_speaks_of_a_minor, texts)):
            return Category.SEXUAL_MINORS
        for entry in re.split(r"[,;\n|]", text):
            for reading in readings(entry):
                category = _look(reading, prose=False)
                if category is not None:
                    return category
    return None


def _look(reading: str, *, prose: bool) -> Category | None:
    words = _words(reading)
    bones = skeleton(words)
    if any(term in reading for term in _ELSEWHERE):
        return Category.SEXUAL_MINORS
    if not prose and _UNDRESSING_TERMS.search(words) is not None:
        return Category.NONCONSENSUAL_INTIMATE
    if _SUSPICIOUS_TERMS.search(bones) is None:
        return None
    if prose:
        reading = _FORBIDS.sub(lambda match: match[0] if _TURNED_ROUND.search(match[0]) else " ", reading)
        bones = skeleton(_words(reading))
    if _ALWAYS_TERMS.search(bones) is not None:
        return Category.SEXUAL_MINORS
    bones = _INNOCENT_TERMS.sub("-", bones)
    sexual = [match.start() for match in _SEXUAL_TERMS.finditer(bones)]
    if not sexual:
        return None
    # Places in the skeleton and in the reading differ by what was shortened: near enough for a rule of two sentences.
    scale = len(bones) / max(1, len(reading))
    minors = [match.start() for match in _MINOR_TERMS.finditer(bones)]
    minors += [round(match.start() * scale) for match in _AGE.finditer(reading)]
    if any(not prose or _distance(sexual, place) <= NEAR_CHARS for place in minors):
        return Category.SEXUAL_MINORS
    return None


def _speaks_of_a_minor(text: str) -> bool:
    return any(
        _AGE.search(reading) is not None
        or _MINOR_TERMS.search(_INNOCENT_TERMS.sub("-", skeleton(_words(reading)))) is not None
        for reading in readings(text)
    )


def _distance(places: Sequence[int], to: int) -> int:
    """From the nearest of some sorted places."""
    following = bisect.bisect_left(places, to)
    return min(abs(place - to) for place in places[max(0, following - 1) : following + 1])
