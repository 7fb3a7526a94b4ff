"""Whether a subscription's next post may go now: circuit and pause, rate limit, and how many at a time.

How many at a time follows the endpoint (additive increase, multiplicative decrease; Chiu and Jain 1989): it grows with
successes, fast at first, and is halved by time-outs and by answers that speak of overload. An endpoint that hangs so
holds few places before its circuit opens.
"""

import random
from collections.abc import Callable

from relay.delivering.jobs import Limits
from relay.model import circuit
from relay.model.circuit import Health
from relay.model.orders import LaneId
from relay.model.retries import Outcome, Schedule
from relay.store.deliveries import Target

#: Posts at a time to an endpoint of which nothing is known yet.
FIRST = 16.0
#: One halving speaks for all posts that were in flight with it (ms).
HALVE_EVERY = 250
#: How far a post may run ahead of the rate limit, so that timers of a millisecond cost no throughput (ms).
SLACK = 5.0


class Gate:
    def __init__(
        self,
        health: Health,
        target: Target,
        *,
        tat_ms: float,
        limits: Limits,
        schedule: Schedule,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self.health = health
        self.tat_ms = tat_ms
        self.probe: LaneId | None = None
        #: What was committed before this moment may have waited for the endpoint itself, and not for us.
        self.held_ms = max(health.hold_ms, health.reopened_ms, int(tat_ms))
        self._limits = limits
        self._schedule = schedule
        self._dice = dice
        self._halved_ms = 0
        self._begin()
        self.configure(target, moved=False)

    def configure(self, target: Target, *, moved: bool) -> None:
        """Take the limits of a changed configuration; `moved`: the URL is another, of which nothing is known yet."""
        self._most = min(self._limits.in_flight, target.max_in_flight or self._limits.in_flight)
        self._interval_ms = 1000 / target.rate_limit if target.rate_limit else 0.0
        if moved:
            self.health = circuit.moved(self.health)
            self._begin()

    def _begin(self) -> None:
        """The window of an endpoint that has not answered yet."""
        self._window = 1.0 if self.health.doubtful else FIRST
        self._threshold = float(self._limits.in_flight)

    @property
    def limited(self) -> bool:
        """Whether the rate limit has to be remembered."""
        return self._interval_ms > 0

    @property
    def closed(self) -> bool:
        """Whether the circuit is closed, so that more than a probe may go."""
        return self.health.circuit == "closed"

    def opens_ms(self, now_ms: int) -> int | None:
        """When the next post may go; None: now, as far as time goes."""
        at = self.health.hold_ms
        if self._interval_ms and self.tat_ms - SLACK > now_ms:
            at = max(at, int(self.tat_ms - SLACK) + 1)
        if at <= now_ms:
            return None
        self.held_ms = max(self.held_ms, at)
        return at

    def admits(self, in_flight: int, now_ms: int) -> bool:
        """Whether one more may go now."""
        if self.opens_ms(now_ms) is not None:
            return False
        if self.closed:
            admitted = in_flight < min(self._most, max(1, int(self._window)))
        else:
            admitted = in_flight == 0 and self.probe is None
        if not (admitted and self.closed):
            self.held_ms = max(self.held_ms, now_ms)
        return admitted

    def pass_through(self, lane: LaneId, now_ms: int) -> None:
        """One post goes."""
        if self._interval_ms:
            self.tat_ms = max(self.tat_ms, now_ms) + self._interval_ms
        if not self.closed:
            self.probe = lane
            self.health = circuit.probing(self.health)

    def succeeded(self, lane: LaneId, now_ms: int) -> bool:
        """After a 2xx; says whether that closed the circuit."""
        reopened = not self.closed
        if self.health != (after := circuit.succeeded(self.health, now_ms=now_ms)):
            self.health = after
        if self.probe == lane:
            self.probe = None
        if self._window < self._threshold:
            self._window += 1.0
        elif self._window < self._most:
            self._window += 1.0 / self._window
        return reopened

    def forget(self, lane: LaneId) -> None:
        """The answer of a URL that is no longer the subscription's: it says nothing of the endpoint."""
        if self.probe == lane:
            self.probe = None

    def failed(self, lane: LaneId, outcome: Outcome, now_ms: int) -> None:
        """After anything else."""
        probe = self.probe == lane
        if probe:
            self.probe = None
        self.health = circuit.failed(
            *(self.health, lane, outcome),
            probe=probe,
            now_ms=now_ms,
            schedule=self._schedule,
            random=self._dice,
        )
        strained = outcome.kind in ("timeout", "connect") or outcome.status in circuit.OVERLOADED
        if strained and now_ms - self._halved_ms >= HALVE_EVERY:
            self._halved_ms = now_ms
            self._window = self._threshold = max(1.0, self._window / 2)
        if not self.closed:
            self._window = 1.0
            self._threshold = float(self._limits.in_flight)
