"""Brings the Serve applications to what the cluster file says, and touches nothing that already is so.

Serve takes a declarative configuration over the dashboard's REST API and replaces exactly the applications whose
arguments changed (measured: deploying anew by ``serve.run`` restarted replicas that had not changed). Each application
therefore carries a fingerprint of its part of the configuration and of the code; equal fingerprints of a running
application mean that nothing is sent at all.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tessera.cards import OPERATORS_FOLDER as CARDS_FOLDER
from tessera.config import Settings
from tessera.local import processes, rest
from tessera.manifests import OPERATORS_FOLDER as WORKFLOWS_FOLDER

BUILDER = "deployments.app:build"
CONTROL = "control"
ARTIFACTS = "artifacts"
DEPLOY_TIMEOUT_S = 240.0
POLL_S = 0.5
PUT_TRIES = 4
PUT_PAUSE_S = 3.0
SILENCE_S = 20.0  # a dashboard on a loaded machine was seen to keep silent for 6 s
RUNNING = "RUNNING"
FAILED = frozenset({"DEPLOY_FAILED"})


class DeployError(Exception):
    """The applications could not be brought up. ``log_tail`` and ``fix`` as in ``PostgresError``."""

    def __init__(self, message: str, *, log_tail: str = "", fix: str = "") -> None:
        super().__init__(message)
        self.log_tail = log_tail
        self.fix = fix
        for note in (log_tail, fix):
            if note:
                self.add_note(note)


@dataclass(frozen=True, kw_only=True)
class Application:
    """One Serve application as it is wanted."""

    name: str
    route_prefix: str | None
    args: dict[str, str]
    env: dict[str, str] = field(default_factory=dict)  # only for a cluster that was not started by us

    def config(self) -> dict[str, Any]:
        """The entry of Serve's configuration (docs.ray.io, ServeApplicationSchema)."""
        entry: dict[str, Any] = {
            "name": self.name,
            "route_prefix": self.route_prefix,
            "import_path": BUILDER,
            "args": self.args,
        }
        if self.env:
            entry["runtime_env"] = {"env_vars": self.env}
        return entry


@dataclass(frozen=True, kw_only=True)
class ApplicationState:
    """One Serve application as it is."""

    name: str
    status: str  # DEPLOYING, RUNNING, UNHEALTHY, DEPLOY_FAILED, DELETING, NOT_STARTED
    message: str
    fingerprint: str
    config: dict[str, Any]
    replicas: tuple[dict[str, Any], ...]  # each with state, pid, log_file_path


@dataclass(frozen=True, kw_only=True)
class ServeState:
    """What Serve says of itself; ``port`` is None while it is not running."""

    host: str | None
    port: int | None
    applications: dict[str, ApplicationState]


def wanted(settings: Settings, *, code: str) -> list[Application]:
    """The applications of a cluster: the control plane and one per enabled worker.

    ``code`` is the fingerprint of the installed code, so that an update deploys itself.
    """
    cluster = settings.cluster
    code = _digest(code, workflows_fingerprint(settings.home))
    everything = _digest(code, cluster.fingerprint(), settings.database_url, settings.artifacts_url)
    env: dict[str, str] = {}
    if settings.ray_external:
        env = {"TESSERA_HOME": str(settings.home), "TESSERA_CLUSTER": str(settings.home / "run" / "cluster.toml")}
    found = [
        Application(name=CONTROL, route_prefix="/", args={"app": "control", "fingerprint": everything}, env=env),
    ]
    workers = cluster.enabled_workers()
    if settings.artifacts_url.startswith("file:") and any(worker.node != cluster.head.name for worker in workers):
        mark = _digest(code, settings.artifacts_url)
        found.append(Application(name=ARTIFACTS, route_prefix=None, args={"app": ARTIFACTS, "fingerprint": mark}))
    for worker in workers:
        mark = _digest(code, worker.fingerprint(), settings.artifacts_url)
        args = {"app": "worker", "worker": worker.name, "fingerprint": mark}
        found.append(Application(name=worker.application, route_prefix=None, args=args, env=env))
    return found


def scheduler_fingerprint(settings: Settings, *, code: str) -> str:
    """Changes when the scheduler actor has to be replaced by a new process."""
    code = _digest(code, workflows_fingerprint(settings.home))
    return _digest(code, settings.cluster.fingerprint(), settings.database_url, settings.artifacts_url)


