"""The simulation itself, in worlds whose answers are known."""

import gzip
import json
import random
from pathlib import Path

import pytest

from bench.freshness import POLICIES, run


def _world(path: Path, *, orders: int, horizon: float, hazards: tuple[float, float, float]) -> Path:
    """Orders that pick all the time and change as Poisson processes."""
    dice = random.Random(1)
    with gzip.open(path, "wt") as file:
        file.write(json.dumps({"format": 1, "orders": orders, "horizon_s": horizon}) + "\n")
        for number in range(orders):
            changes: list[tuple[float, str]] = []
            for name, hazard in zip(("handling", "items", "messages"), hazards, strict=True):
                at = dice.expovariate(hazard)
                while at < horizon:
                    changes.append((round(at, 3), name))
                    at += dice.expovariate(hazard)
            row = {"order_id": f"o-{number}", "retailer": "r", "start": 0, "end": horizon, "changes": sorted(changes)}
            file.write(json.dumps({**row, "stages": [[0, "picking"]]}) + "\n")
    return path


def test_one_interval_for_all_waits_half_of_it_and_twice_the_budget_halves_that(tmp_path: Path) -> None:
    world = _world(tmp_path / "w.gz", orders=50, horizon=2_000, hazards=(0.01, 0.01, 0.01))

    slow, fast = run(world, 5, "fixed"), run(world, 10, "fixed")

    assert slow.mean == pytest.approx(150 / (2 * 5), rel=0.05)
    assert fast.mean == pytest.approx(slow.mean / 2, rel=0.05)


def test_the_square_root_rule_gains_what_its_formula_says(tmp_path: Path) -> None:
    hazards = (0.001, 0.064, 0.004)
    world = _world(tmp_path / "w.gz", orders=60, horizon=4_000, hazards=hazards)

    uniform, oracle = run(world, 6, "fixed"), run(world, 6, "oracle")

    gain = sum(h**0.5 for h in hazards) ** 2 / (3 * sum(hazards))
    assert oracle.mean / uniform.mean == pytest.approx(gain, rel=0.08)
    assert run(world, 6, "proportional").mean == pytest.approx(uniform.mean, rel=0.15)


@pytest.mark.parametrize("name", POLICIES)
def test_no_policy_spends_more_than_the_budget(tmp_path: Path, name: str) -> None:
    world = _world(tmp_path / "w.gz", orders=30, horizon=600, hazards=(0.005, 0.05, 0.02))

    assert run(world, 7, name).most <= 7


def test_the_relay_learns_what_the_oracle_is_told(tmp_path: Path) -> None:
    world = _world(tmp_path / "w.gz", orders=80, horizon=6_000, hazards=(0.001, 0.05, 0.005))

    oracle = run(world, 8, "oracle").mean

    assert run(world, 8, "relay").mean <= 1.12 * oracle
    assert run(world, 8, "relay_cold").mean <= 1.2 * oracle
