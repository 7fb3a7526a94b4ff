"""The arq function: take a slot, work one slice, hand over. What a slice does is `relay`'s business."""

import asyncio
import secrets
import time
from contextlib import suppress
from typing import Any

import structlog

from relay import metrics
from relay.errors import StoreUnavailable
from relay.polling import PollPump
from workers.context import Process


async def pump(ctx: dict[str, Any], kind: str, slot: int) -> None:
    """One slice of a pump of `kind` in `slot`. A surplus ring finds the slot taken and ends at once."""
    process: Process = ctx["process"]
    draining: asyncio.Event = ctx["draining"]
    token = secrets.token_hex(8)
    lease_ms = round(process.settings.lease * 1000)
    if draining.is_set() or not await process.slots.take(kind, slot, token, lease_ms):
        metrics.pump_slices.labels(kind, "surplus").inc()
        return
    rung_at = max(ctx["enqueue_time"].timestamp(), ctx["score"] / 1000)
    metrics.pump_wait.labels(kind).observe(max(0.0, time.time() - rung_at))
    structlog.contextvars.bind_contextvars(pump=f"{kind}/{slot}")
    lost, done, handed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    renewing = asyncio.create_task(_keep_slot(process, kind, slot, token, lease_ms, lost, done))
    began = time.monotonic()
    ends_at = began + process.settings.slice
    handing = asyncio.create_task(_hand_over(process, kind, slot, token, ends_at, done, handed))
    metrics.pumps_running.labels(kind).inc()
    reason = "failed"
    work = process.pump(kind)
    try:
        await work.run(lambda: draining.is_set() or lost.is_set() or time.monotonic() >= ends_at)
        reason = "drained" if draining.is_set() else "lost" if lost.is_set() and not handed.is_set() else "handed over"
    except StoreUnavailable as error:
        reason = "store_unavailable"
        structlog.get_logger("workers").warning("pump.store_unavailable", kind=kind, error=error.detail)
    finally:
        done.set()
        await asyncio.gather(renewing, handing)
        if not handed.is_set():
            metrics.pumps_running.labels(kind).dec()
        metrics.pump_slices.labels(kind, reason).inc()
        metrics.pump_slice_duration.labels(kind).observe(time.monotonic() - began)
        tally = dict(work.tally) if isinstance(work, PollPump) else {}
        structlog.get_logger("workers").info("pump.slice_ended", kind=kind, slot=slot, reason=reason, **tally)
    if reason != "store_unavailable" and not handed.is_set():
        await process.slots.release(kind, slot, token)
        await process.ringer.ring(kind, slot)


async def _hand_over(
    process: Process,
    kind: str,
    slot: int,
    token: str,
    ends_at: float,
    done: asyncio.Event,
    handed: asyncio.Event,
) -> None:
    """Give the slot away as soon as the slice is over, unless it is `done` before. What is still in flight then, at
    endpoints that hang, ends beside the next slice: only their own subscriptions wait for it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, ends_at - time.monotonic())):
            await done.wait()
            return
    with suppress(StoreUnavailable):  # else the lease runs out
        await process.slots.release(kind, slot, token)
        handed.set()
        metrics.pumps_running.labels(kind).dec()
        await process.ringer.ring(kind, slot)


async def _keep_slot(
    process: Process, kind: str, slot: int, token: str, lease_ms: int, lost: asyncio.Event, done: asyncio.Event
) -> None:
    """Renew the slot until `done`; `lost` is set when it went to somebody else."""
    while not done.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(lease_ms / 3000):
                await done.wait()
                return
        try:
            if not await process.slots.renew(kind, slot, token, lease_ms):
                lost.set()
                return
        except StoreUnavailable:
            continue  # the lease may run out; the pump notices by its own calls


async def ensure_maintained(ctx: dict[str, Any]) -> None:
    """arq's cron calls this every ten seconds: the sweep survives the loss of every key that arq has."""
    await pump(ctx, "maintain", 0)
