"""Processes stopped, killed and replaced under load: nothing is lost, and only a kill makes anything come twice."""

import asyncio
import time
from pathlib import Path

import pytest

from relay.receiver import Receipt
from relay.store.log import ordinal
from tests.support.fleet import Fleet, Member, found_after, open_fleet
from tests.support.rig import eventually
from tests.support.scenes import Scene, finish, open_scene
from tests.support.workers import metric

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("busy")]

#: The grace time: a drain ends within it (seconds): 15 s for deliveries, 5 s for polls, 30 s for requests to the API.
#: Kubernetes gives 60 (docs/operations.md).
GRACE = 45.0
#: A lease as in production: who stops in order gives back what it holds, nobody waits for it to run out.
LEASE = "15s"
#: Simulated seconds a second: an order is shopped within seconds, and new ones come all along.
SPEED = 1_500
KINDS = ("maintain", "poll", "deliver")
#: What a process of each kind has done, or does.
WORK = {"poll": "relay_polls_total", "deliver": "relay_attempts_total", "maintain": "relay_pump_slots_busy"}


def test_sigterm_of_each_kind_of_process_under_load(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            open_scene(tmp_path, orders=20, speed=SPEED, lease=LEASE) as scene,
            open_fleet(scene, *KINDS, "api") as fleet,
        ):
            async with scene.fed(2, 1.0):
                took = {}
                for member in list(fleet.members):
                    took[member.kind] = await fleet.stop(member, GRACE)
                    began = time.time()
                    fleet.start(member.kind)
                    await eventually(lambda: found_after(scene, began), within=60)  # noqa: B023
                print("SIGTERM to exit, s:", {kind: round(seconds, 2) for kind, seconds in took.items()})
            await finish(scene)
            assert scene.rig.receiver.counters.duplicates == 0

    asyncio.run(main())


def test_sigterm_during_a_slow_delivery(tmp_path: Path) -> None:
    """It ends within its time-out, is recorded, and not repeated."""

    async def main() -> None:
        async with open_scene(tmp_path, orders=3, speed=3_000, lease=LEASE) as scene:
            counters = scene.rig.receiver.counters
            scene.rig.receiver.delay_s = 10
            async with open_fleet(scene, *KINDS, received=1) as fleet:
                worker = next(one for one in fleet.members if one.kind == "deliver")
                in_flight = counters.verified
                stopping = asyncio.create_task(fleet.stop(worker, GRACE))
                await eventually(lambda: _status(fleet, worker, "/readyz", 503))
                assert await fleet.status(worker, "/livez") == 200
                print(f"SIGTERM to exit during a delivery that takes 10 s: {await stopping:.1f} s")
                scene.rig.receiver.delay_s = 0
                assert counters.verified >= in_flight
                fleet.start("deliver")
                await finish(scene)
                assert counters.duplicates == 0
                assert counters.verified == len(scene.rig.receipts)

    asyncio.run(main())


async def _status(fleet: Fleet, member: Member, path: str, status: int) -> bool:
    return await fleet.status(member, path) == status


def test_a_killed_worker_is_taken_over_by_its_running_peer(tmp_path: Path) -> None:
    """Two of each kind; the one that works is killed. Its peer takes over when the lease has run out, and new things
    are found and delivered. Of what had been delivered only that comes again which nobody had written down."""

    async def main() -> None:
        async with (
            open_scene(tmp_path, orders=20, speed=SPEED, lease="3s", deliver_pumps="1", poll_pumps="1") as scene,
            open_fleet(scene, *KINDS, *KINDS) as fleet,
        ):
            repeats = _repeats(scene)
            recorded: set[str] = set()
            took = {}
            async with scene.fed(2, 1.0):
                for kind in KINDS:
                    victim = await eventually(lambda: _at_work(fleet, kind), within=60)  # noqa: B023
                    (peer,) = (one for one in fleet.members if one.kind == kind and one is not victim)
                    done = await metric(peer.port, WORK[kind])
                    await fleet.kill(victim)
                    began, at = time.monotonic(), time.time()
                    recorded |= await _recorded(scene)
                    await eventually(lambda: _more(peer, done), within=60)  # noqa: B023
                    await eventually(lambda: found_after(scene, at), within=60)  # noqa: B023
                    took[kind] = round(time.monotonic() - began, 1)
                    fleet.start(kind)
                    await eventually(fleet.ready, within=60)
                print("SIGKILL to the peer's next work, lease 3 s, s:", took)
            await finish(scene)
            print(f"{len(repeats)} of {len(scene.rig.receipts)} events came twice")
            assert recorded
            assert not recorded & repeats

    asyncio.run(main())


