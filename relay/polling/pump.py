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
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from relay import metrics
from relay.access import AccessRefused
from relay.clock import Clock
from relay.errors import STORE_FULL, StoreUnavailable
from relay.model.congestion import Concurrency
from relay.model.lifecycle import Policy
from relay.model.orders import OrderId, Reading, RetailerId, Tracking
from relay.model.pressure import Pressure
from relay.polling.books import Books
from relay.polling.planner import Planner
from relay.polling.settler import BATCH, GATHER, Settler
from relay.polling.verdicts import Verdicts
from relay.store.arms import LATEST_MS, Arms
from relay.store.bells import Bells
from relay.store.decisions import Decisions
from relay.store.order_records import ClaimedArm
from relay.store.orders import Orders
from relay.tracing import OFF, Tracing
from relay.upstream.interface import Access, Fetched, Refusal, UnusableAnswer, Upstream

#: How long the pump sleeps at most before it looks at the due times again, bell or no bell (seconds).
LONGEST_SLEEP = 0.5
#: How far ahead of time requests are granted (ms).
HORIZON_MS = 100
#: Where there is no budget, as many arms wait here as are taken in so many seconds: the pump has something to do while
#: Redis looks for more, and what is urgent has not much before it.
AHEAD = 0.05

#: What shows that upstream takes less than it was given.
_OVERLOAD = frozenset({Refusal.THROTTLED, Refusal.TIMEOUT, Refusal.NETWORK})


