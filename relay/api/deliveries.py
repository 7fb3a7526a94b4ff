"""What became of events at subscriptions, and sending them again."""

from datetime import datetime
from typing import get_args

from relay.api import cursors, events
from relay.api.deps import Call, Reply
from relay.api.views import AttemptView, DeliveryView, PercentilesView, RecoveryView, RedeliveryView, StatisticsView
from relay.errors import InvalidInput, Problem
from relay.model.events import rfc3339
from relay.model.filters import Filter
from relay.store import statistics
from relay.store.attempts import Attempt
from relay.store.deliveries import LaneEntry, on_request
from relay.store.history import Delivery, Status
from relay.store.recoveries import Recovery

#: Larger than the number of any event within one millisecond: "the end of this millisecond" as a place in the log.
_LAST = 999_999_999


async def page(call: Call) -> Reply:
    before, limit = cursors.page(call.request, "delivery")
    query = call.request.query_params
    status: Status | None = None
    if "status" in query:
        status = next((one for one in get_args(Status) if one == query["status"]), None)
        if status is None:
            detail = f"status is one of: {', '.join(get_args(Status))}"
            raise InvalidInput(detail, code="invalid_status", problems=[Problem("status", "invalid_status", detail)])
    pattern = query.get("event_type")
    found, last = await call.deps.history.page(
        call.retailer_id,
        call.path("subscription_id"),
        before=before,
        limit=limit,
        status=status,
        order_id=query.get("order_id"),
        matches=None if pattern is None else Filter.parse([pattern], "event_type").matches,
    )
    return Reply(200, {"data": [view(one) for one in found], "next": cursors.encode("delivery", last)})


async def of_event(call: Call) -> Reply:
    entry = await events.found(call)
    found = await call.deps.history.of_event(call.retailer_id, entry)
    return Reply(200, {"data": [view(one) for one in found], "next": None})


async def redeliver(call: Call) -> Reply:
    """Queue the event once more, under the same id and relay-sequence. Retries that are under way go on."""
    entry = await events.found(call)
    call.notes["subscription_id"] = call.body.subscription_id
    subscription = await call.deps.subscriptions.get(call.retailer_id, call.body.subscription_id)
    known = await call.deps.history.of(call.retailer_id, subscription.id, entry)
    sequence = None if known is None else known.sequence
    lane = on_request(subscription.configuration.ordering, entry)
    waiting = LaneEntry(entry.position, sequence or 0, 0, 0, "r")
    await call.deps.recoveries.redeliver(call.retailer_id, subscription.id, lane, waiting)
    return Reply(202, RedeliveryView(entry.event_id, subscription.id, sequence))


async def recover(call: Call) -> Reply:
    """Begin a recovery of [since, until); what lies in the future is none of it."""
    subscription = await call.deps.subscriptions.get(call.retailer_id, call.path("subscription_id"))
    call.notes["only"] = call.body.only
    call.notes["object"] = subscription.id
    now_ms = await call.deps.db.now_ms()
    since_ms = _ms(call.body.since)
    until_ms = None if call.body.until is None else min(_ms(call.body.until), now_ms + 1)
    if since_ms > now_ms:
        raise _range("/since", "since lies in the future")
    if until_ms is not None and until_ms <= since_ms:
        raise _range("/until", "until lies before since, or at it")
    recovery = await call.deps.recoveries.begin(
        call.retailer_id,
        subscription.id,
        since=f"{max(0, since_ms - 1)}-{_LAST}",
        until=None if until_ms is None else f"{until_ms - 1}-{_LAST}",
        only=call.body.only,
    )
    return Reply(202, _recovery(subscription.id, recovery))


async def recoveries(call: Call) -> Reply:
    subscription = await call.deps.subscriptions.get(call.retailer_id, call.path("subscription_id"))
    found = await call.deps.recoveries.page(subscription.id)
    return Reply(200, {"data": [_recovery(subscription.id, one) for one in found], "next": None})


async def recovery(call: Call) -> Reply:
    subscription = await call.deps.subscriptions.get(call.retailer_id, call.path("subscription_id"))
    found = await call.deps.recoveries.get(subscription.id, call.path("recovery_id"))
    return Reply(200, _recovery(subscription.id, found))


async def stats(call: Call) -> Reply:
    subscription = await call.deps.subscriptions.get(call.retailer_id, call.path("subscription_id"))
    found = await statistics.statistics(call.deps.db, call.deps.log, call.retailer_id, subscription.id)
    failing = subscription.failing_since_ms
    return Reply(
        200,
        StatisticsView(
            waiting=found.waiting,
            waiting_exact=found.exact,
            parked_lanes=found.parked_lanes,
            oldest_waiting_age_seconds=None if found.oldest_waiting_ms is None else found.oldest_waiting_ms / 1000,
            delivered=subscription.delivered,
            dead=subscription.dead,
            skipped=subscription.skipped,
            window_seconds=statistics.WINDOW // 1000,
            attempts=found.attempts,
            success_ratio=None if not found.attempts else round(found.succeeded / found.attempts, 4),
            attempt_ms=_percentiles(found.attempt),
            delivery_ms=_percentiles(found.delivery),
            circuit=subscription.circuit,
            failing_since=None if failing is None else rfc3339(failing),
            last_error=subscription.last_error,
        ),
    )


def view(delivery: Delivery) -> DeliveryView:
    """A delivery as the API shows it."""
    return DeliveryView(
        event_id=delivery.event_id,
        event_type=delivery.event_type,
        order_id=delivery.order_id or None,
        subscription_id=delivery.subscription_id,
        sequence=delivery.sequence,
        status=delivery.status,
        next_attempt_at=None if delivery.next_attempt_ms is None else rfc3339(delivery.next_attempt_ms),
        replaced_by=delivery.replaced_by,
        attempts=[attempt(one) for one in delivery.attempts],
    )


def attempt(one: Attempt) -> AttemptView:
    """An attempt as the API shows it."""
    return AttemptView(
        *(rfc3339(one.at_ms), one.outcome, one.status, one.duration_ms, one.error or None), replay=one.replay
    )


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _range(pointer: str, detail: str) -> InvalidInput:
    return InvalidInput(detail, code="invalid_range", problems=[Problem(pointer, "invalid_range", detail)])


def _recovery(subscription_id: str, one: Recovery) -> RecoveryView:
    since_ms, until_ms, at_ms = (int(place.partition("-")[0]) for place in (one.since, one.until, one.cursor))
    done = one.ended_ms is not None
    share = 1.0 if done else min(1.0, (at_ms - since_ms) / max(1, until_ms - since_ms))
    return RecoveryView(
        id=one.id,
        subscription_id=subscription_id,
        status="done" if done else "running",
        only=one.only,
        since=rfc3339(since_ms + 1),
        until=rfc3339(until_ms + 1),
        created_at=rfc3339(one.created_ms),
        ended_at=None if one.ended_ms is None else rfc3339(one.ended_ms),
        looked_at=one.looked_at,
        resent=one.resent,
        skipped=one.skipped,
        progress=round(max(0.0, share), 3),
    )


def _percentiles(found: statistics.Percentiles | None) -> PercentilesView | None:
    return None if found is None else PercentilesView(found.p50, found.p95, found.p99)
