"""The canary with real processes: what it says when all is well, and when a part of the way is gone."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from relay import canary, tracking
from relay.embedded import EmbeddedStore
from relay.model.keyring import Keyring
from relay.model.orders import OrderId
from relay.model.signing import Secret, signed_headers
from relay.settings import load
from relay.store import keys
from relay.store.order_records import Registration, UserToken
from relay.store.orders import Orders
from relay.store.redis import Db, open_client
from relay.store.retailers import Retailers
from relay.store.subscriptions import Configuration, Subscriptions
from relay.vault import Vault, generate_master_key, parse_master_keys
from tests.support.rig import eventually
from tests.support.workers import Workers, metric

pytestmark = pytest.mark.timeout(170)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Scene:
    workers: Workers
    db: Db
    port: int
    metrics_port: int

    def maintain(self, **settings: str) -> "subprocess.Popen[bytes]":
        return self.workers.start("maintain", metrics_port=str(self.metrics_port), **settings)

    async def value(self, name: str, port: int | None = None) -> float:
        try:
            return await metric(port or self.metrics_port, f"relay_canary_{name}")
        except httpx.TransportError:
            return -1.0  # it is starting

    def above(self, name: str, low: float, port: int | None = None) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            return await self.value(name, port) > low

        return look

    async def flown(self, port: int | None = None) -> float:
        """Wait for the next success; its time."""
        before = await self.value("last_success_timestamp_seconds", port)
        await eventually(self.above("last_success_timestamp_seconds", max(0.0, before), port), within=60)
        return await self.value("last_success_timestamp_seconds", port)


@asynccontextmanager
async def open_scene(tmp_path: Path, **more: str) -> AsyncIterator[Scene]:
    """Poll, deliver and maintain workers, whose guard exempts nothing, over an upstream that is not there."""
    port = free_port()
    with EmbeddedStore(tmp_path / "store") as store:
        settings = {"canary": "1", "canary_every": "2s", "canary_port": str(port), "target_allow": ""} | more
        workers = Workers(
            store.url,
            generate_master_key("canary"),
            "http://127.0.0.1:9",
            tmp_path / "workers.log",
            allow_http_targets="0",
            **settings,
        )
        db = Db(open_client(store.url))
        try:
            yield Scene(workers, db, port, free_port())
        finally:
            await db.aclose()
            await asyncio.to_thread(workers.close)


def test_a_stopped_worker_makes_it_fail_and_its_return_makes_it_fly(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_scene(tmp_path) as scene:
            scene.maintain()
            poll, deliver = scene.workers.start("poll"), scene.workers.start("deliver")
            await scene.flown()
            await scene.flown()  # the first came with tracking_started, this one as a change
            assert await scene.value("enabled") == 1
            assert await scene.value("duration_seconds") > 0
            types = [
                fields[b"t"]
                for _, fields in _entries(await scene.db.run("XRANGE", keys.log(canary.RETAILER), "-", "+"))
            ]
            assert b"order.updated" in types

            for kind, process, stage in (("deliver", deliver, "not_delivered"), ("poll", poll, "not_polled")):
                await asyncio.to_thread(scene.workers.stop, process)
                failures = await scene.value("failures_total")
                stale = await scene.value("last_success_timestamp_seconds")
                await eventually(scene.above("failures_total", failures + 1), within=60)
                assert stage in scene.workers.logs.read_text()
                assert await scene.value("last_success_timestamp_seconds") <= stale + 2  # one may have been on its way
                scene.workers.start(kind)
                await scene.flown()

    asyncio.run(main())


def test_it_flies_in_the_live_dialect_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_scene(tmp_path, upstream_dialect="connect", upstream_location="1") as scene:
            scene.workers.start("all", metrics_port=str(scene.metrics_port))
            await scene.flown()
            await scene.flown()
            assert await scene.value("failures_total") <= 1  # the first round may have waited for the start

    asyncio.run(main())


def _entries(rows: list[tuple[bytes, object]]) -> list[tuple[bytes, dict[bytes, bytes]]]:
    found = []
    for position, fields in rows:
        assert isinstance(fields, dict | list)
        named = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
        found.append((position, named))
    return found


def test_replicas_take_turns_and_it_leaves_nothing_behind(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_scene(tmp_path) as scene:
            first = scene.maintain()
            scene.workers.start("poll")
            scene.workers.start("deliver")
            await scene.flown()
            second_metrics = free_port()
            # Both replicas answer for the canary: the second on a port of its own, to which nobody is sent.
            scene.workers.start("maintain", metrics_port=str(second_metrics), canary_port=str(free_port()),
                                canary_url=f"http://127.0.0.1:{scene.port}")  # fmt: skip
            await eventually(scene.above("last_success_timestamp_seconds", 0, second_metrics), within=60)
            assert await scene.value("enabled", second_metrics) == 0

            listed = await scene.db.run("ZRANGE", keys.RETAILERS, 0, -1)
            assert listed == []
            assert await scene.db.run("HLEN", keys.HAZARDS) == 0
            waiting = await metric(scene.metrics_port, "relay_subscriptions")
            assert waiting == 0

            await asyncio.to_thread(scene.workers.stop, first)  # it gives the lease back
            await eventually(scene.above("enabled", 0, second_metrics), within=60)

            await asyncio.to_thread(scene.workers.close)
            scene.workers.running.clear()
            scene.maintain(canary="0")
            await eventually(_gone(scene.db), within=60)

    asyncio.run(main())


def _gone(db: Db) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        left = [keys.CANARY_STATE, keys.subscriptions(canary.RETAILER), keys.order(canary.RETAILER, canary.ORDER)]
        return int(await db.run("EXISTS", *left)) == 0

    return look


def test_its_receiver_believes_no_signature_but_its_own(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_scene(tmp_path) as scene:
            scene.maintain()
            scene.workers.start("poll")
            scene.workers.start("deliver")
            await scene.flown()
            forged = {"webhook-id": "evt_x", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
            async with httpx.AsyncClient(trust_env=False) as client:
                body = json.dumps({"data": {"order": {"canary": "forged"}}})
                answer = await client.post(f"http://127.0.0.1:{scene.port}/hook", headers=forged, content=body)
            assert answer.status_code == 401
            assert await scene.db.run("HGET", keys.CANARY_STATE, "seen") != b"forged"

    asyncio.run(main())


def test_its_receiver_goes_by_the_clock_of_redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose own clock is wrong is no reason to call what arrives unverified."""

    async def main() -> None:
        db = Db(open_client(redis_url))
        vault = Vault(parse_master_keys(generate_master_key("k")))
        one = canary.Canary(db, vault, Orders(db, vault), load({"RELAY_CANARY": "1"}))
        await one._subscription()
        found = await canary._own_subscription(db, Subscriptions(db, vault))
        assert found is not None
        now_s = await db.now_ms() // 1000
        body = json.dumps({"data": {"order": {"canary": "marker"}}}).encode()
        headers = signed_headers("evt_x", now_s, body, [secret for secret, _ in found.keyring.secrets(now_s * 1000)])
        monkeypatch.setattr("time.time", lambda: now_s + 3600.0)
        assert (await one._receive(dict(headers), body))[0] == 200
        assert await db.run("HGET", keys.CANARY_STATE, "seen") == b"marker"
        monkeypatch.undo()
        await canary.retire(db, Orders(db, vault), Subscriptions(db, vault))
        await db.run("DEL", keys.CANARY_STATE)
        await db.aclose()

    asyncio.run(main())


