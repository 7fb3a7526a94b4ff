"""How long to wait before an arm is read again: fixed intervals per stage and resource, with jitter and back-off.

The table is hand-tuned: fast where a stage is expected to change what a resource shows, slow elsewhere
(the specification asks to poll `/items` while the shopper is picking). `scale` shortens or stretches all of it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from relay.model.orders import Resource

#: Seconds between polls by stage: (handling, items, messages).
INTERVALS: dict[str, tuple[float, float, float]] = {
    "brand_new": (10, 60, 60),
    "acknowledged": (30, 120, 120),
    "picking": (15, 5, 8),
    "staging": (15, 30, 20),
    "delivering": (15, 60, 15),
}
#: For a stage that the table does not know, and before the first reading.
UNKNOWN = (15.0, 15.0, 15.0)
#: Upstream refuses: at most this many seconds between tries, whatever the back-off says.
SLOWEST_RETRY = 60.0
#: Share by which an interval is stretched or shortened at random, so that arms do not march in step. The mean wait
#: grows by a third of a percent.
JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Cadence:
    """`scale` multiplies every interval; none is shorter than `floor` seconds."""

    scale: float = 1.0
    floor: float = 1.0

    def interval_ms(self, status: str | None, resource: Resource, random: Callable[[], float]) -> int:
        """Until the next poll after a good one. `random` gives a number from 0 to 1."""
        seconds = INTERVALS.get(status or "", UNKNOWN)[resource.position] * self.scale
        return self._spread(max(seconds, self.floor), random)

    def retry_ms(
        self,
        status: str | None,
        resource: Resource,
        failures: int,
        retry_after: float | None,
        random: Callable[[], float],
    ) -> int:
        """Until the next try after the `failures`-th refusal in a row: doubled each time, never before Retry-After."""
        seconds = max(INTERVALS.get(status or "", UNKNOWN)[resource.position] * self.scale, self.floor)
        backed_off = min(seconds * 2 ** min(failures - 1, 10), max(SLOWEST_RETRY * self.scale, seconds))
        return self._spread(max(backed_off, retry_after or 0.0), random)

    def again_ms(self) -> int:
        """Until the second look that confirms a disappearance or a change next to this one."""
        return round(self.floor * 1000)

    def _spread(self, seconds: float, random: Callable[[], float]) -> int:
        return round(seconds * (1 + JITTER * (2 * random() - 1)) * 1000)
