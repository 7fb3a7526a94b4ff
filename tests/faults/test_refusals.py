"""Upstream refuses everything for a whole minute: the budget holds in every second of it, and recovery is complete."""

import asyncio
import os

import pytest

from tests.pumps.test_pressure import ARRIVAL_SLACK, FAST, Crowd, let_pass, track
from tests.support.rig import Answer, eventually, open_rig

pytestmark = pytest.mark.timeout(150)

#: How long upstream refuses (seconds).
SECONDS = float(os.environ.get("POLL_FAULT_SECONDS", "60"))
#: Few orders: after a minute of refusals the rate climbs from a fiftieth of the budget, and all is read again at that.
BUDGET, ORDERS = 100, 4


def test_a_minute_of_429_costs_neither_the_budget_nor_a_change(redis_url: str) -> None:
    async def main() -> None:
        upstream = Crowd()
        async with open_rig(redis_url, upstream) as rig:
            await rig.arms.set_rate("shared", BUDGET)
            names = await track(rig, ORDERS)

            async def all_show(status: str) -> bool:
                return all([(await rig.state(name)).snapshot.status == status for name in names])

            rig.poll(FAST)
            await eventually(lambda: all_show("picking"))
            upstream.refusing = Answer(status=429, headers={"retry-after": "5"})
            window = await let_pass(SECONDS)
            refused = upstream.rate(*window)
            assert await all_show("picking")  # no refusal passed for a reading

            upstream.refusing = None
            upstream.handling = Answer({"status": "staging"})
            await eventually(lambda: all_show("staging"), within=60)
            assert upstream.most_in_a_second() <= BUDGET * ARRIVAL_SLACK
            assert refused < BUDGET / 5  # a look after each pause, not a request a turn

    asyncio.run(main())
