"""The simulation itself, in worlds whose answers are known."""

import gzip
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import traces
from bench.freshness import POLICIES, main, run


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


HEAD: dict[str, Any] = {"format": 1, "world": "by hand", "orders": 1, "horizon_s": 100.0, "note": ""}
ORDER: dict[str, Any] = {
    "order_id": "o1",
    "retailer": "r",
    "start": -5.0,
    "end": 90.0,
    "stages": [[-5.0, "picking"], [40.0, "staging"], [90.0, "delivered"]],
    "changes": [[10.0, "items"], [40.0, "handling"], [60.0, "messages"], [60.0, "messages"], [90.0, "handling"]],
}


def _told(*lines: Any) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def test_a_trace_made_by_hand_is_scored_and_every_policy_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hand.jsonl.gz"
    path.write_bytes(gzip.compress(_told(HEAD, ORDER)))
    monkeypatch.setattr(sys, "argv", ["bench.freshness", "--traces", str(path), "--budget", "3"])

    main()

    *rows, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert [row.split()[0] for row in rows] == list(POLICIES)
    for figures in found.values():
        assert list(figures) == list(POLICIES)
    assert set(found["max_requests_in_a_second"].values()) <= {1, 2, 3}
    assert all(0 < spent <= 300 for spent in found["requests"].values())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        (b"", "the file is empty"),
        (gzip.compress(_told(HEAD, ORDER))[:-9], "damaged gzip"),
        (b"{", "line 1: Input data was truncated"),
        (_told({**HEAD, "format": 2}, ORDER), "line 1: format 2; this reads format 1"),
        (_told({**HEAD, "horizon_s": 0}, ORDER), "horizon_s must be above 0"),
        (_told(HEAD, {**ORDER, "start": "noon"}), "line 2: Expected `float`, got `str` - at `$.start`"),
        (
            _told(HEAD, {key: ORDER[key] for key in ("order_id", "retailer", "start")}),
            "missing required field `stages`",
        ),
        (_told(HEAD, {**ORDER, "stages": []}), "o1: stages must not be empty"),
        (_told(HEAD, {**ORDER, "changes": [[5.0, "items"], [4.0, "items"]]}), "changes must be sorted by time"),
        (_told(HEAD, {**ORDER, "changes": [[5.0, "chat"]]}), "resource 'chat' is none of handling, items, messages"),
        (_told(HEAD, {**ORDER, "changes": [[500.0, "items"]]}), "not within 0 to 100.0"),
        (_told(HEAD, {**ORDER, "changes": [[5.0, "items"]]}), "no change in the second half"),
        (_told(HEAD, ORDER, ORDER), "2 orders where the first line says 1"),
    ],
    ids=range(14),
)
def test_a_trace_that_cannot_be_used_is_refused_with_its_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    says: str,
) -> None:
    path = tmp_path / "bad.jsonl"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["bench.freshness", "--traces", str(path), "--budget", "3", "--json"])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("budget", ["0", "-1", "nan", "many"])
def test_a_budget_is_a_number_above_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], budget: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.freshness", "--traces", str(tmp_path), f"--budget={budget}"])
    with pytest.raises(SystemExit):
        main()
    assert "--budget" in capsys.readouterr().err


def test_generated_worlds_are_traces(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl.gz"
    traces.write(path, 3, 1.0, 1.0)

    assert run(path, 5, "fixed").spent > 10_000
