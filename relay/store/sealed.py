"""Everything that is sealed with a master key: where it lies, how many records each key holds, and sealing it anew.

The table below is the whole list; who seals something new adds a row.

  sub:S        hash    secrets, headers     bound to R/S/secrets, R/S/headers
  order:R:O    hash    k                    bound to the order (order_records.token_context)
  retailer:R   hash    up                   bound to R/retailer/upstream
  token:C:*    string                       bound to its key
  idem:*       string  inside a record      bound to its key
  known        string                       bound to its key: shows at start that the master keys are the right ones
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from relay.errors import InvalidSettings, SecretUnreadable
from relay.model.orders import OrderId, RetailerId
from relay.store import keys
from relay.store.idempotency import sealed_answer, with_answer
from relay.store.order_records import token_context
from relay.store.redis import Arg, Db
from relay.vault import Vault

_KNOWN = b"relay"
#: Keys of the store that one step looks at.
_STEP = 500
#: How often a record is tried again that somebody wrote meanwhile.
_TRIES = 5

_FIELDS = {"sub": ("secrets", "headers"), "order": ("k",), "retailer": ("up",)}
_STRINGS = ("token", "idem", "known")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sealed record lies; `field` is empty for a string."""

    key: str
    field: str
    kind: str


@dataclass(frozen=True, slots=True)
class Resealed:
    """What a run over the store came to. `records` counts by the id of the key that seals them now; `resealed` were
    sealed anew, `unreadable` are sealed with a key that is not among ours."""

    records: dict[str, int]
    resealed: int
    unreadable: int


async def check_master_keys(db: Db, vault: Vault) -> None:
    """Raises InvalidSettings when the store was sealed with other master keys than these: a clear error at start
    instead of deliveries that fail later. A store without a known record gets one."""
    if not await fits(db, vault):
        await db.run("SET", keys.KNOWN, vault.seal(_KNOWN, context=keys.KNOWN), "NX")


async def fits(db: Db, vault: Vault) -> bool:
    """Whether the store has a known record, which these keys open. Raises InvalidSettings where they do not."""
    sealed = await db.run("GET", keys.KNOWN)
    if sealed is None:
        return False
    try:
        vault.open(sealed, context=keys.KNOWN)
    except SecretUnreadable as error:
        raise InvalidSettings(
            f"RELAY_MASTER_KEYS does not fit this store: its known record {error.detail}. Put that key back (the last"
            " place will do), and run `relay keys reencrypt` before you take it away."
        ) from None
    return True


async def places(db: Db, cursor: int) -> tuple[int, list[Place]]:
    """The next keys that hold sealed records, and the cursor to go on from (0: that was all)."""
    cursor_raw, found = await db.run("SCAN", cursor, "MATCH", f"{keys.PREFIX}*", "COUNT", _STEP)
    listed = []
    for raw in found:
        name = raw.decode()
        kind = name.removeprefix(keys.PREFIX).partition(":")[0]
        if kind in _FIELDS:
            listed += [Place(name, field, kind) for field in _FIELDS[kind]]
        elif kind in _STRINGS:
            listed.append(Place(name, "", kind))
    return int(cursor_raw), listed


async def count(db: Db, cursor: int) -> tuple[int, Counter[str]]:
    """One step of counting records by the id of their key; the cursor goes on."""
    cursor, listed = await places(db, cursor)
    found: Counter[str] = Counter()
    for place, record in zip(listed, await _read(db, listed), strict=True):
        if record is not None and (sealed := _inside(place, record)) is not None:
            found[_key_id(sealed)] += 1
    return cursor, found


async def reseal(db: Db, vault: Vault) -> AsyncIterator[Resealed]:
    """Seal with the first master key whatever another one sealed; yields how far it came after every step.

    May run beside everything else and be run again: a record that somebody writes meanwhile is read again.
    """
    records: Counter[str] = Counter()
    resealed = unreadable = cursor = 0
    while True:
        cursor, listed = await places(db, cursor)
        for place, record in zip(listed, await _read(db, listed), strict=True):
            before = None if record is None else _inside(place, record)
            if record is None or before is None:
                continue
            if _key_id(before) == vault.first:
                records[vault.first] += 1
            elif await _again(db, vault, place, record):
                resealed += 1
                records[vault.first] += 1
            else:
                unreadable += 1
                records[_key_id(before)] += 1
        yield Resealed(dict(records), resealed, unreadable)
        if cursor == 0:
            return


async def _again(db: Db, vault: Vault, place: Place, record: bytes | None) -> bool:
    """Seal one record anew; False when it does not open. One that is gone, or newly sealed, is fine."""
    context = await _context(db, place)
    for _ in range(_TRIES):
        sealed = None if record is None else _inside(place, record)
        if record is None or sealed is None or _key_id(sealed) == vault.first:
            return True
        try:
            fresh = vault.seal(vault.open(sealed, context=context), context=context)
        except SecretUnreadable:
            return False
        written = with_answer(record, fresh) if place.kind == "idem" else fresh
        if await db.script("reseal", [place.key], [place.field, record, written]):
            return True
        (record,) = await _read(db, [place])
    return False


async def _read(db: Db, listed: Sequence[Place]) -> list[bytes | None]:
    commands: list[list[Arg]] = [["HGET", p.key, p.field] if p.field else ["GET", p.key] for p in listed]
    return await db.run_many(commands)


def _inside(place: Place, record: bytes) -> bytes | None:
    """The sealed part of a record; None where there is none (an answer that is still being made)."""
    return (sealed_answer(record) or None) if place.kind == "idem" else record


async def _context(db: Db, place: Place) -> str:
    rest = place.key.removeprefix(f"{keys.PREFIX}{place.kind}").removeprefix(":")
    if place.kind == "sub":
        retailer = await db.run("HGET", place.key, "retailer")
        return f"{(retailer or b'').decode()}/{rest}/{place.field}"
    if place.kind == "order":
        retailer_id, _, order_id = rest.partition(":")
        return token_context(RetailerId(retailer_id), OrderId(order_id))
    if place.kind == "retailer":
        return f"{rest}/retailer/upstream"
    return place.key


def _key_id(sealed: bytes) -> str:
    try:
        return Vault.key_id(sealed)
    except SecretUnreadable:
        return "unknown"


class Census:
    """Counts sealed records by key, a step at a time, so that no look costs much however large the store is."""

    def __init__(self, db: Db, told: Callable[[dict[str, int]], None]) -> None:
        """`told` gets the counts of each complete round."""
        self._db = db
        self._told = told
        self._cursor = 0
        self._found: Counter[str] = Counter()

    async def step(self) -> None:
        self._cursor, found = await count(self._db, self._cursor)
        self._found += found
        if self._cursor == 0:
            self._told(dict(self._found))
            self._found = Counter()
