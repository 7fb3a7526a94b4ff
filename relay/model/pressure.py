"""When a nearly full Redis takes no new work: a threshold, and a lower one for the way back."""

from dataclasses import dataclass

#: Shares of maxmemory. At 90 % the rest is left to deliveries, which drain; below 85 % all goes on.
SHED_AT, RESUME_BELOW = 0.90, 0.85


@dataclass(slots=True)
class Pressure:
    """`shedding`: polling pauses and the API takes no writes, but what frees memory."""

    shedding: bool = False

    def measured(self, ratio: float) -> None:
        self.shedding = ratio >= (RESUME_BELOW if self.shedding else SHED_AT)

    def refused(self) -> None:
        """Redis has refused a write for want of memory; the next measurement says whether it still would."""
        self.shedding = True
