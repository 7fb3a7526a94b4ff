"""Overview: are the promises kept, and where along the path is it slow."""

from deploy.dashboards.panels import (
    BAD,
    CALM,
    GOOD,
    GREY,
    SELECTOR,
    WARN,
    Board,
    Panel,
    Query,
    heatmap,
    most,
    quantile,
    rate,
    series,
    stat,
    total,
)

#: Name, share that may be bad, runbook, width: the objectives of docs/operations.md.
OBJECTIVES = (
    ("API", "api", 0.001, "RelayApiErrorBudgetBurn", 4),
    ("Prompt delivery", "prompt", 0.01, "RelayPromptDeliveryBudgetBurn", 5),
    ("Within a day", "delivery", 0.005, "RelayDeliveryBudgetBurn", 5),
    ("Polling on time", "polling", 0.01, "RelayPollingBudgetBurn", 5),
    ("Delivery engine", "engine", 0.001, "RelayEngineErrorBudgetBurn", 5),
)


def overview() -> Board:
    """The first look."""
    board = Board(
        "relay-overview", "Relay / Overview", "Whether the relay keeps its promises, and what to look at when not."
    )
    board.row("Objectives")
    board.line(4, *(_kept(*objective) for objective in OBJECTIVES))
    board.line(4, *(_budget_left(*objective) for objective in OBJECTIVES))
    board.row("Now")
    board.line(4, *_now())
    board.row("The path, from left to right")
    board.line(7, *_path())
    board.row("From detection to delivery")
    board.line(9, *_latency())
    board.row("What waits, and who works")
    board.line(8, *_waiting())
    board.row("API, and decisions passed on")
    board.line(7, *_api())
    board.row("Proof")
    board.line(7, _breaching(), _canary())
    return board


def _kept(name: str, key: str, allowed: float, runbook: str, width: int) -> Panel:
    return stat(
        f"{name}: kept, last hour",
        f"Share of good events in the last hour, worst namespace. Objective: {1 - allowed:.1%}.",
        "percentunit",
        f"1 - max (namespace:relay_{key}_bad:ratio_rate1h)",
        width=width,
        decimals=2,
        maximum=1,
        steps=[(None, BAD), (1 - 6 * allowed, WARN), (1 - allowed, GOOD)],
        runbook=runbook,
    )


def _budget_left(name: str, key: str, allowed: float, runbook: str, width: int) -> Panel:
    return stat(
        f"{name}: error budget left, 3 days",
        "What is left of the errors that the objective allows over three days; below 0 it is overspent.",
        "percentunit",
        f"1 - max (namespace:relay_{key}_bad:ratio_rate3d) / {allowed}",
        width=width,
        decimals=0,
        minimum=None,
        maximum=1,
        steps=[(None, BAD), (0, WARN), (0.25, GOOD)],
        runbook=runbook,
    )


def _now() -> list[Panel]:
    none = [(None, GOOD), (1, BAD)]
    return [
        stat(
            "Canary age",
            "Since a canary's change last came back through the whole path, verified. Alert above 300 s.",
            "s",
            f"time() - {most('relay_canary_last_success_timestamp_seconds')}",
            steps=[(None, GOOD), (120, WARN), (300, BAD)],
            runbook="RelayCanaryFailing",
        ),
        stat(
            "Ledger imbalance",
            "Matched minus delivered, waiting, dead and skipped. Anything but 0 is an event nobody accounts for.",
            "short",
            most("relay_ledger_imbalance"),
            steps=none,
            runbook="RelayLedgerImbalance",
        ),
        stat(
            "Firing alerts",
            "Critical and warning alerts of the relay that fire now.",
            "short",
            'count (ALERTS{alertstate="firing", alertname=~"Relay.+", severity=~"critical|warning"}) or vector(0)',
            steps=none,
        ),
        stat(
            "Processes up",
            "Processes that the last scrape reached.",
            "short",
            total("up"),
            steps=[(None, BAD), (1, GOOD)],
            runbook="RelayNoWorkers",
        ),
        stat(
            "Orders tracked", "Orders that are polled now.", "short", most("relay_orders_tracked", "", 'state="active"')
        ),
        stat(
            "Versions running",
            "Different builds that run now: one, except during a rollout.",
            "short",
            f"count (count by (version) (relay_build_info{{{SELECTOR}}}))",
            steps=[(None, GOOD), (2, WARN)],
            runbook="RelayVersionSkew",
        ),
    ]