def test_its_url_is_exempt_for_itself_and_for_no_retailer(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_scene(tmp_path) as scene:
            hook = f"http://127.0.0.1:{scene.port}/hook"
            vault = Vault(parse_master_keys(scene.workers.environment["RELAY_MASTER_KEYS"]))
            retailer = await Retailers(scene.db, vault).create("Shop", upstream=None, budget=None, limits={})
            # As if it had been accepted: by a looser setting of before, or a name that resolved elsewhere then.
            keyring = Keyring.new(Secret(bytes(range(32))))
            made = await Subscriptions(scene.db, vault).create(
                retailer.id, Configuration(url=hook), keyring=keyring, start="0-0"
            )
            orders = Orders(scene.db, vault)
            await orders.register(retailer.id, [Registration(OrderId("o"), None, UserToken("t"))], credential="shared")
            now_ms = await scene.db.now_ms()
            assert await tracking.stop(orders, retailer.id, OrderId("o"), now_ms=now_ms, reason="by_retailer")
            scene.workers.start("deliver")
            scene.workers.start("poll")
            scene.maintain()
            await scene.flown()
            await eventually(lambda: made.id in scene.workers.logs.read_text(), within=60)
            lines = [json.loads(one) for one in scene.workers.logs.read_text().splitlines() if made.id in one]
            assert {one["outcome"] for one in lines if one["event"] == "delivery.attempted"} == {"blocked"}
            assert "canary.unverified" not in scene.workers.logs.read_text()

    asyncio.run(main())


def test_an_interval_below_a_second_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "workers", "maintain"],
        env={"RELAY_CANARY_EVERY": "100ms", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "RELAY_CANARY_EVERY" in done.stderr
