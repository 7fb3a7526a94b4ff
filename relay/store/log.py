"""A retailer's events in order: the stream that everything downstream reads from a position."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from relay.model.orders import EventId, OrderId, RetailerId
from relay.store import keys
from relay.store.redis import Arg, Db

#: How many entries one request looks at when it filters by type, so that a rare type cannot scan a whole log.
_SCAN = 5_000

START = "0-0"


@dataclass(frozen=True, slots=True)
class Entry:
    """One event in the log. `position` is its stream id; `body` the bytes that are stored, signed, sent and pulled.

    `subject` is the subscription that an event of `subscription.*` is about; such an event has no order. `gone`: a
    purge erased the event; it is counted and never sent, and has no body. `trace` is the `traceparent` of
    what committed it, where that was traced."""

    position: str
    event_id: EventId
    type: str
    order_id: OrderId
    sequence: int
    body: bytes = field(repr=False)
    subject: str = ""
    gone: bool = False
    trace: str = ""

    @property
    def committed_ms(self) -> int:
        return int(self.position.partition("-")[0])


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a log. `more`: there may be further entries behind `reached`, the place up to which was looked."""

    entries: list[Entry]
    reached: str
    more: bool


class Log:
    """The log of every retailer. Nothing here writes events: `Orders.commit` does, with the state they tell of."""

    def __init__(self, db: Db) -> None:
        self._db = db

    async def after(self, retailer_id: RetailerId, position: str, limit: int) -> list[Entry]:
        """Up to `limit` entries behind a position, in order, purged ones among them."""
        return read_after(await self._db.run_many(commands_after(retailer_id, position, limit)), limit)

    async def before(self, retailer_id: RetailerId, position: str | None, limit: int) -> list[Entry]:
        """Up to `limit` entries before a position (None: the end of the log), newest first, without purged ones."""
        last = "+" if position is None else f"({position}"
        rows = await self._db.run("XREVRANGE", keys.log(retailer_id), last, "-", "COUNT", limit)
        return [read_entry(row) for row in rows]

    async def at(self, retailer_id: RetailerId, positions: Sequence[str]) -> list[Entry | None]:
        """The entries at positions, None where retention took one. One round trip, two where some are missing."""
        commands: list[list[Arg]] = [["XRANGE", keys.log(retailer_id), p, p] for p in positions]
        answers = await self._db.run_many(commands)
        found = [read_entry(rows[0]) if rows else None for rows in answers]
        missing = [place for place, entry in zip(positions, found, strict=True) if entry is None]
        gone = await self._gone(retailer_id, missing)
        return [gone.get(place) if entry is None else entry for place, entry in zip(positions, found, strict=True)]

    async def _gone(self, retailer_id: RetailerId, positions: Sequence[str]) -> dict[str, Entry]:
        """Those of these places whose events were purged."""
        places = [sortable(position) for position in positions]
        commands: list[list[Arg]] = [
            ["ZRANGEBYLEX", keys.gone(retailer_id), f"[{place}/", f"({place}0"] for place in places
        ]
        answers = await self._db.run_many(commands)
        return {entry.position: entry for members in answers for entry in map(_tombstone, members)}

    async def find(self, retailer_id: RetailerId, event_id: EventId) -> Entry | None:
        position = await self._db.run("HGET", keys.event_ids(retailer_id), event_id)
        return None if position is None else (await self.at(retailer_id, [position.decode()]))[0]

    async def last_of(self, retailer_id: RetailerId, order_id: str) -> str | None:
        """The place of an order's newest event."""
        position = await self._db.run("LINDEX", keys.trail(retailer_id, order_id), -1)
        return None if position is None else position.decode()

    async def last_position(self, retailer_id: RetailerId) -> str:
        rows = await self._db.run("XREVRANGE", keys.log(retailer_id), "+", "-", "COUNT", 1)
        return rows[0][0].decode() if rows else START

    async def page(
        self,
        retailer_id: RetailerId,
        *,
        after: str | None,
        limit: int,
        order_id: str | None,
        matches: Callable[[str], bool] | None,
    ) -> Page:
        """Entries behind a position, oldest first. With `matches` a page may be short although more follows."""
        position = after or START
        if order_id is not None:
            return await self._page_of_order(retailer_id, order_id, position, limit, matches)
        found: list[Entry] = []
        seen, size = 0, 500 if matches else limit + 1
        while seen < _SCAN:
            batch = await self.after(retailer_id, position, size)
            for entry in batch:
                if len(found) == limit:
                    return Page(found, position, more=True)
                position = entry.position
                if not entry.gone and (matches is None or matches(entry.type)):
                    found.append(entry)
            seen += len(batch)
            if len(batch) < size:
                return Page(found, position, more=False)
        return Page(found, position, more=True)

    async def _page_of_order(
        self,
        retailer_id: RetailerId,
        order_id: str,
        position: str,
        limit: int,
        matches: Callable[[str], bool] | None,
    ) -> Page:
        trail = [raw.decode() for raw in await self._db.run("LRANGE", keys.trail(retailer_id, order_id), 0, -1)]
        wanted = [p for p in trail if ordinal(p) > ordinal(position)]
        found: list[Entry] = []
        for start in range(0, len(wanted), 100):
            chunk = wanted[start : start + 100]
            for place, entry in zip(chunk, await self.at(retailer_id, chunk), strict=True):
                if entry is not None and not entry.gone and (matches is None or matches(entry.type)):
                    if len(found) == limit:
                        return Page(found, position, more=True)
                    found.append(entry)
                position = place
        return Page(found, position, more=False)


