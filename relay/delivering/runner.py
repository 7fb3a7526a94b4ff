"""One owned subscription at work: read ahead, one lane per order, post, judge, park, record.

    log ──read──▶ window ──▶ lanes in memory (a queue an order) ──▶ post ──▶ judge ──▶ delivered, parked, dead, gone
                                  ▲                                                          │
                    parked lanes in Redis, when due ◀────────── park: the failed event, then the rest of its order

An order has at most one event in flight. While its lane is parked in Redis, events of that order join the lane's end
there; other orders flow on. All bookkeeping is collected and written by one script every few tens of milliseconds.
"""

import asyncio
import heapq
import random
import time
from collections import deque
from collections.abc import Callable

import structlog

from relay import metrics
from relay.clock import Clock
from relay.delivering import telling
from relay.delivering.jobs import Batch, Job, LeaseLost, Limits
from relay.delivering.window import Window
from relay.errors import StoreUnavailable
from relay.model.events import thin
from relay.model.orders import LaneId
from relay.model.retries import Dead, Delivered, Gone, Outcome, Retry, Schedule, Verdict, judge
from relay.sender import Message, Sender
from relay.store.deliveries import Deliveries, LaneEntry, Operation, Owned, Progress, Recorded
from relay.store.log import Entry, Log

#: Entries of the log between the position and the furthest read: bounds what is in memory and settled ahead.
WINDOW = 1_000
READ = 200
#: How long results are gathered before they are written (seconds).
GATHER = 0.02
#: Events of one parked lane, and lanes, that are fetched at a time.
LANE_DEPTH = 50
LANES_AT_ONCE = 32
#: How long a subscription without work stays owned: events in quick succession then need no new lease (seconds).
LINGER = 1.0


