"""Ringing arq: the only module that enqueues. A ring starts a pump; it carries no data, and may be lost or doubled."""

import json
import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix
from redis.exceptions import RedisError

from relay import metrics
from relay.errors import StoreUnavailable
from relay.store.connecting import Security, open_client

#: A ring that nobody heard dies after this long (ms): what is due is rung again by the sweep.
RING_EXPIRES_MS = 600_000

#: When a ring is due that is to be heard at once. arq compares it with the clock of the machine that hears it, which
#: may be minutes behind that of the machine that rings; 0 would be no time to it.
_LONG_AGO = datetime.fromtimestamp(0.001, UTC)

#: How many of a queue's first jobs a worker looks at.
READ_LIMIT = 200

KINDS = ("poll", "deliver", "maintain")


def queue_name(kind: str) -> str:
    """The arq queue of one kind of pump: a slow receiver must not delay polling, and each kind scales alone."""
    return f"arq:relay:{kind}"


def serialize(job: dict[str, Any]) -> bytes:
    """JSON instead of pickle: nothing that Redis holds is ever executed."""
    return json.dumps(job, default=repr).encode()


def deserialize(raw: bytes) -> dict[str, Any]:
    job: dict[str, Any] = json.loads(raw)
    return job


def open_pool(url: str, kind: str, security: Security | None = None) -> ArqRedis:
    """arq's client over the relay's own connection options (timeouts, keepalive, retries, TLS host check)."""
    pool = open_client(url, ArqRedis, security)
    assert isinstance(pool, ArqRedis)
    pool.job_serializer = serialize
    pool.job_deserializer = deserialize
    pool.default_queue_name = queue_name(kind)
    pool.expires_extra_ms = RING_EXPIRES_MS
    return pool


class Ringer:
    def __init__(self, pool: ArqRedis) -> None:
        self._pool = pool

    async def ring(self, kind: str, slot: int, *, tick: int | None = None, defer_s: float = 0.0) -> bool:
        """Ask for a pump in a slot; says whether the ring was sent. With `tick` the same ring is sent once only; else
        each is its own.

        Never raises: a ring that cannot be sent is sent again by the sweep.
        """
        name = f"pump:{kind}:{slot}:{secrets.token_hex(6) if tick is None else tick}"
        try:
            job = await self._pool.enqueue_job(
                *("pump", kind, slot),
                _job_id=name,
                _queue_name=queue_name(kind),
                _defer_by=defer_s or None,
                _defer_until=None if defer_s else _LONG_AGO,
                _expires=timedelta(seconds=defer_s, milliseconds=RING_EXPIRES_MS),
            )
        except (RedisError, OSError) as error:
            metrics.rings.labels(kind, "failed").inc()
            structlog.get_logger("relay.queue").debug("ring.failed", kind=kind, error=repr(error))
            return False
        metrics.rings.labels(kind, "sent" if job is not None else "unknown").inc()
        return job is not None

    async def depths(self) -> dict[str, dict[str, int]]:
        """arq's jobs of each kind of pump by state. A queue holds what runs as well; that stands at its head."""
        now_ms, found = time.time_ns() // 1_000_000, {}
        try:
            for kind in KINDS:
                first = await self._pool.zrangebyscore(queue_name(kind), "-inf", now_ms, start=0, num=READ_LIMIT)
                names = [in_progress_key_prefix + raw.decode() for raw in first]
                running = int(await self._pool.exists(*names)) if names else 0
                begun = await self._pool.zcount(queue_name(kind), "-inf", now_ms)
                whole = await self._pool.zcard(queue_name(kind))
                found[kind] = {"due": begun - running, "running": running, "scheduled": whole - begun}
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis is not available: {error}") from error
        return found
