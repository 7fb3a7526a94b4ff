"""Tracked orders in Redis: registering, claiming, settling and committing.

The hash `order:R:O`:

  c   credential whose budget pays for its polls      r   registered (ms)
  u   upstream user id                                 d   metadata, JSON
  k   the user's token as given, sealed                kv  how often `k` was replaced
  v   version: commits so far                          q   sequence: events so far
  t   tracking: active, suspended, ended               s   1 once tracking_started was written
  n   snapshot: zlib of JSON [handling, items, messages]
  g   the order's status (stage) in that snapshot
  p   JSON {"missing": {resource: [key]}, "terminal": ms}: what a further reading has to confirm
  and for each resource letter x of h, i, m:
  fx  fingerprint of the raw bytes; absent when the next reading must be looked at even if it is the same
  wx  when the request of the last good reading started (ms)
  bx  trouble, JSON {code, detail, since, count}
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from relay.errors import Conflict
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
from relay.store import keys
from relay.store.redis import Arg, Db
from relay.vault import Vault

_json = msgspec.json.Encoder()


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


@dataclass(frozen=True, slots=True)
class ClaimedArm:
    """One (order, resource) that this pump may poll until its lease ends.

    `lease` is the fencing token. `send_at_ms` is when its request may start. `fingerprint` is empty when the next
    answer must be looked at in any case. `token_revision` tells a replaced token from a cached one.
    """

    member: str
    credential: str
    lease: str
    send_at_ms: int
    retailer_id: RetailerId
    order_id: OrderId
    resource: Resource
    fingerprint: bytes
    read_at_ms: int
    user_id: str | None
    token_revision: str
    tracking: Tracking
    status: str | None
    trouble: Trouble | None


@dataclass(frozen=True, slots=True)
class Claim:
    """The arms of one claim, Redis's time when it was made, and when the next may succeed (None: nothing is due)."""

    now_ms: int
    next_ms: int | None
    arms: tuple[ClaimedArm, ...]


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a claimed arm that changed nothing: unchanged (`read_at_ms` set) or refused (`trouble` set)."""

    arm: ClaimedArm
    delay_ms: int
    read_at_ms: int | None = None
    fingerprint: bytes = b""
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """A changed order: its new state, its events, and when its arms are due again (None: never).

    `fingerprints` holds what to store per resource; empty bytes delete the stored one. `troubles` likewise.
    """

    before: OrderState
    after: OrderState
    events: Sequence[Event] = ()
    fingerprints: Mapping[Resource, bytes] = field(default_factory=dict)
    delays_ms: Mapping[Resource, int | None] = field(default_factory=dict)
    troubles: Mapping[Resource, Trouble | None] = field(default_factory=dict)
    arm: ClaimedArm | None = None


class Orders:
    """Tracked orders. Every write is one script; a commit is refused when the order moved on in the meantime."""

    def __init__(self, db: Db, vault: Vault) -> None:
        self._db = db
        self._vault = vault

    async def register(
        self, retailer_id: RetailerId, registrations: Sequence[Registration], *, credential: str
    ) -> list[bool]:
        """Track orders; False where one is tracked already, which is then left as it is."""
        calls: list[tuple[list[str], list[Arg]]] = []
        for one in registrations:
            fields: list[Arg] = ["s", ""]
            if one.user_id is not None:
                fields += ["u", one.user_id]
            if one.metadata:
                fields += ["d", _json.encode(one.metadata)]
            if one.access_token is not None:
                fields += ["k", self._seal(retailer_id, one.order_id, one.access_token), "kv", 1]
            key = keys.order(retailer_id, one.order_id)
            calls.append(([key, keys.orders(retailer_id)], [retailer_id, one.order_id, credential, *fields]))
        return [answer == 1 for answer in await self._db.script_each("register", calls)]

    async def load(self, retailer_id: RetailerId, order_id: OrderId) -> StoredOrder | None:
        found = await self._load_many(retailer_id, [order_id])
        return found[0]

    async def load_state(self, retailer_id: RetailerId, order_id: OrderId) -> OrderState | None:
        """The committed state alone, in one round trip."""
        return read_state(retailer_id, order_id, await self._db.run("HGETALL", keys.order(retailer_id, order_id)))

    async def page(
        self, retailer_id: RetailerId, *, after: str | None, limit: int
    ) -> tuple[list[StoredOrder], str | None]:
        """Orders by registration, oldest first; the cursor is `<registered ms>/<order>`."""
        low = "-inf"
        skip = ""
        if after is not None:
            low, _, skip = after.partition("/")
        members = await self._db.run(
            "ZRANGEBYSCORE", keys.orders(retailer_id), low, "+inf", "WITHSCORES", "LIMIT", 0, 2 * limit + 1
        )
        listed = [(members[i].decode(), int(members[i + 1])) for i in range(0, len(members), 2)]
        wanted = [(order, at) for order, at in listed if not skip or (at, order) > (int(low), skip)]
        chosen = wanted[:limit]
        found = await self._load_many(retailer_id, [OrderId(order) for order, _ in chosen])
        more = len(wanted) > limit and chosen
        return [o for o in found if o is not None], f"{chosen[-1][1]}/{chosen[-1][0]}" if more else None

    async def amend(
        self,
        retailer_id: RetailerId,
        order_id: OrderId,
        *,
        access_token: UserToken | None,
        metadata: Mapping[str, str] | None,
    ) -> bool:
        """Replace the user's token, the metadata, or both; False when the order is not tracked."""
        key = keys.order(retailer_id, order_id)
        if not await self._db.run("EXISTS", key):
            return False
        commands: list[list[Arg]] = []
        if access_token is not None:
            commands.append(["HSET", key, "k", self._seal(retailer_id, order_id, access_token)])
            commands.append(["HINCRBY", key, "kv", 1])
        if metadata is not None:
            commands.append(["HSET", key, "d", _json.encode(metadata)])
        await self._db.run_many(commands)
        return True

    async def refresh(self, retailer_id: RetailerId, order_id: OrderId) -> bool:
        """Make the order due now; False when it is not tracked any more."""
        key = keys.order(retailer_id, order_id)
        return bool(await self._db.script("refresh", [key], [retailer_id, order_id]))

    async def erase(self, retailer_id: RetailerId, order_id: OrderId) -> bool:
        """Forget everything that is stored about the order but its events, which leave with their retention."""
        key, trail = keys.order(retailer_id, order_id), keys.trail(retailer_id, order_id)
        return bool(await self._db.script("erase", [key, keys.orders(retailer_id), trail], [retailer_id, order_id]))

    async def token(self, retailer_id: RetailerId, order_id: OrderId) -> UserToken | None:
        """The token that the retailer gave for this order."""
        sealed = await self._db.run("HGET", keys.order(retailer_id, order_id), "k")
        if sealed is None:
            return None
        record = msgspec.json.decode(self._vault.open(sealed, context=_token_context(retailer_id, order_id)))
        return UserToken(record["token"], record["expires_ms"])

    async def owner(self, retailer_id: RetailerId, order_id: OrderId) -> TokenOwner | None:
        """What tells which token the order uses; None when it is not tracked."""
        fields = await self._db.run("HMGET", keys.order(retailer_id, order_id), "c", "u", "kv")
        if fields[0] is None:
            return None
        credential, user_id, revision = ("" if raw is None else raw.decode() for raw in fields)
        return TokenOwner(retailer_id, order_id, credential, user_id or None, revision)

    async def claim(self, limit: int, *, lease_ms: int, horizon_ms: int) -> Claim:
        """Lease up to `limit` due arms, spending budget; send times lie at most `horizon_ms` ahead. One round trip."""
        now, next_ms, *arms = await self._db.script("claim", [keys.CREDENTIALS], [limit, lease_ms, horizon_ms])
        return Claim(int(now), int(float(next_ms)) if next_ms else None, tuple(_arm(fields) for fields in arms))

    async def settle(self, settlements: Sequence[Settlement]) -> int:
        """Put arms back that changed nothing, all in one round trip; says how many leases had been lost."""
        args: list[Arg] = []
        for one in settlements:
            trouble: Arg = ""
            if one.trouble is not None:
                trouble = _json.encode(_trouble_record(one.trouble)).decode()
            elif one.read_at_ms is not None and one.arm.trouble is not None:
                trouble = "-"
            read_at = "" if one.read_at_ms is None else one.read_at_ms
            args += [one.arm.member, one.arm.credential, one.arm.lease, one.delay_ms, read_at]
            # cmsgpack in Lua reads strings only: everything here is ASCII or UTF-8 text.
            args += [one.fingerprint.decode(), trouble]
        if not args:
            return 0
        return int(await self._db.script("settle", [keys.CREDENTIALS], [msgspec.msgpack.encode(args)]))

    async def commit(self, commit: Commit) -> Literal["ok", "conflict", "gone"]:
        """Write state, sequence, events and wake-ups in one script; refused when the version moved on."""
        before, after = commit.before, commit.after
        fields = _changed_fields(commit)
        arms: list[Arg] = []
        for resource, delay in commit.delays_ms.items():
            own = commit.arm is not None and commit.arm.resource is resource and after.tracking is not Tracking.ENDED
            lease = commit.arm.lease if own and commit.arm is not None else ""
            arms += [resource.short, lease, "" if delay is None else delay]
        events: list[Arg] = []
        for event in commit.events:
            events += [event.id, event.type, event.sequence, event.body]
        retailer_id, order_id = before.retailer_id, before.order_id
        answer = await self._db.script(
            "commit",
            [
                keys.order(retailer_id, order_id),
                keys.log(retailer_id),
                keys.event_ids(retailer_id),
                keys.trail(retailer_id, order_id),
                keys.live(retailer_id),
            ],
            [
                *(retailer_id, order_id, before.version),
                *(len(fields) // 2, *fields),
                *(len(arms) // 3, *arms),
                *(len(commit.events), *events),
            ],
        )
        result: Literal["ok", "conflict", "gone"] = answer[0].decode()
        return result

    async def _load_many(self, retailer_id: RetailerId, order_ids: Sequence[OrderId]) -> list[StoredOrder | None]:
        commands: list[list[Arg]] = [["HGETALL", keys.order(retailer_id, order_id)] for order_id in order_ids]
        hashes = [_as_dict(answer) for answer in await self._db.run_many(commands)]
        commands = []
        for order_id, record in zip(order_ids, hashes, strict=True):
            due = keys.due(record.get(b"c", b"").decode())
            members = [f"{resource.short}/{retailer_id}/{order_id}" for resource in RESOURCES]
            commands.append(["ZMSCORE", due, *members])
        scores = await self._db.run_many(commands)
        found: list[StoredOrder | None] = []
        for order_id, record, due_at in zip(order_ids, hashes, scores, strict=True):
            state = read_state(retailer_id, order_id, record)
            if state is None:
                found.append(None)
                continue
            times = [int(float(score)) for score in due_at if score is not None]
            found.append(
                StoredOrder(state, max(state.read_at_ms.values(), default=None), min(times) if times else None)
            )
        return found

    def _seal(self, retailer_id: RetailerId, order_id: OrderId, token: UserToken) -> bytes:
        plain = _json.encode({"token": token.token, "expires_ms": token.expires_ms})
        return self._vault.seal(plain, context=_token_context(retailer_id, order_id))


def _token_context(retailer_id: RetailerId, order_id: OrderId) -> str:
    return f"{retailer_id}/{order_id}/token"


def _as_dict(answer: Any) -> dict[bytes, bytes]:
    if isinstance(answer, dict):
        return answer
    return {answer[i]: answer[i + 1] for i in range(0, len(answer), 2)}


def _arm(fields: list[bytes]) -> ClaimedArm:
    member = fields[0].decode()
    letter, retailer_id, order_id = member.split("/", 2)
    return ClaimedArm(
        member=member,
        credential=fields[1].decode(),
        lease=fields[2].decode(),
        send_at_ms=int(fields[3]),
        retailer_id=RetailerId(retailer_id),
        order_id=OrderId(order_id),
        resource=BY_SHORT[letter],
        fingerprint=fields[4],
        read_at_ms=int(fields[5] or 0),
        user_id=fields[6].decode() or None,
        token_revision=fields[7].decode(),
        tracking=Tracking(fields[8].decode()),
        status=fields[9].decode() or None,
        trouble=_read_trouble(fields[10]),
    )


def _trouble_record(trouble: Trouble) -> dict[str, Any]:
    return {"code": trouble.code, "detail": trouble.detail, "since": trouble.since_ms, "count": trouble.count}


def _read_trouble(raw: bytes | None) -> Trouble | None:
    if not raw:
        return None
    record = msgspec.json.decode(raw)
    return Trouble(record["code"], record["detail"], record["since"], record["count"])


def read_state(retailer_id: RetailerId, order_id: OrderId, answer: Any) -> OrderState | None:
    """The hash of an order as a state; None when there is none."""
    record = _as_dict(answer)
    if b"v" not in record:
        return None
    parts = msgspec.json.decode(zlib.decompress(record[b"n"])) if b"n" in record else [None, None, None]
    pending = msgspec.json.decode(record[b"p"]) if b"p" in record else {}
    read_at = {r: int(record[b"w" + r.short.encode()]) for r in RESOURCES if b"w" + r.short.encode() in record}
    troubles = [_read_trouble(record.get(b"b" + r.short.encode())) for r in RESOURCES]
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
        trouble=min((t for t in troubles if t is not None), key=lambda t: t.since_ms, default=None),
        user_id=record[b"u"].decode() if b"u" in record else None,
        metadata=msgspec.json.decode(record[b"d"]) if b"d" in record else {},
    )


def _changed_fields(commit: Commit) -> list[Arg]:
    """The hash fields that a commit writes, flat; an empty value deletes the field."""
    before, after = commit.before, commit.after
    if after.order_id != before.order_id or after.version != before.version:
        raise Conflict("a commit is of one order, from the version it was decided on")
    fields: list[Arg] = ["q", after.sequence, "t", after.tracking.value, "s", "1" if after.started else ""]
    if after.snapshot is not before.snapshot:
        parts = [after.snapshot.get(resource) for resource in RESOURCES]
        fields += ["n", zlib.compress(_json.encode(parts), 6), "g", after.snapshot.status or ""]
    pending: dict[str, Any] = {}
    missing = {resource.value: sorted(gone) for resource, gone in after.missing.items() if gone}
    if missing:
        pending["missing"] = missing
    if after.terminal_since_ms is not None:
        pending["terminal"] = after.terminal_since_ms
    fields += ["p", _json.encode(pending) if pending else ""]
    for resource, read_at in after.read_at_ms.items():
        if before.read_at_ms.get(resource) != read_at:
            fields += [f"w{resource.short}", read_at]
    for resource, fingerprint in commit.fingerprints.items():
        fields += [f"f{resource.short}", fingerprint]
    for resource, trouble in commit.troubles.items():
        fields += [f"b{resource.short}", _json.encode(_trouble_record(trouble)) if trouble else ""]
    return fields
