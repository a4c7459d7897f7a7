"""The processes of the bots, one for each platform whose tokens are configured: started by ``up``, kept by the keeper.

What a bot is, is known by the package ``bots`` alone: it is asked by its command, not imported.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.config import Settings, write_private
from tessera.local import processes, rest, runtime

PLATFORMS = ("telegram", "discord")
KEY_FILE = "bots.key"
ASK_TIMEOUT_S = 60
NO_JOB = "job_00000000000000000000000000"
VARIABLES = ("TESSERA_BOTS", "TESSERA_TELEGRAM_", "TESSERA_DISCORD_", "TESSERA_PUBLIC_URL")


class BotsError(Exception):
    """The bots cannot be started as they are configured; the message says what to correct."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The bots of a platform that have a token, and why the others have none. ``mark`` changes with their tokens and
    with their file."""

    ready: tuple[str, ...]
    missing: Mapping[str, str]
    mark: str


def ask(home: Path, environ: Mapping[str, str]) -> dict[str, Tokens]:
    """Which bots could start, by platform. Raises BotsError."""
    said = subprocess.run(
        [sys.executable, "-m", "bots", "tokens"],
        env={**environ, "TESSERA_HOME": str(home)},
        cwd=_checkout(),
        capture_output=True,
        text=True,
        check=False,
        timeout=ASK_TIMEOUT_S,
    )
    if said.returncode != 0:
        raise BotsError(said.stderr.strip() or f"'python -m bots tokens' ended with {said.returncode}")
    found: dict[str, Any] = json.loads(said.stdout)
    return {
        platform: Tokens(ready=tuple(told["ready"]), missing=dict(told["missing"]), mark=told["mark"])
        for platform, told in found.items()
    }


def ensure_key(home: Path, settings: Settings, operator_key: str) -> bool:
    """The service key of the bots, in a file of its own (0600); True when it is new. Raises BotsError, Unreachable."""
    path = home / KEY_FILE
    if path.exists():
        key = path.read_text(encoding="ascii").strip()
        asked = rest.request("GET", f"{settings.http_url}/v1/internal/jobs/{NO_JOB}/delivery", token=key)
        if asked.status not in (401, 403):
            return False
    made = rest.request(
        "POST", f"{settings.http_url}/v1/keys", body={"name": "bots", "scopes": ["service"]}, token=operator_key
    )
    secret = (made.json() or {}).get("api_key")
    if not isinstance(secret, str):
        raise BotsError(f"the service key of the bots could not be made: {made.text()[:300]}")
    write_private(path, f"{secret}\n")
    return True


def record_file(home: Path, platform: str) -> Path:
    """Where the process of a platform's bots is recorded."""
    return home / "run" / f"bots-{platform}.json"


def wanted(home: Path) -> tuple[str, ...]:
    """The platforms whose bots the last ``up`` has started."""
    try:
        found = json.loads((home / "run" / "bots-wanted.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    return tuple(platform for platform in found if platform in PLATFORMS)


def set_wanted(home: Path, platforms: tuple[str, ...]) -> None:
    """Keep which platforms' bots are to run."""
    write_private(home / "run" / "bots-wanted.json", json.dumps(list(platforms)) + "\n")


def missing(home: Path) -> list[str]:
    """The platforms whose bots should run and do not."""
    return [platform for platform in wanted(home) if processes.load_record(record_file(home, platform)) is None]


def ensure_running(home: Path, platform: str, url: str, environ: Mapping[str, str], tokens: Tokens) -> tuple[int, bool]:
    """Start the bots of a platform unless they run with this code and these tokens: the pid, and whether it is new."""
    mark = _mark(environ, url, tokens)
    mark_file = home / "run" / f"bots-{platform}-of.json"
    running = processes.load_record(record_file(home, platform))
    if running is not None:
        try:
            if json.loads(mark_file.read_text(encoding="utf-8")) == mark:
                return running.pid, False
        except (OSError, ValueError):
            pass
        stop(home, platform)
    record = processes.spawn(
        [sys.executable, "-m", "bots", platform],
        log=runtime.logs_dir(home) / f"bots-{platform}.log",
        cwd=_checkout(),
        env={**environ, "TESSERA_HOME": str(home), "TESSERA_URL": url},
    )
    if record is None:
        raise BotsError(f"the {platform} bots ended at once; see {home / 'logs' / f'bots-{platform}.log'}")
    record.save(record_file(home, platform))
    write_private(mark_file, json.dumps(mark) + "\n")
    return record.pid, True


def stop(home: Path, platform: str) -> bool:
    """End the bots of a platform and verify it; False when none ran."""
    record = processes.load_record(record_file(home, platform))
    if record is None:
        return False
    left = processes.end([record], ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0)))
    if left:
        raise BotsError(f"the {platform} bots (pid {record.pid}) did not end")
    record_file(home, platform).unlink(missing_ok=True)
    return True


def health(home: Path, platform: str) -> dict[str, Any] | None:
    """How each bot of a running process says it is; None when it cannot be asked."""
    try:
        told = json.loads((home / "run" / f"bots-{platform}-health.json").read_text(encoding="utf-8"))
        found = rest.request("GET", f"http://127.0.0.1:{int(told['health_port'])}/healthz", timeout_s=5.0).json()
    except (OSError, ValueError, KeyError, rest.Unreachable):
        return None
    return found if isinstance(found, dict) else None


def _checkout() -> Path:
    """The folder in which the package ``bots`` is found when it is not installed."""
    return Path(__file__).resolve().parents[2]


def marks(home: Path) -> str:
    """What the bots of all platforms were started with: who starts them again must know the same."""
    files = (home / "run" / f"bots-{platform}-of.json" for platform in wanted(home))
    return "".join(path.read_text(encoding="utf-8") for path in files if path.exists())


def _mark(environ: Mapping[str, str], url: str, tokens: Tokens) -> str:
    """Changes with the code of the bots, with their file and their tokens, and with the address of the platform."""
    digest = hashlib.sha256(f"{url}\n{tokens.mark}".encode())
    for path in sorted((_checkout() / "bots").rglob("*")):
        if path.suffix in (".py", ".ftl", ".toml"):
            digest.update(path.read_bytes())
    for name, value in sorted(environ.items()):
        if name.startswith(VARIABLES):
            digest.update(f"{name}={value}\n".encode())
    return digest.hexdigest()[:16]
