"""Polling: how soon changes are noticed, and what the budget is spent on."""

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

DELAY, BOUND = "relay_detection_delay_seconds", "relay_detection_bound_seconds"


def _within(metric: str, edge: str) -> str:
    """By stage, what share of a histogram lies up to one of its edges: exact, where a quantile would be a guess
    between edges that lie far apart. Stages in which nothing happened are left out."""
    return rate(f"{metric}_bucket", "stage", f'le="{edge}"') + " / (" + rate(f"{metric}_count", "stage") + " > 0)"


def _unseen() -> str:
    """By stage, the mean over changes with a time and without."""
    time, count = (" + ".join(rate(f"{one}_{what}", "stage") for one in (DELAY, BOUND)) for what in ("sum", "count"))
    return f"({time}) / (({count}) > 0)"


def polling() -> Board:
    """Freshness first, then requests and their budget."""
    board = Board("relay-polling", "Relay / Polling", "How soon changes are noticed, and what the budget is spent on.")
    failing = rate("relay_polls_total", "", 'outcome!~"unchanged|changed"')
    board.row("Now")
    board.line(
        4,
        stat("Polls", "Upstream requests a second.", "reqps", rate("relay_polls_total")),
        stat(
            "Not good",
            "Share of requests that gave no reading.",
            "percentunit",
            f"{failing} / {rate('relay_polls_total')}",
            steps=[(None, GOOD), (0.05, WARN), (0.2, BAD)],
            decimals=1,
            runbook="RelayPollErrors",
        ),
        stat("Overdue", "Orders' resources that are due and not claimed.", "short", most("relay_orders_due")),
        stat(
            "Most overdue",
            "How long the most overdue poll has been due.",
            "s",
            most("relay_oldest_due_order_age_seconds"),
            steps=[(None, GOOD), (5, WARN), (60, BAD)],
            runbook="RelayPollingStalled",
        ),
        stat(
            "Intervals lengthened",
            "By how much because budgets cannot keep the longest intervals; 1: none.",
            "short",
            most("relay_budget_stretch_ratio"),
            steps=[(None, GOOD), (1.01, WARN)],
            decimals=2,
            runbook="RelayBudgetTooSmall",
        ),
        stat(
            "Budget overspent, 1 h",
            "Seconds in which more was granted than a budget. Must stay 0.",
            "short",
            'sum (increase(relay_budget_exceeded_total{job=~"$job", instance=~"$instance"}[1h]))',
            steps=[(None, GOOD), (1, BAD)],
            runbook="RelayBudgetExceeded",
        ),
    )
    board.row("Freshness")
    late = [(None, "transparent"), (5, BAD)]
    board.line(
        8,
        series(
            "Seen within 5 s of the change",
            "Share of changes that upstream gave a time, by stage. Stages in which little happens are polled seldom.",
            "percentunit",
            Query(_within(DELAY, "5.0"), "{{stage}}"),
            width=6,
            maximum=1,
        ),
        series(
            "Mean time unseen",
            "From a change to the request that saw it, by stage; of changes without a time, since the reading before,"
            " which is the longest that it can have been.",
            "s",
            Query(_unseen(), "{{stage}}"),
            width=6,
        ),
        series(
            "Read at most 5 s before",
            "Share of changes without a time that cannot have gone unseen for longer, by stage.",
            "percentunit",
            Query(_within(BOUND, "5.0"), "{{stage}}"),
            width=6,
            maximum=1,
        ),
        series(
            "Lateness of polls",
            "From when a poll was due to its start; objective 5 s (dashed).",
            "s",
            *(Query(quantile(q, "relay_poll_lateness_seconds"), f"p{q * 100:.0f}") for q in (0.5, 0.95, 0.99)),
            width=6,
            steps=late,
            runbook="RelayPollingBudgetBurn",
        ),
    )
    board.row("Requests")
    board.line(
        8,
        series(
            "Polls by outcome",
            "What upstream requests ended in.",
            "reqps",
            Query(rate("relay_polls_total", "outcome"), "{{outcome}}"),
            stacked=True,
            colours={"unchanged": GREY, "changed": GOOD},
            runbook="RelayPollErrors",
        ),
        series(
            "Polls by resource",
            "What is asked for.",
            "reqps",
            Query(rate("relay_polls_total", "resource"), "{{resource}}"),
            stacked=True,
        ),
        series(
            "Upstream duration",
            "Time of upstream requests.",
            "s",
            *(Query(quantile(q, "relay_poll_duration_seconds"), f"p{q * 100:.0f}") for q in (0.5, 0.95, 0.99)),
        ),
    )
    board.row("Budget")
    board.line(
        8,
        series(
            "Budget",
            "Requests a second that budgets allow, what upstream's refusals left of them, and what was granted.",
            "reqps",
            Query(most("relay_budget_requests_per_second"), "allowed"),
            Query(most("relay_budget_remaining_requests_per_second"), "left"),
            Query(rate("relay_budget_spent_total"), "granted"),
            colours={"allowed": GREY, "left": WARN, "granted": CALM},
            runbook="RelayBudgetTooSmall",
        ),
        series(
            "Left unspent while polls were overdue",
            "Share of time; more than a little is a fault of ours.",
            "percentunit",
            Query(rate("relay_budget_idle_seconds_total"), "idle"),
            runbook="RelayBudgetIdle",
        ),
        series(
            "Late polls",
            "Started more than five seconds after they were due, by stage.",
            "ops",
            Query(rate("relay_polls_late_total", "stage"), "{{stage}}"),
            stacked=True,
            runbook="RelayPollingBudgetBurn",
        ),
    )
    board.row("What upstream takes")
    board.line(
        8,
        series(
            "Rate left after refusals",
            "Share of its rate that the credential keeps which was slowed down most. A 429 takes three tenths, which"
            " grow back by 2 % in ten seconds; 0: one is paused.",
            "percentunit",
            Query(f"min (relay_budget_remaining_ratio{{{SELECTOR}}})", "left"),
            maximum=1,
            steps=[(None, BAD), (0.5, WARN), (1, GOOD)],
            colours={"left": CALM},
            runbook="RelayUpstreamRefuses",
        ),
        series(
            "Throttling",
            "Times a second that upstream slowed a credential down, by reason.",
            "ops",
            Query(rate("relay_upstream_throttled_total", "reason"), "{{reason}}"),
            runbook="RelayUpstreamRefuses",
        ),
        series(
            "Limit of requests in flight",
            "What the congestion control allows, summed over processes.",
            "short",
            Query(total("relay_upstream_concurrency_limit"), "limit"),
            colours={"limit": CALM},
        ),
    )
    board.row("Orders and credentials")
    board.line(
        8,
        series(
            "Orders",
            "By state of tracking.",
            "short",
            Query(most("relay_orders_tracked", "state"), "{{state}}"),
            stacked=True,
            colours={"active": GOOD, "suspended": WARN},
            runbook="RelayUpstreamRefuses",
        ),
        series(
            "Credentials",
            "In use, by state; a refused one stops all its orders.",
            "short",
            Query(most("relay_upstream_credentials", "state"), "{{state}}"),
            stacked=True,
            colours={"ok": GOOD, "slowed": CALM, "paused": WARN, "refused": BAD, "token_endpoint": BAD},
            runbook="RelayUpstreamRefuses",
        ),
        series(
            "User tokens",
            "Asked of upstream, by outcome.",
            "ops",
            Query(rate("relay_token_mints_total", "outcome"), "{{outcome}}"),
            stacked=True,
        ),
    )
    answered = f"time() - max by (resource) (relay_poll_last_success_timestamp_seconds{{{SELECTOR}}})"
    board.line(
        7,
        series(
            "Polls overdue",
            "Orders' resources that are due and not claimed.",
            "short",
            Query(most("relay_orders_due"), "due"),
            colours={"due": CALM},
            runbook="RelayPollingStalled",
        ),
        series(
            "Since the last good answer",
            "Of upstream, by resource.",
            "s",
            Query(answered, "{{resource}}"),
            runbook="RelayPollingStalled",
        ),
        series(
            "Expected detection delay",
            "What the policy expects of the budgets, of the credential where it is longest.",
            "s",
            Query(most("relay_expected_detection_delay_seconds"), "expected"),
            colours={"expected": CALM},
        ),
    )
    return board
