"""What the preview text engine says: pure functions from a conversation to a reply.

Nothing here pretends to understand. A competence either recognises its question and answers exactly, or steps aside;
the last one always answers and says that no language model is at work.
"""

from __future__ import annotations

import ast
import math
import operator
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
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


def reply(messages: Sequence[tuple[str, str]], *, seed: int, temperature: float) -> str:
    """The answer to the last message of a user.

    The same seed gives the same words; temperature 0 gives the first choice of each, whatever the seed.
    """
    asked = next((content for role, content in reversed(messages) if role == "user"), messages[-1][1]).strip()
    earlier = "\n\n".join(content for role, content in messages if role != "assistant" and content.strip() != asked)
    rng = random.Random(f"{seed}:{asked}")  # noqa: S311 the choice of words is no secret
    text, context = split_question(asked)
    question = Question(text=text, context=context or earlier, choice=verses.Choice(rng, temperature))
    for competence in COMPETENCES:
        answer = competence(question)
        if answer:
            return answer
    return honest(question)


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


# ---- competences: a reply, or "" to step aside ----


def small_talk(question: Question) -> str:
    text = re.sub(r"[^\w\s']", "", question.text.lower()).strip()
    if re.fullmatch(r"(hi|hello|hey|hallo|hola|good (morning|evening|afternoon|day))( there| tessera| all)?", text):
        return question.choice.of(
            "Hello! I am Tessera's preview text engine. I have no language model, but I can calculate, count, make "
            "lists, summarise a text that you give me and find answers in it.",
            "Hello! This is the preview engine: no language model, but good at sums, lists, counting, and at finding "
            "the answer in a text that you paste.",
            "Hi! Ask me to summarise a text, to calculate something, or to write a small poem. I am only a preview "
            "engine, without a language model.",
        )
    if re.match(r"(thanks|thank you|thx|cheers)\b", text):
        return question.choice.of("You are welcome!", "Gladly.", "Any time.")
    if re.search(r"\b(who|what) are you\b|\bwhat can you do\b|\byour name\b|\bwhich model\b", text) and len(text) < 80:
        return (
            "I am preview-text, the built-in text engine of Tessera. I run anywhere because there is no language model "
            "in me. What I do well:\n\n"
            '- arithmetic: "what is 15% of 80", "(3 + 4) * 12"\n'
            '- summaries: "summarise in 2 sentences: …"\n'
            "- questions about a text that you paste\n"
            "- counting words, letters, sentences; sorting; lists such as primes or planets\n"
            "- small poems and stories from templates\n\n"
            "For real answers the operator connects a language model, for example through KoboldCPP."
        )
    if re.search(r"\b(say|repeat|echo)\b", text) and (match := re.search(r"[\"“](.+?)[\"”]", question.text)):
        return match[1]
    return ""


def translation(question: Question) -> str:
    if re.search(r"\btranslate|translation\b", question.text.lower()):
        return (
            "I cannot translate: this is the preview engine, and it has no language model. Choose a text model that "
            "runs on a GPU, and the same request will work there."
        )
    return ""


