"""The health of an endpoint: circuit, pauses, and the rule that disables. Time and chance are arguments."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.circuit import (
    LONGEST_PROBE_WAIT,
    OPEN_AFTER,
    OVERLOADED,
    Health,
    failed,
    moved,
    probing,
    standing,
    succeeded,
)
from relay.model.orders import LaneId
from relay.model.ranges import compressed, expanded
from relay.model.retries import JITTER, Outcome, Schedule

SCHEDULE = Schedule()
HOUR = 3_600_000


def answered(status: int, retry_after: str | None = None) -> Outcome:
    return Outcome("answered", status, retry_after, "", 1.0)


def fail(
    health: Health,
    lane: str,
    outcome: Outcome | None = None,
    *,
    probe: bool = False,
    now_ms: int = 0,
    luck: float = 0.5,
) -> Health:
    return failed(
        health,
        LaneId(lane),
        outcome or answered(500),
        probe=probe,
        now_ms=now_ms,
        schedule=SCHEDULE,
        random=lambda: luck,
    )


def opened(now_ms: int = 0) -> Health:
    health = Health()
    for number in range(OPEN_AFTER):
        health = fail(health, f"o-{number}", now_ms=now_ms)
    return health


def test_five_different_lanes_open_the_circuit_and_one_lane_never_does() -> None:
    health = Health()
    for _ in range(100):
        health = fail(health, "o-1")
    assert health.circuit == "closed"
    assert opened().circuit == "open"


def test_a_success_between_failures_keeps_it_closed() -> None:
    health = Health()
    for number in range(50):
        health = fail(health, f"o-{number}")
        if number % 4 == 3:
            health = succeeded(health, now_ms=0)
    assert health.circuit == "closed"


def test_probes_wait_longer_and_longer_up_to_ten_minutes() -> None:
    health, waits = opened(), []
    for _ in range(8):
        waits.append(health.hold_ms / 1000)
        health = fail(probing(health), "o-1", probe=True)
    assert waits[:5] == [5, 30, 120, 600, 600]
    assert max(waits) <= LONGEST_PROBE_WAIT * (1 + JITTER)


def test_what_was_in_flight_when_it_opened_is_no_probe() -> None:
    health = opened()
    assert fail(health, "o-77") == replace(health, lanes=health.lanes)


def test_a_success_closes_it_and_forgets() -> None:
    again = succeeded(probing(opened()), now_ms=10)

    assert again == Health(reopened_ms=10)
    assert succeeded(again, now_ms=20) == again
    assert succeeded(fail(again, "o-1", now_ms=20), now_ms=30) == again


@pytest.mark.parametrize("status", sorted(OVERLOADED))
def test_overload_pauses_the_endpoint_and_not_only_the_event(status: int) -> None:
    health = fail(Health(), "o-1", answered(status), now_ms=1_000)
    assert (health.circuit, health.hold_ms) == ("closed", 2_000)
    again = fail(health, "o-1", answered(status), now_ms=2_001)
    assert again.hold_ms == 2_001 + 2_000
    assert fail(Health(), "o-1", answered(500)).hold_ms == 0


def test_a_pause_lasts_as_long_as_the_endpoint_asks_and_one_success_does_not_end_it() -> None:
    health = fail(Health(), "o-1", answered(429, "120"), now_ms=0)
    assert health.hold_ms == 120_000
    assert succeeded(health, now_ms=50_000).hold_ms == 120_000
    assert succeeded(health, now_ms=120_001) == Health()


@given(hint=st.one_of(st.integers(-5, 10**9).map(str), st.text(max_size=20)), now=st.integers(0, 2**41))
def test_no_hint_holds_an_endpoint_for_longer_than_a_day(hint: str, now: int) -> None:
    held = fail(Health(), "o-1", answered(503, hint), now_ms=now).hold_ms - now
    assert 0 <= held <= 24 * HOUR


@given(luck=st.floats(0, 1))
def test_jitter_is_a_fifth_at_most(luck: float) -> None:
    health = Health()
    for number in range(OPEN_AFTER):
        health = fail(health, f"o-{number}", luck=luck)
    assert 4_000 <= health.hold_ms <= 6_000


def test_disabling_counts_from_the_first_failure_and_tells_at_half_time() -> None:
    health = opened(now_ms=0)

    def at(hours: float, health: Health = health, enabled_ms: int = 0) -> str:
        now = round(hours * HOUR)
        return standing(health, enabled_ms=enabled_ms, now_ms=now, disable_after_s=120 * 3600)

    assert (at(59), at(60), at(119), at(120)) == ("fine", "failing", "failing", "disable")
    assert at(100, replace(health, told=True)) == "fine"
    assert at(120, replace(health, told=True)) == "disable"
    assert at(120, enabled_ms=HOUR) == "failing"  # enabled again meanwhile: it has its five days from then
    assert at(500, succeeded(health, now_ms=1)) == "fine"


def test_a_single_lane_never_disables() -> None:
    health = Health()
    for hour in range(300):
        health = fail(health, "o-1", now_ms=hour * HOUR)
    assert standing(health, enabled_ms=0, now_ms=300 * HOUR, disable_after_s=120 * 3600) == "fine"


@given(st.sets(st.integers(1, 500)))
def test_ranges_are_read_as_written(numbers: set[int]) -> None:
    assert expanded(compressed(numbers)) == sorted(numbers)


def test_ranges_are_short() -> None:
    assert compressed([7, 3, 5, 6]) == "3,5-7"
    assert compressed([]) == ""


def test_a_moved_endpoint_begins_anew() -> None:
    """Five days of failures at the URL before disable nothing, and the retailer is told of the new one by itself."""
    known = replace(opened(1), told=True, mourned_ms=7, reopened_ms=8, probes=6, hold_ms=9 * HOUR)
    after = moved(known)
    assert after == Health("open", mourned_ms=7, reopened_ms=8, told_before=True)

    failing = fail(fail(after, "o-1", probe=True, now_ms=100 * HOUR), "o-2", probe=True, now_ms=101 * HOUR)
    assert (failing.since_ms, failing.probes) == (100 * HOUR, 2)
    assert standing(failing, enabled_ms=0, now_ms=159 * HOUR, disable_after_s=120 * 3600) == "fine"
    assert standing(failing, enabled_ms=0, now_ms=160 * HOUR, disable_after_s=120 * 3600) == "failing"
    assert standing(failing, enabled_ms=0, now_ms=220 * HOUR, disable_after_s=120 * 3600) == "disable"


def test_a_moved_endpoint_is_tried_by_one_post_only_while_its_circuit_was_open() -> None:
    assert moved(probing(opened())).circuit == "open"
    assert moved(fail(Health(), "o-1")) == Health()
    assert moved(moved(replace(Health(), told=True))).told_before
    assert not succeeded(moved(replace(Health(), told=True)), now_ms=1).told_before
