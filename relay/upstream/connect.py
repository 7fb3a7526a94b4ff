"""The live dialect, as Instacart documents it publicly (docs/upstream.md): its paths, and its answers in the
specification's names.

Nothing is dropped. A normalised value takes the specification's name; where that name held something else, what it held
stands beside under `upstream_<name>`. Everything that the documentation does not establish is looked for under the
names that are likely, and carried whatever it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from relay.errors import InvalidInput
from relay.model import json_values
from relay.model.orders import Json, JsonObject, OrderId, Resource
from relay.upstream.interface import Refusal, UnusableAnswer
from relay.upstream.specification import PREFIX, refusal_code

#: `workflow_state` as the specification's status (upstream facts, 2.3). Unknown states pass through.
STATES: Mapping[str, str] = {
    **{name: name for name in ("brand_new", "acknowledged", "delivering", "delivered", "canceled")},
    **dict.fromkeys(("picking", "verifying_replacements", "checkout"), "picking"),
    **dict.fromkeys(("bags_check", "receipt_sanity_check", "staged", "bags_verified", "ready_for_pickup"), "staging"),
    **dict.fromkeys(("user_at_store", "runner_awaiting", "runner_acknowledged", "at_store"), "staging"),
    **dict.fromkeys(("staged_for_delivery", "waiting_for_delivery", "acknowledged_for_delivery"), "staging"),
    "staging": "staging",
    "completed": "delivered",
    "cancelled": "canceled",
}
#: `line_items[].status`. Lower-case `not_found` means "not picked yet" upstream, never "out of stock" (2.3).
ITEM_STATES: Mapping[str, str] = {
    "pending": "pending",
    "not_picked": "pending",
    "not_found": "pending",
    "found": "found",
    "replaced": "replaced",
    "to_refund": "refunded",
    "refunded": "refunded",
}
SENDERS: Mapping[str, str] = {"user": "customer", "driver": "shopper"}
NOT_SPECIFIED = "SUBSTITUTION_STATUS_UNSPECIFIED"
#: Where a message's text, and a shopper's first name, may stand: the documentation does not say.
_TEXTS, _NAMES = ("body", "text", "message", "content"), ("name", "first_name")
#: Lists of an answer: as upstream calls them, and as the relay does.
_LISTS = {Resource.ITEMS: ("line_items", "items"), Resource.MESSAGES: ("chat_messages", "messages")}


#: Fields of handling, some of which it always has; and the one of location (unless it is empty) and of pickup details.
_HANDLING = frozenset(
    (
        *("address", "coordinates", "instructions", "shopper", "notes", "dropoff_location"),
        *("leave_unattended", "alcoholic", "certified_delivery"),
    )
)
_BESIDE = {Resource.LOCATION: "coordinates", Resource.PICKUP: "pickup_instructions"}


class Connect:
    """Paths, bodies and parsing of the live dialect.

    `retailer_id` is for retailers with several banners (header X-Retailer-Id), `language` one of en-US, en-CA, fr-CA,
    `internal_ids` whether ids are Instacart's own; None leaves the header out.
    """

    required = (Resource.DETAILS, Resource.HANDLING, Resource.ITEMS, Resource.MESSAGES)
    resources = (*required, Resource.LOCATION, Resource.PICKUP)

    def __init__(
        self, *, retailer_id: str | None = None, language: str | None = None, internal_ids: bool | None = None
    ) -> None:
        given = {
            "x-retailer-id": retailer_id,
            "accept-language": language,
            "x-treat-ids-as-internal": None if internal_ids is None else str(internal_ids).lower(),
        }
        self.headers: Mapping[str, str] = {name: value for name, value in given.items() if value is not None}

    def path(self, order_id: OrderId, resource: Resource) -> str:
        """The path of a resource; ids are one segment each, whatever they hold."""
        id_ = quote(order_id, safe="")
        if resource is Resource.MESSAGES:
            return f"{PREFIX}/chat/{id_}/messages"
        below = {Resource.DETAILS: "", Resource.PICKUP: "/pickup/details"}.get(resource, f"/{resource.value}")
        return f"{PREFIX}/orders/{id_}{below}"

    def replacement_path(self, order_id: OrderId, item_id: str) -> str:
        return f"{PREFIX}/orders/{quote(order_id, safe='')}/items/{quote(item_id, safe='')}/replacement"

    def replacement_body(self, status: str, alternative: JsonObject | None) -> JsonObject:
        return {"status": status} if alternative is None else {"status": status, "alternative_item": alternative}

    def message_body(self, body: str) -> JsonObject:
        return {"body": body}

    def written(self, value: JsonObject) -> JsonObject:
        """The answer to a write, ids as strings."""
        found: JsonObject = _with_text_ids(value)
        return found

    def parse(self, resource: Resource, raw: bytes, *, order_id: OrderId) -> JsonObject:
        """The whole answer in the specification's names. Raises UnusableAnswer for what is no state of an order."""
        try:
            value = json_values.decode(raw)
        except InvalidInput as error:
            raise UnusableAnswer(Refusal.MALFORMED, error.detail) from None
        if not isinstance(value, dict):
            raise UnusableAnswer(Refusal.NONSENSE, f"{resource.value}: not an object")
        if "error" in value and not (value.keys() - {"error", "status", "meta"}):
            raise UnusableAnswer(Refusal.NONSENSE, f"{resource.value}: an error body with status 200")
        value = _with_text_ids(value)
        if resource in _LISTS:
            return _listed(resource, value)
        if resource is Resource.DETAILS:
            return _details(value)
        if resource is Resource.HANDLING:
            return _handling(value)
        return _beside(resource, value)

    def refusal(self, status: int, raw: bytes, writing: Resource) -> tuple[str, str]:
        """A short text and a stable code for a refused write: by status, code and key, as the documentation asks, and
        by text only where it gives nothing else (upstream facts, 2.5, 2.6 and 2.9)."""
        text, code, key = _error(raw)
        return text or f"upstream answered {status}", _refusal_code(status, code, key, text, writing)


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _with_text_ids(value: Json) -> Any:
    """Ids as strings whatever they are: 64-bit integers do not survive every receiver's JSON."""
    if isinstance(value, dict):
        return {name: _text_id(name, inner) for name, inner in value.items()}
    return [_with_text_ids(inner) for inner in value] if isinstance(value, list) else value


