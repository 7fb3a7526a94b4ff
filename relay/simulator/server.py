"""The simulator on a port, with connections that a fault can cut."""

import asyncio
from collections.abc import Callable
from typing import TextIO

from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from relay import serving
from relay.simulator.app import Simulator, SimulatorConfig


class FaultyProtocol(H11Protocol):
    """HTTP/1.1 whose connection the app can reach (scope `state`), to cut an answer or to reset it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(transport)


async def serve(app: ASGIApp, host: str, port: int, ready: Callable[[int], None]) -> None:
    """Serve until cancelled. `ready` gets the port once connections are accepted. Raises OSError for a taken one."""
    await serving.serve(app, host, port, ready, http=FaultyProtocol, grace=1)


def run(config: SimulatorConfig, host: str, port: int, out: TextIO | None = None) -> None:
    """Serve a simulator until SIGINT or SIGTERM; one line on `out` (standard output) says its address."""
    app = Simulator(config).app
    announcement = f"simulator listening on http://{host}"
    serving.run_until_signal(lambda ready: serve(app, host, port, ready), announcement, out)
