"""Promise 2: folding the events gives the state; nothing is reported that did not differ, nothing goes unreported."""

import json
from dataclasses import replace
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.model import catalogue, events
from relay.model.changes import detect, keyed
from relay.model.fold import Fold, Taken
from relay.model.json_values import canonical, same
from relay.model.orders import JsonObject, Reading, Resource, Snapshot
from tests.support.orders import make_handling, make_item, make_message, make_state, reading

NONE: frozenset[str] = frozenset()


def types(stored: JsonObject, new: JsonObject, resource: Resource, missing: frozenset[str] = NONE) -> list[str]:
    found = detect(stored, reading(resource, new), missing, chat_may_expire=False)
    return [change.type for change in found.changes]


# ── one fact, one event ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"status": "picking"}, {"status": "staging"}, ["order.status_changed"]),
        ({"status": "picking"}, {"status": "a_new_status"}, ["order.status_changed"]),
        ({"status": "staging"}, {"status": "picking"}, ["order.status_changed"]),
        ({}, {"shopper": {"name": "A"}}, ["order.shopper_assigned"]),
        ({"shopper": None}, {"shopper": {"name": "A"}}, ["order.shopper_assigned"]),
        ({"shopper": {"name": "A"}}, {"shopper": {"name": "B"}}, ["order.shopper_changed"]),
        ({"shopper": {"name": "A"}}, {"shopper": None}, ["order.shopper_unassigned"]),
        ({"shopper": None}, {}, ["order.updated"]),
        ({"address": {"city": "A"}}, {"address": {"city": "B"}}, ["order.address_changed"]),
        ({"coordinates": {"latitude": 1.5}}, {"coordinates": {"latitude": 2}}, ["order.coordinates_changed"]),
        ({"notes": "x"}, {}, ["order.notes_changed"]),
        ({"unknown": [1], "other": 1}, {"unknown": [2]}, ["order.updated"]),
        (
            {"status": "picking", "extra": 1},
            {"status": "staging", "extra": 2, "notes": "y"},
            ["order.status_changed", "order.notes_changed", "order.updated"],
        ),
        ({"coordinates": {"latitude": 1.0}}, {"coordinates": {"latitude": 1}}, []),
    ],
)
def test_handling(before: JsonObject, after: JsonObject, expected: list[str]) -> None:
    assert types(before, after, Resource.HANDLING) == expected


REPLACEMENT = {"product_name": "Oat milk", "product_id": "p-1", "quantity": 1}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"status": "pending"}, {"status": "found"}, ["order.item_status_changed"]),
        ({"quantity": 1}, {"quantity": 2}, ["order.item_quantity_changed"]),
        ({"quantity": 1}, {"quantity": "1"}, ["order.item_quantity_changed"]),
        ({"quantity": 1}, {"quantity": 1.0}, []),
        ({"aisle": 4}, {"aisle": 5}, ["order.item_updated"]),
        (
            {},
            {"replacement": REPLACEMENT, "replacement_status": "PENDING"},
            ["order.replacement_suggested"],
        ),
        (
            {"replacement": REPLACEMENT, "replacement_status": "PENDING"},
            {"replacement": {**REPLACEMENT, "quantity": 2}, "replacement_status": "PENDING"},
            ["order.replacement_changed"],
        ),
        (
            {"replacement": REPLACEMENT, "replacement_status": "PENDING"},
            {},
            ["order.replacement_withdrawn"],
        ),
        (
            {"replacement": REPLACEMENT, "replacement_status": "PENDING"},
            {"replacement": REPLACEMENT, "replacement_status": "APPROVED"},
            ["order.replacement_approved"],
        ),
        (
            {"replacement": REPLACEMENT, "replacement_status": "PENDING", "status": "replaced"},
            {"replacement": REPLACEMENT, "replacement_status": "REJECTED", "status": "refunded"},
            ["order.item_status_changed", "order.replacement_rejected"],
        ),
        (
            {},
            {"replacement": REPLACEMENT, "replacement_status": "APPROVED"},
            ["order.replacement_suggested", "order.replacement_approved"],
        ),
        (
            {"replacement": REPLACEMENT, "replacement_status": "PENDING"},
            {"replacement": REPLACEMENT, "replacement_status": "LATER"},
            ["order.item_updated"],
        ),
        ({"replacement": None}, {}, ["order.item_updated"]),
    ],
)
def test_items(before: JsonObject, after: JsonObject, expected: list[str]) -> None:
    old, new = ({"items": [{"id": "i", "product_name": "Milk", **fields}]} for fields in (before, after))

    assert types(old, new, Resource.ITEMS) == expected


