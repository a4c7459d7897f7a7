"""``ray job submit`` to the platform of this home: the shell that submits, and what a job tells the dashboard.

Ray starts a job in the folder of the cluster, not in the one where it was submitted, and hands it none of the
submitter's environment. So ``tessera env`` puts a small ``ray`` first in PATH, which adds to a submission the folder
that it is made in (``TESSERA_BATCH_FOLDER``) and is Ray's own command for everything else.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from tessera.config import ConfigError, Settings

log = structlog.get_logger(__name__)

FOLDER_VARIABLE = "TESSERA_BATCH_FOLDER"
SHIM = """#!/bin/sh
# Made by 'tessera env': Ray's own command, which is told the folder that a job is submitted in.
exec {python} -m tessera.local.ray_job "$@"
"""
METADATA_NAME = "progress"
TELL_TIMEOUT_S = 5.0


def shell_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of a shell that submits jobs to this platform; makes the ``ray`` that PATH then finds.

    Raises ConfigError when the platform's dashboard is not known.
    """
    if not settings.dashboard_url:
        raise ConfigError("The dashboard of this platform is not known: run 'tessera up' first.")
    folder = settings.home / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    shim = folder / "ray"
    text = SHIM.format(python=_quoted(sys.executable))
    if not shim.is_file() or shim.read_text(encoding="utf-8") != text:
        temporary = folder / f".ray.{os.getpid()}"
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o755)
        temporary.replace(shim)
    programs = Path(sys.executable).parent
    rest = [
        part for part in environ.get("PATH", os.defpath).split(os.pathsep) if part not in (str(folder), str(programs))
    ]
    found = {
        "PATH": os.pathsep.join([str(folder), str(programs), *rest]),
        "RAY_API_SERVER_ADDRESS": settings.dashboard_url,
        "RAY_AUTH_MODE": "token",
    }
    if settings.ray_token_path is not None:
        found["RAY_AUTH_TOKEN_PATH"] = str(settings.ray_token_path)
    return found


def with_folder(arguments: Sequence[str], folder: str) -> list[str]:
    """The arguments of ``ray``; those of ``job submit`` with the folder in the runtime environment of the job.

    A submission that brings a runtime environment in a file, or a working directory, is left as it is: it says itself
    where it runs.
    """
    given = list(arguments)
    if given[:2] != ["job", "submit"]:
        return given
    end = given.index("--") if "--" in given else len(given)
    own, entry = given[2:end], given[end:]
    if any(one.split("=", 1)[0] in ("--runtime-env", "--working-dir") for one in own):
        return given
    environment: dict[str, Any] = {}
    kept: list[str] = []
    rest = iter(own)
    for one in rest:
        name, _, value = one.partition("=")
        if name != "--runtime-env-json":
            kept.append(one)
            continue
        try:
            environment = json.loads(value or next(rest, ""))
        except ValueError:
            return given  # Ray says what is wrong with it
    if not isinstance(environment, dict) or not isinstance(environment.setdefault("env_vars", {}), dict):
        return given
    environment["env_vars"].setdefault(FOLDER_VARIABLE, folder)
    return ["job", "submit", *kept, "--runtime-env-json", json.dumps(environment), *entry]


class JobLine:
    """One line in Ray's record of the job that this process is, shown by the dashboard and ``ray job list``.

    Telling is a courtesy: whatever goes wrong is logged once, and the work goes on.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        config = json.loads(environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])
        self._job_id = str(config.get("metadata", {}).get("job_submission_id", ""))
        self._address = environ.get("RAY_ADDRESS", "")
        self._failed = False
        self._busy = threading.Lock()
        self._last = ""

    def tell(self, line: str) -> None:
        """Put the line there, in a thread of its own; left out while the one before is still on its way."""
        self._last = line
        if not self._failed and self._job_id and self._address and self._busy.acquire(blocking=False):
            threading.Thread(target=self._put, args=(line,), daemon=True).start()

    def flush(self) -> None:
        """See to it that the last line is there, before the process ends; waits for it for some seconds."""
        if self._last and self._busy.acquire(timeout=2 * TELL_TIMEOUT_S):
            self._busy.release()
            self.tell(self._last)
            if self._busy.acquire(timeout=2 * TELL_TIMEOUT_S):
                self._busy.release()

    def _put(self, line: str) -> None:
        try:
            asyncio.run(self._write(line))
        except Exception as error:  # noqa: BLE001 (Ray's own classes change; a job must not fail for its progress)
            self._failed = True
            log.warning("dashboard_not_told", error=f"{type(error).__name__}: {error}")
        finally:
            self._busy.release()

    async def _write(self, line: str) -> None:
        from ray._raylet import GcsClient  # type: ignore[attr-defined]  # of Cython, without stubs
        from ray.dashboard.modules.job.common import JobInfoStorageClient

        client = JobInfoStorageClient(GcsClient(address=self._address))
        async with asyncio.timeout(TELL_TIMEOUT_S):
            info = await client.get_info(self._job_id)
            if info is None or info.status.is_terminal():
                return
            metadata = {**(info.metadata or {}), METADATA_NAME: line}
            await client.put_info(self._job_id, replace(info, metadata=metadata, message=line))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def main(arguments: Sequence[str]) -> None:
    """Become Ray's own command. Never returns."""
    ray = str(Path(sys.executable).parent / "ray")
    os.execv(ray, [ray, *with_folder(arguments, str(Path.cwd()))])  # noqa: S606 (its own arguments, no shell)


if __name__ == "__main__":
    main(sys.argv[1:])
