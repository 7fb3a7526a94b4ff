"""The simulator in the live dialect: shapes, error bodies, redaction, validators and compression."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from relay.simulator.app import Simulator, SimulatorConfig
from relay.simulator.faults import parse

BASE = "/v2/post_checkout"


@asynccontextmanager
async def served(**config: Any) -> AsyncIterator[tuple[Simulator, httpx.AsyncClient]]:
    simulator = Simulator(SimulatorConfig(orders=0, static_token="t", **{"dialect": "connect", **config}))
    transport = httpx.ASGITransport(simulator.app)
    headers = {"authorization": "Bearer t", "accept-encoding": "identity"}
    async with httpx.AsyncClient(transport=transport, base_url="http://upstream", headers=headers) as http:
        yield simulator, http


async def pending(http: httpx.AsyncClient, order_id: str = "o-1", status: str = "picking") -> str:
    handling = {"status": status, "shopper": {"name": "Maya"}, "address": {"city": "Bern", "state": "BE"}}
    await http.post("/_sim/orders", json={"order_id": order_id, "handling": handling})
    item = (await http.post(f"/_sim/orders/{order_id}/suggest", json={})).json()
    return str(item["id"])


def test_answers_have_the_documented_shapes() -> None:
    async def main() -> None:
        async with served() as (_, http):
            item_id = await pending(http)
            await http.post("/_sim/orders/o-1/messages", json={"sender": "shopper", "body": "Hi"})
            details = (await http.get(f"{BASE}/orders/o-1")).json()
            handling = (await http.get(f"{BASE}/orders/o-1/handling")).json()
            items = (await http.get(f"{BASE}/orders/o-1/items")).json()["line_items"]
            chat = (await http.get(f"{BASE}/chat/o-1/messages")).json()

            assert details["workflow_state"] == "verifying_replacements"
            assert "status" not in handling
            assert "order_id" not in handling
            assert handling["address"] == {"locality": "Bern", "administrative_area": "BE", "country_code": "US"}
            (one,) = [item for item in items if item["id"] == item_id]
            assert (one["status"], one["replacement_status"]) == ("REPLACED", "PENDING")
            assert type(one["item"]["quantity"]) is str
            assert "product_id" not in one["replacement"]
            (message,) = chat["chat_messages"]
            assert type(message["id"]) is int
            assert message["id"] > 2**53
            assert (message["sender_type"], message["recipient_type"]) == ("driver", "user")
            assert chat["metadata"] == {"is_expired": False}
            assert (await http.get(f"{BASE}/orders/o-1/location")).json() == {}

    asyncio.run(main())


@pytest.mark.parametrize(
    ("body", "code", "key"),
    [
        ({"status": "APPROVED", "alternative_item": {"upc": "1", "count": 1}}, 1001, "alternative_item"),
        ({"status": "REJECTED", "alternative_item": {"upc": "1", "rrc": "2", "count": 1}}, 1001, "alternative_item"),
        ({"status": "REJECTED", "alternative_item": {"upc": "1", "weight": 0}}, 1001, "alternative_item"),
        ({"status": "MAYBE"}, 1001, "status"),
    ],
)
def test_a_bad_decision_is_refused_in_the_live_form(body: dict[str, Any], code: int, key: str) -> None:
    async def main() -> None:
        async with served() as (_, http):
            item_id = await pending(http)
            path = f"{BASE}/orders/o-1/items/{item_id}/replacement"
            answer = await http.put(path, json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
            assert answer.json()["meta"] == {"key": key}
            assert (await http.put(path, json={"status": "APPROVED"})).json() == {}
            again = (await http.put(path, json={"status": "APPROVED"})).json()
            assert again["error"] == {"message": "Order item change already responded to", "code": None}

    asyncio.run(main())


def test_redaction_and_the_end_of_a_chat() -> None:
    async def main() -> None:
        async with served(redacted=True) as (_, http):
            await pending(http)
            assert "shopper" not in (await http.get(f"{BASE}/orders/o-1/handling")).json()
            for path in (f"{BASE}/chat/o-1/messages", f"{BASE}/orders/o-1/location"):
                answer = await http.get(path)
                assert answer.status_code == 403
                assert answer.json() == {"error": {"message": "Shopper PII", "code": None}}
        async with served(speed=1e7) as (_, http):
            await pending(http)
            await http.post("/_sim/orders/o-1/messages", json={"sender": "shopper", "body": "Hi"})
            await http.patch("/_sim/orders/o-1", json={"status": "delivered"})
            said = await http.post(f"{BASE}/chat/o-1/messages", json={"body": "Thanks"})
            assert said.status_code == 403
            await asyncio.sleep(0.02)  # more than a simulated day
            chat = (await http.get(f"{BASE}/chat/o-1/messages")).json()
            assert chat == {"chat_messages": [], "metadata": {"is_expired": True}}

    asyncio.run(main())


def test_pickup_details_are_for_pickup_orders() -> None:
    async def main() -> None:
        async with served() as (_, http):
            kinds = {}
            for number in range(8):
                await pending(http, f"o-{number}")
                details = (await http.get(f"{BASE}/orders/o-{number}")).json()
                answer = await http.get(f"{BASE}/orders/o-{number}/pickup/details")
                kinds[details["fulfillment_type"]] = answer.status_code
                if answer.status_code == 400:
                    assert answer.json()["error"]["code"] == 4001
            assert kinds == {"pickup": 200, "delivery": 400}

    asyncio.run(main())


@pytest.mark.parametrize("dialect", ["specification", "connect"])
def test_validators_and_compression(dialect: str) -> None:
    async def main() -> None:
        async with served(dialect=dialect, validators=True, gzip=True) as (_, http):
            await pending(http)
            path = f"{BASE}/orders/o-1/items"
            plain = await http.get(path)
            assert "content-encoding" not in plain.headers
            packed = await http.get(path, headers={"accept-encoding": "gzip"})
            assert packed.headers["content-encoding"] == "gzip"
            assert packed.content == plain.content == gzip.decompress(gzip.compress(plain.content))
            condition = {"if-none-match": plain.headers["etag"]}
            same = await http.get(path, headers=condition)
            assert (same.status_code, same.content) == (304, b"")
            await http.post("/_sim/orders/o-1/suggest", json={})
            assert (await http.get(path, headers=condition)).status_code == 200

    asyncio.run(main())


def test_faults_hit_the_other_resources_too() -> None:
    async def main() -> None:
        async with served() as (simulator, http):
            await pending(http)
            simulator.faults.add(parse("malformed:1:resource=details:count=1"), simulator.clock.now().wall)
            assert (await http.get(f"{BASE}/orders/o-1")).content.endswith(b",}")
            assert (await http.get(f"{BASE}/orders/o-1")).json()["fulfillment_type"]

    asyncio.run(main())
