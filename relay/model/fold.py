"""Folding an order's events back into its state: the receiver's side of promise 2.

`tracking_started` gives the whole order; every later event moves it on by its `changes`. The result equals the relay's
last snapshot for every field, known or unknown. The subject that events carry is not used to move on: it is what the
result is checked against.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from relay.model.changes import envelope, keyed
from relay.model.json_values import apply, same
from relay.model.orders import Json, JsonObject, Resource, Snapshot

_LISTS = {"item": Resource.ITEMS, "message": Resource.MESSAGES}


class Taken(enum.StrEnum):
    """What became of an event: folded in, known already, or not the next one of its order."""

    FOLDED = "folded"
    REPEATED = "repeated"
    OUT_OF_ORDER = "out_of_order"


@dataclass(slots=True)
class Fold:
    """One order's state as its events tell it."""

    sequence: int = 0
    started: bool = False
    ended: bool = False
    handling: JsonObject = field(default_factory=dict)
    entries: dict[Resource, dict[str, JsonObject]] = field(
        default_factory=lambda: {Resource.ITEMS: {}, Resource.MESSAGES: {}}
    )
    extras: dict[Resource, JsonObject] = field(default_factory=lambda: {Resource.ITEMS: {}, Resource.MESSAGES: {}})
    seen: set[str] = field(default_factory=set)

    def take(self, event: JsonObject) -> Taken:
        """Fold in one event (a parsed full payload)."""
        data = event["data"]
        if event["id"] in self.seen:
            return Taken.REPEATED
        first = data.get("stands_for", {}).get("first", data["sequence"])
        if not first <= self.sequence + 1 <= data["sequence"]:
            return Taken.OUT_OF_ORDER
        self.seen.add(event["id"])
        self.sequence = data["sequence"]
        kind = event["type"]
        if kind == "order.snapshot":
            self.ended = data["tracking"] == "ended"
        if kind in ("order.tracking_started", "order.snapshot"):
            self._start(data)
        elif kind == "order.tracking_ended":
            self.ended = True
        elif "changes" in data:
            self._move(kind, data)
        return Taken.FOLDED

    def _start(self, data: JsonObject) -> None:
        self.started = True
        self.handling = data["order"] or {}
        for resource in self.entries:
            self.entries[resource] = keyed(data[resource.value] or [])
            self.extras[resource] = data.get("extras", {}).get(resource.value, {})

    def _move(self, kind: str, data: JsonObject) -> None:
        before, after = data["changes"]["before"], data["changes"]["after"]
        subject = next((name for name in _LISTS if name in data), "order")
        if subject == "order":
            resource = data.get("resource")
            if resource is None:
                self.handling = apply(self.handling, before, after)
            else:
                self.extras[Resource(resource)] = apply(self.extras[Resource(resource)], before, after)
            return
        entries = self.entries[_LISTS[subject]]
        key = data.get("key") or data[subject]["id"]
        if kind.endswith("_removed"):
            entries.pop(key, None)
        else:
            entries[key] = apply(entries.get(key, {}), before, after)

    def differences(self, snapshot: Snapshot) -> list[str]:
        """Each fact in which the folded state and a snapshot differ; the order of items and messages does not count."""
        found = [f"handling.{name}" for name in _differing(self.handling, snapshot.order or {})]
        for resource, entries in self.entries.items():
            value = snapshot.get(resource) or {}
            theirs = keyed(value.get(resource.value))
            found += [f"{resource.value}[{key}]" for key in _differing(entries, theirs)]
            beside = envelope(value, resource)
            found += [f"{resource.value}.{name}" for name in _differing(self.extras[resource], beside)]
        return found


def _differing(ours: Mapping[str, Json], theirs: Mapping[str, Json]) -> list[str]:
    """The keys that only one side has, or that differ."""
    return [k for k in {**ours, **theirs} if k not in ours or k not in theirs or not same(ours[k], theirs[k])]
