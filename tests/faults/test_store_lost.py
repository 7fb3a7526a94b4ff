"""Redis goes away, comes back, refuses to write: no process exits, and nothing that was committed is lost."""

import asyncio
import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import redis

from relay.embedded import EmbeddedStore
from relay.errors import StoreUnavailable
from relay.store.redis import Db, open_client
from tests.support.rig import eventually
from tests.support.scenes import Scene, finish, open_scene
from tests.support.workers import unused_ports

pytestmark = pytest.mark.timeout(170)

KINDS = ("poll", "deliver", "maintain")
ADMIN_KEY = "rly_admin_" + "0" * 32
#: How long Redis is away, in seconds.
AWAY = float(os.environ.get("FAULT_SECONDS", "8"))
#: Simulated seconds a second: the orders live longer than Redis is away, and not much longer.
SPEED = 11_000 / (AWAY + 22)
#: Until new events arrive again; measured, it is below 20 s (docs/operations.md). The rest is for a busy machine.
RECOVERED = 40.0


@dataclass
class Fleet:
    """A process of each kind and the API, each with the port of its health."""

    processes: list[subprocess.Popen[bytes]]
    ports: list[int]
    livez: list[int] = field(default_factory=list)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.ports[-1]}"

    async def look(self, client: httpx.AsyncClient) -> None:
        """One look at every `/livez`; the statuses are kept."""
        answers = await asyncio.gather(*(client.get(f"http://127.0.0.1:{port}/livez") for port in self.ports))
        self.livez += [answer.status_code for answer in answers]

    async def ready(self, client: httpx.AsyncClient) -> bool:
        try:
            answers = await asyncio.gather(*(client.get(f"http://127.0.0.1:{port}/readyz") for port in self.ports))
        except httpx.TransportError:
            return False
        return all(answer.status_code == 200 for answer in answers)


async def start_fleet(scene: Scene, client: httpx.AsyncClient) -> Fleet:
    ports = unused_ports(len(KINDS) + 1)
    workers = scene.workers
    processes = [workers.start(kind, metrics_port=str(port)) for kind, port in zip(KINDS, ports, strict=False)]
    processes.append(workers.start_api(port=str(ports[-1]), admin_key=ADMIN_KEY))
    fleet = Fleet(processes, ports)
    await eventually(lambda: fleet.ready(client), within=60)
    await eventually(lambda: len(scene.rig.receipts) > 20, within=60)
    return fleet


async def recover(scene: Scene, since: float) -> float:
    """Seconds since then, once an event arrives that was found after it."""
    newest = scene.rig.receipts[-1].at
    await eventually(
        lambda: any(one.at - one.latency_ms / 1000 > newest for one in scene.rig.receipts[-200:]), RECOVERED
    )
    return time.monotonic() - since


async def ask_without_store(fleet: Fleet, client: httpx.AsyncClient) -> None:
    answer = await client.get(f"{fleet.api}/v1/retailers", headers={"authorization": f"Bearer {ADMIN_KEY}"})
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) >= 1


def test_redis_away_under_load(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            open_scene(tmp_path, orders=25, speed=SPEED) as scene,
            httpx.AsyncClient(trust_env=False, timeout=30) as client,
        ):
            fleet = await start_fleet(scene, client)
            await asyncio.to_thread(scene.store.halt)
            back_at = time.monotonic() + AWAY
            while time.monotonic() < back_at:
                await fleet.look(client)
                await ask_without_store(fleet, client)
                await asyncio.sleep(0.5)
            await asyncio.to_thread(scene.store.resume)
            print(f"Redis away for {AWAY} s: recovered after {await recover(scene, time.monotonic()):.1f} s")
            await eventually(lambda: fleet.ready(client), within=30)
            await fleet.look(client)

            assert set(fleet.livez) == {200}
            await finish(scene)
            assert [process.poll() for process in fleet.processes] == [None] * 4  # the same ones all along

    asyncio.run(main())


def test_redis_refuses_to_write_for_a_while(tmp_path: Path) -> None:
    """A replica, as after a failover that the client has not noticed: it is read, and writes are answered READONLY."""

    async def main() -> None:
        async with (
            open_scene(tmp_path, orders=25, speed=SPEED) as scene,
            httpx.AsyncClient(trust_env=False, timeout=30) as client,
        ):
            fleet = await start_fleet(scene, client)
            with redis.Redis.from_url(scene.store.url) as server:
                # Of a master that does not answer: one that did would replace what is in this server.
                server.execute_command("REPLICAOF", "127.0.0.1", unused_ports(1)[0])
                back_at = time.monotonic() + 5
                while time.monotonic() < back_at:
                    await fleet.look(client)
                    await asyncio.sleep(0.5)
                server.execute_command("REPLICAOF", "NO", "ONE")
            print(f"READONLY for 5 s: recovered after {await recover(scene, time.monotonic()):.1f} s")

            assert set(fleet.livez) == {200}
            await finish(scene)
            assert [process.poll() for process in fleet.processes] == [None] * 4

    asyncio.run(main())


def test_a_wait_that_a_demotion_ends_is_an_outage(tmp_path: Path) -> None:
    """A server that becomes a replica answers UNBLOCKED to whoever waits on a list."""

    async def main() -> None:
        with EmbeddedStore(tmp_path / "store") as store, redis.Redis.from_url(store.url) as server:
            db = Db(open_client(store.url))
            waiting = asyncio.create_task(db.block_on(["a-list"], 30))
            await eventually(lambda: server.info("clients")["blocked_clients"] == 1)
            server.execute_command("REPLICAOF", "127.0.0.1", unused_ports(1)[0])
            with pytest.raises(StoreUnavailable, match="UNBLOCKED"):
                await waiting
            await db.aclose()

    asyncio.run(main())
