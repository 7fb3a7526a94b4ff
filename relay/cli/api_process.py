"""The API as a process: it listens from the start, opens when its store is there, and drains when it is told to end."""

import asyncio
from contextlib import AsyncExitStack

import structlog

from relay.api.observability import Front
from relay.cli.composition import open_api
from relay.serving import serve
from relay.settings import Settings
from relay.store.starting import opened
from relay.vitals import Vitals

#: How long requests in flight may take to end once the process drains (seconds).
DRAIN_WITHIN = 30.0


async def serve_api(settings: Settings, vitals: Vitals) -> None:
    """Listen at once, open the application when Redis is there, and serve until told to drain."""
    front, bound = Front(vitals), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(front, settings.host, settings.port, bound.set_result))
    working = asyncio.create_task(_work(settings, vitals, front, serving, bound))
    try:
        await asyncio.wait({serving, working}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done() and not serving.cancelled():
            serving.result()  # the address cannot be had
        await working
    finally:
        for task in (serving, working):
            task.cancel()
        await asyncio.gather(serving, working, return_exceptions=True)


async def _work(
    settings: Settings,
    vitals: Vitals,
    front: Front,
    serving: asyncio.Task[None],
    bound: asyncio.Future[int],
) -> None:
    log = structlog.get_logger("relay.api")
    async with AsyncExitStack() as stack:
        app = await opened(stack, lambda: open_api(settings, vitals), settings, vitals.draining)
        if app is None:
            return
        if settings.target_allow or settings.allow_http_targets:
            log.warning("api.exemptions", targets=list(settings.target_allow), http=settings.allow_http_targets)
        front.app = app
        log.info("api.started", port=await bound)
        await vitals.draining.wait()
        log.info("api.draining", in_flight=vitals.in_flight)
        await vitals.emptied(DRAIN_WITHIN)
        serving.cancel()  # before the clients are closed that a request may use
        await asyncio.wait({serving})
