"""How soon changes are noticed for a budget: `python -m bench.freshness --traces FILE --budget N [--json]`.

Every policy sees the same traces under the same token bucket, and learns of an order, its stage and its end only from
its own polls. What is fitted beforehand is fitted on the first half of the run, and every policy is scored on the
changes of the second half. `relay` has learnt from its own polls in the first half; `relay_cold` forgets everything
when the scored half begins. `oracle` is told the mean hazard of each (stage, resource) and follows the square-root
rule; `proportional` polls in proportion to it; `table` is hand-tuned. All but the relay's are weighted fair queues: an
arm's turn comes every so many units of its interval, whatever the budget, so that each spends all of it.
"""

import argparse
import heapq
import json
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.trace_file import BadTrace, read
from relay.model.cadence import Cadence, stage_of
from relay.model.hazards import PRIOR, Hazards
from relay.model.orders import RESOURCES, TERMINAL_STATUSES
from relay.model.pacing import (
    CLASSES,
    EARLY,
    FIRST_AGE,
    FIRST_FACTOR,
    HELD,
    NARROWEST,
    OCTAVES,
    URGENT,
    Pacing,
    Pool,
    forecast,
)

MESSAGES = 2
#: The hand-tuned rival: seconds between polls of handling, items, messages.
TABLE = {
    "brand_new": (10, 60, 60),
    "acknowledged": (30, 120, 120),
    "picking": (15, 5, 8),
    "staging": (15, 30, 20),
    "delivering": (15, 60, 15),
}
POLICIES = ("fixed", "table", "proportional", "relay_cold", "relay", "oracle")


@dataclass(slots=True)
class Arm:
    order: "Order"
    resource: int
    times: list[float]
    seen: int = 0
    polled: float | None = None
    changed: float = 0.0
    left: int = 0
    ticket: int = 0
    phase: float = 1.0


@dataclass(slots=True)
class Order:
    """`stage` is what the last poll of handling showed; `over`: that it was a terminal one."""

    retailer: str
    start: float
    entered: list[float]
    stages: list[str]
    arms: list[Arm] = field(default_factory=list)
    stage: str = ""
    over: bool = False


class Fair:
    """A weighted fair queue over intervals: the heap of the arms' turns, in the queue's own time."""

    def __init__(self, interval: Callable[[Arm], float]) -> None:
        self._interval = interval
        self._heap: list[tuple[float, int, Arm]] = []
        self._turn = 0.0
        self._number = 0

    def half(self) -> None:
        """Nothing was learnt."""

    def hasten(self, order: Order, now: float) -> None:
        """A queue of fixed turns has no such thing."""

    def take(self, now: float) -> Arm | None:
        if not self._heap:
            return None
        turn, _, arm = heapq.heappop(self._heap)
        self._turn = max(self._turn, turn)
        return arm

    def put(self, arm: Arm, now: float, times: list[float], arms: int, budget: float, stages: dict[str, int]) -> None:
        self._number += 1
        turn = self._turn + self._interval(arm) * (arm.phase if arm.polled is None else 1.0)
        heapq.heappush(self._heap, (turn, self._number, arm))


