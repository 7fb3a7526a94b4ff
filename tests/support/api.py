"""The parts of an API process, without its HTTP, around a real upstream."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from relay.access import TokenBroker, credential_source
from relay.actions import Actions
from relay.engine import EngineTransport, FastEngine
from relay.model.orders import RetailerId
from relay.settings import Settings
from relay.store.arms import Arms
from relay.store.decisions import Decisions
from relay.store.orders import Orders
from relay.store.redis import Db, open_client
from relay.store.retailers import Retailers
from relay.store.tokens import StoredTokens
from relay.upstream.client import HttpUpstream
from relay.upstream.specification import Specification
from relay.upstream.tokens import Tokens
from relay.vault import Vault, parse_master_keys


@dataclass
class App:
    orders: Orders
    actions: Actions
    retailer_id: RetailerId
    http: httpx.AsyncClient

    async def control(self, path: str, body: Any) -> Any:
        """One of the simulator's controls."""
        response = await self.http.post(path, json=body)
        assert response.status_code < 300, response.text
        return response.json()


@asynccontextmanager
async def open_app(redis_url: str, master_keys: str, upstream_url: str) -> AsyncIterator[App]:
    vault = Vault(parse_master_keys(master_keys))
    db, engine = Db(open_client(redis_url)), FastEngine(deadline=3)
    settings = Settings(upstream_client_id="sim-client", upstream_client_secret="sim-secret")
    async with httpx.AsyncClient(transport=EngineTransport(engine), base_url=upstream_url, trust_env=False) as http:
        orders, retailers = Orders(db, vault), Retailers(db, vault)
        tokens = Tokens(http, StoredTokens(db, vault))
        broker = TokenBroker(orders, tokens, credential_source(settings, retailers))
        upstream = HttpUpstream(upstream_url, engine, Specification())
        retailer = await retailers.create("Test", upstream=None, budget=None, limits={})
        yield App(orders, Actions(orders, Arms(db), Decisions(db), upstream, broker), retailer.id, http)
        await upstream.aclose()
    await engine.aclose()
    await db.aclose()
