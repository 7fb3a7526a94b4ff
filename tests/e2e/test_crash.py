"""Real processes over a real store: killed, stopped, cut off from Redis, and nothing is lost."""

import asyncio
import random
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from relay.embedded import EmbeddedStore
from relay.simulator.app import Simulator, SimulatorConfig
from relay.vault import generate_master_key
from tests.support.rig import eventually, open_rig
from tests.support.scenes import Scene, open_scene, patiently
from tests.support.workers import Workers, metric

pytestmark = pytest.mark.timeout(170)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_workers_killed_at_random_lose_nothing(tmp_path: Path) -> None:
    """Thousands of changes, two workers, one of them killed every second or so."""

    async def main() -> None:
        dice = random.Random(7)
        async with open_scene(tmp_path, orders=60, speed=450) as scene:
            workers = scene.workers
            for _ in range(2):
                workers.start()
            while not scene.simulated_all or workers.kills < 24:
                count = len(scene.rig.receipts)
                await asyncio.sleep(dice.uniform(0.5, 1.4))
                # A machine on which starting takes longer than that would never get anywhere.
                await eventually(lambda: len(scene.rig.receipts) > count or scene.simulated_all, within=30)  # noqa: B023
                await asyncio.to_thread(workers.kill, dice.choice(workers.running))
                workers.start()
            await eventually(scene.ended, within=60)
            await eventually(scene.rig.idle, within=30)

            assert workers.kills >= 24
            assert scene.simulator.report()["changes"] > 1_500
            await scene.prove()
            counters = scene.rig.receiver.counters
            assert counters.duplicates <= workers.kills * 64  # what is in flight, at most, per kill

    run(main())


def test_a_restart_of_redis_ends_no_worker_and_loses_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_scene(tmp_path, orders=6, speed=900) as scene:
            worker = scene.workers.start()
            await eventually(lambda: len(scene.rig.receipts) > 20, within=30)
            scene.store.restart()
            await eventually(_more_receipts(scene), within=25)
            scene.store.restart(kill=True)
            await eventually(_more_receipts(scene), within=25)
            await eventually(lambda: patiently(scene.ended), within=60)
            await eventually(lambda: patiently(scene.rig.idle), within=30)

            assert worker.poll() is None  # the same process all along
            await scene.prove()

    run(main())


def _more_receipts(scene: Scene) -> Any:
    count = len(scene.rig.receipts)
    return lambda: len(scene.rig.receipts) > count


def test_sigterm_finishes_what_is_in_flight_within_ten_seconds(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_scene(tmp_path, orders=6, speed=900) as scene:
            first = scene.workers.start()
            await eventually(lambda: len(scene.rig.receipts) > 10, within=30)
            began = time.monotonic()
            status = await asyncio.to_thread(scene.workers.stop, first)
            took = time.monotonic() - began
            verified = scene.rig.receiver.counters.verified

            assert status == 0
            assert took < 10
            assert await scene.rig.balanced()
            assert scene.rig.receiver.counters.duplicates == 0
            second = scene.workers.start()
            await eventually(lambda: scene.rig.receiver.counters.verified > verified, within=15)
            await eventually(scene.ended, within=60)
            await eventually(scene.rig.idle, within=30)
            assert scene.rig.receiver.counters.duplicates == 0
            await scene.prove()
            assert await asyncio.to_thread(scene.workers.stop, second) == 0

    run(main())


def test_the_loss_of_every_key_of_arq_stops_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_scene(tmp_path, orders=4, speed=900, slice="2s") as scene:
            scene.workers.start()
            for _ in range(3):
                await eventually(_more_receipts(scene), within=25)
                names = await scene.rig.admin.run("KEYS", "arq:*")
                if names:
                    await scene.rig.db.run("DEL", *names)
            await eventually(scene.ended, within=60)
            await eventually(scene.rig.idle, within=30)
            await scene.prove()

    run(main())


def test_a_worker_waits_for_redis_and_serves_its_health(tmp_path: Path, unused_port: int) -> None:
    async def main() -> None:
        simulator = Simulator(SimulatorConfig(orders=2, speed=900, static_token="good-token"))
        master_keys = generate_master_key("scene")
        with EmbeddedStore(tmp_path / "store") as store:
            async with open_rig(store.url, simulator.app, master_keys=master_keys) as rig:
                workers = Workers(store.url, master_keys, rig.upstream_url, tmp_path / "workers.log")
                await rig.subscribe()
                await rig.track(*simulator.world.orders)
                await rig.db.run("SAVE")
                await asyncio.to_thread(store.halt)
                try:
                    worker = workers.start(metrics_port=str(unused_port))
                    log = tmp_path / "workers.log"
                    await eventually(lambda: "worker.waiting_for_redis" in log.read_text(), within=20)
                    assert worker.poll() is None
                    await asyncio.to_thread(store.resume)
                    await eventually(lambda: len(rig.receipts) > 3, within=30)
                    assert await metric(unused_port, "relay_polls_total") > 0
                    assert await metric(unused_port, "relay_attempts_total") > 3
                    import httpx

                    async with httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{unused_port}") as client:
                        assert (await client.get("/livez")).status_code == 200
                        assert (await client.get("/readyz")).status_code == 200
                finally:
                    await asyncio.to_thread(workers.close)

    run(main())
