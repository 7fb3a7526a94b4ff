"""`/livez`, `/readyz`, `/metrics`, `/openapi.json`: no key. All are answered by the process's own event loop, so that
an answer proves that it turns."""

import msgspec
import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from relay import metrics
from relay.api import openapi
from relay.api.problems import problem
from relay.errors import StoreUnavailable
from relay.vitals import Vitals

#: Paths that are no requests to the API, and are answered while it drains.
PROBES = ("/livez", "/readyz", "/metrics")


async def exposition(_: Request) -> Response:
    """The metrics of this process."""
    return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def readyz(vitals: Vitals) -> Route:
    async def answer(_: Request) -> Response:
        ready = await vitals.ready()
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    return Route("/readyz", answer)


def probes(vitals: Vitals) -> list[Route]:
    rendered: list[bytes] = []

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def openapi_json(_: Request) -> Response:
        if not rendered:
            rendered.append(msgspec.json.encode(openapi.document()))
        return Response(rendered[0], media_type="application/json")

    return [
        Route("/livez", livez),
        readyz(vitals),
        Route("/metrics", exposition),
        Route("/openapi.json", openapi_json),
    ]


class Front:
    """Stands before the application from the moment the process listens: while its store is away the process is alive
    and not ready, and does not have to be restarted for that."""

    def __init__(self, vitals: Vitals) -> None:
        self.app: ASGIApp | None = None
        self._alone = Starlette(routes=probes(vitals))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.app is not None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] not in PROBES:
            structlog.get_logger("relay.api").warning("request.too_early")
            metrics.http_rejected.labels("redis").inc()
            await problem(StoreUnavailable("not open yet"), "")(scope, receive, send)
        else:
            await self._alone(scope, receive, send)
