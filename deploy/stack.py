"""The compose topology without Docker, on loopback: `make stack`, or `python -m deploy.stack --seconds N`.

Redis (embedded, append-only) · relay api · workers poll, deliver, maintain · simulator · three receivers · Prometheus
"""

import argparse
import asyncio
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from relay.embedded import EmbeddedStore
from relay.processes import Child, Group
from relay.simulator.app import SimulatorConfig
from relay.vault import generate_master_key

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "helm" / "relay" / "files" / "rules"
DASHBOARDS = ROOT / "helm" / "relay" / "files" / "dashboards"
COMPONENTS = ("api", "poll", "deliver", "maintain")
#: How long everything may take to come up (seconds).
START_WITHIN = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """`speed`: simulated seconds a second. `prometheus`: the program, or None to go without. `scrape`: seconds."""

    orders: int = 200
    speed: float = 10.0
    scrape: int = 5
    prometheus: str | None = None


@dataclass(frozen=True, slots=True)
class Stack:
    """Where everything listens, and the keys for it."""

    api: str
    prometheus: str | None
    simulator: str
    receivers: Mapping[str, str]
    key: str
    admin_key: str
    folder: Path

    def describe(self) -> str:
        """What to print for people."""
        lines = [
            f"API         {self.api}  (operator's key: {self.admin_key})",
            f"            curl -H 'authorization: Bearer {self.key}' {self.api}/v1/orders",
            f"simulator   {self.simulator}",
            *(f"receiver    {url}  ({name})" for name, url in self.receivers.items()),
            f"Prometheus  {self.prometheus or 'none on this machine: make tools'}",
            "Grafana     has no package here. Point one at the files: provision a Prometheus data source with",
            f"            uid `prometheus` and that address, and a file provider with path {DASHBOARDS}",
            f"logs        {self.folder}",
        ]
        return "\n".join(lines)


@asynccontextmanager
async def running(options: Options) -> AsyncIterator[Stack]:
    """The whole stack, with subscriptions and orders; all of it is gone in the end."""
    with tempfile.TemporaryDirectory(prefix="relay-stack-") as name, EmbeddedStore(Path(name) / "store") as store:
        builder = _Builder(options, Path(name), store.url)
        try:
            yield await builder.start()
        finally:
            await builder.stop()


