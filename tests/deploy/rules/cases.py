"""Every cause alert: series (a sample a minute) under which it fires, stays silent, and has recovered.

`firing` must fire at `at`; `below` must not; `recovered` fires at `at` and must not at `later`. Minutes.
"""

from typing import NamedTuple

AT, LATER = 40, 160


class Case(NamedTuple):
    """One alert, the labels it fires with beside severity, and series by case."""

    alert: str
    labels: dict[str, str]
    firing: dict[str, str]
    below: dict[str, str]
    recovered: dict[str, str]
    at: int = AT
    later: int = LATER


_N = {"namespace": "n"}


def _gauge(alert: str, series: str, bad: str, good: str, beside: dict[str, str] | None = None, **labels: str) -> Case:
    """A gauge that is bad, is just good enough, or was bad for an hour and is good since."""
    more = beside or {}
    return Case(
        alert,
        {**_N, **labels},
        {series: f"{bad}x200", **more},
        {series: f"{good}x200", **more},
        {series: f"{bad}x60 {good}x140", **more},
    )


def _counter(alert: str, series: str, bad: str, good: str, beside: dict[str, str] | None = None, **labels: str) -> Case:
    """A counter that rises too fast, just not, or did for an hour and then began again at 0 with a new process."""
    more = beside or {}
    return Case(
        alert,
        {**_N, **labels},
        {series: f"0+{bad}x200", **more},
        {series: f"0+{good}x200", **more},
        {series: f"0+{bad}x60 0+0x140", **more},
    )


def _clock(alert: str, series: str, limit: int, beside: dict[str, str] | None = None, **labels: str) -> Case:
    """A time that stands still, is as old as it may be, or stood still for an hour."""
    more = beside or {}
    return Case(
        alert,
        {**_N, **labels},
        {series: "0x200", **more},
        {series: f"-{limit}+60x200", **more},
        {series: "0x60 3660+60x140", **more},
    )


def _elsewhere(alert: str, series: str, well: str, beside: dict[str, str] | None = None, **labels: str) -> Case:
    """What another installation (`m`) has all the time is gone in this one after a while, stays, or comes again."""
    other, this = series % "m", series % "n"
    more = {other: f"{well}x200", **(beside or {})}
    return Case(
        alert,
        {**_N, **labels},
        {this: f"{well}x5 _x195", **more},
        {this: f"{well}x200", **more},
        {this: f"{well}x5 _x95 {_later(well, 101)}x99", **more},
    )


def _later(values: str, minute: int) -> str:
    """The same values, from this minute on."""
    start, rises, step = values.partition("+")
    return f"{int(start) + minute * int(step)}+{step}" if rises else values


_COMPONENTS = ("api", "poll", "deliver", "maintain")
_UP_OF = 'up{job="relay", component="%s", namespace="%s"}'


def _all_but(component: str) -> dict[str, str]:
    """The others are up in both installations."""
    return {_UP_OF % (other, n): "1x200" for other in _COMPONENTS if other != component for n in ("n", "m")}


def _no(component: str) -> Case:
    series = f'up{{job="relay", component="{component}"}}'
    others = {f'up{{job="relay", component="{other}"}}': "1x200" for other in _COMPONENTS if other != component}
    labels = {"component": component}
    return Case(
        "RelayNoWorkers",
        labels,
        {series: "0x200", **others},
        {series: "1x200", **others},
        {series: "0x60 1x140", **others},
    )


_FLIES = {
    'relay_canary_last_success_timestamp_seconds{namespace="n"}': "0+60x200",
    'relay_verdicts_total{namespace="n", verdict="delivered"}': "0+1x200",
}
_UP = 'up{job="relay", instance="i"}'
_READY = 'relay_oldest_waiting_event_age_seconds{namespace="n", state="ready"}'
_DUE = {'relay_orders_due{namespace="n"}': "1x200"}
_SAMPLED = 'relay_backlog_sample_timestamp_seconds{namespace="n"}'
_SUCCESS = 'relay_poll_last_success_timestamp_seconds{namespace="n", resource="handling"}'
_ATTEMPTS = 'relay_attempts_total{namespace="n"}'
#: A process that has read INFO.
_READ = {'relay_redis_memory_bytes{namespace="n"}': "9x400"}
_EVICTED = 'relay_redis_evicted_keys{namespace="n", instance="%s"}'
_POLICY = 'relay_redis_policy_ok{namespace="n", instance="%s"}'
_CHANGES = 'relay_changes_total{namespace="n"}'
_SCRAPED = 'scrape_samples_scraped{job="relay", instance="i"}'
_OVER = 'prometheus_target_scrapes_exceeded_sample_limit_total{job="prometheus"}'
_VERSION = 'relay_build_info{namespace="n", version="%s"}'
_LATE = 'relay_poll_lateness_seconds_bucket{namespace="n", le="5.0"}'
_POLLS = 'relay_poll_lateness_seconds_count{namespace="n"}'
_SPENT = 'relay_budget_spent_total{namespace="n"}'
_BUDGET = 'relay_budget_requests_per_second{namespace="n"}'
_OPEN = 'relay_circuits{namespace="n", state="open"}'


