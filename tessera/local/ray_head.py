"""The Ray head of one home, as a supervised process of its own beside any other Ray on the machine.

What this module sees to, and how (read in the installed source of Ray 2.60, and measured):

* **Loopback.** Ray replaces ``--node-ip-address=127.0.0.1`` by the LAN address, except where it believes that clusters
  are not supported (``RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0``): then the GCS, the raylet, the agents, all workers and
  their metrics listen on 127.0.0.1. A cluster of several nodes names the addresses that it uses in cluster.toml.
  HAProxy's two own ports are put on loopback by a wrapper around its binary. What is left on all interfaces are the
  replicas' gRPC ports, which ask for a certificate (``tls.py``).
* **A token** for every call and the dashboard, in a file of mode 0600; it is never an argument or a log line.
* **Ports** are pinned, replaced when taken, recorded, and preferred again at the next start.
* **Ending** goes to the recorded process, its descendants, and those whose environment carries our mark, never by
  name: ``ray stop`` would end every Ray of the machine.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from tessera.config import ClusterConfig, write_private
from tessera.local import haproxy, ports, processes, runtime, tls
from tessera.local.processes import ProcessRecord

LOOPBACK = "127.0.0.1"
MARK = "TESSERA_RAY"  # in the environment of every process of a head: whose it is
READY_TIMEOUT_S = 180.0  # seen: 8 s alone on two cores, 40 s beside a full test run
OBJECT_STORE_BYTES = 200 * 2**20  # artifacts never pass through Ray; this is for stray large arguments
KEPT_SESSIONS = 3  # Ray makes a folder of logs per start and never removes one

# Name → Ray's own default, which stands where nothing is recorded yet. Only the dashboard prefers its default: people
# know that address. The others are free ports of ports.py from the start: some are bound only when Serve starts, long
# after they were chosen, and two installations started at the same time would choose the same defaults.
DEFAULT_PORTS = {
    "gcs": 6379,
    "dashboard": 8265,
    "node_manager": 6380,
    "object_manager": 6381,
    "runtime_env_agent": 6382,
    "dashboard_agent_grpc": 6383,
    "dashboard_agent_http": 52365,
    "ray_client": 10001,
    "ray_metrics": 8080,
    "dashboard_metrics": 44227,
    "haproxy_metrics": 9101,
    "haproxy_stats": 8404,
    "serve_proxy": 8500,
}
REPLICA_PORTS = 200  # a replica's HTTP port rests for 150 s after it ended: room for 50 redeployments in that time
REPLICA_PORTS_FROM = 30_000


class RayHeadError(Exception):
    """Ray could not be started, reached or stopped. ``log_tail`` and ``fix`` as in ``PostgresError``."""

    def __init__(self, message: str, *, log_tail: str = "", fix: str = "") -> None:
        super().__init__(message)
        self.log_tail = log_tail
        self.fix = fix
        for note in (log_tail, fix):
            if note:
                self.add_note(note)


@dataclass(frozen=True, kw_only=True)
class RayInfo:
    """A running cluster. ``pid`` is that of ``ray start``, None for a cluster that is not ours."""

    address: str
    dashboard_url: str
    token_path: Path | None
    temp_dir: Path | None
    ports: dict[str, int]
    pid: int | None
    started: bool
    external: bool = False


class RayHead:
    """One head for one home. ``environ`` is the environment that the platform's processes grow from."""

    def __init__(self, home: Path, cluster: ClusterConfig, environ: Mapping[str, str]) -> None:
        self.home = home
        self.cluster = cluster
        self.environ = environ
        self.root = home / "ray"
        self.record_file = home / "run" / "ray.json"
        self.log_file = home / "logs" / "ray.log"
        self.temp_dir = runtime.short_dir_path(home) / "ray"
        self.haproxy_dir = runtime.short_dir_path(home) / "h"  # one letter: see runtime.py on the length of paths
        self.token_file = self.root / "auth_token"

    @property
    def external_address(self) -> str | None:
        """RAY_ADDRESS, when somebody else's cluster is to be joined."""
        return self.environ.get("RAY_ADDRESS") or None

    # ------------------------------------------------------------------ what a caller needs

    def ensure_running(self, on_wait: Callable[[str], None] = lambda _detail: None) -> RayInfo:
        """Start the head unless it runs, and wait until it takes work. Safe to repeat; adopts a start under way.

        Raises ``RayHeadError``. ``on_wait`` is told what is waited for.
        """
        runtime.prepare_home(self.home)
        record = processes.load_record(self.record_file)
        if record is not None:
            try:
                self._wait_ready(record, on_wait)
            except RayHeadError:
                on_wait("the Ray that runs does not answer; starting it anew")
            else:
                return self._info(record, started=False)
        self.stop()
        try:
            record = self._start_and_wait(on_wait)
        except RayHeadError as error:
            self.stop()
            # On a loaded machine the dashboard agent misses a fixed limit of 15 s; the next start has it cached.
            if "timed out" not in error.log_tail.lower():
                raise
            on_wait("Ray timed out on this loaded machine; starting it once more")
            try:
                record = self._start_and_wait(on_wait)
            except RayHeadError:
                self.stop()
                raise
        return self._info(record, started=True)

    def alive(self) -> bool:
        """Whether the head's first process runs and its GCS and dashboard take connections."""
        if processes.load_record(self.record_file) is None:
            return False
        found = self.recorded_ports()
        return _answers(self._gcs_host(), found.get("gcs", 0)) and _answers(LOOPBACK, found.get("dashboard", 0))

    def stop(self) -> bool:
        """End everything of this head and verify it; False when nothing ran. Raises ``RayHeadError``."""
        record = processes.load_record(self.record_file)
        everything = self.processes()
        if not everything:
            self.record_file.unlink(missing_ok=True)
            return False
        try:
            if record is not None:
                # 'ray start' ends its raylet and GCS in order on SIGTERM, the raylet its workers.
                record.signal(signal.SIGTERM)
            left = processes.wait_gone(everything, 6.0 if record is not None else 0.0)
            left = processes.end(left, ((signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)))
            # What was born while the rest ended.
            left += processes.end(self.processes(), ((signal.SIGKILL, 5.0),))
        except PermissionError as error:
            raise RayHeadError(
                "Ray belongs to another user and cannot be ended by this one",
                fix="run this command as the user that ran 'make up' (perhaps root)",
            ) from error
        if left:
            raise RayHeadError(
                f"processes of Ray did not end: pids {', '.join(str(item.pid) for item in left)}",
                fix="they hang in the kernel: look at 'dmesg', then run this again",
            )
        self.record_file.unlink(missing_ok=True)
        return True

    def processes(self) -> list[ProcessRecord]:
        """All processes of this head: the recorded one, its descendants, and orphans that carry our marks."""
        record = processes.load_record(self.record_file)
        found = processes.matching(self._is_ours)
        return processes.family([*([record] if record is not None else []), *found])

    # ------------------------------------------------------------------ environment

    def environment(self) -> dict[str, str]:
        """What every process of this cluster and every driver needs, on top of a clean base. Holds no secret."""
        found = self.recorded_ports()
        base = {
            name: value
            for name, value in self.environ.items()
            if not name.startswith("RAY_") and name not in {"TESSERA_API_KEY", "TESSERA_URL", "DATABASE_URL"}
        }
        environment = base | {
            MARK: str(self.temp_dir),
            "TESSERA_HOME": str(self.home),
            # So that 'python' in the entry point of a 'ray job submit' is this environment's.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{base.get('PATH', os.defpath)}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DISABLE_IMPORT_WARNING": "1",
            "RAY_raylet_start_wait_time_s": "120",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # else every stop takes 10 s; runs are re-adopted or retried
            # Ray starts workers with niceness 15; here they are the ingress and the scheduler, which people wait for.
            "RAY_worker_niceness": "0",
            # Memory: no idle workers kept or started ahead, small arenas.
            "RAY_prestart_worker_first_driver": "0",
            "RAY_num_workers_soft_limit": "1",
            # Ray's own bookkeeping of each task and of its event loops, which nothing here reads (docs/tuning.md).
            "RAY_task_events_report_interval_ms": "0",
            "RAY_event_stats": "0",
            "MALLOC_ARENA_MAX": "2",
            "OMP_NUM_THREADS": self.environ.get("OMP_NUM_THREADS", "1"),
            "RAY_ROTATION_MAX_BYTES": str(20 * 2**20),
            "RAY_ROTATION_BACKUP_COUNT": "2",
            "DASHBOARD_METRIC_PORT": str(found.get("dashboard_metrics", DEFAULT_PORTS["dashboard_metrics"])),
            **self._serve_environment(found),
        }
        if (self.home / "run" / "cluster.toml").exists():
            # The file as it was at the last 'up': an edit takes effect as a whole, never half-way through a restart.
            environment["TESSERA_CLUSTER"] = str(self.home / "run" / "cluster.toml")
        if self._loopback():
            environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        addresses = self._addresses()
        if addresses and self.environ.get("RAY_USE_TLS", "1") != "0":
            environment |= tls.ensure_certificates(self.root / "tls", addresses, tls.now_utc()).environment()
        return environment

    def driver_environment(self) -> dict[str, str]:
        """The environment of a process that talks to the cluster: ours, or the one that RAY_ADDRESS names."""
        if self.external_address is None:
            return self.environment() | {"RAY_ADDRESS": f"{self._gcs_host()}:{self.recorded_ports()['gcs']}"}
        return {**self.environ, "TESSERA_HOME": str(self.home)}

    def token(self) -> str:
        """The dashboard's token; made at the first call. Never to be printed or logged."""
        if self.external_address is not None:
            named = self.environ.get("RAY_AUTH_TOKEN_PATH")
            return Path(named).read_text(encoding="ascii").strip() if named else self.environ.get("RAY_AUTH_TOKEN", "")
        if not self.token_file.exists():
            write_private(self.token_file, secrets.token_hex(32))
        return self.token_file.read_text(encoding="ascii").strip()

    def recorded_ports(self) -> dict[str, int]:
        """The ports chosen at the last start; empty before the first."""
        try:
            found: dict[str, int] = json.loads((self.root / "ports.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found

    def session_logs(self) -> Path:
        """Where Ray and Serve keep the logs of this session."""
        return self.temp_dir / "session_latest" / "logs"

    # ------------------------------------------------------------------ starting

    def _start_and_wait(self, on_wait: Callable[[str], None]) -> ProcessRecord:
        record = self._start()
        self._wait_ready(record, on_wait)
        return record

    def _start(self) -> ProcessRecord:
        self.root.mkdir(mode=0o700, exist_ok=True)
        self.token()
        runtime.short_dir(self.home)
        self._forget_old_sessions()
        for folder in (self.temp_dir, self.haproxy_dir):
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)  # HAProxy's admin socket is open to whoever can walk to it
        (self.temp_dir / "ray_current_cluster").unlink(missing_ok=True)
        chosen = self._choose_ports()
        write_private(self.root / "ports.json", json.dumps(chosen, indent=2) + "\n")
        haproxy.write_wrapper(self.temp_dir)
        self._write_shell_environment(chosen)
        command = [sys.executable, "-m", "ray.scripts.scripts", *self._arguments(chosen)]
        before = self.log_file.stat().st_size if self.log_file.exists() else 0
        record = processes.spawn(command, log=self.log_file, cwd=self.home, env=self.environment())
        if record is None:
            raise self._died(before)
        record.save(self.record_file)
        return record

    def _write_shell_environment(self, chosen: Mapping[str, int]) -> None:
        """``ray/env.sh`` of the home, to be sourced before Ray's own commands (``ray job submit``, ``ray list``).

        It names the token's file and never holds the token.
        """
        environment = {
            **{name: value for name, value in self.environment().items() if name.startswith("RAY_")},
            "RAY_ADDRESS": f"{self._gcs_host()}:{chosen['gcs']}",
            "RAY_API_SERVER_ADDRESS": f"http://{LOOPBACK}:{chosen['dashboard']}",
        }
        lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(environment.items())]
        write_private(self.root / "env.sh", "\n".join(lines) + "\n")

    def _arguments(self, chosen: Mapping[str, int]) -> list[str]:
        _gpus, resources = self.cluster.node_resources(self.cluster.head.name)
        arguments = [
            "start",
            "--head",
            "--block",
            "--disable-usage-stats",
            "--no-monitor",  # the autoscaler: nothing to scale here, and 60 MiB
            # It reads every line of every process to bring a task's prints to its driver; 'ray logs' reads the files.
            "--include-log-monitor=false",
            f"--temp-dir={self.temp_dir}",
            f"--num-cpus={os.cpu_count() or 2}",
            f"--resources={json.dumps(resources)}",
            f"--object-store-memory={OBJECT_STORE_BYTES}",
            f"--port={chosen['gcs']}",
            f"--dashboard-host={LOOPBACK}",
            f"--dashboard-port={chosen['dashboard']}",
            f"--node-manager-port={chosen['node_manager']}",
            f"--object-manager-port={chosen['object_manager']}",
            f"--runtime-env-agent-port={chosen['runtime_env_agent']}",
            f"--dashboard-agent-grpc-port={chosen['dashboard_agent_grpc']}",
            f"--dashboard-agent-listen-port={chosen['dashboard_agent_http']}",
            f"--ray-client-server-port={chosen['ray_client']}",
            f"--metrics-export-port={chosen['ray_metrics']}",
        ]
        if self._addresses():
            arguments.append(f"--node-ip-address={self._gcs_host()}")
        if _shared_memory_bytes() < OBJECT_STORE_BYTES * 1.2:
            # A container's /dev/shm is often 64 MiB; Ray's own fallback warns at each start.
            plasma = self.temp_dir / "plasma"
            plasma.mkdir(mode=0o700, exist_ok=True)
            arguments.append(f"--plasma-directory={plasma}")
        return arguments

    def _choose_ports(self) -> dict[str, int]:
        recorded = self.recorded_ports()
        chosen: dict[str, int] = {}
        for name, default in DEFAULT_PORTS.items():
            preferred = default if name == "dashboard" else None
            chosen[name] = ports.free_port(self.home, recorded.get(name), preferred, taken=set(chosen.values()))
        chosen["replicas"] = ports.free_range(
            self.home,
            REPLICA_PORTS,
            recorded.get("replicas"),
            taken=set(chosen.values()),
        )
        return chosen

    def _serve_environment(self, found: Mapping[str, int]) -> dict[str, str]:
        """Serve's fastest measured mode, with files and ports of its own for each cluster (docs/tuning.md)."""
        folder = self.haproxy_dir
        known = {**DEFAULT_PORTS, "replicas": REPLICA_PORTS_FROM, **found}
        return {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # the default of 30 s would be added to each stop
            # Three checks in a row have to fail before a dead proxy is replaced, and until then nobody is served: with
            # Serve's 10 s a probe job went through 26 and 28 s after a kill, with 2 s after 11 and 16 (make chaos).
            "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
            "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # a datagram for each request, read by Python in the manager
            "RAY_SERVE_HAPROXY_NBTHREAD": "1",  # far from the limit of one core at 3,000 requests per second
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(self.temp_dir / "haproxy-on-loopback"),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(known["haproxy_metrics"]),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(known["haproxy_stats"]),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(known["serve_proxy"]),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(known["replicas"]),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(known["replicas"] + REPLICA_PORTS - 1),
        }

    def _wait_ready(self, record: ProcessRecord, on_wait: Callable[[str], None]) -> None:
        """Wait for the file that ``ray start`` writes last, and for GCS and dashboard to answer."""
        before = self.log_file.stat().st_size if self.log_file.exists() else 0
        deadline = time.monotonic() + READY_TIMEOUT_S
        on_wait("waiting for the GCS, the raylet and the dashboard")
        while True:
            if not record.alive():
                raise self._died(max(0, before - 16_384))
            if (self.temp_dir / "ray_current_cluster").exists() and self.alive():
                return
            if time.monotonic() > deadline:
                raise RayHeadError(
                    f"Ray was not ready within {READY_TIMEOUT_S:.0f} s",
                    log_tail=self._why(0),
                    fix="is the machine under heavy load? Run this again when it is calmer",
                )
            time.sleep(0.1)

    def _died(self, since: int) -> RayHeadError:
        return RayHeadError(
            "Ray ended while it started",
            log_tail=self._why(since),
            fix=f"read {self.log_file} and {self.session_logs()}/raylet.err, correct what they name, run this again",
        )

    def _why(self, since: int) -> str:
        parts = [processes.tail(self.log_file, 12, since=since)]
        parts += [processes.tail(self.session_logs() / name, 6) for name in ("raylet.err", "gcs_server.err")]
        return "\n".join(part for part in parts if part)

    # ------------------------------------------------------------------ small things

    def _info(self, record: ProcessRecord, *, started: bool) -> RayInfo:
        found = self.recorded_ports()
        return RayInfo(
            address=f"{self._gcs_host()}:{found['gcs']}",
            dashboard_url=f"http://{LOOPBACK}:{found['dashboard']}",
            token_path=self.token_file,
            temp_dir=self.temp_dir,
            ports=found,
            pid=record.pid,
            started=started,
        )

    def _loopback(self) -> bool:
        return len(self.cluster.nodes) == 1

    def _addresses(self) -> list[str]:
        """Every address that the cluster's certificate must name, the head's own first among those of nodes; empty when
        one of several nodes has none in cluster.toml: then nobody could join with it."""
        if self._loopback():
            return [LOOPBACK]
        named = [str(node.address) for node in self.cluster.nodes if node.address is not None]
        return [LOOPBACK, *named] if len(named) == len(self.cluster.nodes) else []

    def _gcs_host(self) -> str:
        """Where the GCS is reached from this machine."""
        head = self.cluster.head.address
        return str(head) if head is not None and self._addresses() and not self._loopback() else LOOPBACK

    def _is_ours(self, process: psutil.Process) -> bool:
        environment: dict[str, str] = process.environ()
        return environment.get(MARK) == str(self.temp_dir)

    def _forget_old_sessions(self) -> None:
        sessions = sorted(self.temp_dir.glob("session_2*"), key=lambda path: path.stat().st_mtime)
        for old in sessions[: -KEPT_SESSIONS + 1] if KEPT_SESSIONS > 1 else sessions:
            shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(self.haproxy_dir, ignore_errors=True)


def external_info(address: str, dashboard_url: str, token_path: Path | None) -> RayInfo:
    """A cluster that RAY_ADDRESS names: used, never started or stopped."""
    return replace(
        RayInfo(
            address=address,
            dashboard_url=dashboard_url,
            token_path=token_path,
            temp_dir=None,
            ports={},
            pid=None,
            started=False,
        ),
        external=True,
    )


def _answers(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=2.0):
        return True
    return False


def _shared_memory_bytes() -> int:
    try:
        return shutil.disk_usage("/dev/shm").free  # noqa: S108 (asked for its size)
    except OSError:
        return 0
