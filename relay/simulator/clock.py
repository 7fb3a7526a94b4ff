"""Simulated time: start + (wall - wall0) * speed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant on both clocks, in Unix seconds."""

    simulated: float
    wall: float


class SimulatedClock:
    """Runs `speed` times as fast as the wall clock, from `start` on (Unix seconds; the wall's time when None)."""

    def __init__(self, speed: float, *, start: float | None = None, wall: Callable[[], float] = time.time) -> None:
        self._speed = speed
        self._wall = wall
        self._wall0 = wall()
        self.start = self._wall0 if start is None else start

    def now(self) -> Moment:
        wall = self._wall()
        return Moment(self.start + (wall - self._wall0) * self._speed, wall)

    def moment(self, simulated: float) -> Moment:
        """The moment at which the simulated clock shows `simulated`."""
        return Moment(simulated, self._wall0 + (simulated - self.start) / self._speed)


def rfc3339(seconds: float) -> str:
    """Unix seconds as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
