"""The relay's own parts in one event loop, around real sockets: a store, an upstream, a receiver, pumps."""

import asyncio
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from relay.access import TokenBroker
from relay.clock import Clock
from relay.delivering import DeliverPump
from relay.delivering.aside import Stores
from relay.delivering.jobs import Limits as DeliverLimits
from relay.model.cadence import Cadence
from relay.model.fold import Fold
from relay.model.keyring import Keyring
from relay.model.lifecycle import Policy
from relay.model.orders import OrderId, OrderState, RetailerId
from relay.model.retries import Schedule
from relay.model.signing import Secret
from relay.polling import PollPump
from relay.polling.pump import Limits as PollLimits
from relay.receiver import Receipt, Receiver
from relay.sender import Sender
from relay.simulator.server import serve
from relay.store.arms import Arms
from relay.store.attempts import Attempts
from relay.store.bells import Bells
from relay.store.decisions import Decisions
from relay.store.deliveries import Deliveries
from relay.store.ledger import Account, Ledger
from relay.store.log import Log
from relay.store.order_records import Registration, UserToken
from relay.store.orders import Orders
from relay.store.recoveries import Recoveries
from relay.store.redis import Db, open_client
from relay.store.retailers import Retailers
from relay.store.subscriptions import Configuration, Subscription, Subscriptions
from relay.store.tokens import StoredTokens
from relay.tracing import OFF, Tracing
from relay.upstream.client import HttpUpstream
from relay.upstream.interface import Dialect
from relay.upstream.specification import Specification
from relay.upstream.tokens import Credential, Tokens
from relay.vault import Vault, generate_master_key, parse_master_keys
from tests.support.acl import admin_url
from tests.support.budget import WatchedEngine

#: Fast for tests: nothing here waits for real minutes.
POLICY = Policy(Cadence(scale=0.001, floor=0.02), patience_ms=150, confirm_after_ms=30)


async def eventually(condition: Callable[[], Any], within: float = 15.0) -> Any:
    """Wait for a condition, plain or awaitable, and return what it gave."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {getattr(condition, '__qualname__', condition)}")
        await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """An ASGI app on a real port; gives its base URL. The app can reach its connections (relay.simulator.server)."""
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(app, "127.0.0.1", 0, port.set_result))
    try:
        yield f"http://127.0.0.1:{await port}"
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class NoMinting:
    """A token source for orders that bring their own."""

    async def find(self, credential_id: str) -> Credential | None:
        return None


@dataclass
class Rig:
    """One retailer's relay. `receipts` are the verified first receipts, `folds` what they tell of each order. `db` is
    the relay's connection, `admin` one for what only a test asks of Redis."""

    db: Db
    admin: Db
    vault: Vault
    upstream_url: str
    receiver_url: str
    receiver: Receiver
    retailer_id: RetailerId
    engine: WatchedEngine
    receipts: list[Receipt] = field(default_factory=list)
    folds: dict[str, Fold] = field(default_factory=dict)
    running: list[asyncio.Task[None]] = field(default_factory=list)
    tracing: Tracing = OFF
    stopping: bool = False

    @property
    def orders(self) -> Orders:
        return Orders(self.db, self.vault)

    @property
    def arms(self) -> Arms:
        return Arms(self.db, scale=POLICY.cadence.scale)

    @property
    def log(self) -> Log:
        return Log(self.db)

    @property
    def stores(self) -> Stores:
        deliveries = Deliveries(self.db, self.vault)
        return Stores(deliveries, self.log, self.orders, Recoveries(self.db), Attempts(self.db))

    @property
    def subscriptions(self) -> Subscriptions:
        return Subscriptions(self.db, self.vault)

    async def track(self, *order_ids: str, user_id: str | None = None) -> None:
        registrations = [Registration(OrderId(one), user_id, UserToken("good-token")) for one in order_ids]
        await self.orders.register(self.retailer_id, registrations, credential="shared")

    async def subscribe(self, **fields: Any) -> Subscription:
        """A subscription of everything to the rig's receiver, from the beginning of the log."""
        secret = Secret(os.urandom(32))
        self.receiver.secrets.append(secret)
        configuration = Configuration(**{"url": f"{self.receiver_url}/{secrets.token_hex(4)}", **fields})
        return await self.subscriptions.create(
            self.retailer_id, configuration, keyring=Keyring.new(secret), start="0-0"
        )

    def poll(
        self,
        policy: Policy = POLICY,
        limits: PollLimits | None = None,
        dialect: Dialect | None = None,
        broker: TokenBroker | None = None,
    ) -> PollPump:
        """Start a poll pump."""
        upstream = HttpUpstream(self.upstream_url, self.engine, dialect or Specification())
        tokens = Tokens(httpx.AsyncClient(base_url=self.upstream_url), StoredTokens(self.db, self.vault))
        broker = broker or TokenBroker(self.orders, tokens, NoMinting().find)
        pump = PollPump(
            *(
                self.orders,
                Arms(self.db, scale=policy.cadence.scale),
                Decisions(self.db),
                upstream,
                broker,
                Bells(self.db),
            ),
            clock=Clock(),
            policy=policy,
            limits=limits or PollLimits(lease_ms=2_000, drain_s=1.0),
            tracing=self.tracing,
        )
        self.running.append(asyncio.create_task(pump.run(lambda: self.stopping)))
        return pump

    def deliver(
        self,
        schedule: Schedule | None = None,
        limits: DeliverLimits | None = None,
        concurrency: int = 256,
        slice_over: Callable[[], bool] = lambda: False,
    ) -> DeliverPump:
        """Start a deliver pump. It hands over, without haste, when its slice is over."""
        pump = DeliverPump(
            *(self.stores, Sender(self.engine), Bells(self.db)),
            clock=Clock(),
            schedule=schedule or Schedule((0.05, 0.1)),
            limits=limits or DeliverLimits(lease_ms=2_000, drain_s=2.0),
            concurrency=concurrency,
            tracing=self.tracing,
        )
        running = pump.run(lambda: self.stopping or slice_over(), lambda: self.stopping)
        self.running.append(asyncio.create_task(running))
        return pump

    async def stop(self) -> None:
        """Let all pumps finish what is in flight; their errors are this call's."""
        self.stopping = True
        await asyncio.gather(*self.running)
        self.running.clear()
        self.stopping = False

    async def state(self, order_id: str = "o-1") -> OrderState:
        state = await self.orders.load_state(self.retailer_id, OrderId(order_id))
        assert state is not None
        return state

    async def events(self) -> list[dict[str, Any]]:
        """The whole log, parsed."""
        return [json.loads(entry.body) for entry in await self.log.after(self.retailer_id, "0-0", 100_000)]

    async def accounts(self) -> list[Account]:
        return await Ledger(self.db, self.log).audit(self.retailer_id)

    async def balanced(self) -> bool:
        """Every ledger balances, and every order's events are numbered without a gap."""
        accounts = await self.accounts()
        sequences = await Ledger(self.db, self.log).sequences(self.retailer_id)
        return all(account.balanced for account in accounts) and not sequences

    async def idle(self) -> bool:
        """Nothing waits any more."""
        return all(account.waiting == 0 for account in await self.accounts())


