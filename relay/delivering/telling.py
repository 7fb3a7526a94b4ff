"""One attempt, two observers: the log line and the metrics."""

from functools import cache

import msgspec
import structlog
from prometheus_client import Counter

from relay import metrics
from relay.delivering.jobs import Job
from relay.model.retries import Delivered, Outcome, Verdict


def attempted(logger: structlog.stdlib.BoundLogger, job: Job, outcome: Outcome, verdict: Verdict, now_ms: int) -> bytes:
    """Tell of one attempt; returns the error to keep with the subscription, empty when there was none."""
    kind = outcome.kind if outcome.kind != "answered" else f"status_{(outcome.status or 0) // 100}xx"
    _attempts(kind).inc()
    metrics.attempt_duration.observe(outcome.duration_ms / 1000)
    _verdicts(type(verdict).__name__.lower()).inc()
    logger.info(
        "delivery.attempted",
        event_id=job.entry.event_id,
        order_id=job.entry.order_id,
        attempt=job.attempts,
        outcome=outcome.kind,
        status=outcome.status,
        detail=outcome.detail,
        duration_ms=round(outcome.duration_ms, 1),
        verdict=type(verdict).__name__.lower(),
    )
    if isinstance(verdict, Delivered):
        metrics.delivery_latency.observe(max(0, now_ms - job.entry.committed_ms) / 1000)
        return b""
    record = {"at_ms": now_ms, "outcome": outcome.kind, "status": outcome.status, "detail": outcome.detail}
    return msgspec.json.encode(record)


# Looking a labelled counter up costs several times what counting does; there are a dozen of each.


@cache
def _attempts(kind: str) -> Counter:
    return metrics.attempts.labels(kind)


@cache
def _verdicts(name: str) -> Counter:
    return metrics.verdicts.labels(name)
