"""What the probes ask of a process: does its loop turn, may it be sent work, is it about to end.

Ready is latched: until Redis has taken one write (address, password and rights are right then) a process is not ready,
and a wrong password stops a rollout. A later outage of Redis, which all processes share, makes none of them unready.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from redis.exceptions import RedisError

from relay import metrics
from relay.errors import StoreUnavailable
from relay.store import keys
from relay.store.redis import Db

#: How often the event loop's timer fires (seconds), and how late it may be while the process is ready.
TICK, LATEST = 0.25, 1.0
#: How often Redis is asked whether it is there (seconds).
PROBE_EVERY = 5.0
#: How soon it has to answer, and how often it is asked while it is away (seconds).
PROBE_WITHIN, AWAY_EVERY = 3.0, 1.0
#: How long `/readyz` waits for Redis's first write (seconds): shorter than a probe does.
LATCH_WITHIN = 1.0
#: API requests in flight above which a process asks to be given no more.
MOST_IN_FLIGHT = 500


class Vitals:
    """One per process, made in its event loop. `in_flight` counts the API's requests."""

    def __init__(self, db: Db | None = None, *, most_in_flight: int = MOST_IN_FLIGHT) -> None:
        self.draining = asyncio.Event()
        self.in_flight = 0
        #: Redis did not answer the last probe in time: requests need not find out one by one.
        self.redis_away = False
        self._most_in_flight = most_in_flight
        self._db = db
        self._empty = asyncio.Event()
        self._latched = False
        self._latching: asyncio.Task[None] | None = None
        self._lag = 0.0
        self._expected: float | None = None

    def drain(self) -> None:
        """The process is about to end: it finishes what is in flight, and is not ready any more."""
        self.draining.set()
        metrics.draining.set(1)

    @property
    def lag(self) -> float:
        """How late the timer fired last, or is at the moment (seconds)."""
        overdue = 0.0 if self._expected is None else time.monotonic() - self._expected
        return max(self._lag, overdue)

    async def ready(self) -> bool:
        if self.draining.is_set() or self.lag >= LATEST:
            return False
        # What piles up because Redis hangs is no reason either: it piles up everywhere.
        if self.in_flight >= self._most_in_flight and not self.redis_away:
            return False
        if not self._latched and self._db is not None:
            # One write at a time, however often it is asked: on a Redis that hangs it takes a good part of a minute.
            if self._latching is None or self._latching.done():
                self._latching = asyncio.create_task(self._latch(self._db))
            await asyncio.wait({self._latching}, timeout=LATCH_WITHIN)
        return self._latched

    async def _latch(self, db: Db) -> None:
        with suppress(StoreUnavailable, RedisError):
            await db.run("SET", keys.SCRATCH, 1, "EX", 60)
            self._latched = True

    def entered(self) -> None:
        self.in_flight += 1
        metrics.http_in_progress.set(self.in_flight)

    def left(self) -> None:
        self.in_flight -= 1
        metrics.http_in_progress.set(self.in_flight)
        if not self.in_flight:
            self._empty.set()

    async def emptied(self, within: float) -> None:
        """Return when no request is in flight any more, or it took too long."""
        self._empty.clear()
        if self.in_flight:
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await self._empty.wait()

    @asynccontextmanager
    async def timing(self) -> AsyncIterator[None]:
        """Measure how late the event loop is."""
        task = asyncio.create_task(self._time())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _time(self) -> None:
        while True:
            self._expected = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            self._lag = max(0.0, time.monotonic() - self._expected)
            metrics.loop_lag.observe(self._lag)

    @asynccontextmanager
    async def watching(self, db: Db) -> AsyncIterator[None]:
        """Ask Redis now and then whether it is there; `ready` asks it too from here on."""
        self._db = db
        metrics.redis_pool_in_use.set_function(lambda: db.pool[0])
        metrics.redis_pool_max.set(db.pool[1])
        stop = asyncio.Event()
        task = asyncio.create_task(self._probe(db, stop))
        try:
            yield
        finally:
            stop.set()  # no cancellation: redis-py may swallow one inside a command
            await asyncio.wait({task} if self._latching is None else {task, self._latching})

    async def _probe(self, db: Db, stop: asyncio.Event) -> None:
        asking: asyncio.Task[bool] | None = None
        while not stop.is_set():
            asking = asking or asyncio.create_task(_answers(db))
            for _ in range(
                2
            ):  # where this loop itself stood still, the answer lies there and is read by the second wait
                await asyncio.wait({asking}, timeout=PROBE_WITHIN / 2)
            self.redis_away = not (asking.done() and asking.result())
            metrics.redis_up.set(not self.redis_away)
            if asking.done():
                asking = None
            with suppress(TimeoutError):
                async with asyncio.timeout(AWAY_EVERY if self.redis_away else PROBE_EVERY):
                    await stop.wait()
        if asking is not None:
            await asking


async def _answers(db: Db) -> bool:
    try:
        await db.run("PING")
    except (StoreUnavailable, RedisError):
        return False
    return True
