"""A process around arq's worker that no Redis outage ends.

arq's loop has no error handling: a Redis that restarts ends it. The supervisor rebuilds client and worker with a
capped, jittered back-off, and never exits for a Redis error. It owns SIGTERM: the pumps are told to drain, arq stops
picking up rings, and only then is anything closed.
"""

import asyncio
import random
import signal
import time
from contextlib import suppress
from typing import Any

import structlog
from arq import cron, func
from arq.worker import Worker
from redis.exceptions import OutOfMemoryError, RedisError

from relay import metrics
from relay.queue import READ_LIMIT, deserialize, open_pool, queue_name, serialize
from relay.settings import Settings
from relay.store.connecting import security_of
from workers.context import Process
from workers.pumps import ensure_maintained, pump

#: A pump's arq timeout exceeds its slice, the longest wait of its handing over, and that of its draining after it.
SLACK_S = 30
#: How long arq's loop may take to end before it is told again (seconds).
ASK_AGAIN = 0.5
#: Longest pause between two tries to reach Redis (seconds).
LONGEST_PAUSE = 15.0


class Pulse:
    """What `/livez` asks of a supervisor: when arq's loop last turned, and whether it is in declared back-off, which
    lasts until the loop turns (again)."""

    def __init__(self, kind: str) -> None:
        self.turned_at = time.monotonic()
        self.backing_off = True
        self._gauge = metrics.worker_heartbeat.labels(kind)

    def turn(self) -> None:
        self.turned_at = time.monotonic()
        self.backing_off = False
        self._gauge.set(time.time())

    @property
    def alive(self) -> bool:
        return self.backing_off or time.monotonic() - self.turned_at < 60


class PulsingWorker(Worker):
    """arq's worker, telling the pulse whenever its loop turns, and counting the rings that came to nothing."""

    pulse: Pulse
    kind: str

    async def heart_beat(self) -> None:
        self.pulse.turn()
        try:
            await super().heart_beat()
        except OutOfMemoryError:  # arq's health key finds no room: no reason to end the pumps that drain
            structlog.get_logger("workers").warning("worker.redis_full")

    async def finish_failed_job(self, job_id: str, result_data: bytes | None) -> None:
        if result_data is not None and "job expired" in str(deserialize(result_data).get("r")):
            metrics.arq_expired.labels(self.kind).inc()
        await super().finish_failed_job(job_id, result_data)


def slots(kind: str, settings: Settings) -> int:
    """How many pumps of a kind run, over all processes."""
    return {"poll": settings.poll_pumps, "deliver": settings.deliver_pumps, "maintain": 1}[kind]


def worker_settings(kind: str, process: Process) -> dict[str, Any]:
    """arq's settings, each with its reason in docs/design.md."""
    settings = process.settings
    pumps = slots(kind, settings)
    crons = [cron(ensure_maintained, second=set(range(0, 60, 10)), run_at_startup=True, max_tries=1)]
    timeout = settings.slice + 2 * settings.delivery_timeout + SLACK_S
    return {
        "functions": [func(pump, name="pump", max_tries=1)],
        "cron_jobs": [*crons] if kind == "maintain" else None,
        "queue_name": queue_name(kind),
        "max_jobs": min(16, pumps + 4),
        "queue_read_limit": READ_LIMIT,
        "job_timeout": timeout,
        "poll_delay": 0.25,
        "retry_jobs": False,
        "max_tries": 1,
        "allow_abort_jobs": False,
        "keep_result": 0,
        "log_results": False,
        "job_completion_wait": round(settings.delivery_timeout + 20),
        "health_check_interval": 5,
        "job_serializer": serialize,
        "job_deserializer": deserialize,
        "handle_signals": False,
    }


async def supervise(kind: str, process: Process, draining: asyncio.Event, pulse: Pulse) -> None:
    """Run one kind of pump until `draining`. Raises only for what is no Redis or network error."""
    log = structlog.get_logger("workers").bind(kind=kind)
    pause = 0.5
    while not draining.is_set():
        began = time.monotonic()
        reason = await _run_once(kind, process, draining, pulse)
        if draining.is_set():
            return
        metrics.worker_restarts.labels(kind, reason).inc()
        pause = 0.5 if time.monotonic() - began > 60 else min(LONGEST_PAUSE, 2 * pause)
        log.warning("worker.restarting", reason=reason, pause_s=pause)
        pulse.backing_off = True
        with suppress(TimeoutError):
            async with asyncio.timeout(pause * random.uniform(0.5, 1)):
                await draining.wait()


async def _run_once(kind: str, process: Process, draining: asyncio.Event, pulse: Pulse) -> str:
    """One life of arq's worker; says why it ended."""
    assert process.settings.redis_url is not None
    pool = open_pool(process.settings.redis_url, kind, security_of(process.settings))
    worker = PulsingWorker(
        redis_pool=pool, ctx={"process": process, "draining": draining}, **worker_settings(kind, process)
    )
    worker.pulse, worker.kind = pulse, kind
    await _ring_all(kind, process)
    main, asked = asyncio.create_task(worker.async_run()), asyncio.create_task(draining.wait())
    try:
        await asyncio.wait({main, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not main.done():
            worker.handle_sig_wait_for_completion(signal.SIGTERM)
        while not (await asyncio.wait({main}, timeout=ASK_AGAIN))[0]:
            # arq cancels its loop once, and redis-py may swallow that inside a command.
            if worker.main_task is not None and all(task.done() for task in worker.tasks.values()):
                worker.main_task.cancel()
        await main
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
    except (RedisError, OSError, TimeoutError) as error:
        structlog.get_logger("workers").warning("worker.lost_redis", kind=kind, error=repr(error))
        return "redis"
    finally:
        left = [main, asked, *worker.tasks.values()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        with suppress(Exception, asyncio.CancelledError):
            await worker.close()
        await pool.aclose(close_connection_pool=True)
    return "ended"


async def _ring_all(kind: str, process: Process) -> None:
    """Start at once, and again when leases that a predecessor left behind have run out."""
    count = {"poll": process.settings.poll_pumps, "deliver": process.settings.deliver_pumps}.get(kind, 0)
    for slot in range(count):
        await process.ringer.ring(kind, slot)
        await process.ringer.ring(kind, slot, defer_s=process.settings.lease + 0.2)
