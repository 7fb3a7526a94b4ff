"""The deliver pump: a slice of owning subscriptions with work and running them side by side."""

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from relay import metrics
from relay.clock import Clock
from relay.delivering.aside import Aside, Stores
from relay.delivering.jobs import Limits
from relay.delivering.places import Places
from relay.delivering.posts import Posts
from relay.delivering.runner import Runner
from relay.model.orders import RetailerId
from relay.model.retries import Schedule
from relay.sender import Sender
from relay.store.bells import Bells
from relay.store.deliveries import Owned
from relay.tracing import OFF, Tracing

#: Subscriptions one pump owns at a time, and takes at a time.
MOST_OWNED = 256
AT_ONCE = 32
#: How long the pump sleeps at most before it looks for ready subscriptions again, bell or no bell (seconds).
LONGEST_SLEEP = 0.5
#: How often a pump that hands over looks whether all is given back (seconds).
HANDING_LOOK = 0.1


class DeliverPump:
    """Delivers until told to stop. One instance serves one slice; its name is the owner written into the leases."""

    def __init__(
        self,
        stores: Stores,
        sender: Sender,
        bells: Bells,
        *,
        clock: Clock,
        schedule: Schedule,
        limits: Limits,
        concurrency: int = 256,
        per_host: int = 256,
        tracing: Tracing = OFF,
        others: Mapping[RetailerId, Sender] | None = None,
    ) -> None:
        """`concurrency` posts are in flight at a time, `per_host` of them to one host. `others`: whose subscriptions
        another sender serves."""
        self._stores = stores
        self._sender = sender
        self._others = others or {}
        self._bells = bells
        self._clock = clock
        self._schedule = schedule
        self._limits = limits
        self._tracing = tracing
        metrics.deliveries_in_progress.set_function(lambda: Posts.everywhere)
        self._places = Places(concurrency, per_host)
        self._runners: dict[str, tuple[Runner, asyncio.Task[None]]] = {}
        self.name = f"deliver-{secrets.token_hex(6)}"
        self._logger = structlog.get_logger("relay.delivering")

    async def run(self, should_stop: Callable[[], bool], hurried: Callable[[], bool] = lambda: True) -> None:
        """Work until `should_stop`; then let posts in flight end, write progress, give the subscriptions back. Unless
        it is `hurried`, a subscription of which a post hangs goes on with its other orders until that ends.

        Raises StoreUnavailable when Redis is gone; the leases then run out by themselves.
        """
        try:
            while not should_stop():
                await self._turn()
            if not hurried():
                await self._hand_over(hurried)
        finally:
            for runner, _ in self._runners.values():
                runner.stop()
            tasks = [task for _, task in self._runners.values()]
            if tasks:
                await asyncio.wait(tasks)

    async def _turn(self) -> None:
        wait_s = LONGEST_SLEEP
        room = min(AT_ONCE, MOST_OWNED - len(self._runners))
        if room > 0:
            asked = time.monotonic()
            now_ms, next_ms, owned = await self._stores.deliveries.own(
                room, owner=self.name, lease_ms=self._limits.lease_ms
            )
            self._clock.anchor(now_ms, asked)
            for one in owned:
                self._start(one)
            if len(owned) == room:
                return
            if next_ms is not None:
                wait_s = min(wait_s, max(0.0, (next_ms - now_ms) / 1000))
        if wait_s > 0:
            await self._listen([self.name, "deliver"], wait_s)

    async def _hand_over(self, hurried: Callable[[], bool]) -> None:
        """Nothing new is owned. Who hangs for longer than a post may take is stopped all the same."""
        for runner, _ in list(self._runners.values()):
            runner.hand_over()
        ends_at = time.monotonic() + self._limits.drain_s
        while self._runners and not hurried() and time.monotonic() < ends_at:
            await self._listen([self.name], HANDING_LOOK)

    async def _listen(self, names: Sequence[str], wait_s: float) -> None:
        """Sleep until one of the bells rings, at most so long; pass on what our own tells."""
        heard = await self._bells.wait(names, wait_s)
        if heard is not None and heard[0] == self.name:
            self._pass_on({heard[1], *await self._bells.rest(self.name)})

    def _pass_on(self, subscriptions: set[str]) -> None:
        """There is news for these; `*`: for all."""
        told = self._runners if "*" in subscriptions else subscriptions & self._runners.keys()
        for subscription_id in told:
            self._runners[subscription_id][0].ring()

    def _start(self, owned: Owned) -> None:
        if owned.flying:
            metrics.redeliveries.labels("crash" if owned.taken else "drain").inc(owned.flying)
        rate, sender = self._limits.recovery_rate, self._others.get(owned.retailer_id, self._sender)
        aside = Aside(owned, self._stores, sender, clock=self._clock, recovery_rate=rate, tracing=self._tracing)
        runner = Runner(
            *(owned, self._stores.deliveries, sender, aside, self._places),
            clock=self._clock,
            schedule=self._schedule,
            limits=self._limits,
            tracing=self._tracing,
        )
        task = asyncio.create_task(runner.run())
        self._runners[owned.subscription_id] = (runner, task)
        task.add_done_callback(lambda done: self._ended(owned.subscription_id, done))

    def _ended(self, subscription_id: str, task: asyncio.Task[None]) -> None:
        known = self._runners.get(subscription_id)
        if known is not None and known[1] is task:
            del self._runners[subscription_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._logger.error("delivery.runner_failed", subscription_id=subscription_id, exc_info=error)
