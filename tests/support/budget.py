"""Whether a budget held: where requests set out, and where they arrived."""

import math
import time
from collections.abc import Mapping, Sequence

from relay.engine import Answer, FastEngine
from relay.simulator.traffic import Traffic
from relay.store.arms import LATEST_MS, SPEND

#: By how much longer than another a request may be on its way (seconds), for the budget to hold where they arrive
#: (docs/design.md, "Budget"). On a machine that is very busy the engine's own thread may have to wait longer for it.
HELD_UP = 0.016
#: What the kernel's time of an arrival may be off by (seconds).
_TICK = 0.004


class WatchedEngine(FastEngine):
    """Notes when each request sets out."""

    def __init__(self, *, deadline: float) -> None:
        super().__init__(deadline=deadline)
        self.set_out: list[float] = []

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        limit: int,
        within: float | None = None,
    ) -> Answer:
        self.set_out.append(time.time())
        return await super().send(method, url, headers, body, limit=limit, within=within)


def most_in_a_second(times: Sequence[float]) -> int:
    most = first = 0
    ordered = sorted(times)
    for number, at in enumerate(ordered):
        while ordered[first] <= at - 1.0:
            first += 1
        most = max(most, number - first + 1)
    return most


def at_most(budget: float, held_up: float) -> int:
    """What any second holds where requests arrive, when none is held up longer than that on its way."""
    return math.floor(SPEND * budget * (1 + LATEST_MS / 1000 + held_up)) + 1


def held(engine: WatchedEngine, traffic: Traffic, budget: float, *, since: float = 0.0) -> None:
    """No second since then held more than the budget where requests set out; nor where upstream counted them, unless
    something held them up on their way there."""
    sent = sorted(at for at in engine.set_out if at >= since)
    assert most_in_a_second(sent) <= budget
    arrived = traffic.times
    spread = max((came - went for went, came in zip(sent, arrived, strict=False)), default=0.0)
    if len(sent) == len(arrived) and spread <= HELD_UP - _TICK:
        assert traffic.max_in_a_second <= budget
