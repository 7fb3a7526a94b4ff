"""The compose topology without Docker, on loopback: `make stack`, or `python -m deploy.stack --seconds N`.

Redis (embedded, append-only) · relay api · workers poll, deliver, maintain · simulator · receivers · Prometheus
"""

import argparse
import asyncio
import random
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import redis

from deploy.traffic import Traffic, gone_endpoint
from relay.embedded import EmbeddedStore
from relay.model.signing import Secret
from relay.processes import Child, Group
from relay.simulator.app import SimulatorConfig
from relay.vault import generate_master_key
from tests.support.tools import find

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "helm" / "relay" / "files" / "rules"
DASHBOARDS = ROOT / "helm" / "relay" / "files" / "dashboards"
COMPONENTS = ("api", "poll", "deliver", "maintain")
#: Receivers: the share of POSTs that they refuse; None: nothing listens there.
RECEIVERS: Mapping[str, float | None] = {"healthy": 0, "failing": 0.1, "absent": None}
#: How long everything may take to come up (seconds).
START_WITHIN = 60.0
#: What Redis may take; the log of a hundred orders under way fills it in about half a day.
MEMORY = "1gb"
#: A log larger than this begins anew beside the one before (bytes).
LOG_LIMIT = 20_000_000
#: Ports below those that the system gives to outgoing connections, so that none is taken before its process listens.
PORTS = range(10_000, 32_768)


@dataclass(frozen=True, slots=True)
class Options:
    """`orders` under way at a time. `prometheus`: the program, or None to go without. `scrape`: seconds."""

    orders: int = 100
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
            "Grafana     has no package here. Point one at the files: docs/operations.md, Dashboards",
            f"logs        {self.folder}/*.log, what the receivers got too",
        ]
        return "\n".join(lines)


@asynccontextmanager
async def running(options: Options) -> AsyncIterator[Stack]:
    """The whole stack, with subscriptions, orders, and traffic that does not end; all of it is gone in the end."""
    async with AsyncExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="relay-stack-")))
        store = resources.enter_context(EmbeddedStore(folder / "store"))
        with redis.Redis.from_url(store.url) as client:
            client.config_set("maxmemory", MEMORY)
        builder = _Builder(options, folder, store.url)
        resources.push_async_callback(builder.stop)
        await resources.enter_async_context(gone_endpoint(builder.ports["gone"]))
        yield await builder.start(resources)


