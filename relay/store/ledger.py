"""Promise 7: for every subscription, events matched = delivered + waiting + dead + skipped.

The counters are kept by the deliver pump. What is checked against them is counted anew: the lanes as they stand, the
marks ahead of the position, and, as far back as the log reaches, the log itself under the filters in force.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from relay.model.orders import RetailerId, SubscriptionId
from relay.store import keys
from relay.store.interest import Interest, read_interest
from relay.store.log import START, Log, ordinal
from relay.store.redis import Arg, Db, as_dict


@dataclass(frozen=True, slots=True)
class Account:
    """One subscription's ledger. `unread` are matched events behind the position, not settled ahead; `skipped` are
    those that the retailer left out, or that a snapshot stands for.

    `recounted` is the number of matched events between start and position found in the log itself; None where
    retention or a filter has taken the means to count them. `problems` says in words what does not add up.
    """

    retailer_id: RetailerId
    subscription_id: SubscriptionId
    matched: int
    delivered: int
    dead: int
    skipped: int
    parked: int
    unread: int
    recounted: int | None
    problems: tuple[str, ...]

    @property
    def waiting(self) -> int:
        return self.parked + self.unread

    @property
    def balanced(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class _Books:
    """`lanes` are length and first entry of each parked lane."""

    record: Mapping[bytes, bytes]
    ahead: frozenset[str]
    lanes: Sequence[tuple[int, bytes]]

    @property
    def parked(self) -> int:
        return sum(length for length, _ in self.lanes)


class Ledger:
    def __init__(self, db: Db, log: Log) -> None:
        self._db = db
        self._log = log

    async def audit(self, retailer_id: RetailerId) -> list[Account]:
        """Every subscription of a retailer, recounted. Reads the whole log: an operator's command, not a request."""
        ids = await self._db.run("ZRANGE", keys.subscriptions(retailer_id), 0, -1)
        return [await self._account(retailer_id, SubscriptionId(raw.decode())) for raw in ids]

    async def _account(self, retailer_id: RetailerId, subscription_id: SubscriptionId) -> Account:
        books = await self._books(subscription_id)
        record, ahead, parked = books.record, books.ahead, books.parked
        matched, delivered, dead, skipped = _counts(record)
        start, position = record[b"start"].decode(), record[b"pos"].decode()
        interest = read_interest(subscription_id, record)
        recounted, unread, whole = await self._recount(retailer_id, start, position, ahead, interest)
        whole = whole and b"pruned" not in record
        problems = []
        if matched + len(ahead) != delivered + dead + skipped + parked:
            problems.append(
                f"{matched} matched up to the position and {len(ahead)} ahead of it, but {delivered} delivered,"
                f" {dead} dead, {skipped} skipped and {parked} parked"
            )
        if whole and recounted != matched:
            problems.append(f"the log holds {recounted} matching events up to the position, {matched} were counted")
        return Account(
            *(retailer_id, subscription_id, matched + len(ahead), delivered, dead, skipped, parked, unread),
            recounted if whole else None,
            tuple(problems),
        )

    async def _books(self, subscription_id: SubscriptionId) -> _Books:
        one = subscription_id
        record, ahead, *lanes = await self._db.script(
            "books", [keys.subscription(one), keys.ahead(one), keys.lanes(one)], [one]
        )
        marks = frozenset(raw.decode() for raw in ahead)
        return _Books(as_dict(record), marks, [(int(length), head) for _, length, head in lanes])

    async def _recount(
        self,
        retailer_id: RetailerId,
        start: str,
        position: str,
        ahead: frozenset[str],
        interest: Interest,
    ) -> tuple[int, int, bool]:
        """Matching events up to the position, unread ones behind it, and whether the log still reaches the start."""
        counted = unread = 0
        limit, at = ordinal(position), start
        whole = await self._untrimmed(retailer_id, start)
        while entries := await self._log.after(retailer_id, at, 1000):
            for entry in entries:
                at = entry.position
                if not interest.wants(entry):
                    continue
                if ordinal(at) <= limit:
                    counted += 1
                elif at not in ahead:
                    unread += 1
        return counted, unread, whole

    async def _untrimmed(self, retailer_id: RetailerId, start: str) -> bool:
        """Whether nothing behind `start` has left the log: its largest deleted id says."""
        if not await self._db.run("EXISTS", keys.log(retailer_id)):
            return True
        info = await self._db.run("XINFO", "STREAM", keys.log(retailer_id))
        fields = info if isinstance(info, dict) else {info[i]: info[i + 1] for i in range(0, len(info), 2)}
        largest = fields.get(b"max-deleted-entry-id") or fields.get("max-deleted-entry-id") or b"0-0"
        text = largest.decode() if isinstance(largest, bytes) else str(largest)
        return ordinal(text) <= ordinal(start)

    async def sequences(self, retailer_id: RetailerId) -> list[str]:
        """Orders whose events in the log are not numbered 1, 2, 3, ... up to the stored sequence."""
        seen: dict[str, int] = {}
        problems = []
        at = START
        while entries := await self._log.after(retailer_id, at, 1000):
            for entry in entries:
                at = entry.position
                if not entry.order_id:
                    continue
                known = seen.get(entry.order_id)
                if known is not None and entry.sequence != known + 1:
                    problems.append(f"order {entry.order_id}: {entry.sequence} follows {known}")
                seen[entry.order_id] = entry.sequence
        commands: list[list[Arg]] = [["HGET", keys.order(retailer_id, order), "q"] for order in seen]
        for order, stored in zip(seen, await self._db.run_many(commands), strict=True):
            if stored is not None and int(stored) < seen[order]:
                problems.append(f"order {order}: the log has {seen[order]}, the state {int(stored)}")
        return problems


def _counts(record: Mapping[bytes, bytes]) -> tuple[int, int, int, int]:
    """Matched, delivered, dead, skipped."""
    matched, delivered, dead, skipped = (
        int(record.get(name, b"0")) for name in (b"matched", b"delivered", b"dead", b"skipped")
    )
    return matched, delivered, dead, skipped
