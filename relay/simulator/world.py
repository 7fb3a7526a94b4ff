"""Orders, their items and their chat, and the elementary things that can happen to them. Pure: `now` is an argument.

Every mutation is recorded with the simulated and the wall time, and who brought it about. A resource's rendered bytes
are kept until it changes, so that an unchanged answer costs no encoding.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from relay.errors import Conflict, InvalidInput, NotFound
from relay.simulator.clock import Moment, rfc3339

Json = Any

#: The three things that are polled for an order.
HANDLING, ITEMS, MESSAGES = "handling", "items", "messages"
RESOURCES = (HANDLING, ITEMS, MESSAGES)

#: Order statuses in the specification's order; nothing happens by itself after the last two.
STATUSES = ("brand_new", "acknowledged", "picking", "staging", "delivering", "delivered", "canceled")
TERMINAL = frozenset({"delivered", "canceled"})
SENDERS = ("customer", "shopper")
DECISIONS = ("APPROVED", "REJECTED")
MESSAGE_LIMIT = 1000

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened to an order. Times are Unix seconds; `by` is scenario, customer or control."""

    order_id: str
    resource: str
    what: str
    subject_id: str
    by: str
    simulated_at: float
    at: float


@dataclass(slots=True)
class Order:
    """The true state of an order. `user_id` None: visible to every valid token."""

    order_id: str
    user_id: str | None
    handling: dict[str, Json]
    items: dict[str, dict[str, Json]] = field(default_factory=dict)
    messages: list[dict[str, Json]] = field(default_factory=list)
    said: int = 0
    bodies: dict[str, bytes] = field(default_factory=dict)

    @property
    def status(self) -> str:
        return str(self.handling.get("status"))

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL

    def value(self, resource: str) -> dict[str, Json]:
        """The whole answer for one resource."""
        if resource == HANDLING:
            return self.handling
        return {ITEMS: list(self.items.values())} if resource == ITEMS else {MESSAGES: self.messages}

    def body(self, resource: str) -> bytes:
        body = self.bodies.get(resource)
        if body is None:
            body = self.bodies[resource] = _encode(self.value(resource))
        return body

    def truth(self) -> dict[str, Json]:
        return {resource: self.value(resource) for resource in RESOURCES}


class World:
    """All orders, and the record of what happened to them."""

    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.happened: list[Happening] = []

    def order(self, order_id: str) -> Order:
        order = self.orders.get(order_id)
        if order is None:
            raise NotFound(f"there is no order {order_id!r}")
        return order

    def create(self, order: Order, now: Moment, by: str) -> None:
        if order.order_id in self.orders:
            raise Conflict(f"order {order.order_id!r} exists already")
        self.orders[order.order_id] = order
        self._record(order, HANDLING, "created", order.order_id, by, now)

    def handle(self, order: Order, patch: Mapping[str, Json], now: Moment, by: str) -> None:
        """Merge `patch` into the handling resource (RFC 7396: null takes a field away)."""
        merged = merge(order.handling, patch)
        if merged != order.handling:
            order.handling = merged
            self._record(order, HANDLING, ", ".join(patch), order.order_id, by, now)

    def set_item(self, order: Order, item_id: str, patch: Mapping[str, Json], now: Moment, by: str) -> None:
        """Merge `patch` into an item; one that is not there yet is added."""
        before = order.items.get(item_id)
        after = merge(before or {"id": item_id}, {**patch, "id": item_id})
        if after != before:
            order.items[item_id] = after
            self._record(order, ITEMS, "added" if before is None else ", ".join(patch), item_id, by, now)

    def remove_item(self, order: Order, item_id: str, now: Moment, by: str) -> None:
        item(order, item_id)
        del order.items[item_id]
        self._record(order, ITEMS, "removed", item_id, by, now)

    def suggest(self, order: Order, item_id: str, replacement: Mapping[str, Json], now: Moment, by: str) -> None:
        item(order, item_id)
        patch = {"status": "replaced", "replacement": None, "replacement_status": "PENDING"}
        order.items[item_id] = {**merge(order.items[item_id], patch), "replacement": dict(replacement)}
        self._record(order, ITEMS, "suggested", item_id, by, now)

    def decide(self, order: Order, item_id: str, decision: str, now: Moment, by: str) -> None:
        """The customer's word on a pending replacement. A rejected one is refunded."""
        pending = item(order, item_id)
        if pending.get("replacement_status") != "PENDING":
            raise InvalidInput(f"item {item_id!r} has no replacement that waits for a decision")
        if decision not in DECISIONS:
            raise InvalidInput("status must be APPROVED or REJECTED")
        status = pending.get("status") if decision == "APPROVED" else "refunded"
        order.items[item_id] = {**pending, "status": status, "replacement_status": decision}
        self._record(order, ITEMS, decision.lower(), item_id, by, now)

    def say(self, order: Order, sender: str, body: Json, now: Moment, by: str) -> dict[str, Json]:
        """Append a message; its time is the simulated one, so the chat stays in order."""
        if not isinstance(body, str) or not body or len(body) > MESSAGE_LIMIT:
            raise InvalidInput(f"body must be a string of 1 to {MESSAGE_LIMIT} characters")
        if sender not in SENDERS:
            raise InvalidInput("sender must be customer or shopper")
        order.said += 1
        message = {
            "id": f"{order.order_id}-m{order.said}",
            "sender": sender,
            "body": body,
            "created_at": rfc3339(now.simulated),
        }
        order.messages.append(message)
        self._record(order, MESSAGES, sender, str(message["id"]), by, now)
        return message

    def _record(self, order: Order, resource: str, what: str, subject_id: str, by: str, now: Moment) -> None:
        order.bodies.pop(resource, None)
        self.happened.append(Happening(order.order_id, resource, what, subject_id, by, now.simulated, now.wall))


def item(order: Order, item_id: str) -> dict[str, Json]:
    found = order.items.get(item_id)
    if found is None:
        raise NotFound(f"order {order.order_id!r} has no item {item_id!r}")
    return found


def merge(value: Mapping[str, Json], patch: Mapping[str, Json]) -> dict[str, Json]:
    """JSON merge patch (RFC 7396) of an object, as a new object."""
    merged = dict(value)
    for key, new in patch.items():
        if new is None:
            merged.pop(key, None)
        elif isinstance(new, Mapping):
            old = merged.get(key)
            merged[key] = merge(old if isinstance(old, Mapping) else {}, new)
        else:
            merged[key] = new
    return merged
