"""A text in pieces that can be spoken one after the other: sentences, as far as their punctuation tells. Pure.

A full stop does not always end a sentence: not in 3.14, Dr. Smith, J. R. R. Tolkien, e.g. this, example.org, and in
many languages not after the number of a day.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Pause(Enum):
    """What follows a piece, in seconds of silence at normal speed."""

    NONE = 0.0  # the text goes on: it was cut only because it was long
    CLAUSE = 0.14
    SENTENCE = 0.34
    PARAGRAPH = 0.6


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A piece of the text and the pause after it."""

    text: str
    pause: Pause


_CLOSERS = "\"'”’»)]"
# An end mark, what closes behind it, and a space; East Asian marks need none.
_END = re.compile(rf"(?:[.!?…]+[{re.escape(_CLOSERS)}]*(?=\s))|(?:[。！？]+[{re.escape(_CLOSERS)}]*)")
_PARAGRAPH = re.compile(r"\n\s*\n|\r\n\s*\r\n")
_LINE_ITEM = re.compile(r"\s*(?:[-*•–]|\d{1,3}[.)])\s+\S")
# Lower case, without the last stop.
# In lower case and without the last stop: titles, Latin, measures, times and places; German; Romance languages.
_SHORT_WORDS = """
mr mrs ms mx dr prof rev hon st sr jr messrs mme mlle m hr fr frl sra srta d dª dott sig dipl ing
e.g i.e eg ie etc vs cf al ca approx ibid viz no nos nr núm num vol vols pp p pg ch sec fig figs eq art ed eds
a.m p.m am pm u.s u.k u.n u.s.a ft lb oz min hrs est ave blvd rd mt dept inc ltd co corp bros
jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri
z.b d.h u.a u.ä usw bzw vgl ggf evtl zzgl inkl bspw s.o s.u o.ä o.g z.t i.d.r bd str abb anm
p.ej ej pág págs ud uds p.ex ex c.-à-d env av ecc pag
"""
_ABBREVIATIONS = frozenset(_SHORT_WORDS.split())
# Of the others a following digit or capital is a part: "No. 5", "Fig. 2". These may end a sentence: "at 5 p.m. Then".
_FINAL_WORDS = "etc usw ecc al a.m p.m am pm inc ltd co corp u.s u.k u.n u.s.a env"
_MAY_END = frozenset(_FINAL_WORDS.split(" "))
_ORDINAL_LANGUAGES = ("de", "da", "nb", "no", "fi", "cs", "sk", "pl", "hu", "hr", "sl", "et", "lv", "is", "tr")


def pieces(text: str, *, limit: int, language: str = "en") -> list[Piece]:
    """The text in order, nothing of it left out but white space, each piece at most ``limit`` characters."""
    found: list[Piece] = []
    for paragraph in _PARAGRAPH.split(text):
        sentences = [sentence for line in _lines(paragraph) for sentence in _sentences(line, language)]
        for index, sentence in enumerate(sentences):
            last = Pause.PARAGRAPH if index == len(sentences) - 1 else Pause.SENTENCE
            found += _short(sentence, limit, last)
    return found


def _lines(paragraph: str) -> Iterator[str]:
    """Lines are joined where the text was only wrapped; headings and items of a list stay apart."""
    joined = ""
    for line in paragraph.splitlines():
        line = line.strip()
        if not line:
            continue
        new = not joined or _LINE_ITEM.match(line) or (joined[-1] not in ",;:-–" and not line[0].islower())
        if joined and new:
            yield joined
            joined = line
        else:
            joined = f"{joined} {line}" if joined else line
    if joined:
        yield joined


def _sentences(line: str, language: str) -> Iterator[str]:
    start = 0
    for end in _END.finditer(line):
        rest = line[end.end() :].lstrip()
        if rest and not _ends(line[start : end.start()], end.group(), rest, language):
            continue
        if sentence := line[start : end.end()].strip():
            yield sentence
        start = end.end()
    if sentence := line[start:].strip():
        yield sentence


def _ends(before: str, mark: str, rest: str, language: str) -> bool:
    """Whether the mark between these two is the end of a sentence."""
    mark = mark.rstrip(_CLOSERS)
    if mark != ".":
        # '…' and '?!' before a small letter go on: "Well… perhaps", '"Why?" she asked'.
        return not (rest[0].islower() and ("…" in mark or "..." in mark or "?" in mark or "!" in mark))
    if rest[0].islower():
        return False
    word = re.split(r"[\s(\[\"'“„«/]", before)[-1].lower()
    if word in _ABBREVIATIONS:
        return word in _MAY_END and rest[0].isupper()
    if re.fullmatch(r"[^\W\d_]", word) and before[-1:].isupper():  # an initial: J. R. R. Tolkien
        return False
    ordinal = re.fullmatch(r"\d{1,2}", word) is not None and language.split("-")[0] in _ORDINAL_LANGUAGES
    return not (ordinal or re.fullmatch(r"\d{1,3}", before.strip()))  # "1. Wash it" is one piece


def _short(sentence: str, limit: int, pause: Pause) -> Iterator[Piece]:
    """A sentence in pieces that are short enough: cut at a comma if there is one, else between words, else anywhere."""
    rest = sentence
    while len(rest) > limit:
        head = rest[:limit]
        comma = max((match.end() for match in re.finditer(r"[,;:—–](?=\s)|[，、；：]", head)), default=0)
        cut, after = comma, Pause.CLAUSE
        if cut < limit // 4:
            cut, after = head.rfind(" ") + 1 or limit, Pause.NONE
        if text := rest[:cut].strip():
            yield Piece(text=text, pause=after)
        rest = rest[cut:].strip()
    if rest:
        yield Piece(text=rest, pause=pause)
