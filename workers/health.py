"""`/livez`, `/readyz` and `/metrics` of a worker, served by its own event loop: answering proves that the loop turns."""

import asyncio
from collections.abc import Sequence
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from relay import metrics
from relay.errors import StoreUnavailable
from relay.store.redis import Db
from workers.supervisor import Pulse


class Readiness:
    """Latched: Redis has to answer once; a later outage, shared by all, does not make every process unready."""

    def __init__(self, db: Db) -> None:
        self._db = db
        self._latched = False

    async def ready(self) -> bool:
        if not self._latched:
            try:
                await self._db.run("PING")
            except StoreUnavailable:
                return False
            self._latched = True
        return True


def health_app(pulses: Sequence[Pulse], readiness: Readiness, draining: asyncio.Event) -> Starlette:
    async def livez(_: Request) -> Response:
        alive = all(pulse.alive for pulse in pulses)
        return JSONResponse({"status": "alive" if alive else "stuck"}, 200 if alive else 503)

    async def readyz(_: Request) -> Response:
        ready = not draining.is_set() and await readiness.ready()
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    async def exposition(_: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", exposition)])


async def serve(app: Any, host: str, port: int, draining: asyncio.Event) -> None:
    """Serve until draining is over; a port that is taken is an error at start."""
    config = uvicorn.Config(app, host=host, port=port, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]  # the process owns its signals
    serving = asyncio.create_task(server.serve())
    try:
        await asyncio.shield(asyncio.wait({serving}))
    finally:
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