def ordinal(position: str) -> tuple[int, int]:
    """A stream id as numbers, to compare."""
    ms, _, number = position.partition("-")
    return int(ms), int(number or 0)


def read_entry(row: Any) -> Entry:
    """A stream entry as Redis gives it."""
    position, fields = row
    named = fields if isinstance(fields, dict) else {fields[i]: fields[i + 1] for i in range(0, len(fields), 2)}
    return Entry(
        position=position.decode(),
        event_id=EventId(named[b"i"].decode()),
        type=named[b"t"].decode(),
        order_id=OrderId(named[b"o"].decode()),
        sequence=int(named[b"q"]),
        body=named[b"b"],
        subject=named.get(b"s", b"").decode(),
        trace=named.get(b"p", b"").decode(),
    )


def commands_after(retailer_id: RetailerId, position: str, limit: int) -> list[list[Arg]]:
    """The commands whose answers `read_after` puts together: what is in the log, and what was purged from it."""
    return [
        ["XRANGE", keys.log(retailer_id), f"({position}", "+", "COUNT", limit],
        ["ZRANGEBYLEX", keys.gone(retailer_id), f"[{sortable(position)}0", "+", "LIMIT", 0, limit],
    ]


def read_after(answers: Sequence[Any], limit: int) -> list[Entry]:
    """The first entries behind a place. Each answer holds the first ones of its kind, so the first of both together
    are the first of all."""
    rows, purged = answers
    found = [read_entry(row) for row in rows]
    if not purged:
        return found
    merged = sorted([*found, *map(_tombstone, purged)], key=lambda entry: ordinal(entry.position))
    return merged[:limit]


def _tombstone(member: bytes) -> Entry:
    """A purged event, as scripts/prelude.lua notes it."""
    place, event_id, kind, sequence, order_id = member.decode().split("/", 4)
    ms, _, number = place.partition("-")
    return Entry(f"{int(ms)}-{int(number)}", EventId(event_id), kind, OrderId(order_id), int(sequence), b"", gone=True)


def sortable(position: str) -> str:
    """A place as text that sorts as places do (`sortable` of scripts/prelude.lua)."""
    ms, number = ordinal(position)
    return f"{ms:015d}-{number:010d}"
