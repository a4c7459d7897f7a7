"""The platform of one home, brought up and taken down: the order of its parts, each started by its own module.

Every step looks first and acts only where something is missing, so ``up`` may be killed anywhere and run again, may be
run while everything runs, and is what the keeper calls when a part has died. One lock per home keeps two of them apart.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import sys
import time
import tomllib
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tessera.config import (
    CREDENTIALS_FILE,
    SECRET_FILE,
    ClusterConfig,
    ConfigError,
    Settings,
    cluster_file,
    load_cluster,
    write_private,
)
from tessera.local import bots, deploy, driver, keeper_process, ports, probe, runtime
from tessera.local.postgres import EmbeddedPostgres
from tessera.local.ray_head import RayHead, RayInfo, external_info
from tessera.local.steps import OnStep, Progress, Step, StepFailed, Steps
from tessera.store import database, migrations, operators


@dataclass(frozen=True, kw_only=True)
class UpResult:
    """Everything runs. ``new_api_key`` is set once, when the operator's key was made: show it, it is not kept."""

    home: Path
    url: str
    docs_url: str
    dashboard_url: str
    new_api_key: str | None = field(repr=False)
    credentials_file: Path
    steps: tuple[Step, ...]
    duration_s: float
    next_command: str


@dataclass(frozen=True, kw_only=True)
class DownResult:
    """What was ended. The data of the home stays."""

    home: Path
    steps: tuple[Step, ...]
    duration_s: float