@asynccontextmanager
async def open_rig(
    redis_url: str, upstream: Any = None, *, deadline: float = 1.0, master_keys: str | None = None, **receiver: Any
) -> AsyncIterator[Rig]:
    """A rig with its retailer. `upstream` is an ASGI app; `receiver` are options of the receiver."""
    vault = Vault(parse_master_keys(master_keys or generate_master_key("rig")))
    db, admin = Db(open_client(redis_url)), Db(open_client(admin_url(redis_url)))
    engine = WatchedEngine(deadline=deadline)
    witness = Receiver([], **receiver)
    async with serving(upstream or Answers()) as upstream_url, serving(witness) as receiver_url:
        retailer = await Retailers(db, vault).create("Rig", upstream=None, budget=None, limits={})
        rig = Rig(db, admin, vault, upstream_url, receiver_url, witness, retailer.id, engine)

        def receipt(one: Receipt) -> None:
            if one.first:
                rig.receipts.append(one)
                order_id = one.event["data"].get("order_id")
                if order_id is not None:
                    rig.folds.setdefault(order_id, Fold()).take(one.event)

        witness.on_receipt = receipt
        try:
            yield rig
        finally:
            rig.stopping = True
            if rig.running:  # a cancelled Redis command would leave its connection to the garbage collector
                await asyncio.wait(rig.running, timeout=5.0)
            for task in rig.running:
                task.cancel()
            await asyncio.gather(*rig.running, return_exceptions=True)
            await engine.aclose()
            await db.aclose()
            await admin.aclose()


@dataclass
class Answer:
    """One scripted upstream answer."""

    value: Any = None
    status: int = 200
    raw: bytes | None = None
    content_type: str = "application/json"
    delay_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    #: What is sent without end, in chunks, instead of a body.
    endless: bytes = b""

    @property
    def body(self) -> bytes:
        return self.raw if self.raw is not None else json.dumps(self.value).encode()


class Answers:
    """An upstream that answers what a test says: per resource, for every order; `misbehaviour` comes before it."""

    def __init__(self, handling: Answer | None = None) -> None:
        self.handling = handling or Answer({"order_id": "o-1", "status": "picking"})
        self.items = Answer({"items": [{"id": "i-1", "quantity": 1, "status": "pending"}]})
        self.messages = Answer({"messages": []})
        self.misbehaviour: dict[str, Answer] = {}
        self.asked: list[tuple[str, str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        path = scope["path"]
        resource = path.rsplit("/", 1)[1]
        token = dict(scope["headers"]).get(b"authorization", b"").decode()
        self.asked.append((scope["method"], path, token))
        answer = self.misbehaviour.get(resource) or getattr(self, resource)
        if answer.delay_s:
            await asyncio.sleep(answer.delay_s)
        headers = [(b"content-type", answer.content_type.encode())]
        headers += [(name.encode(), value.encode()) for name, value in answer.headers.items()]
        if answer.endless:
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            gone = asyncio.ensure_future(receive())
            while not gone.done():
                await send({"type": "http.response.body", "body": answer.endless, "more_body": True})
                await asyncio.sleep(0)
            return
        if "content-length" not in answer.headers:
            headers.append((b"content-length", str(len(answer.body)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})
