"""Deliveries: what came of attempts, what waits, and who cannot be reached."""

from deploy.dashboards.panels import (
    BAD,
    CALM,
    GOOD,
    GREY,
    SELECTOR,
    WARN,
    Board,
    Query,
    most,
    quantile,
    rate,
    series,
    stat,
    total,
)


def deliveries() -> Board:
    """Rate, errors, duration of what goes out."""
    board = Board(
        "relay-deliveries", "Relay / Deliveries", "What came of attempts, what waits, and who cannot be reached."
    )
    failed = rate("relay_verdicts_total", "", 'verdict!="delivered"')
    bad_share = f"{failed} / {rate('relay_verdicts_total')}"
    board.row("Now")
    board.line(
        4,
        stat("Delivered", "Events delivered a second.", "ops", rate("relay_verdicts_total", "", 'verdict="delivered"')),
        stat(
            "Attempts that failed",
            "Share of attempts after which the event was not delivered.",
            "percentunit",
            bad_share,
            steps=[(None, GOOD), (0.1, WARN), (0.5, BAD)],
            decimals=1,
        ),
        stat(
            "Parked lanes", "Orders that wait for the next attempt of one event.", "short", most("relay_lanes_parked")
        ),
        stat(
            "Open circuits",
            "Endpoints that failed five lanes in a row and are only probed.",
            "short",
            most("relay_circuits", "", 'state="open"'),
            steps=[(None, GOOD), (1, WARN), (5, BAD)],
            runbook="RelayManyCircuitsOpen",
        ),
        stat(
            "Dead letters",
            "Events given up and not recovered.",
            "short",
            most("relay_dead_letters"),
            steps=[(None, GOOD), (1, WARN)],
            runbook="RelayDeadLettersGrowing",
        ),
        stat("In flight", "POSTs in flight now, over all processes.", "short", total("relay_deliveries_in_progress")),
    )
    board.row("Attempts")
    board.line(
        8,
        series(
            "Verdicts",
            "What was decided after each attempt.",
            "ops",
            Query(rate("relay_verdicts_total", "verdict"), "{{verdict}}"),
            stacked=True,
            colours={"delivered": GOOD, "retry": WARN, "dead": BAD, "gone": GREY},
        ),
        series(
            "Outcomes that are no answer",
            "What the wire said where no status came back. internal_error is our own fault.",
            "ops",
            Query(rate("relay_attempts_total", "outcome", 'outcome!="answered"'), "{{outcome}}"),
            stacked=True,
            runbook="RelayEngineErrorBudgetBurn",
        ),
        series(
            "Status classes",
            "Answers of receivers.",
            "ops",
            Query(rate("relay_attempts_total", "status_class", 'outcome="answered"'), "{{status_class}}"),
            stacked=True,
            colours={"2xx": GOOD, "3xx": GREY, "4xx": WARN, "5xx": BAD, "1xx": CALM},
        ),
    )
    board.line(
        8,
        series(
            "Attempt duration, p95",
            "Receivers' time by outcome; deadline 15 s.",
            "s",
            Query(quantile(0.95, "relay_attempt_duration_seconds", "outcome"), "{{outcome}}"),
        ),
        series(
            "Detected to first attempt",
            "Our own part of the delay; the objective is 1 s (dashed).",
            "s",
            *(
                Query(quantile(q, "relay_detected_to_first_attempt_seconds"), f"p{q * 100:.0f}")
                for q in (0.5, 0.95, 0.99)
            ),
            steps=[(None, "transparent"), (1, BAD)],
            runbook="RelayPromptDeliveryBudgetBurn",
        ),
        series(
            "Attempts a delivery took",
            "On average: 1 while receivers are well.",
            "short",
            Query(f"{rate('relay_attempt_number_sum')} / {rate('relay_attempt_number_count')}", "mean"),
            minimum=1,
            colours={"mean": CALM},
        ),
    )
    board.row("What waits")
    board.line(
        8,
        series(
            "Events waiting",
            "Ready, held behind a circuit or pause, parked for a retry.",
            "short",
            Query(most("relay_events_waiting", "state"), "{{state}}"),
            stacked=True,
            colours={"ready": BAD, "held": WARN, "parked": CALM},
            runbook="RelayBacklogGrowing",
        ),
        series(
            "Circuits",
            "Enabled subscriptions by the state of their circuit.",
            "short",
            Query(most("relay_circuits", "state"), "{{state}}"),
            stacked=True,
            colours={"closed": GOOD, "half_open": WARN, "open": BAD},
            runbook="RelayManyCircuitsOpen",
        ),
        series(
            "Subscriptions",
            "Enabled, and disabled by the retailer or by the relay.",
            "short",
            Query(most("relay_subscriptions", "state"), "{{state}}"),
            stacked=True,
            colours={"enabled": GOOD, "disabled": GREY},
        ),
    )
    board.line(
        8,
        series(
            "Redeliveries",
            "Events sent again although they may have arrived, by reason.",
            "ops",
            Query(rate("relay_redeliveries_total", "reason"), "{{reason}}"),
            width=6,
        ),
        series(
            "Subscriptions disabled",
            "By the relay: gone (410), or failing for days. In an hour.",
            "short",
            Query(
                f"sum by (reason) (increase(relay_subscriptions_disabled_total{{{SELECTOR}}}[1h]))",
                "{{reason}}",
            ),
            width=6,
        ),
        series(
            "Body size",
            "Bytes of delivered bodies.",
            "bytes",
            *(Query(quantile(q, "relay_delivery_body_bytes"), f"p{q * 100:.0f}") for q in (0.5, 0.95)),
            width=6,
        ),
        series(
            "Events that retention took unread",
            "In an hour. Must stay 0: a subscription lost them.",
            "short",
            Query(f"sum (increase(relay_log_trimmed_unread_total{{{SELECTOR}}}[1h]))", "events"),
            width=6,
            colours={"events": BAD},
            runbook="RelayLogTrimmedUnread",
        ),
    )
    return board
