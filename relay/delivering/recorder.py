"""Writing down what a runner achieved: gathered for some tens of milliseconds, then one script, which renews the
lease."""

import asyncio
import time
from collections.abc import Callable, Collection

import structlog

from relay import metrics
from relay.clock import Clock
from relay.delivering.gate import Gate
from relay.delivering.jobs import Batch, LeaseLost, Limits
from relay.delivering.window import Window
from relay.errors import StoreUnavailable
from relay.model.orders import LaneId
from relay.store.deliveries import Deliveries, Owned, Progress, Recorded

#: How long results are gathered before they are written (seconds).
GATHER = 0.02


class Recorder:
    """`batch` is what is gathered now; `lost` says that nothing may be sent or written any more."""

    def __init__(
        self,
        owned: Owned,
        deliveries: Deliveries,
        window: Window,
        gate: Gate,
        *,
        clock: Clock,
        limits: Limits,
        flying: Callable[[], int],
        taken: Callable[[Batch, Recorded], None],
        wake: Callable[[], None],
    ) -> None:
        """`flying` tells how many posts are in flight, `taken` is told of each batch that was written, `wake` that
        there is news."""
        self.batch = Batch()
        self.lost = False
        self._owned = owned
        self._deliveries = deliveries
        self._window = window
        self._gate = gate
        self._clock = clock
        self._limits = limits
        self._flying = flying
        self._taken = taken
        self._wake = wake
        self._written = (owned.position, owned.sequence)
        self._leased_until = time.monotonic() + limits.lease_ms / 1000
        self._serial = 0
        self._writing = asyncio.Lock()
        self._closing = False

    @property
    def leased(self) -> bool:
        """Whether the lease still holds by this process's own clock: it may have stood still (SIGSTOP, a paused
        machine), and somebody else may own the subscription by now."""
        return time.monotonic() < self._leased_until

    @property
    def pending(self) -> bool:
        return bool(self.batch) or self._window.ready

    def unwritten(self, lanes: Collection[LaneId]) -> bool:
        """Whether something about these lanes is gathered, or just being written."""
        return self._writing.locked() or any(operation.order_id in lanes for operation in self.batch.operations)

    def close(self) -> None:
        self._closing = True

    async def run(self) -> None:
        """Write whenever something was gathered, and in time to keep the lease, until closed or lost."""
        renew_s = self._limits.lease_ms / 3000
        last = time.monotonic()
        try:
            while not (self.lost or self._closing):
                await asyncio.sleep(GATHER)
                if self.pending or time.monotonic() - last >= renew_s:
                    await self.write()
                    last = time.monotonic()
        except StoreUnavailable as error:
            structlog.get_logger("relay.delivering").warning(
                "delivery.store_unavailable", subscription_id=self._owned.subscription_id, error=error.detail
            )
            self.lost = True
        finally:
            self._wake()

    async def flush(self) -> None:
        """Return when all that was gathered until now is written. Raises LeaseLost."""
        async with self._writing:
            pass
        if self.pending:
            await self.write()

    async def write(self) -> None:
        """Write what is gathered. Raises LeaseLost, and then nothing was written."""
        async with self._writing:  # batches are written in the order in which they were gathered
            batch, self.batch = self.batch, Batch()
            progress = self._progress(batch)
            asked = time.monotonic()
            recorded = await self._deliveries.record(self._owned, progress, lease_ms=self._limits.lease_ms)
            if recorded is None:
                self.lost = True
                metrics.leases_lost.labels("deliver").inc()
                metrics.redeliveries.labels("lease_lost").inc(batch.delivered + self._flying())
                raise LeaseLost
            self._leased_until = asked + self._limits.lease_ms / 1000
            self._clock.anchor(recorded.now_ms, asked)
        for notice in batch.notices:
            metrics.events_committed.labels(notice.type).inc()
        self._taken(batch, recorded)

    def _progress(self, batch: Batch) -> Progress:
        advance = self._window.advance()
        moved = self._written != (advance.position, advance.sequence)
        self._written = (advance.position, advance.sequence)
        self._serial += 1
        counts = {
            "matched": advance.matched,
            "delivered": batch.delivered,
            "dead": batch.dead,
            "skipped": advance.skipped + batch.skipped,
            "replayed": batch.replayed,
        }
        return Progress(
            serial=self._serial,
            position=advance.position if moved else "",
            sequence=advance.sequence,
            counts=counts,
            last_error=batch.last_error,
            disable=batch.disable,
            health=batch.health,
            url=batch.url,
            tat_ms=self._gate.tat_ms if self._gate.limited else None,
            beat_ms=batch.beat_ms,
            flying=self._flying(),
            wake=batch.wake,
            latest=batch.latest,
            ahead=advance.ahead,
            passed=advance.passed,
            notes=batch.notes,
            operations=batch.operations,
            notices=batch.notices,
        )
