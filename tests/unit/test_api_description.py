"""/openapi.json and /docs: everything is described, every reference resolves, nothing comes from outside."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from tessera.api.docs import docs
from tessera.inputs import INPUTS
from tests import described

OPEN = {"/v1/models", "/v1/plans", "/v1/queue", "/v1/links/{artifact_id}", "/healthz", "/readyz"}


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    return described.description()


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
            shape = "application/json" if path.startswith("/openai/") else "application/problem+json"
            assert shape in operation["responses"]["401"]["content"], path


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


def test_the_description_is_valid_by_the_standard(description: dict[str, Any]) -> None:
    validate(description, cls=OpenAPIV31SpecValidator)


def test_the_copy_in_docs_is_what_the_api_says(description: dict[str, Any]) -> None:
    """A change of the API is seen in review; `make describe` writes the copies."""
    assert described.OPENAPI.read_text(encoding="utf-8") == described.openapi_text(description), "make describe"
    assert described.ROUTES.read_text(encoding="utf-8") == described.routes_text(description), "make describe"


def test_every_operation_says_which_scopes_it_needs(description: dict[str, Any]) -> None:
    for method, path, operation in operations(description):
        assert bool(operation.get("x-scopes")) == (operation.get("security") != []), (method, path)
        if path.startswith("/v1/admin/"):
            assert operation["x-scopes"] == ["admin"], (method, path)