def test_facts_of_one_reading_come_in_the_order_of_the_catalogue() -> None:
    old = {"items": [make_item("a"), make_item("b")]}
    new = {"items": [make_item("c"), make_item("b", quantity=3, status="found"), make_item("a", status="found")]}

    found = detect(old, reading(Resource.ITEMS, new), NONE, chat_may_expire=False)

    assert [(change.type, change.key) for change in found.changes] == [
        ("order.item_added", "c"),
        ("order.item_status_changed", "b"),
        ("order.item_status_changed", "a"),
        ("order.item_quantity_changed", "b"),
    ]


def test_messages_are_told_in_chronological_order() -> None:
    late, early = make_message("m-9", created_at="2026-11-23T12:05:00Z"), make_message("m-8")

    found = detect(
        {"messages": []}, reading(Resource.MESSAGES, {"messages": [late, early]}), NONE, chat_may_expire=False
    )

    assert [change.key for change in found.changes] == ["m-8", "m-9"]


# ── disappearance ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_disappearance_counts_when_two_readings_agree() -> None:
    stored = {"items": [make_item("a"), make_item("b")]}
    lacking = reading(Resource.ITEMS, {"items": [make_item("a")]})

    first = detect(stored, lacking, NONE, chat_may_expire=False)
    second = detect(first.value, lacking, first.missing, chat_may_expire=False)

    assert not first.changes
    assert first.missing == {"b"}
    assert set(keyed(first.value["items"])) == {"a", "b"}
    assert [change.type for change in second.changes] == ["order.item_removed"]
    assert set(keyed(second.value["items"])) == {"a"}
    assert not second.missing


def test_an_item_that_returns_was_never_gone() -> None:
    stored = {"items": [make_item("a")]}
    first = detect(stored, reading(Resource.ITEMS, {"items": []}), NONE, chat_may_expire=False)

    second = detect(first.value, reading(Resource.ITEMS, stored), first.missing, chat_may_expire=False)

    assert not second.changes
    assert not second.missing


@pytest.mark.parametrize("answer", [{"messages": []}, {"messages": [], "metadata": {"is_expired": True}}])
def test_an_expired_chat_is_no_deletion(answer: JsonObject) -> None:
    stored = {"messages": [make_message()]}

    found = detect(stored, reading(Resource.MESSAGES, answer), frozenset({"m-1"}), chat_may_expire=True)

    assert "order.message_removed" not in [change.type for change in found.changes]
    assert not found.missing
    assert found.value["messages"] == [make_message()]


# ── identity ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_entries_without_an_id_and_twins_are_told_apart_whatever_their_order() -> None:
    entries = [{"id": "x", "n": 2}, {"id": "x", "n": 1}, {"n": 3}, {"n": 3}, {"id": 7}]

    forwards, backwards = keyed(entries), keyed(entries[::-1])

    assert len(forwards) == 5
    assert {key: canonical(value) for key, value in forwards.items()} == {
        key: canonical(value) for key, value in backwards.items()
    }


# ── the law, for any sequence of states ─────────────────────────────────────────────────────────────────────────────

