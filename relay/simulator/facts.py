"""The truth about changes: the facts in which two consecutive answers for the same (order, resource) differ.

This is the simulator's own definition and shares nothing with the relay's detection, which it is used to judge.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from relay.simulator.world import HANDLING, ITEMS

Json = Any
_ABSENT = object()
_HANDLING_SINGLE = ("status", "shopper", "address", "coordinates", "notes")
_DECIDED = ("APPROVED", "REJECTED")


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact that differs. `subject_id` is the item's, the message's or the order's id; absent values are None."""

    fact: str
    subject_id: str
    before: Json
    after: Json


@dataclass(frozen=True, slots=True)
class Fact:
    """A difference, and the wall time (Unix seconds) of the first answer that showed it."""

    order_id: str
    resource: str
    fact: str
    subject_id: str
    at: float
    before: Json
    after: Json


def differences(
    resource: str, order_id: str, before: Mapping[str, Json], after: Mapping[str, Json]
) -> list[Difference]:
    """The facts that differ between two whole answers for one resource. The order of arrays is no fact."""
    if resource == HANDLING:
        return list(_handling(order_id, before, after))
    old, new = _by_id(before.get(resource)), _by_id(after.get(resource))
    return list(_items(old, new) if resource == ITEMS else _messages(old, new))


def _handling(order_id: str, before: Mapping[str, Json], after: Mapping[str, Json]) -> Iterator[Difference]:
    for key in _HANDLING_SINGLE:
        if before.get(key, _ABSENT) != after.get(key, _ABSENT):
            yield Difference(key, order_id, before.get(key), after.get(key))
    yield from _rest(order_id, before, after, frozenset(_HANDLING_SINGLE))


def _items(old: Mapping[str, Json], new: Mapping[str, Json]) -> Iterator[Difference]:
    for subject_id in new.keys() - old.keys():
        yield Difference("added", subject_id, None, new[subject_id])
    for subject_id in old.keys() - new.keys():
        yield Difference("removed", subject_id, old[subject_id], None)
    for subject_id in old.keys() & new.keys():
        if old[subject_id] != new[subject_id]:
            yield from _item(subject_id, old[subject_id], new[subject_id])


def _item(subject_id: str, before: Mapping[str, Json], after: Mapping[str, Json]) -> Iterator[Difference]:
    told = {"status", "quantity", "replacement"}
    for key in sorted(told):
        if before.get(key, _ABSENT) != after.get(key, _ABSENT):
            yield Difference(key, subject_id, before.get(key), after.get(key))
    was, now = before.get("replacement_status", _ABSENT), after.get("replacement_status", _ABSENT)
    if was != now and now in _DECIDED:
        told.add("replacement_status")
        yield Difference("decision", subject_id, before.get("replacement_status"), now)
    elif before.get("replacement", _ABSENT) != after.get("replacement", _ABSENT):
        told.add("replacement_status")
    yield from _rest(subject_id, before, after, frozenset(told))


def _messages(old: Mapping[str, Json], new: Mapping[str, Json]) -> Iterator[Difference]:
    for subject_id in old.keys() | new.keys():
        before, after = old.get(subject_id), new.get(subject_id)
        if before != after:
            yield Difference(
                "new" if before is None else "gone" if after is None else "differs", subject_id, before, after
            )


def _rest(
    subject_id: str, before: Mapping[str, Json], after: Mapping[str, Json], told: frozenset[str]
) -> Iterator[Difference]:
    """All other fields together are one fact."""
    keys = (before.keys() | after.keys()) - told
    changed = sorted(key for key in keys if before.get(key, _ABSENT) != after.get(key, _ABSENT))
    if changed:
        yield Difference(
            "other",
            subject_id,
            {key: before[key] for key in changed if key in before},
            {key: after[key] for key in changed if key in after},
        )


def _by_id(entries: Sequence[Mapping[str, Json]] | None) -> dict[str, Json]:
    return {str(entry.get("id")): entry for entry in entries or ()}


class Ledger:
    """What was served last for each (order, resource), and every fact that consecutive answers showed."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self._last: dict[tuple[str, str], tuple[bytes, Mapping[str, Json]]] = {}

    def served(self, order_id: str, resource: str, body: bytes, at: float) -> None:
        """A complete 200 answer went out at `at`."""
        last = self._last.get((order_id, resource))
        if last is not None and (last[0] is body or last[0] == body):
            return
        value = msgspec.json.decode(body)
        self._last[order_id, resource] = (body, value)
        if last is not None:
            self.facts.extend(
                Fact(order_id, resource, one.fact, one.subject_id, at, one.before, one.after)
                for one in differences(resource, order_id, last[1], value)
            )

    def answer(self, order_id: str, resource: str) -> Mapping[str, Json] | None:
        """The last served value, None when there was none."""
        last = self._last.get((order_id, resource))
        return last[1] if last else None