def workflows_fingerprint(home: Path) -> str:
    """Changes with the operator's own workflows and cards: what they offer is in the catalogue of every part."""
    digest = hashlib.sha256()
    for path in sorted((*(home / WORKFLOWS_FOLDER).glob("*.*"), *(home / CARDS_FOLDER).glob("*.*"))):
        if path.suffix in {".toml", ".json"}:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def code_fingerprint() -> str:
    """Changes with the installed code: the Python, SQL, TOML and JSON files of our packages."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in ("tessera", "deployments", "cluster", "sql"):
        for path in sorted((root / package).rglob("*")):
            # tessera/local and the command line run outside of Serve: a change of them deploys nothing.
            inside = path.relative_to(root).parts[:2] not in {("tessera", "local"), ("tessera", "cli")}
            if inside and path.suffix in {".py", ".sql", ".toml", ".json"}:
                digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


class Serve:
    """Serve's REST API on the dashboard of one cluster."""

    def __init__(self, dashboard_url: str, token: str, session_logs: Path | None) -> None:
        self._url = f"{dashboard_url}/api/serve/applications/"
        self._token = token
        self._logs = session_logs

    def state(self) -> ServeState:
        """What runs. Raises ``rest.Unreachable`` while the dashboard does not answer."""
        answer = rest.request("GET", self._url, token=self._token, timeout_s=15.0)
        if answer.status != 200:
            raise rest.Unreachable(f"the Ray dashboard answered {answer.status}: {answer.text()[:300]}")
        data = answer.json() or {}
        running = bool(data.get("controller_info", {}).get("actor_id"))
        http = data.get("http_options") or {}
        return ServeState(
            host=http.get("host") if running else None,
            port=http.get("port") if running else None,
            applications={name: _application(name, entry) for name, entry in data.get("applications", {}).items()},
        )

    def send(self, settings: Settings, applications: list[Application], on_wait: Callable[[str], None]) -> bool:
        """Start Serve and bring it to the wanted applications; True when anything had to be sent.

        Applications of others on the same cluster are left as they are. Raises ``DeployError``.
        """
        state = self.reach(on_wait)
        applications = [_once_more(application, state) for application in applications]
        ours = {application.name for application in applications}
        stale = {name for name, found in state.applications.items() if is_ours(found) and name not in ours}
        sent = bool(stale) or any(not _is_as_wanted(application, state) for application in applications)
        if sent:
            others = [
                found.config
                for name, found in state.applications.items()
                if name not in ours and name not in stale and found.config
            ]
            self._put(settings, [application.config() for application in applications] + others, on_wait)
        return sent

    def shutdown(self) -> None:
        """End Serve as a whole: the only way to another HTTP port."""
        rest.request("DELETE", self._url, token=self._token, timeout_s=60.0)

    def reach(self, on_wait: Callable[[str], None]) -> ServeState:
        """What runs, after waiting for the dashboard. Raises ``DeployError``."""
        deadline = time.monotonic() + 60.0
        while True:
            try:
                return self.state()
            except rest.Unreachable as error:
                if time.monotonic() > deadline:
                    raise DeployError(
                        f"the Ray dashboard does not answer: {error}",
                        log_tail=self._tail("dashboard.err") or self._tail("dashboard_ServeHead.log"),
                        fix="run 'make down' and 'make up'",
                    ) from error
                on_wait("waiting for the Ray dashboard")
                time.sleep(POLL_S)

    def _put(self, settings: Settings, entries: list[dict[str, Any]], on_wait: Callable[[str], None]) -> None:
        configuration = {
            "proxy_location": "HeadOnly",  # other nodes run engines, not ingress
            "http_options": {"host": settings.http_host, "port": settings.http_port},
            # The ingress writes its own line per request, with the request's id.
            "logging_config": {"encoding": "JSON", "enable_access_log": False},
            "applications": entries,
        }
        for tries_left in range(PUT_TRIES - 1, -1, -1):
            try:
                answer = rest.request("PUT", self._url, body=configuration, token=self._token, timeout_s=90.0)
            except rest.Unreachable as error:
                raise DeployError(
                    f"Serve did not start: {error}",
                    log_tail=self._tail("dashboard_ServeHead.log") or self._newest("controller_"),
                    fix="run this again; if it stays so, 'make down' first",
                ) from error
            if answer.status == 200:
                return
            # On a loaded machine Serve was seen to end its own proxy because that was not ready in time, and to answer
            # 500 to whoever had just started it; it starts another one.
            if answer.status < 500 or not tries_left:
                break
            on_wait(f"Serve has not come up ({answer.status}); asking it again")
            time.sleep(PUT_PAUSE_S)
        raise DeployError(
            f"Serve refused the configuration ({answer.status})",
            log_tail=answer.text()[-2000:],
            fix="this is a bug of Tessera: please report it with these lines"
            if answer.status < 500
            else "the machine may be too busy to start Serve in time: run this again when it is quieter",
        )

    def wait_running(self, applications: Iterable[Application], on_wait: Callable[[str], None]) -> None:
        """Wait until all of them run. Raises ``DeployError`` with the reason of the first that does not."""
        names = sorted(application.name for application in applications)
        deadline = time.monotonic() + DEPLOY_TIMEOUT_S
        heard = time.monotonic()
        found: dict[str, ApplicationState] = {}
        while True:
            try:
                found = self.state().applications
                heard = time.monotonic()
            except rest.Unreachable as error:
                if time.monotonic() - heard > SILENCE_S:
                    raise DeployError(
                        f"the Ray dashboard went away while Serve started: {error}",
                        log_tail=self._tail("dashboard.err"),
                        fix="run this again; 'tessera logs ray' shows what ended it",
                    ) from error
            statuses = {name: found[name].status if name in found else "NOT_STARTED" for name in names}
            if all(status == RUNNING for status in statuses.values()):
                return
            failed = [name for name, status in statuses.items() if status in FAILED]
            if failed or time.monotonic() > deadline:
                name = failed[0] if failed else next(name for name in names if statuses[name] != RUNNING)
                raise self._failure(name, found.get(name), timed_out=not failed)
            running = sum(status == RUNNING for status in statuses.values())
            waiting = ", ".join(name for name in names if statuses[name] != RUNNING)
            on_wait(f"{running} of {len(names)} applications run; waiting for {waiting}")
            time.sleep(POLL_S)

    def _failure(self, name: str, found: ApplicationState | None, *, timed_out: bool) -> DeployError:
        tail = "\n".join((found.message if found else "").splitlines()[-20:])
        if not tail and found is not None:
            for replica in found.replicas:
                path = replica.get("log_file_path")
                tail = self._tail(str(path).lstrip("/")) if path else ""
                if tail:
                    break
        what = f"was not running after {DEPLOY_TIMEOUT_S:.0f} s" if timed_out else "could not be deployed"
        return DeployError(
            f"the Serve application '{name}' {what}",
            log_tail=tail or self._newest("controller_"),
            fix="correct what these lines name (often cluster/cluster.toml or a missing file) and run this again",
        )

    def _tail(self, name: str) -> str:
        return processes.tail(self._logs / name, 15) if self._logs is not None else ""

    def _newest(self, prefix: str) -> str:
        if self._logs is None:
            return ""
        found = sorted((self._logs / "serve").glob(f"{prefix}*.log"), key=lambda path: path.stat().st_mtime)
        return processes.tail(found[-1], 15) if found else ""