class Platform:
    """One home and the environment that its processes grow from."""

    def __init__(self, home: Path, environ: Mapping[str, str] | None = None) -> None:
        self.home = home.absolute()
        self.environ = dict(os.environ if environ is None else environ)
        self.postgres = EmbeddedPostgres(self.home)

    def settings(self) -> Settings | None:
        """What was written at the last start, None before the first."""
        try:
            return Settings.load(self.home)
        except ConfigError:
            return None

    def head(self, cluster: ClusterConfig) -> RayHead:
        """The Ray head of this home."""
        return RayHead(self.home, cluster, self.environ)

    # ------------------------------------------------------------------ up

    def up(self, on_step: OnStep) -> UpResult:
        """Bring everything up and prove it by a job. Raises ``StepFailed``; safe to repeat."""
        began = time.monotonic()
        with runtime.exclusive(self.home), ports.reserving():
            steps = Steps(on_step)
            with steps.step("configuration", "Configuration") as progress:
                cluster = self._configuration(progress)
            dsn, external = self._database(steps)
            new_key = self._operator(steps, dsn)
            settings = self._bring_up(steps, cluster, dsn, external, code=deploy.code_fingerprint())
            new_key = self._prove(steps, settings, new_key)
            self._bots(steps, settings)
            with steps.step("keeper", "Keeper") as progress:
                pid, started = keeper_process.ensure_running(self.home, self.environ)
                progress.done(f"watches Postgres, Ray and Serve (pid {pid})", changed=started)
        return UpResult(
            home=self.home,
            url=settings.http_url,
            docs_url=f"{settings.http_url}/docs",
            dashboard_url=settings.dashboard_url,
            new_api_key=new_key,
            credentials_file=self.home / CREDENTIALS_FILE,
            steps=tuple(steps.all),
            duration_s=time.monotonic() - began,
            next_command='tessera generate image "a lighthouse in a storm, oil painting" --size 1024x768 --out a.png',
        )

    def heal(self, missing: Collection[str], on_step: OnStep) -> None:
        """For the keeper, which holds the lock: bring back the parts that died, as the last ``up`` had them.

        ``missing`` holds 'postgres', 'ray' or names of Serve applications. Raises ``StepFailed``.
        """
        settings = Settings.load(self.home)
        steps = Steps(on_step)
        dsn = settings.database_url
        if "postgres" in missing:
            with steps.step("postgres", "Postgres") as progress:
                info = self.postgres.ensure_running()
                dsn = info.dsn
                progress.done(f"127.0.0.1:{info.port}", changed=info.started)
        chats = [platform for platform in bots.PLATFORMS if f"bots-{platform}" in missing]
        # Another program may have taken its port meanwhile: then everybody has to learn the new one.
        if dsn != settings.database_url or set(missing) - {"postgres", *(f"bots-{platform}" for platform in chats)}:
            settings = self._bring_up(
                steps, settings.cluster, dsn, settings.database_external, code=self._deployed_code()
            )
        for platform in chats:
            with steps.step(f"bots-{platform}", f"Bots in {platform.title()}") as progress:
                tokens = bots.ask(self.home, self.environ)[platform]
                pid, started = bots.ensure_running(self.home, platform, settings.http_url, self.environ, tokens)
                progress.done(f"pid {pid}", changed=started)

    def _bots(self, steps: Steps, settings: Settings) -> None:
        """The bots of those platforms for which some token is configured."""
        with steps.step("bots", "Bots") as progress:
            found = bots.ask(self.home, self.environ)
            running, changed = [], False
            bots.set_wanted(self.home, tuple(platform for platform in bots.PLATFORMS if found[platform].ready))
            for platform in bots.PLATFORMS:
                if not found[platform].ready:
                    changed = bots.stop(self.home, platform) or changed
                    continue
                bots.ensure_key(self.home, settings, read_key(self.home) or "")
                pid, started = bots.ensure_running(
                    self.home, platform, settings.http_url, self.environ, found[platform]
                )
                running.append(f"{len(found[platform].ready)} in {platform.title()} (pid {pid})")
                changed = changed or started
            progress.done(", ".join(running) or "none has a token", changed=changed)

    def _configuration(self, progress: Progress) -> ClusterConfig:
        for path in (sys.prefix, str(self.home)):
            if any(character.isspace() for character in path):
                raise ConfigError(f"'{path}' has a space in it, and Ray cannot run from there. Move it, then try again")
        cluster = load_cluster(self.environ)
        before = self.settings()
        if before is not None and before.cluster.head.name != cluster.head.name:
            # The head's name is a resource of the running Ray: only a new start can change it.
            self.head(before.cluster).stop()
        asked = self._asked_port()
        if asked is not None and (before is None or before.http_port != asked):
            # Before anything is started: this port is promised to somebody, so no other one will do.
            _refuse_taken(asked, cluster.ingress.host, progress)
        workers = ", ".join(worker.name for worker in cluster.enabled_workers()) or "none"
        progress.done(f"{len(cluster.nodes)} node(s); workers: {workers}", changed=False)
        (self.home / "run" / "cluster.toml").write_bytes(cluster_file(self.environ).read_bytes())
        return cluster

    def _database(self, steps: Steps) -> tuple[str, bool]:
        given = self.environ.get("DATABASE_URL")
        with steps.step("postgres", "Postgres") as progress:
            if given:
                asyncio.run(_check_database(given))
                progress.done("the one that DATABASE_URL names", changed=False)
                dsn = given
            else:
                if not self.postgres.data.exists():
                    progress.wait("making the database")
                info = self.postgres.ensure_running()
                dsn = info.dsn
                progress.done(f"127.0.0.1:{info.port}, pid {info.pid}", changed=info.started)
        with steps.step("migrations", "Migrations") as progress:
            revision = asyncio.run(_migrate(dsn))
            progress.done(f"at {revision}", changed=False)
        return dsn, bool(given)

    def _operator(self, steps: Steps, dsn: str) -> str | None:
        with steps.step("operator", "Operator") as progress:
            stored = read_key(self.home)
            new = asyncio.run(operators.ensure_operator(dsn))
            if new is None and stored is None:
                # The key was lost, or an earlier 'up' was killed before it could be stored: it cannot be had again.
                new = asyncio.run(operators.ensure_operator(dsn, renew=True))
            if new is not None:
                store_key(self.home, self._known_url(), new)
            progress.done(f"API key in {self.home / CREDENTIALS_FILE}", changed=new is not None)
        return new

    def _known_url(self) -> str:
        before = self.settings()
        return before.http_url if before is not None else "http://127.0.0.1:8000"

    def _bring_up(self, steps: Steps, cluster: ClusterConfig, dsn: str, external: bool, *, code: str) -> Settings:
        """Ray, the scheduler and the Serve applications. ``code`` is the code that they are to run."""
        head = self.head(cluster)
        with steps.step("ray", "Ray") as progress:
            ray = self._join(head, cluster) if head.external_address else head.ensure_running(progress.wait)
            progress.done(f"{ray.address}, dashboard {ray.dashboard_url}", changed=ray.started)
        settings = self._settings(cluster, dsn, external, ray)
        serve = deploy.Serve(ray.dashboard_url, head.token(), None if ray.external else head.session_logs())
        write_private(self.home / "run" / "code", code + "\n")
        with ThreadPoolExecutor(max_workers=1) as pool:
            with steps.step("serve", "Serve applications") as progress:
                settings = self._choose_http_port(serve, settings, progress)
                settings.save()
                applications = deploy.wanted(settings, code=code)
                changed = serve.send(settings, applications, progress.wait)
                # Importing Ray takes a driver two seconds: it does that while Serve starts its replicas.
                scheduler = pool.submit(self._ensure_scheduler, head, settings, code)
                serve.wait_running(applications, progress.wait)
                workers = len(cluster.enabled_workers())
                progress.done(f"{workers} worker(s), ingress on {settings.http_url}", changed=changed)
            with steps.step("scheduler", "Scheduler") as progress:
                pid, started = _result(scheduler)
                progress.done(f"actor 'scheduler', pid {pid}", changed=started)
        return settings

    def _deployed_code(self) -> str:
        """The code that the last ``up`` deployed: healing one part must not update the others."""
        try:
            return (self.home / "run" / "code").read_text(encoding="ascii").strip()
        except OSError:
            return deploy.code_fingerprint()

    def _settings(self, cluster: ClusterConfig, dsn: str, external: bool, ray: RayInfo) -> Settings:
        before = self.settings()
        artifacts = self.home / "artifacts"
        artifacts.mkdir(mode=0o700, exist_ok=True)
        return Settings(
            home=self.home,
            database_url=dsn,
            database_external=external,
            artifacts_url=self.environ.get("TESSERA_ARTIFACTS_URL") or artifacts.as_uri(),
            http_host=cluster.ingress.host,
            http_port=before.http_port if before is not None else cluster.ingress.port,
            ray_address=ray.address,
            ray_external=ray.external,
            ray_token_path=ray.token_path,
            ray_temp_dir=ray.temp_dir,
            dashboard_url=ray.dashboard_url,
            ports=ray.ports,
            secret=_secret(self.home),
            cluster=cluster,
        )

    def _join(self, head: RayHead, cluster: ClusterConfig) -> RayInfo:
        found = driver.call(head.driver_environment(), "describe")
        if found["resources"].get(cluster.head.name, 0) < 1:
            raise ConfigError(
                f"the Ray cluster at {head.external_address} has no resource '{cluster.head.name}'. Start its head "
                f"with --resources='{{\"{cluster.head.name}\": 100}}', so that the control plane knows its node"
            )
        if not found["dashboard_url"]:
            raise ConfigError(f"the Ray cluster at {head.external_address} runs without its dashboard, which is needed")
        token = self.environ.get("RAY_AUTH_TOKEN_PATH")
        return external_info(found["address"], found["dashboard_url"], Path(token) if token else None)

    def _asked_port(self) -> int | None:
        asked = self.environ.get("TESSERA_PORT")
        if not asked:
            return None
        if not asked.isdecimal() or not 0 < int(asked) < 65_536:
            raise ConfigError(f"TESSERA_PORT is '{asked}': give a number between 1 and 65535")
        return int(asked)

    def _choose_http_port(self, serve: deploy.Serve, settings: Settings, progress: Progress) -> Settings:
        """The port that Serve has, else the wanted one, else a free one. Serve cannot change it while it runs."""
        asked = self._asked_port()
        wanted = asked or settings.cluster.ingress.port
        state = serve.reach(progress.wait)
        if state.port is not None:
            same_host = state.host == settings.http_host
            if same_host and (not asked or state.port == wanted):
                return settings.model_copy(update={"http_port": state.port})
            if settings.ray_external and any(not deploy.is_ours(app) for app in state.applications.values()):
                raise ConfigError(
                    f"Serve listens on {state.host}:{state.port} there, also for applications of others. "
                    f"Set TESSERA_PORT={state.port} and the host in the cluster file to match"
                )
            progress.wait(f"moving the ingress to port {wanted}")
            serve.shutdown()
        if asked:
            _refuse_taken(asked, settings.http_host, progress)
        before = None if asked else settings.http_port
        port = ports.free_port(self.home, wanted, before, taken=set(settings.ports.values()), host=settings.http_host)
        return settings.model_copy(update={"http_port": port})

    def _ensure_scheduler(self, head: RayHead, settings: Settings, code: str) -> tuple[int, bool]:
        """The scheduler actor's pid, and whether it is a new process."""
        record = self.home / "run" / "scheduler.json"
        mark = deploy.scheduler_fingerprint(settings, code=code)
        try:
            known = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        replace = known.get("fingerprint") not in {None, mark}
        answer = driver.call(
            head.driver_environment(),
            "scheduler",
            str(self.home),
            settings.cluster.head.name,
            "yes" if replace else "no",
        )
        pid = int(answer["pid"])
        write_private(record, json.dumps({"fingerprint": mark, "pid": pid}) + "\n")
        return pid, pid != known.get("pid")

    # ------------------------------------------------------------------ the proof

    def _prove(self, steps: Steps, settings: Settings, new_key: str | None) -> str | None:
        with steps.step("ready", "Ingress") as progress:
            probe.wait_ready(settings, progress.wait)
            progress.done(settings.http_url, changed=False)
        with steps.step("probe", "Probe job") as progress:
            key = new_key or read_key(self.home)
            if key is None or not probe.check_key(settings, key):
                key = new_key = asyncio.run(operators.ensure_operator(settings.database_url, renew=True))
            if key is None:
                raise probe.ProbeError("the operator has no API key")
            store_key(self.home, settings.http_url, key)
            if probe.served(settings):
                job = probe.run(settings, key, progress.wait)
                progress.done(f"{job} went the whole way")
            else:
                progress.done(f"skipped: no enabled worker serves {probe.MODEL}", changed=False)
        return new_key

    # ------------------------------------------------------------------ down

    def down(self, on_step: OnStep) -> DownResult:
        """End what was started for this home, verify it, keep the data. Raises ``StepFailed``; safe to repeat."""
        began = time.monotonic()
        kept = keeper_process.stop(self.home)  # before the lock: it may hold it, and must not bring anything back
        with runtime.exclusive(self.home):
            steps = Steps(on_step)
            with steps.step("keeper", "Keeper") as progress:
                kept = keeper_process.stop(self.home) or kept
                progress.done("ended" if kept else "did not run", changed=kept)
            before = self.settings()
            for platform in bots.PLATFORMS:
                if bots.stop(self.home, platform):
                    with steps.step(f"bots-{platform}", f"Bots in {platform.title()}") as progress:
                        progress.done("ended", changed=True)
            with steps.step("ray", "Serve, scheduler and Ray") as progress:
                ended = self._end_ray(before)
                progress.done("ended" if ended else "did not run", changed=ended)
            with steps.step("postgres", "Postgres") as progress:
                if before is not None and before.database_external:
                    progress.done("left running: DATABASE_URL names it", changed=False)
                else:
                    ended = self.postgres.stop()
                    progress.done("ended, everything written" if ended else "did not run", changed=ended)
            (self.home / "run" / "scheduler.json").unlink(missing_ok=True)
            shutil.rmtree(runtime.short_dir_path(self.home) / "h", ignore_errors=True)
        return DownResult(home=self.home, steps=tuple(steps.all), duration_s=time.monotonic() - began)

    def _end_ray(self, before: Settings | None) -> bool:
        cluster = before.cluster if before is not None else load_cluster({})
        head = self.head(cluster)
        ended = RayHead(self.home, cluster, {**self.environ, "RAY_ADDRESS": ""}).stop()
        if before is not None and before.ray_external:
            if head.external_address is None:
                raise ConfigError(
                    f"the platform runs on the Ray cluster at {before.ray_address}: set RAY_ADDRESS (and its token) as "
                    "for 'up', and run this again"
                )
            names = [application.name for application in deploy.wanted(before, code="")]
            ended = bool(driver.call(head.driver_environment(), "end", *names)["ended"]) or ended
        return ended


