"""What an outcome does: the verdict becomes operations, counts and notices of the next batch, and moves gate and
lanes."""

import random
from collections.abc import Callable
from dataclasses import replace

import structlog

from relay import metrics
from relay.clock import Clock
from relay.delivering import telling
from relay.delivering.gate import Gate
from relay.delivering.jobs import Batch, Job, Limits
from relay.delivering.lanes import Lanes
from relay.delivering.recorder import Recorder
from relay.delivering.window import Place, Window
from relay.model import events
from relay.model.circuit import standing
from relay.model.orders import JsonObject, LaneId
from relay.model.retries import Dead, Delivered, Gone, Outcome, Retry, Schedule, Verdict, judge
from relay.store import keys
from relay.store.attempts import Attempt
from relay.store.deliveries import LaneEntry, Notice, Operation, Owned, Recorded, Target
from relay.store.log import Entry

#: How often at most the retailer is told of an event that was given up (ms): a day.
TELL_OF_DEAD_EVERY = 24 * 3_600_000


class Settling:
    """`highest` is the largest relay-sequence that was sent or settled. `folding`: the endpoint is back, only the
    latest states are wanted, and nothing goes out until what waits has been put into lanes; `fold_to` is then how far
    in the log that reaches, None until it is known."""

    def __init__(
        self,
        owned: Owned,
        window: Window,
        lanes: Lanes,
        gate: Gate,
        recorder: Recorder,
        logger: structlog.stdlib.BoundLogger,
        *,
        clock: Clock,
        schedule: Schedule,
        limits: Limits,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self.highest = owned.sequence
        self.folding = False
        self.fold_to: str | None = None
        self._owned = owned
        self._window = window
        self._lanes = lanes
        self._gate = gate
        self._recorder = recorder
        self._logger = logger
        self._clock = clock
        self._schedule = schedule
        self._limits = limits
        self._dice = dice
        self._disabled = False

    def moved(self, url: str) -> None:
        """The subscription has another URL: no answer of the one before may hold it up or disable it."""
        self._disabled = False
        batch = self._recorder.batch
        batch.disable = ""
        batch.notices = [notice for notice in batch.notices if notice.type != "subscription.disabled"]
        batch.say(self._gate.health, url)

    def settle(
        self, lane: LaneId, job: Job, outcome: Outcome, sent_ms: int, target: Target, *, moved: bool = False
    ) -> None:
        """Take in what the wire said of an attempt at a lane's head that began at `sent_ms`; `moved`: the subscription
        has another URL by now than the one that was asked."""
        now_ms = self._clock.now_ms()
        job.attempts += 1
        job.first_attempt_ms = job.first_attempt_ms or sent_ms
        verdict = judge(
            outcome,
            attempt=job.attempts,
            event_ms=job.first_attempt_ms if job.kind else max(job.entry.committed_ms, target.enabled_ms),
            now_ms=now_ms,
            schedule=self._schedule,
            random=self._dice,
        )
        real = self._owned.retailer_id != keys.CANARY
        attempt = telling.attempted(self._logger, job, outcome, verdict, sent_ms, now_ms, real=real)
        batch = self._recorder.batch
        batch.note(job, attempt)
        self.highest = max(self.highest, job.sequence)
        self._lanes.pop(lane)
        if isinstance(verdict, Delivered | Dead):
            self._close(lane, job, verdict)
        else:
            at_ms = verdict.at_ms if isinstance(verdict, Retry) else now_ms
            self._put_off(lane, job, max(0, at_ms - now_ms))
        if moved:
            self._gate.forget(lane)
        elif isinstance(verdict, Delivered):
            batch.last_error = batch.last_error or "-"
            self._well(lane, now_ms, target)
        else:
            batch.last_error = telling.last_error(attempt)
            self._ill(lane, outcome, verdict, now_ms, target)

    def _close(self, lane: LaneId, job: Job, verdict: Delivered | Dead) -> None:
        """The event is done with, well or badly; its lane goes on."""
        batch, position = self._recorder.batch, job.entry.position
        if job.place is not None:
            self._window.settle(job.place)
        else:
            batch.operations.append(Operation("pop", lane, position))
        if job.kind == "r":
            batch.replayed += 1
            if isinstance(verdict, Delivered):
                batch.operations.append(Operation("revive", lane, position))
        elif isinstance(verdict, Delivered):
            batch.delivered += 1
        else:
            batch.dead += 1
            batch.operations.append(Operation("dead", lane, position, verdict.reason))
        if not self._lanes.go_on(lane) and job.place is None:
            batch.drained.add(lane)

    def leave_out(self, lane: LaneId) -> None:
        """The head of a lane is not to be sent: it was purged. The lane goes on."""
        job, batch = self._lanes.pop(lane), self._recorder.batch
        if job.kind == "r":
            batch.replayed += 1
        else:
            batch.skipped += 1
        if job.place is not None:
            self._window.settle(job.place)
        else:
            batch.operations.append(Operation("pop", lane, job.entry.position))
        if not self._lanes.go_on(lane) and job.place is None:
            batch.drained.add(lane)

    def expire(self, lane: LaneId, waiting: LaneEntry) -> None:
        """Retention took the event before it could be delivered: a dead letter, never silence."""
        self._recorder.batch.operations.append(Operation("pop", lane, waiting.position))
        if waiting.kind == "r":
            self._recorder.batch.replayed += 1
            return
        self._recorder.batch.operations.append(Operation("dead", lane, waiting.position, "expired"))
        self._recorder.batch.dead += 1
        metrics.verdicts.labels("dead").inc()
        self._logger.error("delivery.expired", order_id=lane, position=waiting.position)

    def skip(self, lane: LaneId, waiting: LaneEntry, entry: Entry) -> None:
        """The retailer enabled the subscription without what had waited, or purged it."""
        batch = self._recorder.batch
        batch.operations.append(Operation("pop", lane, waiting.position))
        if waiting.kind == "r":
            batch.replayed += 1
            return
        batch.skipped += 1
        job = Job(entry, waiting.sequence, None)
        batch.note(job, Attempt(waiting.sequence, 0, self._clock.now_ms(), "skipped", None, 0.0, "skipped"))

    def _put_off(self, lane: LaneId, job: Job, delay_ms: int) -> None:
        """Park the lane: the failed event first, then whatever of its order was read after it."""
        rest = self._lanes.rest(lane)
        if job.place is None:
            self._recorder.batch.operations.append(Operation("retry", lane, job.waiting.encode(), delay_ms))
        else:
            for one in (job, *rest):
                self.park(lane, one, delay_ms)
        self._lanes.sleep(lane, self._clock.now_ms() + delay_ms)

    def park(self, lane: LaneId, job: Job, delay_ms: int) -> None:
        """Put a job that came from the log at its lane's end in Redis."""
        assert job.place is not None
        self._recorder.batch.operations.append(Operation("park", lane, job.waiting.encode(), delay_ms))
        self._window.settle(job.place)

    def drain(self, lane: LaneId) -> None:
        """Nothing of the lane is left that could be sent: ask whether it is empty in Redis too."""
        self._recorder.batch.operations.append(Operation("pop", lane, "none"))
        self._recorder.batch.drained.add(lane)

    def seen(self, place: Place) -> None:
        """An entry that was settled before, or is not for this subscription."""
        if place.ahead:
            self.highest = max(self.highest, place.sequence)

    def _well(self, lane: LaneId, now_ms: int, target: Target) -> None:
        before, batch = self._gate.health, self._recorder.batch
        reopened = self._gate.succeeded(lane, now_ms)
        if self._gate.health is not before:
            batch.say(self._gate.health, target.url)
        if before.told or before.told_before:
            self._notice("subscription.recovered", target, now_ms, {"failing_since": _moment(before.since_ms)})
        if reopened:
            self._logger.info("delivery.circuit_closed")
            batch.wake = True
            self._lanes.wake(now_ms)
            if target.backlog == "latest":
                self.folding, self.fold_to, batch.latest = True, None, True

    def _ill(self, lane: LaneId, outcome: Outcome, verdict: Verdict, now_ms: int, target: Target) -> None:
        before, batch = self._gate.health, self._recorder.batch
        self._gate.failed(lane, outcome, now_ms)
        health = self._gate.health
        if health.circuit == "open" and before.circuit == "closed":
            self._logger.warning("delivery.circuit_opened", until_ms=health.hold_ms)
        last = {"last_error": {"outcome": outcome.kind, "status_code": outcome.status}}
        why = {**last, "failing_since": _moment(health.since_ms)}
        state = standing(
            health, enabled_ms=target.enabled_ms, now_ms=now_ms, disable_after_s=self._limits.disable_after_s
        )
        if isinstance(verdict, Gone):
            self._disable("gone", target, now_ms, why)
        elif state == "disable":
            self._disable("failing", target, now_ms, why)
        elif state == "failing":
            health = replace(health, told=True)
            self._notice("subscription.failing", target, now_ms, {"reason": "failing", **why})
        elif isinstance(verdict, Dead) and now_ms - health.mourned_ms >= TELL_OF_DEAD_EVERY:
            health = replace(health, mourned_ms=now_ms)
            self._notice("subscription.failing", target, now_ms, {"reason": "event_given_up", **why})
        self._gate.health = health
        batch.say(health, target.url)

    def _disable(self, reason: str, target: Target, now_ms: int, why: JsonObject) -> None:
        if self._disabled:
            return
        self._disabled = True
        self._recorder.batch.disable = reason
        metrics.disables.labels(reason).inc()
        self._logger.warning("delivery.disabled", reason=reason)
        mend = "mend the endpoint, then POST /v1/subscriptions/{id}/enable; what waits is kept until then"
        self._notice("subscription.disabled", target, now_ms, {"reason": reason, "how_to_enable": mend, **why})

    def _notice(self, kind: str, target: Target, now_ms: int, details: JsonObject) -> None:
        one = self._owned.subscription_id
        event = events.notice(one, kind, telling.about(one, target.url, details), now_ms=now_ms)
        self._recorder.batch.notices.append(Notice(event.id, event.type, event.body))

    def recorded(self, batch: Batch, recorded: Recorded) -> None:
        """A batch was written: lanes that are empty in Redis are ordinary ones again, others have been joined."""
        joined = {op.order_id for op in self._recorder.batch.operations if op.kind == "park"} if batch.drained else ()
        for lane in batch.drained:
            if lane in recorded.emptied and lane not in joined:
                self._lanes.unpark(lane)
            else:
                self._lanes.sleep(lane, recorded.now_ms)
        if batch.latest:
            self.fold_to = recorded.fold_to


def _moment(ms: int | None) -> str | None:
    return None if ms is None else events.rfc3339(ms)
