"""Every cause alert: series (a sample a minute) under which it fires at 40 minutes, stays silent, and has recovered.

`firing` must fire at `AT`; `below` must not; `recovered` fires at `AT` and must not at `LATER`.
"""

from typing import NamedTuple

AT, LATER = "40m", "160m"


class Case(NamedTuple):
    """One alert, the labels it fires with beside severity, and series by case."""

    alert: str
    labels: dict[str, str]
    firing: dict[str, str]
    below: dict[str, str]
    recovered: dict[str, str]


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


def _no(component: str) -> Case:
    series = f'up{{job="relay", component="{component}"}}'
    others = {
        f'up{{job="relay", component="{other}"}}': "1x200"
        for other in ("api", "poll", "deliver", "maintain")
        if other != component
    }
    labels = {"component": component}
    return Case(
        "RelayNoWorkers",
        labels,
        {series: "0x200", **others},
        {series: "1x200", **others},
        {series: "0x60 1x140", **others},
    )


_UP = 'up{job="relay", instance="i"}'
_READY = 'relay_oldest_waiting_event_age_seconds{namespace="n", state="ready"}'
_DUE = {'relay_orders_due{namespace="n"}': "1x200"}
_OPEN = 'relay_circuits{namespace="n", state="open"}'
_LAG = 'relay_event_loop_lag_seconds_bucket{namespace="n", component="api", le="%s"}'
_ALL_LAG = {_LAG % "1.0": "0+100x200", _LAG % "+Inf": "0+100x200"}

CASES = [
    _clock(
        "RelayCanaryFailing",
        'relay_canary_last_success_timestamp_seconds{namespace="n"}',
        300,
        {'relay_canary_enabled{namespace="n"}': "1x200"},
    ),
    _gauge("RelayDeliveryStalled", _READY, "121", "120", {'relay_attempts_total{namespace="n"}': "5x200"}),
    Case("RelayBacklogGrowing", _N, {_READY: "0+20x200"}, {_READY: "61x200"}, {_READY: "0+20x60 0x140"}),
    _clock("RelayBacklogMetricsStale", 'relay_backlog_sample_timestamp_seconds{namespace="n"}', 60),
    Case("RelayBacklogMetricsStale", {}, {}, {'relay_backlog_sample_timestamp_seconds{namespace="n"}': "0+60x200"}, {}),
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
        {
            'relay_pump_slots{namespace="n", pump="deliver"}': "10x200",
            'relay_events_waiting{namespace="n", state="ready"}': "1x200",
        },
        pump="deliver",
    ),
    _counter(
        "RelayWorkerRestarting", 'relay_worker_restarts_total{namespace="n", pump="poll"}', "1", "0.19", pump="poll"
    ),
    _counter("RelayLeasesLost", 'relay_leases_lost_total{namespace="n"}', "1", "0.08"),
    _gauge(
        "RelayReadLimitNear",
        'relay_arq_jobs{namespace="n", queue="poll"}',
        "51",
        "50",
        {'relay_arq_queue_read_limit{namespace="n", queue="poll"}': "100x200"},
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
        {
            'relay_build_info{namespace="n", version="1"}': "1x200",
            'relay_build_info{namespace="n", version="2"}': "1x200",
        },
        {
            'relay_build_info{namespace="n", version="1", pod="a"}': "1x200",
            'relay_build_info{namespace="n", version="1"}': "1x200",
        },
        {},
    ),
    Case(
        "RelaySampleLimitHit",
        {"job": "relay", "instance": "i"},
        {'scrape_samples_scraped{job="relay", instance="i"}': "9x200", _UP: "0x200"},
        {'scrape_samples_scraped{job="relay", instance="i"}': "0x200", _UP: "0x200"},
        {'scrape_samples_scraped{job="relay", instance="i"}': "9x200", _UP: "0x60 1x140"},
    ),
    Case("RelayMetricsMissing", {}, {}, {"relay_build_info": "1x200"}, {"relay_build_info": "_x60 1x140"}),
    _clock("RelayPollingStalled", 'relay_poll_last_success_timestamp_seconds{namespace="n"}', 300, _DUE),
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
    _gauge("RelayRedisUnreachable", 'relay_redis_up{namespace="n", pod="a"}', "0", "1"),
    _gauge("RelayRedisMemoryHigh", 'relay_redis_memory_ratio{namespace="n"}', "0.76", "0.75"),
    _gauge("RelayRedisMemoryCritical", 'relay_redis_memory_ratio{namespace="n"}', "0.91", "0.9"),
    _gauge("RelayRedisEvicting", 'relay_redis_evicted_keys{namespace="n"}', "1", "0"),
    _gauge("RelayRedisPolicyWrong", 'relay_redis_policy_ok{namespace="n"}', "0", "1"),
    _gauge("RelayRedisPersistenceFailing", 'relay_redis_persistence_ok{namespace="n"}', "0", "1"),
    _counter("RelayRedisRejectedConnections", 'relay_redis_rejected_connections{namespace="n"}', "1", "0"),
    _gauge("RelayRedisReplicationBroken", 'relay_redis_replica_links_down{namespace="n"}', "1", "0"),
]
#: Tested elsewhere, or not yet by a case of three: see test_rules.
BURN = {
    "RelayApiErrorBudgetBurn": ('relay_http_requests_total{namespace="n", status_class="5xx"}', 0.001),
    "RelayEngineErrorBudgetBurn": ('relay_attempts_total{namespace="n", outcome="internal_error"}', 0.001),
    "RelayPromptDeliveryBudgetBurn": ("relay_detected_to_first_attempt_seconds", 0.01),
    "RelayPollingBudgetBurn": ("relay_poll_lateness_seconds", 0.01),
}
