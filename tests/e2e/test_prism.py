"""An upstream that nobody here wrote: Prism, answering every poll with random data valid against the specification."""

import asyncio
import os
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from relay.model.cadence import Cadence
from relay.model.lifecycle import Policy
from relay.upstream.specification import Specification
from tests.support.node import install
from tests.support.rig import eventually, open_rig

SPECIFICATION = Path(__file__).parent.parent / "data" / "post-checkout-openapi.yaml"
#: Seconds of polling; `make prism` asks for a minute.
SECONDS = float(os.environ.get("PRISM_SECONDS", "12"))


@pytest.mark.skipif(shutil.which("npm") is None, reason="Node is not on this machine")
@pytest.mark.timeout(SECONDS + 160)
def test_random_valid_answers_are_all_handled_and_the_fold_agrees(redis_url: str, unused_port: int) -> None:
    folder = install(Path(__file__).parent.parent / "node" / "prism")
    command = ["node", "node_modules/.bin/prism", "mock", "-d", "-h", "127.0.0.1", "-p", str(unused_port)]
    prism = subprocess.Popen(
        [*command, str(SPECIFICATION)], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        asyncio.run(watch(redis_url, f"http://127.0.0.1:{unused_port}"))
    finally:
        prism.terminate()
        prism.wait(timeout=10)


async def watch(redis_url: str, url: str) -> None:
    async def up() -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(url)).status_code > 0
        except httpx.TransportError:
            return False

    await eventually(up, within=60)
    async with open_rig(redis_url, deadline=10) as rig:
        rig.upstream_url = url
        names = [f"o-{number}" for number in range(8)]
        await rig.subscribe()
        await rig.track(*names)
        policy = Policy(Cadence(scale=0.01, floor=0.15), confirm_after_ms=300)
        pump = rig.poll(policy, dialect=Specification(any_order=True))
        rig.deliver()
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            await asyncio.sleep(0.5)
            for name in [name for name in names if (await rig.state(name)).tracking == "ended"]:
                names.append(f"{name}x")  # random answers end orders too: follow another instead
                await rig.track(f"{name}x")
                names.remove(name)
        await rig.stop()
        rig.deliver()
        await eventually(rig.idle, within=30)
        await rig.stop()

        assert pump.tally["changed"] > 20
        assert pump.tally["failed"] == 0
        assert set(pump.tally) <= {"changed", "unchanged", "stale", "gone", "nonsense", "timeout", "network"}
        assert rig.receiver.counters.out_of_order == 0
        compared = 0
        for order_id, fold in rig.folds.items():
            state = await rig.state(order_id)
            assert fold.sequence == state.sequence
            if fold.started:
                assert fold.differences(state.snapshot) == []
                compared += 1
        assert compared > 3
        assert await rig.balanced()
