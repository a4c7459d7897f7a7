"""The API's description, and the two files of docs/ that are written from it: ``python -m tests.described``."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from tessera.admission import Admission
from tessera.api.app import create_app
from tessera.api.deliveries.bell import Bell
from tessera.api.deliveries.sender import Sender
from tessera.api.events.feed import Feed
from tessera.api.services import Services, utc_now
from tessera.api.standing import Standing
from tessera.api.watermarks import Watermarks
from tessera.artifacts import FolderStore
from tessera.catalog import catalog_of
from tessera.config import ClusterConfig, NodeConfig, Settings
from tessera.outbound import Outbound
from tessera.store.database import Database
from tests.fakes.scheduler import FakeScheduler

DOCS = Path(__file__).parents[1] / "docs"
OPENAPI = DOCS / "openapi.json"
ROUTES = DOCS / "routes.md"

_ROUTES_HEAD = """\
# Every route

Written from the API's own description by `make describe`; a test holds the two together. Scopes: one of them is enough.
Errors are status codes; [api.md](api.md) says what the codes of their problems mean. The whole description is
[openapi.json](openapi.json).
"""
_COLUMNS = "| method | path | what | scopes | errors |\n|---|---|---|---|---|"


def description() -> dict[str, Any]:
    """What GET /openapi.json answers. Nothing is connected to."""
    with tempfile.TemporaryDirectory() as folder:
        return _app(Path(folder)).openapi()


def _app(tmp_path: Path) -> FastAPI:
    dsn, scheduler = "postgresql://nobody@127.0.0.1:1/nothing", FakeScheduler()
    cluster = ClusterConfig(nodes=(NodeConfig(name="pc2"),))
    db, artifacts = Database.open(dsn), FolderStore(tmp_path)
    outbound, bell = Outbound(), Bell(dsn)
    return create_app(
        Services(
            settings=Settings(home=tmp_path, database_url=dsn, artifacts_url="", cluster=cluster),
            catalog=catalog_of([]),
            db=db,
            admission=Admission(dsn),
            artifacts=artifacts,
            scheduler=scheduler,
            feed=Feed(dsn, scheduler),
            watermarks=Watermarks(cluster.ingress, db, artifacts),
            outbound=outbound,
            bell=bell,
            sender=Sender(dsn, outbound, bell, utc_now),
            standing=Standing(db),
        )
    )


def openapi_text(described: dict[str, Any]) -> str:
    """docs/openapi.json."""
    return json.dumps(described, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def routes_text(described: dict[str, Any]) -> str:
    """docs/routes.md: a row for every route, by its tag."""
    rows: dict[str, list[str]] = {tag["name"]: [] for tag in described["tags"]}
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            scopes = ", ".join(operation.get("x-scopes", ())) or "no key"
            errors = " ".join(sorted(status for status in operation["responses"] if status >= "4"))
            row = f"| {method.upper()} | `{path}` | {operation['summary']} | {scopes} | {errors} |"
            rows[operation["tags"][0]].append(row)
    count = sum(len(group) for group in rows.values())
    parts = [_ROUTES_HEAD, f"{count} routes.\n"]
    for tag in described["tags"]:
        if rows[tag["name"]]:
            head = f"## {tag['name']}\n\n{tag['description']}\n\n{_COLUMNS}"
            parts.append("\n".join([head, *rows[tag["name"]]]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    found = description()
    OPENAPI.write_text(openapi_text(found), encoding="utf-8")
    ROUTES.write_text(routes_text(found), encoding="utf-8")
