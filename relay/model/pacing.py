"""When an arm is polled next: the policy that spends a budget for the soonest news. Pure; the worker and the simulation
(`bench/freshness.py`) use it alike.

Poll an arm when its index (Olston and Pandey 2008)

    W(t) = integral from 0 to t of s^p m(s) ds        reaches one threshold, the same for all arms of a pool,

with m(s) the expected weighted rate of change s seconds after the last poll. For a constant hazard and p = 1 that is
the square-root rule, which minimises the mean delay for a budget. A *pool* is one retailer's arms under one
credential. The threshold scales with (arms / budget)^(p + 1), so that a budget cut by ten, or a wave of orders, takes
effect at once; the factor left is learnt from how much later, or earlier, than planned polls happen.

That alone leaves a long tail: of a change noticed later than the tail T, how much later hardly matters to whoever
counts late ones. So a change that is kept waiting beyond T costs extra, once: the index jumps by `LATE` times what it
would be for the arm's mean hazard when t passes T. Arms whose interval would be somewhat longer than T are then polled
at T, the rare ones beyond somewhat sooner than otherwise, and all pay by a higher threshold.

Due arms stand in classes by the length of their interval (octaves). The arm that is latest relative to its interval
has the largest index, and within a class that is the one that was due first: so one look at each class's head finds it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from msgspec.structs import force_setattr

from relay.model.cadence import Cadence
from relay.model.hazards import POWER, PRIOR, Hazards, Strand, reach
from relay.model.orders import Resource, RetailerId

#: Classes of due arms. URGENT: now, before all else (second looks, a retailer's decision). FIRST: never read, turn
#: about with what is overdue. Then octaves of the interval. HELD: at its floor, so never taken before it is due.
URGENT, FIRST, OCTAVES, HELD = 0, 1, 2, 15
CLASSES = 16
#: The interval that the lowest octave begins with (seconds of the policy's time).
NARROWEST = 0.25
#: How early an arm may be polled when nothing is due and budget is left: this share of its interval.
EARLY = 0.5
#: Mean interval of an arm (seconds) where no budget is set.
UNLIMITED_INTERVAL = 20.0
#: The tail begins at this share of the mean interval that the budget pays for (uniform polling has its p95 at 0.95).
TAIL = 0.45
#: What being late costs beside the delay, as a multiple of the index at the tail's beginning.
LATE = 6.0
#: How much of a retailer's share of a common budget is the same for all; the rest goes by numbers of orders.
GUARANTEED = 0.5
#: How much of its budget a credential may spend for what has to be read at the latest (the ceilings).
FEASIBLE = 0.95
#: The factor of a pool of which nothing was learnt yet (its logarithm): intervals begin at the tail, shorter than the
#: budget pays for. By log(PRIOR (1 + LATE TAIL^q) / q), q = POWER + 1, they would begin at the mean interval; but most
#: arms are rarer than the prior, and being late is unlearnt faster than being idle (docs/performance.md).
FIRST_FACTOR = math.log(PRIOR / 2)
#: How fast a pool comes to spend its share when nobody is late.
DEMAND = 0.1
#: What is assumed of the age of an arm's last change when none was seen (seconds).
FIRST_AGE = 60.0


class Pool(msgspec.Struct, frozen=True):
    """One retailer's arms under one credential: how many, its orders and those of all `retailers` of the credential,
    the credential's rate (requests a second; 0: no limit), and the learnt factor of the threshold (its logarithm).
    `credential` and `retailer_id` are the parts of `id`."""

    id: str
    arms: int
    orders: int
    all_orders: int
    retailers: int
    rate: float
    factor: float
    credential: str = ""
    retailer_id: RetailerId = RetailerId("")

    def __post_init__(self) -> None:
        credential, _, retailer_id = self.id.partition("/")
        force_setattr(self, "credential", credential)
        force_setattr(self, "retailer_id", RetailerId(retailer_id))

    @property
    def budget(self) -> float:
        """Its share of the rate: half in equal parts, half by number of orders."""
        return self.rate * share(self.orders, self.all_orders, self.retailers)


class Plan(msgspec.Struct, frozen=True):
    """Poll again after so many seconds, and stand in this class until then."""

    seconds: float
    klass: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a budget will do for the orders that there are. `mean_delay_s`: expected from change to commit. `needed`:
    requests a second without which the ceilings cannot be kept. `stretch`: by how much ceilings are lengthened."""

    mean_delay_s: float
    needed: float
    stretch: float

    @property
    def feasible(self) -> bool:
        return self.stretch <= 1.0


def timely(seconds: float, tail: float) -> float:
    """The interval when being later than `tail` costs extra, of an arm that would have this one otherwise.

    With q = POWER + 1, its hazard is about threshold q / seconds^q, so the jump is `LATE` tail^q threshold / seconds^q,
    and what is left of the threshold is reached at (seconds^q - LATE tail^q)^(1/q), though not before the jump."""
    if seconds <= tail:
        return seconds
    q = POWER + 1
    return tail * math.pow(max(1.0, math.pow(seconds / tail, q) - LATE), 1 / q)


def stretch(pool: Pool, needed: float) -> float:
    """By how much a pool's ceilings are lengthened when its credential needs so many requests a second for them."""
    if pool.budget <= 0:
        return 1.0
    part = min(1.0, pool.orders / max(pool.all_orders, 1))
    return max(1.0, needed * part / (FEASIBLE * pool.budget))