class AccessSource(Protocol):
    """Gives the user's token for an arm. Raises AccessRefused (relay.access) when there is none to be had."""

    def known(self, retailer_id: RetailerId, order_id: OrderId, revision: str) -> Access | None:
        """The token of this revision, if it can be given without asking anybody."""
        ...

    async def access(self, arm: ClaimedArm) -> Access: ...

    async def renewed(self, arm: ClaimedArm, refused: Access) -> Access | None:
        """After a 401: another token to try once, or None when this is the only one."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """`concurrency`: requests in flight per pump at most. `lease_ms`: how long a claimed arm is ours. `drain_s`: how
    long requests in flight may take to end once the pump is told to stop."""

    concurrency: int = 256
    lease_ms: int = 15_000
    drain_s: float = 5.0


class PollPump:
    """Polls until told to stop. One instance serves one slice; `planner` and `concurrency` live as long as their
    process."""

    def __init__(
        self,
        orders: Orders,
        arms: Arms,
        decisions: Decisions,
        upstream: Upstream,
        access: AccessSource,
        bells: Bells,
        *,
        clock: Clock,
        policy: Policy,
        limits: Limits,
        planner: Planner | None = None,
        concurrency: Concurrency | None = None,
        pressure: Pressure | None = None,
        tracing: Tracing = OFF,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._arms = arms
        self._upstream = upstream
        self._access = access
        self._bells = bells
        self._clock = clock
        self._limits = limits
        self._log = structlog.get_logger("relay.polling")
        self._queue: deque[ClaimedArm] = deque()
        self._ahead = 0
        self._paid = False
        self._claimed = 0
        self._taken = (0, 0.0)
        self._pace = 0.0
        self._fetchers: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._pressure = pressure or Pressure()
        self.concurrency = concurrency or Concurrency(limits.concurrency)
        self._tracing = tracing
        planner = planner or Planner(arms, policy)
        self._books = Books()
        self._settler = Settler(arms, planner, self._books)
        self._verdicts = Verdicts(
            *(orders, arms, decisions, planner, self._settler, self._books),
            clock=clock,
            policy=policy,
            tracing=tracing,
            dice=dice,
        )

    @property
    def tally(self) -> Counter[str]:
        """Polls by outcome."""
        return self._books.tally

    async def run(self, should_stop: Callable[[], bool]) -> None:
        """Work until `should_stop`, then finish what is in flight, write it down and return.

        Raises StoreUnavailable when Redis is gone; claimed arms then fall due with their leases.
        """
        settling = asyncio.create_task(self._settler.run())
        try:
            while not should_stop():
                if self._pressure.shedding:  # nothing is claimed, so nothing is asked whose answer could not be kept
                    await asyncio.sleep(LONGEST_SLEEP)
                    continue
                await self._turn()
            await self._drain()
        finally:
            for task in self._fetchers:
                task.cancel()
            await asyncio.gather(*self._fetchers, return_exceptions=True)
            while self._queue:
                self._verdicts.release(self._queue.popleft())
            # Not cancelled: a cancellation inside a Redis command may be swallowed by the client.
            self._settler.close()
            await settling

    async def _turn(self) -> None:
        limit = int(self.concurrency.limit)
        self._hire(limit)
        room = self._room_for()
        if room < _enough(limit):
            self._room.clear()
            await _first(self._room.wait(), GATHER)
            room = self._room_for()
        if room <= 0:
            return
        asked = time.monotonic()
        self._take_pace(asked)
        claim = await self._arms.claim(min(room, BATCH), lease_ms=self._limits.lease_ms, horizon_ms=HORIZON_MS)
        self._clock.anchor(claim.now_ms, asked)
        if paid := sum(arm.pool.rate > 0 for arm in claim.arms):
            metrics.budget_spent.inc(paid)
        # What has no budget has no time of its own to set out at: some of it may wait here for a fetcher. Where there
        # is a budget, nothing may: behind the rest it would come too late for its turn.
        self._paid = self._paid or paid > 0
        self._ahead = min(BATCH, int(self._pace * AHEAD)) if claim.arms and not self._paid else 0
        self._claimed += len(claim.arms)
        self._queue.extend(claim.arms)
        self._hire(limit)
        metrics.concurrency_limit.set(limit)
        wait_s = LONGEST_SLEEP if claim.next_ms is None else (claim.next_ms - claim.now_ms) / 1000
        if wait_s > 0 and len(claim.arms) < BATCH:
            await self._bells.wait(["poll"], min(max(wait_s, GATHER), LONGEST_SLEEP))

    def _take_pace(self, now: float) -> None:
        """How many arms a second are taken out of the queue, looked at every so often: they are taken in bursts."""
        taken, since = self._taken
        if now - since >= AHEAD:
            self._taken = (self._claimed - len(self._queue), now)
            self._pace = (self._taken[0] - taken) / (now - since)

    def _room_for(self) -> int:
        """How many arms may be claimed."""
        return int(self.concurrency.limit) + self._ahead - len(self._fetchers) - len(self._queue)

    def _hire(self, limit: int) -> None:
        """Fetchers for what waits, as many as there may be."""
        for _ in range(min(len(self._queue), limit - len(self._fetchers))):
            task = asyncio.create_task(self._fetch())
            self._fetchers.add(task)
            task.add_done_callback(self._left)

    def _left(self, task: asyncio.Task[None]) -> None:
        self._fetchers.discard(task)
        if self._room_for() >= _enough(int(self.concurrency.limit)):
            self._room.set()

    async def _fetch(self) -> None:
        """Poll one arm after the other while there are any, and places for so many fetchers: a task for each arm costs
        more than all the rest of its bookkeeping."""
        queue, fetchers, limit, few = self._queue, self._fetchers, 0, 0
        while queue and len(fetchers) <= (allowed := int(self.concurrency.limit)):
            if allowed != limit:
                limit, few = allowed, allowed - _enough(allowed)
            arm = queue.popleft()
            if queue and len(fetchers) < limit:  # the limit has grown
                self._hire(limit)
            if len(fetchers) + len(queue) - self._ahead <= few:
                self._room.set()
            try:
                await self._poll(arm)
            except asyncio.CancelledError:
                self._verdicts.release(arm)
                raise
            except Exception as error:
                self._failed(arm, error)
        # At once, and not when the loop comes round: else all leave that see the limit exceeded, and not the surplus.
        fetchers.discard(asyncio.current_task())

    async def _drain(self) -> None:
        while self._queue:
            self._verdicts.release(self._queue.popleft())
        if self._fetchers:
            await asyncio.wait(set(self._fetchers), timeout=self._limits.drain_s)

    # ── one arm ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _failed(self, arm: ClaimedArm, error: Exception) -> None:
        if not isinstance(error, StoreUnavailable):
            self._books.failed(arm, error)
            return
        if error.code == STORE_FULL:
            self._pressure.refused()
        self._log.warning("poll.store_unavailable", error=error.detail)

    async def _poll(self, arm: ClaimedArm) -> None:
        order_id = arm.order_id
        access = self._access.known(arm.pool.retailer_id, order_id, arm.token_revision)
        if access is None:
            try:
                access = await self._access.access(arm)
            except AccessRefused as error:
                await self._verdicts.refused(arm, error.code, error.detail)
                return
        started_ms = self._clock.now_ms()
        if started_ms < arm.send_at_ms:
            await asyncio.sleep((arm.send_at_ms - started_ms) / 1000)
            started_ms = self._clock.now_ms()
        late_ms = started_ms - arm.send_at_ms
        if late_ms > LATEST_MS and late_ms > self._latest_ms(arm):
            self._books.count(arm, "late")
            self._verdicts.release(arm)
            return
        fetched = await self._upstream.fetch(
            access,
            order_id,
            arm.resource,
            validator=arm.validator if arm.fingerprint else "",
            known=arm.fingerprint if arm.tracking is Tracking.ACTIVE else "",
        )
        duration_s = fetched.duration_ms / 1000
        if fetched.refusal is None:
            self.concurrency.good(duration_s, len(self._fetchers), time.monotonic())
        if fetched.unmodified:
            self._books.tally["unchanged"] += 1
            validator = "" if fetched.validator == arm.validator else fetched.validator or "-"
            self._settler.unchanged(arm, started_ms, duration_s, validator)
            return
        self._books.answered(arm, started_ms, duration_s)
        if fetched.refusal is None:
            await self._read(arm, fetched, started_ms)
        else:
            await self._refused(arm, access, fetched)

    async def _read(self, arm: ClaimedArm, fetched: Fetched, started_ms: int) -> None:
        poll = self._tracing.poll(arm.retailer_id, arm.resource.value, fetched.duration_ms)
        try:
            value = self._upstream.parse(arm.resource, fetched.raw, order_id=arm.order_id)
        except UnusableAnswer as error:
            await self._verdicts.refused(arm, error.refusal.value, error.detail)
            return
        self._books.good(arm)
        reading = Reading(arm.resource, value, started_ms)
        with poll:
            await self._verdicts.observe(arm, reading, fetched.fingerprint, fetched.validator, poll)

    def _latest_ms(self, arm: ClaimedArm) -> int:
        """How late a request may be for its send time: afterwards the budget is another second's, or the lease would
        end before the answer is here."""
        return LATEST_MS if arm.pool.rate > 0 else max(LATEST_MS, self._limits.lease_ms // 3)

    async def _refused(self, arm: ClaimedArm, access: Access, fetched: Fetched) -> None:
        assert fetched.refusal is not None
        if fetched.refusal in _OVERLOAD or fetched.status == 503:
            self.concurrency.bad(time.monotonic())
        if fetched.refusal is Refusal.THROTTLED or (fetched.status == 503 and fetched.retry_after_s is not None):
            await self._verdicts.slow_down(arm, fetched)
        renewed = False
        if fetched.refusal is Refusal.UNAUTHORIZED and (arm.trouble is None or arm.trouble.code != "unauthorized"):
            try:
                # Once: the request that follows is a request like any other, and has to be paid for.
                renewed = await self._access.renewed(arm, access) is not None
            except AccessRefused as error:
                await self._verdicts.refused(arm, error.code, error.detail)
                return
        await self._verdicts.refused(arm, fetched.refusal.value, fetched.detail, fetched.retry_after_s, at_once=renewed)


def _enough(limit: int) -> int:
    """For how many arms a claim is worth its round trip."""
    return max(1, min(limit, BATCH // 2) // 2)


async def _first(work: Coroutine[Any, Any, Any], timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            await work
    except TimeoutError:
        return
