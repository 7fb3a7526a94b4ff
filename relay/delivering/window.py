"""The stretch of log between a subscription's position and the furthest entry that was read.

    position ─▶ ■ ■ □ ■ □ □ ■ ◀─ read up to here          ■ settled   □ not yet

The position moves over the settled entries at the front. What is settled behind an unsettled one is written down as
settled *ahead*, so that a crash repeats only what was in flight.
"""

from collections import deque
from dataclasses import dataclass


@dataclass(slots=True)
class Place:
    """One log entry in the window. `ahead`: Redis knows already that it is settled. `skipped`: matched, but the
    retailer chose not to have it."""

    position: str
    sequence: int
    matched: bool
    settled: bool = False
    ahead: bool = False
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Advance:
    """How far the position moved, how many matched (and how many of them skipped) entries it passed, and which
    ahead-marks that made needless."""

    position: str
    sequence: int
    matched: int
    skipped: int
    passed: tuple[str, ...]
    ahead: tuple[str, ...]


class Window:
    def __init__(self, position: str, sequence: int) -> None:
        self.position = position
        self.sequence = sequence
        self.read_to = position
        self.counted = sequence
        self._places: deque[Place] = deque()
        self._fresh: list[Place] = []

    def __len__(self) -> int:
        return len(self._places)

    @property
    def ready(self) -> bool:
        """Whether there is something to write: the position can move, or something was settled ahead of it."""
        return bool(self._fresh) or bool(self._places and self._places[0].settled)

    @property
    def unsettled(self) -> int | None:
        """The first relay-sequence in the window that is not settled."""
        return next((place.sequence for place in self._places if not place.settled), None)

    def add(self, position: str, *, matched: bool, ahead: bool, skipped: bool = False) -> Place:
        """Take in the next entry of the log; a matched one gets the next relay-sequence. What the filters refuse and
        what the retailer skips is settled at once."""
        if matched:
            self.counted += 1
        skipped = skipped and matched and not ahead
        place = Place(position, self.counted, matched, ahead or skipped or not matched, ahead, skipped)
        self._places.append(place)
        self.read_to = position
        return place

    def settle(self, place: Place) -> None:
        place.settled = True
        self._fresh.append(place)

    def advance(self) -> Advance:
        """Move the position over what is settled at the front; tell what to write for the rest."""
        matched = skipped = 0
        passed = []
        while self._places and self._places[0].settled:
            place = self._places.popleft()
            self.position, self.sequence = place.position, place.sequence
            matched += place.matched
            skipped += place.skipped
            if place.ahead:
                passed.append(place.position)
            place.ahead = True  # no mark is needed any more
        ahead = []
        for place in self._fresh:
            if not place.ahead:
                place.ahead = True
                ahead.append(place.position)
        self._fresh.clear()
        return Advance(self.position, self.sequence, matched, skipped, tuple(passed), tuple(ahead))
