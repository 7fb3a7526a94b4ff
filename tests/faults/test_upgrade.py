"""From one release to the next over one store, without a pause: what the old one wrote the new one reads, both work
side by side, and the step back is as good as the step forward."""

import asyncio
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relay.embedded import EmbeddedStore
from relay.model.orders import OrderId, RetailerId
from relay.model.signing import Secret
from relay.store import keys
from relay.store.ledger import Ledger
from tests.support.rig import eventually, open_rig
from tests.support.scenes import Scene, finish, open_scene
from tests.support.workers import PREVIOUS, Workers

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("busy")]

EXPECTED: dict[str, Any] = json.loads((PREVIOUS.parent / "expected.json").read_text())
#: Retention and attempts of the fixture's events are not what is tested: they are as old as the fixture.
FOR_EVER = "900000h"


def test_what_the_previous_release_wrote_is_read_and_delivered(tmp_path: Path) -> None:
    with tarfile.open(PREVIOUS.parent / "store.tar.gz") as archive:
        archive.extractall(tmp_path / "store", filter="data")
    retailer, master_keys = RetailerId(EXPECTED["retailer"]), EXPECTED["master_keys"]
    delivered, waiting = EXPECTED["delivered_to"], EXPECTED["waiting_for"]

    async def main() -> None:
        with EmbeddedStore(tmp_path / "store") as store:
            async with open_rig(store.url, master_keys=master_keys) as rig:
                for order_id, known in EXPECTED["orders"].items():
                    state = await rig.orders.load_state(retailer, OrderId(order_id))
                    assert state is not None
                    snapshot = state.snapshot
                    assert (snapshot.status, state.sequence) == (known["status"], known["sequence"])
                    assert state.tracking.value == known["tracking"]
                    parts = [snapshot.handling, snapshot.items, snapshot.messages]
                    assert msgspec.to_builtins(parts) == known["snapshot"]
                ledger = Ledger(rig.db, rig.log)
                accounts = {one.subscription_id: one for one in await ledger.audit(retailer)}
                for name, numbers in EXPECTED["accounts"].items():
                    assert accounts[name].balanced
                    assert {field: getattr(accounts[name], field) for field in numbers} == numbers
                assert len(await rig.log.after(retailer, "0-0", 1000)) == EXPECTED["events"]

                rig.receiver.secrets += [Secret.parse(text) for text in EXPECTED["secrets"]]
                before = await rig.subscriptions.get(retailer, waiting)
                mended = replace(before.configuration, url=f"{rig.receiver_url}/mended")
                await rig.subscriptions.amend(retailer, before, mended)
                workers = Workers(store.url, master_keys, rig.upstream_url, tmp_path / "workers.log")
                process = workers.start("deliver", retention_events=FOR_EVER)
                owed = EXPECTED["accounts"][waiting]["waiting"]
                await eventually(lambda: rig.receiver.counters.verified >= owed, within=60)

                async def settled() -> bool:
                    return all(one.waiting == 0 and one.balanced for one in await ledger.audit(retailer))

                await eventually(settled, within=30)
                assert await asyncio.to_thread(workers.stop, process) == 0
                counters = rig.receiver.counters
                assert (counters.duplicates, counters.out_of_order, counters.refused) == (0, 0, 0)
                for order_id, known in EXPECTED["orders"].items():
                    assert rig.folds[order_id].sequence == known["sequence"]
                assert await rig.db.run("HGET", keys.LAYOUT, "format") == b"1"
                assert delivered in {one.subscription_id for one in await ledger.audit(retailer)}

    asyncio.run(main())


@pytest.mark.parametrize("first", ["previous", "current"], ids=["forward", "back"])
def test_two_releases_work_over_one_store(tmp_path: Path, first: str) -> None:
    """A rolling upgrade, or its undoing, under load: both run for a while, then only the other one. (The previous
    release never ends an order that it sees for the first time when that is over, so none waits for it to begin.)"""

    async def main() -> None:
        async with open_scene(tmp_path, orders=8, speed=1000, lease="5s") as scene:
            start, follow = scene.workers.start_previous, scene.workers.start
            if first == "current":
                start, follow = follow, start
            async with scene.fed(1, 1.0):
                leaving = start()
                await _receives(scene, 20)
                joining = follow()
                await eventually(lambda: scene.workers.logs.read_text().count("worker.started") == 2, within=60)
                await _receives(scene, 60)
                assert leaving.poll() is None
                assert joining.poll() is None
                assert await asyncio.to_thread(scene.workers.stop, leaving, 15.0) == 0
            await finish(scene)
            assert scene.rig.receiver.counters.duplicates == 0

    asyncio.run(main())


async def _receives(scene: Scene, more: int) -> None:
    count = len(scene.rig.receipts)
    await eventually(lambda: len(scene.rig.receipts) >= count + more, within=60)
