"""The proof that the whole platform works: a small text job, submitted over HTTP and brought to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tessera.config import Settings
from tessera.local import rest

MODEL = "preview-text"
TIMEOUT_S = 60.0
READY_TIMEOUT_S = 90.0


class ProbeError(Exception):
    """The probe did not come through; the message says where it stopped."""


class KeyRefused(ProbeError):
    """The API key is not known to this database (any more)."""


def wait_ready(settings: Settings, on_wait: Callable[[str], None]) -> None:
    """Wait until ``/readyz`` says that submissions can be accepted. Raises ``ProbeError``."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    url = f"{settings.http_url}/readyz"
    while True:
        try:
            answer = rest.request("GET", url, timeout_s=5.0)
            said = f"{answer.status} {answer.text()[:300]}"
            if answer.status == 200:
                return
        except rest.Unreachable as error:
            said = str(error)
        if time.monotonic() > deadline:
            raise ProbeError(f"{url} did not become ready within {READY_TIMEOUT_S:.0f} s; it said: {said}")
        on_wait(f"waiting for {url}")
        time.sleep(0.25)


def served(settings: Settings) -> bool:
    """Whether an enabled worker serves the model of the probe."""
    return any(MODEL in worker.models for worker in settings.cluster.enabled_workers())


def check_key(settings: Settings, api_key: str) -> bool:
    """Whether the API accepts this key."""
    return rest.request("GET", f"{settings.http_url}/v1/me", token=api_key).status == 200


def run(settings: Settings, api_key: str, on_wait: Callable[[str], None]) -> str:
    """Submit, wait for the end, return the job's id. Raises ``KeyRefused`` or another ``ProbeError``."""
    body = {"kind": "text", "model": MODEL, "input": {"prompt": "Say hello.", "max_tokens": 16}}
    job = _submit(settings, api_key, body, on_wait)
    url = f"{settings.http_url}/v1/jobs/{job['id']}"
    deadline = time.monotonic() + TIMEOUT_S
    while job.get("state") not in {"completed", "failed", "cancelled", "expired"}:
        if time.monotonic() > deadline:
            raise ProbeError(f"the probe job {job['id']} was still {job.get('state')} after {TIMEOUT_S:.0f} s")
        on_wait(f"probe job {job['id']}: {job.get('state')}")
        time.sleep(0.1)
        try:
            answer = rest.request("GET", url, token=api_key)
        except rest.Unreachable:
            continue
        if answer.status == 200:
            job = answer.json()
    if job["state"] != "completed":
        error = job.get("error") or {}
        raise ProbeError(f"the probe job {job['id']} {job['state']}: {error.get('code')} {error.get('message', '')}")
    return str(job["id"])


def _submit(settings: Settings, api_key: str, body: Any, on_wait: Callable[[str], None]) -> dict[str, Any]:
    deadline = time.monotonic() + 20.0
    while True:
        try:
            answer = rest.request("POST", f"{settings.http_url}/v1/jobs", body=body, token=api_key)
        except rest.Unreachable as error:
            said, again = str(error), True
        else:
            if answer.status == 202:
                job: dict[str, Any] = answer.json()
                return job
            if answer.status == 401:
                raise KeyRefused("the API does not know the stored key")
            # HAProxy answers 500 for a moment while replicas change.
            said, again = f"{answer.status} {answer.text()[:500]}", answer.status >= 500
        if not again or time.monotonic() > deadline:
            raise ProbeError(f"submitting the probe job failed: {said}")
        on_wait("submitting a probe job")
        time.sleep(0.5)
