"""Redis servers and Sentinels of a test's own, on loopback ports, to be killed, filled and failed over."""

import resource
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import redis

#: What the relay asks of a Redis.
GOOD = ("--appendonly", "yes", "--maxmemory-policy", "noeviction", "--save", "")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """One process of a Redis program, with a folder and a port of its own. `port` 0: no plain port, for TLS."""

    def __init__(self, program: str, folder: Path, *arguments: str, port: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port() if port is None else port
        self._command = [program, *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self, *, wait: bool = True) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--daemonize", "no"]
        with (self.folder / "server.log").open("ab") as log:
            # Signals that Python ignores stay ignored: a file that may not grow is an error to it, and no death.
            self._process = subprocess.Popen([*self._command, *options], stdout=log, stderr=log, restore_signals=False)
        if wait:
            self.wait()

    def wait(self, within: float = 20.0) -> None:
        """Until the plain port answers."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            with suppress(redis.RedisError), redis.Redis(port=self.port) as client:
                client.ping()
                return
            time.sleep(0.02)
        raise AssertionError((self.folder / "server.log").read_text())

    def ask(self, *command: str | int) -> object:
        """One command, as the default user."""
        with redis.Redis(port=self.port, decode_responses=True) as client:
            answer: object = client.execute_command(*command)
            return answer

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def limit_files(self, size: int | None) -> None:
        """No file may grow beyond this many bytes, as on a full disk; None: as before."""
        assert self._process is not None
        hard = resource.RLIM_INFINITY
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))

    def stop(self, *, kill: bool = False) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