def _path() -> list[Panel]:
    steps = (
        ("Polls", "Upstream requests a second.", "relay_polls_total", 5),
        ("Changes", "Facts found changed a second.", "relay_changes_total", 5),
        ("Events", "Events written to logs a second.", "relay_events_committed_total", 5),
        ("Attempts", "POSTs to receivers a second.", "relay_attempts_total", 5),
    )
    made = [
        series(title, about, "ops", Query(rate(metric), title.lower()), width=width, colours={title.lower(): CALM})
        for title, about, metric, width in steps
    ]
    delivered = rate("relay_verdicts_total", "", 'verdict="delivered"')
    made.append(
        series(
            "Delivered",
            "Events delivered a second.",
            "ops",
            Query(delivered, "delivered"),
            width=4,
            colours={"delivered": GOOD},
        )
    )
    return made


def _latency() -> list[Panel]:
    metric = "relay_detected_to_delivered_seconds"
    return [
        heatmap(
            "Detected to delivered",
            "How many deliveries a second took how long, from detection to the receiver's 2xx.",
            metric,
            width=12,
        ),
        series(
            "Detected to delivered, quantiles",
            "The objective is about first attempts within 1 s (dashed); retries lengthen the tail here.",
            "s",
            *(Query(quantile(share, metric), f"p{share * 100:.0f}") for share in (0.5, 0.95, 0.99)),
            width=12,
            steps=[(None, "transparent"), (1, BAD)],
            runbook="RelayPromptDeliveryBudgetBurn",
        ),
    ]


def _waiting() -> list[Panel]:
    colours = {"ready": BAD, "held": WARN, "parked": CALM}
    return [
        series(
            "Events waiting",
            "Ready could be sent now; held stand behind an open circuit or a pause; parked wait for a retry.",
            "short",
            Query(most("relay_events_waiting", "state"), "{{state}}"),
            stacked=True,
            colours=colours,
            runbook="RelayBacklogGrowing",
        ),
        series(
            "Oldest waiting event",
            "Age of the oldest event that waits. Ready ones should be seconds old; alert above 120 s (dashed).",
            "s",
            Query(most("relay_oldest_waiting_event_age_seconds", "state"), "{{state}}"),
            steps=[(None, "transparent"), (60, WARN), (120, BAD)],
            colours=colours,
            runbook="RelayDeliveryStalled",
        ),
        series(
            "Pump slots busy",
            "Share of the pumps that should run which are at work. All of them busy while events are ready: scale out.",
            "percentunit",
            Query(f"{total('relay_pump_slots_busy', 'pump')} / {most('relay_pump_slots', 'pump')}", "{{pump}}"),
            steps=[(None, "transparent"), (0.9, WARN)],
            runbook="RelayWorkersSaturated",
        ),
    ]


def _api() -> list[Panel]:
    classes = {"2xx": GOOD, "3xx": GREY, "4xx": WARN, "5xx": BAD}
    return [
        series(
            "API requests",
            "By class of status, probes left out.",
            "reqps",
            Query(rate("relay_http_requests_total", "status_class"), "{{status_class}}"),
            width=6,
            stacked=True,
            colours=classes,
            runbook="RelayApiErrorBudgetBurn",
        ),
        series(
            "API duration, p95",
            "Of requests, by the first part of the path.",
            "s",
            Query(quantile(0.95, "relay_http_request_duration_seconds", "group"), "{{group}}"),
            width=6,
        ),
        series(
            "API requests refused",
            "Before they were looked at, by reason.",
            "reqps",
            Query(rate("relay_http_rejected_total", "reason"), "{{reason}}"),
            width=6,
            stacked=True,
        ),
        series(
            "Decisions and messages",
            "Passed on upstream, by what came of it.",
            "ops",
            Query(rate("relay_actions_total", "kind, result"), "{{kind}} {{result}}"),
            width=6,
        ),
    ]


def _canary() -> Panel:
    return series(
        "Canary's way",
        "How long the canary's last change took through the whole path. It waits for its poll as any change does.",
        "s",
        Query(most("relay_canary_duration_seconds"), "canary"),
        width=12,
        colours={"canary": CALM},
        runbook="RelayCanaryFailing",
    )


def _breaching() -> Panel:
    query = Query(
        'sum by (alertname, severity) (ALERTS{alertstate="firing", alertname=~"Relay.+"})',
        "{{alertname}}",
        instant=True,
    )
    return Panel(
        "table",
        "Breaching now",
        "Alerts of the relay that fire. RelayWatchdog always does: it proves that the alerts are evaluated.",
        "short",
        [query],
        width=12,
        options={"showHeader": True, "cellHeight": "sm"},
        transformations=[{"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}],
    )
