"""What is deployed, and when: the fingerprints that decide it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tessera.config import Settings, parse_cluster
from tessera.local import deploy

CLUSTER = """
[[nodes]]
name = "pc2"
[[nodes.devices]]
name = "pc2-cpu"
kind = "cpu"
vram_mib = 1024
[[workers]]
name = "one"
engine = "preview"
models = ["preview-image"]
node = "pc2"
slots = 1
[[workers]]
name = "two"
engine = "preview"
models = ["preview-text"]
node = "pc2"
slots = 1
"""


def _settings(text: str = CLUSTER, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "home": Path("/srv/tessera"),
        "database_url": "postgresql://tessera:hidden@127.0.0.1:5433/tessera",
        "artifacts_url": "file:///srv/tessera/artifacts",
        "cluster": parse_cluster(text),
    }
    return Settings(**{**values, **changes})


def _marks(settings: Settings, code: str = "code") -> dict[str, str]:
    return {application.name: application.args["fingerprint"] for application in deploy.wanted(settings, code=code)}


def test_one_application_for_the_control_plane_and_one_per_enabled_worker() -> None:
    applications = deploy.wanted(_settings(CLUSTER + "enabled = false\n"), code="code")

    assert [(item.name, item.route_prefix) for item in applications] == [("control", "/"), ("worker-one", None)]
    assert applications[1].args == {
        "app": "worker",
        "worker": "one",
        "fingerprint": applications[1].args["fingerprint"],
    }


def test_a_changed_worker_touches_its_own_application_and_the_control_plane_only() -> None:
    before = _marks(_settings())
    after = _marks(
        _settings(CLUSTER.replace('models = ["preview-text"]', 'models = ["preview-text", "preview-music"]'))
    )

    assert {name for name in before if before[name] != after[name]} == {"control", "worker-two"}


def test_new_code_deploys_everything_and_the_same_code_nothing() -> None:
    assert _marks(_settings()) == _marks(_settings())
    before, after = _marks(_settings(), "old"), _marks(_settings(), "new")
    assert all(before[name] != after[name] for name in before)


def test_no_password_is_sent_to_serve() -> None:
    sent = json.dumps([application.config() for application in deploy.wanted(_settings(), code="code")])

    assert "hidden" not in sent
