"""Orders as a hostile upstream, or an impatient retailer, makes them: odd ids, huge chats, decisions sent twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from relay.model.orders import OrderId, RetailerId
from relay.simulator.app import Simulator, SimulatorConfig
from relay.simulator.faults import parse
from relay.store.order_records import Registration, UserToken
from relay.store.retailers import SCOPES, Retailers
from tests.support.rig import Answer, Answers, Rig, eventually, open_rig, serving
from tests.support.shop import Shop, open_shop

pytestmark = pytest.mark.timeout(120)

ODD_ORDER = "a/ö:1?#%2F&=+..//" + "x" * 200
ODD_ITEM = "a/b ü#?%2F;../replacement" + "y" * 200


@asynccontextmanager
async def trading(redis_url: str, order_id: str, item_id: str = "i-1") -> AsyncIterator[tuple[Shop, Simulator]]:
    """A shop whose order is polled, with a replacement to decide about."""
    simulator = Simulator(SimulatorConfig(orders=0, static_token="good-token"))
    async with (
        serving(simulator.app) as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as controls,
        open_shop(redis_url, simulator.app, RELAY_UPSTREAM_URL=url) as shop,
    ):
        oats = {"product_name": "Oat milk", "quantity": 1}
        item: dict[str, Any] = {"id": item_id, "product_name": "Milk", "quantity": 1, "status": "replaced"}
        item |= {"replacement": oats, "replacement_status": "PENDING"}
        body = {"order_id": order_id, "handling": {"status": "picking"}, "items": [item], "messages": []}
        (await controls.post("/_sim/orders", json=body)).raise_for_status()
        registration = {"order_id": order_id, "access_token": {"token": "good-token"}}
        assert (await shop.ask("POST", "/v1/orders", registration)).status_code == 201
        shop.rig.poll()
        await eventually(shop.rig.events)
        yield shop, simulator
        await shop.rig.stop()


async def told(rig: Rig, type_: str) -> list[dict[str, Any]]:
    return [event["data"] for event in await rig.events() if event["type"] == type_]


def test_ids_may_be_any_text(redis_url: str) -> None:
    async def main() -> None:
        async with trading(redis_url, ODD_ORDER, ODD_ITEM) as (shop, simulator):
            order = f"/v1/orders/{quote(ODD_ORDER, safe='')}"
            assert (await shop.got(order))["items"][0]["id"] == ODD_ITEM
            path = f"{order}/items/{quote(ODD_ITEM, safe='')}/replacement"
            answer = await shop.ask("PUT", path, {"status": "APPROVED"})

            assert answer.status_code == 200, answer.text
            assert answer.json() == {"id": ODD_ITEM, "replacement_status": "APPROVED"}
            (event,) = await eventually(partial(told, shop.rig, "order.replacement_approved"))
            assert event["order_id"] == ODD_ORDER
            assert event["item"]["id"] == ODD_ITEM
            assert event["caused_by"]["type"] == "retailer"
            assert [one.what for one in simulator.world.happened if one.by == "customer"] == ["approved"]
            assert (await shop.ask("DELETE", order)).status_code == 202

    asyncio.run(main())


def test_two_retailers_may_track_the_same_order(redis_url: str) -> None:
    async def main() -> None:
        async with trading(redis_url, "o-1") as (shop, _):
            rig = shop.rig
            other = await Retailers(rig.db, rig.vault).create("Other", upstream=None, budget=None, limits={})
            one = Registration(OrderId("o-1"), None, UserToken("good-token"))
            await rig.orders.register(other.id, [one], credential="shared")
            await eventually(lambda: rig.log.after(other.id, "0-0", 10))
            _, key = await Retailers(rig.db, rig.vault).issue(other.id, name="", scopes=SCOPES, expires_ms=None)

            assert (await shop.ask("DELETE", "/v1/orders/o-1?purge=true")).status_code == 202

            theirs = await shop.client.get("/v1/orders/o-1", headers={"authorization": f"Bearer {key}"})
            assert theirs.json()["tracking"] == "active"
            kept = await rig.log.after(RetailerId(other.id), "0-0", 10)
            assert [entry.type for entry in kept] == ["order.tracking_started"]

    asyncio.run(main())


def test_a_message_sent_again_with_its_key_goes_out_once_whatever_became_of_the_first(redis_url: str) -> None:
    async def main() -> None:
        async with trading(redis_url, "o-1") as (shop, simulator):
            say, hello = partial(shop.ask, "POST", "/v1/orders/o-1/messages"), {"body": "The ripe ones, please."}
            simulator.faults.add(parse("cut:1:resource=chat:count=1"), simulator.clock.now().wall)

            lost = await say(hello, **{"idempotency-key": "k-1"})
            again = [await say(hello, **{"idempotency-key": "k-1"}) for _ in range(3)]
            assert lost.json()["code"] == "outcome_unknown"
            assert {answer.status_code for answer in again} <= {200, 409}  # 200 once its consequence was seen
            await eventually(partial(told, shop.rig, "order.message_created"))
            await eventually(lambda: _status(say, hello, "k-1", 200))
            assert (await say({"body": "Something else"}, **{"idempotency-key": "k-1"})).status_code == 422
            assert [one.what for one in simulator.world.happened if one.by == "customer"] == ["customer"]

            both = await asyncio.gather(*(say(hello, **{"idempotency-key": "k-2"}) for _ in range(2)))
            assert sorted(answer.status_code for answer in both) in ([200, 200], [200, 409])
            assert len([one for one in simulator.world.happened if one.by == "customer"]) == 2
            await say(hello)
            await say(hello)  # without a key each is a message of its own
            assert len([one for one in simulator.world.happened if one.by == "customer"]) == 4

    asyncio.run(main())


async def _status(say: Any, body: Any, key: str, status: int) -> bool:
    return bool((await say(body, **{"idempotency-key": key})).status_code == status)


def test_a_decision_at_the_moment_of_the_end_is_sent_at_most_once(redis_url: str) -> None:
    async def main() -> None:
        async with trading(redis_url, "o-1") as (shop, simulator):
            now = simulator.clock.now()
            simulator.faults.add(parse("latency:300ms:1:resource=replacement"), now.wall)
            decide = partial(shop.ask, "PUT", "/v1/orders/o-1/items/i-1/replacement", {"status": "REJECTED"})
            clicks = [asyncio.create_task(decide()) for _ in range(3)]
            simulator.world.handle(simulator.world.order("o-1"), {"status": "delivered"}, now, "control")
            answers = await asyncio.gather(*clicks)

            assert {answer.status_code for answer in answers} <= {200, 409}
            assert len([one for one in simulator.world.happened if one.by == "customer"]) <= 1
            await eventually(partial(told, shop.rig, "order.tracking_ended"), within=30)
            assert (await decide()).status_code == 409

    asyncio.run(main())


def test_a_chat_of_ten_thousand_messages_is_told_message_by_message(redis_url: str) -> None:
    async def main() -> None:
        upstream = Answers()
        messages = [
            {"id": f"m-{n}", "sender": "shopper", "body": f"Nº {n}", "created_at": "2026-11-23T12:00:00Z"}
            for n in range(10_000)
        ]
        async with open_rig(redis_url, upstream, deadline=10.0) as rig:
            await rig.track("o-1")
            rig.poll()
            await eventually(rig.events)
            upstream.messages = Answer({"messages": messages})
            await eventually(lambda: _created(rig, 10_000), within=60)

            said = await told(rig, "order.message_created")
            assert [event["message"]["id"] for event in said] == [one["id"] for one in messages]
            assert [event["sequence"] for event in said] == list(range(2, 10_002))
            upstream.messages = Answer({"messages": [*messages, {"id": "m-last", "sender": "shopper", "body": "!"}]})
            await eventually(lambda: _created(rig, 10_001), within=30)

    asyncio.run(main())


async def _created(rig: Rig, count: int) -> bool:
    return int(await rig.db.run("XLEN", f"relay:1:{{0}}:log:{rig.retailer_id}")) >= count + 1
