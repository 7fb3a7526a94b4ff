"""One attempt, three observers: the log line, the metrics, and what is kept with the subscription."""

from functools import cache

import msgspec
import structlog
from prometheus_client import Counter, Histogram

from relay import metrics
from relay.delivering.jobs import Job
from relay.model.orders import JsonObject
from relay.model.retries import Delivered, Outcome, Verdict
from relay.store.attempts import Attempt
from relay.store.audit import redacted


def attempted(
    logger: structlog.stdlib.BoundLogger,
    job: Job,
    outcome: Outcome,
    verdict: Verdict,
    sent_ms: int,
    now_ms: int,
    *,
    real: bool,
) -> Attempt:
    """Tell of one attempt that began at `sent_ms`; returns it as it is kept. Not `real` are the canary's: who asks
    whether anything is sent to receivers (RelayDeliveryStalled) is not to be answered by them."""
    name = type(verdict).__name__.lower()
    if real:
        count, duration = _attempts(outcome.kind, "none" if outcome.status is None else f"{outcome.status // 100}xx")
        count.inc()
        duration.observe(outcome.duration_ms / 1000)
    _verdicts(name).inc()
    logger.info(
        "delivery.attempted",
        event_id=job.entry.event_id,
        order_id=job.entry.order_id,
        attempt=job.attempts,
        outcome=outcome.kind,
        status=outcome.status,
        detail=_without_echo(outcome),
        duration_ms=round(outcome.duration_ms, 1),
        verdict=name,
    )
    if job.prompt and job.attempts == 1:
        metrics.first_attempt.observe(max(0, sent_ms - job.entry.committed_ms) / 1000)
    if isinstance(verdict, Delivered):
        metrics.attempt_number.observe(job.attempts)
        if not job.kind:
            metrics.delivery_latency.observe(max(0, now_ms - job.entry.committed_ms) / 1000)
    if job.kind == "r" and job.attempts == 1:
        metrics.redeliveries.labels("replay").inc()
    return Attempt(
        *(job.sequence, job.attempts, now_ms, outcome.kind, outcome.status, outcome.duration_ms, name),
        error="" if isinstance(verdict, Delivered) else outcome.detail,
        replay=job.kind == "r",
    )


def _without_echo(outcome: Outcome) -> str:
    """What a receiver answered may repeat what it was sent: that is kept with the attempt, and purged with it."""
    return "" if outcome.kind == "answered" else outcome.detail


def last_error(attempt: Attempt) -> str:
    """The attempt as the subscription shows its last error, without what the receiver answered."""
    record = {
        "at_ms": attempt.at_ms,
        "outcome": attempt.outcome,
        "status": attempt.status,
        "detail": "" if attempt.outcome == "answered" else attempt.error,
    }
    return msgspec.json.encode(record).decode()


def about(subscription_id: str, url: str, details: JsonObject) -> JsonObject:
    """The `data` of an event about a subscription; a query may hold a secret and is left out."""
    return {"subscription_id": subscription_id, "url": redacted(url), **details}


# Looking a labelled counter up costs several times what counting does; there are a dozen of each.


@cache
def _attempts(kind: str, status_class: str) -> tuple[Counter, Histogram]:
    return metrics.attempts.labels(kind, status_class), metrics.attempt_duration.labels(kind)


@cache
def _verdicts(name: str) -> Counter:
    return metrics.verdicts.labels(name)