def _late(on_time: str) -> dict[str, str]:
    """A hundred polls a minute, so many of them within five seconds."""
    return {_LATE: f"0+{on_time}x200", _POLLS: "0+100x200"}


def _read(instance: str, values: str) -> dict[str, str]:
    return {f'relay_redis_memory_bytes{{namespace="n", instance="{instance}"}}': values}


def _reaches(instance: str) -> str:
    return f'relay_redis_up{{namespace="n", instance="{instance}"}}'


_LAG = 'relay_event_loop_lag_seconds_bucket{namespace="n", component="api", le="%s"}'
_ALL_LAG = {_LAG % "1.0": "0+100x200", _LAG % "+Inf": "0+100x200"}

CASES = [
    _clock(
        "RelayCanaryFailing",
        'relay_canary_last_success_timestamp_seconds{namespace="n"}',
        300,
        {'relay_canary_enabled{namespace="n"}': "1x200"},
    ),
    _gauge("RelayDeliveryStalled", _READY, "121", "120", {_ATTEMPTS: "5x200"}),
    Case("RelayDeliveryStalled", _N, {_READY: "200x200"}, {_READY: "200x200", _ATTEMPTS: "0+1x200"}, {}),
    # The canary's posts get through: they are verdicts, and no attempts.
    Case(
        "RelayDeliveryStalled",
        _N,
        {_READY: "200x200", _ATTEMPTS: "9x200", **_FLIES},
        {_READY: "200x200", _ATTEMPTS: "9+1x200", **_FLIES},
        {_READY: "200x60 0x140", _ATTEMPTS: "9x200", **_FLIES},
    ),
    Case("RelayBacklogGrowing", _N, {_READY: "0+20x200"}, {_READY: "61x200"}, {_READY: "0+20x60 0x140"}),
    _clock("RelayBacklogMetricsStale", _SAMPLED, 60),
    Case("RelayBacklogMetricsStale", {}, {}, {_SAMPLED: "0+60x200"}, {_SAMPLED: "_x60 3660+60x140"}),
    _gauge("RelayLedgerImbalance", 'relay_ledger_imbalance{namespace="n"}', "1", "0"),
    _counter("RelayLogTrimmedUnread", 'relay_log_trimmed_unread_total{namespace="n"}', "1", "0"),
    _counter(
        "RelayDeadLettersGrowing",
        'relay_verdicts_total{namespace="n", verdict="dead"}',
        "11",
        "10",
        {'relay_verdicts_total{namespace="n", verdict="delivered"}': "0+990x200"},
    ),
    _gauge("RelayManyCircuitsOpen", _OPEN, "5", "4", {'relay_circuits{namespace="n", state="closed"}': "10x200"}),
    _gauge("RelayManyCircuitsOpen", _OPEN, "11", "10", {'relay_circuits{namespace="n", state="closed"}': "90x200"}),
    _counter("RelayBlockedAddressSpike", 'relay_attempts_total{namespace="n", outcome="blocked"}', "3", "2"),
    *(_no(component) for component in ("api", "poll", "deliver", "maintain")),
    Case(
        "RelayWorkerHeartbeatStale",
        {**_N, "job": "relay", "instance": "i", "pump": "poll"},
        {
            'relay_worker_heartbeat_timestamp_seconds{namespace="n", job="relay", instance="i", pump="poll"}': "0x200",
            _UP: "1x200",
        },
        {
            'relay_worker_heartbeat_timestamp_seconds{namespace="n", job="relay", instance="i", pump="poll"}': "0x200",
            _UP: "0x200",
        },
        {
            'relay_worker_heartbeat_timestamp_seconds{namespace="n", job="relay", instance="i", pump="poll"}': (
                "0x60 3660+60x140"
            ),
            _UP: "1x200",
        },
    ),
    _gauge(
        "RelayWorkersSaturated",
        'relay_pump_slots_busy{namespace="n", pump="deliver"}',
        "10",
        "9",
        {'relay_pump_slots{namespace="n", pump="deliver"}': "10x200", _READY: "6x200"},
        pump="deliver",
    ),
    _gauge(
        "RelayWorkersSaturated",
        _READY,
        "6",
        "5",
        {
            'relay_pump_slots{namespace="n", pump="deliver"}': "2x200",
            'relay_pump_slots_busy{namespace="n", pump="deliver"}': "2x200",
        },
        pump="deliver",
    ),
    _counter(
        "RelayWorkerRestarting", 'relay_worker_restarts_total{namespace="n", pump="poll"}', "1", "0.19", pump="poll"
    ),
    _counter("RelayLeasesLost", 'relay_leases_lost_total{namespace="n"}', "1", "0.08"),
    _gauge(
        "RelayReadLimitNear",
        'relay_arq_jobs{namespace="n", queue="poll", state="running"}',
        "51",
        "50",
        {'relay_arq_queue_read_limit{namespace="n"}': "100x200"},
        queue="poll",
    ),
    _counter(
        "RelayArqJobsExpired", 'relay_arq_jobs_expired_total{namespace="n", queue="poll"}', "1", "0", queue="poll"
    ),
    _counter("RelayEventLoopLag", _LAG % "0.5", "98", "100", _ALL_LAG, component="api")._replace(
        recovered={
            _LAG % "0.5": "0+0x60 0+100x140",
            _LAG % "1.0": "0+100x60 0+100x140",
            _LAG % "+Inf": "0+100x60 0+100x140",
        }
    ),
    Case(
        "RelayVersionSkew",
        _N,
        {_VERSION % 1: "1x200", _VERSION % 2: "1x200"},
        {_VERSION % 1: "1x200", 'relay_build_info{namespace="n", version="1", instance="i"}': "1x200"},
        {_VERSION % 1: "1x100 _x100", _VERSION % 2: "1x200"},
        at=90,
    ),
    Case(
        "RelaySampleLimitHit",
        {"job": "relay", "instance": "i"},
        {_SCRAPED: "9x200", _UP: "0x200", _OVER: "0+4x200"},
        {_SCRAPED: "9x200", _UP: "0x200", _OVER: "4x200"},
        {_SCRAPED: "9x200", _UP: "0x60 1x140", _OVER: "0+4x60 240x140"},
    ),
    _elsewhere("RelayMetricsMissing", 'relay_build_info{namespace="%s"}', "1"),
    _elsewhere("RelayBacklogMetricsStale", 'relay_backlog_sample_timestamp_seconds{namespace="%s"}', "0+60"),
    *(
        _elsewhere("RelayNoWorkers", _UP_OF % (component, "%s"), "1", _all_but(component), component=component)
        for component in _COMPONENTS
    ),
    Case("RelayMetricsMissing", {}, {}, {"relay_build_info": "1x200"}, {"relay_build_info": "_x60 1x140"}),
    _clock("RelayPollingStalled", _SUCCESS, 300, _DUE),
    Case("RelayPollingStalled", _N, _DUE, {_SUCCESS: "0x200"}, {**_DUE, _SUCCESS: "_x60 3660+60x140"}),
    _counter(
        "RelayPollErrors",
        'relay_polls_total{namespace="n", outcome="failed"}',
        "26",
        "25",
        {'relay_polls_total{namespace="n", outcome="unchanged"}': "0+100x200"},
    ),
    _counter("RelayBudgetExceeded", 'relay_budget_exceeded_total{namespace="n"}', "1", "0"),
    _counter("RelayBudgetIdle", 'relay_budget_idle_seconds_total{namespace="n"}', "7", "6", _DUE),
    _gauge("RelayUpstreamRefuses", 'relay_upstream_credentials{namespace="n", state="refused"}', "1", "0"),
    _gauge("RelayUpstreamRefuses", 'relay_orders_tracked{namespace="n", state="suspended"}', "1", "0"),
    Case(
        "RelayBudgetTooSmall",
        _N,
        {**_late("98"), _SPENT: "0+559x200", _BUDGET: "10x200"},
        {**_late("98"), _SPENT: "0+557x200", _BUDGET: "10x200"},
        {**_late("98"), _SPENT: "0+559x200", _BUDGET: "10x80 20x120"},
        at=75,
    ),
    Case(
        "RelayBudgetTooSmall",
        _N,
        {**_late("98.9"), _SPENT: "0+600x200", _BUDGET: "10x200"},
        {**_late("99.1"), _SPENT: "0+600x200", _BUDGET: "10x200"},
        {},
        at=75,
    ),
    Case(
        "RelayChangeSpike",
        _N,
        {_CHANGES: "0+6x1500 9000+100x100"},
        {_CHANGES: "0+6x1500 9000+60x100"},
        {_CHANGES: "0+6x1500 9000+100x30 12000+6x100"},
        at=1525,
        later=1560,
    ),
    Case("RelayChangeSpike", _N, {_CHANGES: "0x1500 0+61x100"}, {_CHANGES: "0x1500 0+59x100"}, {}, at=1525),
    _gauge("RelayRedisUnreachable", 'relay_redis_up{namespace="n", instance="a"}', "0", "1"),
    Case(
        "RelayRedisUnreachable",
        _N,
        {_reaches("a"): "0x200", _reaches("b"): "1x200"},
        {_reaches("a"): "0x200", _reaches("b"): "1x200", _reaches("c"): "1x200"},
        {_reaches("a"): "0x60 1x140", _reaches("b"): "1x200"},
    ),
    _gauge("RelayRedisMemoryHigh", 'relay_redis_memory_ratio{namespace="n"}', "0.76", "0.75"),
    _gauge("RelayRedisMemoryCritical", 'relay_redis_memory_ratio{namespace="n"}', "0.91", "0.9"),
    _counter("RelayRedisEvicting", 'relay_redis_evicted_keys{namespace="n"}', "1", "0", _READ),
    _gauge("RelayRedisPolicyWrong", 'relay_redis_policy_ok{namespace="n"}', "0", "1", _READ),
    Case(
        "RelayRedisPolicyWrong",
        _N,
        {_POLICY % "a": "1x200", **_read("a", "9x200"), _POLICY % "b": "0x200", **_read("b", "9x200")},
        {_POLICY % "a": "1x200", **_read("a", "9x200"), _POLICY % "b": "1x200", **_read("b", "9x200")},
        {_POLICY % "a": "1x200", **_read("a", "9x200"), _POLICY % "b": "0x60 1x140", **_read("b", "9x200")},
    ),
    _gauge("RelayRedisPersistenceFailing", 'relay_redis_persistence_ok{namespace="n"}', "0", "1", _READ),
    _counter("RelayRedisRejectedConnections", 'relay_redis_rejected_connections{namespace="n"}', "1", "0", _READ),
    _gauge("RelayRedisReplicationBroken", 'relay_redis_replica_links_down{namespace="n"}', "1", "0"),
]


