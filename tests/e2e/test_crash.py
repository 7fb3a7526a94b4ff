"""Real processes over a real store: killed, stopped, cut off from Redis, and nothing is lost."""

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relay.embedded import EmbeddedStore
from relay.model.orders import Snapshot, Tracking
from relay.simulator.app import Simulator, SimulatorConfig
from relay.vault import generate_master_key
from tests.support.rig import Rig, eventually, open_rig
from tests.support.workers import Workers, metric

pytestmark = pytest.mark.timeout(170)


@dataclass
class Scene:
    rig: Rig
    simulator: Simulator
    workers: Workers
    store: EmbeddedStore

    @property
    def simulated_all(self) -> bool:
        self.simulator.tick()
        return all(order.ended for order in self.simulator.world.orders.values())

    async def ended(self) -> bool:
        """The relay has seen every order to its end."""
        names = list(self.simulator.world.orders)
        states = await asyncio.gather(*(self.rig.state(name) for name in names))
        return all(state.tracking is Tracking.ENDED for state in states)

    async def prove(self) -> None:
        """Nothing lost, nothing out of order, the ledger balanced, the receiver's picture that of the upstream."""
        report = msgspec.to_builtins(self.simulator.report())
        for order_id, order in report["orders"].items():
            answers = order["answers"]
            seen = Snapshot(answers["handling"], answers["items"], answers["messages"])
            assert self.rig.folds[order_id].differences(seen) == [], order_id
            assert self.rig.folds[order_id].sequence == (await self.rig.state(order_id)).sequence
        assert self.rig.receiver.counters.out_of_order == 0
        assert self.rig.receiver.counters.refused == 0
        assert self.rig.receiver.gaps() == []
        audit = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "relay", "audit"],
            env=self.workers.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert audit.returncode == 0, audit.stdout + audit.stderr
        assert "the ledger balances" in audit.stdout
        logged = self.workers.logs.read_text()
        secrets = [secret.text for secret in self.rig.receiver.secrets] + ["good-token"]
        secrets.append(self.workers.environment["RELAY_MASTER_KEYS"].partition(":")[2])
        assert not [secret for secret in secrets if secret in logged or secret.removeprefix("whsec_") in logged]


@asynccontextmanager
async def open_scene(tmp_path: Path, orders: int, speed: float, **settings: str) -> AsyncIterator[Scene]:
    simulator = Simulator(SimulatorConfig(orders=orders, speed=speed, seed=5, static_token="good-token"))
    master_keys = generate_master_key("scene")
    with EmbeddedStore(tmp_path / "store") as store:
        async with open_rig(store.url, simulator.app, master_keys=master_keys) as rig:
            workers = Workers(store.url, master_keys, rig.upstream_url, tmp_path / "workers.log", **settings)
            await rig.subscribe()
            await rig.track(*simulator.world.orders)
            try:
                yield Scene(rig, simulator, workers, store)
            finally:
                await asyncio.to_thread(workers.close)


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
                await asyncio.sleep(dice.uniform(0.5, 1.4))
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
            await eventually(lambda: _patiently(scene.ended), within=60)
            await eventually(lambda: _patiently(scene.rig.idle), within=30)

            assert worker.poll() is None  # the same process all along
            await scene.prove()

    run(main())


def _more_receipts(scene: Scene) -> Any:
    count = len(scene.rig.receipts)
    return lambda: len(scene.rig.receipts) > count


async def _patiently(condition: Any) -> bool:
    """A condition on a store that may be away just now."""
    try:
        return bool(await condition())
    except Exception:
        return False


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
                names = await scene.rig.db.run("KEYS", "arq:*")
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
