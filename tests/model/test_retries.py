"""Judging outcomes: a pure table."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.retries import Dead, Delivered, Gone, Outcome, Retry, Schedule, Verdict, judge, retry_after_s

NOW = 1_795_000_000_000


def outcome(status: int | None = None, kind: str = "answered", retry_after: str | None = None) -> Outcome:
    return Outcome(kind, status, retry_after, "", 1.0)


def verdict(of: Outcome, attempt: int = 1, event_ms: int = NOW, dice: float = 0.5) -> Verdict:
    return judge(of, attempt=attempt, event_ms=event_ms, now_ms=NOW, schedule=Schedule(), random=lambda: dice)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_success(status: int) -> None:
    assert verdict(outcome(status)) == Delivered()


def test_410_means_no_more() -> None:
    assert verdict(outcome(410)) == Gone()


@pytest.mark.parametrize("status", [101, 301, 302, 307, 400, 401, 404, 429, 500, 502, 504])
def test_every_other_answer_is_tried_again(status: int) -> None:
    assert verdict(outcome(status)) == Retry(NOW + 5_000)


@pytest.mark.parametrize("kind", ["dns", "connect", "tls", "timeout", "reset", "protocol", "blocked"])
def test_every_failure_is_tried_again(kind: str) -> None:
    assert verdict(outcome(None, kind)) == Retry(NOW + 5_000)


def test_the_schedule_runs_for_three_days_and_ends() -> None:
    at, attempts = NOW, 1
    while isinstance(
        step := judge(outcome(500), attempt=attempts, event_ms=NOW, now_ms=at, schedule=Schedule(), random=lambda: 0.5),
        Retry,
    ):
        assert step.at_ms > at
        at, attempts = step.at_ms, attempts + 1

    assert step == Dead("exhausted")
    assert timedelta(hours=60) < timedelta(milliseconds=at - NOW) <= timedelta(hours=72)


@given(st.integers(1, 12), st.floats(0, 1))
def test_jitter_stays_within_a_fifth(attempt: int, dice: float) -> None:
    step = verdict(outcome(500), attempt=attempt, dice=dice)

    planned = Schedule().wait(attempt) * 1000
    assert isinstance(step, Retry)
    assert 0.8 * planned - 1 <= step.at_ms - NOW <= 1.2 * planned + 1


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("120", 120),
        ("0", None),
        ("99999999", 86_400),
        ("-5", None),
        ("abc", None),
        ("", None),
        ("1.5", None),
        ("١٢", None),
        (format_datetime(datetime.fromtimestamp(NOW / 1000, UTC) + timedelta(minutes=5), usegmt=True), 300),
        ("Thu, 01 Jan 1970 00:00:00 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400),
    ],
)
def test_retry_after(header: str, expected: float | None) -> None:
    assert retry_after_s(header, NOW) == expected


@pytest.mark.parametrize("status", [429, 500, 503, 404])
def test_retry_after_counts_on_every_failure_when_it_is_later(status: int) -> None:
    assert verdict(outcome(status, retry_after="60")) == Retry(NOW + 60_000)
    assert verdict(outcome(status, retry_after="1")) == Retry(NOW + 5_000)


def test_the_waits_never_shorten() -> None:
    waits = [Schedule().wait(attempt) for attempt in range(1, 20)]

    assert all(a <= b for a, b in pairwise(waits))
