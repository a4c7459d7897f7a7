"""The core of the bots says what a bot does; only its platforms know Telegram and Discord, each its own library."""

from __future__ import annotations

from tests.architecture.sources import imports, python_files

LIBRARIES = {"aiogram": "bots/telegram/", "discord": "bots/discord/"}


def test_the_core_of_the_bots_knows_no_platform() -> None:
    wrong = [
        f"{file}:{found.line} imports {found.module}"
        for file in python_files("bots")
        if file.startswith("bots/core/")
        for found in imports(file)
        if found.module.split(".")[0] in LIBRARIES or found.module.startswith(("bots.telegram", "bots.discord"))
    ]
    assert not wrong, "the core decides in neutral values; a platform shapes them:\n" + "\n".join(wrong)


def test_each_library_of_a_platform_stands_in_its_own_package_only() -> None:
    wrong = [
        f"{file}:{found.line} imports {found.module}"
        for file in python_files("bots", "tessera", "deployments")
        for found in imports(file)
        for library, home in LIBRARIES.items()
        if found.module.split(".")[0] == library and not file.startswith(home)
    ]
    assert not wrong, wrong


def test_the_platforms_do_not_know_each_other() -> None:
    wrong = [
        f"{file}:{found.line} imports {found.module}"
        for file in python_files("bots")
        for mine, other in (("bots/telegram/", "bots.discord"), ("bots/discord/", "bots.telegram"))
        if file.startswith(mine)
        for found in imports(file)
        if found.module.startswith(other)
    ]
    assert not wrong, wrong