words = st.sampled_from(["pending", "found", "replaced", "refunded", "not_found", "brand_new", "a_new_value"])
extras = st.dictionaries(
    st.sampled_from(["x", "y"]), st.none() | st.integers(0, 2) | st.floats(0, 2) | words, max_size=2
)
item_fields: dict[str, Any] = {
    "status": words,
    "quantity": st.integers(1, 3) | st.sampled_from([1.0, "2"]),
    "replacement": st.none() | st.fixed_dictionaries({"product_name": words}, optional={"quantity": st.integers(1, 2)}),
    "replacement_status": st.sampled_from(["PENDING", "APPROVED", "REJECTED", "LATER"]),
    "more": extras,
}
items = st.lists(
    st.fixed_dictionaries({}, optional={"id": st.sampled_from(["a", "b", "c", 4]), **item_fields}), max_size=4
)
messages = st.lists(
    st.fixed_dictionaries(
        {"id": st.sampled_from(["m1", "m2", "m3"])},
        optional={"body": words, "created_at": st.sampled_from(["2026-11-23T12:00:00Z", "2026-11-23T12:00:01Z"])},
    ),
    max_size=3,
)
handlings = st.fixed_dictionaries(
    {"status": words},
    optional={
        "shopper": st.none() | st.fixed_dictionaries({"name": words}),
        "notes": words | st.none(),
        "address": st.dictionaries(st.sampled_from(["city", "state"]), words, max_size=2),
        "more": extras,
    },
)
readings = st.one_of(
    st.tuples(st.just(Resource.HANDLING), handlings),
    st.tuples(st.just(Resource.ITEMS), st.builds(lambda listed, more: {**more, "items": listed}, items, extras)),
    st.tuples(
        st.just(Resource.MESSAGES), st.builds(lambda listed, more: {**more, "messages": listed}, messages, extras)
    ),
)
validators = {name: jsonschema.Draft202012Validator(kind.schema) for name, kind in catalogue.EVENT_TYPES.items()}


@settings(max_examples=150, deadline=None)
@given(handlings, items, messages, st.lists(readings, max_size=8), st.randoms(use_true_random=False))
def test_folding_the_events_gives_the_state(
    handling: JsonObject, first_items: list[Any], first_messages: list[Any], steps: list[Any], random: Any
) -> None:
    state = make_state(
        sequence=0, snapshot=Snapshot(handling, {"items": first_items}, {"messages": first_messages}), missing={}
    )
    fold = Fold()
    opening = events.started(state, state.snapshot, now_ms=1, observed_ms=1)
    assert fold.take(json.loads(opening.body)) is Taken.FOLDED
    assert fold.differences(state.snapshot) == []
    state = replace(state, sequence=1)
    for resource, value in steps:
        stored = state.snapshot.get(resource)
        assert stored is not None
        shuffled = _respelled(value, random)
        found = detect(stored, Reading(resource, shuffled, 5), state.missing.get(resource, NONE), chat_may_expire=False)
        snapshot = state.snapshot.replace(resource, found.value)
        made = events.build(state, found.changes, snapshot, now_ms=7, observed_ms=6)
        again = events.build(state, found.changes, snapshot, now_ms=9, observed_ms=8)
        assert [event.id for event in made] == [event.id for event in again]
        assert bool(made) == (not same(_unordered(stored, resource), _unordered(found.value, resource)))
        for event in made:
            body = json.loads(event.body)
            validators[event.type].validate(body)
            assert event.sequence == fold.sequence + 1
            assert fold.take(body) is Taken.FOLDED
            assert fold.take(body) is Taken.REPEATED
        state = replace(
            state,
            snapshot=snapshot,
            sequence=state.sequence + len(made),
            missing={**state.missing, resource: found.missing},
        )
        assert fold.differences(snapshot) == []


def _respelled(value: JsonObject, random: Any) -> JsonObject:
    """The same state, spelled otherwise: shuffled arrays and keys, floats for integers."""

    def respell(inner: Any) -> Any:
        if isinstance(inner, dict):
            pairs = [(key, respell(one)) for key, one in inner.items()]
            random.shuffle(pairs)
            return dict(pairs)
        if isinstance(inner, int) and not isinstance(inner, bool):
            return float(inner)
        return inner

    result = {}
    for key, inner in value.items():
        if key in ("items", "messages") and isinstance(inner, list):
            listed = [respell(one) for one in inner]
            random.shuffle(listed)
            result[key] = listed
        else:
            result[key] = respell(inner)
    return result