def share(orders: int, all_orders: int, retailers: int) -> float:
    """A retailer's part of a budget that several share, from 0 to 1."""
    if retailers <= 1 or all_orders <= 0:
        return 1.0
    return GUARANTEED / retailers + (1 - GUARANTEED) * min(1.0, orders / all_orders)


def klass(seconds: float, scale: float) -> int:
    """The class of an interval."""
    octave = int(math.log2(max(seconds / scale / NARROWEST, 1.0)))
    return min(OCTAVES + octave, HELD - 1)


class Course:
    """How one pool's arms of one resource and stage are paced, by what is known now: what is the same for all of them
    is worked out once. `factor` is the pool's with what was learnt since; ceilings are lengthened by `stretch`."""

    __slots__ = ("_bounds", "_mean", "_plans", "_pool", "_scale", "_threshold", "strand")

    def __init__(
        self,
        pool: Pool,
        factor: float,
        strand: Strand,
        scale: float,
        mean_s: float,
        bounds: tuple[float, float],
        stretch: float,
    ) -> None:
        self.strand = strand
        self._pool = pool
        self._scale = scale
        self._mean = mean_s
        self._bounds = (bounds[0], bounds[1] * stretch)
        self._threshold = math.exp(factor) * math.pow(mean_s / scale, POWER + 1) / strand.tempo.factor
        self._plans: dict[float, Plan] = {}

    def plan(self, age_s: float) -> Plan:
        """When to poll an arm that was polled now and changed last so long ago, as far as is known."""
        plan = self._plans.get(age_s)  # arms of which no change was ever seen are all of the same age
        if plan is None:
            plan = self._plans[age_s] = self._plan(age_s)
        return plan

    def _plan(self, age_s: float) -> Plan:
        scale, (low, high) = self._scale, self._bounds
        seconds = reach(self.strand.hazards, max(0.0, age_s / scale), self._threshold) * scale
        if seconds > low:
            seconds = timely(seconds, TAIL * self._mean)
        if seconds <= low:
            return Plan(low, HELD)
        seconds = min(seconds, high)
        return Plan(seconds, klass(seconds, scale))

    def adjustment(self, planned_s: float, actual_s: float) -> float:
        """What a poll of an arm teaches of its pool's factor."""
        return adjustment(planned_s, actual_s, self._mean, self._pool.arms, self._bounds)


class Pacing:
    """The policy of one process."""

    def __init__(self, hazards: Hazards, cadence: Cadence) -> None:
        self.hazards = hazards
        self._cadence = cadence
        self._bounds: dict[tuple[Resource, str], tuple[float, float]] = {}

    def course(
        self, pool: Pool, factor: float, retailer_id: str, resource: Resource, stage: str, stretch: float
    ) -> Course:
        """For arms that are polled now: what is learnt later is not in it."""
        strand, bounds = self.hazards.strand(retailer_id, resource, stage), self._bounds_of(resource, stage)
        return Course(pool, factor, strand, self._cadence.scale, self.mean_interval(pool), bounds, stretch)

    def _bounds_of(self, resource: Resource, stage: str) -> tuple[float, float]:
        bounds = self._bounds.get((resource, stage))
        if bounds is None:
            bounds = self._bounds[resource, stage] = self._cadence.bounds(resource, stage)
        return bounds

    def mean_interval(self, pool: Pool) -> float:
        """Seconds between two polls of an arm, in the mean, that the pool's budget pays for."""
        if pool.budget <= 0:
            return UNLIMITED_INTERVAL * self._cadence.scale
        return max(pool.arms, 1) / pool.budget


def adjustment(planned_s: float, actual_s: float, mean_s: float, arms: int, bounds: tuple[float, float]) -> float:
    """What to add to a pool's factor after a poll that was planned so many seconds after the one before it, and came
    after `actual_s`; `mean_s` is the mean interval that the pool's budget pays for, `bounds` are those of the plan.

    One poll of each arm, all late by the same ratio, lengthens intervals by half of it. A pool that is never late,
    because it has a share for itself, must still come to spend it: over its polls, planned intervals have the mean that
    the budget pays for. A bound that holds the plan says nothing of the threshold beyond it.
    """
    late = min(4.0, max(0.25, actual_s / max(planned_s, 0.001)))
    push = 0.5 * math.log(late) + DEMAND * max(-3.0, 1 - planned_s / mean_s)
    if (push < 0 and planned_s <= 1.01 * bounds[0]) or (push > 0 and planned_s >= 0.99 * bounds[1]):
        return 0.0
    return (POWER + 1) * push / max(arms, 1)


def forecast(
    stages: Mapping[str, int], resources: tuple[Resource, ...], hazards: Hazards, cadence: Cadence, rate: float
) -> Forecast:
    """What is to be expected of `rate` requests a second for so many orders a stage, by the square-root rule:
    D = (sum sqrt mu)^2 / (2 B sum mu). A rate of 0 is no limit."""
    roots = total = needed = uniform = 0.0
    for stage, count in stages.items():
        for resource in resources:
            mu = hazards.mean(resource, stage) / cadence.scale
            roots += count * math.sqrt(mu)
            total += count * mu
            uniform += count
            needed += count / cadence.bounds(resource, stage)[1]
    if total <= 0:
        return Forecast(0.0, needed, 1.0)
    if rate <= 0:
        return Forecast(roots * roots / total / uniform * UNLIMITED_INTERVAL * cadence.scale / 2, needed, 1.0)
    return Forecast(roots * roots / (2 * rate * total), needed, max(1.0, needed / (FEASIBLE * rate)))
