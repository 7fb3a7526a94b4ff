"""Everything a worker process holds: built once from the settings, closed once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from relay import canary
from relay.access import TokenBroker, credential_source
from relay.clock import Clock
from relay.delivering import DeliverPump
from relay.delivering.aside import Stores
from relay.delivering.jobs import Limits as DeliverLimits
from relay.engine import EngineTransport, FastEngine
from relay.guard import Guard, GuardedEngine, allowances
from relay.maintaining import MaintainPump
from relay.model.congestion import Concurrency
from relay.model.lifecycle import Policy
from relay.model.pressure import Pressure
from relay.polling import PollPump
from relay.polling.planner import Planner
from relay.polling.policy import policy_of
from relay.polling.pump import Limits as PollLimits
from relay.queue import Ringer, open_pool
from relay.sender import Sender
from relay.settings import Settings
from relay.store.arms import Arms
from relay.store.attempts import Attempts
from relay.store.bells import Bells
from relay.store.connecting import security_of
from relay.store.decisions import Decisions
from relay.store.deliveries import Deliveries
from relay.store.layout import agree
from relay.store.log import Log
from relay.store.orders import Orders
from relay.store.recoveries import Recoveries
from relay.store.redis import Db, open_client
from relay.store.retailers import Retailers
from relay.store.retention import Retention
from relay.store.sealed import check_master_keys
from relay.store.server import admit
from relay.store.slots import Slots
from relay.store.tokens import StoredTokens
from relay.tracing import Tracing, open_tracing
from relay.upstream.client import HttpUpstream
from relay.upstream.dialects import open_dialect
from relay.upstream.tokens import Tokens
from relay.vault import Vault, parse_master_keys

#: How much longer than a post may take a worker waits for it before it ends (seconds): none is cut off and repeated.
DRAIN_SLACK = 10.0


@dataclass(frozen=True, slots=True)
class Process:
    """The clients of one worker process."""

    settings: Settings
    db: Db
    vault: Vault
    upstream_engine: FastEngine
    delivery_engine: GuardedEngine
    upstream: canary.CanaryUpstream
    broker: TokenBroker
    orders: Orders
    arms: Arms
    policy: Policy
    planner: Planner
    concurrency: Concurrency
    log: Log
    deliveries: Deliveries
    bells: Bells
    slots: Slots
    ringer: Ringer
    clock: Clock
    pressure: Pressure
    tracing: Tracing

    def pump(self, kind: str) -> PollPump | DeliverPump | MaintainPump:
        """A pump of one kind, for one slice."""
        if kind == "poll":
            return self.poll_pump()
        return self.deliver_pump() if kind == "deliver" else self.maintain_pump()

    def poll_pump(self) -> PollPump:
        limits = PollLimits(self.settings.poll_concurrency, round(self.settings.lease * 1000))
        return PollPump(
            *(self.orders, self.arms, Decisions(self.db), self.upstream, self.broker, self.bells),
            clock=self.clock,
            policy=self.policy,
            limits=limits,
            planner=self.planner,
            concurrency=self.concurrency,
            pressure=self.pressure,
            tracing=self.tracing,
        )

    def deliver_pump(self) -> DeliverPump:
        settings = self.settings
        exempt = canary.CanaryEngine(self.delivery_engine, self.upstream_engine, settings)
        return DeliverPump(
            Stores(self.deliveries, self.log, self.orders, Recoveries(self.db), Attempts(self.db)),
            Sender(self.delivery_engine),
            self.bells,
            clock=self.clock,
            schedule=settings.schedule,
            limits=DeliverLimits(
                lease_ms=round(settings.lease * 1000),
                drain_s=settings.delivery_timeout + DRAIN_SLACK,
                disable_after_s=settings.disable_after,
                recovery_rate=settings.recovery_rate,
            ),
            concurrency=settings.delivery_concurrency,
            per_host=max(1, settings.host_concurrency // settings.deliver_pumps),
            tracing=self.tracing,
            others={canary.RETAILER: Sender(exempt)} if settings.canary else {},
        )

    def maintain_pump(self) -> MaintainPump:
        settings = self.settings
        return MaintainPump(
            self.db,
            self.orders,
            self.slots,
            self.bells,
            self.ringer,
            Retention(self.db, self.log),
            pumps={"poll": settings.poll_pumps, "deliver": settings.deliver_pumps},
            lease_s=settings.lease,
            retention_events_s=settings.retention_events,
            retention_orders_s=settings.retention_orders,
            retention_audit_s=settings.retention_audit,
        )


@asynccontextmanager
async def open_process(settings: Settings) -> AsyncIterator[Process]:
    """Open the clients of a worker process and close them in the end. Needs a Redis URL and master keys."""
    assert settings.redis_url is not None
    assert settings.master_keys is not None
    tracing = open_tracing(on=settings.tracing, receivers=settings.trace_receivers)
    vault = Vault(parse_master_keys(settings.master_keys))
    security = security_of(settings)
    db = Db(open_client(settings.redis_url, security=security))
    pool = open_pool(settings.redis_url, "poll", security)
    upstream_engine = FastEngine(deadline=settings.upstream_timeout)
    delivery_engine = GuardedEngine(
        Guard(allowances(settings)), deadline=settings.delivery_timeout, proxy=settings.egress_proxy
    )
    token_http = httpx.AsyncClient(
        transport=EngineTransport(upstream_engine), base_url=settings.upstream_url, trust_env=False
    )
    real = HttpUpstream(settings.upstream_url, upstream_engine, open_dialect(settings))
    upstream = canary.CanaryUpstream(real, upstream_engine, settings)
    policy = policy_of(settings)
    orders = Orders(db, vault, policy.resources)
    arms = Arms(db, scale=policy.cadence.scale)
    tokens = Tokens(token_http, StoredTokens(db, vault))
    try:
        await admit(db, unsafe=settings.redis_unsafe)
        await agree(db)
        await check_master_keys(db, vault)
        yield Process(
            settings=settings,
            db=db,
            vault=vault,
            upstream_engine=upstream_engine,
            delivery_engine=delivery_engine,
            upstream=upstream,
            broker=TokenBroker(orders, tokens, credential_source(settings, Retailers(db, vault))),
            orders=orders,
            arms=arms,
            policy=policy,
            planner=Planner(arms, policy),
            concurrency=Concurrency(settings.poll_concurrency),
            log=Log(db),
            deliveries=Deliveries(db, vault, keep_attempts_s=settings.retention_attempts),
            bells=Bells(db),
            slots=Slots(db),
            ringer=Ringer(pool),
            clock=Clock(),
            pressure=Pressure(),
            tracing=tracing,
        )
    finally:
        await upstream.aclose()
        await token_http.aclose()
        await upstream_engine.aclose()
        await delivery_engine.aclose()
        await pool.aclose(close_connection_pool=True)
        await db.aclose()
        tracing.close()