def _unordered(value: JsonObject, resource: Resource) -> JsonObject:
    if resource is Resource.HANDLING:
        return value
    return {**value, resource.value: sorted(canonical(one).decode() for one in value[resource.value])}


@settings(max_examples=100, deadline=None)
@given(readings, st.randoms(use_true_random=False))
def test_the_same_state_spelled_otherwise_is_no_change(step: tuple[Resource, JsonObject], random: Any) -> None:
    resource, value = step

    found = detect(value, Reading(resource, _respelled(value, random), 5), NONE, chat_may_expire=False)

    assert (found.changes, found.missing) == ((), frozenset())


# ── bodies ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_event_is_the_envelope_of_the_contract() -> None:
    state = make_state(metadata={"store": "42"}, sequence=6)
    after = make_handling(status="staging")
    found = detect(state.snapshot.handling or {}, reading(Resource.HANDLING, after), NONE, chat_may_expire=False)

    (event,) = events.build(
        state, found.changes, state.snapshot.replace(Resource.HANDLING, after), now_ms=1_795_000_000_123, observed_ms=1
    )

    body = json.loads(event.body)
    assert list(body) == ["id", "type", "timestamp", "api_version", "data"]
    assert body["timestamp"] == "2026-11-18T11:06:40.123Z"
    assert body["data"] == {
        "order_id": "o-1",
        "sequence": 7,
        "observed_at": "1970-01-01T00:00:00.001Z",
        "changes": {"before": {"status": "picking"}, "after": {"status": "staging"}},
        "order": after,
        "metadata": {"store": "42"},
    }
    assert body["id"] == event.id
    assert "." not in event.id


def test_other_content_under_the_same_sequence_has_another_id() -> None:
    state = make_state()
    ids = {
        events.build(
            state,
            detect(
                state.snapshot.handling or {},
                reading(Resource.HANDLING, make_handling(status=status)),
                NONE,
                chat_may_expire=False,
            ).changes,
            state.snapshot,
            now_ms=1,
            observed_ms=1,
        )[0].id
        for status in ("staging", "delivering", "canceled")
    }
    later = replace(state, registered_ms=999)

    assert len(ids) == 3
    assert events.started(state, state.snapshot, now_ms=1, observed_ms=1).id != (
        events.started(later, later.snapshot, now_ms=1, observed_ms=1).id
    )


def test_a_thin_payload_names_fields_and_holds_no_value() -> None:
    state = make_state(snapshot=Snapshot(make_handling(notes="secret note"), {"items": []}, {"messages": []}))
    found = detect(
        state.snapshot.handling or {},
        reading(Resource.HANDLING, make_handling(notes="other secret")),
        NONE,
        chat_may_expire=False,
    )
    (event,) = events.build(state, found.changes, state.snapshot, now_ms=1, observed_ms=1)

    thin = events.thin(event.body)

    assert b"secret" not in thin
    assert json.loads(thin)["data"]["changes"] == ["notes"]
    assert thin == events.thin(event.body)
    assert b"secret" not in events.thin(events.started(state, state.snapshot, now_ms=1, observed_ms=1).body)


def test_every_sample_of_the_catalogue_fits_its_schema() -> None:
    assert list(catalogue.EVENT_TYPES) == sorted(catalogue.EVENT_TYPES, key=catalogue.position)
    for name, kind in catalogue.EVENT_TYPES.items():
        validators[name].validate(kind.sample)
        jsonschema.Draft202012Validator.check_schema(kind.schema)
    assert msgspec.json.encode(catalogue.document())


def test_the_fold_says_when_an_event_is_out_of_order() -> None:
    state = make_state()
    event = json.loads(events.ended(state, state.snapshot, "delivered", now_ms=1, observed_ms=1).body)

    assert Fold().take(event) is Taken.OUT_OF_ORDER
    assert Fold(sequence=1).take(event) is Taken.FOLDED
