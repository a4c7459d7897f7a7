"""Imports point down only. Which layer may know which is written here, once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.architecture.sources import PACKAGES, ROOT, Import, imports, module_of, python_files

# Each layer may import the layers above its line here and itself; what stands in one line does not know its neighbours.
LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "tessera.errors tessera.jobs tessera.inputs tessera.engine tessera.ports tessera.runs"
        " tessera.catalog tessera.manifests tessera.cards"
        " tessera.pricing tessera.plans tessera.policy tessera.retries tessera.quotas tessera.ids tessera.config"
        " tessera.logs tessera.deliveries tessera.simulator tessera.subtitles tessera.identities tessera.scopes"
        " tessera.moderation tessera.share_links",
    ),
    (
        "tessera.pace",
        "tessera.store",
        "tessera.artifacts",
        "tessera.media",
        "tessera.outbound",
        "tessera.client",
    ),
    ("tessera.admission",),
    ("tessera.scheduler", "tessera.api"),
    ("deployments",),
    ("tessera.local",),
    ("tessera.cli tessera.batch",),
    ("cluster",),
)
# May be imported by all: data files under sql/, and the version in tessera/__init__.py.
DATA = ("sql", "tessera")
PURE = frozenset(LAYERS[0][0].split())
RULE = (
    "imports point down only: pure → store, artifacts, media, client → admission → scheduler, api → deployments → local"
)

MAY_USE_RAY = ("tessera/scheduler/actor.py", "tessera/cli", "tessera/local/", "deployments/")
# Pure modules decide from values: they may not even reach for these.
IO_MODULES = frozenset(
    [
        "aiohttp",
        "aiosqlite",
        "alembic",
        "asyncpg",
        "fastapi",
        "httpx",
        "obstore",
        "ray",
        "requests",
        "socket",
        "sqlalchemy",
        "starlette",
        "subprocess",
        "urllib.request",
        "uvicorn",
    ]
)
# Settings read files and the environment once, at the entry point.
READS_ENVIRONMENT = frozenset({"tessera.config", "tessera.logs"})


def layer_of(module: str) -> tuple[int, str] | None:
    """The layer's number and the part of it that a module belongs to, None for what has no layer."""
    for number, parts in enumerate(LAYERS):
        for part in parts:
            for name in part.split():
                if module == name or module.startswith(f"{name}."):
                    return number, part
    return None


def _ours(found: Import) -> bool:
    return found.module.split(".")[0] in PACKAGES


def test_every_module_has_a_layer() -> None:
    homeless = [
        file
        for file in python_files("tessera", "deployments", "cluster")
        if module_of(file) not in DATA and layer_of(module_of(file)) is None
    ]
    assert not homeless, f"add these to LAYERS in {__name__}, or put them where they belong: {homeless}"


def test_imports_point_down_only() -> None:
    wrong = []
    for file in python_files("tessera", "deployments", "cluster"):
        mine = layer_of(module_of(file))
        if mine is None:
            continue
        for found in imports(file):
            if not _ours(found) or found.module in DATA:
                continue
            theirs = layer_of(found.module)
            if theirs is None or theirs[0] > mine[0] or (theirs[0] == mine[0] and theirs[1] != mine[1]):
                wrong.append(f"{file}:{found.line} imports {found.module}")
    assert not wrong, f"{RULE}. Move the shared type down instead:\n" + "\n".join(wrong)


def test_the_client_and_the_bots_know_only_pure_modules_and_the_client() -> None:
    may_know = ("tessera.client", "bots", "sql", *PURE)
    wrong = [
        f"{file}:{found.line} imports {found.module}"
        for file in python_files("tessera", "bots")
        if file.startswith(("tessera/client", "bots/"))
        for found in imports(file)
        if _ours(found)
        and found.module != "tessera"
        and not f"{found.module}.".startswith(tuple(f"{m}." for m in may_know))
    ]
    assert not wrong, "a client talks to the API only, so it may import pure modules alone:\n" + "\n".join(wrong)


def test_pure_modules_do_no_input_or_output() -> None:
    wrong = [
        f"{file}:{found.line} imports {found.module}"
        for file in python_files("tessera")
        if module_of(file) in PURE - READS_ENVIRONMENT
        for found in imports(file)
        if found.module in IO_MODULES or found.module.split(".")[0] in IO_MODULES
    ]
    assert not wrong, "a pure module decides from its arguments; the caller does the I/O:\n" + "\n".join(wrong)


@pytest.mark.parametrize("module", sorted(PURE - READS_ENVIRONMENT - {"tessera.ids"}))
def test_pure_modules_take_now_as_an_argument(module: str) -> None:
    found = [
        f"{file}:{each.line} imports {each.module}"
        for file in python_files("tessera")
        if module_of(file) == module
        for each in imports(file)
        if each.module in ("time", "random", "os", "secrets")
    ]
    assert not found, "pass now, random numbers and settings in:\n" + "\n".join(found)


def test_ray_is_imported_only_where_the_platform_meets_it() -> None:
    wrong = [
        f"{file}:{found.line}"
        for file in python_files(*PACKAGES)
        if not file.startswith(MAY_USE_RAY)
        for found in imports(file)
        if found.module.split(".")[0] == "ray"
    ]
    assert not wrong, f"Ray stands only in {', '.join(MAY_USE_RAY)}; use a port of tessera/ports.py:\n" + "\n".join(
        wrong
    )


def test_modules_are_named_by_what_they_answer_for() -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "misc", "manager2"}
    wrong = [file for file in python_files() if vague & set(file.removesuffix(".py").split("/"))]
    assert not wrong, f"a file's name says what it answers for: {wrong}"


def test_no_file_of_python_is_asking_to_be_split() -> None:
    limit = 650
    allowed: dict[str, str] = {}  # a file and the reason why it may be longer
    lengths = {file: len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in python_files()}
    wrong = {file: lines for file, lines in lengths.items() if lines > limit and file not in allowed}
    assert not wrong, f"split by responsibility, or give a reason here: {wrong}"


def test_importing_the_client_loads_neither_ray_nor_the_database() -> None:
    code = (
        "import sys, tessera.client; print(' '.join(m for m in ('ray', 'asyncpg', 'sqlalchemy') if m in sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert shown == ""


def test_there_is_one_http_client_and_one_way_to_strangers() -> None:
    """Bots, CLI and batches speak to the API by tessera.client; addresses of users are reached by tessera.outbound."""
    clients = ("tessera/client/", "tessera/outbound.py")
    # Engines speak to their backends, bots to their platform (and serve its calls and their health by aiohttp.web), and
    # the platform's own command looks after Ray and the API that it starts.
    others = ("deployments/", "tessera/local/", "bots/discord/", "bots/telegram/", "bots/process.py")
    wrong = [
        f"{file}:{found.line} imports {found.module}"
        for file in python_files("tessera", "deployments", "cluster", "bots")
        if not file.startswith((*clients, *others))
        for found in imports(file)
        if found.module.split(".")[0] in ("aiohttp", "httpx", "requests", "urllib3")
        or found.module in ("urllib.request", "http.client")
    ]
    assert not wrong, f"use tessera.client, or tessera.outbound for an address of a user's: {wrong}"
