"""What a runner does beside sending the log: lanes fetched back and folded, recoveries, heartbeats."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import structlog

from relay.clock import Clock
from relay.delivering.lanes import Lanes
from relay.model import events
from relay.model.orders import LaneId, OrderId
from relay.model.ranges import compressed, expanded
from relay.sender import Message, Sender
from relay.store.attempts import Attempt, Attempts
from relay.store.deliveries import ON_REQUEST, Deliveries, Folded, LaneEntry, Owned, Target, on_request
from relay.store.log import Entry, Log, ordinal
from relay.store.orders import Orders
from relay.store.recoveries import MOST_OUTSTANDING, Recoveries, Recovery
from relay.tracing import OFF, Tracing

#: Events that one step of a recovery looks at.
STEP = 100


@dataclass(frozen=True, slots=True)
class Waiting:
    """An entry of a parked lane with its event (None: retention took it). `stands_for` as in Job."""

    at: LaneEntry
    entry: Entry | None
    stands_for: str = ""


@dataclass(frozen=True, slots=True)
class Stores:
    """What the work beside the log reads and writes."""

    deliveries: Deliveries
    log: Log
    orders: Orders
    recoveries: Recoveries
    attempts: Attempts


class Aside:
    """One for a subscription under lease. `recovery_rate`: events a second that a recovery sends again."""

    def __init__(
        self,
        owned: Owned,
        stores: Stores,
        sender: Sender,
        *,
        clock: Clock,
        recovery_rate: int,
        tracing: Tracing = OFF,
    ) -> None:
        self._owned = owned
        self._stores = stores
        self._sender = sender
        self._clock = clock
        self._rate = recovery_rate
        self._tracing = tracing
        self._stepped = time.monotonic()
        self._allowance = 1.0

    async def load(self, lanes: Sequence[LaneId], depth: int) -> list[list[Waiting]]:
        """The first `depth` entries of each lane, with their events."""
        one = self._owned.subscription_id
        stored = await self._stores.deliveries.lanes(one, lanes, depth)
        places = [entry.position for entries in stored for entry in entries]
        found = await self._stores.log.at(self._owned.retailer_id, places)
        events_at = dict(zip(places, found, strict=True))
        folded = [lane for lane, entries in zip(lanes, stored, strict=True) if entries and entries[0].kind == "f"]
        snapshots = await self._stores.deliveries.folded(one, folded)
        return [
            [_waiting(at, lane, events_at, snapshots.get(lane)) for at in entries]
            for lane, entries in zip(lanes, stored, strict=True)
        ]

    async def purged(self, positions: Sequence[str]) -> set[str]:
        """Those of these places whose events were purged."""
        found = await self._stores.log.at(self._owned.retailer_id, positions)
        return {entry.position for entry in found if entry is not None and entry.gone}

    async def fold(self, lane: LaneId, *, fold_to: str, read_to: str) -> list[tuple[str, bytes]] | None:
        """Put one snapshot in the place of all a lane holds, if its head is at or before `fold_to`.

        Returns what is to be noted of the events it stands for, empty when there is nothing to fold. None: the log has
        events of the order behind `read_to`, of which its state tells already; they have to be in the lane first.
        """
        one, retailer_id = self._owned.subscription_id, self._owned.retailer_id
        (entries,) = await self._stores.deliveries.lanes(one, [lane], 0)
        if len(entries) < 2 or lane.startswith(ON_REQUEST) or ordinal(entries[0].position) > ordinal(fold_to):
            return []
        before = (await self._stores.deliveries.folded(one, [lane])).get(lane)
        (first,) = await self._stores.log.at(retailer_id, [entries[0].position])
        state = await self._stores.orders.load_state(retailer_id, OrderId(lane))
        last = await self._stores.log.last_of(retailer_id, lane)
        if last is not None and ordinal(last) > ordinal(read_to):
            return None
        if state is None or (before is None and (first is None or first.gone)):
            return []  # erased, or beyond retention: what is left goes out, or is counted as dead, one by one
        begins = first.sequence if before is None and first is not None else _first_of(before)
        now_ms = self._clock.now_ms()
        event = events.folded(state, begins, state.sequence, now_ms=now_ms)
        replaced = [entry.sequence for entry in entries if entry.kind != "f"]
        replaced += expanded(before.stands_for) if before is not None else []
        snapshot = Folded(event.id, event.body, compressed(replaced), state.sequence)
        head = LaneEntry(entries[-1].position, entries[-1].sequence, 0, 0, "f")
        if not await self._stores.deliveries.fold(self._owned, lane, state, entries, head, snapshot):
            return []
        gone = [Attempt(e.sequence, 0, now_ms, "folded", None, 0.0, "skipped", event.id) for e in entries[:-1]]
        return [(e.position, one.encode()) for e, one in zip(entries[:-1], gone, strict=True)]

    async def recover(self, target: Target, position: str, lanes: Lanes, recovery_id: str) -> str:
        """Take one step of a recovery, as far as its rate allows; returns its id, or '' when it is over.

        Only what lies at or before the subscription's position is looked at: what lies behind it will be sent anyway.
        """
        now = time.monotonic()
        self._allowance = min(self._rate, self._allowance + (now - self._stepped) * self._rate)
        self._stepped = now
        room = MOST_OUTSTANDING - await self._stores.recoveries.outstanding(self._owned.subscription_id)
        most = min(int(self._allowance), room)
        found = await self._stores.recoveries.read(self._owned.subscription_id, recovery_id)
        if found is None or most < 1:
            return recovery_id if found is not None else ""
        recovery, raw = found
        after, entries = await self._choose(target, recovery, position, lanes, most)
        if after == recovery:
            return recovery_id
        if not await self._stores.recoveries.step(self._owned, raw, after, entries):
            return recovery_id
        self._allowance -= len(entries)
        for lane, _ in entries:
            if lane not in lanes.parked:
                lanes.sleep(lane, self._clock.now_ms())
        if after.ended_ms is None:
            return recovery_id
        structlog.get_logger("relay.delivering").info(
            "delivery.recovered",
            subscription_id=self._owned.subscription_id,
            recovery_id=recovery_id,
            looked_at=after.looked_at,
            resent=after.resent,
            skipped=after.skipped,
        )
        return ""

    async def _choose(
        self, target: Target, recovery: Recovery, position: str, lanes: Lanes, most: int
    ) -> tuple[Recovery, list[tuple[LaneId, LaneEntry]]]:
        """The recovery after a step, and what the step sends again: at most `most` events."""
        candidates, cursor = await self._candidates(recovery, position, most)
        waits = await self._waiting_among(target, candidates, lanes)
        history = await self._stores.attempts.of(self._owned.subscription_id, [entry.position for entry in candidates])
        chosen: list[tuple[LaneId, LaneEntry]] = []
        for entry, tries in zip(candidates, history, strict=True):
            wanted = recovery.only == "failed" or (
                target.interest.current.matches(entry.type) and entry.subject != self._owned.subscription_id
            )
            delivered = any(one.verdict == "delivered" for one in tries)
            if entry.gone or not wanted or entry.position in waits or (recovery.only == "missing" and delivered):
                continue
            sequence = max((one.sequence for one in tries), default=0)
            chosen.append((on_request(target.ordering, entry), LaneEntry(entry.position, sequence, 0, 0, "r")))
        over = ordinal(cursor) >= ordinal(recovery.until)
        counted = replace(
            recovery,
            cursor=cursor,
            looked_at=recovery.looked_at + len(candidates),
            resent=recovery.resent + len(chosen),
            skipped=recovery.skipped + len(candidates) - len(chosen),
            ended_ms=self._clock.now_ms() if over else None,
        )
        return counted, chosen

    async def _candidates(self, recovery: Recovery, position: str, most: int) -> tuple[list[Entry], str]:
        """The next events to look at, at most `most`, and how far in the log that comes."""
        last = max(min(recovery.until, position, key=ordinal), recovery.cursor, key=ordinal)
        if recovery.only == "failed":
            dead = await self._stores.recoveries.dead(self._owned.subscription_id, recovery, most)
            places = [p for p in dead if ordinal(p) <= ordinal(last)]
            found = await self._stores.log.at(self._owned.retailer_id, places)
        else:
            most = min(STEP, most)
            read = await self._stores.log.after(self._owned.retailer_id, recovery.cursor, most)
            found = [entry for entry in read if ordinal(entry.position) <= ordinal(last)]
            places = [entry.position for entry in found if entry is not None]
        entries = [entry for entry in found if entry is not None]
        return entries, places[-1] if len(places) == most else last

    async def _waiting_among(self, target: Target, entries: Sequence[Entry], lanes: Lanes) -> set[str]:
        """Places of those that still wait in their order's lane, for their first delivery or to be sent again."""
        chosen = {on_request(target.ordering, entry) for entry in entries}
        chosen |= {LaneId(lane.removeprefix(ON_REQUEST)) for lane in chosen}
        parked = [lane for lane in chosen if lane in lanes.parked]
        stored = await self._stores.deliveries.lanes(self._owned.subscription_id, parked, 0)
        return {waiting.position for lane in stored for waiting in lane}

    async def beat(self, target: Target, highest: int, unsettled: int | None, lanes: Iterable[LaneId]) -> None:
        """Send a heartbeat. What becomes of it counts nowhere: the next one says more."""
        one = self._owned.subscription_id
        own = [lane for lane in lanes if not lane.startswith(ON_REQUEST)]
        heads = await self._stores.deliveries.lanes(one, own, 1)
        waiting = [entries[0].sequence for entries in heads if entries]
        waiting += [] if unsettled is None else [unsettled]
        now_ms = self._clock.now_ms()
        event = events.heartbeat(one, max([highest, *waiting]), min(waiting, default=None), now_ms=now_ms)
        about: dict[str, str | int] = {"retailer_id": self._owned.retailer_id, "subscription_id": one, "attempt": 1}
        with self._tracing.attempt("", event_id=event.id, event_type=event.type, **about) as span:
            message = Message(event.id, event.body, 0, 1, traceparent=span.traceparent)
            outcome = await self._sender.post(
                target.url, message, keys=target.keyring.live(now_ms), headers=target.headers, now_s=now_ms // 1000
            )
            well = outcome.status is not None and 200 <= outcome.status < 300
            span.tell(outcome=outcome.kind, status=outcome.status, well=well)
        structlog.get_logger("relay.delivering").info(
            "delivery.heartbeat", subscription_id=one, outcome=outcome.kind, status=outcome.status
        )


def _waiting(at: LaneEntry, lane: LaneId, events_at: Mapping[str, Entry | None], snapshot: Folded | None) -> Waiting:
    event = events_at[at.position]
    if at.kind != "f":
        return Waiting(at, event)
    if snapshot is None:
        return Waiting(at, event if event is not None and event.gone else None)
    fields = (at.position, snapshot.event_id, "order.snapshot", OrderId(lane), snapshot.sequence, snapshot.body)
    # It goes on with the trace of the last event that it stands for.
    return Waiting(at, Entry(*fields, trace="" if event is None else event.trace), snapshot.stands_for)


def _first_of(before: Folded | None) -> int:
    """The first order sequence that a snapshot stands for."""
    assert before is not None
    first: int = msgspec.json.decode(before.body)["data"]["stands_for"]["first"]
    return first
