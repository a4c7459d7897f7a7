"""What a process of bots counts, by bot: updates, sends, floods, failures, and the wait for a first answer."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

ANSWER_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60)


class BotMetrics:
    """One registry per process; a bot is a label."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.updates = Counter("tessera_bot_updates", "Things that people did", ["bot", "what"], registry=self.registry)
        self.repeated = Counter(
            "tessera_bot_updates_repeated", "Updates that came again and were known", ["bot"], registry=self.registry
        )
        self.answer_s = Histogram(
            "tessera_bot_first_answer_seconds",
            "From receiving an update to its first answer",
            ["bot"],
            buckets=ANSWER_BUCKETS_S,
            registry=self.registry,
        )
        self.sends = Counter(
            "tessera_bot_sends", "Messages sent and edited", ["bot", "what", "outcome"], registry=self.registry
        )
        self.dropped = Counter(
            "tessera_bot_progress_dropped", "Progress that a newer one replaced", ["bot"], registry=self.registry
        )
        self.floods = Counter("tessera_bot_floods", "Flood waits of the platform", ["bot"], registry=self.registry)
        self.flood_s = Counter(
            "tessera_bot_flood_seconds", "Seconds that flood waits asked for", ["bot"], registry=self.registry
        )
        self.failures = Counter(
            "tessera_bot_failures", "What went wrong, by kind", ["bot", "what"], registry=self.registry
        )
        self.deliveries = Counter(
            "tessera_bot_deliveries", "Results brought to chats", ["bot", "outcome"], registry=self.registry
        )
        self.up = Gauge("tessera_bot_up", "Whether the bot is connected", ["bot"], registry=self.registry)
        self.waiting = Gauge(
            "tessera_bot_sends_waiting", "Messages that wait for their turn", ["bot"], registry=self.registry
        )
        self.following = Gauge(
            "tessera_bot_jobs_followed", "Jobs whose progress is shown", ["bot"], registry=self.registry
        )
