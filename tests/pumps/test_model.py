"""Random interleavings of everything that can happen to a subscription, against a model: promises 3, 4, 7 and 9.

The model knows which events match (the filters in force when they were committed) and so which relay-sequence each has.
After every step the receiver's record and the books are held against it; at the end everything has to have arrived, but
for what the retailer left out.
"""

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from relay.clock import Clock
from relay.delivering import DeliverPump
from relay.delivering.aside import Stores
from relay.delivering.jobs import Limits
from relay.errors import Conflict, RateLimited, StoreUnavailable
from relay.model.filters import Filter
from relay.model.ranges import expanded
from relay.model.retries import Schedule
from relay.sender import Sender
from relay.store import keys
from relay.store.attempts import Attempts
from relay.store.bells import Bells
from relay.store.deliveries import Deliveries, LaneEntry, Owned, Progress, Recorded, on_request
from relay.store.log import Log, ordinal
from relay.store.orders import Orders
from relay.store.recoveries import Recoveries
from relay.store.redis import Db, open_client
from tests.pumps.test_delivering import change
from tests.support.endpoint import Endpoint, of
from tests.support.rig import Rig, eventually, open_rig

LIMITS = Limits(lease_ms=3_000, drain_s=1.0, recovery_rate=1_000)
SCHEDULE = Schedule((0.02, 0.05))
FILTERS = (("order.*",), ("order.status_changed",), ("order.tracking_*",))


class Mortal(Deliveries):
    """Writes until the process is dead."""

    dead = False

    async def record(self, owned: Owned, progress: Progress, *, lease_ms: int) -> Recorded | None:
        if self.dead:
            raise StoreUnavailable("the process is dead")
        return await super().record(owned, progress, lease_ms=lease_ms)

    async def release(self, owned: Owned, flying: int = 0) -> bool:
        if self.dead:
            raise StoreUnavailable("the process is dead")
        return await super().release(owned, flying)


class Worker:
    """One deliver pump with a connection of its own, which can be killed between any two of its steps."""

    def __init__(self, rig: Rig, url: str) -> None:
        self.db = Db(open_client(url))
        self.deliveries = Mortal(self.db, rig.vault)
        log, orders = Log(self.db), Orders(self.db, rig.vault)
        stores = Stores(self.deliveries, log, orders, Recoveries(self.db), Attempts(self.db))
        clock = Clock()
        self.pump = DeliverPump(
            stores, Sender(rig.engine), Bells(self.db), clock=clock, schedule=SCHEDULE, limits=LIMITS
        )
        self.stopping = self.over = False
        self.task = asyncio.create_task(self.pump.run(lambda: self.stopping or self.over, lambda: self.stopping))

    async def stop(self) -> None:
        self.stopping = True
        await self.task
        await self.db.aclose()

    async def kill(self) -> None:
        """What was gathered is not written, what is in flight is cut."""
        self.deliveries.dead = True
        for _, task in self.pump._runners.values():
            task.cancel()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.db.aclose()


