"""The polling index against its closed forms, and learning against a known world."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.hazards import CELLS, EDGES, PRIOR, Hazards, reach

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
    assert Hazards().of("items", "picking") == pytest.approx([PRIOR] * CELLS)
    assert Hazards().tempo("ret_1", "handling").factor == 1.0


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
        age = until - hazards.learn("ret_1", "items", "picking", age, until, changes)

    learnt = hazards.of("items", "picking")
    often = [rate for rate, edge in zip(learnt, EDGES, strict=False) if edge < 1 / true]
    assert often == pytest.approx([true] * len(often), rel=0.5)
    assert hazards.tempo("ret_1", "items").factor == pytest.approx(1.0, abs=0.35)
    hazards.forget()
    assert hazards.of("items", "picking") == pytest.approx([PRIOR] * CELLS)


def test_what_two_processes_learnt_adds_up() -> None:
    one, two, all_of_it = Hazards(), Hazards(), Hazards()
    for number in range(200):
        part = one if number % 3 else two
        changes = [7.0] if number % 5 == 0 else []
        for hazards in (part, all_of_it):
            hazards.learn("ret_1", "items", "picking", 0.0, 10.0, changes, weight=2.0 * len(changes))
    sums: dict[str, list[float]] = {}
    tempos: dict[str, list[float]] = {}
    for hazards in (one, two):
        classes, drained = hazards.drain()
        for into, learnt in ((sums, classes), (tempos, drained["ret_1"])):
            for name, values in learnt.items():
                into[name] = [a + b for a, b in zip(into.get(name, [0.0] * len(values)), values, strict=True)]
    assert one.drain() == ({}, {})
    fresh = Hazards()
    fresh.absorb(sums, {"ret_1": tempos})

    assert fresh.of("items", "picking") == pytest.approx(all_of_it.of("items", "picking"), rel=0.2)
    assert fresh.mean("items", "picking") == pytest.approx(all_of_it.mean("items", "picking"))
    assert fresh.tempo("ret_1", "items").factor == pytest.approx(all_of_it.tempo("ret_1", "items").factor, rel=0.2)


def test_heavy_changes_make_an_arm_more_urgent() -> None:
    light, heavy = Hazards(), Hazards()
    for number in range(300):
        changes = [5.0] if number % 4 == 0 else []
        light.learn("ret_1", "items", "picking", 0.0, 10.0, changes)
        heavy.learn("ret_1", "items", "picking", 0.0, 10.0, changes, weight=3.0 * len(changes))

    assert heavy.mean("items", "picking") > 2 * light.mean("items", "picking")
