"""The live dialect's answers in the specification's names: mapped, nothing dropped, and total on anything."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import InvalidInput
from relay.model.changes import detect, keyed, order_changes
from relay.model.orders import OrderId, Reading, Resource, Snapshot
from relay.upstream.connect import STATES, Connect, quantity_of, status_of
from relay.upstream.interface import Refusal, UnusableAnswer
from relay.upstream.specification import Specification

DIALECT, ORDER = Connect(), OrderId("o/1")


def parse(resource: Resource, value: Any) -> dict[str, Any]:
    return DIALECT.parse(resource, json.dumps(value).encode(), order_id=ORDER)


def test_paths_are_those_of_the_documentation() -> None:
    paths = {resource: DIALECT.path(ORDER, resource) for resource in Resource}

    assert paths == {
        Resource.DETAILS: "/v2/post_checkout/orders/o%2F1",
        Resource.HANDLING: "/v2/post_checkout/orders/o%2F1/handling",
        Resource.LOCATION: "/v2/post_checkout/orders/o%2F1/location",
        Resource.ITEMS: "/v2/post_checkout/orders/o%2F1/items",
        Resource.MESSAGES: "/v2/post_checkout/chat/o%2F1/messages",
        Resource.PICKUP: "/v2/post_checkout/orders/o%2F1/pickup/details",
    }
    assert DIALECT.replacement_path(ORDER, "i 1") == "/v2/post_checkout/orders/o%2F1/items/i%201/replacement"
    configured = Connect(retailer_id="banner", language="fr-CA", internal_ids=False)
    assert configured.headers == {
        "x-retailer-id": "banner",
        "accept-language": "fr-CA",
        "x-treat-ids-as-internal": "false",
    }


@pytest.mark.parametrize(
    ("state", "status"),
    [
        *((state, status) for state, status in STATES.items()),
        ("RUNNER_SOMETHING_NEW", "staging"),
        ("Checkout", "picking"),
        ("levitating", "levitating"),
        ("Levitating", "Levitating"),
    ],
)
def test_every_state_has_the_specifications_name_and_keeps_its_own(state: str, status: str) -> None:
    value = parse(Resource.DETAILS, {"workflow_state": state, "fulfillment_type": "delivery", "status": 7})

    assert value["status"] == status == status_of(state)
    assert value["workflow_state"] == state
    assert value["upstream_status"] == 7


def test_an_item_in_the_specifications_names_with_all_that_it_had() -> None:
    raw = {
        "id": 9007199254740993,
        "line_num": "1",
        "status": "REPLACED",
        "item": {"name": "Bananas", "quantity": "2.0", "cost_unit": "each", "image_url": None},
        "replacement": {"name": "Plantains", "quantity": "1.5", "cost_unit": "lb"},
        "replacement_status": "PENDING",
        "certified_delivery": True,
    }
    value = parse(Resource.ITEMS, {"line_items": [raw], "page": 1})

    assert value == {
        "page": 1,
        "items": [
            {
                "id": "9007199254740993",
                "line_num": "1",
                "status": "replaced",
                "upstream_status": "REPLACED",
                "product_name": "Bananas",
                "quantity": 2,
                "item": {"name": "Bananas", "quantity": "2.0", "cost_unit": "each", "image_url": None},
                "replacement": {
                    "name": "Plantains",
                    "product_name": "Plantains",
                    "quantity": 1.5,
                    "upstream_quantity": "1.5",
                    "cost_unit": "lb",
                },
                "replacement_status": "PENDING",
                "certified_delivery": True,
            }
        ],
    }
    assert Snapshot(items=value).pending


def test_no_decision_is_none_and_not_picked_is_not_out_of_stock() -> None:
    (one,) = parse(
        Resource.ITEMS,
        {"line_items": [{"id": "a", "status": "not_found", "replacement_status": "SUBSTITUTION_STATUS_UNSPECIFIED"}]},
    )["items"]

    assert one["status"] == "pending"
    assert "replacement_status" not in one
    assert one["upstream_replacement_status"] == "SUBSTITUTION_STATUS_UNSPECIFIED"


def test_a_message_and_an_expired_chat() -> None:
    raw = {"id": 2**60, "order_id": 2**55, "sender_type": "driver", "text": "Hello", "read": False, "body": None}
    value = parse(Resource.MESSAGES, {"chat_messages": [raw], "metadata": {"is_expired": False}})
    expired = parse(Resource.MESSAGES, {"chat_messages": None, "metadata": {"is_expired": True}})

    (message,) = value["messages"]
    assert (message["id"], message["order_id"]) == (str(2**60), str(2**55))
    assert (message["sender"], message["body"], message["text"]) == ("shopper", "Hello", "Hello")
    assert expired == {"messages": [], "metadata": {"is_expired": True}}


@pytest.mark.parametrize(
    ("resource", "value"),
    [
        (Resource.LOCATION, {"message": "Shopper PII"}),
        (Resource.PICKUP, {"error": {"message": "no", "code": 4001}, "request_id": "r"}),
        (Resource.PICKUP, {}),
        (Resource.DETAILS, {"id": 1}),
        (Resource.HANDLING, {"error": {"message": "no"}, "meta": {}}),
        (Resource.ITEMS, {"line_items": None}),
        (Resource.ITEMS, {"line_items": [{"id": 1, "item": "x"}]}),
        (Resource.MESSAGES, {"chat_messages": None}),
    ],
)
def test_what_is_no_state_is_refused(resource: Resource, value: Any) -> None:
    with pytest.raises(UnusableAnswer):
        parse(resource, value)


def test_nulls_and_oddities_are_tolerated() -> None:
    assert parse(Resource.LOCATION, {}) == {}
    assert parse(Resource.MESSAGES, {"chat_messages": None, "is_expired": True})["messages"] == []
    assert parse(Resource.ITEMS, {"line_items": [None]})["items"] == []
    assert parse(Resource.HANDLING, {"alcoholic": False}) == {"alcoholic": False}
    assert parse(Resource.DETAILS, {"workflow_state": None, "status": "Checkout", "fulfillment_type": None}) == {
        "workflow_state": None,
        "status": "picking",
        "upstream_status": "Checkout",
        "fulfillment_type": None,
    }
    assert parse(Resource.PICKUP, {"pickup_instructions": [], "batch_ids": [2**60, "b"], "order_id": 12.0}) == {
        "pickup_instructions": [],
        "batch_ids": [str(2**60), "b"],
        "order_id": "12",
    }
    city = parse(Resource.HANDLING, {"address": {"locality": None, "city": "Bern"}})["address"]["city"]
    assert city == "Bern"


def test_one_fact_is_one_event() -> None:
    """What is kept of upstream's own words goes into the event of the fact that they spell."""

    def kinds(resource: Resource, before: Any, after: Any) -> list[str]:
        old, new = parse(resource, before), parse(resource, after)
        if resource is Resource.DETAILS:
            return [change.type for change in order_changes(old, new, resource)]
        found = detect(old, Reading(resource, new, 1), frozenset(), chat_may_expire=False)
        return [change.type for change in found.changes]

    def line(status: str, quantity: str, name: str = "Bananas") -> Any:
        return {"line_items": [{"id": 1, "status": status, "item": {"name": name, "quantity": quantity}}]}

    picking = line("NOT_PICKED", "2.0")
    assert kinds(Resource.ITEMS, picking, line("FOUND", "2.0")) == ["order.item_status_changed"]
    assert kinds(Resource.ITEMS, picking, line("NOT_PICKED", "3.0")) == ["order.item_quantity_changed"]
    assert kinds(Resource.ITEMS, picking, line("NOT_PICKED", "2.0", "Plantains")) == ["order.item_updated"]
    assert kinds(Resource.ITEMS, picking, line("NOT_FOUND", "2.0")) == ["order.item_updated"]
    states = [{"workflow_state": state, "fulfillment_type": "delivery"} for state in ("picking", "checkout", "staged")]
    assert kinds(Resource.DETAILS, states[0], states[1]) == ["order.updated"]
    assert kinds(Resource.DETAILS, states[1], states[2]) == ["order.status_changed"]


