"""The sender under test, as the suite sees it: over HTTP only. Another sender is held against the suite by another
adapter with these methods; what it does not claim, it leaves out of `claims`, and those tests are skipped.

By default the relay itself is started, as `relay up` on the embedded store, with the simulated upstream beside it. With
CONFORMANCE_API, CONFORMANCE_KEY (a retailer's) and CONFORMANCE_UPSTREAM (the simulator's URL) a deployment is tried
that runs elsewhere; it has to reach this machine, and to retry within seconds.
"""

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

#: What a sender may claim beyond the plain rules of Standard Webhooks.
CLAIMS = frozenset({"order", "sequence", "rotation", "ed25519", "replay", "thin", "headers", "guard", "gone", "test"})


@dataclass
class Relay:
    """The relay over its API."""

    api: str
    key: str
    upstream: str
    claims: frozenset[str] = CLAIMS
    _orders: Iterator[int] = field(default_factory=itertools.count)

    def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.request(method, self.api + path, json=body, headers=headers, timeout=30, trust_env=False)

    def subscribe(self, url: str, **options: Any) -> dict[str, Any]:
        """Have events posted to a URL; the answer holds `id` and `secret`."""
        answer = self.ask("POST", "/v1/subscriptions", {"url": url, **options})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def unsubscribe(self, subscription_id: str) -> None:
        self.ask("DELETE", f"/v1/subscriptions/{subscription_id}")

    def begin(self) -> str:
        """A new subject of events (an order); its first event follows."""
        order_id = f"conformance-{os.getpid()}-{next(self._orders)}"
        made = httpx.post(f"{self.upstream}/_sim/orders", json={"order_id": order_id}, trust_env=False)
        assert made.status_code == 201, made.text
        token = {"token": "conformance-token"}
        answer = self.ask("POST", "/v1/orders", {"order_id": order_id, "access_token": token})
        assert answer.status_code == 201, answer.text
        return order_id

    def cause(self, order_id: str, text: str) -> None:
        """One more event of a subject, which carries the text; the one before it has been detected."""
        said = {"sender": "shopper", "body": text}
        answer = httpx.post(f"{self.upstream}/_sim/orders/{order_id}/messages", json=said, trust_env=False)
        assert answer.status_code == 201, answer.text
        deadline = time.monotonic() + 15
        shown = json.dumps(text, ensure_ascii=False)
        while shown not in self.ask("GET", f"/v1/events?order_id={order_id}").text:
            assert time.monotonic() < deadline, f"{text} was never detected"
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def started(folder: Path) -> Iterator[Relay]:
    """The relay under test, started or found elsewhere."""
    if "CONFORMANCE_API" in os.environ:
        yield Relay(os.environ["CONFORMANCE_API"], os.environ["CONFORMANCE_KEY"], os.environ["CONFORMANCE_UPSTREAM"])
        return
    api, upstream, metrics = _free_port(), _free_port(), _free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    settings = {
        "DATA": str(folder / "data"),
        "PORT": str(api),
        "METRICS_PORT": str(metrics),
        "UPSTREAM_URL": f"http://127.0.0.1:{upstream}",
        "TARGET_ALLOW": "127.0.0.0/8",
        "ALLOW_HTTP_TARGETS": "1",
        "RETRY_SCHEDULE": "300ms,300ms,600ms",
        "DELIVERY_TIMEOUT": "1s",
        "POLL_SCALE": "0.01",
        "POLL_FLOOR": "100ms",
        "LATE_CHAT": "500ms",
        "LOG_LEVEL": "error",
    }
    environment |= {f"RELAY_{name}": value for name, value in settings.items()}
    simulator = ["simulator", "--orders", "0", "--speed", "0.001", "--port", str(upstream)]
    commands = [[*simulator, "--static-token", "conformance-token"], ["up"]]
    with (folder / "log").open("wb") as log:
        running = [
            subprocess.Popen([sys.executable, "-m", "relay", *command], env=environment, stdout=log, stderr=log)
            for command in commands
        ]
        try:
            url = f"http://127.0.0.1:{api}"
            _wait_for(f"{url}/readyz", folder / "log")
            _wait_for(f"http://127.0.0.1:{upstream}/_sim/faults", folder / "log")
            yield Relay(url, _key(url, (folder / "data" / "admin_key.secret").read_text()), settings["UPSTREAM_URL"])
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(timeout=20)


def _key(url: str, admin: str) -> str:
    headers = {"authorization": f"Bearer {admin.strip()}"}
    retailer = httpx.post(f"{url}/v1/retailers", json={"name": "Conformance"}, headers=headers, trust_env=False).json()
    made = httpx.post(f"{url}/v1/retailers/{retailer['id']}/keys", json={}, headers=headers, trust_env=False).json()
    return str(made["key"])


def _wait_for(url: str, log: Path) -> None:
    deadline = time.monotonic() + 40
    while True:
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, f"{url} does not answer: {log.read_text()[-2000:]}"
        time.sleep(0.05)
