"""How likely an arm is to change, learnt from what polls saw. Pure.

The hazard of a change is taken to depend on the resource, the stage, and the time since the arm's last known change:
that one table holds bursts of items, conversations, and the age of a stage alike. Each cell is a Gamma estimate shrunk
to its parent: the cell to (resource, stage), that to a prior. A retailer's tempo is one more factor, shrunk to 1, and
so is the mean weight of the changes of a (resource, stage).

All of it is sums, so that what several processes learnt is added up: `drain` what was learnt here since the last time,
`absorb` the sums of all.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: Bounds of the cells by time since the last known change (seconds of the policy's time).
EDGES = (0.0, 3.0, 6.0, 12.0, 25.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1_600.0, 3_200.0, 6_400.0, 1e12)
CELLS = len(EDGES) - 1
#: A change in two minutes: what is assumed of an arm of which nothing was ever seen.
PRIOR = 1 / 120
#: How many changes a parent's word is worth to a cell, and 1 to a retailer's tempo and to the mean weight.
CELL_WEIGHT, TEMPO_WEIGHT, MEAN_WEIGHT = 3.0, 20.0, 20.0
#: The exponent of the delay in the index: 1 minimises the mean, more is fairer to rare changes (docs/performance.md).
POWER = 1.2


def _zeros() -> list[float]:
    return [0.0] * CELLS


@dataclass(slots=True)
class _Class:
    """One (resource, stage): changes and seconds seen in each cell and the weight of all changes, as the store has
    them and as seen here since; and the hazards last derived from them."""

    stored: tuple[list[float], list[float], float] = field(default_factory=lambda: (_zeros(), _zeros(), 0.0))
    changes: list[float] = field(default_factory=_zeros)
    seconds: list[float] = field(default_factory=_zeros)
    weight: float = 0.0
    hazards: list[float] = field(default_factory=list)
    stale: int = 0

    def derive(self) -> list[float]:
        changes = [a + b for a, b in zip(self.stored[0], self.changes, strict=True)]
        seconds = [a + b for a, b in zip(self.stored[1], self.seconds, strict=True)]
        count = sum(changes)
        parent = (1 + count) / (1 / PRIOR + sum(seconds))
        mean_weight = (MEAN_WEIGHT + self.stored[2] + self.weight) / (MEAN_WEIGHT + count)
        self.hazards = [
            mean_weight * (CELL_WEIGHT + x) / (CELL_WEIGHT / parent + t) for x, t in zip(changes, seconds, strict=True)
        ]
        self.stale = 20 + min(200, int(count))
        return self.hazards

    @property
    def mean(self) -> float:
        """Weighted changes a second, whatever the time since the last."""
        count = sum(self.stored[0]) + sum(self.changes)
        mean_weight = (MEAN_WEIGHT + self.stored[2] + self.weight) / (MEAN_WEIGHT + count)
        return mean_weight * (1 + count) / (1 / PRIOR + sum(self.stored[1]) + sum(self.seconds))


@dataclass(slots=True)
class Tempo:
    """Changes of a retailer's arms of one resource, seen and expected, as the store has them and since."""

    stored: tuple[float, float] = (0.0, 0.0)
    seen: float = 0.0
    expected: float = 0.0

    @property
    def factor(self) -> float:
        return (TEMPO_WEIGHT + self.stored[0] + self.seen) / (TEMPO_WEIGHT + self.stored[1] + self.expected)


@dataclass(frozen=True, slots=True)
class Strand:
    """One retailer's arms of one (resource, stage): the hazards as they are now, and what polls of them teach."""

    known: _Class
    hazards: Sequence[float]
    tempo: Tempo

    def quiet(self, since: float, until: float) -> None:
        """Take in a poll that showed no change: the arm was watched from `since` to `until` seconds after its last."""
        self.known.stale -= 1
        self.tempo.expected += _watch(self.known.seconds, self.hazards, since, until)


