"""The polling index against its closed forms, and learning against a known world."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.hazards import CELLS, EDGES, POWER, PRIOR, Hazards, Threshold, reach

HAZARD = st.floats(1e-6, 10)


@given(HAZARD, st.floats(0, 1e5), st.floats(1e-6, 1e6))
def test_a_constant_hazard_gives_the_square_root_rule(hazard: float, age: float, threshold: float) -> None:
    """W = mu t^2 / 2 reaches kappa at t = sqrt(2 kappa / mu), whatever the age."""
    assert reach([hazard] * CELLS, age, threshold, power=1) == pytest.approx((2 * threshold / hazard) ** 0.5, rel=1e-6)


@given(st.lists(HAZARD, min_size=CELLS, max_size=CELLS), st.floats(0, 1e4), st.floats(1e-3, 1e3), st.floats(1, 3))
def test_it_rises_with_the_threshold_and_falls_with_the_hazard(
    hazards: list[float], age: float, threshold: float, more: float
) -> None:
    wait = reach(hazards, age, threshold)

    assert 0 < wait <= reach(hazards, age, threshold * more) * (1 + 1e-9)
    assert reach([one * more for one in hazards], age, threshold) <= wait * (1 + 1e-9)


def test_nothing_is_known_at_first() -> None:
    assert Hazards().of(1, "picking") == pytest.approx([PRIOR] * CELLS)
    assert Hazards().tempo("ret_1", 0).factor == 1.0


@pytest.mark.parametrize("true", [0.001, 0.02, 0.5])
def test_a_poisson_world_is_learnt(true: float) -> None:
    dice, hazards = random.Random(3), Hazards()
    age = 0.0
    for _ in range(20_000):
        until, changes = age + 5.0, []
        at = age + dice.expovariate(true)
        while at < until:
            changes.append(at)
            at += dice.expovariate(true)
        age = until - hazards.learn("ret_1", 1, "picking", age, until, changes)

    learnt = hazards.of(1, "picking")
    often = [rate for rate, edge in zip(learnt, EDGES, strict=False) if edge < 1 / true]
    assert often == pytest.approx([true] * len(often), rel=0.5)
    assert hazards.tempo("ret_1", 1).factor == pytest.approx(1.0, abs=0.35)
    hazards.forget()
    assert hazards.of(1, "picking") == pytest.approx([PRIOR] * CELLS)


def test_a_budget_cut_by_ten_takes_effect_at_once_and_lateness_raises_the_threshold() -> None:
    threshold = Threshold()
    before = threshold.value(1_000, 100)

    assert threshold.value(1_000, 10) == pytest.approx(before * 10 ** (POWER + 1))
    for _ in range(1_000):
        threshold.observe(planned=10, actual=20, arms=1_000)
    assert threshold.value(1_000, 100) > before
    for _ in range(3_000):
        threshold.observe(planned=10, actual=5, arms=1_000)
    assert threshold.value(1_000, 100) < before
