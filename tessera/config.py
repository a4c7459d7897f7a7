"""What the platform is made of and where it lives: the cluster file and the settings of one installation.

Two frozen values, both built once at an entry point and passed on:

* ``ClusterConfig``: nodes, devices, workers and the ingress, written by a person in ``cluster/cluster.toml``.
* ``Settings``: the addresses and secrets that ``tessera up`` found or made, written by it to
  ``TESSERA_HOME/platform.json`` (mode 0600) and read by every replica.

Nothing is read at import time, and nothing here opens a socket or imports Ray.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import os
import tempfile
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, IPvAnyAddress, ValidationError, model_validator

PLATFORM_FILE = "platform.json"
CREDENTIALS_FILE = "credentials.toml"
SECRET_FILE = "secret"  # noqa: S105 (the name of the file, not what is in it)
NODE_SHARE = 100.0  # of its own resource a node offers; each worker takes 0.01
NOOP_WORKERS = frozenset({"noop", "noop-gpu"})  # for tests and benchmarks: enabled by the environment only

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
Port = Annotated[int, Field(ge=1, le=65535)]


class ConfigError(Exception):
    """The configuration cannot be used. Nothing was started or changed; the message says which entry to correct."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text.strip()))
    except ValueError as error:
        raise ValueError(f"{text!r} is not a range of addresses ({error}). Write it like 192.168.1.0/24") from None


class DeviceKind(StrEnum):
    """What a device computes with."""

    GPU = "gpu"
    CPU = "cpu"


class DeviceConfig(_Frozen):
    """A GPU, or the CPU pool of a node. ``vram_mib`` is what the models resident on it may take together."""

    name: Name
    kind: DeviceKind
    vram_mib: int = Field(gt=0)


class NodeConfig(_Frozen):
    """A machine of the cluster. Its name is also the Ray resource that ties a worker to it.

    ``address``: its IP address on the LAN or VPN. With one for every node the cluster listens there and demands
    certificates; without, Ray takes the address of this machine's default route.
    """

    name: Name
    address: IPvAnyAddress | None = None
    devices: tuple[DeviceConfig, ...] = ()


