"""What a fault does to a good answer's body. Pure.

`reorder`, `unknown` and `skew` leave a whole answer whose value is what it says: it counts as served. All the others
make it an error in some form, which is no state of the order.
"""

from datetime import datetime
from random import Random
from typing import Any

import msgspec

from relay.simulator.clock import rfc3339
from relay.simulator.faults import Fault
from relay.simulator.world import ITEMS, MESSAGES, TERMINAL

Json = Any
JSON_TYPE = b"application/json"
#: More than any client should be willing to read for one order.
HUGE_BYTES = 10 * 1024 * 1024

_PAGE = b"<!doctype html><title>Be right back</title><h1>We are down for maintenance</h1>\n"
_STRANGE: dict[str, dict[str, Json]] = {
    "handling": {"delivery_window": {"starts_in": 30, "unit": "minutes"}, "alcoholic": False, "tip": None},
    ITEMS: {"aisle": "12 B", "weight": {"value": 1.25, "unit": "lb"}},
    MESSAGES: {"read": False, "attachments": []},
}


def spoil(body: bytes, resource: str, status: str, fault: Fault, dice: Random) -> tuple[bytes, bytes, bool]:
    """The body, its content type, and whether it still is a whole answer. `status` is the order's true one."""
    if fault.kind == "malformed":
        return body[:-1] + b",}", JSON_TYPE, False
    if fault.kind == "empty":
        return b"", JSON_TYPE, False
    if fault.kind == "huge":
        return _padded(body), JSON_TYPE, False
    if fault.kind == "wrong-type":
        return dice.choice((b"[]", b"null", b'"ok"', b'{"items":"none","messages":5,"status":{}}')), JSON_TYPE, False
    if fault.kind == "wrong-content-type":
        return _PAGE, b"text/html; charset=utf-8", False
    if fault.kind == "error-200":
        return b'{"error":"Something went wrong","status":500}', JSON_TYPE, False
    if fault.kind == "expired-chat" and resource == MESSAGES and status in TERMINAL:
        return b'{"messages":[]}', JSON_TYPE, False
    return _altered(body, resource, fault, dice), JSON_TYPE, True


def _altered(body: bytes, resource: str, fault: Fault, dice: Random) -> bytes:
    if fault.kind not in ("reorder", "unknown", "skew"):
        return body
    value = msgspec.json.decode(body)
    if fault.kind == "reorder":
        if resource != ITEMS:
            return body
        dice.shuffle(value[ITEMS])
    elif fault.kind == "unknown":
        _estrange(value, resource)
    else:
        for message in value.get(MESSAGES, ()):
            if "created_at" in message:
                sent = datetime.fromisoformat(message["created_at"]).timestamp()
                message["created_at"] = rfc3339(sent + fault.duration)
    return msgspec.json.encode(value)


def _estrange(value: dict[str, Json], resource: str) -> None:
    """Fields and enum values that the specification does not know, the same at every call."""
    if resource not in (ITEMS, MESSAGES):
        value.update(_STRANGE["handling"])
        if value.get("status") == "staging":
            value["status"] = "bags_check"
        return
    value["metadata"] = {"is_expired": False}
    for entry in value[resource]:
        entry.update(_STRANGE[resource])
        if entry.get("status") == "not_found":
            entry["status"] = "awaiting_restock"


def _padded(body: bytes) -> bytes:
    """The same JSON object, valid, with blanks up to the size."""
    return body[:-1] + b" " * (HUGE_BYTES - len(body)) + body[-1:]
