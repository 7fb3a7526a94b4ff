"""Redis goes away, comes back, refuses to write, or answers nothing: no process exits, nothing committed is lost."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis

from relay.embedded import EmbeddedStore
from relay.errors import StoreUnavailable
from relay.store.redis import Db, open_client
from tests.support.fleet import Fleet, open_fleet
from tests.support.rig import eventually
from tests.support.scenes import finish, open_scene, open_scene_on
from tests.support.servers import GOOD, Server
from tests.support.tools import need
from tests.support.workers import metric, unused_ports

pytestmark = pytest.mark.timeout(240)

KINDS = ("poll", "deliver", "maintain", "api")
#: How long Redis is away, in seconds.
AWAY = float(os.environ.get("FAULT_SECONDS", "30"))
#: Simulated seconds a second: an order is shopped within seconds, and new ones come all along.
SPEED = 1_500
#: What one call may take while Redis answers nothing (docs/operations.md says 12 s); the rest is for a busy machine.
GIVEN_UP = 25.0


async def _away(fleet: Fleet, seconds: float) -> float:
    """For so long: every process lives, and the API refuses; the longest it took to do so."""
    back_at, took = time.monotonic() + seconds, 0.0
    while time.monotonic() < back_at:
        await fleet.look()
        took = max(took, await fleet.refused())
        await asyncio.sleep(0.5)
    return took


async def _back(fleet: Fleet) -> float:
    """The same processes go on, ready; the seconds until an event arrived that was found since."""
    took = await fleet.recovered(time.monotonic())
    await eventually(fleet.ready, within=60)
    await fleet.look()
    assert set(fleet.livez) == {200}
    await _redis_is(fleet, up=1)
    assert (await fleet.writes()).status_code == 201
    return took


async def _redis_is(fleet: Fleet, *, up: float) -> None:
    """Every process says so in its metrics."""

    def says(port: int) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            return await metric(port, "relay_redis_up") == up

        return look

    for member in fleet.members:
        await eventually(says(member.port), within=60)


@pytest.mark.lasting
def test_redis_away_under_load(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_scene(tmp_path, orders=10, speed=SPEED) as scene, open_fleet(scene, *KINDS) as fleet:
            async with scene.fed(1, 1.0):
                await asyncio.to_thread(scene.store.halt)
                await _redis_is(fleet, up=0)
                await _away(fleet, AWAY)
                await asyncio.to_thread(scene.store.resume)
                print(f"Redis away for more than {AWAY} s: new events after {await _back(fleet):.1f} s")
            await finish(scene)
            assert fleet.same

    asyncio.run(main())


def test_redis_restarted_under_load(tmp_path: Path) -> None:
    """In order, and killed. What a killed one had answered lies in the system's hands, and is read again."""

    async def main() -> None:
        async with open_scene(tmp_path, orders=10, speed=SPEED) as scene, open_fleet(scene, *KINDS) as fleet:
            async with scene.fed(1, 1.0):
                for kill in (False, True):
                    await asyncio.to_thread(scene.store.restart, kill=kill)
                    print(f"Redis restarted, {kill=}: new events after {await _back(fleet):.1f} s")
            await finish(scene)
            assert fleet.same

    asyncio.run(main())


@pytest.mark.lasting
def test_redis_answers_nothing_for_a_while(tmp_path: Path) -> None:
    """A frozen server: the system takes connections and requests for it, and nobody reads them. Every call gives up in
    bounded time, health and metrics tell, and what was sent and is read after all does no harm."""

    async def main() -> None:
        with Server(need("redis-server"), tmp_path / "redis", *GOOD) as server:
            async with (
                open_scene_on(server.url, tmp_path, orders=10, speed=SPEED) as scene,
                open_fleet(scene, *KINDS) as fleet,
            ):
                async with scene.fed(1, 1.0):
                    server.send(signal.SIGSTOP)
                    await _redis_is(fleet, up=0)
                    assert await fleet.ready()  # latched: an outage that all share makes none of them unready
                    late = fleet.start("poll")
                    await eventually(lambda: _live_and_unready(fleet, late.url), within=60)
                    took = await _away(fleet, 15)
                    server.send(signal.SIGCONT)
                    recovered = await _back(fleet)
                print(f"Redis frozen: refused within {took:.1f} s, new events after {recovered:.1f} s")
                assert took < GIVEN_UP
                await finish(scene)
                assert fleet.same

    asyncio.run(main())


