"""The policy against its closed forms, its bounds, and what it is for: the budget and its shares."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.cadence import Cadence, stage_of
from relay.model.congestion import LEAST, Concurrency
from relay.model.hazards import POWER, Hazards
from relay.model.orders import RESOURCES, Reading, Resource
from relay.model.pacing import (
    CLASSES,
    FIRST_FACTOR,
    HELD,
    LATE,
    OCTAVES,
    TAIL,
    Pacing,
    Pool,
    adjustment,
    forecast,
    klass,
    share,
    timely,
)
from relay.model.sightings import happened, milliseconds


def pool(arms: int = 300, rate: float = 10.0, **fields: int) -> Pool:
    whole = {"orders": 100, "all_orders": 100, "retailers": 1, **fields}
    return Pool("shared/ret_1", arms, whole["orders"], whole["all_orders"], whole["retailers"], rate, FIRST_FACTOR)


@given(st.floats(1, 5_000), st.sampled_from(RESOURCES), st.sampled_from(["picking", "acknowledged", "odd", "new"]))
def test_a_plan_keeps_its_bounds(rate: float, resource: Resource, stage: str) -> None:
    cadence = Cadence()
    low, high = cadence.bounds(resource, stage)
    course = Pacing(Hazards(), cadence).course(pool(rate=rate), FIRST_FACTOR, "ret_1", resource, stage, 1.5)
    plan = course.plan(60.0)

    assert low <= plan.seconds <= high * 1.5
    assert (plan.klass == HELD) == (plan.seconds == low)


@given(st.floats(0.001, 1e6), st.floats(0.001, 10))
def test_classes_are_octaves(seconds: float, scale: float) -> None:
    found = klass(seconds, scale)

    assert OCTAVES <= found < HELD < CLASSES
    assert klass(2 * seconds, scale) in (found, found + 1, HELD - 1)


def test_a_budget_cut_by_ten_takes_effect_at_once() -> None:
    pacing = Pacing(Hazards(), Cadence(floor=0.001))

    def planned(arms: int, rate: float) -> float:
        course = pacing.course(pool(arms, rate), FIRST_FACTOR, "ret_1", Resource.HANDLING, "acknowledged", 1e9)
        return course.plan(1e5).seconds

    idle, before, after = (planned(300, rate) for rate in (1_000.0, 10.0, 1.0))

    assert idle == 5.0  # the floor
    assert after == pytest.approx(10 * before, rel=0.05)
    assert planned(3_000, 10.0) == pytest.approx(after, rel=0.05)


@given(st.floats(0.01, 1e4), st.floats(0.01, 1e4), st.floats(1, 10))
def test_who_would_be_somewhat_late_is_polled_at_the_tail(seconds: float, tail: float, more: float) -> None:
    q = POWER + 1
    widest = tail * (1 + LATE) ** (1 / q)
    found = timely(seconds, tail)

    assert found <= timely(seconds * more, tail) * (1 + 1e-9)
    if seconds <= tail:
        assert found == seconds  # the mean's own rule
    elif seconds <= widest * (1 - 1e-9):
        assert found == pytest.approx(tail)
    else:  # the index, with the jump, reaches the same threshold
        assert tail * (1 - 1e-9) <= found < seconds
        assert found**q + LATE * tail**q == pytest.approx(max(seconds, widest) ** q, rel=1e-6)


def test_stages_that_change_unequally_often_share_the_tail_of_any_budget() -> None:
    """By the index alone, what changes four times as rarely would be polled about half as often."""
    pacing, q = Pacing(Hazards(), Cadence(floor=0.001)), POWER + 1
    for stage, seconds in (("staging", 100.0), ("delivering", 400.0)):
        for _ in range(500):
            pacing.hazards.learn("ret_1", "handling", stage, 300.0, 300.0 + seconds, [300.0 + seconds / 2])
    often = pacing.hazards.of("handling", "staging")[-1]
    factor = math.log(often * (1.1 * TAIL) ** q / q)

    for rate in (10.0, 1.0):
        tail = TAIL * 300 / rate
        staging, delivering = (
            pacing.course(pool(300, rate), factor, "ret_1", Resource.HANDLING, stage, 1e9).plan(1e5).seconds
            for stage in ("staging", "delivering")
        )
        assert staging == pytest.approx(tail)
        assert delivering == pytest.approx(tail)


def test_lateness_lengthens_intervals_and_earliness_shortens_them() -> None:
    def step(planned: float, actual: float, mean: float = 10.0) -> float:
        return adjustment(planned, actual, mean, 100, (2.0, 100.0))

    assert step(10, 20) > 0 > step(10, 5)
    assert step(10, 1e9) == step(10, 40)  # one very late poll does not carry all away
    assert sum(step(10, 20) for _ in range(100)) == pytest.approx(0.5 * (POWER + 1) * 0.6931, rel=1e-3)
    assert step(10, 10) == 0
    assert step(20, 20) < 0 < step(5, 5)  # what the budget pays for comes to be spent, and no more
    assert step(2, 1) == step(100, 200) == 0  # the bounds hold, not the threshold


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=50))
def test_shares_of_a_common_budget_add_up_and_none_is_starved(orders: list[int]) -> None:
    shares = [share(one, sum(orders), len(orders)) for one in orders]

    assert sum(shares) == pytest.approx(1.0)
    assert min(shares) >= 0.5 / len(orders)


def test_a_forecast_tells_of_a_budget_that_cannot_do() -> None:
    stages, hazards, cadence = {"picking": 100, "acknowledged": 900}, Hazards(), Cadence()
    plenty, too_small = (forecast(stages, RESOURCES, hazards, cadence, rate) for rate in (100.0, 1.0))

    assert plenty.feasible
    assert not too_small.feasible
    assert too_small.stretch == pytest.approx(too_small.needed / 0.95)
    assert too_small.mean_delay_s == pytest.approx(100 * plenty.mean_delay_s)
    assert forecast({}, RESOURCES, hazards, cadence, 1.0).feasible
    assert forecast(stages, RESOURCES, hazards, cadence, 0.0).feasible
    # All hazards alike: the square-root rule is uniform polling, N / 2B.
    assert plenty.mean_delay_s == pytest.approx(3 * 1_000 / (2 * 100))


def test_concurrency_grows_while_it_is_used_and_shrinks_for_cause() -> None:
    limit, now = Concurrency(200), 0.0
    for number in range(1_000):
        now += 0.01
        limit.good(0.05, min(int(limit.limit), number), now)
    assert limit.limit == 200
    for _ in range(300):
        now += 0.01
        limit.good(0.5, int(limit.limit), now)  # ten times as slow
    assert limit.limit < 180
    shrunk = limit.limit
    limit.bad(now)
    limit.bad(now)  # one burst is one cause
    assert limit.limit >= 0.9 * shrunk
    for _ in range(500):
        now += 5
        limit.bad(now)
    assert limit.limit == LEAST
    for _ in range(20_000):
        now += 0.01
        limit.good(0.5, int(limit.limit), now)  # that it is slow is no news any more
    assert limit.limit == 200


def test_idle_success_does_not_raise_the_limit() -> None:
    limit = Concurrency(200)
    for number in range(100):
        limit.good(0.05, 1, float(number))

    assert limit.limit == 32


@given(st.integers(0, 30), st.integers(1, 10**6))
def test_changes_lie_between_the_readings(count: int, length_ms: int) -> None:
    times, told = happened(Reading(Resource.ITEMS, {"items": []}, 10**12 + length_ms), count, 10**12)

    assert (len(times), told) == (count, [])
    assert times == sorted(times)
    assert all(10**12 <= at <= 10**12 + length_ms for at in times)


def test_messages_tell_when_they_were_written_unless_the_clock_is_off() -> None:
    written = ["2026-11-24T12:00:01Z", "2026-11-24T12:00:02.500+00:00", "2026-11-24T13:00:00Z", "yesterday", None, 7]
    value = {"messages": [{"created_at": one} for one in written] + ["no message"]}
    since = milliseconds("2026-11-24T12:00:00") or 0
    times, told = happened(Reading(Resource.MESSAGES, value, since + 10_000), 3, since)

    assert told == [since + 1_000, since + 2_500]
    assert times == [since + 1_000, since + 2_500, since + 5_000]
    assert happened(Reading(Resource.MESSAGES, {"messages": 3}, since + 10), 1, since) == ([since + 5], [])


def test_stages_are_few_whatever_upstream_says() -> None:
    dice = random.Random(1)
    odd = {stage_of(str(dice.random())) for _ in range(100)}

    assert odd == {"other"}
    assert [stage_of(None), stage_of("picking"), stage_of("picking", pending=True)] == ["new", "picking", "picking+"]
    assert stage_of("delivered") == "over"
