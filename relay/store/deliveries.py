"""Owning subscriptions and writing down what was delivered: the deliver pump's side of a subscription.

A subscription is a position in its retailer's log. Everything up to `pos` is settled: delivered, dead, refused by the
filters, skipped, or parked in the lane of its order. `ahead` holds what is settled behind the position, so that a crash
repeats only what was in flight. `pos_seq` is the relay-sequence of the last matched event at or before the position;
the numbers behind it follow from the filters, so they are the same whoever counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
import structlog

from relay.errors import SecretUnreadable
from relay.model.circuit import Health
from relay.model.keyring import Keyring
from relay.model.orders import EventId, JsonObject, LaneId, OrderState, RetailerId, SubscriptionId
from relay.store import keys
from relay.store.interest import Interest, read_interest
from relay.store.keyrings import open_keyring
from relay.store.log import Entry, commands_after, read_after
from relay.store.redis import Arg, Db, as_dict
from relay.vault import Vault

_json = msgspec.json.Encoder()

#: Lanes of what is sent on request begin with this, so that it never holds up what is new.
ON_REQUEST = "\x1f"


@dataclass(frozen=True, slots=True)
class Target:
    """Where and how to send: what the retailer configured, opened and parsed.

    `fold_to`: what lies at or before it and waits is to be folded per order. `enabled_ms`: since when it is enabled.
    """

    url: str
    host: str
    keyring: Keyring
    headers: Mapping[str, str]
    payload: str
    ordering: str
    backlog: str
    max_in_flight: int | None
    rate_limit: float | None
    heartbeat_s: int | None
    interest: Interest
    revision: str
    enabled_ms: int
    fold_to: str


@dataclass(frozen=True, slots=True)
class LaneEntry:
    """One event that waits in a parked lane. `kind`: '' as matched, `r` sent on request, `f` a snapshot for several."""

    position: str
    sequence: int
    attempts: int
    first_attempt_ms: int
    kind: str = ""

    def encode(self) -> str:
        return f"{self.position}/{self.sequence}/{self.attempts}/{self.first_attempt_ms}/{self.kind}"


def decode_lane_entry(raw: bytes) -> LaneEntry:
    position, sequence, attempts, first, *kind = raw.decode().split("/")
    return LaneEntry(position, int(sequence), int(attempts), int(first), kind[0] if kind else "")


def on_request(ordering: str, entry: Entry) -> LaneId:
    """The lane of an event that is sent on request: in order among its like, and in nobody's way."""
    return LaneId(ON_REQUEST + (entry.order_id if ordering == "order" and entry.order_id else entry.event_id))


@dataclass(frozen=True, slots=True)
class Owned:
    """A subscription under lease: its fencing token, its target and where delivery stands.

    `parked` maps parked lanes to the time of their next attempt (ms). `tat_ms` is when the rate limit lets the next
    post go, `beat_ms` when the next heartbeat is due. `flying` posts were in flight when the owner before last wrote;
    `taken`: it never gave the subscription back."""

    subscription_id: SubscriptionId
    retailer_id: RetailerId
    fence: str
    target: Target
    position: str
    sequence: int
    ahead: frozenset[str]
    parked: Mapping[LaneId, int]
    rang: str
    health: Health
    tat_ms: float = 0.0
    beat_ms: int = 0
    taken: bool = False
    flying: int = 0


@dataclass(frozen=True, slots=True)
class Operation:
    """One change to a lane or to the dead letters (scripts/progress.lua says what `a` and `b` are)."""

    kind: Literal["park", "pop", "retry", "dead", "revive"]
    order_id: LaneId
    a: str
    b: str | int = ""


@dataclass(frozen=True, slots=True)
class Folded:
    """A snapshot at the head of a lane. `stands_for` are the relay-sequences it replaces, `sequence` its order's."""

    event_id: EventId
    body: bytes = field(repr=False)
    stands_for: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Notice:
    """An event about this subscription, for the retailer's other ones."""

    id: EventId
    type: str
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Progress:
    """What one batch achieved. `serial` numbers the batches of one lease, so that a command which redis-py sends twice
    is applied once. `counts` are matched, delivered, dead, skipped, replayed; zero is left out. `last_error` is JSON,
    '-' to clear it, '' to leave it. None, '' and False leave things as they are.
    `health` and `disable` speak of the endpoint at `url`, and are passed over once the subscription has another."""

    serial: int
    position: str = ""
    sequence: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    last_error: str = ""
    disable: str = ""
    health: Health | None = None
    url: str = ""
    tat_ms: float | None = None
    beat_ms: int | None = None
    flying: int = 0
    wake: bool = False
    latest: bool = False
    ahead: Sequence[str] = ()
    passed: Sequence[str] = ()
    notes: Sequence[tuple[str, bytes]] = ()
    operations: Sequence[Operation] = ()
    notices: Sequence[Notice] = ()


