"""The bounds within which an arm is polled, and how long it waits after a refusal. Pure.

When, between its bounds, an arm is polled is for the policy (`relay.model.pacing`) to say. `scale` is how long one
second of the tables and of the policy's time is: a demonstration that runs sixty times as fast has 1/60.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from relay.model.orders import TERMINAL_STATUSES, Resource

#: Floor and ceiling in seconds by stage: of handling, items, messages. The floor keeps one arm from eating the budget;
#: the ceiling bounds what is missed of states that come and go.
BOUNDS: Mapping[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "brand_new": ((2, 30), (10, 600), (10, 600)),
    "acknowledged": ((5, 600), (10, 900), (10, 900)),
    "picking": ((2, 150), (1, 60), (1, 60)),
    "staging": ((2, 120), (5, 300), (2, 120)),
    "delivering": ((2, 180), (10, 600), (2, 120)),
}
#: For a stage that the table does not know, and before the first reading.
UNKNOWN = ((2.0, 120.0), (2.0, 120.0), (2.0, 120.0))
#: What the live dialect has beside: the shopper's location while delivering, and pickup details.
LOCATION, PICKUP = (5.0, 30.0), (60.0, 900.0)
#: Where the status has a resource of its own, handling holds little that changes.
BESIDE_DETAILS = (10.0, 900.0)
#: What a change weighs when nothing else was set: a suggested replacement is bought unless the customer answers in
#: time, so a minute there costs more than a minute on a note.
WEIGHTS: Mapping[str, float] = {"order.replacement_suggested": 3.0, "order.replacement_changed": 3.0}
#: Upstream refuses: at most this many seconds between tries, whatever the back-off says; for an order that is
#: suspended, and for a resource that is switched off, this many.
SLOWEST_RETRY, SLOWEST_SUSPENDED = 60.0, 600.0
#: Share by which an interval is stretched or shortened at random, so that arms do not march in step. The mean wait
#: grows by a third of a percent.
JITTER = 0.1


def stage_of(status: str | None, *, pending: bool = False) -> str:
    """The stage under which an arm is learnt of: few, whatever upstream says. `pending`: a replacement awaits the
    customer's word."""
    if status is None:
        return "new"
    if status in BOUNDS:
        return f"{status}+" if pending else status
    return "over" if status in TERMINAL_STATUSES else "other"


@dataclass(frozen=True, slots=True)
class Cadence:
    """`scale`: see above. No interval is shorter than `floor` seconds. `weights`: of a change, by type of event."""

    scale: float = 1.0
    floor: float = 1.0
    weights: Mapping[str, float] = field(default_factory=lambda: WEIGHTS)
    status_in_details: bool = False

    def bounds(self, resource: Resource, stage: str) -> tuple[float, float]:
        """Shortest and longest interval in seconds."""
        stage = stage.removesuffix("+")
        if resource is Resource.LOCATION:
            low, high = LOCATION
        elif resource is Resource.PICKUP:
            low, high = PICKUP
        elif resource is Resource.HANDLING and self.status_in_details:
            low, high = BESIDE_DETAILS
        else:
            position = 0 if resource is Resource.DETAILS else resource.position
            low, high = BOUNDS.get(stage, UNKNOWN)[position]
        low = max(low * self.scale, self.floor)
        return low, max(high * self.scale, low)

    def weight(self, event_type: str) -> float:
        return self.weights.get(event_type, 1.0)

    def retry_ms(
        self, failures: int, retry_after: float | None, random: Callable[[], float], *, slow: bool = False
    ) -> int:
        """Until the next try after the `failures`-th refusal in a row: doubled each time, never before Retry-After.
        `random` gives a number from 0 to 1; `slow`: nobody waits for it."""
        first = max(2 * self.scale, self.floor)
        most = max((SLOWEST_SUSPENDED if slow else SLOWEST_RETRY) * self.scale, first)
        backed_off = min(first * 2 ** min(failures - 1, 10), most)
        return self.spread_ms(max(backed_off, retry_after or 0.0), random)

    def again_ms(self) -> int:
        """Until the second look that confirms a disappearance or a change next to this one."""
        return round(self.floor * 1000)

    def spread_ms(self, seconds: float, random: Callable[[], float]) -> int:
        return round(seconds * (1 + JITTER * (2 * random() - 1)) * 1000)
