"""What a runner holds between reading an event and writing down what became of it."""

from dataclasses import dataclass, field

from relay.delivering.window import Place
from relay.store.deliveries import Operation
from relay.store.log import Entry


@dataclass(frozen=True, slots=True)
class Limits:
    """`in_flight`: posts at a time per subscription. `lease_ms`: how long a lease holds. `drain_s`: how long posts in
    flight may take to end once told to stop."""

    in_flight: int = 64
    lease_ms: int = 15_000
    drain_s: float = 8.0


@dataclass(slots=True)
class Job:
    """One event owed. `place` is its entry in the window; a job from a parked lane has none."""

    entry: Entry
    sequence: int
    place: Place | None
    attempts: int = 0
    first_attempt_ms: int = 0


@dataclass(slots=True)
class Batch:
    """Results that are not yet written."""

    operations: list[Operation] = field(default_factory=list)
    delivered: int = 0
    dead: int = 0
    last_error: bytes | str = ""
    gone: bool = False

    def __bool__(self) -> bool:
        return bool(self.operations or self.delivered or self.dead or self.last_error or self.gone)


class LeaseLost(Exception):
    """Somebody else owns the subscription: nothing that is not yet written may be written any more."""
