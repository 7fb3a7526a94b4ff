"""Real worker and API processes, to be killed."""

import os
import random
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx

from tests.support.tools import need_library

#: The release that an upgrade starts from.
PREVIOUS = Path(__file__).resolve().parent.parent / "data" / "previous" / "post_checkout_relay-0.1.0-py3-none-any.whl"


class Workers:
    """Processes `python -m workers ...` over one store and one upstream, with leases short enough for a test."""

    def __init__(self, redis_url: str, master_keys: str, upstream_url: str, logs: Path, **settings: str) -> None:
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RELAY_")},
            "RELAY_REDIS_URL": redis_url,
            "RELAY_MASTER_KEYS": master_keys,
            "RELAY_UPSTREAM_URL": upstream_url,
            "RELAY_LEASE": "1s",
            "RELAY_POLL_SCALE": "0.002",
            "RELAY_POLL_FLOOR": "100ms",
            "RELAY_CONFIRM_AFTER": "200ms",
            "RELAY_LATE_CHAT": "300ms",
            "RELAY_UPSTREAM_TIMEOUT": "2s",
            "RELAY_RETRY_SCHEDULE": "200ms,500ms",
            "RELAY_METRICS_PORT": "0",
            "RELAY_TARGET_ALLOW": "127.0.0.0/8",  # receivers are on this machine
            "RELAY_ALLOW_HTTP_TARGETS": "1",
            **{f"RELAY_{name.upper()}": value for name, value in settings.items()},
        }
        self.logs = logs
        self.running: list[subprocess.Popen[bytes]] = []
        self.kills = 0

    def start(self, kind: str = "all", **settings: str) -> subprocess.Popen[bytes]:
        return self._start(["workers", kind], settings)

    def start_skewed(self, kind: str, skew: int, **settings: str) -> subprocess.Popen[bytes]:
        """A worker, or the API, whose wall clock is ahead by so many seconds."""
        return self._start(["relay", "api"] if kind == "api" else ["workers", kind], settings, skew=skew)

    def start_previous(self, kind: str = "all", **settings: str) -> subprocess.Popen[bytes]:
        """A worker of the release before this one, run out of its wheel."""
        return self._start(["workers", kind], settings, path=PREVIOUS)

    def start_api(self, **settings: str) -> subprocess.Popen[bytes]:
        return self._start(["relay", "api"], settings)

    def _start(
        self, module: list[str], settings: dict[str, str], *, path: Path | None = None, skew: int = 0
    ) -> subprocess.Popen[bytes]:
        environment = self.environment | {f"RELAY_{name.upper()}": value for name, value in settings.items()}
        if skew:
            environment |= {"LD_PRELOAD": need_library("libfaketimeMT.so.1"), "FAKETIME": f"{skew:+d}s"}
            environment |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        folder = None
        if path is not None:  # away from the tree, which `-m` would find first
            environment |= {"PYTHONPATH": str(path)}
            folder = self.logs.parent
        with self.logs.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *module], env=environment, stdout=log, stderr=log, cwd=folder
            )
        self.running.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
        self.running.remove(process)
        self.kills += 1

    def stop(self, process: subprocess.Popen[bytes], within: float = 10.0) -> int:
        """SIGTERM; the exit status."""
        process.send_signal(signal.SIGTERM)
        status = process.wait(timeout=within)
        self.running.remove(process)
        return status

    def close(self) -> None:
        for process in self.running:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(timeout=12)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=5)


def unused_ports(count: int) -> list[int]:
    """TCP ports that nobody listens on, from below those that connections and `port 0` are given: between choosing
    and binding, only somebody who asks for that very number could take one."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(15_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in ports:
                ports.append(port)
    return ports


async def metric(port: int, name: str) -> float:
    """The sum of a metric over its labels, from a process's exposition."""
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
