"""The five operations and the token endpoint."""

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import InvalidInput
from relay.simulator.app import Simulator, SimulatorConfig
from relay.simulator.world import RESOURCES
from tests.simulator.support import NOON, TOKEN, Got, Wall, ask, poll_path, still
from tests.simulator.test_lives import validator

PUT, CHAT = "/v2/post_checkout/orders/o-1/items/{}/replacement", "/v2/post_checkout/chat/o-1/messages"


def assertion(user_id: str) -> str:
    return base64.b64encode(msgspec.json.encode({"user_id": user_id})).decode()


def request(**changed: Any) -> dict[str, Any]:
    return {
        "client_id": "sim-client",
        "client_secret": "sim-secret",
        "grant_type": "fulfillment_user_assertion",
        "scope": "connect:post_checkout",
        "assertion": assertion("user-1"),
        **changed,
    }


def token_for(simulator: Simulator, user_id: str) -> str:
    got = ask(simulator.app, "POST", "/v2/oauth/token", request(assertion=assertion(user_id)), token=None)
    return str(got.json["access_token"])


def is_refusal(got: Got, status: int) -> bool:
    validator("Error").validate(got.json)
    return got.status == status == got.json["status"] and isinstance(got.json["error"], str)


def with_suggestion() -> tuple[Simulator, str]:
    simulator = still(orders=1)
    item_id = next(iter(simulator.world.orders["o-1"].items))
    assert ask(simulator.app, "POST", "/_sim/orders/o-1/suggest", {"item_id": item_id}).status == 200
    return simulator, item_id


def test_a_token_is_issued_as_documented() -> None:
    got = ask(still().app, "POST", "/v2/oauth/token", request(), token=None)

    assert got.status == 200
    assert got.json.keys() == {"access_token", "token_type", "expires_in", "scope", "created_at"}
    assert (got.json["token_type"], got.json["expires_in"]) == ("Bearer", 86400)
    assert (got.json["scope"], got.json["created_at"]) == ("connect:post_checkout", int(NOON))


@pytest.mark.parametrize(
    ("changed", "query", "status"),
    [
        ({"client_secret": "wrong"}, "", 401),
        ({"client_id": "wrong"}, "", 401),
        ({"grant_type": "client_credentials"}, "", 400),
        ({"scope": "connect:fulfillment"}, "", 400),
        ({"assertion": "not base64!"}, "", 400),
        ({"assertion": base64.b64encode(b'{"user_id": u}').decode()}, "", 400),
        ({}, "client_id=sim-client", 403),
    ],
)
def test_a_wrong_token_request_is_refused(changed: dict[str, Any], query: str, status: int) -> None:
    got = ask(still().app, "POST", "/v2/oauth/token", request(**changed), token=None, query=query)

    assert got.status == status
    assert got.json["error"]


@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("token", [None, "unknown", ""])
def test_without_a_known_token_nothing_is_shown(resource: str, token: str | None) -> None:
    assert is_refusal(ask(still().app, "GET", poll_path("o-1", resource), token=token), 401)


def test_tokens_end_by_time_and_on_demand() -> None:
    wall = Wall()
    simulator = still(wall, token_lifetime=100)
    first = token_for(simulator, "user-1")
    wall.now += 99.9
    assert ask(simulator.app, "GET", poll_path("o-1", "items"), token=first).status == 200
    wall.now += 0.1
    assert is_refusal(ask(simulator.app, "GET", poll_path("o-1", "items"), token=first), 401)

    second = token_for(simulator, "user-1")
    assert ask(simulator.app, "DELETE", "/_sim/tokens").json == {"expired": 2}
    assert is_refusal(ask(simulator.app, "GET", poll_path("o-1", "items"), token=second), 401)
    assert ask(simulator.app, "GET", poll_path("o-1", "items"), token=TOKEN).status == 200


def test_a_token_sees_its_users_orders_and_those_of_nobody() -> None:
    simulator = still()
    ask(simulator.app, "POST", "/_sim/orders", {"order_id": "free"})
    token = token_for(simulator, "user-1")
    statuses = {
        order_id: ask(simulator.app, "GET", poll_path(order_id, "handling"), token=token).status
        for order_id in ("o-1", "o-2", "free", "missing")
    }

    assert statuses == {"o-1": 200, "o-2": 404, "free": 200, "missing": 404}


def test_without_user_ids_every_token_sees_every_order() -> None:
    simulator = still(user_ids=False)

    assert ask(simulator.app, "GET", poll_path("o-3", "items"), token=token_for(simulator, "anyone")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/post_checkout/orders/none/handling", 404),
        ("GET", "/v2/post_checkout/orders/o-1", 404),
        ("GET", "/v2/post_checkout/orders/o-1/messages", 404),
        ("POST", "/v2/post_checkout/orders/o-1/items", 405),
        ("PUT", "/v2/post_checkout/orders/o-1/items/none/replacement", 404),
    ],
)
def test_other_paths_are_errors(method: str, path: str, status: int) -> None:
    assert is_refusal(ask(still().app, method, path, {"status": "APPROVED"}), status)


