"""Everything of the demo in one process group.

this process: simulator · receiver · scoreboard          children: relay api · relay worker
                 ▲  polled        ▲  POSTs                 on the embedded store
"""

import asyncio
import json
import secrets
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

import httpx
import msgspec

from relay.demo.scoreboard import Score, Scoreboard
from relay.embedded import EmbeddedStore
from relay.errors import RelayError
from relay.model.signing import Secret
from relay.processes import Child, Group
from relay.receiver import Receipt, Receiver, in_words
from relay.serving import serve
from relay.simulator.app import Simulator, SimulatorConfig
from relay.simulator.server import serve as serve_simulator
from relay.vault import generate_master_key

#: Without any progress for this long, something is broken (seconds).
PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """`speed`: simulated seconds a second. `faults`: the simulator's. `fail`: share of POSTs the receiver refuses."""

    orders: int = 3
    speed: float = 60.0
    seed: int = 1
    once: bool = False
    as_json: bool = False
    port: int = 0
    faults: tuple[str, ...] = ()
    fail: float = 0.0


class Screen:
    """Lines for people; quiet when only the JSON line is wanted from a pipe."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._colours = out.isatty()

    def line(self, mark: str, colour: str, text: str) -> None:
        shown = f"\x1b[{colour}m{mark:<9}\x1b[0m" if self._colours else f"{mark:<9}"
        print(f"{time.strftime('%H:%M:%S')} {shown} {text}", file=self._out, flush=True)

    def webhook(self, receipt: Receipt) -> None:
        event = receipt.event
        data = event["data"]
        where = f"{data.get('order_id', '-'):<6} #{data.get('sequence', 0):<3}"
        again = "" if receipt.attempt == 1 else f"  (attempt {receipt.attempt})"
        kind = event["type"].removeprefix("order.")
        self.line(
            "verified", "32", f"{where} {kind:<22} {in_words(event)[:70]:<70} {receipt.latency_ms:6.1f} ms{again}"
        )

    def log(self, name: str, text: str) -> None:
        """A line of a child's log: what was detected, and whatever is a warning."""
        try:
            record = json.loads(text)
        except ValueError:
            self.line(name, "31", text)
            return
        if record.get("event") == "order.changed":
            kinds = ", ".join(kind.removeprefix("order.") for kind in record["events"])
            self.line("detected", "36", f"{record['order_id']:<6} #{record['sequence']:<3} {kinds}")
        elif record.get("level") in ("warning", "error", "critical"):
            ignored = {"timestamp", "level", "event", "pump"}
            details = " ".join(f"{key}={value}" for key, value in record.items() if key not in ignored)
            self.line(record["level"], "33", f"{record.get('event')} {details}"[:160])


async def demo(options: DemoOptions, out: TextIO | None = None) -> int:
    """Run the demo; the exit status: 1 when, with `once`, anything is missing, unverified or out of order."""
    screen = Screen(out or (sys.stderr if options.as_json else sys.stdout))
    with EmbeddedStore() as store:
        return await _Demo(options, screen, store).run()


