"""`/livez`, `/readyz`, `/metrics`, `/openapi.json`: no key."""

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from relay import metrics
from relay.api import openapi
from relay.errors import StoreUnavailable
from relay.store import keys
from relay.store.redis import Db


class Readiness:
    """Latched: Redis has to take one write; a later outage, shared by all, does not make every process unready."""

    def __init__(self, db: Db) -> None:
        self._db = db
        self._latched = False

    async def ready(self) -> bool:
        if not self._latched:
            try:
                await self._db.run("SET", keys.SCRATCH, 1, "EX", 60)
            except StoreUnavailable:
                return False
            self._latched = True
        return True


async def exposition(_: Request) -> Response:
    """The metrics of this process."""
    return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def probes(db: Db) -> list[Route]:
    readiness = Readiness(db)
    rendered: list[bytes] = []

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_: Request) -> Response:
        ready = await readiness.ready()
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    async def openapi_json(_: Request) -> Response:
        if not rendered:
            rendered.append(msgspec.json.encode(openapi.document()))
        return Response(rendered[0], media_type="application/json")

    return [
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route("/metrics", exposition),
        Route("/openapi.json", openapi_json),
    ]
