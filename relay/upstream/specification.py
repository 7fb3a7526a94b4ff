"""The dialect of the specification (Instacart Connect Post-Checkout API 2.0): its paths, and what its answers may be.

No response field is required and none is dropped: the structs below only check the fields they know. What they do not
know is carried as it came.
"""

import re
from typing import Any
from urllib.parse import quote

import msgspec

from relay.errors import InvalidInput, Problem
from relay.model import json_values
from relay.model.orders import RESOURCES, JsonObject, OrderId, Resource
from relay.upstream.interface import Refusal, UnusableAnswer

PREFIX = "/v2/post_checkout"
#: Ids that need no quoting, which is all that one usually sees; looking is cheaper than quoting.
_PLAIN = re.compile(r"[A-Za-z0-9_~-]+").fullmatch
#: What stands in a path before and behind the order's id.
_AROUND = {resource: (f"{PREFIX}/orders/", f"/{resource.value}") for resource in Resource}
_AROUND[Resource.MESSAGES] = (f"{PREFIX}/chat/", "/messages")


class Address(msgspec.Struct):
    address_line_1: str | None = None
    address_line_2: str | None = None
    city: str | None = None
    state: str | None = None
    postal_code: str | None = None


class Coordinates(msgspec.Struct):
    latitude: float | int | None = None
    longitude: float | int | None = None


class Shopper(msgspec.Struct):
    name: str | None = None
    phone_number: str | None = None


class Handling(msgspec.Struct):
    """OrderHandlingResponse. `status` is any text: new values must not stop anything."""

    order_id: str | int | None = None
    status: str | None = None
    address: Address | None = None
    coordinates: Coordinates | None = None
    shopper: Shopper | None = None
    notes: str | None = None


class Replacement(msgspec.Struct):
    product_name: str | None = None
    product_id: str | int | None = None
    quantity: int | float | str | None = None


class Item(msgspec.Struct):
    """PostCheckoutOrderItem."""

    id: str | int | None = None
    product_name: str | None = None
    quantity: int | float | str | None = None
    status: str | None = None
    replacement: Replacement | None = None
    replacement_status: str | None = None


class Message(msgspec.Struct):
    """ChatMessage."""

    id: str | int | None = None
    sender: str | None = None
    body: str | None = None
    created_at: str | None = None


class Items(msgspec.Struct):
    items: list[Item]


class Messages(msgspec.Struct):
    messages: list[Message]


_SHAPES: dict[Resource, type[Any]] = {
    Resource.HANDLING: Handling,
    Resource.ITEMS: Items,
    Resource.MESSAGES: Messages,
}
_KNOWN = set(Handling.__struct_fields__)


class Specification:
    """Paths, bodies and parsing of the specification's dialect. `any_order`: handling may be that of another order, as
    a mock's is."""

    resources = required = RESOURCES

    def __init__(self, *, any_order: bool = False) -> None:
        self._any_order = any_order

    @property
    def headers(self) -> dict[str, str]:
        return {}

    def path(self, order_id: OrderId, resource: Resource) -> str:
        """The path of a resource; ids are one segment each, whatever they hold."""
        before, behind = _AROUND[resource]
        return f"{before}{order_id if _PLAIN(order_id) else quote(order_id, safe='')}{behind}"

    def replacement_path(self, order_id: OrderId, item_id: str) -> str:
        return f"{PREFIX}/orders/{quote(order_id, safe='')}/items/{quote(item_id, safe='')}/replacement"

    def replacement_body(self, status: str, alternative: JsonObject | None) -> JsonObject:
        """ReplacementDecisionRequest. Raises InvalidInput: it knows no alternative item."""
        if alternative is not None:
            detail = "this upstream's dialect has no alternative_item"
            raise InvalidInput(
                detail, code="not_supported", problems=[Problem("/alternative_item", "not_supported", detail)]
            )
        return {"status": status}

    def message_body(self, body: str) -> JsonObject:
        """SendMessageRequest."""
        return {"body": body}

    def written(self, value: JsonObject) -> JsonObject:
        """The answer to a write."""
        return value

    def refusal(self, status: int, raw: bytes, writing: Resource) -> tuple[str, str]:
        """A short text and a stable code for an answer that refuses a write. Error bodies hold no code: the status says
        it all (responses of updateItemReplacement and sendChatMessage)."""
        return error_text(raw) or f"upstream answered {status}", refusal_code(status)

    def parse(self, resource: Resource, raw: bytes, *, order_id: OrderId) -> JsonObject:
        """The whole answer, checked. Raises UnusableAnswer for what is no state of an order."""
        try:
            value = json_values.decode(raw)
        except InvalidInput as error:
            raise UnusableAnswer(Refusal.MALFORMED, error.detail) from None
        if not isinstance(value, dict):
            raise UnusableAnswer(Refusal.NONSENSE, f"{resource.value}: not an object")
        if resource is Resource.HANDLING:
            if not _KNOWN & value.keys():
                raise UnusableAnswer(Refusal.NONSENSE, "handling: no field of an order; perhaps an error body")
        elif resource.value not in value:
            raise UnusableAnswer(Refusal.NONSENSE, f"{resource.value}: no list; perhaps an error body")
        if "error" in value and not (value.keys() - {"error", "status", "meta"}):
            raise UnusableAnswer(Refusal.NONSENSE, f"{resource.value}: an error body with status 200")
        try:
            msgspec.convert(value, _SHAPES[resource])
        except msgspec.ValidationError as error:
            raise UnusableAnswer(Refusal.NONSENSE, f"{resource.value}: {error}") from None
        if resource is Resource.HANDLING and not self._any_order:
            named = value.get("order_id")
            if named is not None and str(named) != order_id:
                raise UnusableAnswer(Refusal.NONSENSE, "handling: another order's")
        return value


#: What a refused write is called, by upstream's status.
_CODES = {
    400: "upstream_rejected",
    401: "upstream_unauthorized",
    403: "upstream_forbidden",
    404: "upstream_not_found",
    409: "upstream_rejected",
    422: "upstream_rejected",
    429: "upstream_busy",
}


def refusal_code(status: int) -> str:
    """A stable code by status; where it is not certain that nothing was done, it says so."""
    return _CODES.get(status) or ("upstream_rejected" if 400 <= status < 500 else "outcome_unknown")


def error_text(raw: bytes) -> str:
    """A short text out of an error body: `{error: text}`, or the live form `{error: {message, code}}`."""
    try:
        value = json_values.decode(raw)
    except InvalidInput:
        return ""
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict):
        error = error.get("message")
    return error[:200] if isinstance(error, str) else ""
