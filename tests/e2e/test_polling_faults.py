"""Poll workers as real processes under a budget, killed and cut off while upstream does everything at once.

Afterwards every order has been followed to its end, what its events tell is what upstream served last, and the budget
held in every second, as upstream counted it.
"""

import asyncio
import os
import random
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from relay.simulator.faults import parse
from relay.store import keys
from tests.support.budget import at_most
from tests.support.rig import eventually
from tests.support.scenes import Scene, open_scene

pytestmark = pytest.mark.timeout(max(170, 2 * float(os.environ.get("POLL_SECONDS", "0")) + 300))

BUDGET = 150
#: Workers that start and are killed on two cores hold each other's requests up for longer than a network does: so long
#: at most (seconds). Where nothing does, the budget holds to the request (tests/e2e/test_upstream_faults.py).
HELD_UP = 0.05
#: Orders, and seconds at full fault: `POLL_ORDERS=10000 POLL_SECONDS=600` is the long run (docs/performance.md).
ORDERS = int(os.environ.get("POLL_ORDERS", "40"))


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


async def finish(scene: Scene) -> None:
    scene.simulator.faults.clear()
    await eventually(lambda: scene.simulated_all, within=90)
    await eventually(scene.ended, within=60)
    await eventually(scene.rig.idle, within=30)
    await scene.prove()


def test_the_budget_holds_while_workers_are_killed_and_upstream_fails_in_every_way(tmp_path: Path) -> None:
    async def main() -> None:
        dice = random.Random(23)
        async with open_scene(tmp_path, orders=ORDERS, speed=400, upstream_timeout="700ms") as scene:
            await scene.rig.arms.set_rate(keys.SHARED_CREDENTIAL, BUDGET)
            for _ in range(2):
                scene.workers.start()
            await eventually(lambda: scene.simulator.traffic.total > 100, within=30)
            for fault in ("429:0.5", "timeout:0.3", "latency:300ms:0.5", "503:0.5", "cut:0.5", "error-200:0.5"):
                scene.simulator.faults.clear()
                scene.simulator.faults.add(parse(fault), scene.simulator.clock.now().wall)
                await asyncio.sleep(dice.uniform(0.8, 1.2))  # the fault lasts
                await asyncio.to_thread(scene.workers.kill, scene.workers.running[0])
                scene.workers.start()
            scene.simulator.faults.clear()
            await finish(scene)

            assert scene.workers.kills == 6
            assert scene.simulator.traffic.max_in_a_second <= at_most(BUDGET, HELD_UP)

    run(main())


def test_redis_restarted_under_a_budget(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_scene(tmp_path, orders=10, speed=600) as scene:
            await scene.rig.arms.set_rate(keys.SHARED_CREDENTIAL, BUDGET)
            scene.workers.start()
            await eventually(lambda: scene.simulator.traffic.total > 100, within=30)
            await asyncio.to_thread(scene.store.restart)
            total = scene.simulator.traffic.total
            await eventually(lambda: scene.simulator.traffic.total > total + 100, within=30)
            await asyncio.to_thread(scene.store.restart, kill=True)
            await finish(scene)

            assert scene.simulator.traffic.max_in_a_second <= at_most(BUDGET, HELD_UP)

    run(main())