class Runner:
    def __init__(
        self,
        owned: Owned,
        deliveries: Deliveries,
        log: Log,
        sender: Sender,
        slots: asyncio.Semaphore,
        *,
        clock: Clock,
        schedule: Schedule,
        limits: Limits,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._owned = owned
        self._target = owned.target
        self._deliveries = deliveries
        self._log = log
        self._sender = sender
        self._slots = slots
        self._clock = clock
        self._schedule = schedule
        self._limits = limits
        self._dice = dice
        self._window = Window(owned.position, owned.sequence)
        self._ahead = set(owned.ahead)
        self._queues: dict[LaneId, deque[Job]] = {}
        self._runnable: deque[LaneId] = deque()
        self._parked = dict(owned.parked)
        self._due = [(at, order) for order, at in owned.parked.items()]
        heapq.heapify(self._due)
        self._in_flight: set[asyncio.Task[None]] = set()
        self._batch = Batch()
        self._drained: set[LaneId] = set()
        self._recording = asyncio.Lock()
        self._serial = 0
        self._written: tuple[str, int] = (owned.position, owned.sequence)
        self._leased_until = time.monotonic() + limits.lease_ms / 1000
        self._exhausted = False
        self._lost = False
        self._stopping = False
        self._closing = False
        self._wake = asyncio.Event()
        self._logger = structlog.get_logger("relay.delivering").bind(
            retailer_id=owned.retailer_id, subscription_id=owned.subscription_id
        )

    @property
    def subscription_id(self) -> str:
        return self._owned.subscription_id

    def ring(self) -> None:
        """Events may have come, or the configuration may have changed."""
        self._exhausted = False
        self._wake.set()

    def stop(self) -> None:
        """Finish what is in flight, write it down, give the subscription back."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Work until told to stop, until nothing is left, or until the lease is lost."""
        recording = asyncio.create_task(self._record_in_batches())
        try:
            idle_since: float | None = None
            while not (self._stopping or self._lost or recording.done()):
                await self._read_ahead()
                await self._load_lanes()
                self._dispatch()
                if self._busy():
                    idle_since = None
                elif idle_since is None:
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since >= LINGER:
                    break
                await self._sleep()
            await self._finish()
        except LeaseLost:
            self._logger.warning("delivery.lease_lost")
        finally:
            for task in self._in_flight:
                task.cancel()
            await asyncio.gather(*self._in_flight, return_exceptions=True)
            # Not cancelled: a cancellation inside a Redis command may be swallowed by the client.
            self._closing = True
            await asyncio.gather(recording, return_exceptions=True)

    async def _finish(self) -> None:
        if self._in_flight:
            await asyncio.wait(set(self._in_flight), timeout=self._limits.drain_s)
        while not self._lost and (self._batch or self._moved()):
            await self._record()
        if not self._lost:
            await self._deliveries.release(self._owned)

    def _busy(self) -> bool:
        return bool(self._in_flight or self._runnable or not self._exhausted or self._batch or self._moved())

    async def _read_ahead(self) -> None:
        while not self._exhausted and len(self._window) < WINDOW:
            self._exhausted = True  # a ring from here on makes us read again
            entries, revision = await self._deliveries.read(self._owned, self._window.read_to, READ)
            if revision != self._target.revision:
                await self._reload()
            for entry in entries:
                self._take(entry)
            if len(entries) == READ:
                self._exhausted = False

    def _take(self, entry: Entry) -> None:
        matched = self._target.wants(entry.position, entry.type)
        ahead = entry.position in self._ahead
        place = self._window.add(entry.position, matched=matched, ahead=ahead)
        if place.settled:
            self._ahead.discard(entry.position)
            return
        job = Job(entry, place.sequence, place)
        lane = self._lane(entry)
        if lane in self._parked:
            self._park(lane, job, 0)
            return
        queue = self._queues.get(lane)
        if queue is None:
            self._queues[lane] = deque([job])
            self._runnable.append(lane)
        else:
            queue.append(job)

    def _lane(self, entry: Entry) -> LaneId:
        """Events of one lane go out one after another: those of an order, or each alone if order does not matter."""
        return LaneId(entry.order_id if self._target.ordering == "order" else entry.event_id)

    async def _load_lanes(self) -> None:
        """Bring parked lanes whose time has come back into memory."""
        now_ms = self._clock.now_ms()
        chosen: list[LaneId] = []
        while self._due and self._due[0][0] <= now_ms and len(chosen) < LANES_AT_ONCE:
            at, order_id = heapq.heappop(self._due)
            if self._parked.get(order_id) == at and order_id not in self._queues:
                chosen.append(order_id)
        if not chosen:
            return
        lanes = await self._deliveries.lanes(self._owned.subscription_id, chosen, LANE_DEPTH)
        positions = [waiting.position for lane in lanes for waiting in lane]
        found = iter(await self._log.at(self._owned.retailer_id, positions))
        for order_id, lane in zip(chosen, lanes, strict=True):
            jobs: deque[Job] = deque()
            for waiting in lane:
                entry = next(found)
                if entry is None:
                    self._expire(order_id, waiting)
                else:
                    jobs.append(Job(entry, waiting.sequence, None, waiting.attempts, waiting.first_attempt_ms))
            if jobs:
                self._queues[order_id] = jobs
                self._runnable.append(order_id)
            else:
                self._batch.operations.append(Operation("pop", order_id, "none"))
                self._drained.add(order_id)

    def _expire(self, order_id: LaneId, waiting: LaneEntry) -> None:
        """Retention took the event before it could be delivered: a dead letter, never silence."""
        self._batch.operations.append(Operation("pop", order_id, waiting.position))
        self._batch.operations.append(Operation("dead", order_id, waiting.position, "expired"))
        self._batch.dead += 1
        metrics.verdicts.labels("dead").inc()
        self._logger.error("delivery.expired", order_id=order_id, position=waiting.position)

    def _dispatch(self) -> None:
        most = min(self._limits.in_flight, self._target.max_in_flight or self._limits.in_flight)
        while self._runnable and len(self._in_flight) < most:
            order_id = self._runnable.popleft()
            task = asyncio.create_task(self._deliver(order_id, self._queues[order_id][0]))
            self._in_flight.add(task)
            task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._logger.error("delivery.failed", exc_info=error)
            self._lost = True  # a defect of ours: let the lease run out and start from what is written
        if not (self._stopping or self._lost):
            self._dispatch()
        if self._stopping or self._lost or len(self._runnable) == 0:
            self._wake.set()

    async def _deliver(self, order_id: LaneId, job: Job) -> None:
        async with self._slots:
            if time.monotonic() >= self._leased_until:
                self._lost = True  # this process stood still: somebody else may own the subscription by now
            if self._lost or self._stopping:
                self._wake.set()
                return
            now_ms = self._clock.now_ms()
            target = self._target
            message = Message(
                job.entry.event_id,
                job.entry.body if target.payload == "full" else thin(job.entry.body),
                job.sequence,
                job.attempts + 1,
            )
            outcome = await self._sender.post(
                target.url, message, secrets=target.secrets, headers=target.headers, now_s=now_ms // 1000
            )
        job.attempts += 1
        job.first_attempt_ms = job.first_attempt_ms or now_ms
        verdict = judge(
            outcome,
            attempt=job.attempts,
            event_ms=job.entry.committed_ms,
            now_ms=self._clock.now_ms(),
            schedule=self._schedule,
            random=self._dice,
        )
        self._act(order_id, job, outcome, verdict)

    def _act(self, order_id: LaneId, job: Job, outcome: Outcome, verdict: Verdict) -> None:
        """Turn a verdict into operations; what it says is written with the next batch."""
        queue = self._queues[order_id]
        queue.popleft()
        if isinstance(verdict, Delivered | Dead):
            self._close(order_id, job, verdict)
        else:
            at_ms = verdict.at_ms if isinstance(verdict, Retry) else self._clock.now_ms()
            self._put_off(order_id, job, queue, max(0, at_ms - self._clock.now_ms()))
            self._batch.gone = self._batch.gone or isinstance(verdict, Gone)
        self._batch.last_error = (
            telling.attempted(self._logger, job, outcome, verdict, self._clock.now_ms()) or self._batch.last_error
        )
        if queue:
            self._runnable.append(order_id)
            return
        self._queues.pop(order_id, None)
        if job.place is None and isinstance(verdict, Delivered | Dead):
            self._drained.add(order_id)

    def _close(self, order_id: LaneId, job: Job, verdict: Delivered | Dead) -> None:
        """The event is done with, well or badly; its lane goes on."""
        if job.place is not None:
            self._window.settle(job.place)
        else:
            self._batch.operations.append(Operation("pop", order_id, job.entry.position))
        if isinstance(verdict, Delivered):
            self._batch.delivered += 1
            self._batch.last_error = self._batch.last_error or "-"
        else:
            self._batch.dead += 1
            self._batch.operations.append(Operation("dead", order_id, job.entry.position, verdict.reason))

    def _put_off(self, order_id: LaneId, job: Job, queue: deque[Job], delay_ms: int) -> None:
        """Park the lane: the failed event first, then whatever of its order was read after it."""
        waiting = LaneEntry(job.entry.position, job.sequence, job.attempts, job.first_attempt_ms)
        if job.place is None:
            self._batch.operations.append(Operation("retry", order_id, waiting.encode(), delay_ms))
        else:
            self._park(order_id, job, delay_ms)
            for later in queue:
                self._park(order_id, later, delay_ms)
        queue.clear()
        self._sleep_lane(order_id, self._clock.now_ms() + delay_ms)

    def _park(self, lane: LaneId, job: Job, delay_ms: int) -> None:
        assert job.place is not None
        waiting = LaneEntry(job.entry.position, job.sequence, job.attempts, job.first_attempt_ms)
        self._batch.operations.append(Operation("park", lane, waiting.encode(), delay_ms))
        self._window.settle(job.place)

    def _sleep_lane(self, order_id: LaneId, at_ms: int) -> None:
        self._parked[order_id] = at_ms
        heapq.heappush(self._due, (at_ms, order_id))

    def _moved(self) -> bool:
        return self._window.ready

    async def _record_in_batches(self) -> None:
        """Write what was achieved every few tens of milliseconds, and renew the lease in good time."""
        renew_s = self._limits.lease_ms / 3000
        last = time.monotonic()
        try:
            while not (self._lost or self._closing):
                await asyncio.sleep(GATHER)
                if self._batch or self._moved() or time.monotonic() - last >= renew_s:
                    await self._record()
                    last = time.monotonic()
        except StoreUnavailable as error:
            self._logger.warning("delivery.store_unavailable", error=error.detail)
            self._lost = True
        finally:
            self._wake.set()

    async def _record(self) -> None:
        async with self._recording:  # batches are written in the order in which they were gathered
            batch, self._batch = self._batch, Batch()
            drained, self._drained = self._drained, set()
            recorded = await self._write(batch)
        for lane in drained:
            joined = any(op.kind == "park" and op.order_id == lane for op in self._batch.operations)
            if lane in recorded.emptied and not joined:
                self._parked.pop(lane, None)  # an ordinary lane again
            else:
                self._sleep_lane(lane, recorded.now_ms)  # events joined it: fetch them
        if not recorded.enabled:
            self._stopping = True
        self._wake.set()

    async def _write(self, batch: Batch) -> Recorded:
        advance = self._window.advance()
        moved = self._written != (advance.position, advance.sequence)
        self._serial += 1
        progress = Progress(
            serial=self._serial,
            position=advance.position if moved else "",
            sequence=advance.sequence,
            matched=advance.matched,
            delivered=batch.delivered,
            dead=batch.dead,
            last_error=batch.last_error,
            gone=batch.gone,
            ahead=advance.ahead,
            passed=advance.passed,
            operations=batch.operations,
        )
        asked = time.monotonic()
        recorded = await self._deliveries.record(self._owned, progress, lease_ms=self._limits.lease_ms)
        if recorded is None:
            self._lost = True
            metrics.leases_lost.labels("subscription").inc()
            raise LeaseLost
        self._written = (advance.position, advance.sequence)
        self._leased_until = asked + self._limits.lease_ms / 1000
        self._clock.anchor(recorded.now_ms)
        return recorded

    async def _reload(self) -> None:
        target = await self._deliveries.target(self._owned.subscription_id, now_ms=self._clock.now_ms())
        if target is None:
            self._lost = True
            raise LeaseLost
        self._target = target

    async def _sleep(self) -> None:
        """Until something landed or rang, a lane falls due, or it is time to think of releasing."""
        timeout = LINGER
        if self._due:
            timeout = min(timeout, max(0.001, (self._due[0][0] - self._clock.now_ms()) / 1000))
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            return
        finally:
            self._wake.clear()
