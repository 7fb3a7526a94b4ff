"""/_sim: what can be done to orders, and the report of what was served."""

from typing import Any

import pytest

from relay.simulator.app import Simulator
from relay.simulator.world import RESOURCES
from tests.simulator.support import Wall, ask, poll_path, still


def poll(simulator: Simulator, order_id: str = "x") -> None:
    for resource in RESOURCES:
        assert ask(simulator.app, "GET", poll_path(order_id, resource)).status == 200


def control(simulator: Simulator, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
    got = ask(simulator.app, method, f"/_sim{path}", body, token=None)
    assert got.status == status, got.body
    return got.json if got.body else None


def with_order(wall: Wall | None = None, **state: Any) -> Simulator:
    simulator = still(wall, orders=0)
    state = {"handling": {"status": "picking"}, "items": [{"id": "i", "status": "pending", "quantity": 1}], **state}
    control(simulator, "POST", "/orders", {"order_id": "x", **state}, status=201)
    return simulator


def reported(simulator: Simulator, **query: int) -> Any:
    path = "&".join(f"{key}={value}" for key, value in query.items())
    return ask(simulator.app, "GET", "/_sim/report", query=path).json


def test_the_report_counts_what_differs_between_served_answers() -> None:
    wall = Wall()
    simulator = with_order(wall)
    poll(simulator)
    control(simulator, "PATCH", "/orders/x", {"status": "staging", "notes": "ring"})
    control(simulator, "PUT", "/orders/x/items/i", {"status": "found", "quantity": 2})
    control(simulator, "PUT", "/orders/x/items/j", {"status": "pending"})
    control(simulator, "POST", "/orders/x/messages", {"sender": "shopper", "body": "Hi"}, status=201)
    assert reported(simulator)["changes"] == 0
    wall.now += 5
    poll(simulator)
    poll(simulator)
    report = reported(simulator)

    assert report["changes"] == 6 == len(report["facts"])
    assert {(fact["resource"], fact["fact"], fact["subject_id"]) for fact in report["facts"]} == {
        ("handling", "status", "x"),
        ("handling", "notes", "x"),
        ("items", "status", "i"),
        ("items", "quantity", "i"),
        ("items", "added", "j"),
        ("messages", "new", "x-m1"),
    }
    assert {fact["at"] for fact in report["facts"]} == {wall.now}
    assert report["orders"]["x"]["answers"] == control(simulator, "GET", "/truth/x")
    assert report["requests"] == {"total": 9, "by_status": {"200": 9}, "max_in_a_second": 6}
    assert reported(simulator, since=4)["facts"] == report["facts"][4:]
    assert reported(simulator, since=4)["changes"] == 6


def test_a_state_that_came_and_went_between_two_answers_is_no_fact() -> None:
    simulator = with_order()
    poll(simulator)
    control(simulator, "PATCH", "/orders/x", {"status": "staging"})
    control(simulator, "PATCH", "/orders/x", {"status": "picking"})
    poll(simulator)

    assert reported(simulator)["changes"] == 0
    assert [one["what"] for one in reported(simulator)["happened"]] == ["created", "status", "status"]
    assert len(reported(simulator, happened_since=2)["happened"]) == 1


def test_errors_are_not_served_answers() -> None:
    simulator = with_order()
    poll(simulator)
    control(simulator, "PATCH", "/orders/x", {"status": "staging"})
    control(simulator, "POST", "/faults", {"fault": "500:1"}, status=201)
    assert ask(simulator.app, "GET", poll_path("x", "handling")).status == 500
    assert ask(simulator.app, "GET", poll_path("x", "handling"), token="wrong").status == 401

    assert reported(simulator)["changes"] == 0
    assert reported(simulator)["orders"]["x"]["answers"]["handling"]["status"] == "picking"
    assert reported(simulator)["requests"]["by_status"] == {"200": 3, "401": 1, "500": 1}


def test_null_takes_a_field_away_and_nested_objects_are_merged() -> None:
    simulator = with_order(handling={"notes": "x", "address": {"city": "a", "state": "b"}})
    handling = control(simulator, "PATCH", "/orders/x", {"notes": None, "address": {"city": "c", "state": None}})

    assert handling == {"order_id": "x", "address": {"city": "c"}}


def test_items_are_set_suggested_and_removed() -> None:
    simulator = with_order()
    offer = {"product_name": "B", "product_id": "p", "quantity": 1}
    suggested = control(simulator, "POST", "/orders/x/suggest", {"replacement": offer})
    assert suggested == {
        "id": "i",
        "status": "replaced",
        "quantity": 1,
        "replacement": offer,
        "replacement_status": "PENDING",
    }
    control(simulator, "POST", "/orders/x/suggest", status=404)

    control(simulator, "DELETE", "/orders/x/items/i", status=204)
    control(simulator, "DELETE", "/orders/x/items/i", status=404)
    assert control(simulator, "GET", "/truth/x")["items"] == {"items": []}


def test_an_order_without_scenario_advances_along_the_straight_way() -> None:
    simulator = with_order(handling={"status": "brand_new"})
    way = [control(simulator, "POST", "/orders/x/advance")["status"] for _ in range(6)]

    assert way == ["acknowledged", "picking", "staging", "delivering", "delivered", "delivered"]
    assert reported(simulator)["orders"]["x"]["ended"] is True
    assert control(simulator, "POST", "/orders/x/advance", {"status": "canceled"})["status"] == "canceled"


def test_advancing_a_scenario_brings_its_rest_forward() -> None:
    wall = Wall()
    simulator = still(wall, orders=1)
    last = max(at for at, _ in simulator._plans["o-1"])
    assert control(simulator, "POST", "/orders/o-1/advance")["status"] == "acknowledged"
    assert control(simulator, "POST", "/orders/o-1/advance")["status"] == "picking"
    happened = [one["at"] for one in reported(simulator)["happened"]]
    sooner = max(at for at, _ in simulator._plans["o-1"])
    wall.now = sooner + 1

    assert set(happened) == {simulator.clock.start}
    assert sooner < last
    assert reported(simulator)["orders"]["o-1"]["ended"] is True


def test_an_order_may_be_created_to_follow_the_scenario() -> None:
    wall = Wall()
    simulator = still(wall, orders=0)
    created = control(simulator, "POST", "/orders", {"user_id": "u"}, status=201)
    wall.now += 4 * 3600
    orders = control(simulator, "GET", "/orders")["orders"]

    assert (created["order_id"], created["handling"]["status"]) == ("o-1", "brand_new")
    assert [(order["user_id"], order["status"]) for order in orders] in ([("u", "delivered")], [("u", "canceled")])


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/orders", {"order_id": "x"}, 409),
        ("POST", "/orders", {"surprise": 1}, 422),
        ("POST", "/orders", {"items": [{"id": 5}]}, 422),
        ("POST", "/orders", {"handling": {}, "scenario": True}, 422),
        ("POST", "/orders", {"handling": 5}, 422),
        ("POST", "/orders", {"user_id": 5}, 422),
        ("POST", "/orders", b"{", 422),
        ("PATCH", "/orders/none", {}, 404),
        ("POST", "/orders/x/messages", {"sender": "robot", "body": "Hi"}, 422),
        ("POST", "/orders/x/messages", {"sender": "shopper", "body": ""}, 422),
        ("POST", "/faults", {"fault": "surprise"}, 422),
        ("GET", "/truth/none", None, 404),
    ],
)
def test_what_cannot_be_done_is_said(method: str, path: str, body: Any, status: int) -> None:
    error = control(with_order(), method, path, body, status=status)

    assert error["status"] == status
    assert error["error"]


def test_reset_starts_again_and_keeps_tokens() -> None:
    wall = Wall()
    simulator = still(wall, orders=2)
    before = control(simulator, "GET", "/truth/o-2")
    wall.now += 7200
    poll(simulator, "o-2")
    control(simulator, "POST", "/reset")

    assert control(simulator, "GET", "/truth/o-2") == before
    assert reported(simulator)["requests"]["total"] == 0
    poll(simulator, "o-1")
