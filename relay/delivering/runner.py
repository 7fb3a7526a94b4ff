"""One owned subscription at work: read ahead, one lane per order, post, judge, park, record.

    log ──read──▶ window ──▶ lanes in memory (one an order) ──gate──▶ post ──▶ judge ──▶ delivered, parked, dead, gone
                                  ▲                                                          │
                    parked lanes in Redis, when due ◀────────── park: the failed event, then the rest of its order

An order has at most one event in flight. While its lane is parked in Redis, events of that order join the lane's end
there; other orders flow on. While the endpoint's circuit is open or it asked for a pause, nothing is read or sent but
one probe. All bookkeeping is collected and written by one script every few tens of milliseconds.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from relay.clock import Clock
from relay.delivering.aside import Aside, Waiting
from relay.delivering.flights import Flights
from relay.delivering.gate import Gate
from relay.delivering.jobs import Batch, Job, LeaseLost, Limits
from relay.delivering.lanes import Lanes
from relay.delivering.places import Places
from relay.delivering.posts import Posts
from relay.delivering.recorder import Recorder
from relay.delivering.settling import Settling
from relay.delivering.window import Window
from relay.model.orders import LaneId
from relay.model.retries import Schedule
from relay.sender import Sender
from relay.store.deliveries import Deliveries, Owned, Recorded
from relay.store.log import Entry, ordinal
from relay.tracing import OFF, Tracing

#: Entries of the log between the position and the furthest read: bounds what is in memory and settled ahead.
WINDOW = 1_000
READ = 200
#: Events of one parked lane, and lanes, that are fetched at a time.
LANE_DEPTH = 50
LANES_AT_ONCE = 32
#: How long a lane waits for the log to be read on (ms).
READ_ON = 20
#: While a slice hands over, a post that is under way for so long (seconds) keeps no other order waiting.
HANGING = 0.3
#: How long a subscription without work stays owned: events in quick succession then need no new lease (seconds).
LINGER = 1.0


class Runner:
    def __init__(
        self,
        owned: Owned,
        deliveries: Deliveries,
        sender: Sender,
        aside: Aside,
        places: Places,
        *,
        clock: Clock,
        schedule: Schedule,
        limits: Limits,
        tracing: Tracing = OFF,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._owned = owned
        self._target = owned.target
        self._deliveries = deliveries
        self._posts = Posts(owned, sender, tracing)
        self._aside = aside
        self._places = places
        self._clock = clock
        self._limits = limits
        self._window = Window(owned.position, owned.sequence)
        self._ahead = set(owned.ahead)
        self._lanes = Lanes(owned.parked)
        self._gate = Gate(owned.health, owned.target, tat_ms=owned.tat_ms, limits=limits, schedule=schedule, dice=dice)
        self._recorder = Recorder(
            *(owned, deliveries, self._window, self._gate),
            clock=clock,
            limits=limits,
            flying=lambda: self._posts.flying,
            taken=self._recorded,
            wake=self._set_wake,
        )
        self._logger = structlog.get_logger("relay.delivering").bind(
            retailer_id=owned.retailer_id, subscription_id=owned.subscription_id
        )
        self._settling = Settling(
            *(owned, self._window, self._lanes, self._gate, self._recorder, self._logger),
            clock=clock,
            schedule=schedule,
            limits=limits,
            dice=dice,
        )
        self._flights = Flights(self._landed)
        self._purged: set[str] = set()
        self._fold_to = owned.target.fold_to
        self._rang = owned.rang
        self._job = ""
        self._beat_ms = owned.beat_ms
        self._exhausted = False
        self._unread = False
        self._stopping = False
        self._wake = asyncio.Event()

    def ring(self) -> None:
        """Events may have come, or the configuration may have changed."""
        self._exhausted = False
        self._wake.set()

    def stop(self) -> None:
        """Finish what is in flight, write it down, give the subscription back."""
        self._stopping = True
        self._wake.set()

    def hand_over(self) -> None:
        """Stop once what is in flight now has ended, and nothing that hangs was sent meanwhile; other orders go on.
        What has failed before waits for the next owner: it might hang, and keep the subscription here."""
        if not self._flights.await_those():
            self.stop()

    def _set_wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Work until told to stop, until nothing is left, or until the lease is lost."""
        recording = asyncio.create_task(self._recorder.run())
        try:
            idle_since: float | None = None
            while not (self._stopping or self._recorder.lost or recording.done()):
                await self._work()
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
            await self._flights.cut()
            # Not cancelled: a cancellation inside a Redis command may be swallowed by the client.
            self._recorder.close()
            await asyncio.gather(recording, return_exceptions=True)

    async def _work(self) -> None:
        """One turn: look, fetch what is due, send what may go."""
        blocked = self._gate.opens_ms(self._clock.now_ms()) is not None or self._settling.folding
        if not blocked and self._unread:
            self._exhausted = self._unread = False
        await self._look(blocked)
        if self._settling.folding:
            self._park_for_folding()
        if not (blocked or self._flights.awaited):
            await self._load_lanes()
            if self._job and self._gate.closed:
                self._job = await self._aside.recover(self._target, self._window.position, self._lanes, self._job)
            if self._gate.closed and self._target.heartbeat_s and self._clock.now_ms() >= self._beat_ms:
                self._plan_beat(self._target.heartbeat_s)
                self._flights.launch(self._beat())
        self._dispatch()

    async def _finish(self) -> None:
        await self._flights.end(self._limits.drain_s)
        while not self._recorder.lost and self._recorder.pending:
            await self._recorder.write()
        if not self._recorder.lost:
            await self._deliveries.release(self._owned, self._posts.flying)

    def _busy(self) -> bool:
        if self._flights or self._recorder.pending or self._settling.folding or not self._exhausted:
            return True
        opens_ms = self._gate.opens_ms(self._clock.now_ms())
        if opens_ms is not None and opens_ms - self._clock.now_ms() > LINGER * 1000:
            return False  # on hold: it is owned again when that is over
        return bool(self._lanes.runnable or self._job)

    async def _look(self, blocked: bool) -> None:
        while not self._exhausted and len(self._window) < WINDOW:
            self._exhausted = True  # a ring from here on makes us read again
            look = await self._deliveries.look(self._owned, self._window.read_to, 1 if blocked else READ)
            if look.revision != self._target.revision:
                await self._reload()
            if look.rang != self._rang:
                self._rang = look.rang
                self._lanes.merge(await self._deliveries.parked(self._owned.subscription_id))
                self._purged |= await self._aside.purged(self._lanes.positions())
            self._job = look.job
            if blocked:
                self._unread = bool(look.entries)
                return
            for entry in look.entries:
                self._take(entry)
            if len(look.entries) == READ:
                self._exhausted = False

    def _take(self, entry: Entry) -> None:
        interest = self._target.interest
        place = self._window.add(
            entry.position,
            matched=interest.wants(entry),
            ahead=entry.position in self._ahead,
            skipped=entry.gone or interest.skipped(entry.position),
        )
        if place.settled:
            self._ahead.discard(entry.position)
            self._settling.seen(place)
            return
        job = Job(entry, place.sequence, place)
        folds = self._folds(entry.position) and bool(entry.order_id)
        lane = LaneId(entry.order_id) if folds else self._lane(entry)
        if folds and lane not in self._lanes and lane not in self._lanes.parked:
            self._settling.park(lane, job, 0)
            self._lanes.sleep(lane, self._clock.now_ms())
        elif lane in self._lanes.parked:
            self._settling.park(lane, job, 0)
        else:
            job.behind = lane in self._lanes
            self._lanes.add(lane, [job])

    def _lane(self, entry: Entry) -> LaneId:
        """Events of one lane go out one after another: those of an order, or each alone if order does not matter."""
        return LaneId(entry.order_id if self._target.ordering == "order" else entry.event_id)

    def _folds(self, position: str) -> bool:
        return bool(self._fold_to) and ordinal(position) <= ordinal(self._fold_to)

    def _park_for_folding(self) -> None:
        """The endpoint works again and only the latest state is wanted: once nothing is in flight, what is queued in
        memory goes to its lanes in Redis, to be folded there."""
        if self._flights or self._settling.fold_to is None:
            return
        self._fold_to, self._settling.folding = self._settling.fold_to, False
        self._lanes.forget_runnable()
        for lane in self._lanes.queued():
            for job in self._lanes.rest(lane):
                if job.place is not None:
                    self._settling.park(LaneId(job.entry.order_id) if job.entry.order_id else lane, job, 0)
            self._lanes.sleep(lane, self._clock.now_ms())
        self._exhausted = False

    async def _load_lanes(self) -> None:
        """Bring parked lanes whose time has come back into memory; for a probe, the one that is due first."""
        now_ms = self._clock.now_ms()
        if self._folds(self._window.read_to) and not self._exhausted:
            return  # what is to be folded is still being gathered
        if self._gate.closed:
            chosen = self._lanes.due(now_ms, LANES_AT_ONCE)
        else:
            earliest = None if self._lanes.runnable or self._flights else self._lanes.earliest()
            chosen = [] if earliest is None else [earliest]
        if not chosen:
            return
        if self._fold_to:
            chosen = [lane for lane in chosen if await self._fold(lane)]
        if self._recorder.unwritten(chosen):
            await self._recorder.flush()  # what came of their last attempts is not in Redis yet
        loaded = await self._aside.load(chosen, LANE_DEPTH)
        for lane, waiting in zip(chosen, loaded, strict=True):
            self._enqueue(lane, waiting)

    async def _fold(self, lane: LaneId) -> bool:
        """Fold a lane where that is wanted; False when the log has to be read further first."""
        read_to = self._window.read_to
        await self._recorder.flush()  # what was read is in its lane then
        notes = await self._aside.fold(lane, fold_to=self._fold_to, read_to=read_to)
        if notes is None:
            self._lanes.sleep(lane, self._clock.now_ms() + READ_ON)
            self._exhausted = False
            return False
        self._recorder.batch.notes += notes
        return True

    def _enqueue(self, lane: LaneId, loaded: list[Waiting]) -> None:
        jobs: list[Job] = []
        for one in loaded:
            at = one.at
            if one.entry is None:
                self._settling.expire(lane, at)
            elif one.entry.gone or (at.kind != "r" and self._target.interest.skipped(at.position)):
                self._settling.skip(lane, at, one.entry)
            else:
                fields = (one.entry, at.sequence, None, at.attempts, at.first_attempt_ms, at.kind, one.stands_for)
                jobs.append(Job(*fields))
        if jobs:
            self._lanes.add(lane, jobs)
        else:
            self._settling.drain(lane)

    def _dispatch(self) -> None:
        while self._lanes.runnable and not self._settling.folding:
            now_ms = self._clock.now_ms()
            if self._recorder.lost or not self._gate.admits(len(self._flights), now_ms):
                return
            lane = self._lanes.runnable.popleft()
            if self._lanes.head(lane).entry.position in self._purged:
                self._settling.leave_out(lane)
                continue
            job = self._lanes.head(lane)
            job.prompt = job.fresh and job.entry.committed_ms > max(self._gate.held_ms, self._target.enabled_ms)
            self._gate.pass_through(lane, now_ms)
            if self._gate.probe == lane:
                self._recorder.batch.say(self._gate.health, self._target.url)
            self._flights.launch(self._deliver(lane, job))

    def _landed(self, error: BaseException | None) -> None:
        if error is not None:
            self._logger.error("delivery.failed", exc_info=error)
            self._recorder.lost = True  # a defect of ours: let the lease run out and start from what is written
        if self._flights.arrived and not self._flights.await_those(older_than=HANGING):
            self._stopping = True
        if not (self._stopping or self._recorder.lost):
            self._dispatch()
        if self._stopping or self._recorder.lost or not self._lanes.runnable:
            self._wake.set()

    async def _deliver(self, lane: LaneId, job: Job) -> None:
        target = self._target
        async with self._places.hold(self._owned.subscription_id, target.host, doubtful=self._gate.health.doubtful):
            if not self._recorder.leased:
                self._recorder.lost = True  # this process stood still: somebody else may own the subscription by now
            if self._recorder.lost or self._stopping:
                self._wake.set()
                return
            if not self._gate.closed and self._gate.probe != lane:
                self._lanes.runnable.append(lane)  # the circuit opened while this waited for its place
                return
            now_ms = self._clock.now_ms()
            outcome = await self._posts.send(target, job, now_ms)
        self._settling.settle(lane, job, outcome, now_ms, target, moved=target.url != self._target.url)

    def _plan_beat(self, every_s: int) -> None:
        self._beat_ms = self._recorder.batch.beat_ms = self._clock.now_ms() + every_s * 1000

    async def _beat(self) -> None:
        target = self._target
        async with self._places.hold(self._owned.subscription_id, target.host, doubtful=False):
            highest, unsettled = self._settling.highest, self._window.unsettled
            with suppress(LeaseLost):
                await self._recorder.flush()  # what failed until now is in its lane then, for the heartbeat to see
            if self._recorder.leased and not self._recorder.lost:
                await self._aside.beat(target, highest, unsettled, list(self._lanes.parked))

    def _recorded(self, batch: Batch, recorded: Recorded) -> None:
        """A batch was written: lanes that are empty in Redis are ordinary ones again."""
        self._settling.recorded(batch, recorded)
        if not recorded.enabled:
            self._stopping = True
        self._wake.set()

    async def _reload(self) -> None:
        target = await self._deliveries.target(self._owned.subscription_id)
        if target is None:
            self._recorder.lost = True
            raise LeaseLost
        moved = target.url != self._target.url
        self._gate.configure(target, moved=moved)
        if moved:
            self._settling.moved(target.url)
        if target.heartbeat_s != self._target.heartbeat_s:
            self._beat_ms = 0
        if target.fold_to != self._target.fold_to:
            self._fold_to = target.fold_to
        self._target = target

    async def _sleep(self) -> None:
        """Until something landed or rang, something falls due, or it is time to think of releasing."""
        now_ms = self._clock.now_ms()
        times = [self._gate.opens_ms(now_ms)]
        if self._gate.closed and not self._flights.awaited:
            times += [self._lanes.next_due_ms, self._beat_ms if self._target.heartbeat_s else None]
        timeout = min([LINGER, *(max(0.001, (at - now_ms) / 1000) for at in times if at is not None)])
        if self._settling.folding or (self._job and not self._flights):
            timeout = min(timeout, 0.05)
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            return
        finally:
            self._wake.clear()
