"""Synthetic orders for judging polling policies: `python -m bench.traces --seed N [--hours H] [--rate R] OUT.jsonl.gz`.

The format is that of the traces that `bench.freshness` reads: a header, then an order a line with the times at which
each resource changed. The world is not Poisson: dwell times are lognormal and Erlang, items are found in bursts between
walks, messages come as conversations, some customers talk much more than others, retailers differ in tempo, orders come
in a wave, and statuses step back now and then. The numbers are assumptions; the policy was not tuned on them.
"""

import argparse
import gzip
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

#: Minutes in a stage, and the log-sd of a lognormal or, negative, the shape of an Erlang.
DWELL = {
    "brand_new": (4.0, 0.6),
    "acknowledged": (110.0, 0.9),
    "picking": (30.0, -6),
    "staging": (15.0, 0.7),
    "delivering": (26.0, -4),
}
RETAILERS = {"r1": (0.45, 1.0), "r2": (0.25, 0.7), "r3": (0.2, 1.4), "r4": (0.1, 2.0)}
#: Other handling changes (shopper, notes, address) a minute.
ASIDE = {"brand_new": 0.05, "acknowledged": 0.004, "picking": 0.01, "staging": 0.01, "delivering": 0.015}


@dataclass
class Life:
    """One order's stages and changes, in seconds."""

    dice: Random
    tempo: float
    stages: list[tuple[float, str]] = field(default_factory=list)
    changes: list[tuple[float, str]] = field(default_factory=list)

    def dwell(self, stage: str) -> float:
        mean, shape = DWELL[stage]
        mean *= 60 / self.tempo
        if shape < 0:
            return self.dice.gammavariate(-shape, mean / -shape)
        return self.dice.lognormvariate(math.log(mean) - shape * shape / 2, shape)

    def poisson(self, begin: float, end: float, rate: float, resource: str) -> None:
        at = begin + self.dice.expovariate(rate)
        while at < end:
            self.changes.append((at, resource))
            at += self.dice.expovariate(rate)

    def walk(self, begin: float, end: float, talk: float) -> None:
        """Picking: walks of a minute or so, then a burst of items; a suggestion now and then, and words about it."""
        at = begin + self.dice.expovariate(1 / 90)
        while at < end:
            for _ in range(self.dice.randint(1, 6)):
                at += self.dice.lognormvariate(2.0, 0.6)
                if at >= end:
                    return
                self.changes.append((at, "items"))
                if self.dice.random() < 0.12:
                    self.converse(at, end, talk)
            at += self.dice.gammavariate(2, 40 / self.tempo)

    def converse(self, begin: float, end: float, talk: float) -> None:
        """Messages and decisions that answer each other within half a minute or so."""
        at = begin
        while self.dice.random() < talk / (1 + talk):
            at += self.dice.lognormvariate(3.2, 0.8)
            if at >= end:
                return
            self.changes.append((at, "messages"))
            decided = at + self.dice.expovariate(1 / 5)
            if self.dice.random() < 0.25 and decided < end and self.stages[-1][1] == "picking":
                self.changes.append((decided, "items"))


def live(dice: Random, retailer: str, start: float) -> dict[str, Any]:
    """An order from its registration to its end."""
    life = Life(dice, RETAILERS[retailer][1] * dice.lognormvariate(0, 0.2))
    talk = dice.gammavariate(0.7, 2.0)
    plan = ["brand_new", "acknowledged", "picking", "staging"]
    if dice.random() < 0.08:
        plan += ["picking", "staging"]
    if dice.random() < 0.8:
        plan.append("delivering")
    at = start
    for stage in plan:
        end = at + life.dwell(stage)
        life.stages.append((at, stage))
        life.poisson(at, end, ASIDE[stage] / 60, "handling")
        if stage == "picking":
            life.walk(at, end, talk)
        elif stage == "delivering":
            life.converse(at + dice.random() * (end - at), end, talk)
        elif stage == "staging" and dice.random() < 0.3:
            life.converse(at, end, talk)
        elif stage == "acknowledged":
            life.poisson(at, end, 0.002 / 60, "items")
            life.poisson(at, end, 0.002 / 60, "messages")
        at = end
    life.stages.append((at, "canceled" if dice.random() < 0.03 else "delivered"))
    life.changes += [(entered, "handling") for entered, _ in life.stages[1:]]
    return {"retailer": retailer, "start": start, "end": at, "stages": life.stages, "changes": sorted(life.changes)}


def world(seed: int, horizon: float, rate: float) -> list[dict[str, Any]]:
    """Orders that are open at some time from 0 to `horizon`; `rate` registrations a minute, in a wave."""
    dice = Random(f"{seed}:traces")
    orders, at = [], -6 * 3600.0
    while at < horizon:
        at += dice.expovariate(rate / 60 * (1 + 0.6 * math.sin(2 * math.pi * at / 14_400)))
        names, weights = list(RETAILERS), [part for part, _ in RETAILERS.values()]
        order = live(dice, dice.choices(names, weights)[0], at)
        if order["end"] > 0 and at < horizon:
            orders.append(_cut(order, horizon))
    orders.sort(key=lambda order: order["start"])
    return [{"order_id": f"o{number:05}", **order} for number, order in enumerate(orders, 1)]


def _cut(order: dict[str, Any], horizon: float) -> dict[str, Any]:
    """What can be seen of it in the window: the stage in force at 0 first, and changes after that."""
    stages = [one for one in order["stages"] if one[0] <= horizon]
    first = max((number for number, (at, _) in enumerate(stages) if at <= 0), default=0)
    return {
        **order,
        "start": round(order["start"], 3),
        "end": round(min(order["end"], horizon), 3),
        "stages": [[round(at, 3), stage] for at, stage in stages[first:]],
        "changes": [[round(at, 3), resource] for at, resource in order["changes"] if 0 < at <= horizon],
    }


def write(path: Path, seed: int, hours: float, rate: float) -> None:
    orders = world(seed, hours * 3600, rate)
    header = {"format": 1, "world": f"seed {seed}", "orders": len(orders), "horizon_s": hours * 3600, "note": "assumed"}
    with gzip.open(path, "wt") as file:
        for row in (header, *orders):
            file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.traces", description=__doc__)
    parser.add_argument("path", type=Path, metavar="OUT.jsonl.gz")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--rate", type=float, default=5.0, help="orders registered a minute")
    options = parser.parse_args()
    write(options.path, options.seed, options.hours, options.rate)


if __name__ == "__main__":
    main()
