"""Which server, and with which API key: the environment first, then what ``tessera up`` stored.

``TESSERA_URL`` and ``TESSERA_API_KEY``; else ``credentials.toml`` in TESSERA_HOME (``url``, ``api_key``). A stored key
is never sent to another server than the one it was stored for.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from yarl import URL

from tessera.client.errors import ClientError
from tessera.config import CREDENTIALS_FILE, find_home

DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Where the API is and what opens it. ``api_key`` None: only what needs no key will work."""

    url: str
    api_key: str | None = field(default=None, repr=False)
    source: str  # where they come from, in words for a person


def find_credentials(environ: Mapping[str, str], cwd: Path) -> Credentials:
    """The credentials that the environment and TESSERA_HOME give. Raises ClientError on a file that cannot be read."""
    return load_credentials(environ, find_home(environ, cwd))


def load_credentials(environ: Mapping[str, str], home: Path) -> Credentials:
    """Like ``find_credentials``, for a known TESSERA_HOME."""
    path = home / CREDENTIALS_FILE
    stored = _read(path)
    stored_url = stored.get("url") or DEFAULT_URL
    url = environ.get("TESSERA_URL") or stored_url
    if not url.startswith(("http://", "https://")):
        raise ClientError(f"TESSERA_URL is '{url[:200]}': it must begin with http:// or https://.")
    key = environ.get("TESSERA_API_KEY")
    if key:
        return Credentials(url=url, api_key=key, source="TESSERA_API_KEY")
    if stored.get("api_key") and _same_server(url, stored_url):
        return Credentials(url=url, api_key=stored["api_key"], source=str(path))
    return Credentials(url=url, source="no API key")


def _same_server(one: str, other: str) -> bool:
    def normal(text: str) -> tuple[str, str | None, int | None]:
        url = URL(text)
        return url.scheme, "127.0.0.1" if url.host == "localhost" else url.host, url.port

    try:
        return normal(one) == normal(other)
    except ValueError:
        return False


def _read(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ClientError(f"{path} cannot be read ({error.strerror}). Set TESSERA_URL and TESSERA_API_KEY.") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ClientError(f"{path} is not valid TOML ({error}). 'tessera up' writes it anew.") from error
    return {key: value for key, value in values.items() if isinstance(value, str)}
