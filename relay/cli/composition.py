"""Putting the API's process together: the one place that knows how its parts are built."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from starlette.types import ASGIApp

from relay.access import TokenBroker, credential_source
from relay.actions import Actions
from relay.api import Deps, create_app
from relay.engine import EngineTransport, FastEngine
from relay.guard import Guard, GuardedEngine, allowances
from relay.model.pressure import Pressure
from relay.sender import Sender
from relay.settings import Settings
from relay.store import keys
from relay.store.arms import Arms
from relay.store.attempts import Attempts
from relay.store.audit import AuditLog
from relay.store.connecting import security_of
from relay.store.decisions import Decisions
from relay.store.deliveries import Deliveries
from relay.store.history import History
from relay.store.idempotency import Idempotency
from relay.store.layout import agree
from relay.store.limits import Limits
from relay.store.log import Log
from relay.store.orders import Orders
from relay.store.pauses import Pauses
from relay.store.recoveries import Recoveries
from relay.store.redis import Db, open_client
from relay.store.retailers import Retailers
from relay.store.sealed import check_master_keys
from relay.store.server import admit
from relay.store.subscriptions import Subscriptions
from relay.store.tokens import StoredTokens
from relay.tracing import open_tracing
from relay.upstream.client import HttpUpstream
from relay.upstream.dialects import open_dialect
from relay.upstream.tokens import Tokens
from relay.vault import Vault, parse_master_keys
from relay.vitals import Vitals
from relay.watching import Watch


@asynccontextmanager
async def open_api(settings: Settings, vitals: Vitals | None = None) -> AsyncIterator[ASGIApp]:
    """The API's application with its clients, closed in the end."""
    assert settings.redis_url is not None
    assert settings.master_keys is not None
    tracing = open_tracing(on=settings.tracing, receivers=settings.trace_receivers)
    vitals = vitals or Vitals()
    vault = Vault(parse_master_keys(settings.master_keys))
    db, pressure = Db(open_client(settings.redis_url, security=security_of(settings))), Pressure()
    watch = Watch(db, pressure)
    engine, guard = FastEngine(deadline=settings.upstream_timeout), Guard(allowances(settings))
    guarded = GuardedEngine(guard, deadline=settings.delivery_timeout, proxy=settings.egress_proxy)
    http = httpx.AsyncClient(transport=EngineTransport(engine), base_url=settings.upstream_url, trust_env=False)
    dialect = open_dialect(settings)
    upstream = HttpUpstream(settings.upstream_url, engine, dialect)
    orders, retailers = Orders(db, vault, dialect.required), Retailers(db, vault, settings.admin_key)
    broker = TokenBroker(orders, Tokens(http, StoredTokens(db, vault)), credential_source(settings, retailers))
    arms = Arms(db)
    deps = Deps(
        settings=settings,
        db=db,
        orders=orders,
        arms=arms,
        log=Log(db),
        subscriptions=Subscriptions(db, vault),
        retailers=retailers,
        idempotency=Idempotency(db, vault),
        actions=Actions(orders, arms, Decisions(db), upstream, broker),
        guard=guard,
        sender=Sender(guarded),
        deliveries=Deliveries(db, vault),
        recoveries=Recoveries(db),
        history=History(db, Log(db), Attempts(db)),
        pauses=Pauses(db),
        audit=AuditLog(db),
        limits=Limits(db, per_key=settings.api_rate, per_retailer=settings.api_rate_retailer),
        pressure=pressure,
        tracing=tracing,
    )
    watching: asyncio.Task[None] | None = None
    try:
        await admit(db, unsafe=settings.redis_unsafe)
        await agree(db)
        await check_master_keys(db, vault)
        await arms.set_rate(keys.SHARED_CREDENTIAL, settings.upstream_budget)
        watching = asyncio.create_task(watch.run())
        async with vitals.watching(db):
            yield create_app(deps, vitals)
    finally:
        watch.stop()
        if watching is not None:
            await asyncio.wait({watching})
        await upstream.aclose()
        await http.aclose()
        await engine.aclose()
        await guarded.aclose()
        await db.aclose()
        tracing.close()
