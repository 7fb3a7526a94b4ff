"""Every metric of the relay: its name, help text with unit, labels, and where its labels' values are known, those.

Labels are bounded: never a retailer, subscription, URL, order or event. A histogram is a dozen series for each label
value, so what is labelled by stage has few buckets. Declared once here; docs/operations.md says who sets what.
"""

from collections.abc import Iterable
from itertools import product
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics import MetricWrapperBase

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for every counter, which no rule reads

registry = CollectorRegistry()

Metric = TypeVar("Metric", bound=MetricWrapperBase)

#: One request or command (seconds).
_DURATION = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
#: From detection to a receiver (seconds); 1 is the objective.
_PROMPT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
#: From a change to its detection, and how late a poll is (seconds); 5 is the objective.
_DELAY = (0.5, 1, 2.5, 5, 15, 30, 60, 300, 1800)

PUMPS = ("poll", "deliver", "maintain")
#: What an attempt may end in.
OUTCOMES = ("answered", "dns", "connect", "tls", "timeout", "reset", "protocol", "blocked", "internal_error")
STATUS_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx", "none")


def _known(metric: Metric, *values: Iterable[str]) -> Metric:
    """Begin at 0 for every combination of label values: a rate needs a first sample to rise from."""
    for combination in product(*values):
        metric.labels(*combination)
    return metric


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"relay_{name}", text, labels, registry=registry)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(f"relay_{name}", text, labels, registry=registry)


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    return Histogram(f"relay_{name}", text, labels, buckets=buckets, registry=registry)


# ── the API ─────────────────────────────────────────────────────────────────────────────────────────────────────────

http_requests = _counter(
    "http_requests_total", "Requests to the API, probes left out.", "route", "method", "status_class"
)
http_duration = _histogram(
    "http_request_duration_seconds", "Duration of API requests, by the first part of the path.", _DURATION, "group"
)
http_in_progress = _gauge("http_requests_in_progress", "API requests being answered.")
http_rejected = _known(
    _counter("http_rejected_total", "Requests refused before they were looked at, by reason.", "reason"),
    ("auth", "rate", "size", "draining", "redis", "overload"),
)
audit_failures = _counter("audit_failures_total", "Actions that could not be written into the audit log.")
actions = _counter(
    "actions_total", "Retailers' decisions and messages passed on upstream, by what came of it.", "kind", "result"
)

# ── upstream and polling ────────────────────────────────────────────────────────────────────────────────────────────

polls = _counter("polls_total", "Upstream requests of the poll pump.", "resource", "outcome")
poll_duration = _histogram("poll_duration_seconds", "Duration of upstream requests.", _DURATION, "resource")
poll_lateness = _histogram("poll_lateness_seconds", "From when a poll was due to its start.", _DELAY)
poll_last_success = _gauge(
    "poll_last_success_timestamp_seconds", "When upstream last gave a good answer (Unix time).", "resource"
)
detection_delay = _histogram(
    "detection_delay_seconds",
    "From a change, by upstream's own time, to the request that saw it, by the stage in which it was seen.",
    _DELAY,
    "stage",
)
detection_bound = _histogram(
    "detection_bound_seconds",
    "The longest that a change without a time can have gone unseen: since the reading before, by stage.",
    _DELAY,
    "stage",
)
expected_delay = _gauge(
    "expected_detection_delay_seconds",
    "Mean detection delay that the policy expects of the budgets, of the credential where it is longest.",
)
budget_stretch = _gauge(
    "budget_stretch_ratio",
    "By how much the longest intervals are lengthened because a budget cannot keep them, where it is most; 1: none.",
)
budget_rate = _gauge("budget_requests_per_second", "Requests a second that all credentials with a budget may spend.")
budget_spent = _counter("budget_spent_total", "Requests granted out of budgets, by this process's claims.")
budget_exceeded = _counter(
    "budget_exceeded_total", "Seconds in which more was granted of a credential than its budget. Must stay 0."
)
budget_idle = _counter(
    "budget_idle_seconds_total", "Time in which polls were overdue while their budget was not spent."
)
throttles = _known(
    _counter("upstream_throttled_total", "Times that upstream slowed a credential down, by reason.", "reason"),
    ("rate_limited", "unavailable"),
)
credentials = _known(
    _gauge("upstream_credentials", "Upstream credentials in use, by state.", "state"),
    ("ok", "paused", "refused", "token_endpoint"),
)
concurrency_limit = _gauge("upstream_concurrency_limit", "Requests that this process has in flight upstream at most.")
mints = _counter("token_mints_total", "User tokens asked of upstream, by outcome.", "outcome")
orders_tracked = _known(_gauge("orders_tracked", "Orders, by state of tracking.", "state"), ("active", "suspended"))
orders_due = _gauge("orders_due", "Orders' resources whose poll is due and not claimed.")
oldest_due_age = _gauge("oldest_due_order_age_seconds", "How long the most overdue poll has been due.")

