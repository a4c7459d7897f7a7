"""The words of the bots: no language lacks one, none is superfluous, and each can be put together."""

from __future__ import annotations

import ast
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fluent.syntax import FluentParser
from fluent.syntax import ast as ftl

from bots.core.commands import commands_of
from bots.core.messages import DEFAULT, FOLDER, LANGUAGES, Messages, choose, clock, number
from bots.core.refusals import refusal_view
from bots.core.status import KNOWN_REASONS
from tessera.client import ApiError

ROOT = Path(__file__).parents[3] / "bots"
# Names that the code puts together, each from a closed set.
COMMANDS = {command.name for kind in ("image", "video") for command in commands_of(kind)}
OPTIONS = {option.name for kind in ("image", "video") for command in commands_of(kind) for option in command.options}
# Words that are the same in another language: names, units, and what these languages have taken over.
SAME_WORDS = frozenset(
    {
        "span-minutes",
        "name-video",
        "ask-field",
        "button-original",
        "done-facts",
        "settings-ratio",
        "settings-spoiler",
        "usage-title",
        "button-rules-spoiler",
    }
)
# Words of English that stand in no sentence of the other languages.
ENGLISH_ONLY = frozenset({"the", "and", "your", "with", "this", "that", "nothing", "wait", "you", "from", "of", "is"})
BUILT = (
    {f"command-{name}" for name in COMMANDS}
    | {f"name-{name}" for name in COMMANDS}
    | {f"option-{name}" for name in OPTIONS}
    | {f"reason-{code}" for code in KNOWN_REASONS}
    | {f"settings-{name}" for name in ("model", "ratio", "spoiler", "language")}
)


def entries(language: str) -> dict[str, ftl.Message]:
    resource = FluentParser().parse((FOLDER / f"{language}.ftl").read_text(encoding="utf-8"))
    junk = [entry.content for entry in resource.body if isinstance(entry, ftl.Junk)]
    assert not junk, f"{language}.ftl cannot be read: {junk[0][:200]}"
    found = [entry for entry in resource.body if isinstance(entry, ftl.Message)]
    names = [entry.id.name for entry in found]
    assert len(names) == len(set(names)), f"twice in {language}.ftl: {[n for n in names if names.count(n) > 1]}"
    return {entry.id.name: entry for entry in found}


def variables(message: ftl.Message) -> set[str]:
    return set(re.findall(r"'name': '(\w+)', '[^']*'|VariableReference\(id=Identifier\(name='(\w+)'", "")) or {
        node.id.name for node in _walk(message) if isinstance(node, ftl.VariableReference)
    }


def _walk(node: object) -> list[object]:
    found = [node]
    values = vars(node).values() if isinstance(node, ftl.BaseNode) else []
    for value in values:
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ftl.BaseNode):
                found += _walk(child)
    return found


def used() -> set[str]:
    """Every text in the code of the bots that could name a message."""
    found: set[str] = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def asked_for() -> dict[str, set[str]]:
    """Calls ``words("name", a=…)`` with a literal name, and the values they give."""
    found: dict[str, set[str]] = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "words"
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                if any(keyword.arg is None for keyword in node.keywords):
                    continue
                found.setdefault(str(node.args[0].value), set()).update(str(k.arg) for k in node.keywords)
    return found


def test_every_message_that_the_code_asks_for_is_there() -> None:
    missing = (set(asked_for()) | BUILT) - set(entries(DEFAULT))
    assert not missing


def test_no_message_is_superfluous() -> None:
    assert not set(entries(DEFAULT)) - used() - BUILT


@pytest.mark.parametrize("language", [each for each in LANGUAGES if each != DEFAULT])
def test_no_language_lacks_a_message_or_has_one_more(language: str) -> None:
    theirs, ours = set(entries(language)), set(entries(DEFAULT))
    assert theirs == ours, f"missing: {sorted(ours - theirs)}; superfluous: {sorted(theirs - ours)}"


