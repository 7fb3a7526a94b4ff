"""What an endpoint's attempts, taken together, say of the endpoint: its circuit, how long it is left alone, and how
long it has done nothing but fail. Pure: time and chance are arguments.

                 five lanes in a row fail                 the hold is over
    closed ────────────────────────────────▶ open ────────────────────────────────▶ half open: one probe
       ▲                                       ▲                                        │
       │                                       └──────────── it fails: longer hold ─────┤
       └──────────────────────────── it succeeds: everything that waits is due ─────────┘
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from relay.model.orders import LaneId
from relay.model.retries import JITTER, Outcome, Schedule, retry_after_s

#: Different lanes that fail one after another until the endpoint, and not its orders, is held to be failing.
OPEN_AFTER = 5
#: A probe is one request, so that an endpoint that works again is found out soon (seconds).
LONGEST_PROBE_WAIT = 600.0
#: Pause of an endpoint that says it is overloaded without saying for how long (seconds).
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
#: Answers that speak of the endpoint's load: too many requests, bad gateway, unavailable, gateway timeout.
OVERLOADED = frozenset({429, 502, 503, 504})

Circuit = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True)
class Health:
    """An endpoint as its attempts since the last success show it.

    `lanes` are the different lanes that failed since then, at most OPEN_AFTER. `since_ms` is the first failure since
    then. `hold_ms`: nothing is sent before (Redis time). `told`: the retailer was told that it is failing;
    `told_before`: it was told so of a URL before this one, and not since then that all is well. `mourned_ms`: when it
    was last told of an event that was given up. `reopened_ms`: when a success last closed its circuit: what is older
    waited for the endpoint, however long its backlog takes.
    """

    circuit: Circuit = "closed"
    lanes: tuple[LaneId, ...] = ()
    since_ms: int | None = None
    probes: int = 0
    throttles: int = 0
    hold_ms: int = 0
    told: bool = False
    mourned_ms: int = 0
    reopened_ms: int = 0
    told_before: bool = False

    @property
    def doubtful(self) -> bool:
        """Whether its last attempts failed."""
        return bool(self.lanes) or self.circuit != "closed"


def succeeded(health: Health, *, now_ms: int) -> Health:
    """After a 2xx: the circuit is closed and the clock of failure cleared. A pause that the endpoint asked for
    stays."""
    kept = Health(mourned_ms=health.mourned_ms, reopened_ms=health.reopened_ms)
    if health.circuit != "closed":
        return replace(kept, reopened_ms=now_ms)
    if health.hold_ms > now_ms:
        return replace(kept, hold_ms=health.hold_ms, throttles=health.throttles)
    return kept


def failed(
    health: Health,
    lane: LaneId,
    outcome: Outcome,
    *,
    probe: bool,
    now_ms: int,
    schedule: Schedule,
    random: Callable[[], float],
) -> Health:
    """After anything but a 2xx. What was in flight when the circuit opened does not count as a probe."""
    since = now_ms if health.since_ms is None else health.since_ms
    lanes = health.lanes if lane in health.lanes else (*health.lanes, lane)[:OPEN_AFTER]
    health = replace(health, since_ms=since, lanes=lanes)
    stretch = 1 + JITTER * (2 * random() - 1)
    hint = retry_after_s(outcome.retry_after, now_ms) or 0.0
    if health.circuit != "closed":
        if not probe:
            return health
        wait = min(schedule.wait(health.probes + 2), LONGEST_PROBE_WAIT) * stretch
        return replace(health, circuit="open", probes=health.probes + 1, hold_ms=_at(now_ms, max(wait, hint)))
    if len(lanes) >= OPEN_AFTER:
        wait = min(schedule.wait(1), LONGEST_PROBE_WAIT) * stretch
        return replace(health, circuit="open", probes=0, hold_ms=max(health.hold_ms, _at(now_ms, max(wait, hint))))
    if outcome.status in OVERLOADED:
        if health.hold_ms > now_ms:  # sent before the pause began: it says nothing new
            return replace(health, hold_ms=max(health.hold_ms, _at(now_ms, hint)))
        wait = min(FIRST_PAUSE * 2**health.throttles, LONGEST_PAUSE) * stretch
        throttles = min(health.throttles + 1, 10)
        return replace(health, throttles=throttles, hold_ms=_at(now_ms, max(wait, hint)))
    return health


def moved(health: Health) -> Health:
    """The subscription has another URL, of which nothing is known: what failed at the one before counts no more, and
    one try may be made at once. An open circuit stays open for it: its success makes due what waits.

    `amend_subscription.lua` does the same to what is stored."""
    return Health(
        circuit="closed" if health.circuit == "closed" else "open",
        mourned_ms=health.mourned_ms,
        reopened_ms=health.reopened_ms,
        told_before=health.told or health.told_before,
    )


def probing(health: Health) -> Health:
    """The hold of an open circuit is over and one request is on its way."""
    return replace(health, circuit="half_open")


Standing = Literal["fine", "failing", "disable"]


def standing(health: Health, *, enabled_ms: int, now_ms: int, disable_after_s: float) -> Standing:
    """What to do about an endpoint that only fails: tell the retailer at half time, disable at the end.

    Counted from the first failure, or from when it was last enabled; never by a single lane's failure.
    """
    if health.since_ms is None or len(health.lanes) < 2:
        return "fine"
    failing_s = (now_ms - max(health.since_ms, enabled_ms)) / 1000
    if failing_s >= disable_after_s:
        return "disable"
    return "failing" if failing_s >= disable_after_s / 2 and not health.told else "fine"


def _at(now_ms: int, seconds: float) -> int:
    return now_ms + round(seconds * 1000)
