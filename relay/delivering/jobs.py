"""What a runner holds between reading an event and writing down what became of it."""

from dataclasses import dataclass, field

from relay.delivering.window import Place
from relay.model.circuit import Health
from relay.model.orders import LaneId
from relay.store.attempts import Attempt
from relay.store.deliveries import LaneEntry, Notice, Operation
from relay.store.log import Entry


@dataclass(frozen=True, slots=True)
class Limits:
    """`in_flight`: posts at a time per subscription. `lease_ms`: how long a lease holds. `drain_s`: how long posts in
    flight may take to end once told to stop. `disable_after_s`: a subscription whose endpoint only failed for so long
    is disabled. `recovery_rate`: events a second that a recovery sends again."""

    in_flight: int = 64
    lease_ms: int = 15_000
    drain_s: float = 25.0
    disable_after_s: float = 120 * 3600.0
    recovery_rate: int = 50


@dataclass(slots=True)
class Job:
    """One event owed. `place` is its entry in the window; a job from a parked lane has none. `kind` as in LaneEntry;
    `stands_for` are the relay-sequences that a snapshot replaces. `behind`: it was read while another of its lane was
    in memory. `prompt`: nothing but this relay kept it from being sent at once."""

    entry: Entry
    sequence: int
    place: Place | None
    attempts: int = 0
    first_attempt_ms: int = 0
    kind: str = ""
    stands_for: str = ""
    behind: bool = False
    prompt: bool = False

    @property
    def fresh(self) -> bool:
        """Whether it came straight from the log and was never tried."""
        return self.place is not None and not (self.attempts or self.behind or self.kind)

    @property
    def waiting(self) -> LaneEntry:
        """The job as an entry of a parked lane."""
        return LaneEntry(self.entry.position, self.sequence, self.attempts, self.first_attempt_ms, self.kind)


@dataclass(slots=True)
class Batch:
    """Results that are not yet written. `drained` are lanes of which nothing is in memory any more; `url` is the
    endpoint of which `health` and `disable` speak."""

    operations: list[Operation] = field(default_factory=list)
    notes: list[tuple[str, bytes]] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    delivered: int = 0
    dead: int = 0
    skipped: int = 0
    replayed: int = 0
    last_error: str = ""
    disable: str = ""
    health: Health | None = None
    url: str = ""
    beat_ms: int | None = None
    wake: bool = False
    latest: bool = False
    drained: set[LaneId] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.notes or self.operations or self.notices or self.health is not None or self.beat_ms)

    def say(self, health: Health, url: str) -> None:
        """Write down how the endpoint at `url` is."""
        self.health, self.url = health, url

    def note(self, job: Job, attempt: Attempt) -> None:
        self.notes.append((job.entry.position, attempt.encode()))


class LeaseLost(Exception):
    """Somebody else owns the subscription: nothing that is not yet written may be written any more."""