def test_ids_may_need_escaping() -> None:
    simulator = still()
    ask(simulator.app, "POST", "/_sim/orders", {"order_id": "a/b ü"})

    assert ask(simulator.app, "GET", "/v2/post_checkout/orders/a%2Fb%20%C3%BC/handling").json["order_id"] == "a/b ü"


def test_an_approved_replacement_stays() -> None:
    simulator, item_id = with_suggestion()
    got = ask(simulator.app, "PUT", PUT.format(item_id), {"status": "APPROVED"})
    item = simulator.world.orders["o-1"].items[item_id]

    assert (got.status, got.json) == (200, {"id": item_id, "replacement_status": "APPROVED"})
    validator("ReplacementResponse").validate(got.json)
    assert (item["status"], item["replacement_status"]) == ("replaced", "APPROVED")
    assert is_refusal(ask(simulator.app, "PUT", PUT.format(item_id), {"status": "REJECTED"}), 400)


def test_a_rejected_replacement_is_refunded() -> None:
    simulator, item_id = with_suggestion()
    ask(simulator.app, "PUT", PUT.format(item_id), {"status": "REJECTED"})
    served = ask(simulator.app, "GET", poll_path("o-1", "items")).json["items"]
    item = next(item for item in served if item["id"] == item_id)

    assert (item["status"], item["replacement_status"]) == ("refunded", "REJECTED")


@pytest.mark.parametrize("body", [{"status": "PENDING"}, {"status": ["APPROVED"]}, {}, [], b"", b"{", b"\xff"])
def test_a_decision_must_be_one(body: Any) -> None:
    simulator, item_id = with_suggestion()

    assert is_refusal(ask(simulator.app, "PUT", PUT.format(item_id), body), 400)
    assert simulator.world.orders["o-1"].items[item_id]["replacement_status"] == "PENDING"


def test_a_decision_needs_a_pending_replacement() -> None:
    simulator = still(orders=1)
    item_id = next(iter(simulator.world.orders["o-1"].items))

    assert is_refusal(ask(simulator.app, "PUT", PUT.format(item_id), {"status": "APPROVED"}), 400)


def test_a_message_is_sent_and_read_back() -> None:
    simulator = still()
    got = ask(simulator.app, "POST", CHAT, {"body": "Grüße 🙂"})
    chat = ask(simulator.app, "GET", poll_path("o-1", "messages")).json

    validator("ChatMessage").validate(got.json)
    assert (got.status, got.json["sender"], got.json["body"]) == (200, "customer", "Grüße 🙂")
    assert chat == {"messages": [got.json]}


@settings(max_examples=40)
@given(length=st.one_of(st.integers(0, 3), st.integers(998, 1003), st.just(200_000)))
def test_a_message_has_1_to_1000_characters(length: int) -> None:
    simulator = still(orders=1)
    got = ask(simulator.app, "POST", CHAT, {"body": "é" * length})

    assert got.status == (200 if 1 <= length <= 1000 else 400)
    assert len(simulator.world.orders["o-1"].messages) == (got.status == 200)


@pytest.mark.parametrize("body", [{"body": 5}, {"body": None}, {}, [], b"not json"])
def test_a_message_must_be_text(body: Any) -> None:
    assert is_refusal(ask(still().app, "POST", CHAT, body), 400)


def test_a_customers_decision_stands_against_the_scripts() -> None:
    """Whatever the script still plans for an item, a decision that came in is never overwritten."""
    wall = Wall()
    simulator = still(wall, orders=8)
    decided: dict[tuple[str, str], str] = {}
    for _ in range(260):
        wall.now += 60
        simulator.tick()
        for order in simulator.world.orders.values():
            for item_id, item in order.items.items():
                if item.get("replacement_status") == "PENDING" and not order.ended:
                    path = f"/v2/post_checkout/orders/{order.order_id}/items/{item_id}/replacement"
                    assert ask(simulator.app, "PUT", path, {"status": "REJECTED"}).status == 200
                    decided[order.order_id, item_id] = "REJECTED"
    final = {key: simulator.world.orders[key[0]].items[key[1]]["replacement_status"] for key in decided}

    assert len(decided) > 5
    assert final == decided


def test_an_unchanged_answer_is_not_rendered_again() -> None:
    order = still().world.orders["o-1"]

    assert order.body("items") is order.body("items")


@pytest.mark.parametrize("settings", [{"orders": -1}, {"speed": 0}, {"rate_limit": 0}])
def test_senseless_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="must"):
        SimulatorConfig(**settings)
