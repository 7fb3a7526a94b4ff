"""Trying again at one level, errors of a pipeline as they are, and rings that a machine with a slow clock hears."""

import asyncio
import time

import pytest
from redis.exceptions import ConnectionError, ResponseError

from relay.errors import StoreUnavailable
from relay.queue import Ringer, open_pool, queue_name
from relay.store.connecting import RETRIES, BoundedRetry
from relay.store.redis import Db, open_client


def test_what_fails_inside_of_a_try_is_not_tried_again_there() -> None:
    tries = {"outer": 0, "inner": 0}
    retry = BoundedRetry()

    async def nothing(_: object) -> None:
        pass

    async def inner() -> None:
        tries["inner"] += 1
        raise ConnectionError("away")

    async def outer() -> None:
        tries["outer"] += 1
        await retry.call_with_retry(inner, nothing)

    async def main() -> None:
        for _ in range(2):  # and what is over leaves nothing behind
            with pytest.raises(ConnectionError):
                await retry.call_with_retry(outer, nothing)

    asyncio.run(main())

    assert tries == {"outer": 2 * (1 + RETRIES), "inner": 2 * (1 + RETRIES)}


def test_an_error_in_a_pipeline_is_known_and_tells_no_arguments(redis_url: str) -> None:
    async def main() -> None:
        db = Db(open_client(redis_url))
        refuse = "return redis.error_reply(ARGV[1])"
        with pytest.raises(StoreUnavailable, match=r"^Redis refuses to write: MISCONF full"):
            await db.run_many([["PING"], ["EVAL", refuse, 0, "MISCONF full", "a-secret"]])
        with pytest.raises(ResponseError) as raised:
            await db.run_many([["EVAL", refuse, 0, "ERR other", "a-secret"], ["PING"]])
        assert "a-secret" not in str(raised.value)
        await db.aclose()

    asyncio.run(main())


def test_a_ring_is_due_for_whoever_hears_it_however_slow_its_clock(redis_url: str) -> None:
    async def main() -> None:
        pool = open_pool(redis_url, "poll")
        ringer = Ringer(pool)
        assert await ringer.ring("poll", 0)
        assert await ringer.ring("poll", 1, defer_s=60)
        rung = {name.split(b":")[2]: due for name, due in await pool.zrange(queue_name("poll"), 0, -1, withscores=True)}
        kept = {key.split(b":")[4]: await pool.pttl(key) async for key in pool.scan_iter("arq:job:*")}
        await pool.aclose(close_connection_pool=True)

        assert 0 < rung[b"0"] < 1000  # not 0, which arq takes for none
        assert rung[b"1"] > (time.time() + 50) * 1000
        assert 0 < kept[b"0"] <= 600_000 < kept[b"1"]

    asyncio.run(main())
