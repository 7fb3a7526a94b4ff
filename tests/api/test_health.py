"""Alive, ready, draining: what the probes say, and who answers them."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from relay.api.app import create_app
from relay.api.observability import PROBES, Front
from relay.embedded import EmbeddedStore
from relay.serving import serve
from relay.store import keys
from relay.store.redis import Db, open_client
from relay.vault import generate_master_key
from relay.vitals import LATEST, TICK, Vitals
from tests.api.support import Relay, driven
from tests.support import acl
from tests.support.readings import Since, gauge
from tests.support.rig import eventually
from workers.health import health_app
from workers.supervisor import Pulse


async def _answer(vitals: Vitals, path: str, pulses: tuple[Pulse, ...] = ()) -> int:
    transport = httpx.ASGITransport(health_app(pulses, vitals))
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        return (await client.get(path)).status_code


def test_ready_is_latched_and_lost_by_draining_lag_and_load(store_url: str, unused_port: int) -> None:
    async def main() -> None:
        db = Db(open_client(store_url))
        vitals = Vitals(db, most_in_flight=2)
        assert await _answer(vitals, "/readyz") == 200
        await db.aclose()
        vitals._db = Db(open_client(f"redis://127.0.0.1:{unused_port}"))
        assert await _answer(vitals, "/readyz") == 200  # Redis is gone: that is no reason to be taken out

        vitals.entered()
        assert await _answer(vitals, "/readyz") == 200
        vitals.entered()
        assert await _answer(vitals, "/readyz") == 503
        vitals.left()
        assert await _answer(vitals, "/readyz") == 200

        async with vitals.timing():
            await asyncio.sleep(0)
            time.sleep(TICK + LATEST + 0.05)  # noqa: ASYNC251  the loop stands still
            assert await _answer(vitals, "/readyz") == 503
            assert await eventually(lambda: vitals.lag < LATEST)
            assert await _answer(vitals, "/readyz") == 200

        vitals.drain()
        assert await _answer(vitals, "/readyz") == 503
        assert gauge("draining") == 1
        assert await _answer(vitals, "/livez") == 200
        vitals.left()

    since = Since()
    try:
        asyncio.run(main())
        assert since.rise("event_loop_lag_seconds_count") > since.rise("event_loop_lag_seconds_bucket", le="1.0")
    finally:
        from relay import metrics

        metrics.draining.set(0)


def test_without_redis_a_process_is_alive_and_never_ready(unused_port: int) -> None:
    async def main() -> None:
        vitals = Vitals()
        assert (await _answer(vitals, "/livez"), await _answer(vitals, "/readyz")) == (200, 503)
        db = Db(open_client(f"redis://127.0.0.1:{unused_port}"))
        async with vitals.watching(db):
            assert (await _answer(vitals, "/livez"), await _answer(vitals, "/readyz")) == (200, 503)
            await eventually(lambda: gauge("redis_up") == 0)
        await db.aclose()

    asyncio.run(main())


def test_a_redis_that_hangs_holds_no_probe_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.vitals.LATCH_WITHIN", 0.1)

    async def main() -> None:
        connections = 0

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            await reader.read()
            writer.close()

        server = await asyncio.start_server(hang, "127.0.0.1", 0)
        db = Db(open_client(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        vitals = Vitals(db)
        for _ in range(3):
            assert await _answer(vitals, "/readyz") == 503
        assert connections == 1  # each was answered before even the first try had failed
        await db.aclose()
        server.close()

    asyncio.run(main())


def test_a_redis_that_hangs_is_away_and_takes_no_process_out(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.vitals.PROBE_WITHIN", 20.0)
    monkeypatch.setattr("relay.vitals.AWAY_EVERY", 0.05)
    monkeypatch.setattr("relay.vitals.PROBE_EVERY", 0.05)

    async def main() -> None:
        held = asyncio.Event()
        held.set()
        redis = urlsplit(store_url).path

        async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Every byte to Redis and back, while it is not held."""
            to, back = await asyncio.open_unix_connection(redis)

            async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                while data := await source.read(65_536):
                    await held.wait()
                    sink.write(data)
                sink.close()

            await asyncio.gather(pass_on(reader, back), pass_on(to, writer), return_exceptions=True)

        server = await asyncio.start_server(between, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        db = Db(open_client(f"redis://{urlsplit(store_url).netloc}127.0.0.1:{port}"))
        vitals = Vitals(db, most_in_flight=1)
        async with vitals.watching(db):
            assert await vitals.ready()
            vitals.entered()
            assert not await vitals.ready()
            monkeypatch.setattr("relay.vitals.PROBE_WITHIN", 0.1)
            held.clear()
            await eventually(lambda: vitals.redis_away and gauge("redis_up") == 0)
            assert await vitals.ready()
            monkeypatch.setattr("relay.vitals.PROBE_WITHIN", 20.0)
            held.set()
            await eventually(lambda: not vitals.redis_away and gauge("redis_up") == 1)
            vitals.left()
        await db.aclose()
        server.close()

    asyncio.run(main())


def test_while_redis_is_away_requests_are_refused_at_once(store_url: str) -> None:
    """One that hangs would hold each of them for half a minute."""

    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        vitals = Vitals(relay.db)
        transport = httpx.ASGITransport(create_app(relay.deps, vitals))
        async with httpx.AsyncClient(transport=transport, base_url="http://relay") as client:
            trips, vitals.redis_away = relay.db.trips, True
            refused = await client.get("/v1/orders", headers={"authorization": f"Bearer {key}"})
            assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
            assert int(refused.headers["retry-after"]) >= 1
            assert relay.db.trips == trips
            vitals.redis_away = False
            assert (await client.get("/v1/orders", headers={"authorization": f"Bearer {key}"})).status_code == 200

    driven(store_url, test)


def test_redis_is_up_and_its_pool_is_told(store_url: str) -> None:
    async def main() -> None:
        db = Db(open_client(store_url))
        vitals = Vitals()
        async with vitals.watching(db):
            await eventually(lambda: gauge("redis_up") == 1)
            blocked = asyncio.create_task(db.block_on([f"{keys.PREFIX}nobody-rings"], 1.0))
            await eventually(lambda: gauge("redis_pool_in_use") == 1)
            assert (gauge("redis_pool_max") or 0) >= 1
            await blocked
        await db.aclose()

    asyncio.run(main())


def test_a_worker_whose_arq_loop_stands_still_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        pulse, vitals = Pulse("poll"), Vitals()
        assert await _answer(vitals, "/livez", (pulse,)) == 200  # it has not begun: declared back-off
        pulse.turn()
        assert (gauge("worker_heartbeat_timestamp_seconds", pump="poll") or 0) > time.time() - 60
        assert await _answer(vitals, "/livez", (pulse,)) == 200
        pulse.turned_at -= 61
        assert await _answer(vitals, "/livez", (pulse,)) == 503
        pulse.backing_off = True
        assert await _answer(vitals, "/livez", (pulse,)) == 200

    asyncio.run(main())


def test_a_blocked_loop_answers_no_probe() -> None:
    """A server in a thread of its own would answer on."""
    loop, bound, release = asyncio.new_event_loop(), threading.Event(), threading.Event()
    port: list[int] = []

    async def process() -> None:
        def ready(number: int) -> None:
            port.append(number)
            bound.set()

        async with Vitals().timing():
            await serve(health_app((), Vitals()), "127.0.0.1", 0, ready)

    serving = loop.create_task(process())

    def work() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(serving)
        loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert bound.wait(20)
        url = f"http://127.0.0.1:{port[0]}/livez"
        assert httpx.get(url, trust_env=False, timeout=20).status_code == 200
        stuck = threading.Event()

        def block() -> None:
            stuck.set()
            release.wait(30)

        loop.call_soon_threadsafe(block)
        assert stuck.wait(20)
        with pytest.raises(httpx.TimeoutException):
            httpx.get(url, trust_env=False, timeout=1)
        release.set()
        assert httpx.get(url, trust_env=False, timeout=20).status_code == 200
    finally:
        release.set()
        loop.call_soon_threadsafe(serving.cancel)
        thread.join(20)


def test_the_front_answers_before_the_application_is_open() -> None:
    async def main() -> None:
        front = Front(Vitals())
        transport = httpx.ASGITransport(front)
        async with httpx.AsyncClient(transport=transport, base_url="http://relay") as client:
            found = {path: (await client.get(path)).status_code for path in PROBES}
            asked = await client.get("/v1/orders")
        assert found == {"/livez": 200, "/readyz": 503, "/metrics": 200}
        assert (asked.status_code, asked.json()["code"], asked.headers["retry-after"]) == (
            503,
            "store_unavailable",
            "2",
        )

    asyncio.run(main())


def test_requests_are_counted_by_closed_words(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        since = Since()
        _, key = await relay.retailer()
        await relay.client.request("BREW", "/v1/orders/o-1/anything")
        await relay.client.get("/v1/orders")
        await relay.client.post("/v1/orders", content=b"x" * 70_000, headers={"authorization": f"Bearer {key}"})
        await relay.client.get("/livez")

        assert since.rise("http_requests_total", route="other", method="other", status_class="4xx") == 1
        assert since.rise("http_rejected_total", reason="auth") == 1
        assert since.rise("http_rejected_total", reason="size") == 1
        assert since.rise("http_request_duration_seconds_count", group="orders") == 2
        assert gauge("http_requests_in_progress") == 0
        assert since.rise("http_requests_total", route="other", method="GET", status_class="2xx") == 0

    driven(store_url, test)


def test_what_is_over_a_rate_is_counted_as_refused(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        since = Since()
        codes = [(await relay.ask("GET", "/v1/orders", key=key)).status_code for _ in range(60)]
        assert since.rise("http_rejected_total", reason="rate") == codes.count(429) > 0

    driven(store_url, test, RELAY_API_RATE="1")


class Process:
    """`python -m relay api`, as a deployment starts it."""

    def __init__(self, url: str, port: int, logs: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
        environment |= {
            "RELAY_REDIS_URL": url,
            "RELAY_MASTER_KEYS": generate_master_key("t"),
            "RELAY_ADMIN_KEY": "a" * 30,
            "RELAY_PORT": str(port),
        }
        self.base = f"http://127.0.0.1:{port}"
        self.logs = logs
        with logs.open("ab") as log:
            self.running = subprocess.Popen([sys.executable, "-m", "relay", "api"], env=environment, stderr=log)

    async def status(self, path: str) -> int:
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
                return (await client.get(self.base + path)).status_code
        except httpx.TransportError:
            return 0


@contextmanager
def running(url: str, port: int, logs: Path) -> Iterator[Process]:
    process = Process(url, port, logs)
    try:
        yield process
    finally:
        process.running.kill()
        process.running.wait()


def test_an_api_process_waits_for_redis_alive_and_ends_when_told(unused_port: int, tmp_path: Path) -> None:
    async def main() -> None:
        with running("redis://127.0.0.1:1/0", unused_port, tmp_path / "log") as process:
            assert await eventually(lambda: _is(process, "/livez", 200), within=40)
            assert await process.status("/readyz") == 503
            assert await process.status("/v1/orders") == 503
            process.running.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.running.wait, 30) == 0

    asyncio.run(main())


def test_a_wrong_password_never_becomes_ready(unused_port: int, tmp_path: Path) -> None:
    async def main() -> None:
        with EmbeddedStore() as store:
            db = Db(open_client(store.url))
            await db.run("CONFIG", "SET", "requirepass", "right")
            await db.aclose()
            with running(store.url, unused_port, tmp_path / "log") as process:
                assert await eventually(lambda: _is(process, "/livez", 200), within=40)
                log = tmp_path / "log"
                await eventually(lambda: log.read_text().count("waiting_for_redis") > 1, within=40)
                assert await process.status("/readyz") == 503

    asyncio.run(main())


async def _is(process: Process, path: str, status: int) -> bool:
    return await process.status(path) == status


def test_sigterm_ends_readiness_at_once_and_lets_what_is_in_flight_end(
    store_url: str, unused_port: int, tmp_path: Path
) -> None:
    async def main() -> None:
        with acl.admin(store_url) as admin:
            admin.flushall()
        with running(store_url, unused_port, tmp_path / "log") as process:
            assert await eventually(lambda: _is(process, "/readyz", 200), within=40)
            # A body that comes slowly keeps a request in flight.
            reader, writer = await asyncio.open_connection("127.0.0.1", unused_port)
            body = b'{"name": "Shop"}'
            head = f"POST /v1/retailers HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {'a' * 30}\r\n"
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body[:5])
            await writer.drain()

            async def in_flight() -> bool:
                async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
                    return "relay_http_requests_in_progress 1.0" in (await client.get(process.base + "/metrics")).text

            await eventually(in_flight, within=40)
            process.running.send_signal(signal.SIGTERM)
            assert await eventually(lambda: _is(process, "/readyz", 503), within=40)
            assert await process.status("/livez") == 200
            async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
                refused = await client.get(process.base + "/v1/event-types")
                shown = (await client.get(process.base + "/metrics")).text
            assert (refused.status_code, refused.json()["code"]) == (503, "draining")
            assert refused.headers["connection"] == "close"
            assert "relay_draining 1.0" in shown
            assert 'relay_http_rejected_total{reason="draining"} 1.0' in shown
            assert process.running.poll() is None

            writer.write(body[5:])
            await writer.drain()
            answer = await asyncio.wait_for(reader.read(), 30)
            assert answer.startswith(b"HTTP/1.1 201")
            writer.close()
            assert await asyncio.to_thread(process.running.wait, 40) == 0

    asyncio.run(main())
