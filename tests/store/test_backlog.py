"""What waits, by what the scripts keep: ready, held and parked; what is due; budgets; and a sample that fails."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest

from relay.maintaining import MaintainPump
from relay.model.orders import OrderId, Tracking
from relay.queue import Ringer, open_pool
from relay.sampling import Sampler
from relay.store import keys
from relay.store.backlog import Backlog, Summary
from relay.store.bells import Bells
from relay.store.deliveries import Deliveries, LaneEntry, Operation, Progress
from relay.store.order_records import Commit
from relay.store.redis import Db, open_client
from relay.store.retention import Retention
from relay.store.slots import Slots
from tests.pumps.test_delivering import history
from tests.support.readings import Since, gauge
from tests.support.rig import Rig, open_rig


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 45))


async def counts(rig: Rig) -> tuple[int, int, int]:
    found = await Backlog(rig.db).summary()
    return tuple(found.waiting[state].events for state in ("ready", "held", "parked"))  # type: ignore[return-value]


async def park(rig: Rig, delay_ms: int) -> None:
    """Park the first event as a pump would after a failure."""
    deliveries = Deliveries(rig.db, rig.vault)
    _, _, (owned,) = await deliveries.own(1, owner="test", lease_ms=60_000)
    (first, *_) = await rig.log.after(rig.retailer_id, "0-0", 1)
    entry = LaneEntry(first.position, 1, 1, first.committed_ms)
    operation = Operation("park", first.order_id, entry.encode(), delay_ms)  # type: ignore[arg-type]
    progress = Progress(1, position=first.position, sequence=1, counts={"matched": 1}, operations=[operation])
    assert await deliveries.record(owned, progress, lease_ms=60_000) is not None


def test_what_could_be_sent_is_ready_and_what_the_endpoint_holds_up_is_not(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            one = await rig.subscribe()
            await history(rig, "o-1", 3)
            key = keys.subscription(one.id)
            assert await counts(rig) == (3, 0, 0)

            soon = await rig.db.now_ms() + 60_000
            holds: list[tuple[str, Any, Any]] = [
                ("hold", soon, 0),
                ("tat", soon, 0),
                ("health", '{"circuit":"open"}', "{}"),
                ("enabled", 0, 1),
            ]
            for name, held, free in holds:
                await rig.db.run("HSET", key, name, held)
                assert await counts(rig) == (0, 3, 0), name
                await rig.db.run("HSET", key, name, free)
            assert await counts(rig) == (3, 0, 0)

            await rig.db.run("SADD", keys.ahead(one.id), (await rig.log.after(rig.retailer_id, "0-0", 2))[1].position)
            assert await counts(rig) == (2, 0, 0)  # what is settled ahead of the position does not wait

    run(main())


def test_a_parked_lane_waits_for_its_time_and_is_ready_then(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            one = await rig.subscribe()
            await history(rig, "o-1", 3)
            await park(rig, 60_000)
            assert await counts(rig) == (2, 0, 1)
            found = await Backlog(rig.db).summary()
            assert (found.parked_lanes, found.imbalance, found.enabled) == (1, 0, 1)
            assert found.circuits == {"closed": 1}

            await rig.db.run("ZADD", keys.lanes(one.id), await rig.db.now_ms() - 1, "o-1")
            assert await counts(rig) == (3, 0, 0)

            await rig.db.run("HINCRBY", keys.subscription(one.id), "delivered", 2)
            assert (await Backlog(rig.db).summary()).imbalance == 2

    run(main())


def test_the_age_is_that_of_the_oldest_event_of_its_state(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.subscribe()
            await history(rig, "o-1", 2)
            first, second = (e.committed_ms for e in await rig.log.after(rig.retailer_id, "0-0", 2))
            await park(rig, 60_000)
            found = await Backlog(rig.db).summary()

            assert (found.waiting["parked"].since_ms, found.waiting["ready"].since_ms) == (first, second)
            assert found.age_s("ready") == (found.now_ms - second) / 1000
            assert Summary(5).age_s("held") == 0.0

    run(main())


def test_many_lanes_are_counted_by_the_books(redis_url: str, monkeypatch: Any) -> None:
    async def main() -> None:
        monkeypatch.setattr("relay.store.backlog.LANES", 1)
        async with open_rig(redis_url) as rig:
            one = await rig.subscribe()
            await history(rig, "o-1", 2)
            await park(rig, 60_000)
            await rig.db.run("ZADD", keys.lanes(one.id), await rig.db.now_ms() + 90_000, "o-2")
            await rig.db.run("RPUSH", keys.lane(one.id, "o-2"), "9-1/2/1/9/", "9-2/3/1/9/")
            await rig.db.run("HINCRBY", keys.subscription(one.id), "matched", 2)
            found = await Backlog(rig.db).summary()

            assert (found.waiting["parked"].events, found.parked_lanes, found.imbalance) == (3, 2, 0)

    run(main())


def test_polls_that_are_due_and_budgets_that_lie_idle(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.arms.set_rate("shared", 10)
            await rig.track("o-1", "o-2")
            backlog = Backlog(rig.db)
            found = await backlog.polling()
            assert (found.due, found.active, found.budget, found.idle) == (6, 2, 10.0, False)
            assert found.credentials == {"ok": 1}

            claim = await rig.arms.claim(1, lease_ms=60_000, horizon_ms=100)
            assert len(claim.arms) == 1
            assert (await backlog.polling()).due == 5

            # Three seconds on, nobody has asked for more.
            pool, late = f"shared/{rig.retailer_id}", claim.now_ms - 3_000
            for klass in range(16):
                for member in await rig.db.run("ZRANGE", keys.due("shared", rig.retailer_id, klass), 0, -1):
                    await rig.db.run("ZADD", keys.due("shared", rig.retailer_id, klass), late, member)
            await rig.db.run("HSET", keys.budget("shared"), "tat", late, "second", late // 1000, "count", 1)
            found = await backlog.polling()
            assert found.idle
            assert 2.9 < found.oldest_s < 30
            assert pool.partition("/")[2] == rig.retailer_id

            spent = await rig.db.now_ms() + 50
            await rig.db.run("HSET", keys.budget("shared"), "tat", spent)
            assert not (await backlog.polling()).idle  # the budget is spent: that is no idleness

            for state, fields in {
                "paused": ("gate", spent + 60_000),
                "refused": ("mint", spent + 60_000, "why", "credential_refused"),
                "token_endpoint": ("why", "token_endpoint"),
            }.items():
                await rig.db.run("HSET", keys.budget("shared"), "tat", 0, *fields)
                found = await backlog.polling()
                assert (found.credentials, found.idle) == ({state: 1}, False)

    run(main())


def test_what_refusals_left_of_a_budget(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.arms.set_rate("shared", 10)
            await rig.track("o-1")
            backlog, pool = Backlog(rig.db), open_pool(redis_url, "maintain")
            found = await backlog.polling()
            assert (found.remaining, found.least) == (10, 1)

            assert await rig.arms.throttle("shared", None) == 0
            found = await backlog.polling()
            assert found.credentials == {"slowed": 1}
            assert 0.7 <= found.least < 0.8  # it grows back by 0.002 a second
            assert found.remaining == pytest.approx(10 * found.least)
            await Sampler(rig.db, Ringer(pool)).sample()
            assert gauge("upstream_credentials", state="slowed") == 1
            assert gauge("budget_requests_per_second") == 10
            assert 7 <= (gauge("budget_remaining_requests_per_second") or 0) < 8
            assert 0.7 <= (gauge("budget_remaining_ratio") or 0) < 0.8

            assert await rig.arms.throttle("shared", 60) > 0
            found = await backlog.polling()
            assert (found.remaining, found.least, found.credentials) == (0, 0, {"paused": 1})
            await pool.aclose(close_connection_pool=True)

    run(main())


def test_suspended_orders_are_told_apart(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.track("o-1", "o-2")

            async def move(tracking: Tracking) -> tuple[int, int]:
                state = await rig.state("o-1")
                assert await rig.orders.commit(Commit(state, replace(state, tracking=tracking))) == "ok"
                found = await Backlog(rig.db).polling()
                return found.active, found.suspended

            assert await move(Tracking.SUSPENDED) == (1, 1)
            assert await move(Tracking.ACTIVE) == (2, 0)
            assert await move(Tracking.SUSPENDED) == (1, 1)
            await rig.orders.erase(rig.retailer_id, OrderId("o-1"))
            found = await Backlog(rig.db).polling()
            assert (found.active, found.suspended) == (1, 0)

    run(main())


def test_more_than_a_budget_in_a_second_is_counted(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.track(*(f"o-{number}" for number in range(60)))
            since = Since()
            await rig.arms.set_rate("shared", 20)
            began = await rig.db.now_ms()
            while await rig.db.now_ms() < began + 1_200:  # a second of the clock begins in it
                await rig.arms.claim(50, lease_ms=60_000, horizon_ms=100)
                for _ in range(3):  # writes look far ahead, and are granted for later seconds
                    await rig.arms.spend("shared", within_ms=3_000)
            assert since.rise("budget_exceeded_total") == 0

            # The bucket is lost: as when a failover forgets it.
            await rig.arms.set_rate("shared", 2)
            for _ in range(12):
                await rig.db.run("HSET", keys.budget("shared"), "tat", 0)
                await rig.arms.spend("shared", within_ms=3_000)
            assert since.rise("budget_exceeded_total") >= 1

    run(main())


def test_when_redis_is_gone_gauges_stay_and_the_sample_grows_old(redis_url: str, unused_port: int) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.subscribe()
            await history(rig, "o-1", 3)
            pool = open_pool(redis_url, "maintain")
            since = Since()
            sampler = Sampler(rig.db, Ringer(pool))
            await sampler.sample()
            await sampler.sample()
            assert (gauge("redis_slowest_command_seconds", kind="script") or 0) > 0
            assert (gauge("redis_slowest_command_seconds", kind="command") or 0) > 0
            assert (gauge("redis_commands") or 0) > 50
            assert (gauge("redis_cpu_seconds") or 0) > 0
            sampled = gauge("backlog_sample_timestamp_seconds")
            assert gauge("events_waiting", state="ready") == 3
            assert gauge("log_events") == 3
            assert gauge("subscriptions", state="enabled") == 1
            assert gauge("arq_jobs", queue="poll", state="due") == 0

            away = Db(open_client(f"redis://127.0.0.1:{unused_port}"))
            await Sampler(away, Ringer(pool)).sample()
            assert since.rise("backlog_sample_errors_total") == 1
            assert gauge("events_waiting", state="ready") == 3
            assert gauge("backlog_sample_timestamp_seconds") == sampled
            await away.aclose()
            await pool.aclose(close_connection_pool=True)

    run(main())


def test_arq_jobs_are_told_by_state(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            pool = open_pool(redis_url, "poll")
            ringer = Ringer(pool)
            assert await ringer.ring("poll", 0, tick=1)
            assert not await ringer.ring("poll", 0, tick=1)
            await ringer.ring("poll", 1, tick=1)
            await ringer.ring("poll", 2, defer_s=60)
            await rig.db.run("SET", "arq:in-progress:pump:poll:0:1", 1)
            depths = await ringer.depths()

            assert depths["poll"] == {"due": 1, "running": 1, "scheduled": 1}
            assert depths["deliver"] == {"due": 0, "running": 0, "scheduled": 0}
            await pool.aclose(close_connection_pool=True)

    run(main())


def test_what_retention_takes_unread_is_counted_and_so_is_what_the_sweep_finds(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.subscribe()
            await history(rig, "o-1", 4)
            pool = open_pool(redis_url, "maintain")
            pump = MaintainPump(
                *(rig.db, rig.orders, Slots(rig.db), Bells(rig.db), Ringer(pool), Retention(rig.db, rig.log)),
                pumps={"poll": 1, "deliver": 0},
                lease_s=5,
                retention_events_s=0.0,
                retention_orders_s=9_999.0,
                retention_audit_s=9_999.0,
            )
            since = Since()
            await rig.db.run("ZADD", keys.READY, 1, "sub_late")
            await pump.sweep()
            assert since.rise("sweep_rung_total", pump="deliver") >= 1
            assert since.rise("sweep_rung_total", pump="poll") >= 1  # the slot without a pump
            await asyncio.sleep(0.005)
            await pump.retain()
            assert since.rise("log_trimmed_unread_total") == 4
            await pool.aclose(close_connection_pool=True)

    run(main())
