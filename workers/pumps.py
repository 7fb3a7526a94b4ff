"""The arq function: take a slot, work one slice, hand over. What a slice does is `relay`'s business."""

import asyncio
import secrets
import time
from contextlib import suppress
from typing import Any

import structlog

from relay import metrics
from relay.delivering import DeliverPump
from relay.errors import StoreUnavailable
from relay.polling import PollPump
from relay.store.slots import Slots
from workers.context import Process


async def pump(ctx: dict[str, Any], kind: str, slot: int) -> None:
    """One slice of a pump of `kind` in `slot`. A surplus ring finds the slot taken and ends at once."""
    process: Process = ctx["process"]
    draining: asyncio.Event = ctx["draining"]
    held = None if draining.is_set() else await _take(process, kind, slot)
    if held is None:
        metrics.pump_slices.labels(kind, "surplus").inc()
        return
    rung_at = max(ctx["enqueue_time"].timestamp(), ctx["score"] / 1000)
    metrics.pump_wait.labels(kind).observe(max(0.0, time.time() - rung_at))
    structlog.contextvars.bind_contextvars(pump=f"{kind}/{slot}")
    done, handed = asyncio.Event(), asyncio.Event()
    began = time.monotonic()
    ends_at = began + process.settings.slice
    handing = asyncio.create_task(_hand_over(process, held, ends_at, done, handed))
    metrics.pumps_running.labels(kind).inc()
    reason = "failed"
    work = process.pump(kind)

    def over() -> bool:
        return draining.is_set() or held.lost or time.monotonic() >= ends_at

    try:
        await (work.run(over, draining.is_set) if isinstance(work, DeliverPump) else work.run(over))
        reason = "drained" if draining.is_set() else "lost" if held.lost and not handed.is_set() else "handed over"
    except StoreUnavailable as error:
        reason = "store_unavailable"
        structlog.get_logger("workers").warning("pump.store_unavailable", kind=kind, error=error.detail)
    finally:
        done.set()
        await asyncio.gather(held.renew_no_more(), handing)
        if not handed.is_set():
            metrics.pumps_running.labels(kind).dec()
        metrics.pump_slices.labels(kind, reason).inc()
        metrics.pump_slice_duration.labels(kind).observe(time.monotonic() - began)
        tally = dict(work.tally) if isinstance(work, PollPump) else {}
        structlog.get_logger("workers").info("pump.slice_ended", kind=kind, slot=slot, reason=reason, **tally)
    if reason != "store_unavailable" and not handed.is_set():
        await held.release()
        await process.ringer.ring(kind, slot)


async def _hand_over(
    process: Process, held: "_Slot", ends_at: float, done: asyncio.Event, handed: asyncio.Event
) -> None:
    """Give the slot away as soon as the slice is over, unless it is `done` before. What is still in flight then, at
    endpoints that hang, ends beside the next slice, and only retries of their own subscriptions wait for it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, ends_at - time.monotonic())):
            await done.wait()
            return
    with suppress(StoreUnavailable):  # else the lease runs out
        await held.release()
        handed.set()
        metrics.pumps_running.labels(held.kind).dec()
        await process.ringer.ring(held.kind, held.number)


class _Slot:
    """A slot that is ours, renewed until it is given back; `lost` when it went to somebody else."""

    def __init__(self, slots: Slots, kind: str, number: int, token: str, lease_ms: int) -> None:
        self.kind = kind
        self.number = number
        self.lost = False
        self._slots = slots
        self._token = token
        self._lease_ms = lease_ms
        self._enough = asyncio.Event()
        self._renewing = asyncio.create_task(self._renew())

    async def release(self) -> None:
        await self.renew_no_more()
        await self._slots.release(self.kind, self.number, self._token)

    async def renew_no_more(self) -> None:
        """Renewing takes a slot that is free, so none may come after the release."""
        self._enough.set()
        await self._renewing

    async def _renew(self) -> None:
        while not self._enough.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._lease_ms / 3000):
                    await self._enough.wait()
                    return
            try:
                if not await self._slots.renew(self.kind, self.number, self._token, self._lease_ms):
                    self.lost = True
                    return
            except StoreUnavailable:
                continue  # the lease may run out; the pump notices by its own calls


async def _take(process: Process, kind: str, number: int) -> _Slot | None:
    """None when another pump works in this slot."""
    token, lease_ms = secrets.token_hex(8), round(process.settings.lease * 1000)
    if not await process.slots.take(kind, number, token, lease_ms):
        return None
    return _Slot(process.slots, kind, number, token, lease_ms)


async def ensure_maintained(ctx: dict[str, Any]) -> None:
    """arq's cron calls this every ten seconds: the sweep survives the loss of every key that arq has."""
    await pump(ctx, "maintain", 0)
