"""The retailer's decisions go through, with minted tokens, and come back as events."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import pytest

from relay.access import TokenBroker
from relay.actions import Actions
from relay.engine import EngineTransport
from relay.errors import Conflict, InvalidInput, NotFound, RateLimited, UpstreamRefused
from relay.model.changes import Cause
from relay.model.events import rfc3339
from relay.model.orders import OrderId, RetailerId
from relay.simulator.app import Simulator, SimulatorConfig
from relay.simulator.faults import parse
from relay.store import keys
from relay.store.decisions import Decisions
from relay.store.order_records import Registration
from relay.store.redis import Db, open_client
from relay.store.tokens import StoredTokens
from relay.upstream.client import HttpUpstream
from relay.upstream.interface import Access
from relay.upstream.specification import Specification
from relay.upstream.tokens import Credential, TokenRefused, Tokens
from relay.vault import Vault
from tests.support import acl
from tests.support.api import open_app
from tests.support.rig import Answer, Answers, NoMinting, Rig, eventually, open_rig, serving

CAUSE = Cause("key_1", "req_1", "2026-11-24T12:00:00.000Z")
LONG_AGO = CAUSE


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


def test_a_message_whose_token_expired_while_upstream_paused_may_be_sent_again(
    redis_url: str, master_keys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 401 says that nothing was sent, also when the second try had no turn: its name is free again."""

    async def main() -> None:
        simulator = Simulator(SimulatorConfig(orders=0))
        async with serving(simulator.app) as url, open_app(redis_url, master_keys, url) as relay:
            picking = {"order_id": "o-9", "status": "picking"}
            await relay.control("/_sim/orders", {"order_id": "o-9", "user_id": "ada", "handling": picking})
            await relay.orders.register(
                relay.retailer_id, [Registration(OrderId("o-9"), "ada")], credential=keys.SHARED_CREDENTIAL
            )
            say = partial(relay.actions.send_message, relay.retailer_id, OrderId("o-9"))
            await say("Hello", CAUSE, once="first")
            simulator.tokens.expire()
            turn, turns = relay.actions._wait_for_turn, 0

            async def one_turn(credential: str) -> None:
                nonlocal turns
                turns += 1
                if turns == 2:
                    raise RateLimited("a pause", retry_after_s=5, code="upstream_busy")
                await turn(credential)

            with monkeypatch.context() as patch:
                patch.setattr(relay.actions, "_wait_for_turn", one_turn)
                with pytest.raises(UpstreamRefused) as refused:
                    await say("Thank you!", CAUSE, once="second")
            assert refused.value.status == 401
            assert turns == 2

            assert (await say("Thank you!", CAUSE, once="second"))["body"] == "Thank you!"
            assert [one.what for one in simulator.world.happened if one.by == "customer"] == ["customer", "customer"]

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
            with acl.admin(redis_url) as admin:
                everything = admin.mget(admin.keys("*token*"))
            assert all(b"t-" not in value for value in everything)
        await db.aclose()

    asyncio.run(main())


@asynccontextmanager
async def acting(redis_url: str, **config: Any) -> AsyncIterator[tuple[Rig, Simulator, Actions, str]]:
    """A polled order with a pending replacement: the rig, the simulator, the actions and the item."""
    simulator = Simulator(SimulatorConfig(orders=0, static_token="good-token", **config))
    async with open_rig(redis_url, simulator.app) as rig:
        http = httpx.AsyncClient(transport=EngineTransport(rig.engine), base_url=rig.upstream_url, trust_env=False)
        picking = {"order_id": "o-9", "status": "picking"}
        await http.post("/_sim/orders", json={"order_id": "o-9", "handling": picking, "user_id": "ada"})
        item = (await http.post("/_sim/orders/o-9/suggest", json={})).json()["id"]
        await rig.track("o-9")
        rig.poll()
        await eventually(rig.events)
        upstream = HttpUpstream(rig.upstream_url, rig.engine, Specification())
        broker = TokenBroker(rig.orders, Tokens(http, StoredTokens(rig.db, rig.vault)), NoMinting().find)
        yield rig, simulator, Actions(rig.orders, rig.arms, Decisions(rig.db), upstream, broker), item
        await http.aclose()
        await upstream.aclose()


async def caused(rig: Rig, type_: str) -> Any:
    found = [event["data"].get("caused_by") for event in await rig.events() if event["type"] == type_]
    return found[0] if found else None


def test_an_answer_that_is_lost_is_no_reason_to_send_again(redis_url: str) -> None:
    async def main() -> None:
        async with acting(redis_url) as (rig, simulator, actions, item):
            order, now = (rig.retailer_id, OrderId("o-9")), simulator.clock.now().wall
            for resource in ("replacement", "chat"):
                simulator.faults.add(parse(f"cut:1:resource={resource}:count=1"), now)
            with pytest.raises(UpstreamRefused) as lost:
                await actions.decide_replacement(*order, item, "APPROVED", CAUSE)
            assert lost.value.code == "outcome_unknown"
            with pytest.raises(UpstreamRefused):
                await actions.send_message(*order, "The ripe ones, please.", CAUSE)
            # It was done all the same, and the events say who did it.
            for type_ in ("order.replacement_approved", "order.message_created"):
                cause = await eventually(partial(caused, rig, type_))
                assert (cause["type"], cause["key_id"]) == ("retailer", "key_1")
            await eventually(partial(_again, actions, *order, item))
            said = [event for event in await rig.events() if event["type"] == "order.message_created"]
            assert len(said) == 1

    asyncio.run(asyncio.wait_for(main(), 40))


