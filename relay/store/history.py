"""What became of each event at each subscription, put together from log, lanes, attempts and dead letters.

Nothing is written twice for this. An event at or before the subscription's position (or settled ahead of it) that is
neither in a lane nor a dead letter was delivered, also when its attempts have expired.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from relay.errors import NotFound
from relay.model.orders import EventId, LaneId, OrderId, RetailerId, SubscriptionId
from relay.store import keys
from relay.store.attempts import Attempt, Attempts
from relay.store.deliveries import LaneEntry, decode_lane_entry
from relay.store.interest import Interest, read_interest
from relay.store.log import Entry, Log, ordinal
from relay.store.redis import Arg, Db, as_dict

#: Events that one request looks at when it filters, so that a rare status cannot scan a whole log.
_SCAN = 2_000
_BATCH = 200
#: Entries of a parked lane that are looked at.
_DEPTH = 500

Status = Literal["waiting", "retrying", "delivered", "dead", "skipped"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event owed to one subscription. `sequence` is its relay-sequence, None where it is no longer, or not yet,
    known; `next_attempt_ms` None: at once, or never, or when the events before it are through.

    `replaced_by` is the snapshot that stands for it."""

    position: str
    event_id: EventId
    event_type: str
    order_id: OrderId
    subscription_id: SubscriptionId
    sequence: int | None
    status: Status
    next_attempt_ms: int | None
    attempts: tuple[Attempt, ...]
    replaced_by: str | None = None


@dataclass(frozen=True, slots=True)
class _Books:
    """Where a subscription stands. `hold_ms`: nothing is sent before that."""

    subscription_id: SubscriptionId
    retailer_id: RetailerId
    interest: Interest
    start: str
    position: str
    sequence: int
    enabled: bool
    hold_ms: int


