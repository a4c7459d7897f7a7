"""The documents against the repository: what they name is there. Links, images, commands, options, variables, tests."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from tessera.cli.app import app
from tessera.ports import WaitCode

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MIN_SYMPTOMS = 20

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_TESSERA = re.compile(r"(?<![\w./=:@-])(?:\.venv/bin/)?tessera +([a-z-][^|;&#)>]*)")
_MAKE = re.compile(r"(?<![\w./-])make ([a-z][a-z-]*)")
_CAPITALS = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Za-z0-9]+)+\b")
_CODE = ("*.py", "*.sql", "*.toml", "Makefile")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(path: Path) -> str:
    """A document without its blocks of code."""
    return _FENCE.sub("", text_of(path))


def snippets(path: Path) -> Iterator[str]:
    """Each line of its shell blocks, and each piece of inline code."""
    for language, block in _FENCE.findall(text_of(path)):
        if language in ("sh", "console"):
            # What a command prints is no command.
            for line in block.splitlines():
                if language == "sh":
                    yield line
                elif line.startswith("$ "):
                    yield line[2:]
    yield from _INLINE.findall(prose(path))


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives to the headings."""
    found = set()
    for heading in _HEADING.findall(prose(path)):
        plain = re.sub(r"[`*]", "", heading).strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


@cache
def code() -> str:
    folders = ("tessera", "deployments", "sql", "cluster", "bots", "benchmarks", ".ci")
    files = [ROOT / "Makefile"]
    for folder in folders:
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_and_images_resolve(document: Path) -> None:
    broken = []
    for target in _LINK.findall(prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        path = (document.parent / place).resolve() if place else document
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            broken.append(target)
    assert not broken, f"{name_of(document)} points at what is not there: {broken}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_command_and_option_exists(document: Path) -> None:
    wrong = [
        f"{words.strip()} ({why})"
        for snippet in snippets(document)
        for words in _TESSERA.findall(snippet)
        for why in _problems(words)
    ]
    assert not wrong, f"{name_of(document)} names what the command line does not have: {wrong}"


def _problems(words: str) -> Iterator[str]:
    try:
        given = shlex.split(words.replace("…", " "))
    except ValueError:
        given = words.split()
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and given and not given[0].startswith("-"):
        name = given.pop(0)
        found = command.commands.get(name)
        if found is None:
            yield f"there is no command {name!r}"
            return
        command = found
    options = {"--help", "-h"} | {option for parameter in command.params for option in parameter.opts}
    for word in given:
        option = word.split("=")[0]
        if re.fullmatch(r"--?[a-z][a-z-]*", option) and option not in options:
            yield f"{command.name} has no option {option}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_make_target_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {target for snippet in snippets(document) for target in _MAKE.findall(snippet)}
    assert named <= targets, f"{name_of(document)} names targets that the Makefile lacks: {named - targets}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_variables_and_constants_occur_in_the_code(document: Path) -> None:
    named = {name for snippet in snippets(document) for name in _CAPITALS.findall(snippet)}
    missing = sorted(name for name in named if not re.search(rf"\b{name}\b", code()))
    assert not missing, f"{name_of(document)} names what the code does not know: {missing}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_files_and_tests_that_are_named_are_there(document: Path) -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    missing = []
    for snippet in _INLINE.findall(prose(document)):
        if re.fullmatch(r"test_\w+", snippet) and f"def {snippet}(" not in tests:
            missing.append(snippet)
        path = re.fullmatch(r"(?:tessera|deployments|sql|cluster|tests|docs)/[\w./-]*", snippet)
        if path and "what_it_does" not in snippet and not (ROOT / snippet).exists():
            missing.append(snippet)
    assert not missing, f"{name_of(document)} names what is not there: {missing}"


def test_troubleshooting_has_a_command_and_a_fix_for_every_symptom() -> None:
    text = text_of(ROOT / "docs" / "troubleshooting.md")
    entries = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    assert len(entries) >= MIN_SYMPTOMS
    incomplete = [
        entry.splitlines()[0]
        for entry in entries
        if not re.search(r"^\*\*You see\*\* ", entry, re.MULTILINE)
        or not re.search(r"^\*\*Look\*\*\n\n```sh\n\S", entry, re.MULTILINE)
        or not re.search(r"^\*\*Fix\*\* \S", entry, re.MULTILINE)
    ]
    assert not incomplete, f"an entry says what one sees, a command to look, and the fix: {incomplete}"
    numbers = [int(entry.split(".")[0]) for entry in entries]
    assert numbers == list(range(1, len(entries) + 1))


def test_every_error_code_is_explained_to_developers() -> None:
    from tessera.api.problems import error_codes

    explained = text_of(ROOT / "docs" / "api.md")
    missing = [
        found["code"]
        for found in error_codes()
        if f"`{found['code']}`" not in explained and found["code"] != "engine_busy"
    ]
    assert not missing, f"docs/api.md does not say what to do about: {missing}"


def test_every_reason_of_waiting_is_explained() -> None:
    rows = text_of(ROOT / "docs" / "troubleshooting.md")
    named = text_of(ROOT / "docs" / "api.md")
    missing = [code.value for code in WaitCode if f"\n| `{code}` | " not in rows or f"`{code}`" not in named]
    assert not missing, f"docs/troubleshooting.md has no row, or docs/api.md no mention of: {missing}"


def test_documents_stand_alone() -> None:
    """No address of a package index, and no design that readers do not have."""
    elsewhere = re.compile(r"(?<!/v1)/shared/|DESIGN\.md|pypi\.org/simple")
    told = [name_of(path) for path in DOCUMENTS if elsewhere.search(text_of(path))]
    assert not told
