"""A batch of quiet answers teaches and plans what each of them would by itself."""

import asyncio
import random

from hypothesis import given
from hypothesis import strategies as st

from relay.model.cadence import Cadence
from relay.model.lifecycle import Policy
from relay.model.orders import Tracking
from relay.model.pacing import FIRST_AGE, FIRST_FACTOR, Pool
from relay.polling.books import Books
from relay.polling.planner import Planner
from relay.polling.settler import BATCH, Settler
from relay.store import keys
from relay.store.arms import Arms
from relay.store.order_records import ClaimedArm
from relay.store.redis import Db, open_client
from tests.support.readings import Since
from tests.support.rig import eventually, open_rig

NOW = 1_764_000_000_000
#: Two batches and a half.
MANY = 2 * BATCH + BATCH // 2
RESOURCES = ("handling", "items", "messages")


def arms(dice: random.Random, pools: list[Pool], count: int) -> list[tuple[ClaimedArm, int]]:
    """Arms as they are claimed, with the times when they were asked."""
    found = []
    for number in range(count):
        read_at = dice.choice([0, NOW - dice.randrange(1, 400_000)])
        claimed = ClaimedArm(
            *(f"{dice.choice('him')}/o-{number}", 0, str(NOW + 15_000), NOW),
            due_ms=NOW - dice.randrange(-2_000, 60_000),
            fingerprint="f" * 32,
            read_at_ms=read_at,
            user="",
            token_revision="1",
            tracking=Tracking.ACTIVE,
            status=dice.choice(["", "picking", "picking+", "delivering"]),
            troubled="",
            changed_ms=dice.choice([0, NOW - dice.randrange(1, 3_000_000)]),
            validator="",
            pool=dice.choice(pools),
        )
        found.append((claimed, NOW + dice.randrange(200)))
    return found


@given(st.randoms(use_true_random=False), st.sampled_from([1.0, 0.01]))
def test_a_batch_of_quiet_polls_is_learnt_from_as_one_by_one(dice: random.Random, scale: float) -> None:
    pools = [
        Pool("shared/ret_1", 300, 100, 120, 2, 12.0, FIRST_FACTOR),
        Pool("shared/ret_2", 60, 20, 120, 2, 12.0, FIRST_FACTOR + 1),
        Pool("own/ret_3", 60, 20, 20, 1, 0.0, FIRST_FACTOR),
        Pool(f"shared/{keys.CANARY}", 3, 1, 120, 2, 12.0, FIRST_FACTOR),
    ]
    policy = Policy(Cadence(scale=scale, floor=0.001))
    together, apart = (Planner(Arms(Db(open_client("redis://127.0.0.1:1"))), policy) for _ in range(2))

    def changed_ms(arm: ClaimedArm, asked_ms: int) -> int:
        return arm.changed_ms or asked_ms - round(FIRST_AGE * scale * 1000)

    polls = arms(dice, pools, 19)  # fewer than those after which hazards are derived anew
    dues = together.reread([arm for arm, _ in polls], [at for _, at in polls])
    for (arm, asked_ms), due in zip(polls, dues, strict=True):  # planned by what was known before
        assert due == apart.due(arm, arm.stage, changed_ms(arm, asked_ms), asked_ms)
    for arm, asked_ms in polls:
        assert apart.read(arm, asked_ms) == changed_ms(arm, asked_ms)

    assert together.drain() == apart.drain()
    assert together._hazards.drain() == apart._hazards.drain()


def test_more_than_a_batch_is_written_without_another_word(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            settler, running = await settling(rig.arms)
            await eventually(lambda: settler._count == 0)
            settler.close()
            await running

    asyncio.run(main())


def test_a_redis_that_is_gone_keeps_nobody_from_stopping() -> None:
    """What could not be written falls due again with its leases."""

    async def main() -> None:
        settler, running = await settling(Arms(Db(open_client("redis://127.0.0.1:1"))))
        settler.close()
        await asyncio.wait_for(running, 60)
        assert settler._count == 0

    asyncio.run(main())


def test_an_arm_that_cannot_be_planned_takes_no_other_with_it(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            since = Since()
            mad = Pool("shared/ret_mad", 9, 3, 3, 1, 1.0, 1e6)  # e to that power is no number
            settler, running = await settling(rig.arms, mad)
            await eventually(lambda: settler._count == 0)
            assert sum(since.rise("polls_total", resource=r, outcome="failed") for r in RESOURCES) == 3
            assert sum(since.rise("polls_total", resource=r, outcome="unchanged") for r in RESOURCES) == MANY
            settler.close()
            await running

    asyncio.run(main())


async def settling(store: Arms, *others: Pool) -> tuple[Settler, asyncio.Task[None]]:
    """A settler at work with MANY arms of orders that are not there any more, and three of each other pool."""
    settler = Settler(store, Planner(store, Policy(Cadence())), Books())
    pool = Pool("shared/ret_gone", 9, 3, 3, 1, 0.0, FIRST_FACTOR)
    polls = arms(random.Random(1), [pool], MANY)
    for other in others:
        polls[BATCH // 2 : BATCH // 2] = arms(random.Random(2), [other], 3)
    for arm, asked_ms in polls:
        settler.unchanged(arm, asked_ms, 0.01, "")
    return settler, asyncio.create_task(settler.run())