def _text_id(name: str, value: Json) -> Json:
    if name == "id" or name.endswith("_id"):
        return _as_text(value)
    if name.endswith("_ids") and isinstance(value, list):
        return [_as_text(one) for one in value]
    return _with_text_ids(value)


def _as_text(value: Json) -> Json:
    if type(value) is int or (type(value) is float and value.is_integer()):
        return str(int(value))
    return _with_text_ids(value)


def _put(value: JsonObject, name: str, normalised: Json) -> None:
    """Give a normalised value the specification's name; what stood there before stands beside."""
    if name in value and not json_values.same(value[name], normalised):
        beside = f"upstream_{name}"
        while beside in value:
            beside = f"upstream_{beside}"
        value[beside] = value[name]
    value[name] = normalised


def _details(value: JsonObject) -> JsonObject:
    state = value.get("workflow_state")
    if state is not None and not isinstance(state, str):
        raise UnusableAnswer(Refusal.NONSENSE, "details: workflow_state is no text")
    if state is None and "fulfillment_type" not in value:
        raise UnusableAnswer(Refusal.NONSENSE, "details: no field of an order; perhaps an error body")
    if state is None and isinstance(value.get("status"), str):
        state = value["status"]
    if state is not None:
        _put(value, "status", status_of(state))
    return value


def status_of(state: str) -> str:
    """The specification's status of a workflow state; an unknown one as it came."""
    name = state.strip().lower()
    if name.startswith("runner_"):
        return "staging"
    return STATES.get(name, state)


def _handling(value: JsonObject) -> JsonObject:
    if not _HANDLING & value.keys():
        raise UnusableAnswer(Refusal.NONSENSE, "handling: no field of an order; perhaps an error body")
    address = _object(value, "address", "handling")
    if address is not None:
        for ours, theirs in (("city", "locality"), ("state", "administrative_area")):
            if address.get(theirs) is not None:
                _put(address, ours, address[theirs])
    _object(value, "coordinates", "handling")
    shopper = _object(value, "shopper", "handling")
    if shopper is not None and (name := _first(shopper, _NAMES)) is not None:
        _put(shopper, "name", name)
    return value


def _beside(resource: Resource, value: JsonObject) -> JsonObject:
    """Location, which is empty while nobody drives, and pickup details."""
    name = _BESIDE[resource]
    if name not in value and (value or resource is Resource.PICKUP):
        raise UnusableAnswer(Refusal.NONSENSE, f"{resource.value}: no {name}; perhaps an error body")
    return value


