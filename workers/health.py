"""`/livez`, `/readyz` and `/metrics` of a worker, served by its own loop: answering proves that the loop turns."""

import asyncio
from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from relay.api.observability import Readiness, exposition
from workers.supervisor import Pulse


def health_app(pulses: Sequence[Pulse], readiness: Readiness, draining: asyncio.Event) -> Starlette:
    async def livez(_: Request) -> Response:
        alive = all(pulse.alive for pulse in pulses)
        return JSONResponse({"status": "alive" if alive else "stuck"}, 200 if alive else 503)

    async def readyz(_: Request) -> Response:
        ready = not draining.is_set() and await readiness.ready()
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    return Starlette(routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", exposition)])
