"""``python -m bots telegram|discord``: all bots of one platform, until they are told to end.

``python -m bots tokens`` says as JSON which bots have a token, and why the others have none; it connects to nobody.
Its ``mark`` changes with anything in the file of the bots and with any token: then a process has to be started again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path

from bots.config import ConfigError, Token, bots_file, load_bots, load_settings, read_token
from bots.process import listen_to_libraries, missing_tokens, run_until_told
from tessera.logs import configure_logs

USAGE = "usage: python -m bots telegram|discord|tokens"


def main(arguments: list[str]) -> int:
    """0 when it was told to end, 2 for what has to be corrected first."""
    match arguments:
        case ["telegram" | "discord" as platform]:
            pass
        case ["tokens"]:
            return tokens()
        case _:
            sys.stderr.write(f"{USAGE}\n")
            return 2
    try:
        settings = load_settings("telegram" if platform == "telegram" else "discord")
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if not settings.bots:
        left_out = missing_tokens(settings.missing)
        sys.stderr.write(f"no {platform} bot has a token:\n{left_out}\nSet one of them; docs/bots.md says how.\n")
        return 2
    configure_logs(f"bots-{platform}")
    listen_to_libraries()
    if platform == "telegram":
        from bots.telegram.process import make_process  # each platform's library only in its own process
    else:
        from bots.discord.process import make_process
    asyncio.run(run_until_told(make_process(settings)))
    return 0


def tokens() -> int:
    """Which bots could start."""
    home = Path(os.environ.get("TESSERA_HOME") or ".tessera").absolute()
    try:
        file = load_bots(bots_file(os.environ))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    told: dict[str, dict[str, object]] = {}
    for platform in ("telegram", "discord"):
        found = {bot.id: read_token(bot.token, home, os.environ) for bot in file.of(platform)}
        mark = hashlib.sha256(file.model_dump_json().encode())
        for bot_id, token in found.items():
            mark.update(f"{bot_id}={token.reveal() if isinstance(token, Token) else ''}\n".encode())
        told[platform] = {
            "mark": mark.hexdigest()[:16],
            "ready": [bot_id for bot_id, token in found.items() if isinstance(token, Token)],
            "missing": {bot_id: token for bot_id, token in found.items() if isinstance(token, str)},
        }
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
