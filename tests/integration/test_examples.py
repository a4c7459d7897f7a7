"""docs/examples.md, run as it stands: each use by curl, Python and JavaScript against a working API."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.api_server import Api
from tests.integration.route_table import wav
from tests.integration.working_api import working

DOCUMENT = Path(__file__).parents[2] / "docs" / "examples.md"
# What the last line of each use's output must be, whatever the language.
SAID = {
    "Make a picture": "PNG",
    "Follow a job": "event: completed",
    "Write down a recording": "completed",
    "Ask for the price": "0.75",
    "Repeat safely": "1",
    "Cancel": "cancelled",
    "Many at once": "3",
    "Be told by webhook": "completed",
    "OpenAI's SDK": "144",
}
COMMANDS = {"sh": ["bash", "-euo", "pipefail"], "python": [sys.executable], "js": ["node"]}
ENDINGS = {"sh": "sh", "python": "py", "js": "mjs"}


def blocks() -> dict[str, dict[str, str]]:
    """Heading → language → its block."""
    found: dict[str, dict[str, str]] = {}
    for part in DOCUMENT.read_text(encoding="utf-8").split("\n## ")[1:]:
        heading, _, text = part.partition("\n")
        found[heading] = dict(re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    return found


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with working(database_url, tmp_path, expanding=True) as started:
        yield started


def test_every_use_is_shown_in_each_language() -> None:
    assert set(blocks()) == {"Before", *SAID}
    for heading, languages in blocks().items():
        assert set(languages) == set(COMMANDS), heading


@pytest.mark.parametrize("language", COMMANDS)
async def test_every_example_works_as_it_stands(api: Api, tmp_path: Path, language: str) -> None:
    command = COMMANDS[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not here")
    found = blocks()
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "recording.wav").write_bytes(wav())
    environment = {**os.environ, "TESSERA_URL": api.url, "TESSERA_API_KEY": api.key, "NO_COLOR": "1"}
    wrong = []
    for heading, said in SAID.items():
        script = folder / f"example.{ENDINGS[language]}"
        script.write_text(found["Before"][language] + "\n" + found[heading][language], encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *command,
            str(script),
            cwd=folder,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(90):
            output = (await process.communicate())[0].decode()
        if process.returncode != 0 or said not in (output.strip().splitlines() or [""])[-1]:
            wrong.append(f"{heading}: {process.returncode}\n{output[-1500:]}")
    assert not wrong, "\n".join(wrong)
