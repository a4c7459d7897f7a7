"""What an outcome means for a job: the row that ``finish`` takes, with the exact charge. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from tessera.catalog import Catalog
from tessera.ids import new_id
from tessera.jobs import Kind
from tessera.pricing import charge_for_items_mt, charge_for_partial_mt, text_mt
from tessera.retries import GiveUp, Retry
from tessera.runs import Ending, Outcome, RunKey
from tessera.scheduler.mirror import MirroredJob

Row = dict[str, Any]

WORKER_LOST: Mapping[str, Any] = {
    "code": "worker_lost",
    "message": "The worker that ran this job went away.",
    "retryable": True,
}


def charge_mt(job: MirroredJob, outcome: Outcome, catalog: Catalog) -> int:
    """What the job is charged, never above its hold."""
    if outcome.ending is Ending.FAILED:
        return 0
    if outcome.ending is Ending.CANCELLED:
        return charge_for_partial_mt(job.cost_mt, executed=outcome.executed)
    model = catalog.by_id(job.model)
    if outcome.cost_units is not None and job.kind is Kind.TEXT and (model is None or model.flat_mt is None):
        return min(job.cost_mt, text_mt(outcome.cost_units))
    if outcome.asked is not None:
        return charge_for_items_mt(job.cost_mt, delivered=len(outcome.files), asked=outcome.asked)
    return job.cost_mt


def ended_row(job: MirroredJob, outcome: Outcome, catalog: Catalog) -> Row:
    """The row of a completed or cancelled run."""
    return {
        "job_id": str(outcome.job_id),
        "attempt": outcome.attempt,
        "outcome": outcome.ending.value,
        "charged_mt": charge_mt(job, outcome, catalog),
        # What a completed job gets back for files that are missing is our fault; what its text came short of is not.
        "ours": outcome.ending is Ending.COMPLETED and outcome.asked is not None and len(outcome.files) < outcome.asked,
        "output": dict(outcome.output) if outcome.output is not None else None,
        "reason": "cancelled while running" if outcome.ending is Ending.CANCELLED else "",
        "artifacts": [
            {
                "id": str(new_id()),
                "index": index,
                "sha256": file.sha256,
                "media_type": file.media_type,
                "bytes": file.bytes,
                "width": file.width,
                "height": file.height,
                "duration_s": file.duration_s,
                "thumbnail_sha256": file.thumbnail_sha256,
            }
            for index, file in enumerate(outcome.files)
        ],
    }


def failed_row(key: RunKey, error: Mapping[str, Any], verdict: Retry | GiveUp, now: datetime) -> Row:
    """The row of a run that failed: requeued or given up, as was decided."""
    row: Row = {"job_id": str(key[0]), "attempt": key[1], "error": dict(error), "reason": str(error["code"])}
    if isinstance(verdict, Retry):
        retry_at = now + timedelta(seconds=verdict.delay_s)
        return {**row, "outcome": "requeued", "retry_at": retry_at, "failed": verdict.counted}
    if verdict.code == "quarantined":
        row["error"] = {
            "code": "quarantined",
            "message": "The workers that ran this job went away each time, so it is not tried again."
            " Its tokens are returned; if it is a normal request, tell the operator its id.",
            "retryable": False,
            "cause": error["code"],
        }
    else:
        # What was retried to the end is not worth the same try at once; what never was may be sent again.
        row["error"] = {**error, "retryable": bool(error.get("retryable", False))}
    return {**row, "outcome": "failed", "ours": verdict.ours}
