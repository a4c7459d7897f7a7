"""The file of the bots: what is shipped, a thirteenth entry, and entries that cannot be used, told by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bots.config import ConfigError, Token, bots_file, load_bots, load_settings, read_token

THIRTEENTH = """
[[bots]]
id = "telegram-ink"
platform = "telegram"
kind = "image"
title = "Tessera Ink"
token = "env:TESSERA_TELEGRAM_INK"
"""
SHIPPED = bots_file({})


def file_of(folder: Path, text: str) -> Path:
    path = folder / "bots.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_twelve_are_shipped_three_of_each_kind_on_each_platform() -> None:
    bots = load_bots(SHIPPED)
    made = [(bot.platform, bot.kind) for bot in bots.bots]
    assert {each: made.count(each) for each in set(made)} == {
        (platform, kind): 3 for platform in ("telegram", "discord") for kind in ("image", "video")
    }


def test_a_thirteenth_is_five_lines(tmp_path: Path) -> None:
    bots = load_bots(file_of(tmp_path, SHIPPED.read_text(encoding="utf-8") + THIRTEENTH))
    assert len(bots.bots) == 13 and bots.of("telegram")[-1].title == "Tessera Ink"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (('kind = "image"', 'kind = "music"'), ["bot 'telegram-ink', kind", "'image' or 'video'"]),
        (('platform = "telegram"', 'platform = "signal"'), ["bot 'telegram-ink', platform"]),
        (('kind = "image"\n', ""), ["bot 'telegram-ink', kind: is missing"]),
        (('kind = "image"', 'kind = "image"\ncolor = 7'), ["bot 'telegram-ink', color: is no field of a bot"]),
        (("env:TESSERA_TELEGRAM_INK", "7000001:AAHsecret"), ["bot 'telegram-ink', token", "env:NAME"]),
        (("env:TESSERA_TELEGRAM_INK", "env:TESSERA_TELEGRAM_PAINT"), ["TESSERA_TELEGRAM_PAINT", "several bots"]),
        (('id = "telegram-ink"', 'id = "Telegram Ink"'), ["bot 'Telegram Ink', id", "lower-case"]),
        (('id = "telegram-ink"', 'id = "telegram-oil"'), ["bot 'telegram-oil' is defined 2 times"]),
        (('id = "telegram-ink"\n', ""), ["bot number 13, id: is missing"]),
        (('kind = "image"', 'kind = "image"\nlanguages = ["fr"]'), ["bot 'telegram-ink', languages", "not fr"]),
        (
            ('kind = "image"', 'kind = "image"\ndefaults = { ratio = "wide" }'),
            ["bot 'telegram-ink', defaults, ratio", "'wide' is no ratio"],
        ),
    ],
)
def test_an_entry_that_cannot_be_used_is_told_by_its_name(
    change: tuple[str, str], named: list[str], tmp_path: Path
) -> None:
    broken = THIRTEENTH.replace(*change)
    assert broken != THIRTEENTH
    path = file_of(tmp_path, SHIPPED.read_text(encoding="utf-8") + broken)
    with pytest.raises(ConfigError) as told:
        load_bots(path)
    assert all(words in str(told.value) for words in named), told.value
    assert "AAHsecret" not in str(told.value)


def test_a_file_that_cannot_be_read_is_told_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_bots(file_of(tmp_path, "\n[[bots"))
    with pytest.raises(ConfigError, match="correct TESSERA_BOTS"):
        load_bots(tmp_path / "nowhere.toml")


def test_a_token_is_read_from_a_variable_or_from_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    secret = tmp_path / "paint"
    secret.write_text("7000001:AAHsecret\n", encoding="utf-8")
    secret.chmod(0o644)
    assert "chmod 600" in str(read_token("file:paint", tmp_path, {}))
    secret.chmod(0o600)
    token = read_token("file:paint", tmp_path, {})
    assert isinstance(token, Token) and token.reveal() == "7000001:AAHsecret" and "AAH" not in repr(token)
    assert read_token("env:PAINT", tmp_path, {}) == "the variable PAINT is not set"


def test_bots_without_a_token_are_left_out_and_named(tmp_path: Path) -> None:
    environ: dict[str, Any] = {
        "TESSERA_HOME": str(tmp_path),
        "TESSERA_URL": "http://127.0.0.1:1",
        "TESSERA_SERVICE_KEY": "k",
        "TESSERA_TELEGRAM_OIL": "7000001:AAHsecret",
    }
    settings = load_settings("telegram", environ)
    assert [bot.id for bot in settings.bots] == ["telegram-oil"]
    assert settings.missing["telegram-paint"] == "the variable TESSERA_TELEGRAM_PAINT is not set"
    with pytest.raises(ConfigError, match="TESSERA_TELEGRAM_HEALTH_PORT"):
        load_settings("telegram", environ | {"TESSERA_TELEGRAM_HEALTH_PORT": "high"})
