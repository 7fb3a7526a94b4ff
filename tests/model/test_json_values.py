"""Comparing, carrying and differencing JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import InvalidInput
from relay.model.json_values import apply, canonical, decode, difference, encode, same

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=4)


def _nested(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4)


values = st.recursive(scalars, _nested, max_leaves=8)
objects = st.dictionaries(st.sampled_from("abcd"), values, max_size=4)


@given(objects, objects)
def test_a_difference_leads_forwards_and_backwards(before: dict[str, object], after: dict[str, object]) -> None:
    found = difference(before, after)

    if found is None:
        assert same(before, after)
    else:
        assert same(apply(before, *found), after)
        assert same(apply(after, found[1], found[0]), before)


@given(objects)
def test_nothing_differs_from_itself_however_it_is_spelled(value: dict[str, object]) -> None:
    shuffled = dict(reversed(value.items()))

    assert difference(value, shuffled) is None
    assert canonical(value) == canonical(shuffled)


@given(values, values)
def test_canonical_spelling_agrees_with_sameness(a: object, b: object) -> None:
    assert same(a, b) == (canonical(a) == canonical(b))


@given(values)
def test_encoding_and_decoding_is_the_identity(value: object) -> None:
    assert same(decode(encode(value)), value)


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (1, 1.0, True),
        (100, 1e2, True),
        (0, -0.0, True),
        (1, True, False),
        (0, False, False),
        (None, False, False),
        ("1", 1, False),
        ([1, 2], [2, 1], False),
        ({"a": None}, {}, False),
        (2**70, 2**70 + 1, False),
    ],
)
def test_sameness(a: object, b: object, equal: bool) -> None:
    assert same(a, b) is equal
    assert same({"x": [a]}, {"x": [b]}) is equal


def test_objects_are_followed_and_arrays_shown_whole() -> None:
    before = {"address": {"city": "Ulm", "line": "1"}, "tags": [1, 2], "gone": None, "same": 5}
    after = {"address": {"city": "Ulm", "line": "2"}, "tags": [1, 3], "new": {}, "same": 5.0}

    assert difference(before, after) == (
        {"address": {"line": "1"}, "tags": [1, 2], "gone": None},
        {"address": {"line": "2"}, "tags": [1, 3], "new": {}},
    )


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"NaN", b"[1e999]", b"\xff", b'"\\ud800"', b"[" * 5000 + b"]" * 5000, b"[" * 70 + b"]" * 70, b"{} x"],
    ids=["empty", "cut", "nan", "infinite", "not utf-8", "lone surrogate", "very deep", "deep", "trailing"],
)
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput) as error:
        decode(raw)

    assert error.value.code == "malformed_json"


def test_big_integers_and_all_of_unicode_stay_exact() -> None:
    raw = '{"id":1201895966044343904123,"text":"żółć \u202e 🍌 \u0000"}'

    value = decode(json.dumps(json.loads(raw, strict=False)).encode())

    assert value["id"] == 1201895966044343904123
    assert decode(encode(value)) == value


def test_text_that_utf8_cannot_say_is_replaced() -> None:
    assert encode({"a\ud800": ["b\udfff"]}) == '{"a�":["b�"]}'.encode()
