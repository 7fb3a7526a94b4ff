"""Events: immutable, numbered facts for receivers. A body is serialised once; those bytes are stored, signed, sent,
replayed and pulled.

An event's id derives from what it says of which order at which sequence, and from nothing else: detecting the same
change twice gives the same id, other content under the same sequence gives another.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from relay.model import json_values
from relay.model.catalogue import EventType
from relay.model.changes import Change, envelope
from relay.model.orders import EventId, Json, JsonObject, OrderId, OrderState, Resource, Snapshot

API_VERSION = "1"


@dataclass(frozen=True, slots=True)
class Event:
    """One event with its body, ready for the log."""

    id: EventId
    type: str
    order_id: OrderId
    sequence: int
    body: bytes = field(repr=False)


def rfc3339(ms: int) -> str:
    """Milliseconds since the epoch as RFC 3339 UTC with milliseconds."""
    moment = datetime.fromtimestamp(ms / 1000, tz=UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"


def event_id(
    retailer_id: str, order_id: str, registered_ms: int, sequence: int, event_type: str, content: Json
) -> EventId:
    """`evt_` and 26 characters: 128 bits of BLAKE2b over order, sequence and content, free of any time of detection."""
    hashed = hashlib.blake2b(digest_size=16)
    hashed.update(json_values.canonical([retailer_id, order_id, registered_ms, sequence, event_type, content]))
    return EventId("evt_" + base64.b32encode(hashed.digest()).decode().rstrip("=").lower())


def build(
    state: OrderState, changes: Sequence[Change], snapshot: Snapshot, *, now_ms: int, observed_ms: int
) -> list[Event]:
    """One event a change, numbered on from `state.sequence`; `snapshot` is the state after all of them."""
    made = []
    for number, change in enumerate(changes, start=state.sequence + 1):
        details: JsonObject = {"changes": {"before": change.before, "after": change.after}}
        value = change.value
        if change.subject == "order":
            value = snapshot.order or {}
            if change.resource in (Resource.ITEMS, Resource.MESSAGES):
                details["resource"] = change.resource.value
        elif change.key != change.value.get("id"):
            details["key"] = change.key
        details[change.subject] = value
        if change.cause is not None:
            details["caused_by"] = {"type": "retailer", **asdict(change.cause)}
        content = [change.key, change.resource.value, change.before, change.after]
        made.append(_event(state, change.type, number, content, details, now_ms, observed_ms))
    return made


def started(state: OrderState, snapshot: Snapshot, *, now_ms: int, observed_ms: int) -> Event:
    """`order.tracking_started`: the whole order as first read."""
    return _whole(state, "order.tracking_started", snapshot, {}, now_ms, observed_ms)


def ended(state: OrderState, snapshot: Snapshot, reason: str, *, now_ms: int, observed_ms: int) -> Event:
    """`order.tracking_ended`: the whole order as last read, and why; parts that were never read are null."""
    return _whole(state, "order.tracking_ended", snapshot, {"reason": reason}, now_ms, observed_ms)


def suspended(state: OrderState, reason: str, detail: str, *, now_ms: int, observed_ms: int) -> Event:
    """`order.tracking_suspended`: upstream refuses to show the order."""
    details = {"reason": reason, "detail": detail}
    return _event(state, "order.tracking_suspended", state.sequence + 1, details, details, now_ms, observed_ms)


def resumed(state: OrderState, *, now_ms: int, observed_ms: int, reason: str = "accepted") -> Event:
    """`order.tracking_resumed`: upstream shows the order again."""
    details = {"reason": reason}
    return _event(state, "order.tracking_resumed", state.sequence + 1, details, details, now_ms, observed_ms)


def folded(state: OrderState, first: int, last: int, *, now_ms: int) -> Event:
    """`order.snapshot`: the whole order as it is now, in the place of its events from sequence `first` to `last`."""
    details: JsonObject = {"stands_for": {"first": first, "last": last}, "tracking": state.tracking.value}
    details |= _parts(state.snapshot)
    observed_ms = max(state.read_at_ms.values(), default=now_ms)
    return _event(state, "order.snapshot", state.sequence, details, details, now_ms, observed_ms)


def notice(subscription_id: str, event_type: str, data: JsonObject, *, now_ms: int) -> Event:
    """An event about a subscription (`subscription.*`): it has no order and no sequence of its own."""
    return _aside(event_type, [subscription_id, event_type, now_ms, data], data, now_ms)


def heartbeat(subscription_id: str, last_sequence: int, oldest_waiting: int | None, *, now_ms: int) -> Event:
    """`webhook.heartbeat`: every relay-sequence up to `last_sequence` was sent or waits; nothing below `oldest_waiting`
    (None: nothing at all) waits any more."""
    data: JsonObject = {
        "subscription_id": subscription_id,
        "last_sequence": last_sequence,
        "oldest_waiting_sequence": oldest_waiting,
    }
    return _aside("webhook.heartbeat", [subscription_id, now_ms, data], data, now_ms)


def trial(subscription_id: str, kind: EventType, nonce: str, *, now_ms: int) -> Event:
    """`webhook.test`, or the sample of another type: sent on request, no part of the log."""
    data = {**kind.sample["data"]}
    if "subscription_id" in data:
        data["subscription_id"] = subscription_id
    return _aside(kind.name, [subscription_id, nonce], data, now_ms)


def challenge(subscription_id: str, nonce: str, *, now_ms: int) -> Event:
    """`webhook.challenge`: an endpoint that wants events answers with the nonce."""
    data: JsonObject = {"subscription_id": subscription_id, "challenge": nonce}
    return _aside("webhook.challenge", [subscription_id, nonce], data, now_ms)


def _aside(event_type: str, content: Json, data: JsonObject, now_ms: int) -> Event:
    id_ = event_id("", "", 0, 0, event_type, content)
    return Event(id_, event_type, OrderId(""), 0, _body(id_, event_type, now_ms, data))


def _whole(
    state: OrderState, event_type: str, snapshot: Snapshot, details: JsonObject, now_ms: int, observed_ms: int
) -> Event:
    details = {**details, **_parts(snapshot)}
    if state.off:
        details["unavailable"] = sorted(state.off)
    return _event(state, event_type, state.sequence + 1, details, details, now_ms, observed_ms)


def _parts(snapshot: Snapshot) -> JsonObject:
    """The order, its items and its messages side by side, and what stands beside the lists under `extras`."""
    parts: dict[str, Any] = {"order": snapshot.order, "items": None, "messages": None}
    extras = {}
    for resource in (Resource.ITEMS, Resource.MESSAGES):
        value = snapshot.get(resource)
        if value is not None:
            parts[resource.value] = value.get(resource.value, [])
            if beside := envelope(value, resource):
                extras[resource.value] = beside
    if extras:
        parts["extras"] = extras
    return parts


def _event(
    state: OrderState,
    event_type: str,
    sequence: int,
    content: Json,
    details: JsonObject,
    now_ms: int,
    observed_ms: int,
) -> Event:
    id_ = event_id(state.retailer_id, state.order_id, state.registered_ms, sequence, event_type, content)
    data = {"order_id": state.order_id, "sequence": sequence, "observed_at": rfc3339(observed_ms)}
    if "changes" in details:
        data["changes"] = details["changes"]
    data |= {name: value for name, value in details.items() if name != "changes"}
    data["metadata"] = dict(state.metadata)
    return Event(id_, event_type, state.order_id, sequence, _body(id_, event_type, now_ms, data))


def _body(id_: str, event_type: str, now_ms: int, data: JsonObject) -> bytes:
    return json_values.encode(
        {"id": id_, "type": event_type, "timestamp": rfc3339(now_ms), "api_version": API_VERSION, "data": data}
    )


#: What names a subject in full; a thin payload leaves all of it out.
_SUBJECTS = ("order", "item", "items", "message", "messages", "extras", "detail")


def thin(body: bytes) -> bytes:
    """The same event without its subject and without values: `changes` becomes the names of the changed fields.

    Deterministic, so that every attempt and every replay sends the same bytes.
    """
    event = json_values.decode(body)
    data = {name: value for name, value in event["data"].items() if name not in _SUBJECTS}
    changes = data.get("changes")
    if isinstance(changes, dict):
        data["changes"] = sorted({*changes.get("before", {}), *changes.get("after", {})})
    return json_values.encode({**event, "data": data})
