"""The folders of one installation, and the lock that lets only one ``up`` or ``down`` work on them at a time.

``TESSERA_HOME`` keeps what must survive (data, artifacts, secrets, logs, records). A Unix socket's path is limited to
107 bytes, HAProxy's to 97, and Serve adds 70 to the folder it is given; so sockets live in a short folder under /tmp
whose name is derived from the home.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class RuntimeFolderError(Exception):
    """A folder of the platform cannot be used; the message says why and what to do."""


def logs_dir(home: Path) -> Path:
    """Where every background process of this home writes its log."""
    return _private(home / "logs")


def run_dir(home: Path) -> Path:
    """Where the records of running processes and the lock are kept."""
    return _private(home / "run")


def prepare_home(home: Path) -> None:
    """Make the home and its inner folders, readable by its owner only. Safe to repeat."""
    for folder in (home, home / "logs", home / "run"):
        _private(folder)


def short_dir(home: Path) -> Path:
    """The short folder of this home for sockets, ``/tmp/tessera-<id>``; made and verified at each call.

    Raises ``RuntimeFolderError`` when somebody else owns that name: in /tmp anybody could have made it first.
    """
    path = short_dir_path(home)
    try:
        path.mkdir(mode=0o711)
    except FileExistsError:
        pass
    except OSError as error:
        raise RuntimeFolderError(f"{path} cannot be made ({error.strerror}); Tessera needs a writable /tmp") from error
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise RuntimeFolderError(
            f"{path} exists and is not a folder of this user. Remove it, or set TESSERA_HOME to another folder"
        )
    # Root drops Postgres to a uid of its own, which has to reach its socket through here; nobody can list it.
    wanted = 0o711 if os.geteuid() == 0 else 0o700
    if stat.S_IMODE(found.st_mode) != wanted:
        path.chmod(wanted)
    return path


def short_dir_path(home: Path) -> Path:
    """The path of ``short_dir``, without touching it."""
    return Path("/tmp") / f"tessera-{home_id(home)}"  # noqa: S108 (owner and mode are verified)


def home_id(home: Path) -> str:
    """Eight characters that tell one home, and one user of it, from another on this machine."""
    return hashlib.sha256(f"{os.geteuid()} {home.resolve()}".encode()).hexdigest()[:8]


@contextmanager
def exclusive(home: Path) -> Iterator[None]:
    """Hold the lock of this home; wait for another ``up`` or ``down`` to end. It goes with the process, even killed."""
    prepare_home(home)
    with _open_lock(home) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def exclusive_or_none(home: Path) -> Iterator[bool]:
    """Like ``exclusive``, but yield False at once when another process holds the lock."""
    prepare_home(home)
    with _open_lock(home) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _open_lock(home: Path) -> IO[bytes]:
    return (home / "run" / "lock").open("ab")


def _private(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if stat.S_IMODE(folder.stat().st_mode) != 0o700:
            folder.chmod(0o700)
    except OSError as error:
        raise RuntimeFolderError(
            f"{folder} cannot be used ({error.strerror}). Was it made by another user, perhaps root? "
            "Give it back with chown, or set TESSERA_HOME to another folder"
        ) from error
    return folder