@pytest.mark.parametrize(
    ("status", "code", "again"),
    [(302, "outcome_unknown", False), (408, "upstream_rejected", True), (418, "upstream_rejected", True)],
)
def test_only_what_is_certain_not_to_have_been_done_may_be_sent_again_at_once(
    redis_url: str, status: int, code: str, again: bool
) -> None:
    async def main() -> None:
        upstream = Answers()
        upstream.misbehaviour["replacement"] = Answer({}, status=status, headers={"location": "/elsewhere"})
        async with open_rig(redis_url, upstream) as rig:
            await rig.track("o-1")
            broker = TokenBroker(rig.orders, Tokens(httpx.AsyncClient(), StoredTokens(rig.db, rig.vault)), _none)
            over_http = HttpUpstream(rig.upstream_url, rig.engine, Specification())
            actions = Actions(rig.orders, rig.arms, Decisions(rig.db), over_http, broker)
            cause = replace(CAUSE, at=rfc3339(round(time.time() * 1000)))
            for attempt in range(2):
                with pytest.raises((UpstreamRefused, Conflict)) as refused:
                    await actions.decide_replacement(rig.retailer_id, OrderId("o-1"), "i-1", "APPROVED", cause)
                assert refused.value.code == (code if again or attempt == 0 else "in_progress")
            assert len(upstream.asked) == (2 if again else 1)
            await over_http.aclose()

    asyncio.run(asyncio.wait_for(main(), 40))


async def _none(credential_id: str) -> None:
    return None


async def _again(actions: Actions, retailer_id: RetailerId, order_id: OrderId, item: str) -> bool:
    with suppress(Conflict):  # until it is noted that the event was told
        return await actions.decide_replacement(retailer_id, order_id, item, "APPROVED", CAUSE) == {}
    return False


def test_two_at_once_are_sent_once_and_what_upstream_refuses_may_be_tried_again(redis_url: str) -> None:
    async def main() -> None:
        async with acting(redis_url) as (rig, simulator, actions, item):
            order, now = (rig.retailer_id, OrderId("o-9")), simulator.clock.now().wall
            simulator.faults.add(parse("403:1:resource=replacement:count=1"), now)
            simulator.faults.add(parse("429:1:resource=chat:count=1"), now)
            with pytest.raises(UpstreamRefused) as refused:
                await actions.decide_replacement(*order, item, "REJECTED", CAUSE)
            assert refused.value.code == "upstream_forbidden"
            simulator.faults.add(parse("latency:300ms:1:resource=replacement"), now)
            just_now = replace(CAUSE, at=rfc3339(round(time.time() * 1000)))
            both = await asyncio.gather(
                *(actions.decide_replacement(*order, item, "REJECTED", just_now) for _ in range(2)),
                return_exceptions=True,
            )
            assert sorted(type(one).__name__ for one in both) == ["Conflict", "dict"]
            decided = [one for one in simulator.world.happened if one.what == "rejected"]
            assert len(decided) == 1
            with pytest.raises(UpstreamRefused) as busy:
                await actions.send_message(*order, "Hello", CAUSE)
            assert busy.value.code == "upstream_busy"
            await rig.db.run("HSET", keys.budget("shared"), "gate", await rig.db.now_ms() + 20_000)
            with pytest.raises(RateLimited):  # the whole credential pauses
                await actions.send_message(*order, "Hello", CAUSE)

    asyncio.run(asyncio.wait_for(main(), 40))


def test_what_may_have_been_done_is_not_sent_again_until_it_had_time_to_show(redis_url: str) -> None:
    async def main() -> None:
        async with acting(redis_url) as (rig, simulator, actions, item):
            order, now = (rig.retailer_id, OrderId("o-9")), simulator.clock.now().wall
            just_now = replace(CAUSE, at=rfc3339(round(now * 1000)))
            simulator.faults.add(parse("500:1:resource=replacement:count=2"), now)
            with pytest.raises(UpstreamRefused) as unknown:
                await actions.decide_replacement(*order, item, "APPROVED", just_now)
            assert unknown.value.code == "outcome_unknown"
            with pytest.raises(Conflict) as early:
                await actions.decide_replacement(*order, item, "APPROVED", just_now)
            assert early.value.code == "in_progress"
            await Decisions(rig.db).drop(*order, f"replacement/{item}")
            with pytest.raises(UpstreamRefused):
                await actions.decide_replacement(*order, item, "APPROVED", LONG_AGO)
            done = await actions.decide_replacement(*order, item, "APPROVED", CAUSE)
            assert done["replacement_status"] == "APPROVED"
            assert len([one for one in simulator.world.happened if one.what == "approved"]) == 1

    asyncio.run(asyncio.wait_for(main(), 40))


def test_what_is_certain_is_refused_without_asking(redis_url: str) -> None:
    async def main() -> None:
        async with acting(redis_url) as (rig, simulator, actions, item):
            order = (rig.retailer_id, OrderId("o-9"))
            instead = {"upc": "1", "count": 1}
            with pytest.raises(InvalidInput) as unknown:
                await actions.decide_replacement(*order, item, "REJECTED", CAUSE, instead)
            assert unknown.value.code == "not_supported"
            now = simulator.clock.now()
            simulator.world.handle(simulator.world.order("o-9"), {"status": "delivered"}, now, "control")

            async def refused() -> str:
                with pytest.raises(Conflict) as over:
                    await actions.decide_replacement(*order, item, "REJECTED", CAUSE)
                return over.value.code

            await eventually(partial(_is_over, rig))
            assert await refused() in ("order_over", "tracking_ended")
            assert not [one for one in simulator.world.happened if one.what == "rejected"]

    asyncio.run(asyncio.wait_for(main(), 40))


async def _is_over(rig: Rig) -> bool:
    return (await rig.state("o-9")).snapshot.status == "delivered"