def _application(name: str, entry: dict[str, Any]) -> ApplicationState:
    config = entry.get("deployed_app_config") or {}
    deployments = (entry.get("deployments") or {}).values()
    messages = [entry.get("message") or "", *(item.get("message") or "" for item in deployments)]
    return ApplicationState(
        name=name,
        status=str(entry.get("status")),
        message="\n".join(message for message in messages if message),
        fingerprint=str((config.get("args") or {}).get("fingerprint", "")),
        config=config,
        replicas=tuple(replica for item in deployments for replica in item.get("replicas") or ()),
    )


def is_ours(found: ApplicationState) -> bool:
    """Whether this application of a cluster was deployed by Tessera."""
    return found.config.get("import_path") == BUILDER


def _is_as_wanted(application: Application, state: ServeState) -> bool:
    found = state.applications.get(application.name)
    # One that is being deployed, or unhealthy for a moment, with the right configuration is on its way by itself.
    return found is not None and found.fingerprint == application.args["fingerprint"] and found.status not in FAILED


def _once_more(application: Application, state: ServeState) -> Application:
    """A failed application of the same configuration is not tried again by Serve unless something differs."""
    found = state.applications.get(application.name)
    if found is None or found.status not in FAILED:
        return application
    before = int((found.config.get("args") or {}).get("retry", "0"))
    return Application(
        name=application.name,
        route_prefix=application.route_prefix,
        args={**application.args, "retry": str(before + 1)},
        env=application.env,
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
