"""Claims by class and pool, what is learnt together, and the books of orders by stage."""

import asyncio
import math
import time
from bisect import bisect_left
from collections.abc import Coroutine
from random import Random
from typing import Any

import pytest

from relay.model.hazards import Hazards
from relay.model.orders import OrderId, Resource
from relay.model.pacing import HELD, OCTAVES, URGENT
from relay.store import keys
from relay.store.arms import Arms, fade
from relay.store.order_records import Due, Settlement
from relay.store.redis import as_dict
from tests.pumps.test_delivering import history
from tests.support.rig import Rig, open_rig


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


async def claim(arms: Arms, limit: int = 100) -> list[Any]:
    return list((await arms.claim(limit, lease_ms=60_000, horizon_ms=1_000)).arms)


def test_the_latest_relative_to_its_interval_comes_first(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            arms = Arms(rig.db)
            await rig.track("o-1")
            first = {arm.resource: arm for arm in await claim(arms)}
            # Due two seconds ago after an interval of a quarter second, of a minute; and urgent.
            for resource, klass in ((Resource.HANDLING, OCTAVES), (Resource.ITEMS, OCTAVES + 8)):
                await arms.settle([Settlement(first[resource], Due(-2_000, klass), 1)])
            await arms.settle([Settlement(first[Resource.MESSAGES], Due(0, URGENT), 1)])

            order = [(await claim(arms, 1))[0].resource for _ in range(3)]
            assert order == [Resource.MESSAGES, Resource.HANDLING, Resource.ITEMS]
            assert await claim(arms) == []

    run(main())


def test_early_only_within_a_budget_and_never_below_the_floor(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            arms = Arms(rig.db)
            await arms.set_rate(keys.SHARED_CREDENTIAL, 100)
            await rig.track("o-1")
            held = {arm.resource: arm for arm in await claim(arms)}
            # An octave of eight to sixteen seconds, one of a quarter of an hour, and one at its floor.
            due = {Resource.MESSAGES: Due(8_000, OCTAVES + 5), Resource.HANDLING: Due(600_000, OCTAVES + 11)}
            due[Resource.ITEMS] = Due(4_000, HELD)
            await arms.settle([Settlement(arm, due[resource], 1) for resource, arm in held.items()])
            deadline = await rig.db.now_ms() + 7_900
            found: list[Any] = []
            while not found and await rig.db.now_ms() < deadline:
                found = await claim(arms)

            assert [arm.resource for arm in found] == [Resource.MESSAGES]
            assert found[0].due_ms > found[0].send_at_ms + 3_000

    run(main())


def test_orders_are_counted_by_stage_through_their_lives(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await history(rig, "o-1", 2)  # statuses that no table knows
            await rig.track("o-2", "o-3")
            load = await rig.arms.load("shared")
            assert load.stages == {"other": 1, "": 2}
            assert await rig.orders.erase(rig.retailer_id, OrderId("o-2"))
            await rig.orders.purge(rig.retailer_id, OrderId("o-1"))
            assert (await rig.arms.load("shared")).stages == {"": 1}
            counts = await rig.db.run("HGETALL", keys.load("shared"))
            assert as_dict(counts) == {b"*": b"1", rig.retailer_id.encode(): b"1"}
            left = [name for name in await rig.admin.run("KEYS", "*due:*") if await rig.db.run("ZCARD", name)]
            assert sum([await rig.db.run("ZCARD", name) for name in left]) == 3

    run(main())


def test_what_is_learnt_is_shared_and_fades(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            one, two = Hazards(), Hazards()
            for hazards in (one, two):
                for _ in range(50):
                    hazards.learn(rig.retailer_id, "items", "picking", 0.0, 10.0, [5.0])
                hazards.absorb(*await rig.arms.exchange(*hazards.drain()))
            # Both know what both saw: a hundred changes in a thousand seconds.
            assert two.mean("items", "picking") == pytest.approx(101 / 1_120, rel=0.01)
            assert await fade(rig.db, [rig.retailer_id])
            assert not await fade(rig.db, [rig.retailer_id])
            classes, tempos = await rig.arms.exchange({}, {}, [rig.retailer_id])
            assert sum(classes["items/picking"][:13]) == pytest.approx(90)
            assert tempos[rig.retailer_id]["items"][0] == pytest.approx(90)

    run(main())


async def throttle(rig: Rig, retry_after_s: float | None = None) -> int:
    return await rig.arms.throttle("shared", retry_after_s)


def test_throttling_cuts_once_for_a_burst_then_pauses_longer_each_time(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.arms.set_rate("shared", 100)
            assert [await throttle(rig) for _ in range(20)] == [0] * 20  # one burst, one cut
            assert float(await rig.db.run("HGET", keys.budget("shared"), "cut")) == pytest.approx(0.7)
            now = await rig.db.now_ms()
            pauses = []
            for _ in range(3):
                await rig.db.run("HSET", keys.budget("shared"), "cut_at", now - 1_000, "gate", 0)
                pauses.append(await throttle(rig) - now)
            assert [round(pause / 1_100) for pause in pauses] == [1, 2, 4]
            until = await throttle(rig, 30.0)
            assert 29_000 < until - now < 34_000
            assert await rig.arms.spend("shared", within_ms=5_000) is None
            assert (await claim(rig.arms)) == []

    run(main())


def test_a_write_takes_its_turn_in_the_budget(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            assert await rig.arms.spend("shared", within_ms=0) == 0  # no budget: no waiting
            await rig.arms.set_rate("shared", 10)
            waits = [await rig.arms.spend("shared", within_ms=1_000) for _ in range(5)]
            assert waits[0] == 0
            assert all(wait is not None and 60 <= wait - 100 * n <= 130 for n, wait in enumerate(waits[1:]))

    run(main())


def test_a_turn_that_a_stall_made_late_is_lost_and_another_one_taken(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.arms.set_rate("shared", 50)
            sleep, slept = asyncio.sleep, []

            async def stalling(seconds: float) -> None:
                slept.append(seconds)
                await sleep(seconds + (0.2 if len(slept) == 1 else 0.0))

            monkeypatch.setattr("relay.store.arms.asyncio.sleep", stalling)
            assert await rig.arms.turn("shared", within_ms=1_000)
            assert len(slept) >= 2
            await rig.arms.throttle("shared", 30.0)
            assert not await rig.arms.turn("shared", within_ms=1_000)

    run(main())


def most_in_a_second(times_ms: list[int]) -> int:
    """The most of these times that any stretch of 1,000 ms holds."""
    times = sorted(times_ms)
    return max(bisect_left(times, at + 1_000) - number for number, at in enumerate(times))


@pytest.mark.parametrize("seed", range(4))
def test_no_second_holds_more_grants_than_the_budget_whoever_claims(redis_url: str, seed: int) -> None:
    """Two workers claim batches of any size at any time, and the budget is cut by ten meanwhile. Exact: what is counted
    is the send times that the claim script granted, so no stall of the machine can blur them."""

    async def main() -> None:
        dice = Random(seed)
        rate = dice.choice([50, 97, 200, 400])
        granted: list[int] = []
        async with open_rig(redis_url) as rig:
            await rig.arms.set_rate("shared", rate)
            await rig.track(*(f"o-{number}" for number in range(40)))

            async def work(until_s: float) -> None:
                arms, deadline = Arms(rig.db), time.monotonic() + until_s
                while time.monotonic() < deadline:
                    found = (await arms.claim(dice.randint(1, 60), lease_ms=60_000, horizon_ms=100)).arms
                    granted.extend(arm.send_at_ms for arm in found)
                    await arms.settle([Settlement(arm, Due(0, OCTAVES), arm.send_at_ms) for arm in found])
                    await asyncio.sleep(dice.choice([0.0, 0.005, 0.03, 0.15]))

            await asyncio.gather(work(1.5), work(1.5))
            before = list(granted)
            assert most_in_a_second(before) <= rate
            assert len(before) > rate / 2  # it was the budget that bound
            granted.clear()
            await rig.arms.set_rate("shared", rate / 10)
            await asyncio.gather(work(2.5), work(2.5))

            # Of a budget that is no whole number, some second holds the next whole one.
            assert most_in_a_second(granted) <= math.ceil(rate / 10)
            assert most_in_a_second(before + granted) <= rate
            assert min(granted) >= max(before)

    run(main())
