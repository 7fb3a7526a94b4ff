"""What comes of an answer: unchanged, changed, or refused. Decisions are the model's; here they are carried out."""

import random
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import structlog
from prometheus_client import Histogram

from relay import labels, metrics
from relay.clock import Clock
from relay.model import lifecycle
from relay.model.cadence import stage_of
from relay.model.lifecycle import BY_POLICY, Policy, Step
from relay.model.orders import OrderState, Reading, Resource, Tracking, Trouble
from relay.model.pacing import FIRST, HELD, URGENT
from relay.model.sightings import happened
from relay.polling.books import Books
from relay.polling.planner import Planner
from relay.polling.settler import Settler
from relay.store import keys
from relay.store.arms import Arms
from relay.store.decisions import Decision, Decisions
from relay.store.order_records import ClaimedArm, Commit, Due, Settlement
from relay.store.orders import Orders
from relay.tracing import OFF, Poll, Tracing
from relay.upstream.interface import Fetched, Refusal

#: How often a commit is decided anew when somebody else committed first.
COMMIT_TRIES = 8
#: Refusals that are the credential's affair and not the arm's.
_SLOW_DOWN = frozenset({Refusal.THROTTLED.value})
#: Answers of one burst are reported once in so many seconds.
_REPORT_EVERY = 0.1


class Verdicts:
    def __init__(
        self,
        orders: Orders,
        arms: Arms,
        decisions: Decisions,
        planner: Planner,
        settler: Settler,
        books: Books,
        *,
        clock: Clock,
        policy: Policy,
        tracing: Tracing = OFF,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._orders = orders
        self._arms = arms
        self._decisions = decisions
        self._planner = planner
        self._settler = settler
        self._clock = clock
        self._policy = policy
        self._tracing = tracing
        self._dice = dice
        self._log = structlog.get_logger("relay.polling")
        self._reported: dict[str, float] = {}
        self._books = books

    def release(self, arm: ClaimedArm) -> None:
        """Nothing was asked: the arm is due as before, for whoever goes on."""
        self._settler.put(Settlement(arm, Due(0, self._planner.same_class(arm))))

    async def observe(self, arm: ClaimedArm, reading: Reading, fingerprint: str, validator: str, poll: Poll) -> None:
        """A reading that may be news; what is told of `poll` is its trace."""
        for _ in range(COMMIT_TRIES):
            state = await self._orders.load_state(arm.retailer_id, arm.order_id)
            if state is None:
                self._books.count(arm, "gone")
                return
            decided = await self._decided(arm)
            step = lifecycle.observe(
                state,
                reading,
                now_ms=self._clock.now_ms(),
                policy=self._policy,
                decisions={one.what: (one.content, one.given_id, one.cause) for one in decided if not one.told},
            )
            if step is None:
                self._books.count(arm, "stale")
                changed_ms = arm.changed_ms or reading.started_ms
                due = self._planner.due(arm, arm.stage, changed_ms, reading.started_ms)
                self._settler.put(Settlement(arm, due))
                return
            if step.quiet:
                self._books.count(arm, "unchanged")
                changed_ms = self._planner.read(arm, reading.started_ms)
                due = self._due(arm, step, changed_ms, reading.started_ms)[arm.resource]
                self._settler.put(
                    Settlement(
                        *(arm, due, reading.started_ms, fingerprint),
                        validator=validator or "-",
                        holds=f"v{state.version}",
                    )
                )
                return
            news = self._news(arm, reading, step, fingerprint, validator, state)
            if await self._commit(arm, reading, step, news, poll):
                told = [replace(one, told=True) for one in decided if one.what in step.recognised]
                if told:
                    await self._decisions.write(arm.retailer_id, arm.order_id, *told)
                return
        self._log.warning("poll.contended", retailer_id=arm.retailer_id, order_id=arm.order_id)
        self._settler.put(Settlement(arm, Due(self._policy.cadence.again_ms(), URGENT)))

    async def _decided(self, arm: ClaimedArm) -> list[Decision]:
        """What the retailer had passed on to upstream and this reading may show."""
        if arm.resource not in (Resource.ITEMS, Resource.MESSAGES):
            return []
        return await self._decisions.of(arm.retailer_id, arm.order_id)

    def _news(
        self,
        arm: ClaimedArm,
        reading: Reading,
        step: Step,
        fingerprint: str,
        validator: str,
        state: OrderState,
    ) -> Commit:
        count = len([event for event in step.events if event.type != "order.tracking_started"])
        changed_ms = happened(reading, count, arm.read_at_ms)[0][-1:] if count and arm.read_at_ms else []
        last_ms = changed_ms[0] if changed_ms else arm.changed_ms
        fingerprints = dict.fromkeys(step.forget, "")
        fingerprints[arm.resource] = fingerprint if step.settled else ""
        return Commit(
            state,
            step.state,
            step.events,
            fingerprints=fingerprints,
            due=self._due(arm, step, last_ms, reading.started_ms),
            troubles={arm.resource: None},
            validators={**dict.fromkeys(step.forget, ""), arm.resource: validator if step.settled else ""},
            changed_ms={arm.resource: last_ms} if last_ms else {},
            arm=arm,
        )

    async def _commit(self, arm: ClaimedArm, reading: Reading, step: Step, commit: Commit, poll: Poll) -> bool:
        """False when somebody else was faster, and all is to be decided anew."""
        with poll.commit([event.type for event in step.events]) as span:
            result = await self._orders.commit(commit)
            span.tell(result=result)
        if result == "conflict":
            return False
        self._books.count(arm, "changed" if result == "ok" else "gone")
        if result == "ok":
            self._learn(arm, reading, step)
            self._told(arm, step)
        return True

    def _learn(self, arm: ClaimedArm, reading: Reading, step: Step) -> None:
        facts = [event.type for event in step.events if not event.type.startswith("order.tracking_")]
        if not arm.read_at_ms or not step.state.started or arm.retailer_id == keys.CANARY:
            return
        metrics.changes.labels(labels.labelled(arm.resource.value)).inc(len(facts))
        times, told = happened(reading, len(facts), arm.read_at_ms)
        self._planner.read(arm, reading.started_ms, times, sum(map(self._policy.cadence.weight, facts)))
        stage = arm.stage.removesuffix("+")
        delay, bound = _detections(stage)
        for at in told:
            delay.observe((reading.started_ms - at) / 1000)
        for _ in facts[len(told) :]:
            bound.observe((reading.started_ms - arm.read_at_ms) / 1000)

    def _due(self, arm: ClaimedArm, step: Step, changed_ms: int, now_ms: int) -> dict[Resource, Due]:
        """When arms are due, with the policy's word where the step leaves it to it."""
        stage = stage_of(step.state.snapshot.status, pending=step.state.snapshot.pending)
        found: dict[Resource, Due] = {}
        for resource, delay in step.delays_ms.items():
            if delay != BY_POLICY:
                found[resource] = Due(delay, URGENT)
            elif resource is arm.resource and arm.read_at_ms:
                found[resource] = self._planner.due(arm, stage, changed_ms or now_ms, now_ms)
            else:
                found[resource] = self._planner.first_due(arm.pool, arm.order_id, resource, stage)
        return found

    def _told(self, arm: ClaimedArm, step: Step) -> None:
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

    async def refused(
        self, arm: ClaimedArm, code: str, detail: str, retry_after_s: float | None = None, *, at_once: bool = False
    ) -> None:
        """An answer that is no reading. The arm keeps its age; `at_once`: the cause is mended, so it is asked again."""
        self._books.count(arm, code)
        now_ms = self._clock.now_ms()
        trouble = lifecycle.troubled(arm.trouble, code, detail, now_ms=now_ms)
        if trouble.count == 1 and not at_once:
            self._log.warning(
                "poll.refused",
                retailer_id=arm.retailer_id,
                order_id=arm.order_id,
                resource=arm.resource.value,
                code=code,
                detail=detail,
            )
        slow = arm.tracking is Tracking.SUSPENDED
        failures = 1 if code in _SLOW_DOWN else trouble.count
        if code in lifecycle.SUSPENDING and not at_once:
            step = await self._lasting(arm, code, detail, trouble)
            if step is not None and arm.resource in step.state.off:
                slow, failures = True, max(failures, 10)  # it is not expected to come back
        delay = 0 if at_once else self._policy.cadence.retry_ms(failures, retry_after_s, self._dice, slow=slow)
        # Where budget is left, arms of other classes are taken before they are due: this one is not to be.
        klass = URGENT if at_once else (HELD if arm.read_at_ms else FIRST)
        self._settler.put(Settlement(arm, Due(delay, klass), trouble=trouble))

    async def slow_down(self, arm: ClaimedArm, fetched: Fetched) -> None:
        """Upstream refuses for load: that is for the whole credential."""
        now = time.monotonic()
        if now - self._reported.get(arm.credential, -1e9) < _REPORT_EVERY and fetched.retry_after_s is None:
            return
        self._reported[arm.credential] = now
        gate_ms = await self._arms.throttle(arm.credential, fetched.retry_after_s)
        metrics.throttles.labels("unavailable" if fetched.status == 503 else "rate_limited").inc()
        self._log.warning("poll.throttled", credential=arm.credential, detail=fetched.detail, until_ms=gate_ms or None)

    async def _lasting(self, arm: ClaimedArm, code: str, detail: str, trouble: Trouble) -> Step | None:
        """Carry out what a lasting refusal changes, if it is one."""
        patience = min(self._policy.patience_ms, self._policy.abandon_ms)
        redacted = code == "forbidden" and arm.resource in lifecycle.REDACTABLE
        if not redacted and self._clock.now_ms() - trouble.since_ms < patience:
            return None
        state = await self._orders.load_state(arm.retailer_id, arm.order_id)
        if state is None:
            return None
        step = lifecycle.refuse(
            state, arm.resource, code, detail, trouble, now_ms=self._clock.now_ms(), policy=self._policy
        )
        if step is None:
            return Step(state, (), {}) if arm.resource in state.off else None
        fingerprints = dict.fromkeys(step.forget, "")
        due = self._due(arm, step, 0, self._clock.now_ms())
        commit = Commit(state, step.state, step.events, fingerprints=fingerprints, due=due)
        about = [event.type for event in step.events]
        with self._tracing.poll(arm.retailer_id, arm.resource.value, None) as poll, poll.commit(about) as span:
            result = await self._orders.commit(commit)
            span.tell(result=result)
        if result == "ok":  # else the next refusal tries again
            self._told(arm, step)
        return step


@cache
def _detections(stage: str) -> tuple[Histogram, Histogram]:
    return metrics.detection_delay.labels(stage), metrics.detection_bound.labels(stage)
