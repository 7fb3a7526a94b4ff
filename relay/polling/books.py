"""What polls tell of themselves, gathered and entered into the metrics once for many: a metric takes a lock for each
value, which for thousands of polls a second would cost more than deciding when each arm is polled next."""

import time
from collections import Counter
from collections.abc import Sequence
from functools import cache

from prometheus_client import Counter as PrometheusCounter
from prometheus_client import Gauge

from relay import labels, metrics
from relay.model.orders import BY_SHORT, Resource
from relay.store import keys
from relay.store.order_records import ClaimedArm


class Books:
    """One a pump. `tally` counts polls by outcome."""

    def __init__(self) -> None:
        self.tally: Counter[str] = Counter()
        self._late_s: list[float] = []
        self._duration_s: list[float] = []

    def asked(self, arm: ClaimedArm, late_s: float) -> None:
        """A request set out, so many seconds after it was due."""
        self._late_s.append(late_s)
        if late_s > labels.LATE:
            metrics.polls_late.labels(arm.stage.removesuffix("+")).inc()

    def answered(self, duration_s: float) -> None:
        self._duration_s.append(duration_s)

    def good(self, arm: ClaimedArm) -> None:
        """Upstream gave a good answer. The canary's is our own, which answers while the real one is away."""
        if arm.retailer_id != keys.CANARY:
            _last_success(arm.resource).set(time.time())

    def count(self, arm: ClaimedArm, outcome: str) -> None:
        """What came of a poll."""
        self.tally[outcome] += 1
        _polls(arm.resource, outcome).inc()

    def unchanged(self, arms: Sequence[ClaimedArm]) -> None:
        """Good answers that showed no change, and are in the tally already."""
        letters = "".join([arm.member[0] for arm in arms])
        for letter in set(letters):
            _polls(BY_SHORT[letter], "unchanged").inc(letters.count(letter))
        if any(pool_id.endswith(_CANARY) for pool_id in {arm.pool.id for arm in arms}):
            letters = "".join([arm.member[0] for arm in arms if not arm.pool.id.endswith(_CANARY)])
        for letter in set(letters):
            _last_success(BY_SHORT[letter]).set(time.time())

    def enter(self) -> None:
        """Put the times that were gathered into the metrics."""
        late_s, self._late_s = self._late_s, []
        duration_s, self._duration_s = self._duration_s, []
        metrics.poll_lateness.observe_all(late_s)
        metrics.poll_duration.observe_all(duration_s)


_CANARY = f"/{keys.CANARY}"


@cache
def _polls(resource: Resource, outcome: str) -> PrometheusCounter:
    return metrics.polls.labels(labels.labelled(resource.value), outcome)


@cache
def _last_success(resource: Resource) -> Gauge:
    return metrics.poll_last_success.labels(labels.labelled(resource.value))
