"""Processes whose wall clocks are minutes apart, over one store: what is due, who holds what and what receivers verify
goes by Redis' clock, and nobody waits for somebody else's."""

import asyncio
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.fleet import Fleet, Member, found_after, open_fleet, order
from tests.support.rig import eventually
from tests.support.scenes import finish, open_scene
from tests.support.workers import metric

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("busy")]

#: How far a receiver lets a signature's timestamp be off, and twice that: how far a wrong clock is ahead (seconds). Who
#: is behind misses the rings of those who are right, and whose are missed is ahead of them.
TOLERANCE = 300
SKEW = {"poll": -600, "deliver": 600, "maintain": 600, "api": -600}
WORKING = ("poll", "deliver")


def test_a_wrong_clock_beside_a_right_one(tmp_path: Path) -> None:
    """Workers with a right and a wrong clock hand work to each other every few seconds. Then the right ones are killed,
    and a right sweep wakes the others; then those, and a wrong sweep wakes right ones."""

    async def main() -> None:
        async with (
            open_scene(tmp_path, orders=10, speed=1_500, lease="6s", slice="3s") as scene,
            open_fleet(scene, "maintain", "api", *WORKING) as fleet,
        ):
            async with scene.fed(2, 1.0):
                sweep, api, *right = fleet.members
                wrong = [fleet.start(kind, skew=SKEW[kind]) for kind in WORKING]
                await eventually(fleet.ready, within=60)
                for member in [*wrong, *right]:
                    await eventually(lambda: _works(member, 1), within=60)  # noqa: B023
                    off = await metric(member.port, "relay_worker_heartbeat_timestamp_seconds") - time.time()
                    assert (
                        abs(off - (SKEW[member.kind] if member in wrong else 0)) < TOLERANCE
                    )  # it is as wrong as it has to be
                await _goes_on(fleet)
                assert scene.rig.receiver.counters.duplicates == 0

                other = fleet.start("api", skew=SKEW["api"])
                await eventually(lambda: fleet.ready(other), within=60)
                for member in [*right, api]:
                    await fleet.kill(member)
                print(f"wrong clocks: took over after {await _all_work(fleet, wrong):.1f} s")
                (name,) = scene.admit(1)
                headers = await fleet.retailer_key(scene.rig.retailer_id)
                assert (await fleet.insist("/v1/orders", order(name), headers)).status_code == 201
                await eventually(lambda: name in scene.rig.folds, within=60)

                fresh = [fleet.start(kind) for kind in WORKING]
                fleet.start("maintain", skew=SKEW["maintain"])
                await eventually(fleet.ready, within=60)
                for member in [*wrong, sweep]:
                    await fleet.kill(member)
                print(f"wrong sweep: the right ones took over after {await _all_work(fleet, fresh):.1f} s")
            await finish(scene)  # nothing lost, in order, no signature refused, the ledger balanced
            for one in scene.rig.receipts:
                told = datetime.fromisoformat(one.event["timestamp"]).timestamp()
                assert abs(one.at - told) < TOLERANCE

    asyncio.run(main())


async def _works(member: Member, slots: int) -> bool:
    return await metric(member.port, "relay_pump_slots_busy") >= slots


async def _all_work(fleet: Fleet, members: list[Member]) -> float:
    """Seconds until these fill both slots of their kind, and something arrives that was found after that."""
    began = time.monotonic()
    for member in members:
        await eventually(lambda: _works(member, 2), within=60)  # noqa: B023
    await _goes_on(fleet)
    return time.monotonic() - began


async def _goes_on(fleet: Fleet) -> None:
    now = time.time()
    await eventually(lambda: found_after(fleet.scene, now), within=60)
