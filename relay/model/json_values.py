"""JSON as the relay compares and carries it: decoding, one canonical spelling, differences and their application."""

import math
from typing import Any

import msgspec

from relay.errors import InvalidInput
from relay.model.orders import Json, JsonObject

_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()
_sorted = msgspec.json.Encoder(order="sorted")

#: Containers within containers that are accepted; upstream answers have four.
MAX_DEPTH = 64


def decode(raw: bytes) -> Json:
    """Any JSON value, big integers exact. Raises InvalidInput (`malformed_json`) for anything else."""
    try:
        value = _decoder.decode(raw)
        _check(value, 0)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"not JSON: {error}", code="malformed_json") from None
    return value


def _check(value: Json, depth: int) -> None:
    """Refuse what cannot be carried on: too deep, numbers out of range."""
    if depth > MAX_DEPTH:
        raise InvalidInput(f"more than {MAX_DEPTH} levels deep", code="malformed_json")
    if isinstance(value, dict):
        for inner in value.values():
            _check(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput("a number out of range", code="malformed_json")


def encode(value: Json) -> bytes:
    """Minified UTF-8 JSON in the given key order. Text that UTF-8 cannot say (a lone surrogate) becomes U+FFFD."""
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return _encoder.encode(_speakable(value))


def _speakable(value: Json) -> Json:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_speakable(key): _speakable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_speakable(inner) for inner in value]
    return value


def canonical(value: Json) -> bytes:
    """One spelling for equal values: keys sorted, numbers normal (1.0 is 1, -0.0 is 0); true is not 1, null is null."""
    return _sorted.encode(_normal(value))


def _normal(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _normal(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_normal(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def same(a: Json, b: Json) -> bool:
    """Whether two values are equal however they are spelled; the order of an array counts, that of keys does not."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(type(a) is type(b) or (isinstance(a, int | float) and isinstance(b, int | float))) and bool(a == b)


def difference(before: JsonObject, after: JsonObject) -> tuple[JsonObject, JsonObject] | None:
    """What differs, as (before, after): objects by their differing keys, arrays whole, absent keys absent, null null.

    None when nothing does. `apply(before, *difference)` is `after`, and with the sides swapped the way back.
    """
    old: dict[str, Any] = {}
    new: dict[str, Any] = {}
    for key, value in before.items():
        if key not in after:
            old[key] = value
        elif isinstance(value, dict) and isinstance(after[key], dict):
            inner = difference(value, after[key])
            if inner is not None:
                old[key], new[key] = inner
        elif not same(value, after[key]):
            old[key], new[key] = value, after[key]
    for key, value in after.items():
        if key not in before:
            new[key] = value
    return (old, new) if old or new else None


def apply(value: JsonObject, before: JsonObject, after: JsonObject) -> JsonObject:
    """`value` with a difference applied: keys only in `before` go, objects on both sides are followed, the rest set."""
    result = {key: inner for key, inner in value.items() if key not in before or key in after}
    for key, inner in after.items():
        old = before.get(key)
        if isinstance(inner, dict) and isinstance(old, dict) and isinstance(result.get(key), dict):
            result[key] = apply(result[key], old, inner)
        else:
            result[key] = inner
    return result
