"""What waited: folded, skipped, recovered, sent again on request."""

from dataclasses import replace
from typing import Any

import pytest

from relay.model.orders import EventId, LaneId
from relay.model.ranges import expanded
from relay.model.retries import Schedule
from relay.store import keys
from relay.store.deliveries import LaneEntry
from relay.store.recoveries import Recovery
from tests.pumps.test_delivering import change, history, received, run
from tests.support.endpoint import LIMITS, Endpoint, broken, circuit_is, works
from tests.support.rig import Rig, eventually, open_rig


def test_backlog_latest_folds_what_waited_while_the_endpoint_was_down(redis_url: str) -> None:
    async def main() -> None:
        endpoint = Endpoint(broken)
        async with open_rig(redis_url, endpoint) as rig:
            endpoint.inner = rig.receiver
            subscription = await rig.subscribe(url=f"{rig.upstream_url}/hook", backlog="latest")
            rig.deliver(Schedule((0.1,)), LIMITS)
            for number in range(8):
                await history(rig, f"o-{number}", 3)
            await eventually(lambda: circuit_is(rig, subscription.id, "open"))
            for number in range(8):
                await change(rig, f"o-{number}", "even later")
            endpoint.mood = works
            await eventually(rig.idle)
            await change(rig, "o-1", "and on")
            await eventually(rig.idle)
            await rig.stop()

            shown = [receipt.event for receipt in rig.receipts]
            snapshots = [event for event in shown if event["type"] == "order.snapshot"]
            assert len(snapshots) >= 6  # all but those that were probed
            for event in snapshots:
                state = await rig.state(event["data"]["order_id"])
                assert event["data"]["stands_for"]["last"] == 4
                assert event["data"]["order"]["status"] == "even later"
                assert event["data"]["sequence"] == 4
                assert state.snapshot.handling is not None
            assert received(rig, "o-1")[-1] == 5
            for order_id, fold in rig.folds.items():
                assert fold.differences((await rig.state(order_id)).snapshot) == []
            stood_for = [h["relay-stands-for"] for h in endpoint.headers if "relay-stands-for" in h]
            told = rig.receiver.sequences | {n for text in stood_for for n in expanded(text)}
            assert told == set(range(1, 34))
            (account,) = await rig.accounts()
            assert account.skipped == 33 - len(shown)
            assert await rig.balanced()

    run(main())


@pytest.mark.parametrize("backlog", ["all", "latest", "skip"])
def test_enabling_offers_what_waited_as_all_latest_or_not_at_all(redis_url: str, backlog: Any) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            subscription = await rig.subscribe()
            off = replace(subscription.configuration, enabled=False)
            disabled = await rig.subscriptions.amend(rig.retailer_id, subscription, off)
            for number in range(5):
                await history(rig, f"o-{number}", 3)
            rig.deliver()
            await rig.subscriptions.amend(
                rig.retailer_id, disabled, subscription.configuration, backlog=backlog, reason=""
            )
            await eventually(rig.idle)
            await change(rig, "o-1", "news")
            await eventually(rig.idle)
            await rig.stop()
            (account,) = await rig.accounts()
            kinds = [receipt.event["type"] for receipt in rig.receipts]
            assert await rig.balanced()
            expected = {"all": (16, 0), "latest": (6, 10), "skip": (1, 15)}[backlog]
            assert (account.delivered, account.skipped) == expected
            assert kinds.count("order.snapshot") == (5 if backlog == "latest" else 0)
            assert received(rig, "o-1")[-1] == 4

    run(main())


async def _finished(rig: Rig, subscription_id: str, recovery_id: str) -> Recovery | None:
    found = await rig.stores.recoveries.get(subscription_id, recovery_id)
    return found if found.ended_ms is not None else None


