"""What deliveries tell of themselves: how prompt, how large, what may arrive twice and why."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec

from relay import metrics
from relay.delivering.jobs import Limits
from relay.model.circuit import Health
from relay.model.orders import RetailerId
from relay.model.retries import Schedule
from relay.store import keys
from relay.store.deliveries import Deliveries, Progress
from tests.pumps.test_delivering import history
from tests.support.readings import Since, gauge
from tests.support.rig import Rig, eventually, open_rig, serving

FIRST = "detected_to_first_attempt_seconds_count"


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


def test_the_canary_s_posts_are_no_attempts(redis_url: str) -> None:
    """RelayDeliveryStalled asks whether any are made: the canary's get through while no other one does."""

    async def main() -> None:
        async with open_rig(redis_url) as rig:
            rig.retailer_id = RetailerId(keys.CANARY)
            await rig.subscribe()
            rig.deliver()
            since = Since()
            await history(rig, "o-1", 2)
            await eventually(rig.idle)
            await rig.stop()
            assert len(rig.receipts) == 2
            assert since.rise("verdicts_total", verdict="delivered") == 2
            assert since.rise("attempts_total", outcome="answered", status_class="2xx") == 0
            assert since.rise("attempt_duration_seconds_count", outcome="answered") == 0

    run(main())


class Stuck:
    """Takes what comes, and answers when it is let."""

    def __init__(self) -> None:
        self.taken = 0
        self.let = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await receive()
        self.taken += 1
        await self.let.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


