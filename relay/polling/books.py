"""What polls tell of themselves in the metrics. Those that found nothing new, thousands a second, are entered many at a
time: a metric takes a lock for each value, which would cost more than deciding when an arm is polled next."""

import time
from collections import Counter
from collections.abc import Sequence
from functools import cache

import structlog
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
        self._log = structlog.get_logger("relay.polling")

    def answered(self, arm: ClaimedArm, asked_ms: int, duration_s: float) -> None:
        """A request that set out at this time was answered, or not, after so long."""
        _times([arm], [asked_ms], [duration_s])

    def good(self, arm: ClaimedArm) -> None:
        """Upstream gave a good answer. The canary's is our own, which answers while the real one is away."""
        if arm.retailer_id != keys.CANARY:
            _last_success(arm.resource).set(time.time())

    def count(self, arm: ClaimedArm, outcome: str) -> None:
        """What came of a poll."""
        self.tally[outcome] += 1
        _polls(arm.resource, outcome).inc()

    def failed(self, arm: ClaimedArm, error: Exception) -> None:
        """A defect of ours: the arm falls due again with its lease."""
        self.count(arm, "failed")
        about = {"retailer_id": arm.retailer_id, "order_id": arm.order_id, "resource": arm.resource.value}
        self._log.error("poll.failed", exc_info=error, **about)

    def unchanged(self, arms: Sequence[ClaimedArm], asked_ms: Sequence[int], durations_s: Sequence[float]) -> None:
        """Good answers that showed no change, and are in the tally already."""
        _times(arms, asked_ms, durations_s)
        letters = "".join([arm.member[0] for arm in arms])
        for letter in set(letters):
            _polls(BY_SHORT[letter], "unchanged").inc(letters.count(letter))
        if keys.CANARY in {arm.pool.retailer_id for arm in arms}:
            letters = "".join([arm.member[0] for arm in arms if arm.pool.retailer_id != keys.CANARY])
        for letter in set(letters):
            _last_success(BY_SHORT[letter]).set(time.time())


def _times(arms: Sequence[ClaimedArm], asked_ms: Sequence[int], durations_s: Sequence[float]) -> None:
    late_s = [max(0, at - arm.due_ms) / 1000 for arm, at in zip(arms, asked_ms, strict=True)]
    metrics.poll_lateness.observe_all(late_s)
    metrics.poll_duration.observe_all(durations_s)
    if max(late_s) > labels.LATE:
        for arm, late in zip(arms, late_s, strict=True):
            if late > labels.LATE:
                metrics.polls_late.labels(arm.stage.removesuffix("+")).inc()


@cache
def _polls(resource: Resource, outcome: str) -> PrometheusCounter:
    return metrics.polls.labels(labels.labelled(resource.value), outcome)


@cache
def _last_success(resource: Resource) -> Gauge:
    return metrics.poll_last_success.labels(labels.labelled(resource.value))
