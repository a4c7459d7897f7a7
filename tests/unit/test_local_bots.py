"""When ``up`` starts the bots again: whenever their file or a token has changed, wherever the token stands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tessera.local import bots

FILE = """
[[bots]]
id = "telegram-paint"
platform = "telegram"
kind = "image"
title = "Paint"
token = "file:paint"

[[bots]]
id = "telegram-oil"
platform = "telegram"
kind = "image"
title = "Oil"
token = "env:MY_OIL"
"""
INK = FILE.split("\n\n")[0].replace("paint", "ink")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "bots.toml").write_text(FILE, encoding="utf-8")
    (tmp_path / "paint").write_text("7000001:AAHsecret", encoding="utf-8")
    (tmp_path / "paint").chmod(0o600)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TESSERA_")}
    return clean | {"TESSERA_BOTS": str(tmp_path / "bots.toml"), "MY_OIL": "7000002:AAHsecret"}


def test_a_changed_token_or_file_is_noticed_and_nothing_else(tmp_path: Path, environ: dict[str, str]) -> None:
    seen = [bots.ask(tmp_path, environ)["telegram"]]
    assert seen[0].ready == ("telegram-paint", "telegram-oil")
    assert bots.ask(tmp_path, environ | {"SOMETHING": "else"})["telegram"] == seen[0]
    seen.append(bots.ask(tmp_path, environ | {"MY_OIL": "7000002:AAHcorrected"})["telegram"])
    (tmp_path / "paint").write_text("7000001:AAHcorrected", encoding="utf-8")
    seen.append(bots.ask(tmp_path, environ)["telegram"])
    (tmp_path / "bots.toml").write_text(FILE + INK, encoding="utf-8")
    seen.append(bots.ask(tmp_path, environ)["telegram"])
    assert len({tokens.mark for tokens in seen}) == 4
    assert "telegram-ink" in seen[-1].missing and "AAH" not in repr(seen)


def test_a_file_that_cannot_be_used_is_told_in_words(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "bots.toml").write_text(FILE + INK.replace("image", "music"), encoding="utf-8")
    with pytest.raises(bots.BotsError, match="bot 'telegram-ink', kind"):
        bots.ask(tmp_path, environ)