class WorkerConfig(_Frozen):
    """One Serve deployment of an engine on a node.

    ``slots`` is how many jobs it runs at once; the scheduler never sends it more. ``num_cpus``, ``num_gpus`` and
    ``resources`` are Ray's logical resources of its replica; a small share of the node's own resource is always added.
    ``device`` may be left out where the node has exactly one. ``options`` go to the engine as they are.
    ``run_timeout_s`` bounds a whole run, ``no_progress_s`` the silence between two signs of life of it.
    """

    name: Name
    engine: Name
    models: tuple[Name, ...] = Field(min_length=1)
    node: Name
    device: Name | None = None
    slots: int = Field(ge=1, le=1024)
    enabled: bool = True
    num_cpus: float = Field(default=0.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    resources: dict[str, float] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    run_timeout_s: float = Field(default=3600.0, gt=0, allow_inf_nan=False)
    no_progress_s: float = Field(default=120.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _patient(self) -> Self:
        if self.no_progress_s > self.run_timeout_s:
            raise ValueError(
                f"worker '{self.name}' may be silent for {self.no_progress_s:g} s (no_progress_s) and run for "
                f"{self.run_timeout_s:g} s in all (run_timeout_s). Raise run_timeout_s or lower no_progress_s"
            )
        return self

    def ray_resources(self) -> dict[str, float]:
        """The custom resources of the replica: its own, and 0.01 of its node's (a node offers 100)."""
        return {self.node: 0.01, **self.resources}

    @property
    def application(self) -> str:
        """The name of this worker's Serve application."""
        return f"worker-{self.name}"

    def fingerprint(self) -> str:
        """Changes when anything of this worker changes: what decides whether it is deployed anew."""
        return _digest(self.model_dump(mode="json"))


class IngressConfig(_Frozen):
    """The HTTP side. ``host`` other than loopback opens the API to the network, by decision only."""

    replicas: int = Field(default=2, ge=1, le=64)
    host: str = "127.0.0.1"
    port: Port = 8000
    max_ongoing_requests: int = Field(default=2048, ge=1)  # open event streams count: each one is a request
    graceful_shutdown_s: float = Field(default=10.0, gt=0)
    max_backlog: int = Field(default=1_000_000, ge=1)  # waiting jobs of all users; past it submissions answer 503
    min_free_disk_mib: int = Field(default=512, ge=0)  # of the artifact folder's disk; below it, too
    # (start) New users that a provider (telegram, discord, …) may bring in a minute, so that a flood of made-up
    # accounts is no flood of free quotas; 0 lets nobody new in.
    signups_per_min: int = Field(default=60, ge=0, le=60_000)


class OutboundConfig(_Frozen):
    """Which addresses that users give may be reached beside the public internet: webhooks, uploads by URL."""

    allow: tuple[Annotated[str, AfterValidator(_network)], ...] = ()  # "192.168.1.0/24", "10.0.0.7"


class ClusterConfig(_Frozen):
    """The whole of ``cluster/cluster.toml``, checked. The first node is the head."""

    nodes: tuple[NodeConfig, ...] = Field(min_length=1)
    workers: tuple[WorkerConfig, ...] = ()
    ingress: IngressConfig = IngressConfig()
    outbound: OutboundConfig = OutboundConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _refuse_twice("node", [node.name for node in self.nodes])
        _refuse_twice("worker", [worker.name for worker in self.workers])
        _refuse_twice("device", [device.name for node in self.nodes for device in node.devices])
        devices = {node.name: [device.name for device in node.devices] for node in self.nodes}
        for worker in self.workers:
            if worker.node not in devices:
                known = ", ".join(devices)
                raise ValueError(
                    f"worker '{worker.name}' is on node '{worker.node}', which is not defined. "
                    f"Add [[nodes]] with that name, or use one of: {known}"
                )
            if worker.device is None and len(devices[worker.node]) != 1:
                raise ValueError(
                    f"worker '{worker.name}' names no device and node '{worker.node}' has "
                    f'{len(devices[worker.node])} of them. Add device = "…" to the worker'
                )
            if worker.device is not None and worker.device not in devices[worker.node]:
                raise ValueError(
                    f"worker '{worker.name}' uses device '{worker.device}', which node '{worker.node}' does not have. "
                    f"Add it under [[nodes.devices]], or use one of: {', '.join(devices[worker.node]) or '(none)'}"
                )
        for device, shares in self._gpu_shares().items():
            if sum(shares.values()) > 1 + 1e-9:
                asked = ", ".join(f"{name} {share:g}" for name, share in shares.items())
                raise ValueError(
                    f"the workers of device '{device}' ask for {sum(shares.values()):g} of one GPU together ({asked}): "
                    "one of them would wait for ever. Lower their num_gpus to 1 in all; memory is shared by vram_mib"
                )
        return self

    def _gpu_shares(self) -> dict[str, dict[str, float]]:
        """What the enabled workers ask of each GPU."""
        gpus = {device.name for node in self.nodes for device in node.devices if device.kind is DeviceKind.GPU}
        shares: dict[str, dict[str, float]] = {}
        for worker in self.enabled_workers():
            if (device := self.device_of(worker).name) in gpus:
                shares.setdefault(device, {})[worker.name] = worker.num_gpus
        return shares

    def node_resources(self, name: str) -> tuple[int, dict[str, float]]:
        """What the raylet of a node has to offer for its workers: GPUs, and resources by name (``ray start``)."""
        node = next(node for node in self.nodes if node.name == name)
        offered = {name: NODE_SHARE}
        for worker in self.workers:
            if worker.node == name:
                for resource, amount in worker.resources.items():
                    offered[resource] = offered.get(resource, 0.0) + amount
        return sum(device.kind is DeviceKind.GPU for device in node.devices), offered

    @property
    def head(self) -> NodeConfig:
        """The node that runs Postgres, the Ray head, the ingress and the scheduler."""
        return self.nodes[0]

    def enabled_workers(self) -> tuple[WorkerConfig, ...]:
        """The workers that are to be deployed, in the order of the file."""
        return tuple(worker for worker in self.workers if worker.enabled)

    def worker(self, name: str) -> WorkerConfig:
        """The worker of that name, enabled or not. Raises ``ConfigError``."""
        for worker in self.workers:
            if worker.name == name:
                return worker
        raise ConfigError(f"there is no worker '{name}' in the cluster file; add a [[workers]] entry with that name")

    def device_of(self, worker: WorkerConfig) -> DeviceConfig:
        """The device that a worker of this cluster runs on."""
        node = next(node for node in self.nodes if node.name == worker.node)
        if worker.device is None:
            return node.devices[0]
        return next(device for device in node.devices if device.name == worker.device)

    def fingerprint(self) -> str:
        """Changes when anything of the cluster changes."""
        return _digest(self.model_dump(mode="json"))


def cluster_file(environ: Mapping[str, str]) -> Path:
    """The cluster file: ``TESSERA_CLUSTER``, else the one shipped in the package ``cluster``."""
    named = environ.get("TESSERA_CLUSTER")
    return Path(named) if named else Path(__file__).resolve().parent.parent / "cluster" / "cluster.toml"


def load_cluster(environ: Mapping[str, str]) -> ClusterConfig:
    """Read the cluster file. ``TESSERA_NOOP=1`` enables the workers ``noop`` and ``noop-gpu``.

    ``TESSERA_OUTBOUND_ALLOW`` ("192.168.1.0/24,10.0.0.7") adds to what ``[outbound] allow`` has.
    Raises ``ConfigError`` with the entry to correct.
    """
    path = cluster_file(environ)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the cluster file {path} cannot be read ({error.strerror}). Correct TESSERA_CLUSTER, or unset it to use "
            "the one that comes with Tessera"
        ) from error
    cluster = parse_cluster(text, where=str(path))
    if environ.get("TESSERA_NOOP") == "1":
        cluster = cluster.model_copy(
            update={
                "workers": tuple(
                    worker.model_copy(update={"enabled": True}) if worker.name in NOOP_WORKERS else worker
                    for worker in cluster.workers
                )
            }
        )
    allowed = [text for text in environ.get("TESSERA_OUTBOUND_ALLOW", "").split(",") if text.strip()]
    if allowed:
        try:
            outbound = OutboundConfig(allow=(*cluster.outbound.allow, *allowed))
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise ConfigError(f"TESSERA_OUTBOUND_ALLOW: {message}, and several with commas between them") from error
        cluster = cluster.model_copy(update={"outbound": outbound})
    return cluster


def parse_cluster(text: str, *, where: str = "cluster.toml") -> ClusterConfig:
    """Check the text of a cluster file. ``where`` names it in the message of the ``ConfigError``."""
    try:
        return ClusterConfig.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not valid TOML: {error}. Correct it there") from error
    except ValidationError as error:
        lines = [f"{where} has {error.error_count()} entr{'y' if error.error_count() == 1 else 'ies'} to correct:"]
        for item in error.errors(include_url=False):
            place = ".".join(str(part) for part in item["loc"])
            message = item["msg"].removeprefix("Value error, ")
            lines.append(f"  {place}: {message}" if place else f"  {message}")
        raise ConfigError("\n".join(lines)) from error


class Settings(_Frozen):
    """One installation: where its parts listen and how they are reached.

    ``database_url`` holds a password; it is kept out of ``repr`` so that no log shows it. ``http_url`` is what clients
    use. Ports hold what is really used, after taken ones were replaced.
    """

    home: Path
    database_url: str = Field(repr=False)
    database_external: bool = False  # DATABASE_URL was given: not ours to start or stop
    artifacts_url: str
    http_host: str = "127.0.0.1"
    http_port: Port = 8000
    ray_address: str = ""  # host:port of the GCS; empty until Ray was started
    ray_external: bool = False  # RAY_ADDRESS was given: not ours to start or stop
    ray_token_path: Path | None = None
    ray_temp_dir: Path | None = None
    dashboard_url: str = ""
    ports: dict[str, int] = Field(default_factory=dict)  # name of each pinned port of Ray and Serve → its number
    secret: str = Field(default="", repr=False)  # of this installation, for keyed hashes and signatures; kept by ``up``
    cluster: ClusterConfig

    def secret_for(self, purpose: str) -> bytes:
        """A secret of 32 bytes for one purpose: what leaks of one says nothing about the others."""
        return hmac.new(self.secret.encode(), purpose.encode(), hashlib.sha256).digest()

    @property
    def http_url(self) -> str:
        """The API's address as a client on this machine reaches it."""
        host = "127.0.0.1" if self.http_host in {"0.0.0.0", "::"} else self.http_host  # noqa: S104 (compared, not bound)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.http_port}"

    @classmethod
    def load(cls, home: Path) -> Settings:
        """Read what ``tessera up`` wrote. Raises ``ConfigError`` when it has not run for this home."""
        path = home / PLATFORM_FILE
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"Tessera was not started in {home}: run 'make up' (or 'tessera up') first") from error
        except (OSError, ValidationError) as error:
            raise ConfigError(f"{path} cannot be used ({error}). Run 'make up' again: it writes it anew") from error

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings of the home that the environment names: how a replica finds them (``TESSERA_HOME``)."""
        return cls.load(find_home(os.environ if environ is None else environ, Path.cwd()))

    def save(self) -> None:
        """Write ``platform.json`` at once and whole, readable by its owner only."""
        write_private(self.home / PLATFORM_FILE, self.model_dump_json(indent=2) + "\n")


def find_home(environ: Mapping[str, str], cwd: Path) -> Path:
    """The folder of one installation: ``TESSERA_HOME``, else ``.tessera`` of the checkout, else ``~/.tessera``.

    The checkout is the one around ``cwd``, else the one that this package was installed from in place.
    """
    named = environ.get("TESSERA_HOME")
    if named:
        return Path(named).expanduser().absolute()
    package = Path(__file__).resolve().parent
    for folder in (cwd, *cwd.parents, package.parent):
        if (folder / "pyproject.toml").is_file() and (folder / "tessera" / "config.py").is_file():
            return folder.absolute() / ".tessera"
    return Path(environ.get("HOME", "~")).expanduser() / ".tessera"


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step with mode 0600, so that no reader ever sees half of it and nobody else reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp makes it 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _refuse_twice(what: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{what} '{name}' is defined {names.count(name)} times. Give each {what} its own name")
