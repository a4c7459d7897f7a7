"""What the preview text engine can answer exactly: arithmetic, counting, sorting and other changes of a text, lists.

Each function recognises its own questions and answers them, or returns "" to step aside. Pure.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable

from deployments.preview.reading import Question, keywords, sentences

_OPERATORS: dict[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


# Words that stand around a sum without changing it.
_ASKING = frozenset(
    re.findall(
        r"\w+",
        "what is s are whats calculate compute solve how much work out please the result of value evaluate equals "
        "equal to and can you tell me sum answer it",
    )
)


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
    rest = set(re.findall(r"[a-z]+", text)) - _ASKING
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