class _Demo:
    def __init__(self, options: DemoOptions, screen: Screen, store: EmbeddedStore) -> None:
        self.options = options
        self.screen = screen
        self.board = Scoreboard()
        self.receiver = Receiver([], fail_rate=options.fail, on_receipt=self._received)
        self.simulator = Simulator(SimulatorConfig(options.orders, options.speed, options.seed, faults=options.faults))
        self.admin_key = secrets.token_urlsafe(32)
        self._store = store
        self._last_progress = time.monotonic()

    def _received(self, receipt: Receipt) -> None:
        self._last_progress = time.monotonic()
        if receipt.first:
            self.board.take(receipt)
            self.screen.webhook(receipt)

    async def run(self) -> int:
        tasks: list[asyncio.Task[Any]] = []
        try:
            upstream = await self._listen(
                tasks, lambda ready: serve_simulator(self.simulator.app, "127.0.0.1", 0, ready)
            )
            hooks = await self._listen(tasks, lambda ready: serve(self.receiver, "127.0.0.1", 0, ready))
            api = self.options.port or _free_port()
            group = Group(self._children(upstream, api), self.screen.log)
            tasks.append(asyncio.create_task(group.run()))
            try:
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{api}", trust_env=False) as client:
                    return await self._play(client, hooks, f"http://127.0.0.1:{api}")
            finally:
                await group.stop()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, tasks: list[asyncio.Task[Any]], start: Callable[[Callable[[int], None]], Any]) -> int:
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(start(port.set_result))
        tasks.append(task)
        await asyncio.wait({task, port}, return_when=asyncio.FIRST_COMPLETED)
        if not port.done():
            task.result()
        return port.result()

    def _children(self, upstream: int, api: int) -> list[Child]:
        options = self.options
        floor_ms = 250 if options.speed <= 120 else 100
        environment = {
            "RELAY_REDIS_URL": self._store.url,
            "RELAY_MASTER_KEYS": generate_master_key("demo"),
            "RELAY_ADMIN_KEY": self.admin_key,
            "RELAY_UPSTREAM_URL": f"http://127.0.0.1:{upstream}",
            "RELAY_UPSTREAM_CLIENT_ID": self.simulator.config.client_id,
            "RELAY_UPSTREAM_CLIENT_SECRET": self.simulator.config.client_secret,
            "RELAY_TARGET_ALLOW": "127.0.0.0/8",
            "RELAY_ALLOW_HTTP_TARGETS": "1",
            "RELAY_POLL_SCALE": f"{max(1 / options.speed, 0.0005):.6f}",
            "RELAY_POLL_FLOOR": f"{floor_ms}ms",
            "RELAY_CONFIRM_AFTER": "500ms",
            "RELAY_LATE_CHAT": f"{max(0.5, 300 / options.speed):.1f}s",
            "RELAY_UPSTREAM_TIMEOUT": "2s",
            "RELAY_RETRY_SCHEDULE": "500ms,1s,2s",
            "RELAY_LEASE": "5s",
            "RELAY_PORT": str(api),
            "RELAY_METRICS_PORT": "0",
            "RELAY_LOG_FORMAT": "json",
        }
        return [
            Child("api", ["-m", "relay", "api"], environment | {"RELAY_LOG_LEVEL": "warning"}),
            Child("worker", ["-m", "workers", "all"], environment),
        ]

    async def _play(self, client: httpx.AsyncClient, hooks: int, address: str) -> int:
        await self._until_ready(client)
        retailer = await _call(client, "POST", "/v1/retailers", self.admin_key, {"name": "Demo Grocers"})
        issued = await _call(client, "POST", f"/v1/retailers/{retailer['id']}/keys", self.admin_key, {"name": "demo"})
        key = issued["key"]
        subscription = await _call(
            client, "POST", "/v1/subscriptions", key, {"url": f"http://127.0.0.1:{hooks}/webhooks"}
        )
        self.receiver.secrets.append(Secret.parse(subscription["secret"]))
        self.screen.line("ready", "1", f"API at {address} (docs in {address}/openapi.json)")
        self.screen.line("ready", "1", f"try: curl -H 'authorization: Bearer {key}' {address}/v1/orders")
        orders = [
            {"order_id": order.order_id, "user_id": order.user_id} for order in self.simulator.world.orders.values()
        ]
        for start in range(0, len(orders), 1000):
            await _call(client, "POST", "/v1/orders/bulk", key, {"orders": orders[start : start + 1000]})
        self._last_progress = time.monotonic()
        while True:
            await asyncio.sleep(0.25)
            finished = await self._finished(client, key, subscription["id"])
            if finished is not None:
                return self._close(*finished)

    async def _until_ready(self, client: httpx.AsyncClient) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                if (await client.get("/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)
        raise RelayError("the relay's API did not come up within 30 s")

    async def _finished(self, client: httpx.AsyncClient, key: str, subscription_id: str) -> tuple[int, int] | None:
        """(events, delivered) once every order has ended and all is delivered, or nothing moves any more."""
        stuck = time.monotonic() - self._last_progress > PATIENCE
        if not self.options.once and not stuck:
            return None
        report = [order.ended for order in self.simulator.world.orders.values()]
        if not all(report) and not stuck:
            return None
        events, ended = await _totals(client, key)
        subscription = await _call(client, "GET", f"/v1/subscriptions/{subscription_id}", key)
        if (ended and subscription["delivered"] >= events) or stuck:
            return events, subscription["delivered"]
        return None

    def _close(self, events: int, delivered: int) -> int:
        report = msgspec.to_builtins(self.simulator.report())
        score = self.board.score(
            report, events=events, delivered=delivered, duplicates=self.receiver.counters.duplicates
        )
        self._summary(score)
        if self.options.as_json:
            print(json.dumps(score.document()), flush=True)
        return 0 if score.clean else 1

    def _summary(self, score: Score) -> None:
        text = ", ".join(f"{name} {value}" for name, value in score.document().items() if name != "latency_ms")
        self.screen.line("done", "1", f"{text}; p50 {score.latency_p50:.1f} ms, p99 {score.latency_p99:.1f} ms")
        if not score.clean:
            self.screen.line("FAILED", "31", "events, delivered and verified must be equal, and nothing lost or untold")


async def _totals(client: httpx.AsyncClient, key: str) -> tuple[int, bool]:
    """Events over all orders, and whether tracking of all has ended."""
    events, ended, after = 0, True, ""
    while True:
        page = await _call(client, "GET", f"/v1/orders?limit=100{after}", key)
        events += sum(order["sequence"] for order in page["data"])
        ended = ended and all(order["tracking"] == "ended" for order in page["data"])
        if page["next"] is None:
            return events, ended
        after = f"&after={page['next']}"


async def _call(client: httpx.AsyncClient, method: str, path: str, key: str, body: Any = None) -> Any:
    response = await client.request(method, path, json=body, headers={"authorization": f"Bearer {key}"}, timeout=10)
    if response.status_code >= 300:
        raise RelayError(f"{method} {path} answered {response.status_code}: {response.text[:300]}")
    return response.json()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