class Machine(RuleBasedStateMachine):
    redis_url: str

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.worker: Worker | None = None
        self.leaving: list[Worker] = []
        self.filter = FILTERS[0]
        self.numbers: dict[str, int] = {}  # event id -> relay-sequence, of those that match
        self.known = 0
        self.skips = False
        self.kills = 0
        self.mood = "ok"
        self.seen = 0
        self.places: dict[str, tuple[str, int]] = {}

    def do(self, work: Any) -> Any:
        return self.runner.run(work)

    @initialize()
    def begin(self) -> None:
        self.do(self._begin())

    async def _begin(self) -> None:
        self.endpoint = Endpoint(self._answer)

        async def front(scope: Any, receive: Any, send: Any) -> None:
            if self.mood == "slow":
                await asyncio.sleep(random.choice((0.0, 0.1)))
            await self.endpoint(scope, receive, send)

        self.rig = await self.stack.enter_async_context(open_rig(self.redis_url, front))
        await self.rig.admin.run("FLUSHALL")
        self.endpoint.inner = self.rig.receiver
        subscription = await self.rig.subscribe(url=f"{self.rig.upstream_url}/hook")
        self.id = subscription.id

    def _answer(self, body: bytes) -> tuple[int, dict[str, str]] | None:
        if self.mood in ("ok", "slow") or (self.mood == "one order" and b'"order_id":"o-0"' not in body):
            return None
        return 500, {}

    # ── what may happen ─────────────────────────────────────────────────────────────────────────────────────────

    @rule(order=st.integers(0, 3), count=st.integers(1, 4))
    def commit(self, order: int, count: int) -> None:
        self.do(self._commit(f"o-{order}", count))

    async def _commit(self, order: str, count: int) -> None:
        for _ in range(count):
            await change(self.rig, order, f"status-{random.randrange(10**9)}")
        await self._note()

    async def _note(self) -> None:
        """The model takes in what was committed, under the filters in force."""
        entries = await self.rig.log.after(self.rig.retailer_id, "0-0", 10_000)
        for entry in entries[self.known :]:
            if Filter(self.filter).matches(entry.type):
                self.numbers[entry.event_id] = len(self.numbers) + 1
            self.places[entry.event_id] = (entry.order_id, entry.sequence)
        self.known = len(entries)

    @rule(mood=st.sampled_from(["ok", "ok", "fail", "one order", "slow"]))
    def feel(self, mood: str) -> None:
        self.mood = mood

    @rule()
    def work(self) -> None:
        """Let a worker work for a moment: time passes here because that is what this step means."""
        if self.worker is None:
            self.worker = self.do(self._start())
        self.do(asyncio.sleep(0.03))

    async def _start(self) -> Worker:
        return Worker(self.rig, self.redis_url)

    @rule()
    def crash(self) -> None:
        if self.worker is not None:
            self.do(self._crash(self.worker))
            self.worker = None

    async def _crash(self, worker: Worker) -> None:
        for one in (worker, *self.leaving):  # whoever of them owns it
            await one.kill()
        self.leaving.clear()
        self.kills += 1
        await self.rig.db.run("ZADD", keys.READY, "XX", 0, self.id)  # as if the lease had run out

    @rule()
    def stop(self) -> None:
        if self.worker is not None:
            self.do(self.worker.stop())
            self.worker = None

    @rule()
    def hand_over(self) -> None:
        """The worker's slice is over: it ends beside its successor."""
        if self.worker is not None:
            self.worker.over = True
            self.leaving.append(self.worker)
            self.worker = None

    @rule(enabled=st.booleans(), backlog=st.sampled_from(["all", "all", "latest", "skip"]))
    def switch(self, enabled: bool, backlog: Any) -> None:
        self.do(self._amend(backlog=backlog, enabled=enabled))

    @rule(patterns=st.sampled_from(FILTERS))
    def filters(self, patterns: tuple[str, ...]) -> None:
        self.do(self._amend(event_types=patterns))

    async def _amend(self, backlog: Any = "all", **fields: Any) -> None:
        await self._note()
        while True:
            known = await of(self.rig, self.id)
            after = replace(known.configuration, **fields)
            opens = after.enabled and not known.configuration.enabled
            try:
                await self.rig.subscriptions.amend(self.rig.retailer_id, known, after, backlog=backlog)
            except Conflict:
                continue
            self.filter = after.event_types
            self.skips |= opens and backlog == "skip"
            return

    @rule(choice=st.randoms(use_true_random=False))
    def redeliver(self, choice: random.Random) -> None:
        self.do(self._redeliver(choice))

    async def _redeliver(self, choice: random.Random) -> None:
        entries = await self.rig.log.after(self.rig.retailer_id, "0-0", 10_000)
        if not entries:
            return
        entry = choice.choice(entries)
        at = LaneEntry(entry.position, self.numbers.get(entry.event_id, 0), 0, 0, "r")
        try:
            await Recoveries(self.rig.db).redeliver(self.rig.retailer_id, self.id, on_request("order", entry), at)
        except (Conflict, RateLimited):
            return

    @rule(only=st.sampled_from(["failed", "missing", "all"]))
    def recover(self, only: Any) -> None:
        async def begin() -> None:
            try:
                await Recoveries(self.rig.db).begin(self.rig.retailer_id, self.id, since="0-0", until=None, only=only)
            except Conflict:
                return

        self.do(begin())

    # ── what must hold ──────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def promises(self) -> None:
        if not hasattr(self, "rig"):
            return
        self.check_receipts()
        assert self.do(eventually(self.rig.balanced, within=5.0))

    def check_receipts(self) -> None:
        last: dict[str, int] = {}
        told: dict[str, int] = {}
        for headers, body in zip(self.endpoint.headers, self.endpoint.bodies, strict=True):
            event = msgspec.json.decode(body)
            assert headers["webhook-id"] == event["id"]
            if event["type"] == "order.snapshot":
                continue
            number = int(headers.get("relay-sequence", 0))
            expected = self.numbers.get(event["id"], 0)
            if headers.get("relay-replay") == "true":
                assert number in (0, expected)  # what never was the subscription's has no number
                continue
            assert number == expected, f"{event['id']} came as {number}, it is {expected}"
            assert told.setdefault(event["id"], number) == number
        for receipt in self.rig.receipts:
            order, sequence = self.places.get(receipt.event["id"], (receipt.event["data"].get("order_id"), 0))
            if receipt.replay or not sequence:
                continue
            assert sequence > last.get(order, 0), f"{order}: {sequence} came after {last[order]}"
            last[order] = sequence

    def teardown(self) -> None:
        try:
            if hasattr(self, "rig"):
                self.do(asyncio.wait_for(self._settle(), 40))
        finally:
            self.do(self.stack.aclose())
            self.runner.close()

    async def _settle(self) -> None:
        """Everything is well again: all that matched has to arrive, but for what was left out."""
        try:
            self.mood = "ok"
            await self._amend(enabled=True)
            await self.rig.db.run("HDEL", keys.subscription(self.id), "hold")
            if self.worker is None:
                self.worker = await self._start()
            await eventually(self.rig.idle, within=20.0)
            await eventually(self.rig.balanced)
        finally:
            for worker in (*self.leaving, *([] if self.worker is None else [self.worker])):
                await worker.stop()
        self.check_receipts()
        arrived = {r.event["id"] for r in self.rig.receipts}
        stood = {n for h in self.endpoint.headers for n in expanded(h.get("relay-stands-for", ""))}
        missing = {n for id_, n in self.numbers.items() if id_ not in arrived} - stood
        (account,) = await self.rig.accounts()
        assert account.matched == len(self.numbers)
        assert account.dead == 0
        assert account.delivered + account.skipped == account.matched
        if not self.skips:
            assert missing == set()
        assert len(missing) <= account.skipped
        assert ordinal((await of(self.rig, self.id)).position) >= (0, 0)


@pytest.mark.timeout(170)
def test_any_interleaving_keeps_the_promises(redis_url: str) -> None:
    Machine.redis_url = redis_url
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=10, stateful_step_count=25, deadline=None, derandomize=True)
    )
