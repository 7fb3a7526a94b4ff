"""Processes stopped, killed and replaced under load: nothing is lost, and only a kill makes anything come twice."""

import asyncio
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from tests.support.rig import eventually
from tests.support.scenes import Scene, finish, open_scene
from tests.support.workers import unused_ports

pytestmark = pytest.mark.timeout(170)

ADMIN_KEY = "rly_admin_" + "0" * 32
#: A drain ends within this (seconds): 8 s for deliveries, 5 s for polls, and closing the clients.
DRAINED = 12.0
#: A lease as in production: who stops in order gives back what it holds, nobody waits for it to run out.
LEASE = "15s"


async def _stop(scene: Scene, process: subprocess.Popen[bytes]) -> float:
    """SIGTERM; the seconds until it ended, which it does with status 0."""
    began = time.monotonic()
    assert await asyncio.to_thread(scene.workers.stop, process, DRAINED) == 0
    return time.monotonic() - began


async def _answers(client: httpx.AsyncClient, url: str, status: int) -> bool:
    try:
        return (await client.get(url)).status_code == status
    except httpx.TransportError:
        return False


def test_sigterm_of_each_kind_of_process_under_load(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            open_scene(tmp_path, orders=25, speed=400, lease=LEASE) as scene,
            httpx.AsyncClient(trust_env=False) as client,
        ):
            workers = scene.workers
            port = unused_ports(1)[0]
            api = workers.start_api(port=str(port), admin_key=ADMIN_KEY)
            running = {kind: workers.start(kind) for kind in ("maintain", "poll", "deliver")}
            await eventually(lambda: len(scene.rig.receipts) > 20, within=60)
            await eventually(lambda: _answers(client, f"http://127.0.0.1:{port}/readyz", 200), within=30)
            took = {"api": await _stop(scene, api)}
            for kind, process in running.items():
                count = len(scene.rig.receipts)
                took[kind] = await _stop(scene, process)
                workers.start(kind)
                await eventually(lambda: len(scene.rig.receipts) > count, within=60)  # noqa: B023
            print("SIGTERM to exit, s:", {kind: round(seconds, 2) for kind, seconds in took.items()})
            await finish(scene)
            assert scene.rig.receiver.counters.duplicates == 0

    asyncio.run(main())


@pytest.mark.parametrize(("answers_after", "repeated"), [(5.0, False), (14.0, True)])
def test_sigterm_during_a_slow_delivery(tmp_path: Path, answers_after: float, repeated: bool) -> None:
    """One that ends within the drain deadline is recorded and not repeated; another comes again under the same id."""

    async def main() -> None:
        async with (
            open_scene(tmp_path, orders=3, speed=3_000, lease=LEASE) as scene,
            httpx.AsyncClient(trust_env=False) as client,
        ):
            counters = scene.rig.receiver.counters
            scene.rig.receiver.delay_s = answers_after
            scene.workers.start("maintain")
            scene.workers.start("poll")
            port = unused_ports(1)[0]
            worker = scene.workers.start("deliver", metrics_port=str(port))
            await eventually(lambda: counters.verified > 0, within=60)
            in_flight = counters.verified
            stopping = asyncio.create_task(_stop(scene, worker))
            await eventually(lambda: _answers(client, f"http://127.0.0.1:{port}/readyz", 503))
            assert await _answers(client, f"http://127.0.0.1:{port}/livez", 200)
            assert await stopping < DRAINED
            scene.rig.receiver.delay_s = 0
            assert counters.verified >= in_flight
            scene.workers.start("deliver")
            await finish(scene)
            assert (counters.duplicates > 0) is repeated
            assert counters.verified - counters.duplicates == len(scene.rig.receipts)

    asyncio.run(main())


def test_a_killed_worker_is_taken_over_within_lease_and_sweep(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_scene(tmp_path, orders=25, speed=300, lease="2s") as scene:
            workers = scene.workers
            workers.start("maintain")
            took = {}
            for kind in ("deliver", "poll"):
                workers.start("deliver" if kind == "poll" else "poll")
            victims = dict(zip(("poll", "deliver"), workers.running[1:], strict=True))
            await eventually(lambda: len(scene.rig.receipts) > 20, within=60)
            for kind in ("deliver", "poll"):
                await asyncio.to_thread(workers.kill, victims[kind])
                began, at = time.monotonic(), time.time()
                workers.start(kind)
                await eventually(lambda: _found_after(scene, at), within=40)  # noqa: B023
                took[kind] = round(time.monotonic() - began, 1)
            print("SIGKILL to the next event, s:", took)
            await finish(scene)
            assert scene.rig.receiver.counters.duplicates <= 64  # one worker's posts in flight

    asyncio.run(main())


def _found_after(scene: Scene, at: float) -> bool:
    return any(one.at - one.latency_ms / 1000 > at for one in scene.rig.receipts[-200:])


def test_a_rolling_restart_is_not_noticed(tmp_path: Path) -> None:
    """Two workers of a kind, each replaced in turn while about fifty events a second are found and delivered."""

    async def main() -> None:
        async with open_scene(tmp_path, orders=60, speed=350, lease=LEASE) as scene:
            workers = scene.workers
            fleet = [(kind, workers.start(kind)) for kind in ("maintain", "poll", "deliver") for _ in range(2)]
            await eventually(lambda: len(scene.rig.receipts) > 50, within=60)
            first, began = len(scene.rig.receipts), time.monotonic()
            for kind, process in fleet:
                workers.start(kind)
                await _stop(scene, process)
            took, seen = time.monotonic() - began, len(scene.rig.receipts)
            await finish(scene)
            latencies = sorted(one.latency_ms / 1000 for one in scene.rig.receipts[first:seen])
            p99 = latencies[len(latencies) * 99 // 100]
            print(
                f"rolling restart: {took:.1f} s, {len(latencies)} events, p99 {p99:.2f} s, worst {latencies[-1]:.2f} s"
            )
            assert len(latencies) > 100
            assert p99 < 2
            assert scene.rig.receiver.counters.duplicates == 0

    asyncio.run(main())