async def _at_work(fleet: Fleet, kind: str) -> Member | None:
    """The process of a kind that does something just now."""
    members = [one for one in fleet.members if one.kind == kind]
    before = [await metric(one.port, WORK[kind]) for one in members]
    if kind == "maintain":
        return next((one for one, busy in zip(members, before, strict=True) if busy), None)
    await asyncio.sleep(0.3)
    for one, count in zip(members, before, strict=True):
        if await metric(one.port, WORK[kind]) > count:
            return one
    return None


async def _more(member: Member, done: float) -> bool:
    return await metric(member.port, WORK[member.kind]) > done


def _repeats(scene: Scene) -> set[str]:
    """The ids of events that come twice from here on."""
    found: set[str] = set()
    note = scene.rig.receiver.on_receipt
    assert note is not None

    def noting(receipt: Receipt) -> None:
        if not receipt.first:
            found.add(receipt.event["id"])
        note(receipt)

    scene.rig.receiver.on_receipt = noting
    return found


async def _recorded(scene: Scene) -> set[str]:
    """What the store says was delivered: events up to the subscription's position."""
    (one,) = await scene.rig.subscriptions.all(scene.rig.retailer_id)
    entries = await scene.rig.log.after(scene.rig.retailer_id, "0-0", 100_000)
    return {entry.event_id for entry in entries if ordinal(entry.position) <= ordinal(one.position)}


def test_a_rolling_restart_is_not_noticed(tmp_path: Path) -> None:
    """Two processes of each kind and of the API, each replaced in turn by one that is ready before the old one is told
    to stop. Events are found and orders registered through the API all along, and counted until the last one of the
    time of the restart has arrived."""

    async def main() -> None:
        async with (
            open_scene(tmp_path, orders=20, speed=SPEED, lease=LEASE) as scene,
            open_fleet(scene, *KINDS, "api", *KINDS, "api") as fleet,
        ):
            log, retailer = scene.rig.log, scene.rig.retailer_id
            headers = await fleet.retailer_key(retailer)
            arrived: dict[str, float] = {one.event["id"]: one.at for one in scene.rig.receipts}
            note = scene.rig.receiver.on_receipt
            assert note is not None

            def noting(receipt: Receipt) -> None:
                arrived.setdefault(receipt.event["id"], receipt.at)
                note(receipt)

            scene.rig.receiver.on_receipt = noting
            async with fleet.registering(headers, 3, 1.0) as registered:
                await eventually(lambda: len(registered) > 3, within=60)
                position, began = await log.last_position(retailer), time.monotonic()
                for old in list(fleet.members):
                    new = fleet.start(old.kind)
                    await eventually(lambda: fleet.ready(new), within=60)  # noqa: B023
                    await fleet.stop(old, GRACE)
                took, count = time.monotonic() - began, len(registered)
                await eventually(lambda: len(registered) > count + 3, within=60)
                until = await log.last_position(retailer)
                entries = await log.after(retailer, position, 100_000)
                window = [one for one in entries if ordinal(one.position) <= ordinal(until)]
                await eventually(lambda: all(one.event_id in arrived for one in window), within=60)
            latencies = sorted(arrived[one.event_id] - one.committed_ms / 1000 for one in window)
            p99 = latencies[len(latencies) * 99 // 100]
            print(
                f"rolling restart: {took:.1f} s, {len(latencies)} events, p99 {p99:.2f} s, worst {latencies[-1]:.2f} s,"
                f" {len(registered)} orders registered meanwhile, {fleet.retried} requests sent again"
            )
            await finish(scene)
            started = [one["data"]["order_id"] for one in await scene.rig.events() if one["data"]["sequence"] == 1]
            assert sorted(started) == sorted(scene.simulator.world.orders)
            assert scene.rig.receiver.counters.duplicates == 0
            assert len(latencies) > 200
            assert p99 < 2

    asyncio.run(main())
