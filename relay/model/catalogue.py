"""The event types, in the order in which the facts of one reading are reported, each with its schema and a sample."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from relay.model.orders import JsonObject

Subject = Literal["order", "item", "message", "whole", "none"]


@dataclass(frozen=True, slots=True)
class EventType:
    """One kind of event. `subject` says what its `data` carries: the order's handling, an item, a message, the whole
    order side by side, or nothing of an order."""

    name: str
    description: str
    subject: Subject
    changes: tuple[JsonObject, JsonObject] | None = None
    details: tuple[tuple[str, Any], ...] = ()

    @property
    def sample(self) -> JsonObject:
        """A realistic event of this type."""
        return _sample(self)

    @property
    def schema(self) -> JsonObject:
        """JSON Schema (2020-12) of the whole envelope."""
        return _schema(self)


_ORDER: JsonObject = {
    "order_id": "o-1001",
    "status": "picking",
    "address": {
        "address_line_1": "12 Orchard Lane",
        "address_line_2": "Apt 4",
        "city": "Springfield",
        "state": "IL",
        "postal_code": "62701",
    },
    "coordinates": {"latitude": 39.7817, "longitude": -89.6501},
    "shopper": {"name": "Dana", "phone_number": "+1 555 *** **42"},
    "notes": "Leave at the side door, please.",
}
_REPLACEMENT: JsonObject = {"product_name": "Oat Milk, 1 l", "product_id": "p-778", "quantity": 1}
_ITEM: JsonObject = {
    "id": "i-7",
    "product_name": "Almond Milk, 1 l",
    "quantity": 2,
    "status": "replaced",
    "replacement": _REPLACEMENT,
    "replacement_status": "PENDING",
}
_MESSAGE: JsonObject = {
    "id": "m-3",
    "sender": "shopper",
    "body": "They are out of almond milk. Is oat milk fine?",
    "created_at": "2026-11-23T12:00:00Z",
}

_ABOUT: tuple[tuple[str, Any], ...] = (
    ("subscription_id", "sub_6ob4vyx3ka5hs2qmw7tz"),
    ("url", "https://shop.example.com/hooks"),
)
_FAILING: tuple[tuple[str, Any], ...] = (
    ("failing_since", "2026-11-20T08:30:00.000Z"),
    ("last_error", {"outcome": "answered", "status_code": 500}),
)
#: Fields of `data` that may be null, and one that may be missing.
_NULLABLE = ("oldest_waiting_sequence", "failing_since")
_OPTIONAL = ("detail",)


def _of_field(field: str, before: Any, after: Any) -> tuple[JsonObject, JsonObject]:
    """Changes of one field; None on a side means that the field is absent there."""
    return ({} if before is None else {field: before}, {} if after is None else {field: after})


_TYPES = (
    EventType("order.tracking_started", "The first complete reading of an order; carries all of it.", "whole"),
    EventType(
        "order.status_changed",
        "The status differs, in any direction and to any value.",
        "order",
        _of_field("status", "acknowledged", "picking"),
    ),
    EventType("order.shopper_assigned", "A shopper appeared.", "order", _of_field("shopper", None, _ORDER["shopper"])),
    EventType(
        "order.shopper_changed",
        "The shopper differs.",
        "order",
        ({"shopper": {"name": "Sam"}}, {"shopper": {"name": "Dana"}}),
    ),
    EventType("order.shopper_unassigned", "The shopper went.", "order", _of_field("shopper", {"name": "Sam"}, None)),
    EventType(
        "order.address_changed",
        "The delivery or pickup address differs.",
        "order",
        ({"address": {"address_line_2": "Apt 3"}}, {"address": {"address_line_2": "Apt 4"}}),
    ),
    EventType(
        "order.coordinates_changed",
        "The coordinates of the address differ.",
        "order",
        ({"coordinates": {"latitude": 39.78}}, {"coordinates": {"latitude": 39.7817}}),
    ),
    EventType(
        "order.notes_changed",
        "The instructions differ.",
        "order",
        _of_field("notes", "Ring twice.", "Leave at the side door, please."),
    ),
    EventType(
        "order.updated",
        "Any other field of the order differs, known to the specification or not; with `resource` when the field stands"
        " beside the list of items or messages.",
        "order",
        _of_field("delivery_window", "12:00-13:00", "12:30-13:30"),
    ),
    EventType("order.item_added", "An item appeared.", "item", ({}, _ITEM)),
    EventType("order.item_removed", "An item went, in two readings in a row.", "item", (_ITEM, {})),
    EventType(
        "order.item_status_changed",
        "An item's status differs.",
        "item",
        _of_field("status", "pending", "replaced"),
    ),
    EventType("order.item_quantity_changed", "An item's quantity differs.", "item", _of_field("quantity", 1, 2)),
    EventType(
        "order.item_updated",
        "Any other field of an item differs.",
        "item",
        _of_field("product_name", "Almond Milk", "Almond Milk, 1 l"),
    ),
    EventType(
        "order.replacement_suggested",
        "The shopper suggests a replacement. It is bought unless the customer objects before checkout.",
        "item",
        ({}, {"replacement": _REPLACEMENT, "replacement_status": "PENDING"}),
    ),
    EventType(
        "order.replacement_changed",
        "The suggested replacement differs.",
        "item",
        ({"replacement": {"quantity": 2}}, {"replacement": {"quantity": 1}}),
    ),
    EventType(
        "order.replacement_withdrawn",
        "The suggested replacement went.",
        "item",
        ({"replacement": _REPLACEMENT, "replacement_status": "PENDING"}, {}),
    ),
    EventType(
        "order.replacement_approved",
        "The replacement was approved, whoever decided.",
        "item",
        _of_field("replacement_status", "PENDING", "APPROVED"),
    ),
    EventType(
        "order.replacement_rejected",
        "The replacement was rejected, whoever decided; the item is refunded.",
        "item",
        _of_field("replacement_status", "PENDING", "REJECTED"),
    ),
    EventType("order.message_created", "A new chat message, in chronological order.", "message", ({}, _MESSAGE)),
    EventType(
        "order.message_updated",
        "A known message differs.",
        "message",
        _of_field("body", "They are out of almond milk.", _MESSAGE["body"]),
    ),
    EventType(
        "order.message_removed",
        "A message went, in two readings in a row, and not because the chat expired.",
        "message",
        (_MESSAGE, {}),
    ),
    EventType(
        "order.snapshot",
        "Stands for an order's waiting events where a subscription chose `backlog: latest`: the whole current state.",
        "whole",
        details=(("stands_for", {"first": 3, "last": 9}), ("tracking", "active")),
    ),
    EventType(
        "order.tracking_ended",
        "The terminal status is confirmed, or tracking was stopped; carries the whole order.",
        "whole",
        details=(("reason", "delivered"),),
    ),
    EventType(
        "order.tracking_suspended",
        "Upstream refuses to show the order, for longer than the patience for it.",
        "none",
        details=(("reason", "not_found"), ("detail", "upstream answered 404")),
    ),
    EventType("order.tracking_resumed", "Upstream shows the order again.", "none", details=(("reason", "accepted"),)),
    EventType("webhook.test", "Sent on request, to try an endpoint.", "none", details=_ABOUT[:1]),
    EventType(
        "webhook.challenge",
        "Asks whether the endpoint wants events: answer 2xx with the challenge in the body.",
        "none",
        details=(*_ABOUT[:1], ("challenge", "jm2kq6v3x7c4w5pn")),
    ),
    EventType(
        "webhook.heartbeat",
        "Sent every `heartbeat_seconds`. Every relay-sequence up to `last_sequence` was sent or waits, and none below"
        " `oldest_waiting_sequence` (null: none at all) waits.",
        "none",
        details=(*_ABOUT[:1], ("last_sequence", 4711), ("oldest_waiting_sequence", 4709)),
    ),
    EventType(
        "subscription.disabled",
        "A subscription of the retailer was disabled. What waits is kept.",
        "none",
        details=(*_ABOUT, ("reason", "failing"), *_FAILING, ("how_to_enable", "mend the endpoint, then enable it")),
    ),
    EventType(
        "subscription.recovered",
        "A subscription of the retailer works again.",
        "none",
        details=(*_ABOUT, _FAILING[0]),
    ),
    EventType(
        "subscription.failing",
        "A subscription of the retailer has been failing for long, or an event was given up.",
        "none",
        details=(*_ABOUT, ("reason", "failing"), *_FAILING),
    ),
)

EVENT_TYPES: Mapping[str, EventType] = {kind.name: kind for kind in _TYPES}
_POSITIONS = {kind.name: index for index, kind in enumerate(_TYPES)}


def position(event_type: str) -> int:
    """The place of a type in the catalogue: the order in which the facts of one reading are reported."""
    return _POSITIONS[event_type]


def document() -> list[JsonObject]:
    """The catalogue as `GET /v1/event-types` and `relay event-types` show it."""
    return [
        {"name": kind.name, "description": kind.description, "schema": kind.schema, "sample": kind.sample}
        for kind in _TYPES
    ]


def _sample(kind: EventType) -> JsonObject:
    data: JsonObject = {}
    if kind.name.startswith("order."):
        data = {"order_id": "o-1001", "sequence": 7, "observed_at": "2026-11-23T12:00:00.101Z"}
    if kind.changes is not None:
        data["changes"] = {"before": kind.changes[0], "after": kind.changes[1]}
    data |= dict(kind.details)
    if kind.subject == "whole":
        data |= {"order": _ORDER, "items": [_ITEM], "messages": [_MESSAGE]}
    elif kind.subject != "none":
        data[kind.subject] = {"order": _ORDER, "item": _ITEM, "message": _MESSAGE}[kind.subject]
    if kind.name.startswith("order."):
        data["metadata"] = {"store": "42"}
    return {
        "id": "evt_4kq2c5zv7m3nqhxw6ey5tzl7pa",
        "type": kind.name,
        "timestamp": "2026-11-23T12:00:00.123Z",
        "api_version": "1",
        "data": data,
    }


def _schema(kind: EventType) -> JsonObject:
    properties: JsonObject = {}
    required: list[str] = []
    if kind.name.startswith("order."):
        properties = {
            "order_id": {"type": "string"},
            "sequence": {"type": "integer", "minimum": 1},
            "observed_at": {"type": "string", "format": "date-time"},
            "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        }
        required = list(properties)
    if kind.changes is not None:
        sides = {"before": {"type": "object"}, "after": {"type": "object"}}
        full = {"type": "object", "properties": sides, "required": ["before", "after"], "additionalProperties": False}
        names = {"type": "array", "items": {"type": "string"}, "description": "`payload: thin`: the changed fields"}
        properties["changes"] = {"oneOf": [full, names]}
        required.append("changes")
    for name, value in kind.details:
        kinds = {dict: "object", int: "integer", str: "string"}[type(value)]
        properties[name] = {"type": [kinds, "null"] if name in _NULLABLE else kinds}
        if name not in _OPTIONAL:
            required.append(name)
    if kind.subject == "whole":
        properties["order"] = {"type": ["object", "null"]}
        for name in ("items", "messages"):
            properties[name] = {"type": ["array", "null"], "items": {"type": "object"}}
        properties["extras"] = {"type": "object"}
    elif kind.subject != "none":
        properties[kind.subject] = {"type": "object"}
        properties["key"] = {"type": "string"}
        properties["resource"] = {"enum": ["items", "messages"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind.name,
        "description": kind.description,
        "type": "object",
        "properties": {
            "id": {"type": "string", "pattern": "^evt_[a-z2-7]{26}$"},
            "type": {"const": kind.name},
            "timestamp": {"type": "string", "format": "date-time"},
            "api_version": {"const": "1"},
            "data": {"type": "object", "properties": properties, "required": required},
        },
        "required": ["id", "type", "timestamp", "api_version", "data"],
    }
