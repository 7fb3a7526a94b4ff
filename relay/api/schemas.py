"""The shapes of requests and answers. The same types validate bodies and make the OpenAPI document."""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

#: `(?!\n)`: to Python a `$` also fits before a last line feed, to JSON Schema it does not.
OrderIdText = Annotated[
    str,
    Meta(min_length=1, max_length=128, pattern=r"^[^\s\x00-\x1f\x7f/]+$(?!\n)", description="The order's id upstream."),
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
    user_id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    access_token: AccessToken | None = None
    metadata: Metadata = {}


class BulkRegistration(Request):
    orders: Annotated[list[OrderRegistration], Meta(min_length=1, max_length=1000)]


class OrderPatch(Request):
    access_token: AccessToken | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET


class ReplacementDecision(Request):
    status: Literal["APPROVED", "REJECTED"]


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


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class TroubleView(Struct):
    code: str
    detail: str
    since: str
    count: int


class OrderView(Struct):
    """A tracked order as it is now; items and messages have the upstream's fields, known or not."""

    order_id: str
    tracking: Literal["active", "suspended", "ended"]
    version: int
    sequence: int
    order: dict[str, Any] | None
    items: list[dict[str, Any]] | None
    messages: list[dict[str, Any]] | None
    metadata: dict[str, str]
    user_id: str | None
    trouble: TroubleView | None
    registered_at: str
    last_polled_at: str | None
    next_due_at: str | None


class BulkAnswer(Struct):
    order_id: str
    status: Literal["created", "exists"]


class BulkView(Struct):
    data: list[BulkAnswer]


class DataView(Struct):
    data: list[dict[str, Any]] | None


class SubscriptionView(Struct, omit_defaults=False):
    id: str
    url: str
    event_types: list[str]
    description: str
    enabled: bool
    disabled_reason: str | None
    payload: str
    ordering: str
    backlog: str
    max_in_flight: int | None
    rate_limit: float | None
    headers: dict[str, str]
    heartbeat_seconds: int | None
    circuit: Literal["closed", "open", "half_open"]
    position: str | None
    sequence: int
    delivered: int
    dead: int
    skipped: int
    verified: bool
    failing_since: str | None
    last_error: dict[str, Any] | None
    created_at: str
    ed25519: bool
    public_key: str | None
    secret: str | UnsetType = UNSET


class LiveSecretView(Struct):
    """A secret that signs now. `until` null: until it is replaced."""

    secret: str
    until: str | None


class PublicKeyView(Struct):
    public_key: str
    until: str | None


class SecretView(Struct):
    """`secret` is the current one; `secrets` and `public_keys` are all that sign now, newest first."""

    secret: str
    secrets: list[LiveSecretView]
    public_keys: list[PublicKeyView]


class AttemptView(Struct):
    at: str
    outcome: str
    status_code: int | None
    duration_ms: float
    error: str | None
    replay: bool


class DeliveryView(Struct):
    """What became of one event at one subscription. `replaced_by`: the snapshot that stands for it."""

    event_id: str
    event_type: str
    order_id: str | None
    subscription_id: str
    sequence: int | None
    status: Literal["waiting", "retrying", "delivered", "dead", "skipped"]
    next_attempt_at: str | None
    replaced_by: str | None
    attempts: list[AttemptView]


class RedeliveryView(Struct):
    event_id: str
    subscription_id: str
    sequence: int | None


class RecoveryView(Struct):
    """A recovery: how far it came, and how many events it looked at, sends again, and left out."""

    id: str
    subscription_id: str
    status: Literal["running", "done"]
    only: Literal["failed", "missing", "all"]
    since: str
    until: str
    created_at: str
    ended_at: str | None
    looked_at: int
    resent: int
    skipped: int
    progress: float


class PercentilesView(Struct):
    p50: float
    p95: float
    p99: float


class StatisticsView(Struct):
    """`waiting` is exact or, for long backlogs, a lower bound. Attempts and times are of the last hour's events."""

    waiting: int
    waiting_exact: bool
    parked_lanes: int
    oldest_waiting_age_seconds: float | None
    delivered: int
    dead: int
    skipped: int
    window_seconds: int
    attempts: int
    success_ratio: float | None
    attempt_ms: PercentilesView | None
    delivery_ms: PercentilesView | None
    circuit: Literal["closed", "open", "half_open"]
    failing_since: str | None
    last_error: dict[str, Any] | None


class TrialView(Struct):
    event_id: str
    event_type: str
    attempt: AttemptView


class VerificationView(Struct):
    verified: bool
    attempt: AttemptView
    subscription: SubscriptionView


class UpstreamView(Struct):
    client_id: str
    budget: float | None


class RetailerView(Struct):
    id: str
    name: str
    upstream: UpstreamView | None
    limits: dict[str, Any]
    verify_endpoints: bool
    created_at: str


class KeyView(Struct):
    id: str
    name: str
    scopes: list[str]
    last4: str
    created_at: str
    expires_at: str | None
    key: str | UnsetType = UNSET


class EventTypeView(Struct):
    name: str
    description: str
    schema: dict[str, Any]
    sample: dict[str, Any]


class EventView(Struct):
    """The envelope exactly as it is delivered; see the event types for `data`."""

    id: str
    type: str
    timestamp: str
    api_version: str
    data: dict[str, Any]


class EventPage(Struct):
    """`next` is null at the end of the log; `resume` is always there: go on from it when more has happened."""

    data: list[EventView]
    next: str | None
    resume: str
