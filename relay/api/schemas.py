"""The shapes of request bodies. The same types validate them and make the OpenAPI document; answers are in views.py."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

#: `(?!\n)`: to Python a `$` also fits before a last line feed, to JSON Schema it does not.
OrderIdText = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        pattern=r"^(?!\.{1,2}$)[^\s\x00-\x1f\x7f]+$(?!\n)",
        description="The order's id upstream: any text without spaces, but not `.` or `..`, which no path can name.",
    ),
]
Metadata = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=40)], Annotated[str, Meta(max_length=500)]],
    Meta(max_length=20, description="Yours; returned with the order and in its events."),
]


class Request(Struct, forbid_unknown_fields=True):
    """A body in which unknown fields are refused."""


class AccessToken(Request):
    token: Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^[\x21-\x7e]+$(?!\n)")]
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None


class OrderRegistration(Request):
    """An order to track."""

    order_id: OrderIdText
    user_id: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    access_token: AccessToken | None = None
    metadata: Metadata = {}


class BulkRegistration(Request):
    orders: Annotated[list[OrderRegistration], Meta(min_length=1, max_length=1000)]


class OrderPatch(Request):
    access_token: AccessToken | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET


class AlternativeItem(Request):
    """Something else to get instead of a rejected replacement: exactly one code, and exactly one amount."""

    upc: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    rrc: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    count: Annotated[float, Meta(gt=0, le=100_000)] | None = None
    weight: Annotated[float, Meta(gt=0, le=100_000)] | None = None


class ReplacementDecision(Request):
    status: Literal["APPROVED", "REJECTED"]
    alternative_item: AlternativeItem | None = None


class ChatMessage(Request):
    body: Annotated[str, Meta(min_length=1, max_length=1000)]


class Empty(Request):
    """No fields."""


HeaderMap = Annotated[dict[str, Annotated[str, Meta(max_length=4096)]], Meta(max_length=10)]
Patterns = Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(min_length=1, max_length=50)]
InFlight = Annotated[int, Meta(ge=1, le=1000)]
Rate = Annotated[float, Meta(gt=0, le=10_000)]
Heartbeat = Annotated[int, Meta(ge=10, le=86_400)]
Description = Annotated[str, Meta(max_length=500)]


class SubscriptionRequest(Request):
    """A URL to which events are posted."""

    url: str
    event_types: Patterns = field(default_factory=lambda: ["order.*"])
    description: Description = ""
    enabled: bool = True
    payload: Literal["full", "thin"] = "full"
    ordering: Literal["order", "none"] = "order"
    backlog: Literal["all", "latest"] = "all"
    max_in_flight: InFlight | None = None
    rate_limit: Rate | None = None
    headers: HeaderMap = {}
    heartbeat_seconds: Heartbeat | None = None
    start: Annotated[str, Meta(description="`now`, or a cursor of GET /v1/events.")] = "now"
    secret: str | None = None
    ed25519: Annotated[bool, Meta(description="Sign with an Ed25519 key (`v1a`) beside the secret (`v1`).")] = False


class SubscriptionPatch(Request):
    url: str | UnsetType = UNSET
    event_types: Patterns | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    payload: Literal["full", "thin"] | UnsetType = UNSET
    ordering: Literal["order", "none"] | UnsetType = UNSET
    backlog: Literal["all", "latest"] | UnsetType = UNSET
    max_in_flight: InFlight | UnsetType | None = UNSET
    rate_limit: Rate | UnsetType | None = UNSET
    headers: HeaderMap | UnsetType = UNSET
    heartbeat_seconds: Heartbeat | UnsetType | None = UNSET
    ed25519: bool | UnsetType = UNSET


class RotateRequest(Request):
    """A new secret, given or made. The old ones sign beside it for the overlap: 0 for one that leaked."""

    overlap_seconds: Annotated[int, Meta(ge=0, le=604_800)] = 86_400
    secret: str | None = None


class EnableRequest(Request):
    """What becomes of the events that waited: all are sent, or one snapshot an order, or none. Default: as the
    subscription's own `backlog` says."""

    backlog: Literal["all", "latest", "skip"] | None = None


class TestRequest(Request):
    __test__ = False

    event_type: Annotated[str, Meta(max_length=64)] = "webhook.test"


Moment = Annotated[datetime, Meta(tz=True)]


class RecoverRequest(Request):
    """Send again what happened from `since` until before `until` (default: now): dead letters (`failed`), what was
    never delivered (`missing`), or `all`."""

    since: Moment
    until: Moment | None = None
    only: Literal["failed", "missing", "all"] = "failed"


class RedeliverRequest(Request):
    subscription_id: Annotated[str, Meta(max_length=64)]


class UpstreamCredential(Request):
    client_id: Annotated[str, Meta(min_length=1, max_length=256)]
    client_secret: Annotated[str, Meta(min_length=1, max_length=1024)]
    budget: Annotated[float, Meta(gt=0, le=100_000)] | None = None


Name = Annotated[str, Meta(min_length=1, max_length=200)]
Limits = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[int, Meta(ge=0, le=1_000_000_000)]], Meta(max_length=20)
]


class RetailerRequest(Request):
    """`verify_endpoints`: a subscription is enabled only once its URL has answered a challenge."""

    name: Name
    upstream: UpstreamCredential | None = None
    limits: Limits = {}
    verify_endpoints: bool = False


class RetailerPatch(Request):
    name: Name | UnsetType = UNSET
    upstream: UpstreamCredential | UnsetType = UNSET
    limits: Limits | UnsetType = UNSET
    verify_endpoints: bool | UnsetType = UNSET


class KeyRequest(Request):
    name: Annotated[str, Meta(max_length=200)] = ""
    scopes: list[str] | None = None
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None