class Learning:
    """The relay's policy, and its classes of due arms as the claim script takes from them."""

    def __init__(self, *, cold: bool) -> None:
        self._cold = cold
        self._hazards = Hazards()
        self._cadence = Cadence()
        self._pacing = Pacing(self._hazards, self._cadence)
        self._factor = FIRST_FACTOR
        #: Due time, a ticket, arm: only the arm's last ticket counts.
        self._queues: list[list[tuple[float, int, Arm]]] = [[] for _ in range(CLASSES)]
        self._number = 0
        self._planned: dict[int, float] = {}
        self._stretch, self._forecast_at = 1.0, -1e9

    def half(self) -> None:
        if self._cold:
            self._hazards.forget()
            self._factor = FIRST_FACTOR

    def take(self, now: float) -> Arm | None:
        best, most = None, -EARLY
        for number, queue in enumerate(self._queues):
            while queue and queue[0][1] != queue[0][2].ticket:
                heapq.heappop(queue)
            if queue and number == URGENT:
                return heapq.heappop(queue)[2]
            if queue:
                octave = number - OCTAVES if number != HELD else 5
                late = (now - queue[0][0]) / (NARROWEST * 2 ** (octave + 0.5))
                if late > most and (number != HELD or late >= 0):
                    best, most = queue, late
        return heapq.heappop(best)[2] if best else None

    def put(self, arm: Arm, now: float, times: list[float], arms: int, budget: float, stages: dict[str, int]) -> None:
        retailer, stage, resource = arm.order.retailer, stage_of(arm.order.stage), RESOURCES[arm.resource]
        pool = Pool("", arms, arms // 3, arms // 3, 1, budget, 0.0)
        if arm.polled is None:
            arm.changed = now - FIRST_AGE
        else:
            before = arm.polled
            course = self._pacing.course(pool, self._factor, retailer, resource, stage, self._stretch)
            self._factor += course.adjustment(self._planned[id(arm)], now - before)
            at = times
            if arm.resource != MESSAGES:  # how many changes a poll showed, but not when they were
                at = [before + (n + 0.5) * (now - before) / len(times) for n in range(len(times))]
            base = arm.changed
            since = [time - base for time in at]
            arm.changed += self._hazards.learn(retailer, resource, stage, before - base, now - base, since)
        if now - self._forecast_at > 5.0:
            self._forecast_at = now
            self._stretch = forecast(stages, RESOURCES, self._hazards, self._cadence, budget).stretch
        course = self._pacing.course(pool, self._factor, retailer, resource, stage, self._stretch)
        plan = course.plan(now - arm.changed)
        self._planned[id(arm)] = plan.seconds
        self._stand(arm, now + plan.seconds * (arm.phase if arm.polled is None else 1.0), plan.klass)

    def hasten(self, order: Order, now: float) -> None:
        """The stage moved: what else the order shows is looked at at once, as the worker does."""
        for arm in order.arms:
            if arm.resource != 0 and arm.polled is not None and not order.over:
                self._stand(arm, now, URGENT)

    def _stand(self, arm: Arm, due: float, number: int) -> None:
        self._number += 1
        arm.ticket = self._number
        heapq.heappush(self._queues[number], (due, self._number, arm))


@dataclass
class Score:
    """`spent`: requests; `empty`: the share of them that found nothing."""

    mean: float
    p95: float
    missed: float
    most: int
    spent: int
    empty: float


def simulate(orders: list[Order], horizon: float, budget: float, policy: Any) -> Score:
    """Spend each token on the arm that the policy takes; first readings come before all else."""
    waiting = deque(sorted(orders, key=lambda order: order.start))
    fresh: deque[Arm] = deque()
    delays: list[float] = []
    known_stages: set[tuple[int, float]] = set()
    stages: dict[str, int] = {}
    second: deque[float] = deque()
    most = arms = spent = finds = 0
    half, halved = horizon / 2, False
    for token in range(1, int(horizon * budget) + 1):
        now = token / budget
        if not halved and now >= half:
            halved = True
            policy.half()
        while waiting and waiting[0].start <= now:
            fresh.extend(waiting.popleft().arms)
            arms += 3
        arm = fresh.popleft() if fresh else policy.take(now)
        if arm is None:
            continue
        spent += 1
        second.append(now)
        while second[0] <= now - 1.0 + 1e-9:
            second.popleft()
        most = max(most, len(second))
        times, seen = arm.times, arm.seen
        while arm.seen < len(times) and times[arm.seen] <= now:
            arm.seen += 1
        found = times[seen : arm.seen]
        finds += bool(found)
        delays += [now - time for time in found if time > half]
        if arm.resource == 0:
            before = arm.order.stage
            _look(arm.order, now, known_stages, stages)
            if before not in ("", arm.order.stage):
                policy.hasten(arm.order, now)
        if arm.order.over:
            arm.left -= 1
            if arm.left <= 0:
                arms -= 1
                continue
        policy.put(arm, now, found, arms, budget, stages)
        arm.polled = now
    delays += [horizon - t for order in orders for arm in order.arms for t in arm.times[arm.seen :] if t > half]
    delays.sort()
    entries = [(id(o), t) for o in orders for t in o.entered[1:] if half < t <= horizon]
    missed = sum(entry not in known_stages for entry in entries) / max(1, len(entries))
    empty = 1 - finds / max(1, spent)
    return Score(math.fsum(delays) / len(delays), delays[int(0.95 * len(delays))], missed, most, spent, empty)


def _look(order: Order, now: float, known: set[tuple[int, float]], stages: dict[str, int]) -> None:
    """A poll of handling shows the stage; a terminal one is confirmed by one more reading of each resource."""
    at = max(0, bisect_right(order.entered, now) - 1)
    if order.stage and order.stage not in TERMINAL_STATUSES:
        stages[order.stage] -= 1
    order.stage = order.stages[at]
    if order.stage not in TERMINAL_STATUSES:
        stages[order.stage] = stages.get(order.stage, 0) + 1
    known.add((id(order), order.entered[at]))
    if order.stage in TERMINAL_STATUSES and not order.over:
        order.over = True
        for arm in order.arms:
            arm.left = 2 if arm.resource == 0 else 1


def load(path: Path) -> tuple[float, list[Order]]:
    """The horizon and the orders of a trace file. Raises BadTrace."""
    world, lives = read(path)
    orders = []
    for life in lives:
        start = max(0.0, life.start)
        order = Order(life.retailer, start, [t for t, _ in life.stages], [s for _, s in life.stages])
        for number, name in enumerate(RESOURCES):
            order.arms.append(Arm(order, number, [t for t, r in life.changes if r == name.value and t > start]))
        orders.append(order)
    arms = [arm for order in orders for arm in order.arms]
    for number, arm in enumerate(arms):  # spread evenly, so that what begins together does not fall due together
        arm.phase = (number + 1) * 0.6180339887 % 1.0
    return world.horizon_s, orders


def _true_hazards(orders: list[Order], horizon: float) -> dict[tuple[str, int], float]:
    """Changes a second of each (stage, resource), over the whole trace: what the oracle is told."""
    changes: dict[tuple[str, int], int] = {}
    seconds: dict[str, float] = {}
    for order in orders:
        ends = [*order.entered[1:], horizon]
        for begin, end, stage in zip(order.entered, ends, order.stages, strict=True):
            seconds[stage] = seconds.get(stage, 0.0) + max(0.0, min(end, horizon) - max(begin, order.start))
        for arm in order.arms:
            for time in arm.times:
                # A change of status counts in the stage that it leaves.
                stage = order.stages[max(0, bisect_right(order.entered, time - 1e-6) - 1)]
                changes[stage, arm.resource] = changes.get((stage, arm.resource), 0) + 1
    return {(stage, n): count / max(seconds[stage], 1.0) for (stage, n), count in changes.items()}


def run(path: Path, budget: float, name: str) -> Score:
    """One policy on one trace."""
    horizon, orders = load(path)
    hazards = _true_hazards(orders, horizon)

    def hazard(arm: Arm) -> float:
        return hazards.get((arm.order.stage, arm.resource), PRIOR / 10)

    def table(arm: Arm) -> float:
        return float(TABLE.get(arm.order.stage, (15, 15, 15))[arm.resource])

    policies: dict[str, Callable[[], Any]] = {
        "fixed": lambda: Fair(lambda arm: 1.0),
        "table": lambda: Fair(table),
        "proportional": lambda: Fair(lambda arm: 1e-3 / hazard(arm)),
        "oracle": lambda: Fair(lambda arm: 1 / math.sqrt(hazard(arm))),
        "relay": lambda: Learning(cold=False),
        "relay_cold": lambda: Learning(cold=True),
    }
    return simulate(orders, horizon, budget, policies[name]())


def _budget(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError("must be above 0, in requests a second")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.freshness", description=__doc__)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--budget", type=_budget, required=True, help="requests a second")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    options = parser.parse_args()
    try:
        load(options.traces)
    except BadTrace as error:
        parser.error(str(error))
    with ProcessPoolExecutor() as pool:
        futures = {name: pool.submit(run, options.traces, options.budget, name) for name in POLICIES}
        scores = {name: future.result() for name, future in futures.items()}
    if not options.json:
        for name, score in scores.items():
            against = score.mean / scores["oracle"].mean if scores["oracle"].mean else math.nan
            figures = f"mean {score.mean:7.2f} s  p95 {score.p95:7.2f} s  missed {score.missed:.3f}"
            figures += f"  {score.spent:,} requests, {score.empty:.0%} found nothing"
            print(f"{name:<13} {figures}  {against:5.2f} x oracle")
    result = {
        "mean_delay_s": {name: round(score.mean, 3) for name, score in scores.items()},
        "p95_delay_s": {name: round(score.p95, 3) for name, score in scores.items()},
        "missed_states": {name: round(score.missed, 4) for name, score in scores.items()},
        "max_requests_in_a_second": {name: score.most for name, score in scores.items()},
        "requests": {name: score.spent for name, score in scores.items()},
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