class Hazards:
    """Learns from polls; starts from nothing."""

    def __init__(self) -> None:
        self._classes: dict[tuple[str, str], _Class] = {}
        self._tempos: dict[tuple[str, str], Tempo] = {}

    def forget(self) -> None:
        """Start from nothing again."""
        self._classes.clear()
        self._tempos.clear()

    def of(self, resource: str, stage: str) -> list[float]:
        """Weighted changes a second in each cell of time since the last change."""
        known = self._class(resource, stage)
        return known.hazards if known.hazards and known.stale > 0 else known.derive()

    def mean(self, resource: str, stage: str) -> float:
        """Weighted changes a second of a (resource, stage)."""
        return self._class(resource, stage).mean

    def tempo(self, retailer_id: str, resource: str) -> Tempo:
        tempo = self._tempos.get((retailer_id, resource))
        if tempo is None:
            tempo = self._tempos[retailer_id, resource] = Tempo()
        return tempo

    def strand(self, retailer_id: str, resource: str, stage: str) -> Strand:
        """For many polls of the same kind, one after the other; not to be kept beyond the next `drain`."""
        return Strand(self._class(resource, stage), self.of(resource, stage), self.tempo(retailer_id, resource))

    def learn(
        self,
        retailer_id: str,
        resource: str,
        stage: str,
        since: float,
        until: float,
        changes: Sequence[float] = (),
        weight: float | None = None,
    ) -> float:
        """Take in a poll: the arm was watched from `since` to `until` seconds after its last known change, and changed
        at `changes` (seconds on the same clock, rising), which together weigh `weight` (None: 1 each). Returns when
        the last known change is now, on that clock."""
        known, hazards = self._class(resource, stage), self.of(resource, stage)
        known.stale -= 1
        last, at, expected = 0.0, since, 0.0
        for change in changes:
            expected += _watch(known.seconds, hazards, at - last, change - last)
            known.changes[bisect_right(EDGES, max(0.0, change - last)) - 1] += 1
            last = at = change
        expected += _watch(known.seconds, hazards, at - last, until - last)
        weight = len(changes) if weight is None else weight
        known.weight += weight
        tempo = self.tempo(retailer_id, resource)
        tempo.seen += weight
        tempo.expected += expected
        return last

    def drain(self) -> tuple[dict[str, list[float]], dict[str, dict[str, list[float]]]]:
        """What was learnt here since the last time: by class, and by retailer and resource. The sums of all processes
        are then to be handed to `absorb`; what the store would not take, to `add` again."""
        classes: dict[str, list[float]] = {}
        tempos: dict[str, dict[str, list[float]]] = {}
        for (resource, stage), known in self._classes.items():
            if any(known.seconds):
                classes[f"{resource}/{stage}"] = [*known.changes, *known.seconds, known.weight]
                known.stored = _plus(known, known.stored)
                known.changes, known.seconds, known.weight = _zeros(), _zeros(), 0.0
        for (retailer_id, resource), tempo in self._tempos.items():
            if tempo.expected:
                tempos.setdefault(retailer_id, {})[resource] = [tempo.seen, tempo.expected]
                tempo.stored = (tempo.stored[0] + tempo.seen, tempo.stored[1] + tempo.expected)
                tempo.seen = tempo.expected = 0.0
        return classes, tempos

    def absorb(
        self, classes: Mapping[str, Sequence[float]], tempos: Mapping[str, Mapping[str, Sequence[float]]]
    ) -> None:
        """Take over the sums of all processes, in the form of `drain`."""
        for name, sums in classes.items():
            resource, _, stage = name.partition("/")
            known = self._class(resource, stage)
            known.stored = (list(sums[:CELLS]), list(sums[CELLS : 2 * CELLS]), sums[2 * CELLS])
            known.stale = 0
        for retailer_id, by_resource in tempos.items():
            for resource, (seen, expected) in by_resource.items():
                self.tempo(retailer_id, resource).stored = (seen, expected)

    def _class(self, resource: str, stage: str) -> _Class:
        known = self._classes.get((resource, stage))
        if known is None:
            known = self._classes[resource, stage] = _Class()
        return known


def _plus(known: _Class, stored: tuple[list[float], list[float], float]) -> tuple[list[float], list[float], float]:
    changes = [a + b for a, b in zip(stored[0], known.changes, strict=True)]
    return changes, [a + b for a, b in zip(stored[1], known.seconds, strict=True)], stored[2] + known.weight


def reach(hazards: Sequence[float], age: float, threshold: float, power: float = POWER) -> float:
    """The t at which the index is the threshold: W(t) is a sum of h (b^q - a^q) / q over the cells, q = power + 1."""
    cell = bisect_right(EDGES, age)
    q, index, start = power + 1, 0.0, 0.0
    while True:
        hazard, end = hazards[cell - 1], math.pow(EDGES[cell] - age, q)
        part = hazard * (end - start) / q
        if index + part >= threshold:
            return math.pow(start + q * (threshold - index) / hazard, 1 / q)
        index, start, cell = index + part, end, cell + 1


def _watch(seconds: list[float], hazards: Sequence[float], since: float, until: float) -> float:
    """Add a stretch to the seconds seen; returns how many changes were to be expected in it."""
    expected, at = 0.0, since if since > 0.0 else 0.0
    if until <= at:
        return 0.0
    cell = bisect_right(EDGES, at) - 1
    while (end := EDGES[cell + 1]) < until:
        seconds[cell] += end - at
        expected += hazards[cell] * (end - at)
        at, cell = end, cell + 1
    seconds[cell] += until - at
    return expected + hazards[cell] * (until - at)
