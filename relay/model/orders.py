"""An order as the relay sees it: resources, readings, and the last committed state."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NewType

RetailerId = NewType("RetailerId", str)
OrderId = NewType("OrderId", str)
EventId = NewType("EventId", str)
SubscriptionId = NewType("SubscriptionId", str)
#: What must stay in order is one lane of a subscription: an order, or a single event where order does not matter.
LaneId = NewType("LaneId", str)

#: A parsed JSON value: dict, list, str, int, float, bool or None.
Json = Any
JsonObject = dict[str, Any]


class Resource(enum.StrEnum):
    """One of the things that are polled for an order. The one-letter `short` names it in Redis.

    The specification has the first three; the live dialect has the others as well (`RELAY_UPSTREAM_DIALECT=connect`).
    """

    HANDLING = "handling"
    ITEMS = "items"
    MESSAGES = "messages"
    DETAILS = "details"
    LOCATION = "location"
    PICKUP = "pickup"

    #: As a string's, which it equals; an enumeration's own is Python and costs as much as the look-up that needs it.
    __hash__ = str.__hash__

    @property
    def short(self) -> str:
        return self.value[0]

    @property
    def position(self) -> int:
        """0, 1, 2, ...: the place of this resource where they stand side by side."""
        return _POSITIONS[self]


#: Those of the specification.
RESOURCES = (Resource.HANDLING, Resource.ITEMS, Resource.MESSAGES)
_POSITIONS = {resource: index for index, resource in enumerate(Resource)}
BY_SHORT = {resource.short: resource for resource in Resource}


class Tracking(enum.StrEnum):
    """Whether the relay looks at an order: it does, upstream refuses for now, or it is over."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    ENDED = "ended"


#: Order statuses after which nothing is expected to change (specification, OrderHandlingResponse.status;
#: the last two are spellings seen in the live dialect).
TERMINAL_STATUSES = frozenset({"delivered", "canceled", "cancelled", "completed"})


@dataclass(frozen=True, slots=True)
class Reading:
    """One parsed upstream answer for one resource.

    `value` is the whole answer: for handling the order's fields, for items and messages the envelope with its
    list under `items` or `messages`. `started_ms` is when its request started, in Redis time (milliseconds).
    """

    resource: Resource
    value: JsonObject
    started_ms: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The last committed value of each resource; None where nothing was ever read."""

    handling: JsonObject | None = None
    items: JsonObject | None = None
    messages: JsonObject | None = None
    details: JsonObject | None = None
    location: JsonObject | None = None
    pickup: JsonObject | None = None

    def get(self, resource: Resource) -> JsonObject | None:
        value: JsonObject | None = getattr(self, resource.value)
        return value

    def replace(self, resource: Resource, value: JsonObject) -> "Snapshot":
        return replace(self, **{resource.value: value})

    @property
    def order(self) -> JsonObject | None:
        """The order itself, out of all resources that tell of it: fields of handling and details side by side, the
        shopper's location and pickup details under their own names. None before the first reading.

        Where handling and details say different things under one name, that of details stands under `details`.
        """
        if self.details is None and self.location is None and self.pickup is None:
            return self.handling
        handling, details = self.handling or {}, self.details or {}
        merged = {**details, **handling}
        if clash := {name: value for name, value in details.items() if name in handling and handling[name] != value}:
            merged["details"] = clash
        for resource in (Resource.LOCATION, Resource.PICKUP):
            if (value := self.get(resource)) is not None:
                merged[resource.value] = value
        return merged

    @property
    def pending(self) -> bool:
        """Whether a suggested replacement awaits the customer's word. Silence means that it is bought."""
        listed = (self.items or {}).get("items")
        entries = listed if isinstance(listed, list) else []
        return any(isinstance(entry, dict) and entry.get("replacement_status") == "PENDING" for entry in entries)

    @property
    def status(self) -> str | None:
        """The order's status (its *stage*), as the specification spells it, or as upstream does if it is unknown."""
        for part in (self.details, self.handling):
            status = (part or {}).get("status")
            if isinstance(status, str):
                return status
        return None


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps an order's resources from being read, since when (ms), and how often in a row."""

    code: str
    detail: str
    since_ms: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class OrderState:
    """An order with everything that was committed for it.

    `version` grows with every commit, `sequence` counts events. `read_at_ms` holds, per resource, when the request of
    the committed reading started. `missing` holds keys of items or messages that one reading lacked and a second
    has not confirmed yet. `terminal_since_ms` is the start of the first reading that showed a terminal status.
    `off` holds resources that upstream does not show for this order, for good (a capability, not a fault).
    """

    retailer_id: RetailerId
    order_id: OrderId
    registered_ms: int
    version: int = 0
    sequence: int = 0
    tracking: Tracking = Tracking.ACTIVE
    started: bool = False
    snapshot: Snapshot = field(default_factory=Snapshot)
    read_at_ms: Mapping[Resource, int] = field(default_factory=dict)
    missing: Mapping[Resource, frozenset[str]] = field(default_factory=dict)
    terminal_since_ms: int | None = None
    off: frozenset[Resource] = frozenset()
    trouble: Trouble | None = None
    user_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