def test_dead_letters_are_recovered_in_order_and_marked(redis_url: str) -> None:
    async def main() -> None:
        endpoint = Endpoint(broken)
        async with open_rig(redis_url, endpoint) as rig:
            endpoint.inner = rig.receiver
            subscription = await rig.subscribe(url=f"{rig.upstream_url}/hook")
            await history(rig, "o-1", 3)
            await history(rig, "o-2", 2)
            rig.deliver(Schedule((0.02,), give_up_after=0.1), LIMITS)

            async def buried() -> bool:
                return (await rig.accounts())[0].dead == 5

            await eventually(buried)
            endpoint.mood = works
            recovery = await rig.stores.recoveries.begin(
                rig.retailer_id, subscription.id, since="0-0", until=None, only="failed"
            )
            done = await eventually(lambda: _finished(rig, subscription.id, recovery.id))
            assert (done.looked_at, done.resent, done.skipped) == (5, 5, 0)
            await eventually(lambda: len(rig.receipts) == 5)

            async def settled() -> bool:
                return int(await rig.db.run("HGET", keys.subscription(subscription.id), "replaying") or 0) == 0

            await eventually(settled)
            await rig.stop()
            assert (received(rig, "o-1"), received(rig, "o-2")) == ([1, 2, 3], [1, 2])
            assert all(receipt.replay for receipt in rig.receipts)
            assert sorted(receipt.sequence for receipt in rig.receipts) == [1, 2, 3, 4, 5]
            (account,) = await rig.accounts()
            assert (account.delivered, account.dead) == (5, 0)
            assert await rig.db.run("ZCARD", keys.dead(subscription.id)) == 0
            assert await rig.balanced()

    run(main())


@pytest.mark.parametrize(("only", "again"), [("all", 6), ("missing", 2)])
def test_recovering_all_or_what_is_missing(redis_url: str, only: Any, again: int) -> None:
    """Missing is what was never delivered: here an order from before the subscription began."""

    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await history(rig, "o-before", 2)
            subscription = await rig.subscribe()
            tail = await rig.log.last_position(rig.retailer_id)
            await rig.db.run("HSET", keys.subscription(subscription.id), "pos", tail, "start", tail)
            await history(rig, "o-1", 4)
            rig.deliver()
            await eventually(lambda: len(rig.receipts) == 4)
            recovery = await rig.stores.recoveries.begin(
                rig.retailer_id, subscription.id, since="0-0", until=None, only=only
            )
            done = await eventually(lambda: _finished(rig, subscription.id, recovery.id))
            await eventually(lambda: rig.receiver.counters.verified == 4 + again)
            await rig.stop()
            assert (done.resent, done.looked_at) == (again, 6)
            assert received(rig, "o-before") == [1, 2]
            assert rig.receiver.gaps() == []
            assert await rig.balanced()

    run(main())


def test_a_recovery_goes_on_where_a_stopped_worker_left_it(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            subscription = await rig.subscribe()
            await history(rig, "o-1", 30)
            rig.deliver()
            await eventually(lambda: len(rig.receipts) == 30)
            slow = replace(LIMITS, recovery_rate=20)
            recoveries = rig.stores.recoveries
            await rig.stop()
            job = await recoveries.begin(rig.retailer_id, subscription.id, since="0-0", until=None, only="all")
            rig.deliver(None, slow)
            await eventually(lambda: rig.receiver.counters.duplicates >= 3)
            await rig.stop()
            assert (await recoveries.get(subscription.id, job.id)).ended_ms is None
            rig.deliver(None, replace(LIMITS, recovery_rate=1000))
            done = await eventually(lambda: _finished(rig, subscription.id, job.id))
            await eventually(lambda: rig.receiver.counters.duplicates >= 30)
            await rig.stop()
            assert done.resent == 30
            assert rig.receiver.counters.duplicates == 30
            assert await rig.balanced()

    run(main())


def test_one_event_is_sent_again_while_new_ones_flow(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            subscription = await rig.subscribe()
            await history(rig, "o-1", 3)
            rig.deliver()
            await eventually(lambda: len(rig.receipts) == 3)
            event_id = EventId(rig.receipts[1].event["id"])
            entry = await rig.log.find(rig.retailer_id, event_id)
            assert entry is not None
            waiting = LaneEntry(entry.position, 2, 0, 0, "r")
            await rig.stores.recoveries.redeliver(rig.retailer_id, subscription.id, LaneId("\x1fo-1"), waiting)
            await eventually(lambda: rig.receiver.counters.duplicates == 1)
            await change(rig, "o-1", "news")
            await eventually(lambda: received(rig, "o-1") == [1, 2, 3, 4])
            await eventually(rig.idle)
            await rig.stop()
            assert await rig.balanced()

    run(main())
