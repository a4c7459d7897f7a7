"""The embedded Postgres as its operator meets it: first start, kill, restart, odd folders, stop."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tessera.local import runtime
from tessera.local.postgres import EmbeddedPostgres, PostgresError


@pytest.fixture
def postgres() -> Iterator[EmbeddedPostgres]:
    # mkdtemp makes a folder of mode 0700: for root that is the case in which the dropped uid cannot walk to its data.
    with tempfile.TemporaryDirectory(prefix="tessera-test-") as folder:
        server = EmbeddedPostgres(Path(folder) / "home")
        try:
            yield server
        finally:
            server.stop()


async def test_the_first_start_makes_a_database_for_a_role_without_power(postgres: EmbeddedPostgres) -> None:
    info = postgres.ensure_running()

    connection = await asyncpg.connect(info.dsn)
    try:
        await connection.execute("CREATE TABLE t (x int)")
        assert await connection.fetchval("SELECT current_setting('is_superuser')") == "off"
        assert await connection.fetchval("SELECT current_database()") == "tessera"
        assert await connection.fetchval("SHOW statement_timeout") == "30s"
        assert await connection.fetchval("SHOW server_encoding") == "UTF8"
    finally:
        await connection.close()
    assert info.started
    assert postgres.alive()
    assert not postgres.ensure_running().started


async def test_rows_survive_a_sigkill_and_the_address_stays(postgres: EmbeddedPostgres) -> None:
    before = postgres.ensure_running()
    connection = await asyncpg.connect(before.dsn)
    await connection.execute("CREATE TABLE t AS SELECT generate_series(1, 100) AS x")
    os.kill(before.pid, signal.SIGKILL)
    await connection.close(timeout=5)

    after = postgres.ensure_running()

    connection = await asyncpg.connect(after.dsn)
    assert await connection.fetchval("SELECT count(*) FROM t") == 100
    await connection.close()
    assert after.pid != before.pid
    assert after.dsn == before.dsn


def test_a_pid_that_went_to_another_process_is_seen_through(postgres: EmbeddedPostgres) -> None:
    info = postgres.ensure_running()
    pid_file = postgres.data / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    os.kill(info.pid, signal.SIGKILL)
    while postgres.postmaster() is not None:
        pass
    owner = pid_file.stat()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    os.chown(pid_file, owner.st_uid, owner.st_gid)

    assert postgres.postmaster() is None
    assert not postgres.alive()
    assert postgres.ensure_running().started


def test_stop_leaves_no_process_and_the_data(postgres: EmbeddedPostgres) -> None:
    postgres.ensure_running()

    assert postgres.stop()

    assert postgres.running() == []
    assert not runtime.short_dir_path(postgres.home).exists()
    assert not postgres.alive()
    assert not postgres.stop()
    assert (postgres.data / "PG_VERSION").exists()


def test_the_folders_above_keep_their_mode(postgres: EmbeddedPostgres) -> None:
    above = postgres.home.parent
    before = above.stat().st_mode

    postgres.ensure_running()

    assert above.stat().st_mode == before


def test_passwords_are_private_and_in_no_argument(postgres: EmbeddedPostgres) -> None:
    info = postgres.ensure_running()
    password = info.dsn.split(":")[2].split("@")[0]

    assert (postgres.root / "secrets.json").stat().st_mode & 0o077 == 0
    arguments = Path(f"/proc/{info.pid}/cmdline").read_bytes().decode()
    environment = Path(f"/proc/{info.pid}/environ").read_bytes().decode()
    assert password not in arguments + environment
    assert password not in repr(info)
    assert password not in postgres.log_file.read_text()


async def test_a_wrong_password_is_refused_on_tcp_and_on_the_socket(postgres: EmbeddedPostgres) -> None:
    info = postgres.ensure_running()

    for host in ("127.0.0.1", str(info.socket_dir)):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(host=host, port=info.port, user="tessera", password="wrong", database="tessera")


def test_lost_passwords_are_reported_with_what_to_restore(postgres: EmbeddedPostgres) -> None:
    postgres.ensure_running()
    postgres.stop()
    (postgres.root / "secrets.json").unlink()

    with pytest.raises(PostgresError) as refusal:
        postgres.ensure_running()

    assert "backup" in refusal.value.fix


def test_two_homes_run_side_by_side(postgres: EmbeddedPostgres) -> None:
    first = postgres.ensure_running()
    other = EmbeddedPostgres(postgres.home.parent / "second")
    try:
        second = other.ensure_running()
        assert first.port != second.port
        assert first.socket_dir != second.socket_dir
    finally:
        other.stop()
    assert postgres.alive()