async def _live_and_unready(fleet: Fleet, url: str) -> bool:
    member = next(one for one in fleet.members if one.url == url)
    return (await fleet.status(member, "/livez"), await fleet.status(member, "/readyz")) == (200, 503)


@pytest.mark.parametrize("prepared", [False, True], ids=["anew", "idle"])
def test_a_call_to_a_frozen_redis_is_bounded(tmp_path: Path, prepared: bool) -> None:
    """Also for many at once, behind a password that nobody looks at, or on connections that are looked after first."""

    async def main() -> None:
        with Server(need("redis-server"), tmp_path / "redis", *GOOD) as server:
            server.ask("CONFIG", "SET", "requirepass", "secret")
            db = Db(open_client(f"redis://:secret@127.0.0.1:{server.port}"))
            try:
                if prepared:
                    await asyncio.gather(*(db.run("PING") for _ in range(20)))
                    for connection in db.client.connection_pool._available_connections:
                        connection.next_health_check = 0
                server.send(signal.SIGSTOP)
                began = time.monotonic()
                answers = await asyncio.gather(*(db.run("PING") for _ in range(20)), return_exceptions=True)
                took = time.monotonic() - began
                server.send(signal.SIGCONT)
                print(f"frozen: {took:.1f} s")
                assert {type(answer) for answer in answers} == {StoreUnavailable}
                assert took < GIVEN_UP
                assert await db.run("PING") is not None
            finally:
                await db.aclose()

    asyncio.run(main())


def test_redis_refuses_to_write_for_a_while(tmp_path: Path) -> None:
    """A replica, as after a failover that the client has not noticed: it is read, and writes are answered READONLY."""

    async def main() -> None:
        async with open_scene(tmp_path, orders=10, speed=SPEED) as scene, open_fleet(scene, *KINDS) as fleet:
            with redis.Redis.from_url(scene.store.url) as server:
                async with scene.fed(1, 1.0):
                    # Of a master that does not answer: one that did would replace what is in this server.
                    server.execute_command("REPLICAOF", "127.0.0.1", unused_ports(1)[0])
                    await _away(fleet, 5)
                    server.execute_command("REPLICAOF", "NO", "ONE")
                    print(f"READONLY for 5 s: new events after {await _back(fleet):.1f} s")
            await finish(scene)
            assert fleet.same

    asyncio.run(main())


def test_redis_has_a_full_disk_for_a_while(tmp_path: Path) -> None:
    """The append-only file cannot grow: Redis answers MISCONF to whatever writes, until there is room again."""

    async def main() -> None:
        with Server(need("redis-server"), tmp_path / "redis", *GOOD) as server:
            async with (
                open_scene_on(server.url, tmp_path, orders=10, speed=SPEED) as scene,
                open_fleet(scene, *KINDS) as fleet,
            ):
                async with scene.fed(1, 1.0):
                    server.limit_files(1_000)
                    await eventually(lambda: _status_of(server) == "err", within=30)
                    await _away(fleet, 5)
                    server.limit_files(None)
                    print(f"disk full for 5 s: new events after {await _back(fleet):.1f} s")
                    assert _status_of(server) == "ok"
                await finish(scene)
                assert fleet.same

    asyncio.run(main())


def _status_of(server: Server) -> str:
    info = server.ask("INFO", "persistence")
    assert isinstance(info, dict)
    return str(info["aof_last_write_status"])


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
