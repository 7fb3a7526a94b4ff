"""Every metric of the relay: its name, help text with unit, labels, the processes that set it, and the values of its
labels where those are known.

Labels are bounded: never a retailer, subscription, URL, order or event. A histogram is a dozen series for each label
value, so what is labelled has few buckets. A process that was told by `begin` which kind it is shows what it sets and
nothing else; docs/operations.md has the table.
"""

from relay import labels
from relay.declaring import SetBy, begin, each, registry
from relay.model.catalogue import EVENT_TYPES

__all__ = ["begin", "registry"]

#: One request or command (seconds).
_DURATION = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_UPSTREAM = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
#: The same where there are many label values.
_POST = (0.01, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_REDIS = (0.001, 0.01, 0.1, 1)
_WAIT = (0.05, 0.25, 1, 5, 30)
#: From detection to a receiver (seconds); 1 is the objective, and a day the one of healthy endpoints.
_PROMPT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_DAY = 86400
#: How late a poll is (seconds); 5 is the objective.
_LATE = (0.5, 1, 2.5, 5, 15, 60, 300)

_api = SetBy("api")
_poll = SetBy("poll")
_deliver = SetBy("deliver")
_maintain = SetBy("maintain")
_workers = SetBy(*labels.PUMPS)
_all = SetBy(*labels.ROLES)

# ── the API ─────────────────────────────────────────────────────────────────────────────────────────────────────────

http_requests = _api.counter(
    "http_requests_total", "Requests to the API, probes left out.", "route", "method", "status_class"
)
http_duration = _api.histogram(
    "http_request_duration_seconds", "Duration of API requests, by the first part of the path.", _DURATION, "group"
)
http_in_progress = _api.gauge("http_requests_in_progress", "API requests being answered.")
http_rejected = _api.counter(
    "http_rejected_total",
    "Requests refused before they were looked at, by reason.",
    "reason",
    known=each(("auth", "rate", "size", "draining", "redis", "overload", "slow")),
)
audit_failures = _api.counter("audit_failures_total", "Actions that could not be written into the audit log.")
actions = _api.counter(
    "actions_total",
    "Retailers' decisions and messages passed on upstream, by what came of it.",
    "kind",
    "result",
    known=each(("replacement", "message"), ("accepted",)),
)

# ── upstream and polling ────────────────────────────────────────────────────────────────────────────────────────────

polls = _poll.counter(
    "polls_total",
    "Upstream requests of the poll pump.",
    "resource",
    "outcome",
    known=each(labels.RESOURCES, (*labels.POLLED, *labels.REFUSALS)),
)
poll_duration = _poll.histogram("poll_duration_seconds", "Duration of upstream requests.", _UPSTREAM)
poll_lateness = _poll.histogram(
    "poll_lateness_seconds", "From when a poll was due to its start; 0 for one that budget let start early.", _LATE
)
polls_late = _poll.counter(
    "polls_late_total", "Polls that started more than five seconds late, by stage.", "stage", known=each(labels.STAGES)
)
poll_last_success = _poll.gauge(
    "poll_last_success_timestamp_seconds", "When upstream last gave a good answer (Unix time).", "resource"
)
detection_delay = _poll.histogram(
    "detection_delay_seconds",
    "From a change, by upstream's own time, to the request that saw it, by the stage in which it was seen.",
    (5, 60),
    "stage",
    known=each(labels.SEEN),
)
detection_bound = _poll.histogram(
    "detection_bound_seconds",
    "The longest that a change without a time can have gone unseen: since the reading before, by stage.",
    (5,),
    "stage",
    known=each(labels.SEEN),
)
expected_delay = _poll.gauge(
    "expected_detection_delay_seconds",
    "Mean detection delay that the policy expects of the budgets, of the credential where it is longest.",
)
budget_stretch = _poll.gauge(
    "budget_stretch_ratio",
    "By how much the longest intervals are lengthened because a budget cannot keep them, where it is most; 1: none.",
)
budget_rate = _maintain.gauge(
    "budget_requests_per_second", "Requests a second that all credentials with a budget may spend."
)
budget_remaining = _maintain.gauge(
    "budget_remaining_requests_per_second",
    "What upstream's refusals (429, Retry-After) left of the budgets; a cut grows back by 2 % in ten seconds.",
)
budget_remaining_ratio = _maintain.gauge(
    "budget_remaining_ratio",
    "Share of its rate that the credential keeps which upstream slowed down most; 1: none is, 0: one is paused.",
)
budget_spent = _poll.counter("budget_spent_total", "Requests granted out of budgets, by this process's claims.")
budget_exceeded = SetBy("api", "poll").counter(
    "budget_exceeded_total",
    "Seconds for which more was granted of a credential than its budget, by send time. Must stay 0.",
)
budget_idle = _maintain.counter(
    "budget_idle_seconds_total",
    "Time in which polls were overdue by more than two seconds while their budget was not spent; in steps of a sample.",
)
throttles = _poll.counter(
    "upstream_throttled_total", "Times that upstream slowed a credential down.", "reason", known=each(labels.SLOWING)
)
credentials = _maintain.gauge(
    "upstream_credentials",
    "Upstream credentials in use, by state: slowed down or paused by upstream, refused or without tokens because of"
    " the endpoint.",
    "state",
    known=each(labels.CREDENTIAL_STATES),
)
concurrency_limit = _poll.gauge(
    "upstream_concurrency_limit", "Requests that this process has in flight upstream at most."
)
mints = SetBy("api", "poll").counter(
    "token_mints_total",
    "User tokens asked of upstream, by outcome.",
    "outcome",
    known=each(("minted", "credential_refused", "unauthorized", "token_endpoint", "throttled")),
)
orders_tracked = _maintain.gauge(
    "orders_tracked", "Orders, by state of tracking.", "state", known=each(("active", "suspended"))
)
orders_due = _maintain.gauge("orders_due", "Orders' resources whose poll is due and not claimed.")
oldest_due_age = _maintain.gauge("oldest_due_order_age_seconds", "How long the most overdue poll has been due.")

# ── detection and log ───────────────────────────────────────────────────────────────────────────────────────────────

changes = _poll.counter("changes_total", "Facts found changed, by resource.", "resource", known=each(labels.RESOURCES))
events_committed = SetBy("api", "poll", "deliver").counter(
    "events_committed_total",
    "Events written to a retailer's log, by type.",
    "type",
    known={
        "api": each(("order.tracking_ended",)),
        "poll": each(name for name in EVENT_TYPES if name.startswith("order.") and name != "order.snapshot"),
        "deliver": each(("subscription.disabled", "subscription.failing", "subscription.recovered")),
    },
)
commits = SetBy("api", "poll").counter(
    "commits_total",
    "Commits of changed orders, by result.",
    "result",
    known=each(("ok", "conflict", "gone")),
)
commit_duration = SetBy("api", "poll").histogram("commit_duration_seconds", "Duration of a commit.", _REDIS)
log_events = _maintain.gauge("log_events", "Events kept in all logs.")
log_trimmed_unread = _maintain.counter(
    "log_trimmed_unread_total", "Events that retention took before a subscription had read them. Must stay 0."
)

# ── delivery ────────────────────────────────────────────────────────────────────────────────────────────────────────

attempts = _deliver.counter(
    "attempts_total",
    "POSTs to receivers, by outcome and class of status.",
    "outcome",
    "status_class",
    known=labels.ENDINGS,
)
attempt_duration = _deliver.histogram(
    "attempt_duration_seconds", "Duration of a POST, by outcome.", _POST, "outcome", known=each(labels.OUTCOMES)
)
verdicts = _deliver.counter(
    "verdicts_total",
    "What was decided after an attempt.",
    "verdict",
    known=each(("delivered", "retry", "dead", "gone")),
)
attempt_number = _deliver.histogram("attempt_number", "Which attempt a delivery took.", (1, 2, 3, 5, 8, 13))
first_attempt = _deliver.histogram(
    "detected_to_first_attempt_seconds",
    "From an event's detection to the start of its first attempt, for events that were neither held nor parked, nor"
    " behind another of their lane or as many posts as the endpoint takes.",
    (*_PROMPT, _DAY),
)
delivery_latency = _deliver.histogram(
    "detected_to_delivered_seconds",
    "From an event's detection to its first successful delivery.",
    (*_PROMPT, 3600, 21600, _DAY),
)
deliveries_in_progress = _deliver.gauge("deliveries_in_progress", "POSTs in flight in this process.")
body_bytes = _deliver.histogram(
    "delivery_body_bytes", "Size of a delivered body.", (256, 1024, 4096, 16384, 65536, 262144)
)
redeliveries = _deliver.counter(
    "redeliveries_total",
    "Events sent again although they may have arrived, by reason. replay: exact. drain: exact, what was in flight at"
    " the deadline, counted by the successor. crash: what an owner that died or stood still had in flight when it last"
    " wrote, at most a third of a lease before. lease_lost: what an owner that lost its lease had in flight or not yet"
    " written; if it stood still, its successor counts the same events as crash.",
    "reason",
    known=each(("crash", "lease_lost", "drain", "replay")),
)
disables = _deliver.counter(
    "subscriptions_disabled_total",
    "Subscriptions that the relay disabled, by reason.",
    "reason",
    known=each(("gone", "failing")),
)

# ── the backlog, sampled from counters and indexes by every process with a maintain pump: read with max by (state) ──

waiting_events = _maintain.gauge(
    "events_waiting",
    "Events matched and not settled: ready (could be sent now), held (behind an open circuit, a pause or the"
    " endpoint's own rate, or disabled), parked (waiting for a retry, or behind one). Of what a subscription has not"
    " read yet, the first hundred are counted.",
    "state",
    known=each(labels.WAITING),
)
oldest_waiting_age = _maintain.gauge(
    "oldest_waiting_event_age_seconds",
    "Age of the oldest waiting event.",
    "state",
    known=each(labels.WAITING),
)
parked_lanes = _maintain.gauge("lanes_parked", "Lanes that wait for their next attempt.")
subscriptions = _maintain.gauge(
    "subscriptions", "Subscriptions, by state.", "state", known=each(("enabled", "disabled"))
)
circuits = _maintain.gauge(
    "circuits",
    "Enabled subscriptions, by the state of their circuit.",
    "state",
    known=each(("closed", "half_open", "open")),
)
dead_letters = _maintain.gauge("dead_letters", "Events given up and not recovered.")
ledger_imbalance = _maintain.gauge(
    "ledger_imbalance", "Matched minus (delivered + waiting + dead + skipped), summed without sign. Must be 0."
)
backlog_sampled = _maintain.gauge("backlog_sample_timestamp_seconds", "When the backlog was last sampled (Unix time).")
backlog_errors = _maintain.counter(
    "backlog_sample_errors_total", "Samples of the backlog that failed; the gauges stay."
)
sealed_records = _maintain.gauge(
    "encrypted_records",
    "Records encrypted with a master key, by the key's id: a key may be retired when it has none.",
    "key_id",
)

# ── workers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

pump_slices = _workers.counter(
    "pump_slices_total",
    "Pump slices ended, by outcome.",
    "pump",
    "outcome",
    known=each(labels.PUMPS, ("handed over", "drained", "lost", "store_unavailable", "failed", "surplus")),
    own="pump",
)
pump_slice_duration = _workers.histogram(
    "pump_slice_seconds", "How long a slice worked.", (5, 30, 60, 90), "pump", known=each(labels.PUMPS), own="pump"
)
pump_wait = _workers.histogram(
    "pump_wait_seconds",
    "From a ring to the start of its pump.",
    (0.05, 0.25, 1, 5, 30),
    "pump",
    known=each(labels.PUMPS),
    own="pump",
)
pump_slots = _workers.gauge(
    "pump_slots", "Pumps that should run, over all processes.", "pump", known=each(labels.PUMPS), own="pump"
)
pumps_running = _workers.gauge(
    "pump_slots_busy", "Pump slices in progress in this process.", "pump", known=each(labels.PUMPS), own="pump"
)
leases_lost = SetBy("poll", "deliver").counter(
    "leases_lost_total",
    "Writes refused because somebody else holds the lease.",
    "pump",
    known=each(labels.PUMPS[:2]),
    own="pump",
)
rings = _workers.counter(
    "rings_total",
    "Wake-ups sent through arq, by result.",
    "pump",
    "result",
    known={
        **{pump: each((pump,), ("sent", "unknown", "failed")) for pump in labels.PUMPS[:2]},
        "maintain": each(labels.PUMPS, ("sent", "unknown", "failed")),
    },
)
sweep_rung = _maintain.counter(
    "sweep_rung_total",
    "Work that the sweep had to ring for: slots without a pump, and what was due for more than a second.",
    "pump",
    known=each(labels.PUMPS[:2]),
)
arq_jobs = _maintain.gauge(
    "arq_jobs",
    "arq's jobs, by queue and state: due, running, scheduled. Running ones are counted among the first that a worker"
    " looks at.",
    "queue",
    "state",
    known=each(labels.PUMPS, ("due", "running", "scheduled")),
)
arq_read_limit = _workers.gauge("arq_queue_read_limit", "How many of a queue's first jobs a worker looks at.")
arq_expired = _workers.counter(
    "arq_jobs_expired_total",
    "Rings that arq dropped as expired before they ran.",
    "queue",
    known=each(labels.PUMPS),
    own="queue",
)
worker_heartbeat = _workers.gauge(
    "worker_heartbeat_timestamp_seconds", "When arq's loop last turned (Unix time), by pump.", "pump"
)
worker_restarts = _workers.counter(
    "worker_restarts_total",
    "arq workers rebuilt by the supervisor.",
    "pump",
    "reason",
    known=each(labels.PUMPS, ("redis", "ended")),
    own="pump",
)
loop_lag = _all.histogram(
    "event_loop_lag_seconds", "How late a timer of the event loop fires.", (0.01, 0.05, 0.1, 0.25, 0.5, 1, 5)
)
draining = _all.gauge("draining", "1 while the process finishes what is in flight before it ends.")

# ── Redis ───────────────────────────────────────────────────────────────────────────────────────────────────────────

redis_up = _all.gauge("redis_up", "Whether Redis answered this process's last probe.")
redis_policy_ok = _all.gauge("redis_policy_ok", "Whether Redis runs with noeviction and append-only persistence.")
redis_persistence_ok = _all.gauge("redis_persistence_ok", "Whether the last writes of its files went well.")
redis_evicted = _all.gauge("redis_evicted_keys", "Keys that Redis evicted since its start. Must stay 0.")
redis_rejected = _all.gauge("redis_rejected_connections", "Connections that Redis refused since its start.")
redis_replica_link = _all.gauge("redis_replica_links_down", "Replicas that the primary lost, or fewer than it has had.")
redis_memory_ratio = _all.gauge("redis_memory_ratio", "Memory used, as a share of maxmemory; 0 without one.")
redis_memory_bytes = _all.gauge("redis_memory_bytes", "Memory that Redis uses for its data.")
redis_memory_limit = _all.gauge("redis_memory_limit_bytes", "maxmemory of Redis; 0: none.")
redis_clients = _all.gauge("redis_connected_clients", "Connections to Redis.")
redis_duration = _all.histogram(
    "redis_command_duration_seconds",
    "Duration of a round trip.",
    _REDIS,
    "kind",
    known=each(labels.REDIS_KINDS),
)
redis_round_trips = _all.counter(
    "redis_round_trips_total", "Network round trips to Redis, by kind.", "kind", known=each(labels.REDIS_KINDS)
)
redis_errors = _all.counter(
    "redis_errors_total", "Commands that failed.", "kind", known=each(("unavailable", "refused", "other"))
)
redis_commands = _maintain.gauge("redis_commands", "Commands that Redis has carried out since its start.")
redis_cpu = _maintain.gauge(
    "redis_cpu_seconds", "Time that Redis' main thread has worked since its start: it has one core, and no more."
)
redis_slowest = _maintain.gauge(
    "redis_slowest_command_seconds",
    "Mean time that Redis took for a script, and for the slowest of its other commands, between the last two samples.",
    "kind",
    known=each(("command", "script")),
)
redis_pool_in_use = _all.gauge("redis_pool_in_use", "Connections of this process's pool that are busy.")
redis_pool_max = _all.gauge("redis_pool_max", "Connections that this process's pool may open.")
shedding = _all.gauge(
    "shedding", "What is shed because Redis is nearly full: 0 nothing, 1 polling and the API's writes."
)

# ── the whole ───────────────────────────────────────────────────────────────────────────────────────────────────────

build_info = _all.gauge("build_info", "1, labelled with what runs.", "version", "component")
config_info = _all.gauge("config_info", "1, labelled with a digest of the settings but secrets and ports.", "digest")
canary_last_success = _maintain.gauge(
    "canary_last_success_timestamp_seconds", "When a canary's change last came back, verified (Unix time)."
)
canary_duration = _maintain.gauge(
    "canary_duration_seconds", "How long the canary's last change took through the whole path."
)
canary_failures = _maintain.counter("canary_failures_total", "Changes of the canary that did not come back in time.")
canary_enabled = _maintain.gauge("canary_enabled", "1 where this process runs the canary.")
log_lines = _all.counter(
    "log_lines_total",
    "Log lines, by level.",
    "level",
    known=each(("debug", "info", "warning", "error", "critical")),
)
