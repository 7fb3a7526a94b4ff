"""The maintain pump: the sweep that makes lost wake-ups harmless, and retention."""

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

from relay import metrics
from relay.model.orders import OrderId, RetailerId
from relay.queue import Ringer
from relay.store import keys
from relay.store.arms import fade
from relay.store.audit import AuditLog
from relay.store.bells import Bells
from relay.store.orders import Orders
from relay.store.redis import Db
from relay.store.retailers import OPERATOR
from relay.store.retention import Retention
from relay.store.slots import Slots

SWEEP_EVERY = 1.0
RETENTION_EVERY = 60.0


class MaintainPump:
    """Sweeps until told to stop. Everything it does may be done twice, late, or by two at once."""

    def __init__(
        self,
        db: Db,
        orders: Orders,
        slots: Slots,
        bells: Bells,
        ringer: Ringer,
        retention: Retention,
        *,
        pumps: Mapping[str, int],
        lease_s: float,
        retention_events_s: float,
        retention_orders_s: float,
        retention_audit_s: float,
    ) -> None:
        self._db = db
        self._orders = orders
        self._slots = slots
        self._bells = bells
        self._ringer = ringer
        self._retention = retention
        self._pumps = pumps
        self._lease_s = lease_s
        self._retention_events_s = retention_events_s
        self._retention_orders_s = retention_orders_s
        self._retention_audit_s = retention_audit_s
        self._audit = AuditLog(db)
        self._logger = structlog.get_logger("relay.maintaining")

    async def run(self, should_stop: Callable[[], bool]) -> None:
        trimmed = 0.0
        while not should_stop():
            began = time.monotonic()
            await self.sweep()
            if began - trimmed >= RETENTION_EVERY:
                trimmed = began
                await self.retain()
            await asyncio.sleep(max(0.0, SWEEP_EVERY - (time.monotonic() - began)))

    async def sweep(self) -> None:
        """Ring for slots without a pump, and for work that is due and that nobody has taken."""
        now_ms = await self._db.now_ms()
        tick = int(now_ms / 1000 / self._lease_s)
        for kind, count in self._pumps.items():
            for number in await self._slots.free(kind, count):
                if await self._ringer.ring(kind, number, tick=tick):
                    metrics.sweep_rung.labels(kind).inc()
        indexes = (keys.READY, keys.CREDENTIALS)
        ready, due, *late = await self._db.run_many(
            [["ZCOUNT", index, "-inf", at] for at in (now_ms, now_ms - SWEEP_EVERY * 1000) for index in indexes]
        )
        if ready:
            await self._bells.ring("deliver", min(ready, 8))
        if due:
            await self._bells.ring("poll")
        for kind, count in zip(("deliver", "poll"), late, strict=True):
            if count:
                metrics.sweep_rung.labels(kind).inc(count)

    async def retain(self) -> None:
        """Drop events, ended orders and audit entries whose time is over."""
        now_ms = await self._db.now_ms()
        keep_from = f"{now_ms - int(self._retention_events_s * 1000)}-0"
        dropped = 0
        await fade(self._db, [raw.decode() for raw in await self._db.run("ZRANGE", keys.RETAILERS, 0, -1)])
        for raw in [*await self._db.run("ZRANGE", keys.RETAILERS, 0, -1), keys.CANARY.encode()]:
            dropped += await self._retention.trim(RetailerId(raw.decode()), keep_from)
        oldest = f"{now_ms - int(self._retention_audit_s * 1000)}-0"
        for owner in [*await self._db.run("ZRANGE", keys.RETAILERS, 0, -1), OPERATOR.encode()]:
            await self._audit.trim(owner.decode(), oldest)
        over = now_ms - int(self._retention_orders_s * 1000)
        ended = await self._db.run("ZRANGEBYSCORE", keys.ENDED, "-inf", over, "LIMIT", 0, 1000)
        for raw in ended:
            retailer_id, _, order_id = raw.decode().partition("/")
            await self._orders.erase(RetailerId(retailer_id), OrderId(order_id))
        if dropped or ended:
            self._logger.info("retention.applied", events=dropped, orders=len(ended))