# ── detection and log ───────────────────────────────────────────────────────────────────────────────────────────────

changes = _counter("changes_total", "Facts found changed, by resource.", "resource")
events_committed = _counter("events_committed_total", "Events written to a retailer's log, by type.", "type")
commits = _known(
    _counter("commits_total", "Commits of changed orders, by result.", "result"), ("ok", "conflict", "gone")
)
commit_duration = _histogram("commit_duration_seconds", "Duration of a commit.", _DURATION)
log_events = _gauge("log_events", "Events kept in all logs.")
log_trimmed_unread = _counter(
    "log_trimmed_unread_total", "Events that retention took before a subscription had read them. Must stay 0."
)

# ── delivery ────────────────────────────────────────────────────────────────────────────────────────────────────────

attempts = _known(
    _counter("attempts_total", "POSTs to receivers, by outcome and class of status.", "outcome", "status_class"),
    ("answered",),
    STATUS_CLASSES[:-1],
)
_known(attempts, OUTCOMES[1:], ("none",))
attempt_duration = _histogram("attempt_duration_seconds", "Duration of a POST, by outcome.", _DURATION, "outcome")
verdicts = _known(
    _counter("verdicts_total", "What was decided after an attempt.", "verdict"), ("delivered", "retry", "dead", "gone")
)
attempt_number = _histogram("attempt_number", "Which attempt a delivery took.", (1, 2, 3, 5, 8, 13))
first_attempt = _histogram(
    "detected_to_first_attempt_seconds",
    "From an event's detection to the start of its first attempt, for events that were neither held nor parked.",
    _PROMPT,
)
delivery_latency = _histogram(
    "detected_to_delivered_seconds",
    "From an event's detection to its first successful delivery.",
    (*_PROMPT, 3600, 21600, 86400),
)
deliveries_in_progress = _gauge("deliveries_in_progress", "POSTs in flight in this process.")
body_bytes = _histogram("delivery_body_bytes", "Size of a delivered body.", (256, 1024, 4096, 16384, 65536, 262144))
redeliveries = _known(
    _counter("redeliveries_total", "Events sent again although they may have arrived, by reason.", "reason"),
    ("crash", "lease_lost", "drain", "replay"),
)
disables = _known(
    _counter("subscriptions_disabled_total", "Subscriptions that the relay disabled, by reason.", "reason"),
    ("gone", "failing"),
)

# ── the backlog, sampled by the maintain pump from counters and indexes: read with max by (state) ───────────────────

waiting_events = _known(
    _gauge(
        "events_waiting",
        "Events matched and not settled: ready (could be sent now), held (behind an open circuit, a pause or the"
        " endpoint's own rate), parked (waiting for a retry, or behind one).",
        "state",
    ),
    ("ready", "held", "parked"),
)
oldest_waiting_age = _known(
    _gauge("oldest_waiting_event_age_seconds", "Age of the oldest waiting event, by state.", "state"),
    ("ready", "held", "parked"),
)
parked_lanes = _gauge("lanes_parked", "Lanes that wait for their next attempt.")
subscriptions = _known(_gauge("subscriptions", "Subscriptions, by state.", "state"), ("enabled", "disabled"))
circuits = _known(
    _gauge("circuits", "Enabled subscriptions, by the state of their circuit.", "state"),
    ("closed", "half_open", "open"),
)
dead_letters = _gauge("dead_letters", "Events given up and not recovered.")
ledger_imbalance = _gauge(
    "ledger_imbalance", "Matched minus (delivered + waiting + dead + skipped), summed without sign. Must be 0."
)
backlog_sampled = _gauge("backlog_sample_timestamp_seconds", "When the backlog was last sampled (Unix time).")
backlog_errors = _counter("backlog_sample_errors_total", "Samples of the backlog that failed; the gauges stay.")
sealed_records = _gauge(
    "encrypted_records",
    "Records encrypted with a master key, by the key's id: a key may be retired when it has none.",
    "key_id",
)