@dataclass(frozen=True, slots=True)
class Recorded:
    """The answer to a batch: Redis's time, the configuration's revision, and which lanes are empty now."""

    now_ms: int
    revision: str
    enabled: bool
    fold_to: str = ""
    emptied: frozenset[LaneId] = field(default=frozenset())


@dataclass(frozen=True, slots=True)
class Look:
    """The log behind a position, and what may have changed beside it: looked up after the entries, so that while the
    revision stands its filters are right for them. `rang` counts what was put into lanes from outside; `job` names the
    running recovery."""

    entries: list[Entry]
    revision: str
    rang: str
    job: str


class Deliveries:
    def __init__(self, db: Db, vault: Vault, *, keep_attempts_s: float = 168 * 3600.0) -> None:
        self._db = db
        self._vault = vault
        self._keep_ms = round(keep_attempts_s * 1000)

    async def own(self, limit: int, *, owner: str, lease_ms: int) -> tuple[int, int | None, list[Owned]]:
        """Lease up to `limit` subscriptions with work; returns Redis's time and when there is more (None: nothing)."""
        now, next_ms, *found = await self._db.script("own", [keys.READY], [limit, owner, lease_ms])
        owned = []
        for fields in found:
            try:
                owned.append(self._owned(*fields))
            except SecretUnreadable as error:  # its lease runs out and it is tried again; the others are not to wait
                structlog.get_logger("relay.store").error(
                    "delivery.secret_unreadable", subscription_id=fields[0].decode(), error=error.detail
                )
        return int(now), int(float(next_ms)) if next_ms else None, owned

    async def record(self, owned: Owned, progress: Progress, *, lease_ms: int) -> Recorded | None:
        """Write a batch and renew the lease; None when the lease is lost, and then nothing was written."""
        one = owned.subscription_id
        args: list[Arg] = [one, owned.fence, progress.serial, _json.encode(self._head(progress, lease_ms))]
        args += [len(progress.ahead), *progress.ahead, len(progress.passed), *progress.passed, len(progress.notes)]
        for position, line in progress.notes:
            args += [position, line]
        args.append(len(progress.operations))
        for op in progress.operations:
            args += [op.kind, op.order_id, op.a, op.b]
        args.append(len(progress.notices))
        for notice in progress.notices:
            args += [notice.id, notice.type, notice.body]
        answer = await self._db.script(
            "progress",
            [keys.subscription(one), keys.ahead(one), keys.lanes(one), keys.dead(one), keys.READY],
            args,
        )
        if answer[0] == b"lost":
            return None
        emptied = frozenset(LaneId(order.decode()) for order in answer[5:])
        return Recorded(int(answer[1]), _text(answer[2]), answer[3] == b"1", answer[4].decode(), emptied)

    def _head(self, progress: Progress, lease_ms: int) -> JsonObject:
        head: JsonObject = {"lease": lease_ms, "keep": self._keep_ms, "flying": progress.flying}
        head |= {name: count for name, count in progress.counts.items() if count}
        if progress.position:
            head |= {"pos": progress.position, "seq": progress.sequence}
        if progress.last_error:
            head["error"] = progress.last_error
        if progress.disable:
            head["disable"] = progress.disable
        if progress.health is not None:
            head |= {"health": _json.encode(progress.health).decode(), "hold": progress.health.hold_ms}
            head["url"] = progress.url
        if progress.tat_ms is not None:
            head["tat"] = progress.tat_ms
        if progress.beat_ms is not None:
            head["beat"] = progress.beat_ms
        if progress.wake:
            head["wake"] = True
        if progress.latest:
            head["latest"] = True
        return head

    async def look(self, owned: Owned, position: str, limit: int) -> Look:
        """Log entries behind a position, and what else may have changed. One round trip."""
        commands = commands_after(owned.retailer_id, position, limit)
        commands.append(["HMGET", keys.subscription(owned.subscription_id), "rev", "rang", "job"])
        *found, (revision, rang, job) = await self._db.run_many(commands)
        entries = read_after(found, limit)
        return Look(entries, _text(revision or b"0"), _text(rang or b""), _text(job or b""))

    async def release(self, owned: Owned, flying: int = 0) -> bool:
        """Give a subscription back, with so many posts in flight; False when the lease was lost before."""
        one = owned.subscription_id
        keys_ = [keys.subscription(one), keys.lanes(one), keys.READY]
        return bool(await self._db.script("release", keys_, [one, owned.fence, flying]))

    async def parked(self, subscription_id: SubscriptionId) -> dict[LaneId, int]:
        """Every parked lane with the time of its next attempt (ms)."""
        return _lanes(await self._db.run("ZRANGE", keys.lanes(subscription_id), 0, -1, "WITHSCORES"))

    async def lanes(
        self, subscription_id: SubscriptionId, lanes: Sequence[LaneId], depth: int
    ) -> list[list[LaneEntry]]:
        """The first `depth` entries of each lane (0: all of them), in one round trip."""
        commands: list[list[Arg]] = [["LRANGE", keys.lane(subscription_id, o), 0, depth - 1] for o in lanes]
        return [[decode_lane_entry(raw) for raw in lane] for lane in await self._db.run_many(commands)]

    async def folded(self, subscription_id: SubscriptionId, lanes: Sequence[LaneId]) -> dict[LaneId, Folded]:
        """The snapshots at the heads of lanes."""
        answers = await self._db.run_many([["HMGET", keys.fold(subscription_id, o), *"ibnq"] for o in lanes])
        return {
            lane: Folded(EventId(id_.decode()), body, n.decode(), int(q))
            for lane, (id_, body, n, q) in zip(lanes, answers, strict=True)
            if id_ is not None
        }

    async def fold(
        self,
        owned: Owned,
        lane: LaneId,
        state: OrderState,
        entries: Sequence[LaneEntry],
        head: LaneEntry,
        snapshot: Folded,
    ) -> bool:
        """Put a snapshot in the place of a lane's first entries; False when they are not its first any more, or the
        order is not any more as the snapshot shows it."""
        one = owned.subscription_id
        key_list = [keys.subscription(one), keys.lane(one, lane), keys.fold(one, lane)]
        key_list.append(keys.order(owned.retailer_id, state.order_id))
        args: list[Arg] = [
            owned.fence,
            state.registered_ms,
            state.version,
            len(entries),
            entries[-1].encode(),
            head.encode(),
        ]
        args += [snapshot.event_id, snapshot.body, snapshot.stands_for, snapshot.sequence]
        return bool(await self._db.script("fold", key_list, args))

    async def target(self, subscription_id: SubscriptionId) -> Target | None:
        """The configuration as it is now; None when the subscription is gone."""
        record = as_dict(await self._db.run("HGETALL", keys.subscription(subscription_id)))
        return self._target(subscription_id, record) if record else None

    def _owned(self, id_: bytes, fence: int, record: Any, ahead: Any, lanes: Any, taken: bytes, flying: bytes) -> Owned:
        subscription_id = SubscriptionId(id_.decode())
        fields = as_dict(record)
        return Owned(
            subscription_id,
            RetailerId(fields[b"retailer"].decode()),
            str(fence),
            self._target(subscription_id, fields),
            fields[b"pos"].decode(),
            int(fields[b"pos_seq"]),
            frozenset(position.decode() for position in ahead),
            _lanes(lanes),
            fields.get(b"rang", b"").decode(),
            read_health(fields),
            float(fields.get(b"tat", 0)),
            int(fields.get(b"beat_at", 0)),
            bool(taken),
            int(flying),
        )

    def _target(self, subscription_id: SubscriptionId, record: Mapping[bytes, bytes]) -> Target:
        retailer_id = record[b"retailer"].decode()
        doc = msgspec.json.decode(record[b"doc"])
        where = f"{retailer_id}/{subscription_id}"
        headers = {}
        if b"headers" in record:
            headers = msgspec.json.decode(self._vault.open(record[b"headers"], context=f"{where}/headers"))
        return Target(
            url=record[b"url"].decode(),
            host=urlsplit(record[b"url"].decode()).netloc,
            keyring=open_keyring(self._vault, retailer_id, subscription_id, record[b"secrets"]),
            headers=headers,
            payload=doc.get("payload") or "full",
            ordering=doc.get("ordering") or "order",
            backlog=doc.get("backlog") or "all",
            max_in_flight=doc.get("max_in_flight"),
            rate_limit=doc.get("rate_limit"),
            heartbeat_s=doc.get("heartbeat_seconds"),
            interest=read_interest(subscription_id, record),
            revision=record.get(b"rev", b"0").decode(),
            enabled_ms=int(record.get(b"enabled_at") or record[b"created"]),
            fold_to=record.get(b"fold_to", b"").decode(),
        )


def read_health(record: Mapping[bytes, bytes]) -> Health:
    """The endpoint's health as last written; the hold stands by itself, as changing the URL lifts it."""
    raw = record.get(b"health")
    health = Health() if raw is None else msgspec.json.decode(raw, type=Health)
    return replace(health, hold_ms=int(record.get(b"hold", 0)))


def _lanes(flat: Any) -> dict[LaneId, int]:
    return {LaneId(flat[i].decode()): int(float(flat[i + 1])) for i in range(0, len(flat), 2)}


def _text(value: bytes | int) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
