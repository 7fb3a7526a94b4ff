"""The atomic steps, one by one: claims and budgets, fences, repeats, retention, a forgotten script cache."""

import asyncio
import itertools
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest

from relay.maintaining import MaintainPump
from relay.model.circuit import Health, moved
from relay.model.orders import RESOURCES, EventId, LaneId, OrderId, Resource, Tracking
from relay.queue import Ringer, open_pool
from relay.store import keys
from relay.store.bells import Bells
from relay.store.deliveries import Deliveries, Notice, Operation, Progress, read_health
from relay.store.order_records import Commit, Due, Settlement
from relay.store.redis import as_dict
from relay.store.retention import Retention
from relay.store.slots import Slots
from tests.pumps.test_delivering import history
from tests.support.rig import Rig, eventually, open_rig


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


def test_a_claim_leases_and_a_lost_lease_settles_nothing(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.track("o-1", "a/b")
            first = await rig.arms.claim(10, lease_ms=40, horizon_ms=100)
            assert {(arm.order_id, arm.resource) for arm in first.arms} == {
                (order, resource) for order in ("o-1", "a/b") for resource in RESOURCES
            }
            assert (await rig.arms.claim(10, lease_ms=40, horizon_ms=100)).arms == []
            await asyncio.sleep(0.05)  # the lease is what is waited for
            second = await rig.arms.claim(10, lease_ms=60_000, horizon_ms=100)
            assert len(second.arms) == 6

            assert await rig.arms.settle([Settlement(arm, Due(0), 1) for arm in first.arms]) == 6
            assert (await rig.arms.claim(10, lease_ms=40, horizon_ms=100)).arms == []
            assert await rig.arms.settle([Settlement(arm, Due(0), 2) for arm in second.arms]) == 0
            assert len((await rig.arms.claim(10, lease_ms=40, horizon_ms=100)).arms) == 6

    run(main())


def test_a_budget_spaces_send_times(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.db.run("HSET", keys.budget("shared"), "rate", 100)
            await rig.track(*(f"o-{number}" for number in range(100)))
            granted: list[int] = []
            began = await rig.db.now_ms()
            while (now := await rig.db.now_ms()) < began + 500:
                claim = await rig.arms.claim(200, lease_ms=60_000, horizon_ms=100)
                granted += [arm.send_at_ms for arm in claim.arms]
                await asyncio.sleep(0.01)

            # 100 a second, and never more than the horizon ahead of time
            assert 40 <= len(granted) <= (now - began + 100) / 10 + 2
            assert all(b - a >= 9 for a, b in itertools.pairwise(granted))

    run(main())


def test_a_commit_holds_for_the_version_it_was_decided_on(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await history(rig, "o-1", 2)
            state = await rig.state("o-1")
            ended = replace(state, tracking=Tracking.ENDED)
            assert await rig.orders.commit(Commit(state, ended)) == "ok"
            assert await rig.orders.commit(Commit(state, ended)) == "conflict"  # also a repeated command
            assert await rig.orders.erase(rig.retailer_id, OrderId("o-1"))
            assert await rig.orders.commit(Commit(state, ended)) == "gone"

    run(main())


def test_a_reading_is_settled_only_on_what_it_was_decided_on(redis_url: str) -> None:
    """Compared with a fingerprint, or decided on a version, that is not stored any more: it says nothing, and the arm
    is read again at once."""

    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await history(rig, "o-1", 2)
            state = await rig.state("o-1")
            key = keys.order(rig.retailer_id, "o-1")
            await rig.db.run("HSET", key, "fi", "known", "wi", 5)
            (arm,) = [
                one
                for one in (await rig.arms.claim(10, lease_ms=60_000, horizon_ms=100)).arms
                if one.resource is Resource.ITEMS
            ]
            for holds in ("fother", "f", f"v{state.version + 1}", f"v{state.version}", "fknown"):
                settled = Settlement(arm, Due(60_000), 9_000, "new", holds=holds)
                assert await rig.arms.settle([settled]) == 0
                moved = holds not in (f"v{state.version}", "fknown")
                expected = [b"known", b"5"] if moved else [b"new", b"9000"]
                assert await rig.db.run("HMGET", key, "fi", "wi") == expected
                due = (await rig.arms.claim(10, lease_ms=60_000, horizon_ms=100)).arms
                assert [one.resource for one in due] == [Resource.ITEMS] * moved
                if due:
                    arm = due[0]
                else:
                    break

    run(main())


def test_versions_that_follow_a_lost_commit_are_not_those_that_were_lost(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await history(rig, "o-1", 2)
            before = await rig.state("o-1")
            key = keys.order(rig.retailer_id, "o-1")
            kept = await rig.admin.run("DUMP", key)
            assert await rig.orders.commit(Commit(before, before)) == "ok"
            lost = await rig.state("o-1")
            await rig.admin.run("RESTORE", key, 0, kept, "REPLACE")
            assert await rig.orders.commit(Commit(before, before)) == "ok"
            assert await rig.orders.commit(Commit(lost, lost)) == "conflict"

    run(main())


def test_a_forgotten_script_cache_is_filled_again(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.track("o-1")
            await rig.admin.run("SCRIPT", "FLUSH")
            assert len((await rig.arms.claim(10, lease_ms=40, horizon_ms=100)).arms) == 3
            await rig.admin.run("SCRIPT", "FLUSH")
            await rig.track("o-2")
            assert (await rig.state("o-2")).version == 0

    run(main())


async def _own(rig: Rig, owner: str, lease_ms: int = 60_000) -> Any:
    _, _, owned = await Deliveries(rig.db, rig.vault).own(10, owner=owner, lease_ms=lease_ms)
    return owned


def test_progress_is_fenced_and_counts_a_repeated_batch_once(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.subscribe()
            await history(rig, "o-1", 3)
            first, second = (entry.position for entry in (await rig.log.after(rig.retailer_id, "0-0", 2)))
            deliveries = Deliveries(rig.db, rig.vault)
            (mine,) = await _own(rig, "me", lease_ms=30)
            batch = Progress(
                serial=1,
                position=first,
                sequence=1,
                counts={"matched": 1, "delivered": 1},
                ahead=(second,),
                operations=[Operation("park", mine.subscription_id, f"{second}/2/1/5", 0)],
            )
            for _ in range(2):
                assert await deliveries.record(mine, batch, lease_ms=30) is not None
            (account,) = await rig.accounts()
            assert (account.matched, account.delivered, account.parked) == (2, 1, 1)

            await asyncio.sleep(0.04)
            (theirs,) = await _own(rig, "them")
            assert await deliveries.record(mine, replace(batch, serial=2), lease_ms=30) is None
            assert not await deliveries.release(mine)
            assert (await rig.accounts())[0].delivered == 1
            assert theirs.ahead == {second}
            assert await deliveries.release(theirs)
            assert len(await _own(rig, "again")) == 1  # something waits, so it stayed ready

    run(main())


def test_progress_that_does_not_follow_what_is_written_is_refused(redis_url: str) -> None:
    """Redis lost its last moments, and with them a batch: the next one counts on from there, and would leave events out
    that came since."""

    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.subscribe()
            await history(rig, "o-1", 3)
            places = [entry.position for entry in (await rig.log.after(rig.retailer_id, "0-0", 3))]
            deliveries = Deliveries(rig.db, rig.vault)
            (mine,) = await _own(rig, "me")
            key = keys.subscription(mine.subscription_id)

            async def record(owned: Any, serial: int) -> bool:
                counts = {"matched": 1, "delivered": 1}
                batch = Progress(serial=serial, position=places[serial - 1], sequence=serial, counts=counts)
                return await deliveries.record(owned, batch, lease_ms=60_000) is not None

            assert await record(mine, 1)
            kept = await rig.admin.run("DUMP", key)
            assert await record(mine, 2)
            await rig.admin.run("RESTORE", key, 0, kept, "REPLACE")
            assert not await record(mine, 3)
            assert (await rig.accounts())[0].delivered == 1
            assert await record(mine, 2)  # nothing was lost before this one
            assert await record(mine, 2)  # nor by repeating it
            assert await rig.balanced()

    run(main())


def test_no_two_leases_have_one_fence_also_after_a_loss(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.subscribe()
            await history(rig, "o-1", 1)
            kept = {name: await rig.admin.run("DUMP", name) for name in await rig.admin.run("KEYS", "*")}
            (lost,) = await _own(rig, "me")
            for name, value in kept.items():
                await rig.admin.run("RESTORE", name, 0, value, "REPLACE")
            now = await rig.db.now_ms()
            await eventually(lambda: _later(rig, now))
            (mine,) = await _own(rig, "me")

            deliveries = Deliveries(rig.db, rig.vault)
            assert await deliveries.record(lost, Progress(serial=1), lease_ms=60_000) is None
            assert await deliveries.record(mine, Progress(serial=1), lease_ms=60_000) is not None

    run(main())


def test_a_batch_says_nothing_of_an_endpoint_that_is_no_longer_the_subscription_s(redis_url: str) -> None:
    """The URL was changed between the answer and its writing down: the rest of the batch counts all the same."""

    async def main() -> None:
        async with open_rig(redis_url) as rig:
            subscription = await rig.subscribe()
            await history(rig, "o-1", 1)
            (owned,) = await _own(rig, "me")
            moved = replace(subscription.configuration, url=f"{rig.receiver_url}/moved")
            await rig.subscriptions.amend(rig.retailer_id, subscription, moved)

            health = Health("open", (LaneId("o-1"),), since_ms=1, hold_ms=2**40)
            notices = [
                Notice(EventId(f"evt_{kind}"), f"subscription.{kind}", b"{}") for kind in ("disabled", "failing")
            ]
            batch = Progress(
                serial=1, disable="gone", health=health, url=subscription.configuration.url, notices=notices, flying=3
            )
            deliveries = Deliveries(rig.db, rig.vault)
            recorded = await deliveries.record(owned, batch, lease_ms=60_000)
            assert recorded is not None
            assert recorded.enabled
            kept = await rig.db.run("HMGET", keys.subscription(subscription.id), "health", "hold", "flying")
            assert kept == [None, None, b"3"]
            entries = await rig.log.after(rig.retailer_id, "0-0", 100)
            assert [one.type for one in entries if one.type.startswith("subscription.")] == ["subscription.failing"]

            here = replace(batch, serial=2, url=moved.url, notices=())
            recorded = await deliveries.record(owned, here, lease_ms=60_000)
            assert recorded is not None
            assert not recorded.enabled

    run(main())


@pytest.mark.parametrize(
    "health",
    [
        Health(),
        Health("half_open", (LaneId("o-1"),), 1, 4, 3, 2**41, told=True, mourned_ms=2**40 + 1, reopened_ms=2**40 + 2),
        Health("closed", (LaneId("o-1"), LaneId("o-2")), since_ms=1, throttles=2, hold_ms=2**41, told_before=True),
    ],
)
def test_another_url_begins_a_record_of_its_own(redis_url: str, health: Health) -> None:
    """What the script makes of what is stored is what the model makes of what a pump has in memory."""

    async def main() -> None:
        async with open_rig(redis_url) as rig:
            known = await rig.subscribe()
            await history(rig, "o-1", 1)
            (owned,) = await _own(rig, "me")
            batch = Progress(serial=1, health=health, url=known.configuration.url)
            await Deliveries(rig.db, rig.vault).record(owned, batch, lease_ms=60_000)
            same = await rig.subscriptions.amend(
                rig.retailer_id, known, replace(known.configuration, description="the same URL")
            )
            assert await _health(rig, known.id) == health

            elsewhere = replace(same.configuration, url=f"{rig.receiver_url}/moved")
            await rig.subscriptions.amend(rig.retailer_id, same, elsewhere)
            assert await _health(rig, known.id) == moved(health)

    run(main())


async def _health(rig: Rig, subscription_id: str) -> Health:
    return read_health(as_dict(await rig.db.run("HGETALL", keys.subscription(subscription_id))))


async def _later(rig: Rig, than_ms: int) -> bool:
    return await rig.db.now_ms() > than_ms


def test_retention_drops_old_events_and_ended_orders_with_their_indexes(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await history(rig, "o-1", 4)
            await history(rig, "o-2", 2)
            state = await rig.state("o-2")
            assert await rig.orders.commit(Commit(state, replace(state, tracking=Tracking.ENDED))) == "ok"
            pool = open_pool(redis_url, "maintain")
            slots = Slots(rig.db)
            pump = MaintainPump(
                *(
                    rig.db,
                    rig.orders,
                    slots,
                    Bells(rig.db),
                    Ringer(pool),
                    Retention(rig.db, rig.log),
                ),
                pumps={"poll": 2, "deliver": 1},
                lease_s=5,
                retention_events_s=0.0,
                retention_orders_s=0.0,
                retention_audit_s=0.0,
            )
            await asyncio.sleep(0.005)
            await pump.retain()
            assert await rig.events() == []
            assert await rig.db.run("HLEN", keys.event_ids(rig.retailer_id)) == 0
            assert await rig.db.run("LLEN", keys.trail(rig.retailer_id, "o-1")) == 0
            assert await rig.orders.load(rig.retailer_id, OrderId("o-2")) is None
            assert await rig.orders.load(rig.retailer_id, OrderId("o-1")) is not None

            assert await slots.take("poll", 1, "somebody", 5_000)
            await pump.sweep()
            await pump.sweep()  # the same tick rings the same ids: no second job
            assert await rig.db.run("ZCARD", "arq:relay:poll") == 1
            assert await rig.db.run("ZCARD", "arq:relay:deliver") == 1
            await pool.aclose(close_connection_pool=True)

    run(main())


def test_a_slot_has_one_pump(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            slots = Slots(rig.db)
            assert await slots.take("poll", 0, "a", 10_000)
            assert not await slots.take("poll", 0, "b", 10_000)
            assert not await slots.renew("poll", 0, "b", 10_000)
            await slots.release("poll", 0, "b")
            assert await slots.renew("poll", 0, "a", 10_000)
            assert await slots.free("poll", 2) == [1]
            await slots.release("poll", 0, "a")
            assert await slots.free("poll", 2) == [0, 1]
            assert await slots.renew("poll", 0, "a", 10_000)  # nobody took it in the meantime

    run(main())