class _Builder:
    def __init__(self, options: Options, folder: Path, redis_url: str) -> None:
        self.options = options
        self.folder = folder
        self.redis_url = redis_url
        names = (*COMPONENTS, "simulator", *RECEIVERS, "gone", "canary", "prometheus")
        self.ports = dict(zip(names, _free_ports(len(names)), strict=True))
        self.admin_key = secrets.token_urlsafe(32)
        self.secrets = {name: Secret.new().text for name in RECEIVERS}
        self.group = Group(self._children(), self._write, all_output=True)
        self.tasks: list[asyncio.Task[None]] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    async def start(self, resources: AsyncExitStack) -> Stack:
        self.tasks.append(asyncio.create_task(self.group.run()))
        operator = await resources.enter_async_context(self._client("api", self.admin_key))
        simulator = await resources.enter_async_context(self._client("simulator", ""))
        await self._until_up(operator)
        retailer = await _call(operator, "/v1/retailers", {"name": "Stack Grocers"})
        issued = await _call(operator, f"/v1/retailers/{retailer['id']}/keys", {"name": "stack"})
        api = await resources.enter_async_context(self._client("api", issued["key"]))
        subscribed = await self._subscribe(api)
        orders = (await simulator.get("/_sim/orders")).raise_for_status().json()["orders"]
        world = [{"order_id": one["order_id"], "user_id": one["user_id"]} for one in orders]
        for at in range(0, len(world), 1000):
            await _call(api, "/v1/orders/bulk", {"orders": world[at : at + 1000]})
        under_way = [one["order_id"] for one in orders]
        traffic = Traffic(api, simulator, under_way, again=subscribed["healthy"], gone=subscribed["gone"])
        self.tasks.append(asyncio.create_task(traffic.run()))
        return Stack(
            self.url("api"),
            self.url("prometheus") if self.options.prometheus else None,
            self.url("simulator"),
            {name: f"{self.url(name)}/webhooks" for name in (*RECEIVERS, "gone")},
            issued["key"],
            self.admin_key,
            self.folder,
        )

    async def stop(self) -> None:
        for task in self.tasks[1:]:
            task.cancel()
        await self.group.stop()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _client(self, name: str, key: str) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.AsyncClient(base_url=self.url(name), headers=headers, trust_env=False, timeout=10)

    def _write(self, name: str, line: str) -> None:
        path = self.folder / f"{name}.log"
        if path.exists() and path.stat().st_size > LOG_LIMIT:
            path.replace(path.with_suffix(".log.1"))
        with path.open("a") as log:
            log.write(line + "\n")

    async def _until_up(self, client: httpx.AsyncClient) -> None:
        """Every process is ready by its own word; a receiver, by refusing what is not signed."""
        await _until(client, f"{self.url('simulator')}/_sim/orders", 200)
        for name in COMPONENTS:
            await _until(client, f"{self.url(name)}/readyz", 200)
        for name in (name for name, refused in RECEIVERS.items() if refused is not None):
            await _until(client, self.url(name), 401)
        if self.options.prometheus:
            await _until(client, f"{self.url('prometheus')}/-/ready", 200)

    async def _subscribe(self, api: httpx.AsyncClient) -> dict[str, str]:
        """The subscriptions' ids: a receiver that works, one that often fails, one not there, one that is gone."""
        found = {}
        for name in (*RECEIVERS, "gone"):
            asked = {"url": f"{self.url(name)}/webhooks"}
            if name in self.secrets:
                asked["secret"] = self.secrets[name]
            found[name] = (await _call(api, "/v1/subscriptions", asked))["id"]
        return found

    def _environment(self) -> dict[str, str]:
        simulated = SimulatorConfig(1)
        return {
            "RELAY_REDIS_URL": self.redis_url,
            "RELAY_MASTER_KEYS": generate_master_key("stack"),
            "RELAY_ADMIN_KEY": self.admin_key,
            "RELAY_UPSTREAM_URL": self.url("simulator"),
            "RELAY_UPSTREAM_CLIENT_ID": simulated.client_id,
            "RELAY_UPSTREAM_CLIENT_SECRET": simulated.client_secret,
            "RELAY_UPSTREAM_BUDGET": "100",
            "RELAY_TARGET_ALLOW": "127.0.0.0/8",
            "RELAY_ALLOW_HTTP_TARGETS": "1",
            "RELAY_POLL_SCALE": "0.1",
            "RELAY_POLL_FLOOR": "500ms",
            "RELAY_CONFIRM_AFTER": "500ms",
            "RELAY_LATE_CHAT": "10s",
            "RELAY_RETRY_SCHEDULE": "1s,2s,5s",
            "RELAY_LEASE": "5s",
            "RELAY_SLICE": "5s",
            "RELAY_CANARY": "1",
            "RELAY_CANARY_EVERY": "5s",
            "RELAY_CANARY_PORT": str(self.ports["canary"]),
            "RELAY_PORT": str(self.ports["api"]),
        }

    def _children(self) -> list[Child]:
        options, environment = self.options, self._environment()
        upstream = ["--orders", str(options.orders), "--speed", "1"]
        upstream += ["--fault", "500:0.01"]
        children = [self._relay("simulator", {}, "simulator", *upstream), self._relay("api", environment, "api")]
        for kind in COMPONENTS[1:]:
            metrics = {"RELAY_METRICS_PORT": str(self.ports[kind])}
            children.append(Child(kind, ["-m", "relay", "worker", kind], environment | metrics))
        for name, refused in RECEIVERS.items():
            if refused is not None:
                asked = ("receive", "--secret", self.secrets[name], "--fail", str(refused))
                children.append(self._relay(name, {}, *asked))
        if options.prometheus:
            children.append(self._prometheus(options.prometheus))
        return children

    def _relay(self, name: str, environment: Mapping[str, str], *command: str) -> Child:
        port = [] if name == "api" else ["--port", str(self.ports[name])]
        return Child(name, ["-m", "relay", *command, *port], environment)

    def _prometheus(self, program: str) -> Child:
        """As a child like the others, so that it ends with its parent: the interpreter becomes Prometheus."""
        targets = "".join(
            f'      - {{targets: ["127.0.0.1:{self.ports[name]}"], labels: {{component: {name}}}}}\n'
            for name in COMPONENTS
        )
        (self.folder / "prometheus.yml").write_text(
            f"global: {{scrape_interval: {self.options.scrape}s, evaluation_interval: {self.options.scrape}s}}\n"
            f"rule_files: ['{RULES}/*.yaml']\n"
            f"scrape_configs:\n  - job_name: relay\n    static_configs:\n{targets}"
        )
        become = ["-c", "import os, sys; os.execv(sys.argv[1], sys.argv[1:])", program]
        arguments = [
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{self.ports['prometheus']}",
        ]
        return Child("prometheus", [*become, *arguments], {})


async def _until(client: httpx.AsyncClient, url: str, status: int) -> None:
    deadline = time.monotonic() + START_WITHIN
    last = "nothing answers"
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            answer = await client.get(url)
            if answer.status_code == status:
                return
            last = f"{answer.status_code} {answer.text[:200]}"
        await asyncio.sleep(0.1)
    raise RuntimeError(f"{url} did not answer {status} within {START_WITHIN:.0f} s: {last}")


async def _call(client: httpx.AsyncClient, path: str, body: Any) -> Any:
    response = await client.post(path, json=body)
    if response.status_code >= 300:
        raise RuntimeError(f"POST {path} answered {response.status_code}: {response.text[:300]}")
    return response.json()


def _free_ports(count: int) -> list[int]:
    """Ports on which nothing listens."""
    found: set[int] = set()
    for port in random.sample(PORTS, len(PORTS)):
        if len(found) == count:
            break
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


async def _main(options: Options, seconds: float | None) -> int:
    """The exit status: 0 after `seconds`, and after Ctrl-C too, which is how it is meant to end."""

    async def whole() -> None:
        async with running(options) as stack:
            print(stack.describe(), flush=True)
            await asyncio.sleep(float("inf") if seconds is None else seconds)

    task = asyncio.create_task(whole())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task
    return 0


def main() -> int:
    """Until Ctrl-C, or for `--seconds`."""
    parser = argparse.ArgumentParser(prog="make stack", description=__doc__)
    parser.add_argument("--seconds", type=float, help="end after so long (default: Ctrl-C)")
    parser.add_argument("--orders", type=int, default=100, help="orders under way at a time, at least 1 (default 100)")
    given = parser.parse_args()
    return asyncio.run(_main(Options(max(1, given.orders), prometheus=find("prometheus")), given.seconds))


if __name__ == "__main__":
    sys.exit(main())
