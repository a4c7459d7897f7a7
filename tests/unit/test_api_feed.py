"""One reader's queue: a slow one loses what is ephemeral first, and knows when it has to read Postgres again."""

from __future__ import annotations

from datetime import UTC, datetime

from tessera.api.events.feed import MAX_PENDING, DurableEvent, FeedEvent, Subscription
from tessera.ids import new_id
from tessera.jobs import EventType
from tests.fakes.scheduler import live

JOB = new_id()


def durable(number: int) -> DurableEvent:
    return DurableEvent(job_id=JOB, job_seq=number, type="queued", attempt=0, at=datetime.now(UTC), data={})


async def all_of(subscription: Subscription) -> list[FeedEvent]:
    found = []
    while (event := await subscription.next(0)) is not None:
        found.append(event)
    return found


async def test_events_come_in_order() -> None:
    subscription = Subscription(JOB)
    events = [durable(1), live(JOB, 1, EventType.CHUNK, offset=0, text="a"), durable(2)]
    for event in events:
        assert subscription.push(event)
    assert await all_of(subscription) == events


async def test_of_progress_and_previews_only_the_latest_waits() -> None:
    subscription = Subscription(JOB)
    for number in range(1000):
        subscription.push(live(JOB, 1, EventType.PROGRESS, fraction=number / 1000, note=None))
        subscription.push(live(JOB, 1, EventType.PREVIEW, media_type="image/jpeg", data_base64=str(number)))
    events = await all_of(subscription)
    assert [event.data.get("fraction", event.data.get("data_base64")) for event in events] == [0.999, "999"]


async def test_a_slow_reader_loses_chunks_and_no_durable_event() -> None:
    subscription = Subscription(JOB)
    subscription.push(durable(1))
    kept = [subscription.push(live(JOB, 1, EventType.CHUNK, offset=n, text="x")) for n in range(MAX_PENDING + 10)]
    subscription.push(durable(2))
    assert not all(kept)
    assert not subscription.lagging
    events = await all_of(subscription)
    assert [event.job_seq for event in events if isinstance(event, DurableEvent)] == [1, 2]
    assert len(events) < MAX_PENDING


async def test_a_reader_that_loses_durable_events_is_told_to_read_them_again() -> None:
    subscription = Subscription(JOB)
    for number in range(MAX_PENDING + 1):
        subscription.push(durable(number))
    assert subscription.lagging
    assert [event.job_seq for event in await all_of(subscription) if isinstance(event, DurableEvent)] == [MAX_PENDING]


async def test_a_closed_reader_gets_what_is_left_and_then_nothing() -> None:
    subscription = Subscription(JOB)
    event = durable(1)
    subscription.push(event)
    subscription.close()
    assert await subscription.next(10) is event
    assert await subscription.next(10) is None
