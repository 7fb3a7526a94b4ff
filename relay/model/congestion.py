"""How many requests upstream takes at a time: additive increase, multiplicative decrease. Pure.

Rate, concurrency and order are three knobs: the rate comes from the budget, the order from the policy, and this one
bounds what is in flight when upstream grows slow. By Little's law a budget needs rate x latency in flight; upstream
shows by refusals, time-outs and rising latency that it has less to give.
"""

from dataclasses import dataclass

#: The limit before anything is known, and the one that always stays.
FIRST, LEAST = 32.0, 4.0
#: By how much the limit shrinks, and how long one cause shrinks it only once (seconds, or one mean answer time).
SHRINK, ONCE = 0.9, 0.1
#: Latency has risen when the mean of the last answers is so many times the long mean.
RISEN = 3.0
#: Weight of one answer in the short and in the long mean.
SHORT, LONG = 1 / 20, 1 / 1000


@dataclass(slots=True)
class Concurrency:
    """The limit of one process against one upstream host; `most` is the operator's."""

    most: int
    limit: float = FIRST
    short_s: float = 0.0
    long_s: float = 0.0
    shrunk_at: float = -1e9

    def __post_init__(self) -> None:
        self.limit = min(self.limit, float(self.most))

    def good(self, latency_s: float, in_flight: int, now: float) -> None:
        """A request was answered well after `latency_s`, while so many were in flight; `now` in seconds."""
        if self.long_s == 0.0:
            self.short_s = self.long_s = latency_s
        self.short_s += (latency_s - self.short_s) * SHORT
        self.long_s += (latency_s - self.long_s) * LONG
        busy = 2 * in_flight >= self.limit
        if busy and self.short_s > RISEN * self.long_s:
            self.bad(now)
        elif busy:
            self.limit = min(float(self.most), self.limit + 1)

    def bad(self, now: float) -> None:
        """A request was refused for load, timed out, or was cut off."""
        if now - self.shrunk_at >= max(ONCE, self.short_s):
            self.shrunk_at = now
            self.limit = max(min(LEAST, float(self.most)), self.limit * SHRINK)