def test_an_event_that_nothing_held_up_is_measured_once(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.subscribe()
            rig.deliver()
            since = Since()
            await history(rig, "o-1", 1)
            await eventually(lambda: len(rig.receipts) == 1)
            await eventually(rig.idle)
            assert since.rise(FIRST) == 1
            assert since.rise("detected_to_delivered_seconds_count") == 1
            assert since.rise("attempt_number_bucket", le="1.0") == 1
            assert since.rise("delivery_body_bytes_sum") == len(rig.receipts[0].body)
            assert since.rise("attempts_total", outcome="answered", status_class="2xx") == 1
            assert since.rise("verdicts_total", verdict="delivered") == 1
            assert gauge("deliveries_in_progress") == 0
            await rig.stop()

    run(main())


def test_what_waited_for_the_endpoint_is_not_held_against_us(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            since = Since()
            await history(rig, "o-1", 3)
            await rig.subscribe()  # wants them from the beginning: they are older than itself
            rig.deliver()
            await eventually(lambda: len(rig.receipts) == 3)
            assert since.rise(FIRST) == 0

            slow = await rig.subscribe(rate_limit=2.0, event_types=["order.status_changed"])
            await history(rig, "o-2", 1)
            await history(rig, "o-3", 6)  # six at once, of one order, to an endpoint that takes two a second
            await eventually(lambda: slow.id and len(rig.receipts) >= 10)
            await rig.stop()
            assert since.rise(FIRST) < since.rise("detected_to_delivered_seconds_count")

    run(main())


def test_the_backlog_behind_a_circuit_is_not_held_against_the_next_pump(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            one = await rig.subscribe()
            await history(rig, "o-1", 2)
            closed_again = Health(reopened_ms=await rig.db.now_ms())
            key = f"relay:1:{{0}}:sub:{one.id}"
            await rig.db.run("HSET", key, "health", msgspec.json.encode(closed_again))  # by a pump before this one
            since = Since()
            rig.deliver()
            await eventually(lambda: len(rig.receipts) == 2)
            assert since.rise(FIRST) == 0
            await history(rig, "o-2", 1)
            await eventually(lambda: since.rise(FIRST) == 1)
            await rig.stop()

    run(main())


def test_a_retry_is_no_first_attempt(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url, fail_rate=1.0) as rig:
            await rig.subscribe()
            rig.deliver(schedule=Schedule((0.05,)))
            since = Since()
            await history(rig, "o-1", 1)
            await eventually(lambda: since.rise("verdicts_total", verdict="retry") >= 3)
            assert since.rise(FIRST) == 1
            rig.receiver.fail_rate = 0.0
            await eventually(rig.idle)
            await rig.stop()
            assert since.rise(FIRST) == 1
            assert since.rise("attempt_number_bucket", le="3.0") == 0
            assert since.rise("attempt_number_bucket", le="+Inf") == 1

    run(main())


async def _in_flight(rig: Rig, owner: str) -> Any:
    """A subscription owned by somebody who has three posts in flight."""
    deliveries = Deliveries(rig.db, rig.vault)
    _, _, (owned,) = await deliveries.own(1, owner=owner, lease_ms=50)
    assert await deliveries.record(owned, Progress(1, flying=3), lease_ms=50) is not None
    return owned


def test_what_a_crash_repeats_is_counted_by_the_successor(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.subscribe()
            await history(rig, "o-1", 2)
            await _in_flight(rig, "who-died")
            since = Since()
            rig.deliver()
            await eventually(lambda: len(rig.receipts) == 2)
            await rig.stop()
            assert since.rise("redeliveries_total", reason="crash") == 3
            assert since.rise("redeliveries_total", reason="drain") == 0

    run(main())


def test_what_a_drain_cuts_off_is_counted_by_the_successor(redis_url: str) -> None:
    async def main() -> None:
        stuck = Stuck()
        async with serving(stuck) as url, open_rig(redis_url, deadline=20.0) as rig:
            await rig.subscribe(url=f"{url}/hook")
            await history(rig, "o-1", 1)
            rig.deliver(limits=Limits(lease_ms=5_000, drain_s=0.05))
            await eventually(lambda: stuck.taken == 1)
            assert gauge("deliveries_in_progress") == 1
            since = Since()
            await rig.stop()
            stuck.let.set()
            rig.deliver()
            await eventually(lambda: since.rise("verdicts_total", verdict="delivered") == 1)
            await rig.stop()
            assert since.rise("redeliveries_total", reason="drain") == 1
            assert since.rise("redeliveries_total", reason="crash") == 0
            assert gauge("deliveries_in_progress") == 0

    run(main())


def test_what_a_lost_lease_repeats_is_counted_by_the_loser(redis_url: str) -> None:
    async def main() -> None:
        stuck = Stuck()
        async with serving(stuck) as url, open_rig(redis_url, deadline=20.0) as rig:
            one = await rig.subscribe(url=f"{url}/hook")
            await history(rig, "o-1", 1)
            rig.deliver(limits=Limits(lease_ms=600, drain_s=0.05))
            await eventually(lambda: stuck.taken == 1)
            since = Since()
            await rig.db.run("HINCRBY", f"relay:1:{{0}}:sub:{one.id}", "fence", 1)  # somebody else takes it
            await eventually(lambda: since.rise("redeliveries_total", reason="lease_lost") == 1)
            assert since.rise("leases_lost_total", pump="deliver") == 1
            stuck.let.set()
            await rig.stop()

    run(main())


def test_polls_and_commits_tell_of_themselves(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.arms.set_rate("shared", 200)
            since = Since()
            await rig.track("o-1")
            rig.poll()
            await eventually(lambda: since.rise("events_committed_total", type="order.tracking_started") == 1)
            await eventually(lambda: since.rise("polls_total", resource="items", outcome="unchanged") > 2)
            await rig.stop()
            polled = since.rise("poll_duration_seconds_count")
            assert since.rise("poll_lateness_seconds_count") == polled
            assert since.rise("budget_spent_total") >= polled
            assert since.rise("budget_exceeded_total") == 0
            assert since.rise("commits_total", result="ok") >= 3
            commits = sum(since.rise("commits_total", result=result) for result in ("ok", "conflict", "gone"))
            assert since.rise("commit_duration_seconds_count") == commits
            assert (gauge("poll_last_success_timestamp_seconds", resource="items") or 0) > 1_700_000_000
            assert since.rise("redis_round_trips_total", kind="script") > 3
            assert since.rise("redis_command_duration_seconds_count", kind="script") > 3

    run(main())


def test_polls_that_start_late_are_told_by_stage(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.track("o-1")
            for klass in range(16):  # as if no poll worker had been there for ten seconds
                key = keys.due("shared", rig.retailer_id, klass)
                for member in await rig.db.run("ZRANGE", key, 0, -1):
                    await rig.admin.run("ZINCRBY", key, -10_000, member)
            since = Since()
            rig.poll()
            await eventually(lambda: since.rise("polls_late_total", stage="new") == 3)
            await eventually(lambda: since.rise("poll_lateness_seconds_count") > 3)
            await rig.stop()
            assert since.rise("polls_late_total", stage="new") == 3
            on_time = since.rise("poll_lateness_seconds_bucket", le="5.0")
            assert since.rise("poll_lateness_seconds_count") - on_time >= 3

    run(main())


def test_the_canarys_polls_are_no_word_of_upstream(redis_url: str) -> None:
    """They go to an upstream of our own: they would hide that the real one is away (RelayPollingStalled)."""

    async def main() -> None:
        async with open_rig(redis_url) as rig:
            rig.retailer_id = RetailerId(keys.CANARY)
            for resource in ("handling", "items", "messages"):
                metrics.poll_last_success.labels(resource).set(1)
            since = Since()
            await rig.track("o-1")
            rig.poll()
            await eventually(lambda: since.rise("events_committed_total", type="order.tracking_started") == 1)
            await eventually(lambda: since.rise("polls_total", resource="items", outcome="unchanged") > 2)
            await rig.stop()
            assert gauge("poll_last_success_timestamp_seconds", resource="items") == 1
            assert gauge("poll_last_success_timestamp_seconds", resource="handling") == 1

    run(main())
