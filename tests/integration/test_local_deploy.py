"""What is sent to Serve and what is left alone, against a stand-in for the dashboard on a real socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

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


class Dashboard:
    """A stand-in for the dashboard's Serve endpoint: what is put there is what runs."""

    def __init__(self) -> None:
        self.applications: dict[str, dict[str, Any]] = {}
        self.puts: list[dict[str, Any]] = []
        self.refusals: list[int] = []  # the statuses of the next answers to a PUT, the last one first
        dashboard = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                running = {"actor_id": "x"} if dashboard.puts else {}
                self._answer({"controller_info": running, "applications": dashboard.applications})

            def do_PUT(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if dashboard.refusals:
                    self._answer("ActorDiedError", status=dashboard.refusals.pop())
                    return
                dashboard.puts.append(body)
                dashboard.applications = {entry["name"]: dashboard.entry(entry) for entry in body["applications"]}
                self._answer({})

            def _answer(self, data: Any, *, status: int = 200) -> None:
                assert self.headers["Authorization"] == "Bearer the-token"
                body = json.dumps(data).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.serve = deploy.Serve(f"http://127.0.0.1:{self._server.server_port}", "the-token", None)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @staticmethod
    def entry(config: dict[str, Any], status: str = "RUNNING", message: str = "") -> dict[str, Any]:
        return {"status": status, "message": message, "deployed_app_config": config, "deployments": {}}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    stand_in = Dashboard()
    try:
        yield stand_in
    finally:
        stand_in.close()


def _deploy(dashboard: Dashboard, settings: Settings, code: str = "code") -> bool:
    applications = deploy.wanted(settings, code=code)
    sent = dashboard.serve.send(settings, applications, lambda _detail: None)
    dashboard.serve.wait_running(applications, lambda _detail: None)
    return sent


def test_what_runs_as_wanted_is_not_deployed_again(dashboard: Dashboard) -> None:
    assert _deploy(dashboard, _settings())
    assert not _deploy(dashboard, _settings())
    assert len(dashboard.puts) == 1
    assert dashboard.puts[0]["http_options"] == {"host": "127.0.0.1", "port": 8000}


def test_a_worker_taken_out_of_the_file_is_taken_down(dashboard: Dashboard) -> None:
    _deploy(dashboard, _settings())

    _deploy(dashboard, _settings(CLUSTER + "enabled = false\n"))

    assert set(dashboard.applications) == {"control", "worker-one"}


def test_applications_of_others_are_left_as_they_are(dashboard: Dashboard) -> None:
    foreign = {"name": "theirs", "import_path": "their.module:app", "route_prefix": "/theirs"}
    dashboard.applications = {"theirs": dashboard.entry(foreign)}

    _deploy(dashboard, _settings())

    assert dashboard.applications["theirs"]["deployed_app_config"] == foreign


def test_a_failed_application_is_tried_again_although_nothing_changed(dashboard: Dashboard) -> None:
    _deploy(dashboard, _settings())
    failed = dashboard.applications["worker-one"]["deployed_app_config"]
    dashboard.applications["worker-one"] = dashboard.entry(failed, "DEPLOY_FAILED", "no such model")

    assert _deploy(dashboard, _settings())

    assert dashboard.applications["worker-one"]["deployed_app_config"]["args"]["retry"] == "1"


def test_a_failure_is_reported_with_what_serve_says(dashboard: Dashboard) -> None:
    applications = deploy.wanted(_settings(), code="code")
    for application in applications:
        dashboard.applications[application.name] = dashboard.entry(application.config())
    broken = applications[1]
    dashboard.applications[broken.name] = dashboard.entry(broken.config(), "DEPLOY_FAILED", "ModuleNotFoundError: x")

    with pytest.raises(deploy.DeployError) as failure:
        dashboard.serve.wait_running(applications, lambda _detail: None)

    assert broken.name in str(failure.value)
    assert "ModuleNotFoundError" in failure.value.log_tail
    assert failure.value.fix


def test_serve_that_did_not_come_up_is_asked_again(dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy, "PUT_PAUSE_S", 0.0)
    dashboard.refusals = [500, 500]

    assert _deploy(dashboard, _settings())

    assert len(dashboard.puts) == 1


@pytest.mark.parametrize(("status", "fix"), [(500, "run this again"), (400, "bug of Tessera")])
def test_serve_that_goes_on_refusing_is_told_with_what_it_says(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch, status: int, fix: str
) -> None:
    monkeypatch.setattr(deploy, "PUT_PAUSE_S", 0.0)
    dashboard.refusals = [status] * 10

    with pytest.raises(deploy.DeployError) as failure:
        _deploy(dashboard, _settings())

    assert len(dashboard.refusals) == (10 - deploy.PUT_TRIES if status == 500 else 9)
    assert "ActorDiedError" in failure.value.log_tail
    assert fix in str(failure.value.fix)