def _listed(resource: Resource, value: JsonObject) -> JsonObject:
    """The envelope with its list under the relay's name."""
    theirs, ours = _LISTS[resource]
    listed = value.pop(theirs, None)
    metadata = value.get("metadata")
    beside = metadata if isinstance(metadata, dict) else {}
    if listed is None and True in (beside.get("is_expired"), value.get("is_expired")):
        listed = []
    if not isinstance(listed, list):
        raise UnusableAnswer(Refusal.NONSENSE, f"{resource.value}: no list; perhaps an error body")
    convert: Callable[[JsonObject], JsonObject] = _item if resource is Resource.ITEMS else _message
    entries = []
    for entry in listed:
        if entry is None:
            continue  # it says nothing
        if not isinstance(entry, dict):
            raise UnusableAnswer(Refusal.NONSENSE, f"{resource.value}: an entry is no object")
        entries.append(convert(entry))
    _put(value, ours, entries)
    return value


def _item(entry: JsonObject) -> JsonObject:
    product = _object(entry, "item", "items")
    if product is not None:
        _describe(entry, product)
    status = entry.get("status")
    if isinstance(status, str):
        _put(entry, "status", ITEM_STATES.get(status.lower(), status))
    replacement = _object(entry, "replacement", "items")
    if replacement is not None:
        _describe(replacement, replacement)
    if str(entry.get("replacement_status")).upper() == NOT_SPECIFIED:
        entry["upstream_replacement_status"] = entry.pop("replacement_status")
    return entry


def _describe(entry: JsonObject, product: JsonObject) -> None:
    """Name and quantity of a product in the specification's names; a quantity is a number if it is written as one."""
    if product.get("name") is not None:
        _put(entry, "product_name", product["name"])
    if product.get("quantity") is not None:
        _put(entry, "quantity", quantity_of(product["quantity"]))


def quantity_of(value: Json) -> Json:
    """`"2"` and `"2.000"` as 2, `"1.5"` as 1.5, anything else as it came."""
    if not isinstance(value, str):
        return value
    try:
        number = float(value)
        short = len(value) <= 15 and value.isascii() and value.replace(".", "", 1).isdigit()
    except ValueError:
        return value
    if not short:
        return value
    return int(number) if number.is_integer() else number


def _message(entry: JsonObject) -> JsonObject:
    sender = entry.get("sender_type")
    if isinstance(sender, str):
        _put(entry, "sender", SENDERS.get(sender.lower(), sender))
    body = _first(entry, _TEXTS)
    if body is not None:
        _put(entry, "body", body)
    return entry


def _object(value: JsonObject, name: str, where: str) -> JsonObject | None:
    found = value.get(name)
    if found is not None and not isinstance(found, dict):
        raise UnusableAnswer(Refusal.NONSENSE, f"{where}: {name} is no object")
    return found


def _first(value: JsonObject, names: Sequence[str]) -> str | None:
    return next((value[name] for name in names if isinstance(value.get(name), str)), None)


# ── errors ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _error(raw: bytes) -> tuple[str, Json, str]:
    """Message, code and key of `{error: {message, code, errors?}, meta: {key?}}`, or of the OAuth form."""
    try:
        value = json_values.decode(raw)
    except InvalidInput:
        return "", None, ""
    if not isinstance(value, dict):
        return "", None, ""
    error, meta = value.get("error"), value.get("meta")
    key = meta.get("key") if isinstance(meta, dict) else None
    if isinstance(error, str):
        return error[:200], None, key if isinstance(key, str) else ""
    if not isinstance(error, dict):
        return "", None, ""
    text, code = error.get("message"), error.get("code")
    nested = error.get("errors")
    for one in nested if isinstance(nested, list) else []:  # several at once come under one code
        found = one.get("meta", one) if isinstance(one, dict) else None
        if not isinstance(key, str) and isinstance(found, dict) and isinstance(found.get("key"), str):
            key, code = found["key"], one.get("code")
    return text[:200] if isinstance(text, str) else "", code, key if isinstance(key, str) else ""


def _refusal_code(status: int, code: Json, key: str, text: str, writing: Resource) -> str:
    if status == 403 and writing is Resource.MESSAGES:
        return "chat_not_allowed"
    if status != 400:
        return refusal_code(status)
    if key == "alternative_item" or (code == 1001 and not key and "alternative item" in text.lower()):
        return "alternative_item_invalid"
    if key == "body":
        return "chat_body_too_long"
    if writing is Resource.ITEMS and "already responded" in text.lower():
        return "already_decided"
    return refusal_code(status)