@pytest.mark.parametrize("language", [each for each in LANGUAGES if each != DEFAULT])
def test_no_english_is_left_in_another_language(language: str) -> None:
    english, theirs = entries(DEFAULT), entries(language)
    same = {name for name in english if words_in(theirs[name]) == words_in(english[name]) != []}
    assert same <= SAME_WORDS, f"in {language} as in English: {sorted(same - SAME_WORDS)}"
    for name, message in theirs.items():
        left = ENGLISH_ONLY & {word.lower() for word in words_in(message)}
        assert not left, f"{name} in {language} says {sorted(left)}"


def test_what_the_api_says_in_english_is_told_in_the_persons_words() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    for language in LANGUAGES:
        words = Messages().words(language)
        for error in refusals():
            shown = refusal_view(error, words, now).text
            assert "Zebra" not in shown, f"{error.code} in {language}: {shown}"


def refusals() -> list[ApiError]:
    """Each refusal of the API, with a word in it that stands in none of our messages."""
    errors: list[ApiError] = []
    for code, status in (("invalid_input", 422), ("payload_too_large", 413), ("forbidden", 403), ("conflict", 409)):
        errors.append(ApiError(message="Zebra.", status=status, code=code))
    for code, status in (("quota_exhausted", 402), ("rate_limited", 429), ("content_blocked", 422), ("gone", 410)):
        errors.append(ApiError(message="Zebra.", status=status, code=code))
    for field in ("input.duration_s", "input.width", "input.prompt", "input.fps"):
        problems = [{"field": field, "message": "Zebra must be at most 4"}]
        errors.append(ApiError(message="Zebra.", status=422, code="invalid_input", details={"errors": problems}))
    return errors


def words_in(message: ftl.Message) -> list[str]:
    """The words of a message, without what is put in, options (--ar), commands (/rules) and addresses."""
    texts = [str(node.value) for node in _walk(message) if isinstance(node, ftl.TextElement)]
    plain = re.sub(r"--\w+( \w+)?|/\w+", " ", " ".join(texts))
    return re.findall(r"[^\W\d_]{2,}", plain)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_message_takes_the_values_that_the_code_gives(language: str) -> None:
    english = entries(DEFAULT)
    for name, message in entries(language).items():
        assert variables(message) == variables(english[name]), f"{name} in {language}"
    given = asked_for()
    for name, values in given.items():
        assert variables(english[name]) <= values, f"{name}: the code gives {values}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_message_can_be_put_together(language: str) -> None:
    words = Messages().words(language)
    for name, message in entries(language).items():
        text = words(name, **dict.fromkeys(variables(message), 2))
        assert text and "{" not in text, name


@pytest.mark.parametrize("language", LANGUAGES)
def test_command_names_are_such_as_discord_takes(language: str) -> None:
    words = Messages().words(language)
    names = [words(f"name-{name}") for name in COMMANDS]
    assert all(re.fullmatch(r"[-_\w]{1,32}", name) and name == name.lower() for name in names), names
    assert len(set(names)) == len(names)
    assert all(1 <= len(words(f"command-{name}")) <= 100 for name in COMMANDS)
    assert all(1 <= len(words(f"option-{name}")) <= 100 for name in OPTIONS)


def test_a_language_is_the_persons_then_the_platforms_then_english() -> None:
    assert choose(("de", "ru"), LANGUAGES) == "de"
    assert choose((None, "pt-BR"), LANGUAGES) == "pt"
    assert choose((None, "fr", "es_MX"), LANGUAGES) == "es"
    assert choose((None, "fr"), LANGUAGES) == "en"
    assert choose((None, "en"), ("ru", "de")) == "ru"


def test_russian_counts_as_russians_do() -> None:
    words = Messages().words("ru")
    assert len({words("cancel-done", count=count) for count in (1, 2, 5)}) == 3


def test_numbers_and_times_are_written_for_people() -> None:
    now = datetime(2030, 1, 1, 12, 0, 30, tzinfo=UTC)
    assert clock(now + timedelta(hours=3, minutes=4, seconds=1), now) == "3:05"
    assert clock(now - timedelta(seconds=1), now) == "0:00"
    assert number(19.0, Messages().words("en")) == "19"
    assert number(0.75, Messages().words("de")) == "0,75"
