"""Claims and settlements of many arms at once: each arm stands in one place afterwards, whatever else is in a batch."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from relay.embedded import EmbeddedStore
from relay.errors import STORE_FULL, StoreUnavailable
from relay.model.orders import OrderId, RetailerId
from relay.model.pacing import FIRST, OCTAVES, URGENT
from relay.store import keys
from relay.store.order_records import ClaimedArm, Due, Registration, Settlement, UserToken
from tests.support import acl
from tests.support.rig import Rig, open_rig

#: Read at times that no clock of a test reaches, so that they are the newest.
READ = 2**42
LEASE = 60_000


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


async def claim(rig: Rig, limit: int = 2_000, lease_ms: int = LEASE) -> list[ClaimedArm]:
    return list((await rig.arms.claim(limit, lease_ms=lease_ms, horizon_ms=100)).arms)


async def places(rig: Rig) -> dict[tuple[str, str], list[tuple[str, int]]]:
    """Where each arm stands, by pool and member: names of sets ("claimed", or a class) and scores."""
    found: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for raw in [*await rig.admin.run("KEYS", "*:due:*"), *await rig.admin.run("KEYS", "*:claimed:*")]:
        kind, _, rest = raw.decode().removeprefix(keys.PREFIX).partition(":")
        pool, place = rest.rsplit(":", 1) if kind == "due" else (rest, kind)
        rows = await rig.db.run("ZRANGE", raw, 0, -1, "WITHSCORES")
        pairs = rows if rows and isinstance(rows[0], list) else list(zip(rows[::2], rows[1::2], strict=True))
        for member, score in pairs:
            found.setdefault((pool, member.decode()), []).append((place, int(float(score))))
    return found


async def register(rig: Rig, retailer_id: RetailerId, credential: str, *order_ids: str) -> None:
    wanted = [Registration(OrderId(one), None, UserToken("good-token")) for one in order_ids]
    await rig.orders.register(retailer_id, wanted, credential=credential)


async def lapse(rig: Rig, arms: Sequence[ClaimedArm]) -> None:
    """Let the leases of these arms end."""
    for arm in arms:
        await rig.db.run("ZADD", keys.PREFIX + "claimed:" + arm.pool.id, "XX", 1, arm.member)
        await rig.db.run("ZADD", keys.PREFIX + "pools:" + arm.credential, 1, arm.retailer_id)
        await rig.db.run("ZADD", keys.CREDENTIALS, 1, arm.credential)


def test_an_arm_that_is_twice_in_a_batch_is_put_back_once(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.track("o-1")
            arms = await claim(rig)
            now = await rig.db.now_ms()
            first = [Settlement(arm, Due(50_000, OCTAVES), READ) for arm in arms]
            second = [Settlement(arm, Due(0, URGENT), READ + 1) for arm in arms]
            assert await rig.arms.settle([*first, *second]) == len(arms)

            standing = await places(rig)
            assert len(standing) == len(arms)
            for ((place, due),) in standing.values():
                assert place == str(OCTAVES)
                assert due >= now + 50_000
            # A reading counts by when it was made, and not by its lease.
            read = await rig.db.run(
                "HMGET", keys.order(rig.retailer_id, "o-1"), *(f"w{a.resource.short}" for a in arms)
            )
            assert [int(one) for one in read] == [READ + 1] * len(arms)

    run(main())


@pytest.mark.parametrize("late_first", [True, False])
def test_a_lost_lease_and_the_one_that_holds_in_one_batch(redis_url: str, late_first: bool) -> None:
    """A pump that was held up settles what it claimed first together with what it claimed again."""

    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.track("o-1", "o-2")
            lost = await claim(rig, lease_ms=LEASE)
            await lapse(rig, lost)
            held = {arm.member: arm for arm in await claim(rig, lease_ms=2 * LEASE)}
            assert held.keys() == {arm.member for arm in lost}
            now = await rig.db.now_ms()
            late = [Settlement(arm, Due(0, URGENT), READ) for arm in lost]
            good = [Settlement(arm, Due(70_000, OCTAVES + 1), READ + 5) for arm in held.values()]
            assert await rig.arms.settle([*late, *good] if late_first else [*good, *late]) == len(lost)

            standing = await places(rig)
            assert len(standing) == len(lost)
            for ((place, due),) in standing.values():
                assert place == str(OCTAVES + 1)
                assert due >= now + 70_000
            assert await claim(rig) == []

    run(main())


def test_a_lost_lease_alone_leaves_the_one_that_holds(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.track("o-1")
            lost = await claim(rig, lease_ms=LEASE)
            await lapse(rig, lost)
            held = await claim(rig, lease_ms=2 * LEASE)
            twice = [Settlement(arm, Due(0, URGENT), READ) for arm in [*lost, *lost]]
            assert await rig.arms.settle(twice) == len(twice)
            assert {place for ((place, _),) in (await places(rig)).values()} == {"claimed"}
            assert await rig.arms.settle([Settlement(arm, Due(0, URGENT), READ) for arm in held]) == 0

    run(main())


def test_an_arm_that_was_hastened_is_due_at_once_however_often_it_is_in_the_batch(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.track("o-1", "o-2")
            arms = await claim(rig)
            hastened = [arm for arm in arms if arm.order_id == "o-1"]
            again = keys.PREFIX + "again:" + arms[0].pool.id
            await rig.db.run("SADD", again, *(arm.member for arm in hastened))
            settlements = [Settlement(arm, Due(60_000, OCTAVES), READ) for arm in [*arms, *arms]]
            assert await rig.arms.settle(settlements) == len(arms)

            assert await rig.admin.run("EXISTS", again) == 0
            standing = {member: rows for (_, member), rows in (await places(rig)).items()}
            for arm in arms:
                ((place, _),) = standing[arm.member]
                assert place == str(URGENT if arm in hastened else OCTAVES)
            assert {arm.member for arm in await claim(rig)} == {arm.member for arm in hastened}

    run(main())


def test_more_arms_than_one_command_takes(redis_url: str) -> None:
    """In one claim and one settlement, from and to several classes; leases that ended come back as many at a time."""

    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.track(*(f"o-{number}" for number in range(301)))
            arms = await claim(rig)
            assert len({arm.member for arm in arms}) == len(arms) == 903
            assert {place for ((place, _),) in (await places(rig)).values()} == {"claimed"}
            classes = [FIRST, OCTAVES, OCTAVES + 3]
            due = {arm.member: Due(-number, classes[number % 7 // 3]) for number, arm in enumerate(arms)}
            assert await rig.arms.settle([Settlement(arm, due[arm.member], READ) for arm in arms]) == 0
            standing = await places(rig)
            assert {member: [place for place, _ in rows] for (_, member), rows in standing.items()} == {
                member: [str(one.klass)] for member, one in due.items()
            }
            assert len({at - (due[member].delay_ms or 0) for (_, member), ((_, at),) in standing.items()}) == 1

            taken: list[ClaimedArm] = []
            for limit in (1, 2, 5, 17, 100, 300, 2_000):  # wherever it stops, the next one goes on from there
                taken += await claim(rig, limit)
                assert len(await places(rig)) == 903
            assert sorted(arm.member for arm in taken) == sorted(due)
            for one in (OCTAVES, OCTAVES + 3):
                rows = [arm.due_ms for arm in taken if due[arm.member].klass == one]
                assert rows == sorted(rows)

            await lapse(rig, taken[:300])
            lapsed = sorted(arm.member for arm in taken[:300])
            assert sorted(arm.member for arm in await claim(rig)) == lapsed[:256]  # so many at a time
            assert sorted(arm.member for arm in await claim(rig)) == lapsed[256:]

    run(main())


def test_several_pools_in_one_batch(redis_url: str) -> None:
    """Two credentials, three retailers whose orders have the same ids; one order is purged while it is read, and what
    is learnt goes to its own pool."""

    async def main() -> None:
        async with open_rig(redis_url) as rig:
            other, third = RetailerId("ret_other"), RetailerId("ret_third")
            await register(rig, rig.retailer_id, "shared", "o-1", "o-2")
            await register(rig, other, "shared", "o-1", "o-2")
            await register(rig, third, "own", "o-1", "o-2")
            arms = await claim(rig)
            counts = {arm.pool.id: arm.pool.arms for arm in arms}
            assert counts == {f"shared/{rig.retailer_id}": 6, f"shared/{other}": 6, f"own/{third}": 6}
            assert await rig.orders.erase(other, OrderId("o-2"))
            classes = {rig.retailer_id: OCTAVES, other: OCTAVES + 1, third: OCTAVES + 2}
            # In turn, so that neighbours in the batch are of different pools.
            arms.sort(key=lambda arm: (arm.member, arm.retailer_id))
            settlements = [Settlement(arm, Due(40_000, classes[arm.retailer_id]), READ) for arm in arms]
            settlements.append(Settlement(arms[0], Due(0, URGENT), READ))
            assert await rig.arms.settle(settlements, {f"own/{third}": 0.5}) == 1

            assert {name: [place for place, _ in rows] for name, rows in (await places(rig)).items()} == {
                (arm.pool.id, arm.member): [str(classes[arm.retailer_id])]
                for arm in arms
                if (arm.retailer_id, arm.order_id) != (other, "o-2")
            }
            assert await rig.admin.run("EXISTS", keys.order(other, "o-2")) == 0
            learnt = {pool: await rig.db.run("HGET", f"{keys.PREFIX}pool:{pool}", "x") for pool in counts}
            assert [pool for pool, factor in learnt.items() if factor is not None] == [f"own/{third}"]

    run(main())


def test_an_order_of_which_nothing_is_known_is_polled_no_more(redis_url: str) -> None:
    """Redis may lose the last moments of one key and keep another's: what stands for nothing is cleared away by the
    claim that meets it, and the others behind it are claimed."""

    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.track(*(f"o-{number}" for number in range(30)))
            gone = [f"o-{number}" for number in range(0, 30, 3)]
            await rig.admin.run("DEL", *(keys.order(rig.retailer_id, one) for one in gone))
            arms = await claim(rig)
            assert {str(arm.order_id) for arm in arms} == {f"o-{number}" for number in range(30)} - set(gone)
            assert len(await places(rig)) == len(arms) == arms[0].pool.arms == 60

    run(main())


def test_arms_wait_for_the_gate_of_tokens_and_stand_where_they_stood(redis_url: str) -> None:
    """While no token may be minted, an arm without one is put off, in its class, and those with one are claimed."""

    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.track(*(f"given-{number}" for number in range(40)))
            wanted = [Registration(OrderId(f"minted-{number}"), "user") for number in range(40)]
            await rig.orders.register(rig.retailer_id, wanted, credential="shared")
            gate = await rig.db.now_ms() + 100_000
            await rig.db.run("HSET", keys.budget("shared"), "mint", gate)
            found = await rig.arms.claim(2_000, lease_ms=2 * LEASE, horizon_ms=100)

            assert {arm.order_id.partition("-")[0] for arm in found.arms} == {"given"}
            assert len(found.arms) == 120
            assert found.next_ms == gate
            waiting = [rows for (_, member), rows in (await places(rig)).items() if "minted" in member]
            assert waiting == [[(str(FIRST), gate)]] * 120

    run(main())


def test_a_lease_is_a_number_however_it_is_written(redis_url: str) -> None:
    """Some servers write a score of many zeros as 1.8e+12."""

    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.track("o-1")
            arms = await claim(rig)
            settlements = [
                Settlement(replace(arm, lease=f"{int(arm.lease):.12e}"), Due(0, URGENT), READ) for arm in arms
            ]
            assert await rig.arms.settle(settlements) == 0
            assert len(await claim(rig)) == len(arms)

    run(main())


def test_a_batch_that_a_full_redis_refuses_has_changed_nothing() -> None:
    """What was read is refused as a whole; what was not is taken back, since that needs no more memory. On a server of
    its own: one that was full goes on refusing scripts when its limit is lifted."""

    async def main(url: str) -> None:
        async with open_rig(url) as rig:
            await rig.track("o-1", "o-2")
            arms = await claim(rig)
            before = await places(rig)
            await rig.admin.run("CONFIG", "SET", "maxmemory", 1)
            refused = [Settlement(arms[0], Due(0)), *(Settlement(arm, Due(0), READ) for arm in arms[1:])]
            with pytest.raises(StoreUnavailable) as raised:
                await rig.arms.settle(refused)
            assert raised.value.code == STORE_FULL
            assert await places(rig) == before
            assert await rig.arms.settle([Settlement(arm, Due(0)) for arm in arms]) == 0
            assert len(await claim(rig)) == len(arms)

    with EmbeddedStore() as store:
        run(main(acl.restricted(store.url)))
