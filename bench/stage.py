"""What every bench needs around it: a store, the static server as its own process, workers, counters."""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from relay.embedded import EmbeddedStore
from relay.vault import generate_master_key


@dataclass(frozen=True, slots=True)
class Stage:
    """`server` is the static server's base URL: upstream and receiver in one."""

    redis_url: str
    server: str
    master_keys: str

    def count(self, method: str) -> int:
        """How many requests of a method (`get`, `post`) the server has answered."""
        counted: int = httpx.get(f"{self.server}/_sim/count", trust_env=False).json()[method]
        return counted

    def rate(self, method: str, seconds: float) -> float:
        """Requests a second over a while."""
        before, began = self.count(method), time.perf_counter()
        time.sleep(seconds)
        return (self.count(method) - before) / (time.perf_counter() - began)

    @contextmanager
    def running(self, module: str, *arguments: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
        """A Python module as a process of its own, ended in the end."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
        environment |= {
            "RELAY_REDIS_URL": self.redis_url,
            "RELAY_MASTER_KEYS": self.master_keys,
            "RELAY_UPSTREAM_URL": self.server,
            "RELAY_LOG_LEVEL": "error",
            "RELAY_METRICS_PORT": "0",
            "RELAY_TARGET_ALLOW": "127.0.0.0/8",  # receivers are on this machine
            "RELAY_ALLOW_HTTP_TARGETS": "1",
            **{f"RELAY_{name.upper()}": value for name, value in settings.items()},
        }
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def open_stage() -> Iterator[Stage]:
    """An empty store and a fresh static server."""
    with EmbeddedStore() as store:
        command = [sys.executable, "-m", "relay.simulator.static", "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            assert found is not None
            yield Stage(store.url, found[0], generate_master_key("bench"))
        finally:
            server.terminate()
            server.wait(timeout=10)


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {condition}")
        time.sleep(0.02)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def exposition(port: int) -> dict[str, float]:
    """A process's metrics, summed over labels."""
    totals: dict[str, float] = {}
    for line in httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text.splitlines():
        if not line.startswith("#"):
            name = re.split(r"[ {]", line, maxsplit=1)[0]
            totals[name] = totals.get(name, 0.0) + float(line.rsplit(" ", 1)[1])
    return totals


def report(rows: Sequence[tuple[str, str]], result: dict[str, object]) -> None:
    """A table for people, then the one line for programs."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    print(json.dumps(result), flush=True)
