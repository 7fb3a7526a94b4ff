"""Redis goes away between the moment it answered and the checks at the start: a service waits again and goes on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from relay.errors import StoreUnavailable
from relay.settings import Settings
from relay.store.starting import opened

Opening = Callable[[], AbstractAsyncContextManager[str]]


def interrupted(times: int, then: Callable[[], None] = lambda: None) -> tuple[Opening, list[int]]:
    """What opens a process, and how often it was tried. `then` is called before it fails for the last time."""
    tried: list[int] = []

    @asynccontextmanager
    async def opening() -> AsyncIterator[str]:
        tried.append(len(tried))
        if len(tried) <= times:
            if len(tried) == times:
                then()
            raise StoreUnavailable("Redis is not available")
        yield "open"

    return opening, tried


def test_a_start_that_redis_interrupts_is_tried_again(redis_url: str) -> None:
    opening, tried = interrupted(2)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            assert await opened(stack, opening, Settings(redis_url=redis_url), asyncio.Event()) == "open"

    asyncio.run(main())
    assert tried == [0, 1, 2]


def test_who_is_to_end_meanwhile_opens_nothing(redis_url: str) -> None:
    async def main() -> None:
        draining = asyncio.Event()
        opening, tried = interrupted(2, draining.set)
        async with AsyncExitStack() as stack:
            assert await opened(stack, opening, Settings(redis_url=redis_url), draining) is None
            assert tried == [0, 1]
            assert await opened(stack, opening, Settings(redis_url=redis_url), draining) is None
            assert tried == [0, 1]

    asyncio.run(main())
