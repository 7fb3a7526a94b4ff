"""The simulator: a world of orders, the scenarios that move it, and the ASGI app that serves it.

    SimulatorConfig ── Simulator ── .app ─┬─ /v2/...  operations.Operations  the upstream API, byte for byte
                          │               └─ /_sim    controls               what a test or a person wants of it
              world · plans · faults · tokens · ledger · traffic

State advances lazily: every request first lets happen what was due by then, each step at its own simulated time.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from relay.errors import InvalidInput
from relay.simulator.clock import Moment, SimulatedClock
from relay.simulator.controls import controls
from relay.simulator.facts import Ledger
from relay.simulator.faults import Faults, parse
from relay.simulator.operations import Operations
from relay.simulator.scenario import draft, plan, staggered
from relay.simulator.steps import Step, perform
from relay.simulator.tokens import Tokens
from relay.simulator.traffic import RateLimit, Traffic
from relay.simulator.world import RESOURCES, Order, World

Json = Any


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """What `relay simulator` can be told. `speed` is simulated seconds a second, `rate_limit` requests a second.

    `dialect` is specification or connect; `redacted`: shopper information removal is on (connect only). `validators`:
    answers have entity tags; `gzip`: they are compressed for who accepts that."""

    orders: int = 3
    speed: float = 60
    seed: int = 1
    rate_limit: float | None = None
    faults: Sequence[str] = ()
    client_id: str = "sim-client"
    client_secret: str = "sim-secret"  # noqa: S105  a simulated credential
    static_token: str | None = None
    user_ids: bool = True
    token_lifetime: float = 86400
    dialect: str = "specification"
    redacted: bool = False
    validators: bool = False
    gzip: bool = False

    def __post_init__(self) -> None:
        if self.orders < 0:
            raise InvalidInput("orders must not be below 0")
        if self.speed <= 0:
            raise InvalidInput("speed must be above 0")
        if self.rate_limit is not None and self.rate_limit <= 0:
            raise InvalidInput("rate limit must be above 0 requests per second")
        if self.dialect not in ("specification", "connect"):
            raise InvalidInput("the dialect is specification or connect")

    @property
    def live(self) -> bool:
        return self.dialect == "connect"


class Simulator:
    """One simulated upstream. Raises InvalidInput for a fault that cannot be read."""

    def __init__(self, config: SimulatorConfig, clock: SimulatedClock | None = None) -> None:
        self.config = config
        self.clock = clock or SimulatedClock(config.speed)
        self.tokens = Tokens(config.client_id, config.client_secret, config.token_lifetime, config.static_token)
        self.reset()
        self.app: ASGIApp = _dispatch(Operations(self), controls(self))

    def reset(self) -> None:
        """Everything as at the start; the clock runs on, and issued tokens stay good."""
        now = self.clock.now()
        self.world = World()
        self.ledger = Ledger()
        self.traffic = Traffic()
        self.limit = RateLimit(self.config.rate_limit)
        self.faults = Faults([parse(spec) for spec in self.config.faults], self.config.seed, now.wall)
        self.dice = Random(f"{self.config.seed}:dice")
        self._plans: dict[str, deque[tuple[float, Step]]] = {}
        self._due: list[tuple[float, str]] = []
        for index in range(self.config.orders):
            user_id = f"user-{index + 1}" if self.config.user_ids else None
            order = draft(f"o-{index + 1}", user_id, self.config.seed)
            start = now.simulated + staggered(index, self.config.orders, self.config.seed)
            self.admit(order, now, start=start)

    def admit(self, order: Order, now: Moment, *, start: float | None) -> None:
        """Take an order in; with `start` (simulated) a scenario moves it from then on."""
        self.world.create(order, now, "scenario" if start is not None else "control")
        if start is not None:
            self._plans[order.order_id] = deque((start + step.after, step) for step in plan(order, self.config.seed))
            self._schedule(order.order_id)

    def tick(self) -> Moment:
        """Let everything happen that was due by now."""
        now = self.clock.now()
        while self._due and self._due[0][0] <= now.simulated:
            at, order_id = heapq.heappop(self._due)
            steps = self._plans.get(order_id)
            if steps and steps[0][0] == at:
                self._take_step(self.world.orders[order_id], self.clock.moment(at))
                self._schedule(order_id)
        return now

    def advance(self, order: Order, now: Moment) -> None:
        """With a scenario: everything up to its next status now, and the rest sooner by what that saved."""
        steps = self._plans.get(order.order_id)
        if not steps:
            return
        while steps and not order.ended:
            at, step = steps[0]
            self._take_step(order, now)
            if step.verb == "status":
                self._plans[order.order_id] = deque((due - (at - now.simulated), rest) for due, rest in steps)
                break
        self._schedule(order.order_id)

    def ended_for(self, order: Order) -> float | None:
        """Simulated seconds since the order's end; None before it."""
        if not order.ended:
            return None
        last = [one for one in self.world.happened if one.order_id == order.order_id and "status" in one.what]
        return self.clock.now().simulated - last[-1].simulated_at if last else None

    def planned(self, order_id: str) -> list[Step]:
        """What the scenario still has for an order; empty without one."""
        return [step for _, step in self._plans.get(order_id, ())]

    def _take_step(self, order: Order, now: Moment) -> None:
        _, step = self._plans[order.order_id].popleft()
        perform(self.world, order, step, now)

    def _schedule(self, order_id: str) -> None:
        steps = self._plans.get(order_id)
        if steps:
            heapq.heappush(self._due, (steps[0][0], order_id))

    def report(self, since: int = 0, happened_since: int = 0) -> dict[str, Json]:
        """What the demo and the tests compare with; `since` cuts `facts`, `happened_since` cuts `happened`."""
        return {
            "orders": {
                order.order_id: {
                    "status": order.status,
                    "user_id": order.user_id,
                    "ended": order.ended,
                    "answers": {resource: self.ledger.answer(order.order_id, resource) for resource in RESOURCES},
                }
                for order in self.world.orders.values()
            },
            "changes": len(self.ledger.facts),
            "facts": self.ledger.facts[since:],
            "happened": self.world.happened[happened_since:],
            "requests": self.traffic.report(),
        }


def _dispatch(operations: ASGIApp, rest: ASGIApp) -> ASGIApp:
    """The upstream API past the router, everything else through it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        upstream = scope["type"] == "http" and scope["path"].startswith("/v2/")
        await (operations if upstream else rest)(scope, receive, send)

    return app