class Quiet(NamedTuple):
    """What could be taken for trouble and is none: the alert must be silent at each of these minutes."""

    alert: str
    why: str
    series: dict[str, str]
    at: tuple[int, ...]


QUIET = [
    Quiet(
        "RelayLogTrimmedUnread",
        "a pod that once counted is replaced by one that begins at 0",
        {
            'relay_log_trimmed_unread_total{namespace="n", instance="a"}': "5x60 _x140",
            'relay_log_trimmed_unread_total{namespace="n", instance="b"}': "_x60 0x140",
        },
        (58, 62, 70, 90),
    ),
    Quiet(
        "RelayWorkerRestarting",
        "a counter begins again at 0 within its pod",
        {'relay_worker_restarts_total{namespace="n", pump="poll"}': "9x60 0x140"},
        (61, 70, 90),
    ),
    Quiet(
        "RelayRedisEvicting", "Redis is restarted, what it counted begins at 0", {_EVICTED % "a": "5x60 0x60"}, (70,)
    ),
    Quiet(
        "RelayRedisEvicting",
        "a new process, 0 until it has read what Redis counted long ago",
        {
            _EVICTED % "a": "5x200",
            **_read("a", "9x200"),
            _EVICTED % "b": "_x60 0x5 5x135",
            **_read("b", "_x60 0x5 9x135"),
        },
        (62, 66, 70, 100),
    ),
    Quiet(
        "RelayRedisPolicyWrong",
        "a process that waits for Redis and has read nothing",
        {_POLICY % "a": "1x200", **_read("a", "9x200"), _POLICY % "b": "0x200", **_read("b", "0x200")},
        (40, 100),
    ),
    Quiet("RelayChangeSpike", "an installation younger than a day", {_CHANGES: "0+180x400"}, (30, 60, 300)),
    Quiet(
        "RelayPollingStalled", "nothing is due", {'relay_orders_due{namespace="n"}': "0x200", _SUCCESS: "0x200"}, (60,)
    ),
    Quiet(
        "RelaySampleLimitHit",
        "the scrape of another program is refused",
        {_SCRAPED: "9x99", _UP: "1x99", _OVER: "0+4x99"},
        (60,),
    ),
    Quiet("RelaySampleLimitHit", "the process is down", {_SCRAPED: "0x99", _UP: "0x99", _OVER: "0+4x99"}, (60,)),
    Quiet(
        "RelayWorkersSaturated",
        "poll pumps are always busy",
        {
            'relay_pump_slots{namespace="n", pump="poll"}': "2x200",
            'relay_pump_slots_busy{namespace="n", pump="poll"}': "2x200",
            _READY: "60x200",
        },
        (60,),
    ),
]
