"""The shapes of answers, from which the OpenAPI document is made too."""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType


class TroubleView(Struct):
    code: str
    detail: str
    since: str
    count: int


class OrderView(Struct):
    """A tracked order as it is now; items and messages have the upstream's fields, known or not. `unavailable`:
    resources that upstream keeps to itself."""

    order_id: str
    tracking: Literal["active", "suspended", "ended"]
    stage: str | None
    version: int
    sequence: int
    order: dict[str, Any] | None
    items: list[dict[str, Any]] | None
    messages: list[dict[str, Any]] | None
    unavailable: list[str]
    metadata: dict[str, str]
    user_id: str | None
    trouble: TroubleView | None
    registered_at: str
    last_polled_at: str | None
    next_due_at: str | None


class PollingView(Struct):
    """How a credential is polled. `budget`: requests a second, null for no limit; `budget_needed`: what the longest
    intervals need at least, so that nothing is polled more seldom than they say; `expected_delay_seconds`: mean time
    from a change to its event. `paused_until`: upstream asked for a pause. `credential`: `accepted`, or why no user
    token is to be had (`credential_refused`, `token_endpoint`)."""

    budget: float | None
    budget_needed: float
    budget_sufficient: bool
    expected_delay_seconds: float
    orders: int
    stages: dict[str, int]
    paused_until: str | None
    credential: str


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


class AuditView(Struct):
    """`key_id` is the key's, `relay` for what the relay did by itself. `outcome` is `ok`, or the code of a refusal."""

    at: str
    action: str
    key_id: str
    object_id: str | None
    request_id: str | None
    outcome: str
    details: dict[str, str]
