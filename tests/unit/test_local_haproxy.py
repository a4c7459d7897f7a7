"""What Serve's HAProxy is told besides what Serve tells it: with the real HAProxy where it answers by itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tessera.local import haproxy

PORTS = {"RAY_SERVE_HAPROXY_METRICS_PORT": "9101", "RAY_SERVE_HAPROXY_STATS_PORT": "8404"}
# As Serve writes it, in short.
CONFIG = """\
global
    log 127.0.0.1:{syslog} local0 info
defaults
    mode http
    log global
    option httplog
    timeout connect 5s
    timeout client 3600s
    timeout server 3600s
    timeout http-keep-alive 90s
frontend http_frontend
    bind 127.0.0.1:{port}
    http-request return status 200 content-type text/plain lf-string "now: %[req.hdr(x-request-disconnect-disabled)]"
"""


def edited(tmp_path: Path, text: str) -> list[str]:
    written = tmp_path / "haproxy.cfg"
    written.write_text(text)
    wrapper = haproxy.write_wrapper(tmp_path, "/bin/true")
    subprocess.run([wrapper, "-f", written], env={**os.environ, **PORTS}, check=True)
    return written.read_text().splitlines()


def test_what_it_says_by_itself_is_a_503_that_may_be_tried_again(tmp_path: Path) -> None:
    error, bind, fallback = edited(
        tmp_path,
        "    errorfile 502 /tmp/500.http\n"
        "    bind *:9101\n"
        "    http-request return status 404 content-type text/plain lf-string \"Path '%[path]' not found.\"\n",
    )

    assert error == f"    errorfile 502 {tmp_path}/unavailable.http"
    assert bind == "    bind 127.0.0.1:9101"
    assert fallback.startswith(
        "    http-request return status 503 content-type application/problem+json hdr Retry-After 2"
    )
    answer = (tmp_path / "unavailable.http").read_bytes()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body)["code"] == "unavailable"


def test_a_time_for_headers_that_serve_may_set_one_day_is_ours(tmp_path: Path) -> None:
    lines = edited(tmp_path, "    timeout client 3600s\n    timeout http-request 5s\n")

    assert [line for line in lines if "http-request" in line] == ["    timeout http-request 20s"]


@pytest.fixture
def syslog() -> Iterator[socket.socket]:
    """Where HAProxy is told to send its log."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(0.5)
        yield listening


@pytest.fixture
def port(tmp_path: Path, syslog: socket.socket) -> Iterator[int]:
    """The port of a real HAProxy that gives the headers of a request one second."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        chosen = int(free.getsockname()[1])
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG.format(port=chosen, syslog=syslog.getsockname()[1]))
    wrapper = haproxy.write_wrapper(tmp_path, head_timeout_s=1)
    process = subprocess.Popen([wrapper, "-db", "-f", config], env={**os.environ, **PORTS})
    try:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", chosen), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield chosen
    finally:
        process.terminate()
        process.wait(20)


def test_headers_that_come_too_slowly_end_with_408_and_the_line(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 20) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nX-Slow: ")
        answer = b"".join(iter(lambda: slow.recv(65536), b""))  # the line is closed

    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_line_that_rests_between_two_requests_stays_open(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 20) as kept:
        for pause_s in (2.0, 0.0):
            kept.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            assert kept.recv(65536).startswith(b"HTTP/1.1 200 ")
            time.sleep(pause_s)


@pytest.mark.parametrize(
    ("method", "path", "header", "told"),
    [
        ("POST", "/v1/jobs", "", b"now: ?1"),
        ("POST", "/v1/jobs", "Prefer: wait=10\r\n", b"now: "),
        ("POST", "/openai/v1/chat/completions", "", b"now: "),
        ("GET", "/v1/jobs", "", b"now: "),
    ],
)
def test_only_a_submission_that_does_not_wait_is_not_watched_for_its_client_leaving(
    port: int, method: str, path: str, header: str, told: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", port), 20) as line:
        line.sendall(f"{method} {path} HTTP/1.1\r\nHost: here\r\n{header}Content-Length: 0\r\n\r\n".encode())
        answer = line.recv(65536)
        while not answer.partition(b"\r\n\r\n")[2]:
            answer += line.recv(65536)
    assert answer.partition(b"\r\n\r\n")[2] == told


def test_no_request_is_told_to_the_machines_syslog(port: int, syslog: socket.socket) -> None:
    with socket.create_connection(("127.0.0.1", port), 20) as line:
        line.sendall(b"GET /v1/links/1?signature=secret HTTP/1.1\r\nHost: here\r\n\r\n")
        assert line.recv(65536).startswith(b"HTTP/1.1 200 ")
    heard = b""
    try:
        while True:
            heard += syslog.recv(65536)
    except TimeoutError:
        assert b"secret" not in heard