class History:
    def __init__(self, db: Db, log: Log, attempts: Attempts) -> None:
        self._db = db
        self._log = log
        self._attempts = attempts

    async def page(
        self,
        retailer_id: RetailerId,
        subscription_id: str,
        *,
        before: str | None,
        limit: int,
        status: Status | None,
        order_id: str | None,
        matches: Callable[[str], bool] | None,
    ) -> tuple[list[Delivery], str | None]:
        """Newest first; the next cursor is a position. With filters a page may be short although more follows. Raises
        NotFound."""
        books = await self._books(retailer_id, subscription_id)
        found: list[Delivery] = []
        seen = 0
        while seen < _SCAN:
            batch = await self._candidates(books, before, status=status, order_id=order_id)
            wanted = [e for e in batch if self._concerns(books, e) and (matches is None or matches(e.type))]
            for one in await self._deliveries(books, wanted):
                if status is not None and one.status != status:
                    continue
                if len(found) == limit:
                    return found, found[-1].position
                found.append(one)
            if len(batch) < _BATCH or ordinal(batch[-1].position) <= ordinal(books.start):
                return found, None
            before = batch[-1].position
            seen += len(batch)
        return found, before

    async def of_event(self, retailer_id: RetailerId, entry: Entry) -> list[Delivery]:
        """One delivery for every subscription that the event is for, or that it was sent to on request."""
        found = []
        for raw in await self._db.run("ZRANGE", keys.subscriptions(retailer_id), 0, -1):
            one = await self.of(retailer_id, raw.decode(), entry)
            if one is not None:
                found.append(one)
        return found

    async def of(self, retailer_id: RetailerId, subscription_id: str, entry: Entry) -> Delivery | None:
        """The delivery of one event to one subscription, None where there is none. Raises NotFound."""
        books = await self._books(retailer_id, subscription_id)
        (delivery,) = await self._deliveries(books, [entry])
        return delivery if self._concerns(books, entry) or delivery.attempts else None

    async def _books(self, retailer_id: RetailerId, subscription_id: str) -> _Books:
        record = as_dict(await self._db.run("HGETALL", keys.subscription(subscription_id)))
        if record.get(b"retailer") != retailer_id.encode():
            raise NotFound("no such subscription")
        return _Books(
            SubscriptionId(subscription_id),
            retailer_id,
            read_interest(subscription_id, record),
            start=record[b"start"].decode(),
            position=record[b"pos"].decode(),
            sequence=int(record[b"pos_seq"]),
            enabled=record[b"enabled"] == b"1",
            hold_ms=int(record.get(b"hold", 0)),
        )

    def _concerns(self, books: _Books, entry: Entry) -> bool:
        return ordinal(entry.position) > ordinal(books.start) and books.interest.wants(entry)

    async def _candidates(
        self, books: _Books, before: str | None, *, status: Status | None, order_id: str | None
    ) -> list[Entry]:
        """The next events to look at, newest first; fewer than a batch: there are no more."""
        if order_id is None and status != "dead":
            return await self._log.before(books.retailer_id, before, _BATCH)
        if order_id is not None:
            listed = await self._db.run("LRANGE", keys.trail(books.retailer_id, order_id), 0, -1)
        else:
            most = "+inf" if before is None else before.partition("-")[0]
            listed = await self._db.run(
                *("ZREVRANGEBYSCORE", keys.dead(books.subscription_id), most, "-inf", "LIMIT", 0, 2 * _BATCH)
            )
        places = sorted({raw.decode().partition("/")[0] for raw in listed}, key=ordinal, reverse=True)
        chosen = [p for p in places if before is None or ordinal(p) < ordinal(before)][:_BATCH]
        entries = await self._log.at(books.retailer_id, chosen)
        return [entry for entry in entries if entry is not None]

    async def _deliveries(self, books: _Books, entries: Sequence[Entry]) -> list[Delivery]:
        if not entries:
            return []
        one = books.subscription_id
        positions = [entry.position for entry in entries]
        tried = await self._attempts.of(one, positions)
        # An order's lane, or one of the event's own where no order was asked for: now, or when it was parked.
        lanes = {LaneId(name) for e in entries for name in (e.order_id, e.event_id) if name}
        waiting, due = await self._waiting(one, sorted(lanes))
        dead = await self._dead(one, entries)
        marks = await self._db.run_many([["SISMEMBER", keys.ahead(one), p] for p in positions])
        numbers = await self._numbers(books, positions)
        found = []
        for entry, tries, ahead in zip(entries, tried, marks, strict=True):
            at = waiting.get(entry.position)
            unread = ordinal(entry.position) > ordinal(books.position) and not ahead
            status = _status(tries, books.interest.skipped(entry.position), entry.position in dead, unread or at)
            counted = [n for n in (at[0].sequence if at else 0, *(a.sequence for a in tries)) if n]
            next_ms = None
            if at is not None and status in ("waiting", "retrying") and books.enabled and at[1]:
                next_ms = max(due[at[2]], books.hold_ms)
            elif unread and books.enabled and status == "waiting":
                next_ms = books.hold_ms or None
            folded = [a.error for a in tries if a.outcome == "folded"]
            found.append(
                Delivery(
                    *(entry.position, entry.event_id, entry.type, entry.order_id, one),
                    sequence=max(counted, default=None) or numbers.get(entry.position),
                    status=status,
                    next_attempt_ms=next_ms,
                    attempts=tuple(a for a in tries if a.number),
                    replaced_by=folded[-1] if folded and status == "skipped" else None,
                )
            )
        return found

    async def _waiting(
        self, subscription_id: SubscriptionId, lanes: Sequence[LaneId]
    ) -> tuple[dict[str, tuple[LaneEntry, bool, LaneId]], dict[LaneId, int]]:
        """What waits in lanes by its place in the log (with whether it is its lane's head), and when lanes are due."""
        commands: list[list[Arg]] = [["LRANGE", keys.lane(subscription_id, lane), 0, _DEPTH - 1] for lane in lanes]
        commands += [["ZSCORE", keys.lanes(subscription_id), lane] for lane in lanes]
        answers = await self._db.run_many(commands)
        stored, scores = answers[: len(lanes)], answers[len(lanes) :]
        waiting = {}
        for lane, raws in zip(lanes, stored, strict=True):
            for index, raw in enumerate(raws):
                entry = decode_lane_entry(raw)
                waiting[entry.position] = (entry, index == 0, lane)
        return waiting, {lane: int(float(score or 0)) for lane, score in zip(lanes, scores, strict=True)}

    async def _dead(self, subscription_id: SubscriptionId, entries: Sequence[Entry]) -> set[str]:
        moments = sorted({entry.committed_ms for entry in entries})
        commands: list[list[Arg]] = [["ZRANGEBYSCORE", keys.dead(subscription_id), ms, ms] for ms in moments]
        answers = await self._db.run_many(commands)
        return {raw.decode().partition("/")[0] for members in answers for raw in members}

    async def _numbers(self, books: _Books, positions: Sequence[str]) -> dict[str, int]:
        """Relay-sequences of events behind the position, as far as one look reaches: they follow from the filters."""
        behind = {p for p in positions if ordinal(p) > ordinal(books.position)}
        if not behind:
            return {}
        numbers = {}
        sequence = books.sequence
        for entry in await self._log.after(books.retailer_id, books.position, _SCAN):
            if books.interest.wants(entry):
                sequence += 1
                if entry.position in behind:
                    numbers[entry.position] = sequence
        return numbers


def _status(tries: Sequence[Attempt], skipped: bool, dead: bool, waits: object) -> Status:
    """The last word on an event: a later delivery on request revives what was dead or skipped."""
    verdicts = {attempt.verdict for attempt in tries}
    if "delivered" in verdicts:
        return "delivered"
    if dead:
        return "dead"
    if skipped or "skipped" in verdicts:
        return "skipped"
    if waits:
        return "retrying" if any(a.number and not a.replay for a in tries) else "waiting"
    return "delivered"
