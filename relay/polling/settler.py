"""Arms on their way back: gathered for a moment, then written together."""

import asyncio

import structlog

from relay import metrics
from relay.errors import StoreUnavailable
from relay.polling.planner import Planner
from relay.store.arms import Arms
from relay.store.order_records import Settlement

#: Arms that are written at once: the script stays below a millisecond.
BATCH = 200
#: How long settled arms wait for company before they are written (seconds).
GATHER = 0.02


class Settler:
    """Writes settlements in batches until it is closed, and shares what the planner learnt."""

    def __init__(self, arms: Arms, planner: Planner) -> None:
        self._arms = arms
        self._planner = planner
        self._waiting: list[Settlement] = []
        self._woken = asyncio.Event()
        self._closing = False
        self._log = structlog.get_logger("relay.polling")

    def put(self, settlement: Settlement) -> None:
        self._waiting.append(settlement)
        self._woken.set()

    def close(self) -> None:
        """Write what waits, then end."""
        self._closing = True
        self._woken.set()

    async def run(self) -> None:
        while self._waiting or not self._closing:
            await self._woken.wait()
            if len(self._waiting) < BATCH and not self._closing:
                await asyncio.sleep(GATHER)
            try:
                await self._flush()
                await self._planner.exchange()
            except StoreUnavailable as error:  # what was not written falls due again with its leases
                self._log.warning("poll.store_unavailable", error=error.detail)

    async def _flush(self) -> None:
        self._woken.clear()
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            lost = await self._arms.settle(batch, self._planner.drain())
            if lost:
                metrics.leases_lost.labels("poll").inc(lost)
