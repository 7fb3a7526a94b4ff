"""The start of a service: it waits for its store, with back-off, and opens what it works with. Only a command gives up.

Redis may go away between its first answer and the checks that opening makes: then the wait begins again.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import TypeVar

import structlog

from relay.errors import StoreUnavailable
from relay.settings import Settings
from relay.store.connecting import Security, security_of
from relay.store.redis import wait_until_up

#: How long one try to reach Redis may take, and the first and longest pause between two (seconds).
TRY_WITHIN, FIRST_PAUSE, LONGEST_PAUSE = 5.0, 0.25, 15.0
#: How long is waited before a start that Redis interrupted is tried again (seconds).
AGAIN = 0.5
#: What the log calls the wait.
WORD = "waiting_for_redis"

T = TypeVar("T")


async def opened(
    stack: AsyncExitStack,
    opening: Callable[[], AbstractAsyncContextManager[T]],
    settings: Settings,
    draining: asyncio.Event,
    *,
    word: str = WORD,
) -> T | None:
    """What `opening` opens, on the stack, once Redis is there and stays for the checks; None when the process is to end
    first. `word` is the log's."""
    assert settings.redis_url is not None
    while await wait_for_redis(settings.redis_url, security_of(settings), draining, word=word):
        try:
            return await stack.enter_async_context(opening())
        except StoreUnavailable as error:  # gone again, or full
            structlog.get_logger("relay").warning(word, error=error.detail, pause_s=AGAIN)
        await _pause(AGAIN, draining)
    return None


async def wait_for_redis(url: str, security: Security, draining: asyncio.Event, *, word: str = WORD) -> bool:
    """Return when Redis answers (True), or when the process is to end first (False)."""
    pause = FIRST_PAUSE
    while not draining.is_set():
        try:
            if await _answers(url, security, draining):
                return True
        except StoreUnavailable as error:
            structlog.get_logger("relay").warning(word, error=error.detail, pause_s=pause)
        await _pause(pause, draining)
        pause = min(LONGEST_PAUSE, 2 * pause)
    return False


async def _answers(url: str, security: Security, draining: asyncio.Event) -> bool:
    """One try; False when the process is to end before it succeeded. Raises StoreUnavailable."""
    trying, asked = asyncio.create_task(wait_until_up(url, TRY_WITHIN, security)), asyncio.create_task(draining.wait())
    try:
        await asyncio.wait({trying, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not trying.done():
            return False
        trying.result()
        return not draining.is_set()
    finally:
        for task in (trying, asked):
            task.cancel()
        await asyncio.gather(trying, asked, return_exceptions=True)


async def _pause(seconds: float, draining: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await draining.wait()
