"""A whole relay over a simulated upstream: real workers, a real store, a receiver that verifies; and what proves it."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from relay.embedded import EmbeddedStore
from relay.errors import StoreUnavailable
from relay.model.orders import Snapshot, Tracking
from relay.simulator.app import Simulator, SimulatorConfig
from relay.simulator.scenario import draft
from relay.vault import generate_master_key
from tests.support.rig import Rig, eventually, open_rig
from tests.support.workers import Workers


@dataclass
class Scene:
    rig: Rig
    simulator: Simulator
    workers: Workers
    store: EmbeddedStore
    added: int = 0

    def admit(self, count: int) -> list[str]:
        """More orders of the simulator's, that are shopped from now on; nobody tracks them yet."""
        now, names = self.simulator.tick(), []
        for _ in range(count):
            self.added += 1
            names.append(f"added-{self.added}")
            order = draft(names[-1], "user-1", self.simulator.config.seed)
            self.simulator.admit(order, now, start=now.simulated)
        return names

    @asynccontextmanager
    async def fed(self, count: int, every: float) -> AsyncIterator[None]:
        """New orders all along, so that there is something to find and to deliver however slow the machine is. In the
        end all are tracked, also those that came while the store was away."""
        stop = asyncio.Event()

        async def feed() -> None:
            names: list[str] = []
            while names or not stop.is_set():
                names = names or self.admit(count)
                with suppress(StoreUnavailable):
                    await self.rig.track(*names)
                    names = []
                with suppress(TimeoutError):
                    async with asyncio.timeout(every):
                        await stop.wait()

        feeding = asyncio.create_task(feed())
        try:
            yield
        finally:
            stop.set()
            await feeding

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
    with EmbeddedStore(tmp_path / "store") as store:
        async with open_scene_on(store.url, tmp_path, orders, speed, **settings) as scene:
            scene.store = store
            yield scene


@asynccontextmanager
async def open_scene_on(url: str, tmp_path: Path, orders: int, speed: float, **settings: str) -> AsyncIterator[Scene]:
    """A scene over a store that the test has started, and stops, freezes or fills by itself."""
    simulator = Simulator(SimulatorConfig(orders=orders, speed=speed, seed=5, static_token="good-token"))
    master_keys = generate_master_key("scene")
    async with open_rig(url, simulator.app, master_keys=master_keys) as rig:
        workers = Workers(url, master_keys, rig.upstream_url, tmp_path / "workers.log", **settings)
        await rig.subscribe()
        await rig.track(*simulator.world.orders)
        try:
            yield Scene(rig, simulator, workers, None)  # type: ignore[arg-type]
        finally:
            await asyncio.to_thread(workers.close)


async def patiently(condition: Any) -> bool:
    """A condition on a store that may be away just now."""
    try:
        return bool(await condition())
    except Exception:
        return False


async def finish(scene: Scene) -> None:
    """Every order comes to its end, everything is delivered, and all promises hold."""
    await eventually(lambda: patiently(scene.ended), within=90)
    await eventually(lambda: patiently(scene.rig.idle), within=30)
    await scene.prove()
