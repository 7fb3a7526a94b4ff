"""Orders of the live dialect, from the simulator that speaks it to a receiver's picture of them."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import httpx
import pytest

from relay.access import TokenBroker
from relay.actions import Actions
from relay.engine import EngineTransport
from relay.errors import Conflict, InvalidInput
from relay.model.cadence import Cadence
from relay.model.changes import Cause
from relay.model.lifecycle import Policy
from relay.model.orders import OrderId, Resource, Tracking
from relay.simulator.app import Simulator, SimulatorConfig
from relay.store.decisions import Decisions
from relay.store.order_records import Registration, UserToken
from relay.store.orders import Orders
from relay.store.tokens import StoredTokens
from relay.upstream.client import HttpUpstream
from relay.upstream.connect import Connect
from relay.upstream.tokens import Tokens
from tests.support.rig import NoMinting, Rig, eventually, open_rig

pytestmark = pytest.mark.timeout(120)

CAUSE = Cause("key_1", "req_1", "2026-11-24T12:00:00.000Z")
POLICY = Policy(
    Cadence(scale=0.002, floor=0.05, status_in_details=True),
    patience_ms=500,
    confirm_after_ms=50,
    late_ms=200,
    resources=Connect.required,
    location=True,
)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 100))


async def track(rig: Rig, simulator: Simulator) -> list[str]:
    names = list(simulator.world.orders)
    wanted = [Registration(OrderId(name), None, UserToken("good-token")) for name in names]
    await Orders(rig.db, rig.vault, Connect.required).register(rig.retailer_id, wanted, credential="shared")
    return names


@pytest.mark.parametrize("redacted", [False, True])
def test_lives_are_followed_to_their_end(redis_url: str, redacted: bool) -> None:
    async def main() -> None:
        simulator = Simulator(
            SimulatorConfig(
                orders=5, speed=900, static_token="good-token", dialect="connect", redacted=redacted,
                validators=True, gzip=True,
            )
        )  # fmt: skip
        async with open_rig(redis_url, simulator.app) as rig:
            await rig.subscribe()
            names = await track(rig, simulator)
            pump = rig.poll(POLICY, dialect=Connect())
            rig.deliver()

            async def all_over() -> bool:
                states = [await rig.state(name) for name in names]
                return all(state.tracking is Tracking.ENDED for state in states)

            await eventually(all_over, within=90)
            await eventually(rig.idle)
            for name in names:
                state = await rig.state(name)
                assert rig.folds[name].differences(state.snapshot) == []
                order = simulator.world.orders[name]
                assert state.snapshot.status == order.status
                assert state.snapshot.order is not None
                assert state.snapshot.order["workflow_state"] == order.status
                assert (state.snapshot.pickup is not None) == (state.snapshot.order["fulfillment_type"] == "pickup")
                items = {one["id"]: one for one in (state.snapshot.items or {})["items"]}
                assert {id_: one["product_name"] for id_, one in items.items()} == {
                    id_: one["product_name"] for id_, one in order.items.items()
                }
                if redacted:
                    assert Resource.MESSAGES in state.off
                    assert "shopper" not in state.snapshot.order
                    continue
                said = [(one["sender"], one["body"]) for one in (state.snapshot.messages or {})["messages"]]
                assert said == [(one["sender"], one["body"]) for one in order.messages]
            moved = [event["data"].get("changes", {}).get("after", {}).get("location") for event in await rig.events()]
            assert any(moved) is not redacted
            assert pump.tally["nonsense"] == pump.tally["malformed"] == 0
            assert not [event for event in await rig.events() if event["type"] == "order.tracking_suspended"]

    run(main())


def test_decisions_and_messages_come_back_with_their_cause(redis_url: str) -> None:
    async def main() -> None:
        simulator = Simulator(SimulatorConfig(orders=0, static_token="good-token", dialect="connect"))
        async with open_rig(redis_url, simulator.app) as rig:
            http = httpx.AsyncClient(transport=EngineTransport(rig.engine), base_url=rig.upstream_url, trust_env=False)
            picking = {"order_id": "o-9", "status": "picking"}
            await http.post("/_sim/orders", json={"order_id": "o-9", "handling": picking})
            first, second = [(await http.post("/_sim/orders/o-9/suggest", json={})).json()["id"] for _ in range(2)]
            await track(rig, simulator)
            rig.poll(replace(POLICY, location=False), dialect=Connect())
            await eventually(rig.events)
            orders = Orders(rig.db, rig.vault, Connect.required)
            upstream = HttpUpstream(rig.upstream_url, rig.engine, Connect())
            broker = TokenBroker(orders, Tokens(http, StoredTokens(rig.db, rig.vault)), NoMinting().find)
            actions = Actions(orders, rig.arms, Decisions(rig.db), upstream, broker)
            order = (rig.retailer_id, OrderId("o-9"))
            instead = {"upc": "012345", "count": 1}
            with pytest.raises(Exception, match="alternative_item") as refused:
                await actions.decide_replacement(*order, first, "REJECTED", CAUSE, {"upc": "1", "rrc": "2", "count": 1})
            assert getattr(refused.value, "code", "") == "alternative_item_invalid"
            assert await actions.decide_replacement(*order, first, "REJECTED", CAUSE, instead) == {}
            assert await actions.decide_replacement(*order, second, "APPROVED", CAUSE) == {}
            assert (await actions.send_message(*order, "Thank you!", CAUSE))["type"] == "CHAT"

            async def told() -> list[dict[str, Any]]:
                wanted = ("order.replacement_rejected", "order.replacement_approved", "order.message_created")
                found = [event for event in await rig.events() if event["type"] in wanted]
                return found if len(found) == 3 else []

            for event in await eventually(told):
                assert event["data"]["caused_by"] == {
                    "type": "retailer",
                    "key_id": "key_1",
                    "request_id": "req_1",
                    "at": "2026-11-24T12:00:00.000Z",
                }
            # The same again is answered without asking; another word is not taken.
            asked = simulator.traffic.total
            assert await actions.decide_replacement(*order, second, "APPROVED", CAUSE) == {}
            with pytest.raises(Conflict):
                await actions.decide_replacement(*order, second, "REJECTED", CAUSE)
            assert [one.told for one in await Decisions(rig.db).of(*order)] == [True, True, True]
            assert simulator.traffic.total - asked < 40  # polls only
            await http.aclose()
            await upstream.aclose()

    run(main())


def test_the_simulator_refuses_what_the_documentation_says() -> None:
    with pytest.raises(InvalidInput):
        SimulatorConfig(dialect="esperanto")
