"""Deliver workers as real processes, killed, frozen and cut off while endpoints fail, hang and recover.

Afterwards the ledger balances, and every endpoint has every event: in order per order, each under one id and one
relay-sequence, and no number is missing.
"""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from relay.embedded import EmbeddedStore
from relay.errors import StoreUnavailable
from relay.model.keyring import Keyring
from relay.model.signing import Secret
from relay.store import keys
from relay.store.subscriptions import Configuration
from relay.vault import generate_master_key
from tests.pumps.test_delivering import change
from tests.support.moody import Moody, nap
from tests.support.rig import Rig, eventually, open_rig, serving
from tests.support.workers import Workers

pytestmark = pytest.mark.timeout(170)

ENDPOINTS = ("steady", "failing", "hanging", "resetting", "mixed")
ORDERS = 12
#: How long Redis is away, in seconds.
AWAY = float(os.environ.get("FAULT_SECONDS", "4"))


@dataclass
class Scene:
    rig: Rig
    moody: Moody
    workers: Workers
    store: EmbeddedStore
    committed: int = 0
    statuses: dict[str, int] = field(default_factory=dict)

    async def events(self, count: int) -> None:
        """So many further events, of all orders in turn."""
        for _ in range(count):
            order = f"o-{self.committed % ORDERS}"
            number = self.statuses[order] = self.statuses.get(order, 0) + 1
            await change(self.rig, order, f"status-{number}")
            self.committed += 1

    async def everything_arrived(self) -> bool:
        return all(len({row[2] for row in self.moody.taken[one].rows}) == self.committed for one in ENDPOINTS)

    async def prove(self, repeats: int) -> None:
        """Wait until all has arrived, and check all promises; `repeats` bounds what an endpoint got twice."""
        await eventually(self.everything_arrived, within=60)
        await eventually(self.rig.idle, within=30)
        assert await eventually(self.rig.balanced)
        for name in ENDPOINTS:
            taken = self.moody.taken[name]
            assert taken.problems() == [], name
            assert taken.repeats <= repeats, name
        assert [account.dead + account.skipped for account in await self.rig.accounts()] == [0] * len(ENDPOINTS)


@asynccontextmanager
async def open_scene(tmp_path: Path, dice: random.Random) -> AsyncIterator[Scene]:
    master_keys = generate_master_key("scene")
    moody = Moody(dice)
    with EmbeddedStore(tmp_path / "store") as store:
        async with open_rig(store.url, master_keys=master_keys) as rig, serving(moody) as url:
            settings = {"delivery_timeout": "700ms", "retry_schedule": "100ms,200ms,400ms", "deliver_pumps": "2"}
            workers = Workers(store.url, master_keys, rig.upstream_url, tmp_path / "workers.log", **settings)
            for name in ENDPOINTS:
                secret = moody.secrets[name] = Secret.new()
                await rig.subscriptions.create(
                    rig.retailer_id, Configuration(f"{url}/{name}"), keyring=Keyring.new(secret), start="0-0"
                )
            try:
                yield Scene(rig, moody, workers, store)
            finally:
                await asyncio.to_thread(workers.close)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_workers_killed_at_random_while_endpoints_fail_hang_and_recover(tmp_path: Path) -> None:
    async def main() -> None:
        dice = random.Random(11)
        async with open_scene(tmp_path, dice) as scene:
            scene.workers.start("maintain")
            delivering = [scene.workers.start("deliver") for _ in range(2)]
            moods = {"failing": "fail", "hanging": "hang", "resetting": "reset", "mixed": "mixed"}
            while scene.workers.kills < 10:
                # Each endpoint is ill now and then; the mixed one always, until the end.
                ill = {name: mood for name, mood in moods.items() if name == "mixed" or dice.random() < 0.6}
                scene.moody.moods = dict.fromkeys(ENDPOINTS, "ok") | ill
                await scene.events(15)
                await nap(dice, 0.3, 0.9)
                victim = delivering.pop(dice.randrange(2))
                await asyncio.to_thread(scene.workers.kill, victim)
                delivering.append(scene.workers.start("deliver"))
            scene.moody.mend()

            await scene.prove(repeats=scene.workers.kills * 64)

    run(main())