_OPERATORS: dict[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def arithmetic(question: Question) -> str:
    text = question.text if not question.context else f"{question.text} {question.context}"
    if len(text) > 200:
        return ""
    text = text.lower().replace("×", "*").replace("·", "*").replace("÷", "/").replace("−", "-").replace("^", "**")
    text = re.sub(r"(\d),(?=\d{3}\b)", r"\1", text)
    text = re.sub(r"(\d+(?:\.\d+)?)\s*(?:%|percent|per cent)\s+of\s+(\d+(?:\.\d+)?)", r"(\1/100*\2)", text)
    text = re.sub(r"(?:the )?square root of\s+(\d+(?:\.\d+)?)|√\s*(\d+(?:\.\d+)?)", r"(\1\2**0.5)", text)
    for word, sign in (
        ("plus", "+"),
        ("minus", "-"),
        ("multiplied by", "*"),
        ("times", "*"),
        ("divided by", "/"),
        ("over", "/"),
        ("to the power of", "**"),
        ("modulo", "%"),
        ("mod", "%"),
        ("squared", "**2"),
        ("cubed", "**3"),
    ):
        text = (
            re.sub(rf"(?<=[\d\s)]){word}(?=[\s\d(]|$)", sign, text)
            if word not in ("squared", "cubed")
            else text.replace(word, sign)
        )
    text = re.sub(r"(?<=\d)\s*x\s*(?=\d)", "*", text)
    best = max(re.findall(r"[\d.()+\-*/%\s]+", text), key=lambda part: len(re.findall(r"\d", part)), default="").strip()
    rest = set(re.findall(r"[a-z]+", text)) - set(
        [
            "what",
            "is",
            "s",
            "are",
            "whats",
            "calculate",
            "compute",
            "solve",
            "how",
            "much",
            "work",
            "out",
            "please",
            "the",
            "result",
            "of",
            "value",
            "evaluate",
            "equals",
            "equal",
            "to",
            "and",
            "can",
            "you",
            "tell",
            "me",
            "sum",
            "answer",
            "it",
        ]
    )
    if not re.search(r"\d\s*\)?\s*(\*\*|[-+*/%])\s*\(?\s*-?\s*\(?\d", best) or len(rest) > 2:
        return ""
    try:
        value = evaluate(best.rstrip("-+*/% ."))
    except (SyntaxError, ValueError, OverflowError):
        return ""
    except ZeroDivisionError:
        return "That divides by zero, which has no value."
    shown = f"{round(value, 10):,.10f}".rstrip("0").rstrip(".") if abs(value) < 1e15 else f"{value:g}"
    return question.choice.of(f"{shown}", f"The result is {shown}.", f"That makes {shown}.")


def evaluate(expression: str) -> float:
    """The value of an expression of numbers, + - * / // % ** and brackets. Raises ValueError for anything else."""

    def value(node: ast.AST) -> float:
        if isinstance(node, ast.Expression):
            return value(node.body)
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            return -value(node.operand) if isinstance(node.op, ast.USub) else value(node.operand)
        if isinstance(node, ast.BinOp):
            left, right = value(node.left), value(node.right)
            if isinstance(node.op, ast.Pow):
                if abs(right) > 64 or abs(left) > 1e6:
                    raise ValueError("power too large")
                result = left**right
                if isinstance(result, complex):
                    raise ValueError("not a real number")
                return float(result) if isinstance(right, float) else result
            if type(node.op) in _OPERATORS:
                return _OPERATORS[type(node.op)](left, right)
        raise ValueError("not arithmetic")

    result = value(ast.parse(expression.strip(), mode="eval"))
    if isinstance(result, float) and not math.isfinite(result):
        raise ValueError("not finite")
    return result


def counting(question: Question) -> str:
    text = question.text.lower()
    subject = question.context or next(iter(re.findall(r"[\"“](.+?)[\"”]", question.text)), "")
    if not subject or not re.search(r"\bhow many\b|\bcount\b|\bnumber of\b", text):
        return ""
    if letter := re.search(r"(?:letter |how many )[\"'‘“]?([a-z])[\"'’”]?(?:'?s)?\b", text):
        n = subject.lower().count(letter[1])
        return f"The letter {letter[1]} appears {n} time{'s' * (n != 1)}."
    counted = {
        "word": len(re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", subject)),
        "sentence": len(sentences(subject)),
        "line": len(subject.splitlines()),
        "paragraph": len([b for b in re.split(r"\n\s*\n", subject) if b.strip()]),
        "letter": sum(char.isalpha() for char in subject),
        "character": len(subject),
        "vowel": sum(char in "aeiou" for char in subject.lower()),
    }
    for noun, n in counted.items():
        if noun in text:
            return f"{n:,} {noun}{'s' * (n != 1)}."
    return ""


def transforming(question: Question) -> str:
    text, subject = question.text.lower(), question.context
    if not subject:
        return ""
    separator = "\n" if "\n" in subject else ","
    items = [item.strip(" -•\t") for item in re.split(r"[\n]" if separator == "\n" else r",", subject) if item.strip()]
    if re.search(r"\bsort|alphabeti[sc]", text) and len(items) > 1:
        numbers = all(re.fullmatch(r"-?\d+(\.\d+)?", item) for item in items)
        ordered = sorted(items, key=(lambda i: (float(i), "")) if numbers else (lambda i: (0.0, i.lower())))
        if re.search(r"descend|reverse|largest first", text):
            ordered.reverse()
        return "\n".join(ordered) if separator == "\n" else ", ".join(ordered)
    if re.search(r"\b(upper ?case|capital letters|capitals)\b", text):
        return subject.upper()
    if re.search(r"\blower ?case\b", text):
        return subject.lower()
    if re.search(r"\breverse|backwards\b", text):
        return (
            subject[::-1]
            if len(items) < 2
            else "\n".join(reversed(items))
            if separator == "\n"
            else ", ".join(reversed(items))
        )
    if re.search(r"\b(e-?mail addresses|emails?)\b", text) and re.search(r"extract|find|list", text):
        found = re.findall(r"[\w.+-]+@[\w-]+\.[\w.-]*\w", subject)
        return "\n".join(dict.fromkeys(found)) or "There is no e-mail address in the text."
    if re.search(r"\b(extract|find|list)\b.*\bnumbers\b", text):
        return ", ".join(re.findall(r"-?\d+(?:[.,]\d+)*", subject)) or "There is no number in the text."
    if re.search(r"\bkey ?words|key ?phrases|topics|tags\b", text):
        return ", ".join(keywords(subject, 8)) or "The text is too short to have keywords."
    if re.search(r"\btitle|headline\b", text):
        return " ".join(word.capitalize() for word in keywords(subject, 4)) or subject[:60]
    return ""


_LISTS: dict[str, str] = {
    r"days of the week|weekdays": "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
    r"months": "January, February, March, April, May, June, July, August, September, October, November, December",
    r"planets": "Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, Neptune",
    r"continents": "Africa, Antarctica, Asia, Australia, Europe, North America, South America",
    r"oceans": "Pacific, Atlantic, Indian, Southern, Arctic",
    r"seasons": "spring, summer, autumn, winter",
    r"colou?rs": "red, orange, yellow, green, blue, indigo, violet, pink, brown, black, white, grey",
    r"alphabet": ", ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    r"fruits?": "apple, pear, plum, cherry, orange, grape, fig, mango, melon, peach, lemon, banana",
    r"animals?": "cat, dog, horse, fox, owl, whale, otter, hedgehog, swan, bee, lion, tortoise",
    r"vegetables?": "carrot, potato, onion, leek, pea, bean, spinach, beetroot, pumpkin, tomato, radish, cabbage",
    r"instruments?": "piano, violin, cello, flute, guitar, drum, harp, trumpet, oboe, organ, lute, saxophone",
}


def listing(question: Question) -> str:
    text = question.text.lower()
    if question.context or not re.search(r"\blist|name|give|what are|count|write|which|first|say|recite\b", text):
        return ""
    number = re.search(r"\b(\d{1,3})\b", text)
    n = int(number[1]) if number else None
    if span := re.search(r"count (?:from (\d{1,4}) )?(?:up )?to (\d{1,4})\b|numbers from (\d{1,4}) to (\d{1,4})", text):
        low, high = int(span[1] or span[3] or 1), int(span[2] or span[4])
        return ", ".join(map(str, range(low, high + 1) if low <= high else range(low, high - 1, -1)))
    if "prime" in text:
        primes = [k for k in range(2, 7920) if all(k % d for d in range(2, math.isqrt(k) + 1))]
        return ", ".join(map(str, primes[: n or 10]))
    if "fibonacci" in text:
        series = [0, 1]
        while len(series) < (n or 10):
            series.append(series[-1] + series[-2])
        return ", ".join(map(str, series[: n or 10]))
    for pattern, items in _LISTS.items():
        if re.search(rf"\b(?:{pattern})\b", text):
            chosen = items.split(", ")[:n]
            return (
                "\n".join(f"{i}. {item}" for i, item in enumerate(chosen, 1))
                if pattern != "alphabet"
                else " ".join(chosen)
            )
    return ""


def summary(question: Question) -> str:
    text = question.text.lower()
    if not re.search(r"\bsummar|\btl;?dr\b|\bshorten\b|\bin short\b|\bmain points?\b|\bkey points?\b|\bbullet", text):
        return ""
    if not question.context:
        return 'Give me the text to summarise after a colon, like this: "summarise in 2 sentences: …".'
    found = sentences(question.context)
    numbers = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "a": 1, "single": 1}
    match = re.search(r"\b(\d{1,2}|one|two|three|four|five|single)\s+(?:short )?(?:sentence|bullet|point|line)", text)
    if match:
        n = numbers.get(match[1]) or int(match[1])
    else:
        n = max(1, min(5, round(len(found) / 4)))
    chosen = salient(found, n)
    if re.search(r"bullet|points?\b|list", text):
        return "\n".join(f"- {sentence}" for sentence in chosen)
    return " ".join(chosen)


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


def extraction(question: Question) -> str:
    """The sentence of the context that answers a question, by shared rare words and the kind of answer asked for."""
    asked = set(content_words(question.text))
    found = sentences(question.context)
    if not found or not asked or len(question.context.split()) < 5:
        return ""
    if "?" not in question.text and not re.match(
        r"(?i)\s*(who|what|when|where|which|why|how|is|are|was|does|did|answer|find)\b", question.text
    ):
        return ""
    spread = Counter(word for sentence in found for word in set(content_words(sentence)))
    lowered = question.text.lower()

    def score(sentence: str) -> float:
        shared = asked & set(content_words(sentence))
        value = sum(1.0 + math.log(len(found) / spread[word]) for word in shared)
        if value and re.search(r"\bwhen\b|\bhow (many|much|old|long|far|tall)\b|\bwhat (year|time|date)\b", lowered):
            value += 0.8 * bool(re.search(r"\d", sentence))
        if value and re.search(r"\bwho\b|\bwhere\b", lowered):
            value += 0.5 * bool(re.search(r"(?<!^)\b[A-Z][a-z]+", sentence))
        if value and "why" in lowered:
            value += 0.8 * bool(re.search(r"\bbecause|so that|due to|since|therefore\b", sentence.lower()))
        return value

    best = max(found, key=score)
    if score(best) <= 0:
        return "The text that you gave does not say. (I only look for shared words: this is the preview engine.)"
    return best


def creative(question: Question) -> str:
    text = question.text if not question.context else f"{question.text} {question.context}"
    match = re.search(r"(?i)\b(haiku|poem|verse|rhyme|limerick|song|lyrics|story|tale|fairy ?tale)\b", text)
    if not match or not re.search(r"(?i)\bwrite|tell|make|give|compose|create|a |me\b", text):
        return ""
    subject = re.search(
        r"(?i)\b(?:about|on|of|for)\s+(?:an?\s+|the\s+)?(.{2,60}?)(?:[.,;:!?\n]|$)", text[match.end() :]
    )
    topic = subject[1].strip() if subject else "the sea"
    form = match[1].lower().replace(" ", "")
    if form == "haiku":
        return verses.haiku(topic, question.choice)
    if form in ("story", "tale", "fairytale"):
        return verses.story(topic, question.choice, long=bool(re.search(r"(?i)\blong\b|\bnovel\b", text)))
    return verses.poem(topic, question.choice)


def continuation(question: Question) -> str:
    """A continuation by word n-grams of the text itself, where there is enough of it and that is what was asked."""
    source = question.context or question.text
    if not re.search(r"(?i)\b(continue|go on|complete|carry on|more like)\b", question.text):
        return ""
    if len(source.split()) < 20:
        return ""
    continued = verses.ngrams(source, question.choice, limit=120)
    return f"{continued}\n\n(Continued by word statistics of your own text: the preview engine has no language model.)"


def honest(question: Question) -> str:
    """What is said when nothing above fits: the truth, and what would help."""
    topics = keywords(f"{question.text} {question.context}", 3)
    named = (
        f" about {topics[0]}"
        if len(topics) == 1
        else f" about {', '.join(topics[:-1])} and {topics[-1]}"
        if topics
        else ""
    )
    opening = question.choice.of(
        f"You asked{named}. I cannot really answer that: I am Tessera's preview engine, and there is no language model in me.",
        f"That is a question{named} for a language model, and this preview engine has none.",
        f"I see that this is{named}, but I am only a preview engine without a language model, so I know nothing that you do not give me.",
    )
    if question.context and len(sentences(question.context)) > 1:
        gist = " ".join(salient(sentences(question.context), 2))
        return f"{opening}\n\nWhat I can say of your text is its gist: {gist}"
    offer = question.choice.of(
        "Paste a text and ask about it, ask me to summarise it, or try a sum, a list or a small poem.",
        "What works here: a question about a text that you paste, a summary, arithmetic, lists, counting, a haiku.",
        "I do well with sums, lists, counting, summaries and questions about a text that you give me.",
    )
    closing = question.choice.of(
        "With a real model behind it, this same request will get a real answer.",
        "As soon as the operator adds a GPU model, the same request gets a real answer.",
        "The request itself was fine: send it to a model that runs on a GPU.",
    )
    return f"{opening} {offer} {closing}"


COMPETENCES: tuple[Callable[[Question], str], ...] = (
    small_talk,
    translation,
    summary,
    arithmetic,
    counting,
    transforming,
    creative,
    listing,
    continuation,
    extraction,
)