# ── workers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

pump_slices = _counter("pump_slices_total", "Pump slices ended, by outcome.", "pump", "outcome")
pump_slice_duration = _histogram("pump_slice_seconds", "How long a slice worked.", (1, 5, 15, 30, 60, 90), "pump")
pump_wait = _histogram("pump_wait_seconds", "From a ring to the start of its pump.", _DURATION, "pump")
pump_slots = _gauge("pump_slots", "Pumps that should run, over all processes.", "pump")
pumps_running = _gauge("pump_slots_busy", "Pump slices in progress in this process.", "pump")
leases_lost = _known(
    _counter("leases_lost_total", "Writes refused because somebody else holds the lease.", "pump"), PUMPS[:2]
)
rings = _counter("rings_total", "Wake-ups sent through arq, by result.", "pump", "result")
sweep_rung = _known(_counter("sweep_rung_total", "Work that the sweep had to ring for.", "pump"), PUMPS[:2])
arq_jobs = _gauge("arq_jobs", "arq's jobs, by queue and state.", "queue", "state")
arq_read_limit = _gauge("arq_queue_read_limit", "How many of a queue's first jobs a worker looks at.")
arq_expired = _known(
    _counter("arq_jobs_expired_total", "Rings that arq dropped as expired before they ran.", "queue"), PUMPS
)
worker_heartbeat = _gauge(
    "worker_heartbeat_timestamp_seconds", "When arq's loop last turned (Unix time), by pump.", "pump"
)
worker_restarts = _counter("worker_restarts_total", "arq workers rebuilt by the supervisor.", "pump", "reason")
loop_lag = _histogram(
    "event_loop_lag_seconds", "How late a timer of the event loop fires.", (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 5)
)
draining = _gauge("draining", "1 while the process finishes what is in flight before it ends.")

# ── Redis ───────────────────────────────────────────────────────────────────────────────────────────────────────────

redis_up = _gauge("redis_up", "Whether Redis answered this process's last probe.")
redis_policy_ok = _gauge("redis_policy_ok", "Whether Redis runs with noeviction and append-only persistence.")
redis_persistence_ok = _gauge("redis_persistence_ok", "Whether the last writes of its files went well.")
redis_evicted = _gauge("redis_evicted_keys", "Keys that Redis evicted since its start. Must stay 0.")
redis_rejected = _gauge("redis_rejected_connections", "Connections that Redis refused since its start.")
redis_replica_link = _gauge("redis_replica_links_down", "Replicas that the primary lost, or fewer than it has had.")
redis_memory_ratio = _gauge("redis_memory_ratio", "Memory used, as a share of maxmemory; 0 without one.")
redis_memory_bytes = _gauge("redis_memory_bytes", "Memory that Redis uses for its data.")
redis_memory_limit = _gauge("redis_memory_limit_bytes", "maxmemory of Redis; 0: none.")
redis_clients = _gauge("redis_connected_clients", "Connections to Redis.")
redis_duration = _histogram("redis_command_duration_seconds", "Duration of a round trip, by kind.", _DURATION, "kind")
redis_round_trips = _counter("redis_round_trips_total", "Network round trips to Redis, by kind.", "kind")
redis_errors = _known(
    _counter("redis_errors_total", "Commands that failed, by kind.", "kind"), ("unavailable", "refused", "other")
)
redis_pool_in_use = _gauge("redis_pool_in_use", "Connections of this process's pool that are busy.")
redis_pool_max = _gauge("redis_pool_max", "Connections that this process's pool may open.")
shedding = _gauge("shedding", "What is shed because Redis is nearly full: 0 nothing, 1 polling and the API's writes.")

# ── the whole ───────────────────────────────────────────────────────────────────────────────────────────────────────

build_info = _gauge("build_info", "1, labelled with what runs.", "version", "component")
canary_last_success = _gauge(
    "canary_last_success_timestamp_seconds", "When a canary's change last came back, verified (Unix time)."
)
canary_duration = _gauge("canary_duration_seconds", "How long the canary's last change took through the whole path.")
canary_failures = _counter("canary_failures_total", "Changes of the canary that did not come back in time.")
canary_enabled = _gauge("canary_enabled", "1 where this process runs the canary.")
log_lines = _known(
    _counter("log_lines_total", "Log lines, by level.", "level"), ("debug", "info", "warning", "error", "critical")
)
