"""The poll pump: a slice of claim → fetch → detect → commit.

    claim (one script a batch) ─▶ fetch, concurrently ─▶ same fingerprint? ── yes ─▶ settle (one script a batch)
                                                             │ no
                                                             ▼
                                            parse ─▶ load state ─▶ observe (pure) ─▶ commit (one script an order)
                                                                 ▲                   │ somebody was faster
                                                                 └───────────────────┘

A pump holds nothing that a crash could lose: an arm that is not put back falls due again when its lease ends.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
import xxhash
from prometheus_client import Counter as PrometheusCounter

from relay import metrics
from relay.access import AccessRefused
from relay.clock import Clock
from relay.errors import StoreUnavailable
from relay.model import lifecycle
from relay.model.lifecycle import Policy, Step
from relay.model.orders import Reading, Resource, Tracking, Trouble
from relay.store.bells import Bells
from relay.store.order_records import ClaimedArm, Commit, Settlement
from relay.store.orders import Orders
from relay.upstream.interface import Access, Fetched, Refusal, UnusableAnswer, Upstream

#: Arms a claim asks for at most: the script stays below a millisecond, and a claim costs 1/200 round trip an arm.
BATCH = 200
#: How long settled arms wait for company before they are written, and due ones before they are claimed (seconds).
GATHER = 0.02
#: How long the pump sleeps at most before it looks at the due times again, bell or no bell (seconds).
LONGEST_SLEEP = 0.5
#: How often a commit is decided anew when somebody else committed first.
COMMIT_TRIES = 8


class AccessSource(Protocol):
    """Gives the user's token for an arm. Raises AccessRefused (relay.access) when there is none to be had."""

    async def access(self, arm: ClaimedArm) -> Access: ...

    async def renewed(self, arm: ClaimedArm, refused: Access) -> Access | None:
        """After a 401: another token to try once, or None when this is the only one."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """`concurrency`: requests in flight per pump. `lease_ms`: how long a claimed arm is ours. `drain_s`: how long
    requests in flight may take to end once the pump is told to stop."""

    concurrency: int = 256
    lease_ms: int = 15_000
    drain_s: float = 5.0


class PollPump:
    """Polls until told to stop. One instance serves one slice."""

    def __init__(
        self,
        orders: Orders,
        upstream: Upstream,
        access: AccessSource,
        bells: Bells,
        *,
        clock: Clock,
        policy: Policy,
        limits: Limits,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._orders = orders
        self._upstream = upstream
        self._access = access
        self._bells = bells
        self._clock = clock
        self._policy = policy
        self._limits = limits
        self._dice = dice
        self._log = structlog.get_logger("relay.polling")
        self._in_flight: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._settlements: list[Settlement] = []
        self._unsettled = asyncio.Event()
        self._closing = False
        self.tally: Counter[str] = Counter()
        self._counters: dict[tuple[Resource, str], PrometheusCounter] = {}
        self._durations = {r: metrics.poll_duration.labels(r.value) for r in Resource}

    async def run(self, should_stop: Callable[[], bool]) -> None:
        """Work until `should_stop`, then finish what is in flight, write it down and return.

        Raises StoreUnavailable when Redis is gone; claimed arms then fall due with their leases.
        """
        settling = asyncio.create_task(self._settle_in_batches())
        try:
            while not should_stop():
                await self._turn()
            await self._drain()
        finally:
            for task in self._in_flight:
                task.cancel()
            await asyncio.gather(*self._in_flight, return_exceptions=True)
            # Not cancelled: a cancellation inside a Redis command may be swallowed by the client.
            self._closing = True
            self._unsettled.set()
            await settling

    async def _turn(self) -> None:
        room = self._limits.concurrency - len(self._in_flight)
        if room < min(self._limits.concurrency, BATCH) // 2:
            self._room.clear()
            await _first(self._room.wait(), LONGEST_SLEEP)
            return
        claim = await self._orders.claim(min(room, BATCH), lease_ms=self._limits.lease_ms, horizon_ms=100)
        self._clock.anchor(claim.now_ms)
        for arm in claim.arms:
            self._start(self._poll(arm))
        wait_s = LONGEST_SLEEP if claim.next_ms is None else (claim.next_ms - claim.now_ms) / 1000
        if wait_s > 0 and len(claim.arms) < BATCH:
            await self._bells.wait(["poll"], min(max(wait_s, GATHER), LONGEST_SLEEP))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._in_flight.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if len(self._in_flight) <= self._limits.concurrency - min(self._limits.concurrency, BATCH) // 2:
            self._room.set()

    async def _drain(self) -> None:
        if self._in_flight:
            await asyncio.wait(set(self._in_flight), timeout=self._limits.drain_s)

    # ── one arm ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _poll(self, arm: ClaimedArm) -> None:
        log = self._log
        try:
            await self._poll_once(arm)
        except asyncio.CancelledError:
            self._settle(Settlement(arm, 0))  # released: due at once, for whoever goes on
            raise
        except StoreUnavailable as error:
            log.warning("poll.store_unavailable", error=error.detail)
        except Exception:
            metrics.polls.labels(arm.resource.value, "failed").inc()
            log.exception(
                "poll.failed", retailer_id=arm.retailer_id, order_id=arm.order_id, resource=arm.resource.value
            )

    async def _poll_once(self, arm: ClaimedArm) -> None:
        early = (arm.send_at_ms - self._clock.now_ms()) / 1000
        if early > 0:
            await asyncio.sleep(early)
        started_ms = self._clock.now_ms()
        try:
            fetched = await self._fetch(arm)
        except AccessRefused as error:
            await self._refused(arm, error.code, error.detail, None)
            return
        self._durations[arm.resource].observe(fetched.duration_ms / 1000)
        if fetched.refusal is not None:
            await self._refused(arm, fetched.refusal.value, fetched.detail, fetched.retry_after_s)
            return
        fingerprint = xxhash.xxh3_128_hexdigest(fetched.raw).encode()
        if fingerprint == arm.fingerprint and arm.tracking is Tracking.ACTIVE:
            self._count(arm, "unchanged")
            self._settle(Settlement(arm, self._interval(arm), started_ms))
            return
        try:
            value = self._upstream.parse(arm.resource, fetched.raw, order_id=arm.order_id)
        except UnusableAnswer as error:
            await self._refused(arm, error.refusal.value, error.detail, None)
            return
        await self._observe(arm, Reading(arm.resource, value, started_ms), fingerprint)

    async def _fetch(self, arm: ClaimedArm) -> Fetched:
        access = await self._access.access(arm)
        fetched = await self._upstream.fetch(access, arm.order_id, arm.resource)
        if fetched.refusal is Refusal.UNAUTHORIZED:
            renewed = await self._access.renewed(arm, access)
            if renewed is not None:
                fetched = await self._upstream.fetch(renewed, arm.order_id, arm.resource)
        return fetched

    # ── a reading that may be news ──────────────────────────────────────────────────────────────────────────────

    async def _observe(self, arm: ClaimedArm, reading: Reading, fingerprint: bytes) -> None:
        for _ in range(COMMIT_TRIES):
            state = await self._orders.load_state(arm.retailer_id, arm.order_id)
            if state is None:
                self._count(arm, "gone")
                return
            step = lifecycle.observe(
                state, reading, now_ms=self._clock.now_ms(), policy=self._policy, random=self._dice
            )
            if step is None:
                self._count(arm, "stale")
                self._settle(Settlement(arm, self._interval(arm)))
                return
            if step.quiet:
                self._count(arm, "unchanged")
                delay = step.delays_ms.get(arm.resource) or 0
                self._settle(Settlement(arm, delay, reading.started_ms, fingerprint))
                return
            fingerprints = dict.fromkeys(step.forget, b"")
            fingerprints[arm.resource] = fingerprint if step.settled else b""
            commit = Commit(
                state,
                step.state,
                step.events,
                fingerprints=fingerprints,
                delays_ms=step.delays_ms,
                troubles={arm.resource: None},
                arm=arm,
            )
            result = await self._orders.commit(commit)
            metrics.commits.labels(result).inc()
            if result != "conflict":
                self._count(arm, "changed" if result == "ok" else "gone")
                self._told(arm, step)
                return
        self._log.warning("poll.contended", retailer_id=arm.retailer_id, order_id=arm.order_id)
        self._settle(Settlement(arm, 0))

    def _told(self, arm: ClaimedArm, step: Step) -> None:
        for event in step.events:
            metrics.events_committed.labels(event.type).inc()
        if step.events:
            self._log.info(
                "order.changed",
                retailer_id=arm.retailer_id,
                order_id=arm.order_id,
                resource=arm.resource.value,
                sequence=step.state.sequence,
                events=[event.type for event in step.events],
            )

    # ── a refusal ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _refused(self, arm: ClaimedArm, code: str, detail: str, retry_after_s: float | None) -> None:
        self._count(arm, code)
        metrics.orders_in_trouble.labels(code).inc()
        now_ms = self._clock.now_ms()
        trouble = lifecycle.troubled(arm.trouble, code, detail, now_ms=now_ms)
        if trouble.count == 1:
            self._log.warning(
                "poll.refused",
                retailer_id=arm.retailer_id,
                order_id=arm.order_id,
                resource=arm.resource.value,
                code=code,
                detail=detail,
            )
        delay = self._policy.cadence.retry_ms(arm.status, arm.resource, trouble.count, retry_after_s, self._dice)
        if code in lifecycle.SUSPENDING and now_ms - trouble.since_ms >= self._policy.patience_ms:
            await self._suspend(arm, code, detail, trouble)
        self._settle(Settlement(arm, delay, trouble=trouble))

    async def _suspend(self, arm: ClaimedArm, code: str, detail: str, trouble: Trouble) -> None:
        state = await self._orders.load_state(arm.retailer_id, arm.order_id)
        if state is None:
            return
        step = lifecycle.refuse(state, code, detail, trouble, now_ms=self._clock.now_ms(), policy=self._policy)
        if step is None:
            return
        fingerprints = dict.fromkeys(step.forget, b"")
        result = await self._orders.commit(Commit(state, step.state, step.events, fingerprints=fingerprints))
        metrics.commits.labels(result).inc()
        if result == "ok":  # else the next refusal tries again
            self._told(arm, step)

    # ── putting arms back ───────────────────────────────────────────────────────────────────────────────────────

    def _interval(self, arm: ClaimedArm) -> int:
        return self._policy.cadence.interval_ms(arm.status, arm.resource, self._dice)

    def _count(self, arm: ClaimedArm, outcome: str) -> None:
        self.tally[outcome] += 1
        counter = self._counters.get((arm.resource, outcome))
        if counter is None:  # looking a labelled counter up costs more than all the rest of an unchanged poll's books
            counter = self._counters[arm.resource, outcome] = metrics.polls.labels(arm.resource.value, outcome)
        counter.inc()

    def _settle(self, settlement: Settlement) -> None:
        self._settlements.append(settlement)
        self._unsettled.set()

    async def _settle_in_batches(self) -> None:
        while self._settlements or not self._closing:
            await self._unsettled.wait()
            if len(self._settlements) < BATCH and not self._closing:
                await asyncio.sleep(GATHER)
            try:
                await self._flush()
            except StoreUnavailable as error:  # what was not written falls due again with its leases
                self._log.warning("poll.store_unavailable", error=error.detail)

    async def _flush(self) -> None:
        self._unsettled.clear()
        while self._settlements:
            batch, self._settlements = self._settlements[:BATCH], self._settlements[BATCH:]
            lost = await self._orders.settle(batch)
            if lost:
                metrics.leases_lost.labels("arm").inc(lost)


async def _first(work: Coroutine[Any, Any, Any], timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            await work
    except TimeoutError:
        return
