"""Every metric of the relay. Labels are bounded: never a retailer, subscription, URL or order id."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

registry = CollectorRegistry()

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60, 300)
_DELAY = (0.1, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800)

redis_round_trips = Counter("relay_redis_round_trips_total", "Network round trips to Redis.", registry=registry)
polls = Counter(
    "relay_polls_total",
    "Upstream requests of the poll pump, by resource and outcome.",
    ["resource", "outcome"],
    registry=registry,
)
poll_duration = Histogram(
    "relay_poll_duration_seconds",
    "Upstream request duration.",
    ["resource"],
    buckets=_LATENCY,
    registry=registry,
)
detection_delay = Histogram(
    "relay_detection_delay_seconds",
    "From a change, by upstream's own time, to the request that saw it; by the stage in which it was seen.",
    ["resource", "stage"],
    buckets=_DELAY,
    registry=registry,
)
detection_bound = Histogram(
    "relay_detection_bound_seconds",
    "The longest that a change without a time can have gone unseen: the time since the reading before.",
    ["resource", "stage"],
    buckets=_DELAY,
    registry=registry,
)
expected_delay = Gauge(
    "relay_expected_detection_delay_seconds",
    "Mean detection delay that the policy expects of the budgets, of the credential where it is longest.",
    registry=registry,
)
budget_stretch = Gauge(
    "relay_budget_stretch_ratio",
    "By how much the longest intervals are lengthened because a budget cannot keep them, where it is most; 1: none.",
    registry=registry,
)
throttles = Counter(
    "relay_upstream_throttles_total", "Times that upstream's refusals slowed a credential down.", registry=registry
)
concurrency_limit = Gauge(
    "relay_upstream_concurrency_limit", "Requests that this process has in flight at most.", registry=registry
)
mints = Counter("relay_token_mints_total", "User tokens asked of upstream, by outcome.", ["outcome"], registry=registry)
actions = Counter(
    "relay_actions_total",
    "Retailers' decisions and messages passed on to upstream, by what came of it.",
    ["kind", "result"],
    registry=registry,
)
events_committed = Counter(
    "relay_events_committed_total",
    "Events written to a retailer's log, by type.",
    ["type"],
    registry=registry,
)
commits = Counter("relay_commits_total", "Commits of changed orders, by result.", ["result"], registry=registry)
attempts = Counter("relay_delivery_attempts_total", "POSTs to receivers, by outcome.", ["outcome"], registry=registry)
attempt_duration = Histogram(
    "relay_delivery_attempt_duration_seconds", "Duration of one POST.", buckets=_LATENCY, registry=registry
)
verdicts = Counter(
    "relay_delivery_verdicts_total", "What was decided after an attempt.", ["verdict"], registry=registry
)
delivery_latency = Histogram(
    "relay_delivery_latency_seconds",
    "From an event's detection to its first successful delivery.",
    buckets=_LATENCY,
    registry=registry,
)
leases_lost = Counter(
    "relay_leases_lost_total",
    "Writes refused because somebody else holds the lease.",
    ["kind"],
    registry=registry,
)
pumps_running = Gauge("relay_pumps_running", "Pump slices in progress in this process.", ["kind"], registry=registry)
pump_slices = Counter("relay_pump_slices_total", "Pump slices ended.", ["kind", "reason"], registry=registry)
worker_restarts = Counter(
    "relay_worker_restarts_total",
    "arq workers rebuilt by the supervisor.",
    ["kind", "reason"],
    registry=registry,
)
rings = Counter("relay_rings_total", "Wake-ups sent through arq, by result.", ["kind", "result"], registry=registry)
orders_in_trouble = Counter(
    "relay_order_troubles_total",
    "Polls that upstream answered with an error, by code.",
    ["code"],
    registry=registry,
)
waiting_events = Gauge(
    "relay_events_waiting",
    "Events matched and not yet delivered or dead, over all subscriptions.",
    registry=registry,
)
oldest_waiting_age = Gauge(
    "relay_oldest_waiting_event_age_seconds", "Age of the oldest waiting event.", registry=registry
)
ledger_imbalance = Gauge(
    "relay_ledger_imbalance",
    "Matched minus (delivered + waiting + dead + skipped), summed without sign.",
    registry=registry,
)
subscriptions = Gauge("relay_subscriptions", "Subscriptions, by state.", ["state"], registry=registry)
circuits = Gauge(
    "relay_circuits", "Enabled subscriptions, by the state of their circuit.", ["state"], registry=registry
)
parked_lanes = Gauge("relay_lanes_parked", "Lanes that wait for their next attempt.", registry=registry)
dead_letters = Gauge("relay_dead_letters", "Events given up and not recovered.", registry=registry)
disables = Counter(
    "relay_subscriptions_disabled_total",
    "Subscriptions that the relay disabled, by reason.",
    ["reason"],
    registry=registry,
)
sealed_records = Gauge(
    "relay_sealed_records",
    "Records sealed with a master key, by the key's id: a key may be retired when it has none.",
    ["key_id"],
    registry=registry,
)
audit_failures = Counter(
    "relay_audit_failures_total", "Actions that could not be written into the audit log.", registry=registry
)
authentication_failures = Counter(
    "relay_authentication_failures_total", "Requests without a known key.", registry=registry
)
http_requests = Counter(
    "relay_http_requests_total",
    "Requests to the relay's API.",
    ["method", "route", "status"],
    registry=registry,
)
http_duration = Histogram(
    "relay_http_request_duration_seconds",
    "Duration of API requests.",
    ["route"],
    buckets=_LATENCY,
    registry=registry,
)
