"""How many requests came, and a limit on them per client credential."""

from collections import Counter, deque
from typing import Any


class RateLimit:
    """At most `rate` requests in any second for each credential; a fractional rate stretches the window instead."""

    def __init__(self, rate: float | None) -> None:
        self._capacity = max(1, int(rate)) if rate else 0
        self._window = self._capacity / rate if rate else 0.0
        self._admitted: dict[str, deque[float]] = {}

    def wait(self, client_id: str, now: float) -> float:
        """0 when the request is admitted, else the seconds until one would be."""
        if not self._capacity:
            return 0.0
        admitted = self._admitted.setdefault(client_id, deque())
        while admitted and admitted[0] <= now - self._window:
            admitted.popleft()
        if len(admitted) < self._capacity:
            admitted.append(now)
            return 0.0
        return admitted[0] + self._window - now


class Traffic:
    """Requests for the five operations: how many, by status, and the most in any one second of wall time."""

    def __init__(self) -> None:
        self.total = 0
        self.by_status: Counter[str] = Counter()
        self.max_in_a_second = 0
        self._recent: deque[float] = deque()

    def arrived(self, now: float) -> None:
        self.total += 1
        recent = self._recent
        recent.append(now)
        while recent[0] <= now - 1.0:
            recent.popleft()
        if len(recent) > self.max_in_a_second:
            self.max_in_a_second = len(recent)

    def report(self) -> dict[str, Any]:
        """`by_status` has "none" for requests that were never completely answered."""
        return {
            "total": self.total,
            "by_status": dict(sorted(self.by_status.items())),
            "max_in_a_second": self.max_in_a_second,
        }
