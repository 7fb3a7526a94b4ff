"""An order's records: what is asked of the store and answered, and the hash of an order as a state and back.

What is made for every poll is a struct and no dataclass: a frozen dataclass takes ten times as long to make.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from relay.errors import Conflict
from relay.model.cadence import stage_of
from relay.model.events import Event
from relay.model.orders import (
    BY_SHORT,
    RESOURCES,
    OrderId,
    OrderState,
    Resource,
    RetailerId,
    Snapshot,
    Tracking,
    Trouble,
)
from relay.model.pacing import FIRST_FACTOR, URGENT, Pool
from relay.store.redis import Arg

_json = msgspec.json.Encoder()
#: The stage of an order that was never read, and the pool of an arm that was not yet given its own.
NEW = stage_of(None)
NO_POOL = Pool("", 0, 0, 0, 0, 0.0, FIRST_FACTOR)


@dataclass(frozen=True, slots=True)
class UserToken:
    """A user's upstream access token as the retailer gave it; `expires_ms` is None when unknown."""

    token: str = field(repr=False)
    expires_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Registration:
    """What a retailer says of an order to be tracked."""

    order_id: OrderId
    user_id: str | None = None
    access_token: UserToken | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenOwner:
    """An order as far as its token goes (`relay.access.TokenHolder`)."""

    retailer_id: RetailerId
    order_id: OrderId
    credential: str
    user_id: str | None
    token_revision: str


@dataclass(frozen=True, slots=True)
class StoredOrder:
    """An order's committed state, with when it was last read and is next due (ms)."""

    state: OrderState
    last_polled_ms: int | None
    next_due_ms: int | None


class ClaimedArm(msgspec.Struct, frozen=True, array_like=True):
    """One (order, resource) that this pump may poll until its lease ends, as the claim script packs it. Times are
    milliseconds.

    `lease` is the fencing token. `send_at_ms` is when its request may start. `fingerprint` is empty when the next
    answer must be looked at in any case. `token_revision` tells a replaced token from a cached one. `due_ms` is when
    it was due, `changed_ms` when it last changed, as far as is known. `validator` is upstream's for the last reading.
    `pool` is set by `read_claim`.
    """

    member: str
    number: int
    lease: str
    send_at_ms: int
    due_ms: int
    fingerprint: str
    read_at_ms: int
    user: str
    token_revision: str
    tracking: Tracking
    status: str
    troubled: str
    changed_ms: int
    validator: str
    pool: Pool = NO_POOL

    @property
    def credential(self) -> str:
        return self.pool.credential

    @property
    def retailer_id(self) -> RetailerId:
        return self.pool.retailer_id

    @property
    def order_id(self) -> OrderId:
        return OrderId(self.member[2:])

    @property
    def resource(self) -> Resource:
        return BY_SHORT[self.member[0]]

    @property
    def user_id(self) -> str | None:
        return self.user or None

    @property
    def stage(self) -> str:
        return self.status or NEW

    @property
    def trouble(self) -> Trouble | None:
        return _read_trouble(self.troubled)


@dataclass(frozen=True, slots=True)
class Claim:
    """The arms of one claim, Redis's time when it was made, and when the next may succeed (None: nothing is due)."""

    now_ms: int
    next_ms: int | None
    arms: Sequence[ClaimedArm]


class Due(msgspec.Struct, frozen=True):
    """When an arm is due again (ms from now; None: never), and the class in which it stands until then."""

    delay_ms: int | None
    klass: int = URGENT


class Settlement(msgspec.Struct, frozen=True):
    """What became of a claimed arm that changed nothing: unchanged (`read_at_ms` set) or refused (`trouble` set).
    `validator` replaces the stored one (empty: it stands; `-`: there is none any more). `holds` is what it was decided
    on: `f` and the fingerprint that the answer was compared with, or `v` and the order's version. When that does not
    hold any more, the reading says nothing, and the arm is read again at once."""

    arm: ClaimedArm
    due: Due
    read_at_ms: int | None = None
    fingerprint: str = ""
    trouble: Trouble | None = None
    validator: str = ""
    holds: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """A changed order: its new state, its events, and when its arms are due again.

    `fingerprints` and `validators` hold what to store per resource; an empty one deletes what is stored. `troubles`
    likewise. `changed_ms`: when a resource last changed.
    """

    before: OrderState
    after: OrderState
    events: Sequence[Event] = ()
    fingerprints: Mapping[Resource, str] = field(default_factory=dict)
    due: Mapping[Resource, Due] = field(default_factory=dict)
    troubles: Mapping[Resource, Trouble | None] = field(default_factory=dict)
    validators: Mapping[Resource, str] = field(default_factory=dict)
    changed_ms: Mapping[Resource, int] = field(default_factory=dict)
    arm: ClaimedArm | None = None


def token_context(retailer_id: RetailerId, order_id: OrderId) -> str:
    return f"{retailer_id}/{order_id}/token"


