"""The shell that submits to Ray, and what is added to a submission: the folder, and never a secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tessera.cli.batch import working_folder
from tessera.config import ClusterConfig, ConfigError, NodeConfig, Settings
from tessera.local.ray_job import FOLDER_VARIABLE, shell_environment, with_folder

ENTRY = ["--", "python", "-m", "tessera.batch", "p.jsonl"]


def settings(home: Path, dashboard_url: str = "http://127.0.0.1:8265") -> Settings:
    return Settings(
        home=home,
        database_url="postgresql://u:secret@127.0.0.1/x",
        artifacts_url="",
        dashboard_url=dashboard_url,
        ray_token_path=home / "ray" / "auth_token",
        cluster=ClusterConfig(nodes=(NodeConfig(name="pc2"),)),
    )


def test_a_submission_is_told_its_folder_beside_its_own_environment() -> None:
    assert with_folder(["job", "submit", "--no-wait", *ENTRY], "/here") == [
        "job",
        "submit",
        "--no-wait",
        "--runtime-env-json",
        json.dumps({"env_vars": {FOLDER_VARIABLE: "/here"}}),
        *ENTRY,
    ]
    own = json.dumps({"pip": ["x"], "env_vars": {"A": "1"}})
    for given in (["--runtime-env-json", own], [f"--runtime-env-json={own}"]):
        made = with_folder(["job", "submit", *given, *ENTRY], "/here")
        assert json.loads(made[made.index("--runtime-env-json") + 1]) == {
            "pip": ["x"],
            "env_vars": {"A": "1", FOLDER_VARIABLE: "/here"},
        }


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["job", "list"],
        ["job", "submit", "--working-dir", ".", *ENTRY],
        ["job", "submit", "--runtime-env=env.yaml", *ENTRY],
        ["job", "submit", "--runtime-env-json", "{broken", *ENTRY],
    ],
)
def test_everything_else_is_left_to_ray(arguments: list[str]) -> None:
    assert with_folder(arguments, "/here") == arguments


def test_the_shell_gets_four_variables_and_no_secret(tmp_path: Path) -> None:
    found = shell_environment(settings(tmp_path), {"PATH": "/usr/bin"})
    assert set(found) == {"PATH", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"}
    assert "secret" not in str(found)
    assert found["PATH"].split(os.pathsep) == [str(tmp_path / "bin"), str(Path(sys.executable).parent), "/usr/bin"]
    again = shell_environment(settings(tmp_path), {"PATH": found["PATH"]})
    assert again["PATH"] == found["PATH"]  # repeated, it does not grow
    shim = tmp_path / "bin" / "ray"
    assert os.access(shim, os.X_OK)
    done = subprocess.run([shim, "--version"], capture_output=True, text=True, check=True, timeout=120)
    assert "ray" in done.stdout
    with pytest.raises(ConfigError, match="tessera up"):
        shell_environment(settings(tmp_path, ""), {})


def test_relative_paths_start_where_the_job_was_submitted(tmp_path: Path) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    assert working_folder({}, here) == here
    job = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "TESSERA_HOME": str(home)}
    assert working_folder({**job, FOLDER_VARIABLE: str(here)}, home) == here
    assert working_folder(job, home) is None  # nobody said where: a relative path is refused
    assert working_folder(job, here) == here  # --working-dir
