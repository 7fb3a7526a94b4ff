"""Sends on request that are no deliveries: a test event, and the challenge that proves an endpoint wants events.

Both go out at once, from here, through the same guard and signed as everything else; neither counts for the circuit.
"""

import secrets
from urllib.parse import urlsplit

from relay.api import subscriptions
from relay.api.deliveries import attempt
from relay.api.deps import Call, Reply
from relay.api.views import TrialView, VerificationView
from relay.errors import InvalidInput, Problem
from relay.model import events
from relay.model.catalogue import EVENT_TYPES
from relay.model.retries import Outcome
from relay.sender import Message
from relay.sender.attempt import outcome_of
from relay.store.attempts import Attempt
from relay.store.subscriptions import Subscription
from relay.tracing import current

#: Seconds between sends on request, for a subscription and for a destination host over all retailers.
EVERY = 20


async def test(call: Call) -> Reply:
    subscription = await call.deps.subscriptions.get(call.retailer_id, call.path("subscription_id"))
    kind = EVENT_TYPES.get(call.body.event_type)
    if kind is None:
        detail = f"there is no event type {call.body.event_type[:64]!r}; GET /v1/event-types lists them"
        problem = Problem("/event_type", "unknown_event_type", detail)
        raise InvalidInput(detail, code="unknown_event_type", problems=[problem])
    await _pause(call, subscription)
    now_ms = await call.deps.db.now_ms()
    event = events.trial(subscription.id, kind, secrets.token_hex(8), now_ms=now_ms)
    outcome, _ = await _send(call, subscription, event, now_ms)
    return Reply(200, TrialView(event.id, event.type, attempt(_attempt(outcome, now_ms))))


async def verify(call: Call) -> Reply:
    """Send a challenge. Answered, it verifies the URL, and enables a subscription that only waited for that."""
    subscription = await call.deps.subscriptions.get(call.retailer_id, call.path("subscription_id"))
    await _pause(call, subscription)
    now_ms = await call.deps.db.now_ms()
    nonce = secrets.token_hex(16)
    event = events.challenge(subscription.id, nonce, now_ms=now_ms)
    outcome, body = await _send(call, subscription, event, now_ms)
    verified = _good(outcome) and nonce.encode() in body
    if verified:
        subscription = await subscriptions.verified(call, subscription)
    shown = _attempt(outcome, now_ms, "" if verified else "the answer is not 2xx with the challenge in its body")
    return Reply(200, VerificationView(verified, attempt(shown), subscriptions.view(subscription)))


async def _pause(call: Call, subscription: Subscription) -> None:
    host = urlsplit(subscription.configuration.url).netloc
    names = [f"try:{subscription.id}", f"try:{host}"]
    await call.deps.pauses.take(names, EVERY, f"one test or challenge every {EVERY} s a subscription and host")


async def _send(call: Call, subscription: Subscription, event: events.Event, now_ms: int) -> tuple[Outcome, bytes]:
    target = await call.deps.deliveries.target(subscription.id)
    assert target is not None
    body = event.body if target.payload == "full" else events.thin(event.body)
    about: dict[str, str | int] = {"retailer_id": call.retailer_id, "subscription_id": subscription.id, "attempt": 1}
    # Below the request's own span.
    with call.deps.tracing.attempt(current(), event_id=event.id, event_type=event.type, **about) as span:
        answer = await call.deps.sender.ask(
            target.url,
            Message(event.id, body, 0, 1, test=True, traceparent=span.traceparent),
            keys=target.keyring.live(now_ms),
            headers=target.headers,
            now_s=now_ms // 1000,
        )
        outcome = outcome_of(answer)
        span.tell(outcome=outcome.kind, status=outcome.status, well=_good(outcome))
    return outcome, answer.body


def _good(outcome: Outcome) -> bool:
    return outcome.status is not None and 200 <= outcome.status < 300


def _attempt(outcome: Outcome, now_ms: int, otherwise: str = "") -> Attempt:
    return Attempt(
        *(0, 1, now_ms, outcome.kind, outcome.status, round(outcome.duration_ms, 1)),
        verdict="delivered" if _good(outcome) else "retry",
        error=outcome.detail or otherwise,
    )
