"""The simulator on a port: uvicorn on uvloop, in this process."""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import uvicorn
import uvloop
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from relay.simulator.app import Simulator, SimulatorConfig


class FaultyProtocol(H11Protocol):
    """HTTP/1.1 whose connection the app can reach (scope `state`), to cut an answer or to reset it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(transport)


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

    async def stop(self, listener: socket.socket) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await self.shutdown([listener])


async def serve(app: ASGIApp, host: str, port: int, ready: Callable[[int], None]) -> None:
    """Serve until cancelled. `ready` gets the port (of interest when `port` is 0) once connections are accepted.

    Raises OSError when the address cannot be had.
    """
    listener = listen(host, port)
    config = uvicorn.Config(
        app,
        http=FaultyProtocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config, lambda: ready(listener.getsockname()[1]))
    try:
        await server.serve([listener])
    except asyncio.CancelledError:
        await server.stop(listener)
        raise


def run(config: SimulatorConfig, host: str, port: int, out: TextIO | None = None) -> None:
    """Serve a simulator until SIGINT or SIGTERM; one line on `out` (standard output) says its address."""
    app = Simulator(config).app
    run_until_signal(lambda ready: serve(app, host, port, ready), f"simulator listening on http://{host}", out)


def run_until_signal(
    serving: Callable[[Callable[[int], None]], Coroutine[Any, Any, None]], announcement: str, out: TextIO | None = None
) -> None:
    """Run a server's coroutine on uvloop until SIGINT or SIGTERM, and announce it with its port."""

    async def main() -> None:
        def ready(port: int) -> None:
            print(f"{announcement}:{port}", file=out or sys.stdout, flush=True)

        task = asyncio.create_task(serving(ready))
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, task.cancel)
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
