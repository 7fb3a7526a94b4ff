"""The world in the live dialect's words (docs/upstream.md): what `relay simulator --dialect connect` answers. Pure.

What the public documentation leaves open is filled with something likely: it is a stand-in, and no evidence.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import msgspec

from relay.errors import InvalidInput
from relay.simulator.world import HANDLING, ITEMS, MESSAGES, Order

Json = Any

DETAILS, LOCATION, PICKUP = "details", "location", "pickup"
#: Hours after the end in which a chat can be read.
CHAT_HOURS = 24
_ITEM_STATES = {
    "pending": "NOT_PICKED",
    "found": "FOUND",
    "replaced": "REPLACED",
    "refunded": "TO_REFUND",
    "not_found": "TO_REFUND",
}
_TYPES = {"customer": "user", "shopper": "driver"}
_CODES = {400: 1001, 404: 4000}
NOT_PICKUP = "Order is not a pickup order"
DECIDED = "Order item change already responded to"
_encode = msgspec.json.Encoder().encode


def render(order: Order, resource: str, *, expired: bool, redacted: bool) -> bytes:
    """The answer to a poll. Raises InvalidInput for pickup details of an order that is delivered."""
    pickup = is_pickup(order)
    if resource == DETAILS:
        kind = "pickup" if pickup else "delivery"
        value = {"workflow_state": workflow_state(order), "fulfillment_type": kind, "is_express": False}
    elif resource == HANDLING:
        value = _handling(order, redacted)
    elif resource == ITEMS:
        value = {"line_items": [_item(one) for one in order.items.values()]}
    elif resource == MESSAGES:
        listed = [] if expired else [_message(order, one) for one in order.messages]
        value = {"chat_messages": listed, "metadata": {"is_expired": expired}}
    elif resource == LOCATION:
        driving = order.status == "delivering" and not pickup
        value = {"coordinates": order.handling.get("coordinates")} if driving else {}
    elif pickup:
        told = {"category": "curbside", "instruction": "Park in a marked bay.", "instruction_images": []}
        value = {"pickup_instructions": [told]}
    else:
        raise InvalidInput(NOT_PICKUP)
    return _encode(value)


def workflow_state(order: Order) -> str:
    """Finer than the specification's status, and the same for the same state."""
    items = order.items.values()
    if order.status == "picking" and any(one.get("replacement_status") == "PENDING" for one in items):
        return "verifying_replacements"
    if order.status == "picking" and items and all(one.get("status") != "pending" for one in items):
        return "checkout"
    if order.status == "staging":
        return ("bags_check", "staged")[_number(order.order_id) % 2]
    if order.status == "delivering" and is_pickup(order):
        return "user_at_store"
    return order.status


def is_pickup(order: Order) -> bool:
    """A third of all orders are fetched."""
    return _number(order.order_id) % 3 == 0


def truth(order: Order, resource: str, before: Mapping[str, Json] | None) -> bytes | None:
    """What an answer told, in the specification's words; None where it has none for it. `before`: what was told of the
    order itself until now, of which an answer tells a part only."""
    if resource in (DETAILS, HANDLING):
        told = dict(before or {})
        status = {"picking": "picking", "user_at_store": "staging"}.get(workflow_state(order), order.status)
        parts = {name: value for name, value in order.handling.items() if name != "status"}
        return _encode({**told, "status": status} if resource == DETAILS else {"status": told.get("status"), **parts})
    if resource == ITEMS:
        gone = {"not_found": "refunded"}
        items = [{**one, "status": gone.get(str(one.get("status")), one.get("status"))} for one in order.items.values()]
        return _encode({ITEMS: items})
    return order.body(resource) if resource == MESSAGES else None


def message_id(order: Order, id_: str) -> int:
    """Beyond 2^53, as the documentation's examples are."""
    return 2**60 + _number(f"{order.order_id}/{id_}")


def error(status: int, detail: str) -> bytes:
    """The live error body. `meta` may be absent, so it is where there is no key."""
    if "no replacement that waits" in detail:
        detail = DECIDED
    code = {NOT_PICKUP: 4001, DECIDED: None}.get(detail, None if status == 403 else _CODES.get(status, 9999))
    value: dict[str, Json] = {"error": {"message": detail, "code": code}}
    key = next((one for one in ("alternative_item", "body", "status") if detail.startswith(one)), None)
    if key is not None:
        value["meta"] = {"key": key}
    return _encode(value)


def check_alternative(body: Mapping[str, Json]) -> None:
    """Raises InvalidInput unless it has exactly one code and one positive amount, and goes with a rejection."""
    given = body.get("alternative_item")
    if given is None:
        return
    if body.get("status") != "REJECTED" or not isinstance(given, dict):
        raise InvalidInput("alternative_item is accepted with REJECTED only")
    codes, amounts = given.keys() & {"upc", "rrc"}, given.keys() & {"count", "weight"}
    amount = next((given[name] for name in amounts), 0)
    if len(codes) != 1 or len(amounts) != 1 or not isinstance(amount, int | float) or amount <= 0:
        raise InvalidInput("alternative_item needs exactly one code, and exactly one amount above 0")


def said(order: Order, message: Mapping[str, Json]) -> dict[str, Json]:
    """The answer to a message that was sent."""
    id_ = message_id(order, str(message["id"]))
    return {"id": id_, "type": "CHAT", "created_at": message["created_at"], "timezone": "UTC"}


def _handling(order: Order, redacted: bool) -> dict[str, Json]:
    names = {"city": "locality", "state": "administrative_area"}
    address = {names.get(name, name): value for name, value in order.handling.get("address", {}).items()}
    value: dict[str, Json] = {
        "address": {**address, "country_code": "US"},
        "coordinates": order.handling.get("coordinates"),
        "instructions": "Leave it at the door.",
        "leave_unattended": True,
    }
    if "notes" in order.handling:
        value["notes"] = order.handling["notes"]
    shopper = order.handling.get("shopper")
    if shopper is not None and not redacted:
        value["shopper"] = {"first_name": shopper.get("name"), "avatar_url": "https://example.com/a.png"}
    return value


def _item(item: Mapping[str, Json]) -> dict[str, Json]:
    value: dict[str, Json] = {
        "id": item["id"],
        "line_num": str(_number(str(item["id"])) % 1000),
        "status": _ITEM_STATES.get(str(item.get("status")), item.get("status")),
        "item": _product(item),
        "replacement_status": item.get("replacement_status", "SUBSTITUTION_STATUS_UNSPECIFIED"),
    }
    replacement = item.get("replacement")
    if replacement is not None:
        value["replacement"] = _product(replacement)
    return value


def _product(item: Mapping[str, Json]) -> dict[str, Json]:
    return {"name": item.get("product_name"), "quantity": str(item.get("quantity", 1)), "cost_unit": "each"}


def _message(order: Order, message: Mapping[str, Json]) -> dict[str, Json]:
    sender = _TYPES.get(str(message.get("sender")), str(message.get("sender")))
    return {
        "id": message_id(order, str(message["id"])),
        "order_id": 2**55 + _number(order.order_id),
        "sender_id": 2**54 + _number(sender),
        "recipient_id": 2**54 + 1,
        "sender_type": sender,
        "recipient_type": "driver" if sender == "user" else "user",
        "created_at": message.get("created_at"),
        "body": message.get("body"),
        "read": False,
    }


def _number(text: str) -> int:
    return zlib.crc32(text.encode())
