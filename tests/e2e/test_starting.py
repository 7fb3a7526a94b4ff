"""Redis goes away between the moment it answered and the checks at the start: a service waits again and goes on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from relay.cli import api_process
from relay.errors import StoreUnavailable
from relay.settings import Settings
from relay.vitals import Vitals
from workers import __main__ as worker

Opening = Callable[..., AbstractAsyncContextManager[Any]]


def interrupted(times: int) -> tuple[Opening, list[int]]:
    """What opens a process, and how often it was tried."""
    tried: list[int] = []

    @asynccontextmanager
    async def opening(*_: Any) -> AsyncIterator[str]:
        tried.append(len(tried))
        if len(tried) <= times:
            raise StoreUnavailable("Redis is not available")
        yield "open"

    return opening, tried


def test_a_worker_waits_again(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opening, tried = interrupted(2)
    monkeypatch.setattr(worker, "open_process", opening)
    monkeypatch.setattr(worker, "AGAIN", 0.01)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            process: object = await worker.opened(stack, Settings(redis_url=redis_url), asyncio.Event())
            assert process == "open"
        assert tried == [0, 1, 2]

    asyncio.run(main())


def test_the_api_waits_again(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opening, tried = interrupted(2)
    monkeypatch.setattr(api_process, "open_api", opening)
    monkeypatch.setattr(api_process, "AGAIN", 0.01)

    async def main() -> None:
        vitals, settings = Vitals(), Settings(redis_url=redis_url)
        asked = asyncio.create_task(vitals.draining.wait())
        async with AsyncExitStack() as stack:
            app: object = await api_process.opened(stack, settings, vitals, asked)
            assert app == "open"
        assert tried == [0, 1, 2]
        vitals.drain()
        await asked
        monkeypatch.setattr(api_process, "open_api", interrupted(9)[0])
        async with AsyncExitStack() as stack:
            assert await api_process.opened(stack, settings, vitals, asked) is None

    asyncio.run(main())