def _secret(home: Path) -> str:
    """The secret of this installation, made once and kept in a file of its own (0600). What is signed or hashed with it
    is void when it is lost."""
    path = home / SECRET_FILE
    try:
        found = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        found = ""
    if not found:
        found = secrets.token_hex(32)
        write_private(path, found + "\n")
    return found


def read_key(home: Path) -> str | None:
    """The operator's API key that ``up`` has stored, None when there is none."""
    try:
        stored = tomllib.loads((home / CREDENTIALS_FILE).read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return None
    key = stored.get("api_key")
    return key if isinstance(key, str) and key else None


def store_key(home: Path, url: str, api_key: str) -> None:
    """Write ``credentials.toml`` (0600), which the command line and the client read."""
    text = f'# Written by tessera up. Whoever reads this file is the operator.\nurl = "{url}"\napi_key = "{api_key}"\n'
    path = home / CREDENTIALS_FILE
    try:
        if path.read_text(encoding="utf-8") == text and path.stat().st_mode & 0o077 == 0:
            return
    except OSError:
        pass
    write_private(path, text)


def _refuse_taken(port: int, host: str, progress: Progress) -> None:
    if not ports.is_free(port, host):
        raise StepFailed(
            progress.step,
            f"port {port} (TESSERA_PORT) is taken by another program",
            fix=f"end it ('ss -ltnp sport = :{port}' names it), or choose another TESSERA_PORT",
        )


async def _migrate(dsn: str) -> str:
    revision = await migrations.migrate(dsn)
    await migrations.seed(dsn)
    return revision


async def _check_database(dsn: str) -> None:
    connection = await database.connect(dsn, name="tessera-up")
    await connection.close()


def _result(scheduler: Future[tuple[int, bool]]) -> tuple[int, bool]:
    return scheduler.result(timeout=driver.TIMEOUT_S + 5)
