"""A plain HTTP client for the acceptance tests: the standard library only, so that nothing of ours tests itself."""

from __future__ import annotations

import http.client
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer; header names are lowercase."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Event:
    """One event of a stream; ``id`` is None for an ephemeral one."""

    id: str | None
    type: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Api:
    """The API under one key."""

    url: str
    key: str | None

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30,
    ) -> Answer:
        connection = self._connect(timeout)
        try:
            connection.request(method, path, body, {**self._auth(), **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def _auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def post(self, path: str, value: Any = None, **headers: str) -> Answer:
        body = json.dumps(value).encode() if value is not None else b""
        named = {k.replace("_", "-"): v for k, v in headers.items()}
        return self.request("POST", path, body, {"Content-Type": "application/json", **named})

    def submit(self, kind: str, model: str | None = None, **values: Any) -> dict[str, Any]:
        """Submit a job; the answer must be 202."""
        body: dict[str, Any] = {"kind": kind, "input": values}
        if model:
            body["model"] = model
        answer = self.post("/v1/jobs", body)
        assert answer.status == 202, answer.body
        return dict(answer.json)

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.get(f"/v1/jobs/{job_id}").json)

    def wait(self, job_id: str, seconds: float = 90) -> dict[str, Any]:
        """The job once it is final."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            job = self.job(job_id)
            if job.get("state") in ("completed", "failed", "cancelled", "expired"):
                return job
            time.sleep(0.1)
        raise AssertionError(f"not final after {seconds} s: {job}")

    def events(self, job_id: str, last_event_id: str | None = None, timeout: float = 90) -> Iterator[Event]:
        """The stream of a job's events up to its end."""
        connection = self._connect(timeout)
        try:
            resume = {"Last-Event-ID": last_event_id} if last_event_id else {}
            connection.request("GET", f"/v1/jobs/{job_id}/events", headers={**self._auth(), **resume})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            assert answer.getheader("Content-Type", "").startswith("text/event-stream")
            fields: dict[str, str] = {}
            for raw in answer:
                line = raw.decode().rstrip("\r\n")
                if line:
                    name, _, value = line.partition(":")
                    if name:
                        fields[name] = value.removeprefix(" ")
                elif "data" in fields:
                    yield Event(fields.get("id"), fields["event"], json.loads(fields["data"]))
                    fields = {}
                else:
                    fields = {}
        finally:
            connection.close()

    def upload(self, data: bytes, name: str = "file.bin") -> Answer:
        """Upload a file as multipart form data."""
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
        return self.request("POST", "/v1/uploads", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})

    def download(self, job: Mapping[str, Any], index: int = 0) -> bytes:
        """The bytes of one of a job's artifacts."""
        artifact = job["artifacts"][index]
        answer = self.get(artifact["url"])
        assert answer.status == 200
        assert answer.headers["content-type"] == artifact["media_type"]
        assert len(answer.body) == artifact["bytes"]
        return answer.body
