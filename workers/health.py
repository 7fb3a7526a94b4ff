"""`/livez`, `/readyz` and `/metrics` of a worker, served by its own loop: answering proves that the loop turns."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from relay.api.observability import exposition, readyz
from relay.vitals import Vitals
from workers.supervisor import Pulse


def health_app(pulses: Sequence[Pulse], vitals: Vitals) -> Starlette:
    async def livez(_: Request) -> Response:
        alive = all(pulse.alive for pulse in pulses)
        return JSONResponse({"status": "alive" if alive else "stuck"}, 200 if alive else 503)

    return Starlette(routes=[Route("/livez", livez), readyz(vitals), Route("/metrics", exposition)])
