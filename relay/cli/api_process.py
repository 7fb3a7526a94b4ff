"""The API as a process: it listens from the start, opens when its store is there, and drains when it is told to end."""

import asyncio
from contextlib import AsyncExitStack

import structlog
from starlette.types import ASGIApp

from relay.api.observability import Front
from relay.cli.composition import open_api
from relay.errors import StoreUnavailable
from relay.serving import serve
from relay.settings import Settings
from relay.store.connecting import Security, security_of
from relay.store.redis import wait_until_up
from relay.vitals import Vitals

#: How long requests in flight may take to end once the process drains (seconds).
DRAIN_WITHIN = 30.0
#: How long is waited before a start that Redis interrupted is tried again (seconds).
AGAIN = 0.5


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
    assert settings.redis_url is not None
    log = structlog.get_logger("relay.api")
    asked = asyncio.create_task(vitals.draining.wait())
    try:
        async with AsyncExitStack() as stack:
            app = await opened(stack, settings, vitals, asked)
            if app is None:
                return
            if settings.target_allow or settings.allow_http_targets:
                log.warning("api.exemptions", targets=list(settings.target_allow), http=settings.allow_http_targets)
            front.app = app
            log.info("api.started", port=await bound)
            await asked
            log.info("api.draining", in_flight=vitals.in_flight)
            await vitals.emptied(DRAIN_WITHIN)
            serving.cancel()  # before the clients are closed that a request may use
            await asyncio.wait({serving})
    finally:
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)


async def opened(
    stack: AsyncExitStack, settings: Settings, vitals: Vitals, asked: asyncio.Task[bool]
) -> ASGIApp | None:
    """The application, once Redis is there and stays for the checks at the start; None when it is to end first."""
    assert settings.redis_url is not None
    while True:
        waiting = asyncio.create_task(wait_for_redis(settings.redis_url, security_of(settings)))
        try:
            await asyncio.wait({waiting, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                return None
            waiting.result()
            return await stack.enter_async_context(open_api(settings, vitals))
        except StoreUnavailable as error:  # gone again, or full
            structlog.get_logger("relay").warning("waiting_for_redis", error=error.detail, pause_s=AGAIN)
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        if (await asyncio.wait({asked}, timeout=AGAIN))[0]:
            return None


async def wait_for_redis(url: str, security: Security) -> None:
    """A service waits for its store, with back-off; only a command gives up."""
    pause = 0.25
    while True:
        try:
            await wait_until_up(url, 5.0, security)
            return
        except StoreUnavailable as error:
            structlog.get_logger("relay").warning("waiting_for_redis", error=error.detail, pause_s=pause)
        await asyncio.sleep(pause)
        pause = min(15.0, 2 * pause)
