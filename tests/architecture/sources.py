"""The repository as these tests read it: its Python files, their imports, and what git tracks."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("tessera", "deployments", "cluster", "sql", "bots")


@dataclass(frozen=True)
class Import:
    """``module`` is imported in ``file`` (a path from the root) at ``line``, inside of a function or not."""

    file: str
    line: int
    module: str


@cache
def tracked() -> tuple[str, ...]:
    """Every tracked or new file that git does not ignore, as a path from the root."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    return tuple(sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file()))


def python_files(*packages: str) -> list[str]:
    """The Python files of these top-level packages, or of the whole repository."""
    return [name for name in tracked() if name.endswith(".py") and (not packages or name.split("/")[0] in packages)]


@cache
def tree(file: str) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), filename=file)


def module_of(file: str) -> str:
    """``tessera/store/queries.py`` → ``tessera.store.queries``."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(file: str) -> Iterator[Import]:
    """All imports of a file, those inside of functions too. ``from a import b`` is a.b where that is a module."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module_of(file).split(".")
                if not file.endswith("/__init__.py"):
                    package = package[:-1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, base] if base else package)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield Import(file, node.lineno, whole if _is_module(whole) else base)


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def strings(file: str) -> Iterator[tuple[int, str]]:
    """The string literals of a file with their lines; of an f-string its fixed parts. No docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value
