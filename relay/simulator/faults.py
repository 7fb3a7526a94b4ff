"""Faults on demand: which requests they hit. What they do to an answer stands in `spoiling`.

A fault is written `KIND[:DURATION][:PROBABILITY][:key=value]...`, for example

    500:0.05                          one poll in twenty answers 500
    latency:200ms:0.5                 every other poll takes 200 ms longer
    cut:1:resource=items:count=3      the next three item polls are cut short
    404:1:order=o-2:for=30s           everything about o-2 is missing for half a minute
    503:1:resource=token              the token endpoint is down

Without `resource` a fault hits the three polled resources; `replacement`, `chat` and `token` name the writes, `all`
hits everything. Probabilities count requests, but for `unknown` and `skew` they count orders, so that a value never
flaps.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

from relay.errors import InvalidInput, Problem
from relay.simulator.world import RESOURCES

Json = Any
#: What is polled, in both dialects.
POLLED = (*RESOURCES, "details", "location", "pickup")
TARGETS = (*POLLED, "replacement", "chat", "token")

#: What a kind does beside the plain status codes.
KINDS: Mapping[str, str] = {
    "latency": "answers later, by the duration (200ms)",
    "timeout": "never answers",
    "reset": "resets the connection",
    "cut": "ends the connection in the middle of the body",
    "malformed": "answers 200 with broken JSON",
    "empty": "answers 200 with no body",
    "huge": "answers 200 with 10 MB",
    "wrong-type": "answers 200 with JSON of another type",
    "wrong-content-type": "answers 200 with an HTML page",
    "error-200": "answers 200 with an error body",
    "expired-chat": "after an order's end its chat is empty",
    "reorder": "shuffles items",
    "unknown": "adds unknown fields and enum values, the same ones for an order each time",
    "skew": "shifts the Date header and created_at by the duration (5m)",
}
#: Kinds whose probability picks orders and not requests.
_PER_ORDER = frozenset({"unknown", "skew"})
_DURATIONS: Mapping[str, float] = {"latency": 0.2, "skew": 300.0}
_DURATION = re.compile(r"(-?\d+(?:\.\d+)?)(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `duration` in seconds (latency, skew); `count` hits left and `until` (Unix seconds) bound its life."""

    kind: str
    probability: float = 1.0
    duration: float = 0.0
    resource: str | None = None
    order_id: str | None = None
    count: int | None = None
    lasts: float | None = None
    until: float | None = None

    @property
    def status(self) -> int | None:
        return int(self.kind) if self.kind.isdigit() else None

    def aims_at(self, target: str, order_id: str | None) -> bool:
        if self.order_id is not None and self.order_id != order_id:
            return False
        return self.resource in (target, "all") or (self.resource is None and target in POLLED)


class Faults:
    """The faults in force, and the seeded dice."""

    def __init__(self, faults: Iterable[Fault], seed: int, now: float) -> None:
        self._seed = seed
        self._rng = Random(f"{seed}:faults")
        self._faults: list[Fault] = []
        for fault in faults:
            self.add(fault, now)

    def add(self, fault: Fault, now: float) -> None:
        self._faults.append(replace(fault, until=None if fault.lasts is None else now + fault.lasts))

    def clear(self) -> int:
        cleared, self._faults = len(self._faults), []
        return cleared

    def in_force(self) -> list[dict[str, Json]]:
        return [asdict(fault) for fault in self._faults]

    def draw(self, target: str, order_id: str | None, now: float) -> list[Fault]:
        """The faults that hit this request, in the order in which they were given."""
        hits: list[Fault] = []
        for fault in tuple(self._faults):
            if fault.until is not None and now >= fault.until:
                self._faults.remove(fault)
            elif fault.aims_at(target, order_id) and self._roll(fault, order_id) < fault.probability:
                hits.append(fault)
                self._spend(fault)
        return hits

    def _roll(self, fault: Fault, order_id: str | None) -> float:
        if fault.kind in _PER_ORDER:
            return Random(f"{self._seed}:{fault.kind}:{order_id}").random()
        return self._rng.random()

    def _spend(self, fault: Fault) -> None:
        if fault.count is not None:
            place = self._faults.index(fault)
            left = [replace(fault, count=fault.count - 1)] if fault.count > 1 else []
            self._faults[place : place + 1] = left


def parse(spec: str) -> Fault:
    """A fault from its written form; InvalidInput says what is wrong with it."""
    kind, *words = spec.split(":")
    fields: dict[str, Json] = {"kind": kind}
    for word in words:
        key, equals, value = word.partition("=")
        if equals:
            fields.update(_option(key, value, spec))
        elif (seconds := duration(word)) is not None:
            fields["duration"] = seconds
        else:
            fields["probability"] = _number(word, spec)
    return build(fields, spec)


def build(fields: Mapping[str, Json], spec: str) -> Fault:
    """A fault from its fields, checked."""
    kind = str(fields.get("kind", ""))
    if kind not in KINDS and not re.fullmatch(r"[45]\d\d", kind):
        raise _refusal(spec, f"unknown kind {kind!r}; use a status from 400 to 599 or one of {', '.join(KINDS)}")
    try:
        fault = Fault(**{"duration": _DURATIONS.get(kind, 0.0), **fields, "kind": kind})
    except TypeError:
        known = ", ".join(Fault.__slots__)
        raise _refusal(spec, f"unknown field among {', '.join(map(str, fields))}; use {known}") from None
    if not _is_number(fault.probability) or not 0 <= fault.probability <= 1:
        raise _refusal(spec, f"probability must be a number from 0 to 1, not {fault.probability!r}")
    if "duration" in fields and kind not in _DURATIONS:
        raise _refusal(spec, f"{kind} takes no duration; only {' and '.join(_DURATIONS)} do")
    if not _is_number(fault.duration) or (kind == "latency" and fault.duration < 0):
        raise _refusal(spec, "duration must be a number of seconds, for latency not below 0")
    if fault.resource not in (None, "all", *TARGETS):
        raise _refusal(spec, f"resource must be all or one of {', '.join(TARGETS)}, not {fault.resource!r}")
    if fault.count is not None and (type(fault.count) is not int or fault.count < 1):
        raise _refusal(spec, f"count must be an integer of at least 1, not {fault.count!r}")
    if fault.lasts is not None and (not _is_number(fault.lasts) or fault.lasts <= 0):
        raise _refusal(spec, f"lasts must be a number of seconds above 0, not {fault.lasts!r}")
    return fault


def duration(text: str) -> float | None:
    """Seconds from `200ms`, `15s`, `2m` or `1h`; None when it is not written like that."""
    match = _DURATION.fullmatch(text)
    return float(match[1]) * _UNITS[match[2]] if match else None


def _option(key: str, value: str, spec: str) -> dict[str, Json]:
    if key == "resource":
        return {"resource": value}
    if key == "order":
        return {"order_id": value}
    if key == "count":
        return {"count": int(value) if value.isdigit() else value}
    if key == "for" and (seconds := duration(value)) is not None:
        return {"lasts": seconds}
    raise _refusal(spec, f"unknown option {key}={value}; use resource=, order=, count= or for= (as 30s)")


def _number(word: str, spec: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise _refusal(spec, f"{word!r} is neither a probability (0.05) nor a duration (200ms)") from None


def _is_number(value: Json) -> bool:
    return type(value) in (int, float)


def _refusal(spec: str, detail: str) -> InvalidInput:
    text = f"fault {spec!r}: {detail}"
    return InvalidInput(text, code="invalid_fault", problems=[Problem("fault", "invalid_fault", text)])
