"""Who gets a place to post: hosts, endpoints that hang, and fair turns. Pure asyncio, no clock."""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest

from relay.delivering.places import Places


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 10))


async def _hold(stack: AsyncExitStack, places: Places, turn: str, host: str = "", doubtful: bool = False) -> bool:
    """Whether a place was free at once; it is held until the stack ends."""
    getting = asyncio.ensure_future(
        stack.enter_async_context(places.hold(turn, host or f"{turn}.example.com", doubtful=doubtful))
    )
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    if getting.done():
        return True
    getting.cancel()
    await asyncio.gather(getting, return_exceptions=True)
    return False


@pytest.mark.parametrize("hanging", [1, 8, 64, 400])
def test_endpoints_that_hang_all_at_once_leave_places_for_the_others(hanging: int) -> None:
    async def main() -> None:
        places = Places(512, 512)
        async with AsyncExitStack() as stack:
            for _ in range(64):
                for number in range(hanging):
                    await _hold(stack, places, f"hanging-{number}")
            for number in range(20):
                async with AsyncExitStack() as post:  # a healthy endpoint gives its place back at once
                    assert await _hold(post, places, f"healthy-{number}"), number

    run(main())


def test_one_busy_endpoint_has_all_that_a_subscription_may_have() -> None:
    async def main() -> None:
        places = Places(512, 512)
        async with AsyncExitStack() as stack:
            assert [await _hold(stack, places, "busy") for _ in range(64)] == [True] * 64

    run(main())


def test_a_single_place_serves_one_after_another() -> None:
    async def main() -> None:
        places, served = Places(1, 1), []

        async def post(turn: str) -> None:
            async with places.hold(turn, "h", doubtful=False):
                await asyncio.sleep(0)
                served.append(turn)

        await asyncio.gather(*(post(turn) for turn in ["a"] * 4 + ["b"] * 2))

        assert sorted(served) == ["a"] * 4 + ["b"] * 2
        assert "b" in served[:3]  # in turns

    run(main())


def test_a_host_has_its_share_over_all_subscriptions_and_a_doubtful_one_half_of_all() -> None:
    async def main() -> None:
        places = Places(40, 5)
        async with AsyncExitStack() as stack:
            same_host = [await _hold(stack, places, f"s-{n}", "one.example.com") for n in range(8)]
            doubtful = [await _hold(stack, places, f"d-{n}", doubtful=True) for n in range(30)]

            assert same_host == [True] * 5 + [False] * 3
            assert sum(doubtful) == 20
            assert await _hold(stack, places, "healthy")

    run(main())


def test_whoever_gives_up_waiting_takes_no_place_with_it() -> None:
    async def main() -> None:
        places = Places(1, 1)
        async with places.hold("a", "h", doubtful=False):
            waiting = [asyncio.create_task(places.hold("b", "h", doubtful=False).__aenter__()) for _ in range(3)]
            await asyncio.sleep(0)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        async with places.hold("c", "h", doubtful=False):
            pass

    run(main())
