"""What a credential's budget does for its orders: for the API and for gauges, before anyone notices."""

from dataclasses import dataclass

from relay.model.hazards import Hazards
from relay.model.lifecycle import Policy
from relay.model.pacing import Forecast, forecast
from relay.store.arms import Arms, Load


@dataclass(frozen=True, slots=True)
class Outlook:
    load: Load
    forecast: Forecast

    @property
    def orders(self) -> int:
        return sum(self.load.stages.values())


async def look(arms: Arms, policy: Policy, credential: str) -> Outlook:
    """By what all pumps learnt so far. Two round trips."""
    hazards = Hazards()
    hazards.absorb(*await arms.exchange({}, {}))
    load = await arms.load(credential)
    return Outlook(load, forecast(load.stages, policy.resources, hazards, policy.cadence, load.rate))
