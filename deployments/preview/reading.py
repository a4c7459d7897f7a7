"""How the preview text engine reads: a question apart from its context, sentences, and the words that carry meaning.

Pure functions of text; nothing here understands anything.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from deployments.preview import verses

STOPWORDS = frozenset(
    [
        "a",
        "about",
        "after",
        "all",
        "also",
        "am",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "because",
        "been",
        "before",
        "being",
        "but",
        "by",
        "can",
        "could",
        "did",
        "do",
        "does",
        "doing",
        "down",
        "for",
        "from",
        "had",
        "has",
        "have",
        "having",
        "he",
        "her",
        "here",
        "hers",
        "him",
        "his",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "just",
        "like",
        "me",
        "more",
        "most",
        "my",
        "no",
        "not",
        "of",
        "off",
        "on",
        "once",
        "only",
        "or",
        "other",
        "our",
        "out",
        "over",
        "own",
        "please",
        "same",
        "she",
        "should",
        "so",
        "some",
        "such",
        "tell",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "through",
        "to",
        "too",
        "under",
        "until",
        "up",
        "us",
        "very",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "who",
        "whom",
        "why",
        "will",
        "with",
        "would",
        "you",
        "your",
    ]
)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked (``text``), what it is asked about (``context``, may be empty), and how to choose words."""

    text: str
    context: str
    choice: verses.Choice


def split_question(asked: str) -> tuple[str, str]:
    """An instruction and the text that it is about: 'summarise: …', a text with a question before or after it."""
    match = re.match(
        r"(?is)\s*(?:text|context|passage)\s*:\s*(.+?)\n+\s*(?:question|q|task)\s*:\s*(.+?)(?:\n+\s*(?:answer|a)\s*:?\s*)?$",
        asked,
    )
    if match:
        return match[2].strip(), match[1].strip()
    match = re.match(r"(?is)\s*(?:question|q)\s*:\s*(.+?)\n+\s*(?:text|context|passage)\s*:\s*(.+)$", asked)
    if match:
        return match[1].strip(), match[2].strip()
    head, colon, rest = asked.partition(":")
    if colon and rest.strip() and len(head) <= 120 and "\n" not in head and "?" not in head and "//" not in rest[:3]:
        return head.strip(), rest.strip()
    blocks = [block.strip() for block in re.split(r"\n\s*\n", asked) if block.strip()]
    if len(blocks) > 1:
        instruction = min((0, -1), key=lambda index: len(blocks[index]))
        others = blocks[1:] if instruction == 0 else blocks[:-1]
        return blocks[instruction], "\n\n".join(others)
    parts = sentences(asked)
    if len(parts) >= 3:
        for index in (-1, 0):
            if parts[index].endswith("?"):
                rest_parts = parts[:-1] if index == -1 else parts[1:]
                return parts[index], " ".join(rest_parts)
    return asked, ""


def sentences(text: str) -> list[str]:
    """The sentences of a text, without those that are empty."""
    found = re.split(r"(?<=[.!?…])[\"')\]]*\s+|\n\s*\n|\n(?=[-*•\d])", text.strip())
    return [" ".join(sentence.split()) for sentence in found if sentence.strip()]


def words(text: str) -> list[str]:
    """Lower-case words, with the plural's s taken off so that 'cats' meets 'cat'."""
    return [stem(word) for word in re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+(?:[.,]\d+)*", text.lower())]


def stem(word: str) -> str:
    for ending in ("'s", "ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)].rstrip("e")
    return word.rstrip("e") if len(word) > 4 else word


def content_words(text: str) -> list[str]:
    """The words that carry meaning."""
    return [stem(w) for w in re.findall(r"[^\W_]+(?:'[^\W\d_]+)?", text.lower()) if w not in STOPWORDS and len(w) > 1]


def salient(found: Sequence[str], n: int) -> list[str]:
    """The n sentences that hold most of the text's frequent words, in the text's order; the first one has a bonus."""
    if len(found) <= n:
        return list(found)
    frequency = Counter(word for sentence in found for word in set(content_words(sentence)))
    scores = []
    for index, sentence in enumerate(found):
        own = set(content_words(sentence))
        score = sum(frequency[word] for word in own) / (len(own) + 4) ** 0.75
        scores.append((score * (1.25 if index == 0 else 1.0), index))
    chosen: list[int] = []
    for _, index in sorted(scores, key=lambda pair: (-pair[0], pair[1])):
        own = set(content_words(found[index]))
        if all(len(own & set(content_words(found[c]))) < 0.7 * max(1, len(own)) for c in chosen):
            chosen.append(index)
        if len(chosen) == n:
            break
    return [found[index] for index in sorted(chosen)]


def keywords(text: str, n: int) -> list[str]:
    """The n most telling words of a text, as they stand in it."""
    shown: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for word in re.findall(r"[^\W\d_]{3,}", text):
        if word.lower() not in STOPWORDS:
            key = stem(word.lower())
            shown.setdefault(key, word.lower())
            counts[key] += 1 + (0.5 if word[0].isupper() else 0)  # type: ignore[assignment]
    ranked = sorted(counts, key=lambda key: (-counts[key], -len(key), key))
    return [shown[key] for key in ranked[:n]]