def test_two_workers_that_both_believe_they_own_a_subscription(tmp_path: Path) -> None:
    """The owner is frozen for longer than its lease, another takes over, and the first one wakes up."""

    async def main() -> None:
        dice = random.Random(13)
        async with open_scene(tmp_path, dice) as scene:
            frozen = scene.workers.start("deliver", deliver_pumps="1")
            scene.workers.start("maintain", deliver_pumps="1")
            await scene.events(12)
            await eventually(scene.everything_arrived, within=30)
            for _ in range(3):
                await scene.events(30)
                await nap(dice, 0.0, 0.05)
                fences = await _fences(scene.rig)
                frozen.send_signal(signal.SIGSTOP)
                other = scene.workers.start("deliver", deliver_pumps="1")
                await scene.events(30)
                taken_over = await eventually(lambda: _taken_over(scene.rig, fences), within=30)  # noqa: B023
                assert taken_over
                frozen.send_signal(signal.SIGCONT)
                await scene.events(30)
                await eventually(scene.everything_arrived, within=30)
                # Only one remains, so that the next to be frozen is surely the owner.
                await asyncio.to_thread(scene.workers.stop, frozen)
                frozen = other

            await scene.prove(repeats=3 * 64)

    run(main())


async def _fences(rig: Rig) -> list[int]:
    ids = await rig.db.run("ZRANGE", keys.subscriptions(rig.retailer_id), 0, -1)
    return [int(await rig.db.run("HGET", keys.subscription(raw.decode()), "fence") or 0) for raw in ids]


async def _taken_over(rig: Rig, before: list[int]) -> bool:
    return any(now > was for now, was in zip(await _fences(rig), before, strict=True))


def test_redis_away_for_seconds_under_load(tmp_path: Path) -> None:
    """And restarted once before and once after that, while events are committed and delivered."""

    async def main() -> None:
        dice = random.Random(17)
        async with open_scene(tmp_path, dice) as scene:
            processes = [scene.workers.start("maintain"), scene.workers.start("deliver")]
            scene.moody.moods = dict.fromkeys(ENDPOINTS, "ok") | {"mixed": "mixed", "hanging": "hang"}
            await scene.events(40)
            await asyncio.to_thread(scene.store.restart)
            await _patiently(scene, 40)
            await asyncio.to_thread(scene.store.halt)
            await asyncio.sleep(AWAY)  # the fault itself, not a wait for something
            await asyncio.to_thread(scene.store.restart)
            await _patiently(scene, 40)
            await asyncio.to_thread(scene.store.restart, kill=True)
            await _patiently(scene, 40)
            scene.moody.mend()

            await _until_it_answers(scene)
            await scene.prove(repeats=4 * 64)
            assert [process.poll() for process in processes] == [None, None]  # the same ones all along

    run(main())


async def _patiently(scene: Scene, count: int) -> None:
    """Commit events while the store comes back; one whose commit failed or was not answered is looked at anew."""
    target = scene.committed + count
    while scene.committed < target:
        with suppress(StoreUnavailable):
            await scene.events(1)
            continue
        order = f"o-{scene.committed % ORDERS}"
        await _until_it_answers(scene)
        # Whether the commit arrived is for the state to say: its sequence counts the events.
        state = await scene.rig.orders.load_state(scene.rig.retailer_id, order)  # type: ignore[arg-type]
        if state is not None and state.sequence == scene.statuses[order]:
            scene.committed += 1
        else:
            scene.statuses[order] -= 1


async def _until_it_answers(scene: Scene) -> None:
    async def answers() -> bool:
        with suppress(StoreUnavailable):
            return bool(await scene.rig.db.run("PING"))
        return False

    await eventually(answers, within=30)