def test_handling_and_details_are_one_order() -> None:
    handling = parse(
        Resource.HANDLING,
        {"address": {"locality": "Bern", "administrative_area": None, "postal_code": "3000"}, "notes": "h"},
    )
    details = parse(Resource.DETAILS, {"workflow_state": "staged", "fulfillment_type": "pickup", "notes": "d"})
    snapshot = Snapshot(handling=handling, details=details, location={}, pickup={"pickup_instructions": []})

    assert snapshot.status == "staging"
    assert snapshot.order == {
        "workflow_state": "staged",
        "fulfillment_type": "pickup",
        "status": "staging",
        "address": {
            "locality": "Bern",
            "administrative_area": None,
            "postal_code": "3000",
            "city": "Bern",
        },
        "notes": "h",
        "details": {"notes": "d"},
        "location": {},
        "pickup": {"pickup_instructions": []},
    }


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("2", 2), ("2.50", 2.5), ("0", 0), (3, 3), (None, None)),
        *((odd, odd) for odd in ("", "two", "1e3", "-1", "NaN", "inf", "12345678901234567890", "١")),
    ],
)
def test_quantities(text: Any, number: Any) -> None:
    assert quantity_of(text) == number
    assert type(quantity_of(text)) is type(number)


KNOWN = """id order_id status item items line_items chat_messages messages metadata is_expired name quantity body text
workflow_state fulfillment_type address coordinates shopper locality city first_name replacement replacement_status
sender sender_type error meta upstream_status"""
SCALAR = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(-1e9, 1e9) | st.text()
JSON = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KNOWN.split()) | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=25,
)


