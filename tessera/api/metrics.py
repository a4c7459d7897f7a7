"""What this replica counts, and what it reads from Postgres when it is asked, in Prometheus's text format.

Counters are of this process: a scraper sees one replica at a time. Gauges come from Postgres, the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tessera.plans import MT_PER_TOKEN

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)


class Metrics:
    """The collectors of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        to = self.registry
        self.requests = Counter(
            "tessera_http_requests",
            "Answers by route, method and status code.",
            ("route", "method", "code"),
            registry=to,
        )
        self.latency = Histogram(
            "tessera_http_request_seconds", "Seconds to the end of an answer.", ("route",), buckets=SECONDS, registry=to
        )
        self.admissions = Counter(
            "tessera_admissions", "Submissions by what became of them.", ("outcome",), registry=to
        )
        self.streams = Gauge("tessera_event_streams", "Event streams that are open.", registry=to)
        self.lagging = Gauge("tessera_event_streams_lagging", "Times that a reader was too slow.", registry=to)
        self._sent = Gauge(
            "tessera_webhooks_sent", "Tries of this replica since its start, by outcome.", ("outcome",), registry=to
        )
        self._sending = Gauge("tessera_webhooks_under_way", "Webhooks that this replica sends now.", registry=to)
        self._open = Gauge("tessera_deliveries_open", "Deliveries that wait, by channel.", ("channel",), registry=to)
        self._late = Gauge(
            "tessera_deliveries_overdue_seconds", "How long the first of them has been due.", ("channel",), registry=to
        )
        self._jobs = Gauge("tessera_jobs", "Jobs by state, kind and tier.", ("state", "kind", "tier"), registry=to)
        self._oldest = Gauge("tessera_oldest_queued_seconds", "Age of the oldest queued job.", ("tier",), registry=to)
        self._overdue = Gauge("tessera_leases_overdue", "Running jobs whose lease has run out.", registry=to)
        self._used = Gauge("tessera_tokens_used_today", "Tokens of today's ledger, by kind.", ("kind",), registry=to)

    def dropped(self, total: int) -> None:
        """How often a reader of the feed was too slow, since the start."""
        self.lagging.set(total)

    def deliveries(self, sent: Mapping[str, int], under_way: int, waiting: Sequence[Mapping[str, Any]]) -> None:
        """What the sender has counted, and what Postgres has of deliveries that wait."""
        for outcome, total in sent.items():
            self._sent.labels(outcome).set(total)
        self._sending.set(under_way)
        for gauge in (self._open, self._late):
            gauge.clear()
        for row in waiting:
            self._open.labels(row["channel"]).set(row["open"])
            self._late.labels(row["channel"]).set(row["overdue_s"])

    def render(
        self,
        jobs: Sequence[dict[str, Any]],
        queues: Sequence[dict[str, Any]],
        overdue: int | None,
        used: Sequence[dict[str, Any]],
    ) -> bytes:
        """Everything, with these answers of Postgres."""
        for gauge in (self._jobs, self._oldest, self._used):
            gauge.clear()
        for row in jobs:
            self._jobs.labels(row["state"], row["kind"], row["tier"]).set(row["jobs"])
        for row in queues:
            self._oldest.labels(row["tier"]).set(row["age_s"])
        self._overdue.set(math.nan if overdue is None else overdue)
        for row in used:
            self._used.labels(row["kind"]).set(row["used_mt"] / MT_PER_TOKEN)
        return generate_latest(self.registry)