def as_dict(answer: Any) -> dict[bytes, bytes]:
    if isinstance(answer, dict):
        return answer
    return {answer[i]: answer[i + 1] for i in range(0, len(answer), 2)}


class _Pool(msgspec.Struct, array_like=True):
    """A pool as the claim script packs it."""

    id: str
    arms: int
    orders: int
    all_orders: int
    retailers: int
    rate: float
    factor: str


_claimed = msgspec.msgpack.Decoder(tuple[int, int | float, int, list[_Pool], list[ClaimedArm]])


def read_claim(raw: bytes) -> tuple[Claim, int]:
    """What the claim script returned, and for how many seconds it granted more than a budget."""
    now_ms, next_ms, exceeded, packed, arms = _claimed.decode(raw)
    pools = [
        Pool(one.id, one.arms, one.orders, one.all_orders, one.retailers, one.rate, float(one.factor or FIRST_FACTOR))
        for one in packed
    ]
    for arm in arms:
        force_setattr(arm, "pool", pools[arm.number])  # nobody has seen it yet
    return Claim(now_ms, int(next_ms) if next_ms >= 0 else None, arms), exceeded


def trouble_record(trouble: Trouble) -> dict[str, Any]:
    return {"code": trouble.code, "detail": trouble.detail, "since": trouble.since_ms, "count": trouble.count}


def _read_trouble(raw: bytes | str | None) -> Trouble | None:
    if not raw:
        return None
    record = msgspec.json.decode(raw)
    return Trouble(record["code"], record["detail"], record["since"], record["count"])


def read_state(retailer_id: RetailerId, order_id: OrderId, answer: Any) -> OrderState | None:
    """The hash of an order as a state; None when there is none."""
    record = as_dict(answer)
    if b"v" not in record:
        return None
    parts = msgspec.json.decode(zlib.decompress(record[b"n"])) if b"n" in record else [None, None, None]
    pending = msgspec.json.decode(record[b"p"]) if b"p" in record else {}
    read_at = {r: int(record[b"w" + r.short.encode()]) for r in Resource if b"w" + r.short.encode() in record}
    troubles = [_read_trouble(record.get(b"b" + r.short.encode())) for r in Resource]
    return OrderState(
        retailer_id=retailer_id,
        order_id=order_id,
        registered_ms=int(record[b"r"]),
        version=int(record[b"v"]),
        sequence=int(record[b"q"]),
        tracking=Tracking(record[b"t"].decode()),
        started=record.get(b"s") == b"1",
        snapshot=Snapshot(*parts),
        read_at_ms=read_at,
        missing={Resource(name): frozenset(gone) for name, gone in pending.get("missing", {}).items()},
        terminal_since_ms=pending.get("terminal"),
        off=frozenset(Resource(name) for name in pending.get("off", ())),
        trouble=min((t for t in troubles if t is not None), key=lambda t: t.since_ms, default=None),
        user_id=record[b"u"].decode() if b"u" in record else None,
        metadata=msgspec.json.decode(record[b"d"]) if b"d" in record else {},
    )


def changed_fields(commit: Commit) -> list[Arg]:
    """The hash fields that a commit writes, flat; an empty value deletes the field."""
    before, after = commit.before, commit.after
    if after.order_id != before.order_id or after.version != before.version:
        raise Conflict("a commit is of one order, from the version it was decided on")
    fields: list[Arg] = ["q", after.sequence, "t", after.tracking.value, "s", "1" if after.started else ""]
    if after.snapshot is not before.snapshot:
        fields += _snapshot_fields(after.snapshot)
    fields += ["p", _pending(after)]
    for resource, read_at in after.read_at_ms.items():
        if before.read_at_ms.get(resource) != read_at:
            fields += [f"w{resource.short}", read_at]
    for letter, values in (("f", commit.fingerprints), ("e", commit.validators), ("a", commit.changed_ms)):
        for resource, value in values.items():
            fields += [f"{letter}{resource.short}", value]
    for resource, trouble in commit.troubles.items():
        fields += [f"b{resource.short}", _json.encode(trouble_record(trouble)) if trouble else ""]
    return fields


def _snapshot_fields(snapshot: Snapshot) -> list[Arg]:
    parts = [snapshot.get(resource) for resource in Resource]
    while len(parts) > len(RESOURCES) and parts[-1] is None:
        parts.pop()
    stage = stage_of(snapshot.status, pending=snapshot.pending)
    return ["n", zlib.compress(_json.encode(parts), 6), "g", stage]


def _pending(state: OrderState) -> bytes:
    """What a further reading has to confirm, and what is switched off; empty when there is nothing."""
    pending: dict[str, Any] = {}
    missing = {resource.value: sorted(gone) for resource, gone in state.missing.items() if gone}
    if missing:
        pending["missing"] = missing
    if state.terminal_since_ms is not None:
        pending["terminal"] = state.terminal_since_ms
    if state.off:
        pending["off"] = sorted(state.off)
    return _json.encode(pending) if pending else b""
