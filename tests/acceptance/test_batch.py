"""A batch as a job of Ray, as somebody in a shell would run it: relative paths, no key to be seen, nothing twice."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

from tests.acceptance.platform import Platform

SCRIPT = """
set -eu
eval "$({python} -m tessera.cli env)"
cd "{folder}"
ray job submit --submission-id {name} -- python -m tessera.batch prompts.jsonl --out results/
"""


def submit(platform: Platform, folder: Path, name: str, python: str) -> subprocess.CompletedProcess[str]:
    """``ray job submit`` in a shell that was prepared by ``tessera env``, to its end."""
    return subprocess.run(
        ["bash", "-c", SCRIPT.format(python=python, folder=folder, name=name)],
        env=dict(platform.environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_batch_by_ray_job_submit_is_done_once_and_shows_no_key(platform: Platform, tmp_path: Path) -> None:
    rows = [{"id": f"p{n}", "prompt": f"Say something about {n}.", "max_tokens": 8} for n in range(6)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = submit(platform, tmp_path, "batch-first", sys.executable)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 of 6 lines completed" in done.stdout
    results = [json.loads(line) for line in (tmp_path / "results" / "results.jsonl").read_text().splitlines()]
    assert [one["id"] for one in results] == [f"p{n}" for n in range(6)] and all(
        one["output"]["text"] for one in results
    )

    again = submit(platform, tmp_path, "batch-again", sys.executable)
    assert again.returncode == 0, again.stdout + again.stderr
    assert [json.loads(line) for line in (tmp_path / "results" / "results.jsonl").read_text().splitlines()] == results
    assert {platform.api.request("GET", f"/v1/jobs/{one['job_id']}").json["tier"] for one in results} == {"batch"}

    settings = platform.settings()
    token = Path(settings["ray_token_path"]).read_text().strip()
    request = urllib.request.Request(
        f"{settings['dashboard_url']}/api/jobs/", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        record = answer.read().decode()
    assert "batch-first" in record and "6 of 6 lines done" in record, "the dashboard shows the progress"
    credentials = platform.home / "credentials.toml"
    key = tomllib.loads(credentials.read_text())["api_key"]
    assert key not in record and key.rpartition("_")[2] not in record
    assert key not in done.stdout + done.stderr
    assert credentials.stat().st_mode & 0o077 == 0
