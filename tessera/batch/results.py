"""What a batch leaves in its folder: results.jsonl, errors.jsonl, summary.json, and files/. Pure, but for writing.

The three are made from the journal, whole and in the order of the lines, so nothing is in them twice, ever.
"""

from __future__ import annotations

import json
import mimetypes
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera.batch.lines import BatchFile, Line

if TYPE_CHECKING:
    from tessera.client import Artifact, Job

RESULTS, ERRORS, SUMMARY, FILES = "results.jsonl", "errors.jsonl", "summary.json", "files"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_EXTENSIONS = {
    "audio/wav": ".wav",
    "audio/x-wav": ".wav",
    "audio/mpeg": ".mp3",
    "image/webp": ".webp",
    "audio/ogg": ".ogg",
}


def file_name(line: Line, index: int, artifact: Artifact) -> str:
    """Where an output of a line goes, under FILES: by the number, which is unique, and the id, which a person knows."""
    kind = artifact.media_type.partition(";")[0].strip()
    extension = _EXTENSIONS.get(kind) or mimetypes.guess_extension(kind) or ".bin"
    return f"{line.number:06d}-{_UNSAFE.sub('_', line.custom_id)[:60]}-{index}{extension}"


def result_of(line: Line, job: Job, files: list[str]) -> dict[str, Any]:
    """The result of a line whose job has ended, as the journal keeps it."""
    result: dict[str, Any] = {
        "line": line.number,
        "id": line.custom_id,
        "job_id": job.id,
        "state": job.state,
        "model": job.model,
        "charged_tokens": job.charged_tokens or 0,
        "files": files,
    }
    if job.output is not None:
        result["output"] = job.output
    if job.error is not None:
        result["error"] = {"code": job.error.code, "message": job.error.message, "retryable": job.error.retryable}
    elif not job.ok:
        result["error"] = {"code": job.state, "message": f"The job was {job.state}.", "retryable": True}
    return result


def refused(line: Line, code: str, message: str, *, retryable: bool = False) -> dict[str, Any]:
    """The result of a line that never became a job."""
    error = {"code": code, "message": message, "retryable": retryable}
    return {
        "line": line.number,
        "id": line.custom_id,
        "state": "refused",
        "charged_tokens": 0,
        "files": [],
        "error": error,
    }


def shown(line: Line, result: Mapping[str, Any]) -> dict[str, Any]:
    """A result as results.jsonl and errors.jsonl have it: in OpenAI's shape for a line of OpenAI's format."""
    if line.endpoint is None:
        return dict(result)
    error = result.get("error")
    return {
        "id": result.get("job_id", f"line-{line.number}"),
        "custom_id": line.custom_id,
        "response": None
        if error
        else {"status_code": 200, "request_id": result["job_id"], "body": _body(line, result)},
        "error": {"code": error["code"], "message": error["message"]} if error else None,
    }


def _body(line: Line, result: Mapping[str, Any]) -> dict[str, Any]:
    output = result.get("output") or {}
    usage = output.get("usage") or {}
    prompt, completion = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
    counted = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    base = {"id": result["job_id"], "model": result.get("model", "")}
    text, reason = output.get("text", ""), output.get("finish_reason", "stop")
    if line.endpoint == "/v1/chat/completions":
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
        return {**base, "object": "chat.completion", "choices": [choice], "usage": counted}
    if line.endpoint == "/v1/completions":
        choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": None}
        return {**base, "object": "text_completion", "choices": [choice], "usage": counted}
    return {**base, "data": [{"file": name} for name in result["files"]]}


def summary(file: BatchFile, ended: Mapping[int, Mapping[str, Any]], *, seconds: float, waiting: int) -> dict[str, Any]:
    """The counts of a batch: ``failed`` are jobs that ended without a result, ``refused`` lines that became none."""
    states = [result["state"] for result in ended.values()]
    completed, not_taken = states.count("completed"), states.count("refused")
    return {
        "file": file.path.name,
        "lines": len(file.lines),
        "completed": completed,
        "failed": len(states) - completed - not_taken,
        "refused": not_taken,
        "waiting": waiting,
        "charged_tokens": round(sum(float(result["charged_tokens"]) for result in ended.values()), 3),
        "seconds": round(seconds, 1),
    }


def write_all(folder: Path, file: BatchFile, ended: Mapping[int, Mapping[str, Any]], totals: Mapping[str, Any]) -> None:
    """Write the three files, each in one step."""
    told: dict[bool, list[str]] = {True: [], False: []}
    for line in file.lines:
        result = ended.get(line.number)
        if result is not None:
            told[result["state"] == "completed"].append(json.dumps(shown(line, result), ensure_ascii=False) + "\n")
    _replace(folder / RESULTS, "".join(told[True]))
    _replace(folder / ERRORS, "".join(told[False]))
    _replace(folder / SUMMARY, json.dumps(totals, ensure_ascii=False, indent=2) + "\n")


def _replace(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            file.write(text)
            file.flush()
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
