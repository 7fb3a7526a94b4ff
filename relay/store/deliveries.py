"""Owning subscriptions and writing down what was delivered: the deliver pump's side of a subscription.

A subscription is a position in its retailer's log. Everything up to `pos` is settled: delivered, dead, refused by the
filters, or parked in the lane of its order. `ahead` holds what is settled behind the position, so that a crash repeats
only what was in flight. `pos_seq` is the relay-sequence of the last matched event at or before the position; the
numbers behind it follow from the filters, so they are the same whoever counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from relay.model.filters import Filter
from relay.model.orders import LaneId, RetailerId, SubscriptionId
from relay.model.signing import Secret
from relay.store import keys
from relay.store.log import Entry, ordinal, read_entry
from relay.store.redis import Arg, Db
from relay.vault import Vault


@dataclass(frozen=True, slots=True)
class Target:
    """Where and how to send: what the retailer configured, opened and parsed. `secrets` are those live now."""

    url: str
    secrets: tuple[Secret, ...]
    headers: Mapping[str, str]
    payload: str
    ordering: str
    max_in_flight: int | None
    filters: tuple[tuple[tuple[int, int], Filter], ...]
    revision: str

    def wants(self, position: str, event_type: str) -> bool:
        """Whether an event at a position is for this subscription, by the filters in force when it was written."""
        at = ordinal(position)
        chosen: Filter | None = None
        for since, filter_ in self.filters:
            if since < at:
                chosen = filter_
        return chosen is not None and chosen.matches(event_type)


@dataclass(frozen=True, slots=True)
class LaneEntry:
    """One event that waits in a parked lane."""

    position: str
    sequence: int
    attempts: int
    first_attempt_ms: int

    def encode(self) -> str:
        return f"{self.position}/{self.sequence}/{self.attempts}/{self.first_attempt_ms}"


def decode_lane_entry(raw: bytes) -> LaneEntry:
    position, sequence, attempts, first = raw.decode().split("/")
    return LaneEntry(position, int(sequence), int(attempts), int(first))


@dataclass(frozen=True, slots=True)
class Owned:
    """A subscription under lease: its fencing token, its target and where delivery stands.

    `parked` maps parked lanes to the time of their next attempt (ms)."""

    subscription_id: SubscriptionId
    retailer_id: RetailerId
    fence: str
    target: Target
    position: str
    sequence: int
    ahead: frozenset[str]
    parked: Mapping[LaneId, int]


@dataclass(frozen=True, slots=True)
class Operation:
    """One change to a lane: `park`, `pop`, `retry` or `dead` (scripts/progress.lua says what `a` and `b` are)."""

    kind: Literal["park", "pop", "retry", "dead"]
    order_id: LaneId
    a: str
    b: str | int = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """What one batch achieved. `serial` numbers the batches of one lease, so that a command which redis-py sends twice
    is applied once. `last_error` is JSON, '-' to clear it, '' to leave it."""

    serial: int
    position: str = ""
    sequence: int = 0
    matched: int = 0
    delivered: int = 0
    dead: int = 0
    last_error: bytes | str = ""
    gone: bool = False
    ahead: Sequence[str] = ()
    passed: Sequence[str] = ()
    operations: Sequence[Operation] = ()


@dataclass(frozen=True, slots=True)
class Recorded:
    """The answer to a batch: Redis's time, the configuration's revision, and which lanes are empty now."""

    now_ms: int
    revision: str
    enabled: bool
    emptied: frozenset[LaneId] = field(default=frozenset())


class Deliveries:
    def __init__(self, db: Db, vault: Vault) -> None:
        self._db = db
        self._vault = vault

    async def own(self, limit: int, *, owner: str, lease_ms: int) -> tuple[int, int | None, list[Owned]]:
        """Lease up to `limit` subscriptions with work; returns Redis's time and when there is more (None: nothing)."""
        now, next_ms, *found = await self._db.script("own", [keys.READY], [limit, owner, lease_ms])
        owned = [self._owned(*fields, now_ms=int(now)) for fields in found]
        return int(now), int(float(next_ms)) if next_ms else None, owned

    async def record(self, owned: Owned, progress: Progress, *, lease_ms: int) -> Recorded | None:
        """Write a batch and renew the lease; None when the lease is lost, and then nothing was written."""
        operations: list[Arg] = []
        for op in progress.operations:
            operations += [op.kind, op.order_id, op.a, op.b]
        one = owned.subscription_id
        args: list[Arg] = [one, owned.fence, progress.serial, lease_ms, progress.position, progress.sequence]
        args += [progress.matched, progress.delivered, progress.dead, progress.last_error, int(progress.gone)]
        args += [len(progress.ahead), *progress.ahead, len(progress.passed), *progress.passed]
        args += [len(progress.operations), *operations]
        answer = await self._db.script(
            "progress",
            [keys.subscription(one), keys.ahead(one), keys.lanes(one), keys.dead(one), keys.READY],
            args,
        )
        if answer[0] == b"lost":
            return None
        emptied = frozenset(LaneId(order.decode()) for order in answer[4:])
        return Recorded(int(answer[1]), _text(answer[2]), answer[3] == b"1", emptied)

    async def read(self, owned: Owned, position: str, limit: int) -> tuple[list[Entry], str]:
        """Log entries behind a position and the configuration's revision, looked up after them: while that revision
        stands, its filters are right for these entries. One round trip."""
        commands: list[list[Arg]] = [
            ["XRANGE", keys.log(owned.retailer_id), f"({position}", "+", "COUNT", limit],
            ["HGET", keys.subscription(owned.subscription_id), "rev"],
        ]
        rows, revision = await self._db.run_many(commands)
        return [read_entry(row) for row in rows], _text(revision or b"0")

    async def release(self, owned: Owned) -> bool:
        one = owned.subscription_id
        keys_ = [keys.subscription(one), keys.lanes(one), keys.READY]
        return bool(await self._db.script("release", keys_, [one, owned.fence]))

    async def lanes(
        self, subscription_id: SubscriptionId, lanes: Sequence[LaneId], depth: int
    ) -> list[list[LaneEntry]]:
        """The first `depth` entries of each lane, in one round trip."""
        commands: list[list[Arg]] = [["LRANGE", keys.lane(subscription_id, o), 0, depth - 1] for o in lanes]
        return [[decode_lane_entry(raw) for raw in lane] for lane in await self._db.run_many(commands)]

    async def target(self, subscription_id: SubscriptionId, *, now_ms: int) -> Target | None:
        """The configuration as it is now; None when the subscription is gone."""
        record = _as_dict(await self._db.run("HGETALL", keys.subscription(subscription_id)))
        return self._target(subscription_id, record, now_ms=now_ms) if record else None

    def _owned(self, id_: bytes, fence: int, record: Any, ahead: Any, lanes: Any, *, now_ms: int) -> Owned:
        subscription_id = SubscriptionId(id_.decode())
        fields = _as_dict(record)
        parked = {LaneId(lanes[i].decode()): int(float(lanes[i + 1])) for i in range(0, len(lanes), 2)}
        return Owned(
            subscription_id,
            RetailerId(fields[b"retailer"].decode()),
            str(fence),
            self._target(subscription_id, fields, now_ms=now_ms),
            fields[b"pos"].decode(),
            int(fields[b"pos_seq"]),
            frozenset(position.decode() for position in ahead),
            parked,
        )

    def _target(self, subscription_id: SubscriptionId, record: Mapping[bytes, bytes], *, now_ms: int) -> Target:
        retailer_id = record[b"retailer"].decode()
        doc = msgspec.json.decode(record[b"doc"])
        where = f"{retailer_id}/{subscription_id}"
        stored = msgspec.json.decode(self._vault.open(record[b"secrets"], context=f"{where}/secrets"))
        live = [s for s in stored if s["until_ms"] is None or s["until_ms"] > now_ms]
        headers = {}
        if b"headers" in record:
            headers = msgspec.json.decode(self._vault.open(record[b"headers"], context=f"{where}/headers"))
        epochs = msgspec.json.decode(record[b"filters"])
        return Target(
            url=doc["url"],
            secrets=tuple(Secret.parse(s["secret"]) for s in live),
            headers=headers,
            payload=doc.get("payload") or "full",
            ordering=doc.get("ordering") or "order",
            max_in_flight=doc.get("max_in_flight"),
            filters=tuple((ordinal(since), Filter(tuple(patterns))) for since, patterns in epochs),
            revision=record.get(b"rev", b"0").decode(),
        )


def _as_dict(answer: Any) -> dict[bytes, bytes]:
    if isinstance(answer, dict):
        return answer
    return {answer[i]: answer[i + 1] for i in range(0, len(answer), 2)}


def _text(value: bytes | int) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
