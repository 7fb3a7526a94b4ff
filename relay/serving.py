"""An ASGI app on a port: uvicorn in this process's event loop, which keeps its signals to itself.

uvicorn bounds how long an idle connection is kept, not how long a request may take to arrive; `_Timely` does.
"""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import h11
import uvicorn
import uvloop
from uvicorn.protocols.http.h11_impl import H11Protocol

from relay import metrics

#: How long open requests may take to end when the server stops (seconds).
GRACE = 5
#: How long a connection may take to send a request whole, from its opening or the answer before (seconds).
RECEIVE_WITHIN = 20.0
#: A request's end has been read, or nothing more will be. Who offers another protocol (`upgrade: h2c`) waits as well.
_MAY_SWITCH = h11.MIGHT_SWITCH_PROTOCOL  # type: ignore[attr-defined]  # documented, and missing in its list of names
_ARRIVED = (h11.DONE, _MAY_SWITCH, h11.MUST_CLOSE, h11.CLOSED, h11.ERROR)


class _Timely(H11Protocol):
    """HTTP/1.1 that cuts off who sends a request byte by byte, or nothing: it would hold the connection for ever, and
    by its body a place among the requests in flight."""

    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._time()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._time()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._time()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._disarm()

    def _time(self) -> None:
        """The clock of one request runs from its first moment to its last byte; between two, keep-alive has its own."""
        kept = self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is not None
        if kept or self.conn.their_state in _ARRIVED or self.transport.is_closing():
            self._disarm()
        elif self._due is None:
            self._due = self.loop.call_later(RECEIVE_WITHIN, self._late)

    def _disarm(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _late(self) -> None:
        if self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]:
            metrics.http_rejected.labels("slow").inc()
        self.transport.close()


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
    app: Any, host: str, port: int, ready: Callable[[int], None], *, http: Any = _Timely, grace: int = GRACE
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
