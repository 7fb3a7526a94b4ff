"""How likely an arm is to change, learnt from what polls saw, and how long to wait before the next poll. Pure.

The hazard of a change is taken to depend on the resource, the stage, and the time since the arm's last known change:
that one table holds bursts of items, conversations, and the age of a stage alike. Each cell is a Gamma estimate shrunk
to its parent: the cell to (resource, stage), that to a prior. A retailer's tempo is one more factor, shrunk to 1.

Polling by index (Olston and Pandey 2008): poll an arm when

    W(t) = integral from 0 to t of s^p m(s) ds        reaches one threshold, the same for all arms,

with m(s) the expected rate of change s seconds after the last poll. For a constant hazard and p = 1 that is the square
root rule, which minimises the mean delay for a budget; p a little above 1 also shortens the tail.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

#: Bounds of the cells by time since the last known change (seconds).
EDGES = (0.0, 3.0, 6.0, 12.0, 25.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1_600.0, 3_200.0, 6_400.0, 1e12)
CELLS = len(EDGES) - 1
#: A change in two minutes: what is assumed of an arm of which nothing was ever seen.
PRIOR = 1 / 120
#: How many changes a parent's word is worth to a cell, and 1 to a retailer's tempo.
CELL_WEIGHT, TEMPO_WEIGHT = 3.0, 20.0
#: The exponent of the delay in the index.
POWER = 1.6


@dataclass(slots=True)
class _Class:
    """One (resource, stage): changes and seconds seen in each cell, and the hazards last derived from them."""

    changes: list[float] = field(default_factory=lambda: [0.0] * CELLS)
    seconds: list[float] = field(default_factory=lambda: [0.0] * CELLS)
    hazards: list[float] = field(default_factory=list)
    stale: int = 0


@dataclass(slots=True)
class Tempo:
    """Changes of a retailer's arms of one resource, seen and expected."""

    seen: float = 0.0
    expected: float = 0.0

    @property
    def factor(self) -> float:
        return (TEMPO_WEIGHT + self.seen) / (TEMPO_WEIGHT + self.expected)


class Hazards:
    """Learns from polls; starts from nothing."""

    def __init__(self) -> None:
        self._classes: dict[tuple[int, str], _Class] = {}
        self._tempos: dict[tuple[str, int], Tempo] = {}

    def forget(self) -> None:
        """Start from nothing again."""
        self._classes.clear()
        self._tempos.clear()

    def of(self, resource: int, stage: str) -> list[float]:
        """Changes a second in each cell of time since the last change."""
        known = self._class(resource, stage)
        if not known.hazards or known.stale <= 0:
            parent = (1 + sum(known.changes)) / (1 / PRIOR + sum(known.seconds))
            known.hazards = [
                (CELL_WEIGHT + x) / (CELL_WEIGHT / parent + t)
                for x, t in zip(known.changes, known.seconds, strict=True)
            ]
            known.stale = 20 + min(200, int(sum(known.changes)))
        return known.hazards

    def tempo(self, retailer_id: str, resource: int) -> Tempo:
        tempo = self._tempos.get((retailer_id, resource))
        if tempo is None:
            tempo = self._tempos[retailer_id, resource] = Tempo()
        return tempo

    def learn(
        self, retailer_id: str, resource: int, stage: str, since: float, until: float, changes: Sequence[float]
    ) -> float:
        """Take in a poll: the arm was watched from `since` to `until` seconds after its last known change, and changed
        at `changes` (seconds on the same clock, rising). Returns when the last known change is now, on that clock."""
        known, hazards = self._class(resource, stage), self.of(resource, stage)
        known.stale -= 1
        last, at, expected = 0.0, since, 0.0
        for change in changes:
            expected += _watch(known.seconds, hazards, at - last, change - last)
            known.changes[bisect_right(EDGES, max(0.0, change - last)) - 1] += 1
            last = at = change
        expected += _watch(known.seconds, hazards, at - last, until - last)
        tempo = self.tempo(retailer_id, resource)
        tempo.seen += len(changes)
        tempo.expected += expected
        return last

    def wait(self, retailer_id: str, resource: int, stage: str, age: float, threshold: float) -> float:
        """Seconds until the index of an arm, whose last known change is `age` seconds old, reaches the threshold."""
        tempo = self.tempo(retailer_id, resource).factor
        return reach(self.of(resource, stage), age, threshold / tempo)

    def _class(self, resource: int, stage: str) -> _Class:
        known = self._classes.get((resource, stage))
        if known is None:
            known = self._classes[resource, stage] = _Class()
        return known


def reach(hazards: Sequence[float], age: float, threshold: float, power: float = POWER) -> float:
    """The t at which the index is the threshold: W(t) is a sum of h (b^q - a^q) / q over the cells, q = power + 1."""
    cell = bisect_right(EDGES, age) - 1
    q, index, start = power + 1, 0.0, 0.0
    while True:
        end = EDGES[cell + 1] - age
        part = hazards[cell] * (math.pow(end, q) - math.pow(start, q)) / q
        if index + part >= threshold:
            return math.pow(math.pow(start, q) + q * (threshold - index) / hazards[cell], 1 / q)
        index, start, cell = index + part, end, cell + 1


def _watch(seconds: list[float], hazards: Sequence[float], since: float, until: float) -> float:
    """Add a stretch to the seconds seen; returns how many changes were to be expected in it."""
    expected, at = 0.0, max(0.0, since)
    cell = bisect_right(EDGES, at) - 1
    while until > at:
        end = min(until, EDGES[cell + 1])
        seconds[cell] += end - at
        expected += hazards[cell] * (end - at)
        at, cell = end, cell + 1
    return expected


class Threshold:
    """The threshold that spends a budget: as arms fall behind it rises, as they are early it falls.

    It scales with (arms / budget)^(power + 1), so that a budget cut by ten, or a wave of orders, takes effect at once;
    the factor left is learnt from how much later than planned polls happen.
    """

    def __init__(self) -> None:
        self._factor = PRIOR / 2

    def value(self, arms: int, budget: float) -> float:
        return self._factor * math.pow(max(arms, 1) / budget, POWER + 1)

    def observe(self, planned: float, actual: float, arms: int) -> None:
        """A poll was planned so many seconds after the one before it, and came after `actual` seconds."""
        late = min(4.0, max(0.25, actual / max(planned, 0.05)))
        self._factor *= math.pow(late, 0.5 * (POWER + 1) / max(arms, 1))
