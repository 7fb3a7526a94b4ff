"""Upstream refuses everything for a whole minute: the budget holds in every second of it, and recovery is complete."""

import asyncio
import itertools
import os

import pytest

from tests.pumps.test_pressure import FAST, Crowd, let_pass, track
from tests.support.budget import held
from tests.support.rig import Answer, eventually, open_rig

pytestmark = pytest.mark.timeout(300)

#: How long upstream refuses (seconds).
SECONDS = float(os.environ.get("POLL_FAULT_SECONDS", "60"))
#: Few orders: after a minute of refusals the rate climbs from a fiftieth of the budget, and all is read again at that.
BUDGET, ORDERS = 100, 4


@pytest.mark.parametrize("headers", [{"retry-after": "5"}, {}], ids=["retry-after", "plain"])
def test_a_minute_of_429_costs_neither_the_budget_nor_a_change(redis_url: str, headers: dict[str, str]) -> None:
    async def main() -> None:
        upstream = Crowd()
        async with open_rig(redis_url, upstream) as rig:
            await rig.arms.set_rate("shared", BUDGET)
            names = await track(rig, ORDERS)

            async def all_show(status: str) -> bool:
                states = [await rig.state(name) for name in names]
                return all(state.snapshot.status == status and state.trouble is None for state in states)

            rig.poll(FAST)
            await eventually(lambda: all_show("picking"))
            upstream.refusing = Answer(status=429, headers=headers)
            began, ended = await let_pass(SECONDS)
            asked = [at for at, _ in upstream.times if began <= at < ended]
            snapshots = [(await rig.state(name)).snapshot.status for name in names]
            assert snapshots == ["picking"] * ORDERS  # no refusal passed for a reading

            pauses = [after - before for before, after in itertools.pairwise([*asked, ended])]
            assert len(asked) < SECONDS * BUDGET / 5  # a look after each pause, not a request a turn
            if headers:
                assert max(pauses[:-1]) >= 4.9  # as long as upstream asked for
            else:  # twice as long each time: 1, 2, 4, 8 and 16 seconds, and the one that the minute ends in
                assert max(pauses) > SECONDS / 5
                assert sum(at < began + SECONDS / 2 for at in asked) > 0.6 * len(asked)

            upstream.refusing = None
            upstream.handling = Answer({"status": "staging"})
            await eventually(lambda: all_show("staging"), within=150)
            rate = upstream.last_second()
            assert rate <= BUDGET / 2  # it begins low
            await eventually(lambda: upstream.last_second() > rate, within=30)  # and grows
            held(rig.engine, upstream.traffic, BUDGET)

    asyncio.run(main())
