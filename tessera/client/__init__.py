"""The one client of the HTTP API, used by CLI, bots, batches and benchmarks.

async with Client(url, api_key) as client:
    job = await client.run("image", {"prompt": "a lighthouse in a storm"})
    await client.download(job.artifacts[0], Path("lighthouse.png"))
"""

from tessera.client.client import Client
from tessera.client.credentials import Credentials, find_credentials, load_credentials
from tessera.client.errors import ApiError, BadAnswer, ClientError, ConnectionFailed
from tessera.client.events import Interruption, TextSoFar
from tessera.client.models import (
    AccountEntry,
    ApiKey,
    Artifact,
    Drain,
    DrainedWorker,
    Eta,
    Event,
    Explanation,
    Job,
    JobError,
    LastFailure,
    LedgerEntry,
    Me,
    Model,
    Page,
    Pause,
    Plan,
    Quota,
    Quote,
    Refusal,
    Unpaused,
    Upload,
    Usage,
    UsageDay,
    User,
    WaitReason,
    Worker,
    WorkerView,
)
from tessera.client.transport import RetryPolicy, Wait

__all__ = [
    "AccountEntry",
    "ApiError",
    "ApiKey",
    "Artifact",
    "BadAnswer",
    "Client",
    "ClientError",
    "ConnectionFailed",
    "Credentials",
    "Drain",
    "DrainedWorker",
    "Eta",
    "Event",
    "Explanation",
    "Interruption",
    "Job",
    "JobError",
    "LastFailure",
    "LedgerEntry",
    "Me",
    "Model",
    "Page",
    "Pause",
    "Plan",
    "Quota",
    "Quote",
    "Refusal",
    "RetryPolicy",
    "TextSoFar",
    "Unpaused",
    "Upload",
    "Usage",
    "UsageDay",
    "User",
    "Wait",
    "WaitReason",
    "Worker",
    "WorkerView",
    "find_credentials",
    "load_credentials",
]
