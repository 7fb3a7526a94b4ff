"""Redis watched from every process: gauges by INFO, and the pressure that makes it shed."""

import asyncio

import structlog

from relay import metrics
from relay.errors import RelayError
from relay.model.pressure import Pressure
from relay.store.redis import Db
from relay.store.server import Server, read

#: Seconds between two readings; INFO costs Redis some 0.1 ms.
EVERY = 5.0


class Watch:
    """Reads until stopped. While Redis is away the gauges stay, and so does the pressure."""

    def __init__(self, db: Db, pressure: Pressure) -> None:
        self._db = db
        self._pressure = pressure
        self._most_replicas = 0
        self._stopping = asyncio.Event()
        self._log = structlog.get_logger("relay.watching")

    async def run(self, every: float = EVERY) -> None:
        while not self._stopping.is_set():
            try:
                self.take(await read(self._db))
            except RelayError as error:
                self._log.debug("redis.not_read", error=error.detail)
            try:
                async with asyncio.timeout(every):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    def stop(self) -> None:
        """A flag, not a cancellation: redis-py may swallow one inside a command."""
        self._stopping.set()

    def take(self, server: Server) -> None:
        """Set the gauges and the pressure by one reading."""
        before = self._pressure.shedding
        self._pressure.measured(server.memory_ratio)
        if before != self._pressure.shedding:
            event = "redis.shedding" if self._pressure.shedding else "redis.shedding_ended"
            self._log.warning(event, used=server.memory_used, limit=server.memory_limit)
        self._most_replicas = max(self._most_replicas, server.replicas_online)
        lost = self._most_replicas - server.replicas_online if server.primary else int(not server.primary_link_up)
        metrics.shedding.set(self._pressure.shedding)
        metrics.redis_policy_ok.set(server.policy_ok)
        metrics.redis_persistence_ok.set(server.persistence_ok)
        metrics.redis_evicted.set(server.evicted)
        metrics.redis_rejected.set(server.rejected)
        metrics.redis_replica_link.set(lost)
        metrics.redis_memory_ratio.set(server.memory_ratio)
        metrics.redis_memory_bytes.set(server.memory_used)
        metrics.redis_memory_limit.set(server.memory_limit)
        metrics.redis_clients.set(server.clients)
