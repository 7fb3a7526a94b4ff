"""Detection: what differs between the committed state of a resource and a new reading of it, in domain terms.

Pure and total: any JSON object is a state. Items and messages are matched by key, so that another order is no change;
fields and values that the specification does not know are carried and reported like those it does.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from relay.model.catalogue import position
from relay.model.json_values import canonical, difference, same
from relay.model.orders import Json, JsonObject, Reading, Resource

#: Handling fields with an event type of their own; the shopper is told apart below.
_OWN_EVENT = {
    "status": "order.status_changed",
    "address": "order.address_changed",
    "coordinates": "order.coordinates_changed",
    "notes": "order.notes_changed",
}
#: Fields in which a dialect keeps what it read beside the normalised ones: they belong to the event of the first of
#: those that changed too, so that one fact is one event.
_COMPANIONS: Mapping[str, tuple[str, ...]] = {
    "workflow_state": ("status",),
    "upstream_status": ("status",),
    "upstream_quantity": ("quantity",),
    "item": ("quantity", "product_name"),
    "upstream_replacement_status": ("replacement_status",),
}
_DECISIONS = {"APPROVED": "order.replacement_approved", "REJECTED": "order.replacement_rejected"}


@dataclass(frozen=True, slots=True)
class Cause:
    """Who made upstream change: the retailer, through the relay, with this key and request, at this time (RFC 3339)."""

    key_id: str
    request_id: str
    at: str


@dataclass(frozen=True, slots=True)
class Change:
    """One fact. `value` is the subject as it is now (as it last was, when it went); `key` names an item or message."""

    type: str
    subject: Literal["order", "item", "message"]
    key: str | None
    value: JsonObject
    before: JsonObject
    after: JsonObject
    resource: Resource
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class Detection:
    """What a reading tells: the changes in their order, the value to store (with entries whose disappearance awaits a
    second reading), and the keys of those entries."""

    changes: tuple[Change, ...]
    value: JsonObject
    missing: frozenset[str]


def detect(stored: JsonObject, reading: Reading, missing: frozenset[str], *, chat_may_expire: bool) -> Detection:
    """Compare a reading with the last committed value of its resource.

    `missing` holds the keys that the previous reading lacked. An expired chat is no deletion, nor, with
    `chat_may_expire` (the order is over), an empty one.
    """
    if reading.resource not in _KINDS:
        return Detection(order_changes(stored, reading.value, reading.resource), reading.value, frozenset())
    return _collection_changes(stored, reading, missing, chat_may_expire=chat_may_expire)


# ── the order itself ────────────────────────────────────────────────────────────────────────────────────────────────


def order_changes(old: JsonObject, new: JsonObject, resource: Resource) -> tuple[Change, ...]:
    """What differs of the order itself (`Snapshot.order`) since a new reading of a resource that tells of it."""
    found = difference(old, new)
    if found is None:
        return ()
    kinds: dict[str, tuple[JsonObject, JsonObject]] = {}
    names = {**found[0], **found[1]}
    for name in names:
        kind = _OWN_EVENT.get(_leader(name, names), "order.updated")
        if name == "shopper":
            kind = _shopper_event(old.get("shopper"), new.get("shopper"))
        _assign(kinds, kind, name, found)
    made = [Change(kind, "order", None, new, *sides, resource) for kind, sides in kinds.items()]
    return tuple(sorted(made, key=lambda change: position(change.type)))


def _leader(name: str, changed: Collection[str]) -> str:
    """The field by which it is decided what event reports this one."""
    return next((one for one in _COMPANIONS.get(name, ()) if one in changed), name)


def _shopper_event(old: Json, new: Json) -> str:
    if old is None and new is None:
        return "order.updated"  # null or absent: nobody either way
    if old is None:
        return "order.shopper_assigned"
    return "order.shopper_unassigned" if new is None else "order.shopper_changed"


def _assign(
    kinds: dict[str, tuple[JsonObject, JsonObject]], kind: str, name: str, found: tuple[JsonObject, JsonObject]
) -> None:
    """Put one differing field into the event that reports it."""
    sides = kinds.setdefault(kind, ({}, {}))
    for side, values in zip(sides, found, strict=True):
        if name in values:
            side[name] = values[name]


# ── items and messages ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Kind:
    """What tells items from messages."""

    subject: Literal["item", "message"]
    added: str
    removed: str
    compare: Callable[[JsonObject, JsonObject], dict[str, tuple[JsonObject, JsonObject]]]


def _collection_changes(
    stored: JsonObject, reading: Reading, missing: frozenset[str], *, chat_may_expire: bool
) -> Detection:
    resource, listed = reading.resource, reading.resource.value
    kind = _KINDS[resource]
    old, new = keyed(stored.get(listed)), keyed(reading.value.get(listed))
    expired = resource is Resource.MESSAGES and (_is_expired(reading.value) or (chat_may_expire and not new))
    lacked = frozenset(old.keys() - new.keys()) if not expired else frozenset()
    # A twin whose fellow is still there goes at once: kept back, it would change which of them has which key.
    present = {_key(entry) for entry in new.values()}
    gone = frozenset(key for key in lacked if key in missing or _key(old[key]) in present)
    changes: list[tuple[int, int, Change]] = []

    def add(type_: str, key: str, value: JsonObject, before: JsonObject, after: JsonObject, place: int) -> None:
        change = Change(type_, kind.subject, key, value, before, after, resource)
        changes.append((position(type_), place, change))

    for place, (key, value) in enumerate(_chronological(resource, new)):
        if key not in old:
            add(kind.added, key, value, {}, value, place)
            continue
        for type_, (before, after) in kind.compare(old[key], value).items():
            add(type_, key, value, before, after, place)
    for place, key in enumerate(k for k in old if k in gone):
        add(kind.removed, key, old[key], old[key], {}, place)
    kept = [value for key, value in old.items() if key not in new and key not in gone]
    value = {**reading.value, listed: [*new.values(), *kept]}
    changes.sort(key=lambda row: row[:2])
    envelope = _envelope_change(stored, reading)
    made = tuple(change for _, _, change in changes)
    return Detection(envelope + made, value, lacked - gone)


def _envelope_change(stored: JsonObject, reading: Reading) -> tuple[Change, ...]:
    """Fields beside the list: `order.updated`, relative to the answer they stand in."""
    found = difference(envelope(stored, reading.resource), envelope(reading.value, reading.resource))
    return (Change("order.updated", "order", None, {}, *found, reading.resource),) if found else ()


def envelope(value: JsonObject, resource: Resource) -> JsonObject:
    """An answer without its list of items or messages."""
    return {name: inner for name, inner in value.items() if name != resource.value}


def _is_expired(value: JsonObject) -> bool:
    metadata = value.get("metadata")
    return value.get("is_expired") is True or (isinstance(metadata, dict) and metadata.get("is_expired") is True)


def _chronological(resource: Resource, entries: Mapping[str, JsonObject]) -> list[tuple[str, JsonObject]]:
    rows = list(entries.items())
    if resource is Resource.MESSAGES:
        rows.sort(key=lambda row: _created_at(row[1]))
    return rows


def _created_at(message: JsonObject) -> str:
    created = message.get("created_at")
    return created if isinstance(created, str) else ""


def keyed(listed: Json) -> dict[str, JsonObject]:
    """Items or messages by key, in their order: the id, or for one without an id a hash of its content.

    Entries with the same key are told apart as `key#2`, `key#3`, ..., by their content, so that another order of the
    array gives the same keys.
    """
    entries = [entry for entry in (listed if isinstance(listed, list) else []) if isinstance(entry, dict)]
    names = [_key(entry) for entry in entries]
    if len(set(names)) == len(names):
        return dict(zip(names, entries, strict=True))
    twins: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        twins.setdefault(name, []).append(index)
    taken = set(names)
    for name, places in sorted(twins.items()):
        number = 1
        for index in sorted(places, key=lambda index: canonical(entries[index]))[1:]:
            while (candidate := f"{name}#{number + 1}") in taken:
                number += 1  # somebody's own id looks like that
            taken.add(candidate)
            names[index] = candidate
    return dict(zip(names, entries, strict=True))


def _key(entry: JsonObject) -> str:
    id_ = entry.get("id")
    if isinstance(id_, str):
        return id_
    if id_ is None:
        return "?" + hashlib.blake2b(canonical(entry), digest_size=8).hexdigest()
    return canonical(id_).decode()


def _item_differences(old: JsonObject, new: JsonObject) -> dict[str, tuple[JsonObject, JsonObject]]:
    """Every differing field of an item in exactly one event."""
    kinds: dict[str, tuple[JsonObject, JsonObject]] = {}
    found = difference(old, new)
    if found is None:
        return kinds
    names = list({**found[0], **found[1]})
    replacement = _replacement_event(old.get("replacement"), new.get("replacement")) if "replacement" in names else None
    decision = new.get("replacement_status")
    decided = _DECISIONS.get(decision) if isinstance(decision, str) else None
    for name in names:
        kind, leader = "order.item_updated", _leader(name, names)
        if leader == "status":
            kind = "order.item_status_changed"
        elif leader == "quantity":
            kind = "order.item_quantity_changed"
        elif leader == "replacement":
            kind = replacement or kind
        elif leader == "replacement_status":
            kind = decided or replacement or kind
        _assign(kinds, kind, name, found)
    return kinds


def _replacement_event(old: Json, new: Json) -> str | None:
    if old is None and new is None:
        return None  # null or absent: no replacement either way
    if old is None:
        return "order.replacement_suggested"
    return "order.replacement_withdrawn" if new is None else "order.replacement_changed"


def _message_differences(old: JsonObject, new: JsonObject) -> dict[str, tuple[JsonObject, JsonObject]]:
    found = None if same(old, new) else difference(old, new)
    return {} if found is None else {"order.message_updated": found}


_KINDS = {
    Resource.ITEMS: _Kind("item", "order.item_added", "order.item_removed", _item_differences),
    Resource.MESSAGES: _Kind("message", "order.message_created", "order.message_removed", _message_differences),
}
