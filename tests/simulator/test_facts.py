"""Counting facts, against cases made by hand."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.simulator.facts import Ledger, differences

SPOT = {"latitude": 1.5, "longitude": 2.5}
OFFER = {"product_name": "B", "product_id": "p", "quantity": 1}


def facts(resource: str, before: Any, after: Any) -> list[tuple[str, str]]:
    return sorted((one.fact, one.subject_id) for one in differences(resource, "o", before, after))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param({"status": "a"}, {"status": "a"}, [], id="same"),
        pytest.param({"status": "a"}, {"status": "b"}, ["status"], id="status"),
        pytest.param({}, {"shopper": {"name": "M"}}, ["shopper"], id="shopper appeared"),
        pytest.param({"shopper": {"name": "M"}}, {}, ["shopper"], id="shopper went"),
        pytest.param({"shopper": {"name": "M"}}, {"shopper": None}, ["shopper"], id="null is no absence"),
        pytest.param({"notes": "x"}, {"notes": None}, ["notes"], id="notes"),
        pytest.param({"address": {"city": "a"}}, {"coordinates": SPOT}, ["address", "coordinates"], id="two"),
        pytest.param({"tip": 1, "late": False}, {"tip": 2, "late": True}, ["other"], id="others together"),
        pytest.param({"order_id": "o"}, {"status": "a", "x": 1}, ["other", "status"], id="appearing status"),
    ],
)
def test_handling(before: Any, after: Any, expected: list[str]) -> None:
    assert facts("handling", before, after) == [(fact, "o") for fact in expected]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param({"status": "pending"}, {"status": "found", "quantity": 2}, ["quantity", "status"], id="two"),
        pytest.param(
            {"status": "pending"},
            {"status": "replaced", "replacement": OFFER, "replacement_status": "PENDING"},
            ["replacement", "status"],
            id="suggested: PENDING belongs to it",
        ),
        pytest.param(
            {"replacement": OFFER, "replacement_status": "PENDING"}, {}, ["replacement"], id="withdrawn with its status"
        ),
        pytest.param(
            {"status": "replaced", "replacement": OFFER, "replacement_status": "PENDING"},
            {"status": "refunded", "replacement": OFFER, "replacement_status": "REJECTED"},
            ["decision", "status"],
            id="rejected",
        ),
        pytest.param(
            {}, {"replacement": OFFER, "replacement_status": "APPROVED"}, ["decision", "replacement"], id="both at once"
        ),
        pytest.param(
            {"replacement_status": "APPROVED"}, {"replacement_status": "PENDING"}, ["other"], id="decision undone"
        ),
        pytest.param({"replacement_status": "APPROVED", "a": 1}, {"a": 2}, ["other"], id="others together"),
        pytest.param({"product_name": "A"}, {"product_name": "B", "aisle": 1}, ["other"], id="name and unknown"),
    ],
)
def test_items(before: Any, after: Any, expected: list[str]) -> None:
    found = facts("items", {"items": [{"id": "i", **before}]}, {"items": [{"id": "i", **after}]})

    assert found == [(fact, "i") for fact in expected]


def test_items_and_messages_come_and_go_by_id() -> None:
    one, two, three = ({"id": name, "body": name} for name in "123")
    changed = {"id": "1", "body": "other"}

    assert facts("items", {"items": [one, two]}, {"items": [two, three]}) == [("added", "3"), ("removed", "1")]
    assert facts("messages", {"messages": [one, two]}, {"messages": [changed, three]}) == [
        ("differs", "1"),
        ("gone", "2"),
        ("new", "3"),
    ]


entries = st.lists(
    st.fixed_dictionaries(
        {"id": st.sampled_from("abcd")},
        optional={
            "status": st.sampled_from(["pending", "found"]),
            "quantity": st.integers(1, 3),
            "replacement_status": st.sampled_from(["PENDING", "APPROVED", "REJECTED", None]),
            "body": st.sampled_from(["", "hi", "Hi"]),
        },
    ),
    max_size=4,
    unique_by=lambda entry: entry["id"],
)


@given(before=entries, after=entries, resource=st.sampled_from(["items", "messages"]), data=st.data())
def test_equal_means_no_fact_and_order_is_none(before: Any, after: Any, resource: str, data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(after))
    found = facts(resource, {resource: before}, {resource: after})

    assert facts(resource, {resource: before}, {resource: shuffled}) == found
    assert (found == []) == (sorted(before, key=lambda e: e["id"]) == sorted(after, key=lambda e: e["id"]))


def test_the_ledger_compares_consecutive_answers_and_keeps_the_first_time() -> None:
    ledger = Ledger()
    for at, status in enumerate(["a", "a", "b", "b", "a"]):
        ledger.served("o", "handling", msgspec.json.encode({"status": status}), float(at))
    ledger.served("p", "handling", b'{"status":"z"}', 9.0)

    assert [(fact.at, fact.before, fact.after) for fact in ledger.facts] == [(2.0, "a", "b"), (4.0, "b", "a")]
    assert ledger.answer("o", "handling") == {"status": "a"}
    assert ledger.answer("o", "items") is None