class _Builder:
    def __init__(self, options: Options, folder: Path, redis_url: str) -> None:
        self.options = options
        self.folder = folder
        self.redis_url = redis_url
        names = (*COMPONENTS, "simulator", "healthy", "failing", "absent", "prometheus")
        self.ports = dict(zip(names, _free_ports(len(names)), strict=True))
        self.admin_key = secrets.token_urlsafe(32)
        self._groups: list[tuple[Group, asyncio.Task[None]]] = []
        self._prometheus: asyncio.subprocess.Process | None = None

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    async def start(self) -> Stack:
        self._launch(self._children())
        if self.options.prometheus:
            await self._start_prometheus(self.options.prometheus)
        async with httpx.AsyncClient(base_url=self.url("api"), trust_env=False, timeout=10) as client:
            await _until_up(client, "/readyz")
            for name in COMPONENTS[1:]:
                await _until_up(client, f"{self.url(name)}/livez")
            await _until_up(client, f"{self.url('simulator')}/__sim/report", anything=True)
            key = await self._set_up(client)
            if self.options.prometheus:
                await _until_up(client, f"{self.url('prometheus')}/-/ready")
        receivers = {name: f"{self.url(name)}/webhooks" for name in ("healthy", "failing", "absent")}
        prometheus = self.url("prometheus") if self.options.prometheus else None
        return Stack(self.url("api"), prometheus, self.url("simulator"), receivers, key, self.admin_key, self.folder)

    async def stop(self) -> None:
        for group, task in reversed(self._groups):
            await group.stop()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._prometheus is not None and self._prometheus.returncode is None:
            self._prometheus.terminate()
            try:
                await asyncio.wait_for(self._prometheus.wait(), 10)
            except TimeoutError:
                self._prometheus.kill()
                await self._prometheus.wait()

    def _launch(self, children: list[Child]) -> None:
        group = Group(children, self._write)
        self._groups.append((group, asyncio.create_task(group.run())))

    def _write(self, name: str, line: str) -> None:
        with (self.folder / f"{name}.log").open("a") as log:
            log.write(line + "\n")

    def _children(self) -> list[Child]:
        options, simulated = self.options, SimulatorConfig(1)
        environment = {
            "RELAY_REDIS_URL": self.redis_url,
            "RELAY_MASTER_KEYS": generate_master_key("stack"),
            "RELAY_ADMIN_KEY": self.admin_key,
            "RELAY_UPSTREAM_URL": self.url("simulator"),
            "RELAY_UPSTREAM_CLIENT_ID": simulated.client_id,
            "RELAY_UPSTREAM_CLIENT_SECRET": simulated.client_secret,
            "RELAY_UPSTREAM_BUDGET": "100",
            "RELAY_TARGET_ALLOW": "127.0.0.0/8",
            "RELAY_ALLOW_HTTP_TARGETS": "1",
            "RELAY_POLL_SCALE": f"{max(1 / options.speed, 0.0005):.6f}",
            "RELAY_POLL_FLOOR": "500ms",
            "RELAY_CONFIRM_AFTER": "500ms",
            "RELAY_LATE_CHAT": f"{max(0.5, 300 / options.speed):.1f}s",
            "RELAY_RETRY_SCHEDULE": "1s,2s,5s",
            "RELAY_LEASE": "5s",
            "RELAY_SLICE": "5s",
            "RELAY_PORT": str(self.ports["api"]),
        }
        workers = [
            Child(kind, ["-m", "relay", "worker", kind], environment | {"RELAY_METRICS_PORT": str(self.ports[kind])})
            for kind in COMPONENTS[1:]
        ]
        upstream = ["-m", "relay", "simulator", "--orders", str(options.orders), "--speed", str(options.speed)]
        upstream += ["--fault", "500:0.02", "--port", str(self.ports["simulator"])]
        return [Child("simulator", upstream, {}), Child("api", ["-m", "relay", "api"], environment), *workers]

    async def _set_up(self, client: httpx.AsyncClient) -> str:
        """A retailer, a receiver that works, one that often fails, one that is not there, and all orders."""
        retailer = await _call(client, "/v1/retailers", self.admin_key, {"name": "Stack Grocers"})
        issued = await _call(client, f"/v1/retailers/{retailer['id']}/keys", self.admin_key, {"name": "stack"})
        key: str = issued["key"]
        children = []
        for name, failing in (("healthy", "0"), ("failing", "0.3"), ("absent", None)):
            made = await _call(client, "/v1/subscriptions", key, {"url": f"{self.url(name)}/webhooks"})
            if failing is not None:
                arguments = ["-m", "relay", "receive", "--json", "--secret", made["secret"], "--fail", failing]
                children.append(Child(name, [*arguments, "--port", str(self.ports[name])], {}))
        self._launch(children)
        world = await _orders(self.options)
        for at in range(0, len(world), 1000):
            await _call(client, "/v1/orders/bulk", key, {"orders": world[at : at + 1000]})
        return key

    async def _start_prometheus(self, program: str) -> None:
        targets = "".join(
            f'      - {{targets: ["127.0.0.1:{self.ports[name]}"], labels: {{component: {name}}}}}\n'
            for name in COMPONENTS
        )
        (self.folder / "prometheus.yml").write_text(
            f"global: {{scrape_interval: {self.options.scrape}s, evaluation_interval: {self.options.scrape}s}}\n"
            f"rule_files: ['{RULES}/*.yaml']\n"
            f"scrape_configs:\n  - job_name: relay\n    static_configs:\n{targets}"
        )
        with (self.folder / "prometheus.log").open("ab") as log:
            self._prometheus = await asyncio.create_subprocess_exec(
                program,
                f"--config.file={self.folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self.folder / 'prometheus'}",
                f"--web.listen-address=127.0.0.1:{self.ports['prometheus']}",
                stdout=log,
                stderr=log,
            )


async def _orders(options: Options) -> list[dict[str, Any]]:
    """What the simulator has, worked out here from the same numbers."""
    from relay.simulator.app import Simulator

    world = Simulator(SimulatorConfig(options.orders, options.speed, 1)).world
    return [{"order_id": order.order_id, "user_id": order.user_id} for order in world.orders.values()]


async def _until_up(client: httpx.AsyncClient, url: str, anything: bool = False) -> None:
    deadline = time.monotonic() + START_WITHIN
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if anything or (await client.get(url)).status_code == 200:
                if anything:
                    await client.get(url)
                return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"{url} did not come up within {START_WITHIN:.0f} s")


async def _call(client: httpx.AsyncClient, path: str, key: str, body: Any) -> Any:
    response = await client.post(path, json=body, headers={"authorization": f"Bearer {key}"})
    if response.status_code >= 300:
        raise RuntimeError(f"POST {path} answered {response.status_code}: {response.text[:300]}")
    return response.json()


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


async def _main(options: Options, seconds: float | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running(options) as stack:
        print(stack.describe(), flush=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)


def main() -> int:
    """Until Ctrl-C, or for `--seconds`."""
    from tests.support.tools import find

    parser = argparse.ArgumentParser(prog="make stack", description=__doc__)
    parser.add_argument("--seconds", type=float, help="end after so long (default: Ctrl-C)")
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument(
        "--speed", type=float, default=10, help="simulated seconds a second; orders last 1 to 2 h of them"
    )
    arguments = parser.parse_args()
    asyncio.run(_main(Options(arguments.orders, arguments.speed, prometheus=find("prometheus")), arguments.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
