"""The retailer's decisions go through, with minted tokens, and come back as events."""

import asyncio
from typing import Any

import httpx
import pytest

from relay.errors import Conflict, NotFound
from relay.model.changes import Cause
from relay.model.orders import OrderId
from relay.simulator.app import Simulator, SimulatorConfig
from relay.store import keys
from relay.store.order_records import Registration
from relay.store.redis import Db, open_client
from relay.store.tokens import StoredTokens
from relay.upstream.interface import Access
from relay.upstream.tokens import Credential, TokenRefused, Tokens
from relay.vault import Vault
from tests.support.api import open_app
from tests.support.rig import serving

CAUSE = Cause("key_1", "req_1", "2026-11-24T12:00:00.000Z")


def test_a_decision_and_a_message_reach_upstream_once(redis_url: str, master_keys: str) -> None:
    async def main() -> None:
        simulator = Simulator(SimulatorConfig(orders=0))
        async with serving(simulator.app) as url, open_app(redis_url, master_keys, url) as relay:
            picking = {"order_id": "o-9", "status": "picking"}
            await relay.control("/_sim/orders", {"order_id": "o-9", "user_id": "ada", "handling": picking})
            item = await relay.control("/_sim/orders/o-9/suggest", {})
            assert item["replacement_status"] == "PENDING"
            await relay.orders.register(
                relay.retailer_id, [Registration(OrderId("o-9"), "ada")], credential=keys.SHARED_CREDENTIAL
            )

            done = await relay.actions.decide_replacement(
                relay.retailer_id, OrderId("o-9"), item["id"], "APPROVED", CAUSE
            )
            said = await relay.actions.send_message(relay.retailer_id, OrderId("o-9"), "Thank you!", CAUSE)

            assert done == {"id": item["id"], "replacement_status": "APPROVED"}
            assert said["body"] == "Thank you!"
            with pytest.raises(Conflict, match="APPROVED"):
                await relay.actions.decide_replacement(relay.retailer_id, OrderId("o-9"), item["id"], "REJECTED", CAUSE)
            with pytest.raises(NotFound):
                await relay.actions.send_message(relay.retailer_id, OrderId("o-0"), "Hello?", CAUSE)

    asyncio.run(main())


def test_tokens_are_minted_once_shared_renewed_and_refusals_are_not_hammered(redis_url: str, vault: Vault) -> None:
    async def main() -> None:
        minted: list[Any] = []
        refuse = False

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                return
            body = (await receive())["body"]
            minted.append(body)
            status, answer = 200, b'{"access_token": "t-%d", "expires_in": 3600}' % len(minted)
            if refuse:
                status, answer = 401, b'{"error": "invalid_client"}'
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": answer})

        db = Db(open_client(redis_url))
        credential = Credential("shared", "client", "secret")
        async with serving(app) as url, httpx.AsyncClient(base_url=url, trust_env=False) as http:
            tokens = Tokens(http, StoredTokens(db, vault))
            several = await asyncio.gather(*(tokens.access(credential, "ada") for _ in range(20)))
            assert {one.token for one in several} == {"t-1"}
            other_process = Tokens(http, StoredTokens(db, vault))
            assert (await other_process.access(credential, "ada")).token == "t-1"
            renewed = await asyncio.gather(*(tokens.renewed(credential, "ada", Access("t-1")) for _ in range(5)))
            assert {one.token for one in renewed} == {"t-2"}
            assert (await tokens.access(credential, "bob")).token == "t-3"
            refuse = True
            for _ in range(5):
                with pytest.raises(TokenRefused):
                    await tokens.access(credential, "eve")
            assert len(minted) == 4
            everything = [await db.run("GET", name) for name in await db.run("KEYS", "*token*")]
            assert all(b"t-" not in value for value in everything)
        await db.aclose()

    asyncio.run(main())
