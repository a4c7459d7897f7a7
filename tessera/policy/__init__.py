"""The scheduling policy: shares of tiers, fairness of users, residency of models, estimates. Pure throughout.

``plan(snapshot, now)`` decides; ``Policy`` remembers; ``places`` says where a job stands.
"""

from tessera.policy.fleet import Fleet, FreeWorker, ModelFacts
from tessera.policy.plan import Action, Load, Reserve, Snapshot, Start, Unreserve, plan
from tessera.policy.queue import Queue, QueuedJob
from tessera.policy.rules import RULES, TIER_RANK, Rules
from tessera.policy.state import Policy, Served

__all__ = [
    "RULES",
    "TIER_RANK",
    "Action",
    "Fleet",
    "FreeWorker",
    "Load",
    "ModelFacts",
    "Policy",
    "Queue",
    "QueuedJob",
    "Reserve",
    "Rules",
    "Served",
    "Snapshot",
    "Start",
    "Unreserve",
    "plan",
]
