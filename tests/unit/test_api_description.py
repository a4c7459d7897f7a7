"""/openapi.json and /docs: everything is described, every reference resolves, nothing comes from outside."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tessera.admission import Admission
from tessera.api.app import create_app
from tessera.api.docs import docs
from tessera.api.feed import Feed
from tessera.api.services import Services
from tessera.api.watermarks import Watermarks
from tessera.artifacts import FolderStore
from tessera.catalog import catalog_of
from tessera.config import ClusterConfig, NodeConfig, Settings
from tessera.inputs import INPUTS
from tessera.store.database import Database
from tests.fakes.scheduler import FakeScheduler

OPEN = {"/v1/models", "/v1/plans", "/v1/queue", "/healthz", "/readyz"}


@pytest.fixture
def description(tmp_path: Path) -> dict[str, Any]:
    dsn, scheduler = "postgresql://nobody@127.0.0.1:1/nothing", FakeScheduler()
    cluster = ClusterConfig(nodes=(NodeConfig(name="pc2"),))
    db, artifacts = Database.open(dsn), FolderStore(tmp_path)
    app = create_app(
        Services(
            settings=Settings(home=tmp_path, database_url=dsn, artifacts_url="", cluster=cluster),
            catalog=catalog_of([]),
            db=db,
            admission=Admission(dsn),
            artifacts=artifacts,
            scheduler=scheduler,
            feed=Feed(dsn, scheduler),
            watermarks=Watermarks(cluster.ingress, db, artifacts),
        )
    )
    return app.openapi()


def operations(description: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_reference_resolves(description: dict[str, Any]) -> None:
    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                at: Any = description
                for part in value["$ref"].removeprefix("#/").split("/"):
                    assert part in at, value["$ref"]
                    at = at[part]
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(description)


def test_every_route_has_a_summary_a_description_and_a_tag(description: dict[str, Any]) -> None:
    known = {tag["name"] for tag in description["tags"]}
    for method, path, operation in operations(description):
        assert operation["summary"], (method, path)
        assert operation["description"], (method, path)
        assert set(operation["tags"]) <= known


def test_routes_that_need_a_key_say_so_and_name_the_problem(description: dict[str, Any]) -> None:
    assert description["security"] == [{"apiKey": []}]
    for method, path, operation in operations(description):
        assert (operation.get("security") == []) == (path in OPEN), (method, path)
        if path not in OPEN:
            assert "application/problem+json" in operation["responses"]["401"]["content"], path


def test_bodies_have_examples_that_their_own_models_take(description: dict[str, Any]) -> None:
    body = description["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    for example in body["examples"].values():
        INPUTS[example["value"]["kind"]].model_validate(example["value"]["input"])
    for model in INPUTS.values():
        assert model.__name__ in description["components"]["schemas"]


def test_every_error_code_is_explained(description: dict[str, Any]) -> None:
    assert {"quota_exhausted", "unavailable", "invalid_input", "storage_full", "method_not_allowed"} <= {
        about["code"] for about in description["x-errors"]
    }


async def test_the_page_asks_nothing_of_the_outside_and_its_script_may_run() -> None:
    answer = await docs()
    text = bytes(answer.body).decode()
    addresses = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]+", text)) - {"http://www.w3.org"}  # an SVG namespace
    assert addresses == set()
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in answer.headers["Content-Security-Policy"]
    assert (resources.files("tessera.api") / "docs.html").is_file()
