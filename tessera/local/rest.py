"""One HTTP request to a server on this machine: what ``up`` needs before and beside the client library.

Standard library only, no proxies from the environment, a timeout always.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


class Unreachable(Exception):
    """Nothing answers there (yet), or not in time."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Status and body of an answer, whatever the status."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body as JSON; None when it is not."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def text(self) -> str:
        """The body as text, for a message to a person."""
        return self.body.decode(errors="replace")


def request(
    method: str,
    url: str,
    *,
    body: Any = None,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 10.0,
) -> Answer:
    """Ask once. ``body`` is sent as JSON, ``token`` as bearer. Raises ``Unreachable``."""
    parts = urlsplit(url)
    sent = {"Accept": "application/json", **(headers or {})}
    if token:
        sent["Authorization"] = f"Bearer {token}"
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        sent["Content-Type"] = "application/json"
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=timeout_s)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request(method, path, body=data, headers=sent)
        answer = connection.getresponse()
        return Answer(status=answer.status, body=answer.read())
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{method} {url}: {error or type(error).__name__}") from error
    finally:
        connection.close()
