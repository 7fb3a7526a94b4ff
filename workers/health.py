"""`/livez`, `/readyz` and `/metrics` of a worker, served by its own loop: answering proves that the loop turns."""

import asyncio
from collections.abc import Sequence

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
