"""The canary through faults: its metrics say what is so, and it flies again by itself."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relay.embedded import EmbeddedStore
from relay.store.redis import Db, open_client
from relay.vault import generate_master_key
from tests.e2e.test_canary import Scene
from tests.support.rig import eventually
from tests.support.workers import Workers, unused_ports

pytestmark = pytest.mark.timeout(240)

SUCCESS, FAILURES = "last_success_timestamp_seconds", "failures_total"


@asynccontextmanager
async def _scene(store: EmbeddedStore, tmp_path: Path, **settings: str) -> AsyncIterator[Scene]:
    """The canary is found under a name, as behind a service; what guards ways out exempts nothing else."""
    port, metrics_port = unused_ports(2)
    settings = {"canary": "1", "canary_every": "2s", "target_allow": "", "allow_http_targets": "0", **settings}
    settings |= {"canary_url": f"http://localhost:{port}", "canary_port": str(port)}
    logs = tmp_path / "workers.log"
    workers = Workers(store.url, generate_master_key("canary"), "http://127.0.0.1:9", logs, **settings)
    db = Db(open_client(store.url))
    try:
        yield Scene(workers, db, port, metrics_port)
    finally:
        await db.aclose()
        await asyncio.to_thread(workers.close)


def test_the_process_that_sends_and_receives_is_killed(tmp_path: Path) -> None:
    """The other replica takes over when the lease has run out, and says that nothing comes back while nobody answers
    under the canary's address; once somebody does, it flies again."""

    async def main() -> None:
        with EmbeddedStore(tmp_path / "store") as store:
            async with _scene(store, tmp_path) as scene:
                first = scene.maintain()
                scene.workers.start("poll")
                scene.workers.start("deliver")
                await scene.flown()
                other, elsewhere = unused_ports(2)
                scene.workers.start("maintain", metrics_port=str(other), canary_port=str(elsewhere))
                await eventually(scene.above(SUCCESS, 0, other), within=60)
                assert await scene.value("enabled", other) == 0

                await asyncio.to_thread(scene.workers.kill, first)
                await eventually(scene.above("enabled", 0, other), within=60)
                await eventually(scene.above(FAILURES, 1, other), within=60)
                stale = await scene.value(SUCCESS, other)
                await eventually(scene.above(FAILURES, await scene.value(FAILURES, other), other), within=60)
                assert await scene.value(SUCCESS, other) == stale

                scene.maintain()
                await eventually(scene.above(SUCCESS, stale, other), within=90)
                await eventually(scene.above(SUCCESS, stale), within=60)  # both replicas say so

    asyncio.run(main())


def test_redis_is_lost_for_a_while(tmp_path: Path) -> None:
    async def main() -> None:
        with EmbeddedStore(tmp_path / "store") as store:
            async with _scene(store, tmp_path) as scene:
                scene.maintain()
                scene.workers.start("poll")
                scene.workers.start("deliver")
                await scene.flown()
                await asyncio.to_thread(store.halt)
                failures, stale = await scene.value(FAILURES), await scene.value(SUCCESS)
                await eventually(scene.above(FAILURES, failures + 1), within=60)
                assert "store_unavailable" in scene.workers.logs.read_text()
                assert await scene.value(SUCCESS) == stale
                await asyncio.to_thread(store.resume)
                await eventually(scene.above(SUCCESS, stale), within=90)
                await scene.flown()

    asyncio.run(main())


def test_it_flies_in_the_live_dialect_too(tmp_path: Path) -> None:
    """Its own upstream is asked and read in the deployment's dialect."""

    async def main() -> None:
        with EmbeddedStore(tmp_path / "store") as store:
            async with _scene(store, tmp_path, upstream_dialect="connect") as scene:
                scene.maintain()
                scene.workers.start("poll")
                scene.workers.start("deliver")
                await scene.flown()  # it came with tracking_started
                await scene.flown()  # and as a change

    asyncio.run(main())


def test_it_flies_in_relay_up_and_again_after_its_worker_was_killed(tmp_path: Path) -> None:
    """Nobody set an address: everything is on one machine. The group starts the worker again."""
    api, metrics_port, port = unused_ports(3)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")} | {
        "RELAY_CANARY": "1",
        "RELAY_CANARY_EVERY": "2s",
        "RELAY_CANARY_PORT": str(port),
        "RELAY_METRICS_PORT": str(metrics_port),
        "RELAY_PORT": str(api),
        "RELAY_HOST": "127.0.0.1",
        "RELAY_LEASE": "2s",
    }
    command = [sys.executable, "-m", "relay", "up", "--data", str(tmp_path / "data")]
    with (tmp_path / "up.log").open("ab") as log:
        up = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    async def main() -> None:
        nothing: Any = None
        scene = Scene(nothing, nothing, port, metrics_port)
        await scene.flown()
        assert await scene.value("enabled") == 1
        worker = _child(up.pid, "workers")
        killed = time.time()
        os.kill(worker, signal.SIGKILL)
        await eventually(scene.above(SUCCESS, killed), within=90)

    try:
        asyncio.run(main())
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(timeout=40) == 0


def _child(parent: int, module: str) -> int:
    """The process id of a child by its module."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(fields[1]) == parent and module.encode() in command:
            return int(status.parent.name)
    raise AssertionError(f"no {module} under {parent}")
