"""The gauges of the whole deployment. Every process with a maintain pump samples them by itself: whoever runs the pump
changes every minute, and the gauge of one that does not sample any more would stand for ever."""

import asyncio
import time
from collections.abc import Mapping

import structlog

from relay import labels, metrics
from relay.errors import RelayError
from relay.queue import Ringer
from relay.store.backlog import Backlog
from relay.store.redis import Db
from relay.store.sealed import Census
from relay.store.server import Work, read_work

#: Seconds between two samples, and the share of time that sampling may take where there is much to look at.
EVERY, SHARE = 5.0, 0.05


class Sampler:
    """When Redis does not answer, the gauges keep their values and the time of the sample stays: 0 would say that
    nothing waits."""

    def __init__(self, db: Db, ringer: Ringer) -> None:
        self._db = db
        self._backlog = Backlog(db)
        self._ringer = ringer
        self._census = Census(db, _sealed)
        self._sampled: float | None = None
        self._worked: Work | None = None
        self._log = structlog.get_logger("relay.sampling")
        metrics.budget_remaining_ratio.set(1)  # until the first sample: 0 would say that a credential is paused

    async def run(self, stop: asyncio.Event, every: float = EVERY) -> None:
        """Sample until `stop`: a flag, as redis-py may swallow a cancellation."""
        while not stop.is_set():
            began = time.monotonic()
            await self.sample()
            pause = max(every, (time.monotonic() - began) / SHARE)
            try:
                async with asyncio.timeout(pause):
                    await stop.wait()
            except TimeoutError:
                continue

    async def sample(self) -> None:
        """Set the gauges. Never raises: what shows trouble must not make any."""
        try:
            await self._deliveries()
            await self._polling()
            await self._queues()
            await self._redis()
            await self._census.step()
        except RelayError as error:
            metrics.backlog_errors.inc()
            self._log.warning("sample.failed", error=error.detail)
        except Exception:
            metrics.backlog_errors.inc()
            self._log.exception("sample.failed")
        else:
            metrics.backlog_sampled.set(time.time())

    async def _deliveries(self) -> None:
        found = await self._backlog.summary()
        for state, waiting in found.waiting.items():
            metrics.waiting_events.labels(state).set(waiting.events)
            metrics.oldest_waiting_age.labels(state).set(found.age_s(state))
        metrics.ledger_imbalance.set(found.imbalance)
        metrics.subscriptions.labels("enabled").set(found.enabled)
        metrics.subscriptions.labels("disabled").set(found.disabled)
        for state in ("closed", "open", "half_open"):
            metrics.circuits.labels(state).set(found.circuits[state])
        metrics.parked_lanes.set(found.parked_lanes)
        metrics.dead_letters.set(found.dead)
        metrics.log_events.set(await self._backlog.log_events())

    async def _polling(self) -> None:
        found = await self._backlog.polling()
        now = time.monotonic()
        if found.idle and self._sampled is not None:
            metrics.budget_idle.inc(min(now - self._sampled, 3 * EVERY))
        self._sampled = now
        metrics.budget_rate.set(found.budget)
        metrics.budget_remaining.set(max(0.0, found.remaining))
        metrics.budget_remaining_ratio.set(found.least)
        for state in labels.CREDENTIAL_STATES:
            metrics.credentials.labels(state).set(found.credentials[state])
        metrics.orders_tracked.labels("active").set(found.active)
        metrics.orders_tracked.labels("suspended").set(found.suspended)
        metrics.orders_due.set(found.due)
        metrics.oldest_due_age.set(found.oldest_s)

    async def _redis(self) -> None:
        work = await read_work(self._db)
        if self._worked is not None:
            for kind, seconds in work.slowest_since(self._worked).items():
                metrics.redis_slowest.labels(kind).set(seconds)
        self._worked = work
        metrics.redis_commands.set(work.commands)
        metrics.redis_cpu.set(work.cpu_s)

    async def _queues(self) -> None:
        for queue, depth in (await self._ringer.depths()).items():
            for state, jobs in depth.items():
                metrics.arq_jobs.labels(queue, state).set(jobs)


def _sealed(records: Mapping[str, int]) -> None:
    metrics.sealed_records.clear()
    for key_id, count in records.items():
        metrics.sealed_records.labels(key_id).set(count)
