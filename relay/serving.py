"""An ASGI app on a port: uvicorn in this process's event loop, which keeps its signals to itself."""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import uvicorn
import uvloop

#: How long open requests may take to end when the server stops (seconds).
GRACE = 5


class _Server(uvicorn.Server):
    """Tells when it listens, and leaves signals to whoever runs the loop."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


async def serve(
    app: Any, host: str, port: int, ready: Callable[[int], None], *, http: Any = "h11", grace: int = GRACE
) -> None:
    """Serve until cancelled, then let open requests end. `ready` gets the port once connections are accepted.

    Raises OSError when the address cannot be had.
    """
    listener = listen(host, port)
    config = uvicorn.Config(
        app,
        http=http,
        lifespan="off",
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=grace,
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = _Server(config, lambda: ready(listener.getsockname()[1]))
    serving = asyncio.create_task(server.serve([listener]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        raise
    finally:
        listener.close()


def run_until_signal(
    serving: Callable[[Callable[[int], None]], Coroutine[Any, Any, None]], announcement: str, out: TextIO | None = None
) -> None:
    """Run a server's coroutine on uvloop until SIGINT or SIGTERM; one line on `out` tells its address."""

    async def main() -> None:
        def ready(port: int) -> None:
            print(f"{announcement}:{port}", file=out or sys.stdout, flush=True)

        task = asyncio.create_task(serving(ready))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        with suppress(asyncio.CancelledError):
            await task

    uvloop.run(main())


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; the event loop makes it listen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener
