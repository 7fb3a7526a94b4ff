"""When each arm is polled next: the policy with what it learns, shared with the other pumps through the store."""

import time
import zlib
from collections.abc import Sequence

from relay import metrics
from relay.model.cadence import Cadence
from relay.model.hazards import Hazards
from relay.model.lifecycle import Policy
from relay.model.orders import OrderId, Resource
from relay.model.pacing import FIRST, FIRST_AGE, Course, Forecast, Pacing, Pool, forecast, klass, stretch
from relay.store import keys
from relay.store.arms import Arms
from relay.store.order_records import ClaimedArm, Due

#: How often what was learnt is exchanged with the other pumps (seconds).
EXCHANGE_EVERY = 5.0


class Planner:
    """One per process, used by one pump after the other."""

    def __init__(self, arms: Arms, policy: Policy) -> None:
        self._arms = arms
        self._policy = policy
        self._hazards = Hazards()
        self._pacing = Pacing(self._hazards, policy.cadence)
        self._learnt: dict[str, float] = {}
        self._forecasts: dict[str, Forecast] = {}
        self._seen: dict[str, float] = {}
        self._exchanged = -1e9

    @property
    def cadence(self) -> Cadence:
        return self._policy.cadence

    def reread(self, arms: Sequence[ClaimedArm], asked_ms: Sequence[int]) -> list[Due]:
        """Say when each arm is read again after answers that showed no change, asked for at these times, and then learn
        from them. A worker does this for thousands of arms a second, so what arms have in common is worked out once."""
        scale = self.cadence.scale
        first_age_ms = round(FIRST_AGE * scale * 1000)
        courses: dict[tuple[str, str, str], tuple[Course, bool]] = {}
        dues, lessons = [], []
        for arm, started_ms in zip(arms, asked_ms, strict=True):
            kind = (arm.pool.id, arm.member[0], arm.status)
            known = courses.get(kind)
            if known is None:
                known = courses[kind] = self._course_of(arm), self._learns(arm)
            course, learns = known
            changed_ms, read_at_ms = arm.changed_ms or started_ms - first_age_ms, arm.read_at_ms
            age_s = (started_ms - changed_ms) / 1000
            plan = course.plan(age_s)
            dues.append(Due(round(plan.seconds * 1000), plan.klass))
            if learns and 0 < read_at_ms < started_ms:
                lessons.append((arm, course, started_ms, (read_at_ms - changed_ms) / 1000 / scale, age_s / scale))
        for arm, course, started_ms, since, until in lessons:
            if arm.pool.rate > 0:
                self._adjust(arm, course, started_ms)
            course.strand.quiet(since, until)
        return dues

    def read(
        self, arm: ClaimedArm, started_ms: int, changes_ms: Sequence[int] = (), weight: float | None = None
    ) -> int:
        """Learn from a good reading that showed changes at these times; returns when the arm last changed (ms)."""
        scale = self.cadence.scale
        changed_ms = arm.changed_ms or (started_ms - round(FIRST_AGE * scale * 1000))
        if not self._learns(arm) or not 0 < arm.read_at_ms < started_ms:
            return changed_ms
        if arm.pool.rate > 0:
            self._adjust(arm, self._course_of(arm), started_ms)
        since, until = (arm.read_at_ms - changed_ms) / 1000 / scale, (started_ms - changed_ms) / 1000 / scale
        times = [(at - changed_ms) / 1000 / scale for at in changes_ms]
        last = self._hazards.learn(arm.retailer_id, arm.resource, arm.stage, since, until, times, weight)
        return changed_ms + round(last * scale * 1000)

    def due(self, arm: ClaimedArm, stage: str, changed_ms: int, now_ms: int) -> Due:
        """When an arm that was read now is read again."""
        plan = self._course(arm.pool, arm.resource, stage).plan((now_ms - changed_ms) / 1000)
        return Due(round(plan.seconds * 1000), plan.klass)

    def first_due(self, pool: Pool, order_id: OrderId, resource: Resource, stage: str) -> Due:
        """When an arm is read for the second time: at a phase of its own, so that what began together does not march in
        step."""
        phase = zlib.crc32(f"{resource.short}/{order_id}".encode()) / 2**32
        plan = self._course(pool, resource, stage).plan(FIRST_AGE * self.cadence.scale)
        return Due(round(plan.seconds * phase * 1000), plan.klass)

    def _course(self, pool: Pool, resource: Resource, stage: str) -> Course:
        factor = pool.factor + self._learnt.get(pool.id, 0.0)
        return self._pacing.course(pool, factor, pool.retailer_id, resource, stage, self._stretch(pool))

    def _course_of(self, arm: ClaimedArm) -> Course:
        return self._course(arm.pool, arm.resource, arm.stage)

    def _learns(self, arm: ClaimedArm) -> bool:
        """Whether anything is to be learnt from an arm: the canary's order changes by the clock."""
        if arm.retailer_id == keys.CANARY:
            return False
        self._seen[arm.pool.id] = time.monotonic()
        return True

    def _adjust(self, arm: ClaimedArm, course: Course, started_ms: int) -> None:
        if arm.due_ms > arm.read_at_ms:
            step = course.adjustment((arm.due_ms - arm.read_at_ms) / 1000, (started_ms - arm.read_at_ms) / 1000)
            self._learnt[arm.pool.id] = self._learnt.get(arm.pool.id, 0.0) + step

    def same_class(self, arm: ClaimedArm) -> int:
        """Where an arm stands that was not read: as before, so that the latest relative to its interval comes first."""
        if arm.read_at_ms == 0:
            return FIRST
        return klass(max(1, arm.due_ms - arm.read_at_ms) / 1000, self.cadence.scale)

    def _stretch(self, pool: Pool) -> float:
        known = self._forecasts.get(pool.credential)
        return 1.0 if known is None else stretch(pool, known.needed)

    def drain(self) -> dict[str, float]:
        """What was learnt of pools' factors since the last time."""
        learnt, self._learnt = self._learnt, {}
        return learnt

    async def exchange(self) -> None:
        """Every few seconds: share what was learnt, and see what the budgets will do. Raises StoreUnavailable, and
        forgets then what it could not write: that is a few seconds of learning."""
        now = time.monotonic()
        if now - self._exchanged < EXCHANGE_EVERY:
            return
        self._exchanged = now
        self._seen = {id_: at for id_, at in self._seen.items() if now - at < 60}
        pools = [id_.partition("/") for id_ in self._seen]
        classes, tempos = await self._arms.exchange(*self._hazards.drain(), [one[2] for one in pools])
        self._hazards.absorb(classes, tempos)
        for credential in {one[0] for one in pools}:
            load = await self._arms.load(credential)
            self._forecasts[credential] = forecast(
                load.stages, self._policy.resources, self._hazards, self.cadence, load.rate
            )
        metrics.expected_delay.set(max((f.mean_delay_s for f in self._forecasts.values()), default=0.0))
        metrics.budget_stretch.set(max((f.stretch for f in self._forecasts.values()), default=1.0))
