"""What an attempt's outcome means: delivered, again at a time, dead, or gone. Pure; time and chance are arguments."""

from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

MINUTE, HOUR = 60.0, 3600.0

#: Seconds between attempts; the last one repeats. A receiver that is out for a weekend gets everything.
DEFAULT_SCHEDULE = (5.0, 30.0, 2 * MINUTE, 10 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 4 * HOUR, 8 * HOUR, 12 * HOUR)
#: Retries end this long after the event (seconds).
GIVE_UP_AFTER = 72 * HOUR
#: Share by which a wait is stretched or shortened at random, so that retries do not arrive together.
JITTER = 0.2
#: Bounds on what a receiver may ask for with Retry-After (seconds).
SHORTEST_HINT, LONGEST_HINT = 1.0, 24 * HOUR


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the wire said. `kind` is `answered` (then `status` is set) or why there was no answer: dns, connect, tls,
    timeout, reset, protocol, blocked. `retry_after` is the header as received."""

    kind: str
    status: int | None
    retry_after: str | None
    detail: str
    duration_ms: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """Waits between attempts in seconds, the last repeating, until `give_up_after` seconds after the event."""

    waits: tuple[float, ...] = DEFAULT_SCHEDULE
    give_up_after: float = GIVE_UP_AFTER

    def wait(self, attempt: int) -> float:
        """Seconds from the `attempt`-th attempt (from 1) to the next, before jitter."""
        return self.waits[min(attempt, len(self.waits)) - 1]


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver has it: any 2xx."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Again at a time (ms)."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class Dead:
    """No further attempt: `reason` says why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Gone:
    """410: the receiver wants no more of anything."""


Verdict = Delivered | Retry | Dead | Gone


def judge(
    outcome: Outcome,
    *,
    attempt: int,
    event_ms: int,
    now_ms: int,
    schedule: Schedule,
    random: Callable[[], float],
) -> Verdict:
    """What happens next after the `attempt`-th attempt (from 1). `random` gives a number from 0 to 1."""
    status = outcome.status
    if status is not None and 200 <= status < 300:
        return Delivered()
    if status == 410:
        return Gone()
    wait = schedule.wait(attempt) * (1 + JITTER * (2 * random() - 1))
    hint = retry_after_s(outcome.retry_after, now_ms)
    at_ms = now_ms + round(max(wait, hint or 0.0) * 1000)
    if at_ms > event_ms + schedule.give_up_after * 1000:
        return Dead("exhausted")
    return Retry(at_ms)


def retry_after_s(header: str | None, now_ms: int) -> float | None:
    """`Retry-After` (RFC 9110, 10.2.3) in seconds from now, from 1 s to 24 h. None for nonsense and for the past."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:12])
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now_ms / 1000
        except (ValueError, OverflowError, TypeError):
            return None
    return min(max(seconds, SHORTEST_HINT), LONGEST_HINT) if seconds > 0 else None