@given(st.sampled_from(list(Resource)), JSON)
def test_parsing_is_total(resource: Resource, value: Any) -> None:
    refusal = None
    try:
        json.dumps(parse(resource, value))
    except UnusableAnswer as error:
        refusal = error.refusal

    assert refusal in (None, Refusal.NONSENSE, Refusal.MALFORMED)


def leaves(value: Any, name: str = "") -> Iterator[str]:
    """Every scalar as text: ids are strings afterwards."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, name)
    else:
        yield str(value) if name == "id" or name.endswith("_id") else json.dumps(value)


OBJECT = st.dictionaries(st.text(min_size=1, max_size=4), st.integers() | st.text(max_size=5) | st.none(), max_size=3)
PRODUCT = st.fixed_dictionaries(
    {}, optional={"name": st.text(), "quantity": st.text(max_size=3) | st.sampled_from(["1", "2.5"]), "x": OBJECT}
)
LINE = st.fixed_dictionaries(
    {"id": st.integers() | st.text(min_size=1)},
    optional={
        "status": st.sampled_from(["NOT_PICKED", "FOUND", "REPLACED", "TO_REFUND", "APPROVED", "NEW"]),
        "item": PRODUCT,
        "replacement": PRODUCT,
        "replacement_status": st.sampled_from(["PENDING", "SUBSTITUTION_STATUS_UNSPECIFIED"]),
        "quantity": st.integers(),
        "product_name": st.text(),
        "upstream_status": st.text(),
        "extra": OBJECT,
    },
)
SPEECH = st.fixed_dictionaries(
    {"id": st.integers()},
    optional={
        "sender_type": st.sampled_from(["user", "driver", "robot"]),
        "sender": st.text(),
        "sender_id": st.integers(),
        "body": st.text(),
        "text": st.text(),
        "read": st.booleans(),
        "extra": OBJECT,
    },
)


@given(st.lists(LINE, max_size=4), st.lists(SPEECH, max_size=4), OBJECT)
def test_nothing_is_dropped(lines: list[Any], speech: list[Any], beside: dict[str, Any]) -> None:
    beside = {f"+{name}": value for name, value in beside.items()}
    for resource, listed, raw in (
        (Resource.ITEMS, "line_items", {"line_items": lines, **beside}),
        (Resource.MESSAGES, "chat_messages", {"chat_messages": speech, "metadata": beside}),
    ):
        assert listed in raw
        assert set(leaves(raw)) <= set(leaves(parse(resource, raw)))


@given(st.lists(LINE, min_size=2, max_size=4, unique_by=lambda one: str(one["id"])), st.randoms())
def test_another_order_of_the_list_is_the_same_content(lines: list[Any], dice: Any) -> None:
    first = keyed(parse(Resource.ITEMS, {"line_items": lines})["items"])
    dice.shuffle(lines)

    assert keyed(parse(Resource.ITEMS, {"line_items": lines})["items"]) == first


def said(message: str, code: int | None = None, key: str | None = None) -> dict[str, Any]:
    """An error body in the live form."""
    body: dict[str, Any] = {"error": {"message": message, "code": code}}
    return body if key is None else {**body, "meta": {"key": key}}


@pytest.mark.parametrize(
    ("status", "error", "writing", "code"),
    [
        (400, said("x", 1001, "alternative_item"), Resource.ITEMS, "alternative_item_invalid"),
        (400, said("Could not resolve alternative item", 1001), Resource.ITEMS, "alternative_item_invalid"),
        (400, said("Order item change already responded to"), Resource.ITEMS, "already_decided"),
        (400, said("too long", 1001, "body"), Resource.MESSAGES, "chat_body_too_long"),
        (400, said("several", 9999), Resource.ITEMS, "upstream_rejected"),
        (
            400,
            {"error": {"code": 9999, "errors": [{"code": 1001, "key": "body"}]}},
            Resource.MESSAGES,
            "chat_body_too_long",
        ),
        (403, said("Sending a message is not allowed at this time"), Resource.MESSAGES, "chat_not_allowed"),
        (404, said("Order not found", 4000), Resource.ITEMS, "upstream_not_found"),
        (429, {}, Resource.ITEMS, "upstream_busy"),
        (500, [], Resource.ITEMS, "outcome_unknown"),
        (400, {"error": "unauthorized_client"}, Resource.ITEMS, "upstream_rejected"),
    ],
)
def test_refusals_have_stable_codes(status: int, error: Any, writing: Resource, code: str) -> None:
    text, found = DIALECT.refusal(status, json.dumps(error).encode(), writing)

    assert found == code
    assert text
    assert DIALECT.refusal(status, b"<html>", writing)[0] == f"upstream answered {status}"


def test_only_the_live_dialect_knows_alternative_items() -> None:
    assert DIALECT.replacement_body("REJECTED", {"upc": "1", "count": 2}) == {
        "status": "REJECTED",
        "alternative_item": {"upc": "1", "count": 2},
    }
    with pytest.raises(InvalidInput) as refused:
        Specification().replacement_body("REJECTED", {"upc": "1", "count": 2})
    assert refused.value.code == "not_supported"
