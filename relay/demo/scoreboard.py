"""Who is right: the simulator's own count of what it showed, against what the receiver verified and folded."""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relay.model.fold import Fold, Taken
from relay.model.orders import JsonObject, Snapshot
from relay.receiver import Receipt

#: The simulator's facts in the words of the event types that report them.
_TOLD_BY = {
    ("handling", "status"): ("order.status_changed",),
    ("handling", "shopper"): ("order.shopper_assigned", "order.shopper_changed", "order.shopper_unassigned"),
    ("handling", "address"): ("order.address_changed",),
    ("handling", "coordinates"): ("order.coordinates_changed",),
    ("handling", "notes"): ("order.notes_changed",),
    ("handling", "other"): ("order.updated",),
    ("items", "added"): ("order.item_added",),
    ("items", "removed"): ("order.item_removed",),
    ("items", "status"): ("order.item_status_changed",),
    ("items", "quantity"): ("order.item_quantity_changed",),
    ("items", "replacement"): (
        "order.replacement_suggested",
        "order.replacement_changed",
        "order.replacement_withdrawn",
    ),
    ("items", "decision"): ("order.replacement_approved", "order.replacement_rejected"),
    ("items", "other"): ("order.item_updated",),
    ("messages", "new"): ("order.message_created",),
    ("messages", "differs"): ("order.message_updated",),
    ("messages", "gone"): ("order.message_removed",),
}
_FACT_OF = {name: fact for fact, names in _TOLD_BY.items() for name in names}


@dataclass(frozen=True, slots=True)
class Score:
    """The line that `relay demo --once --json` ends with. Latencies are milliseconds."""

    orders: int
    changes: int
    events: int
    delivered: int
    verified: int
    out_of_order: int
    duplicates: int
    lost: int
    untold: int
    latency_p50: float
    latency_p99: float

    @property
    def clean(self) -> bool:
        """Everything arrived, once or more, verified, in order, and an event for every change."""
        whole = self.events == self.delivered == self.verified and self.events >= self.changes
        return whole and not (self.out_of_order or self.lost or self.untold)

    def document(self) -> JsonObject:
        return {
            "orders": self.orders,
            "changes": self.changes,
            "events": self.events,
            "delivered": self.delivered,
            "verified": self.verified,
            "out_of_order": self.out_of_order,
            "duplicates": self.duplicates,
            "lost": self.lost,
            "untold": self.untold,
            "latency_ms": {"p50": round(self.latency_p50, 1), "p99": round(self.latency_p99, 1)},
        }


class Scoreboard:
    """Takes the receiver's receipts as they come; compares with the simulator's report in the end."""

    def __init__(self) -> None:
        self.folds: dict[str, Fold] = {}
        self.out_of_order = 0
        self._arrived: dict[tuple[str, str, str, str], deque[float]] = defaultdict(deque)
        self._ids: set[str] = set()

    def take(self, receipt: Receipt) -> None:
        """Fold in one verified webhook."""
        event = receipt.event
        data = event["data"]
        order_id = data.get("order_id")
        if order_id is None:
            return
        self._ids.add(event["id"])
        taken = self.folds.setdefault(order_id, Fold()).take(event)
        self.out_of_order += taken is Taken.OUT_OF_ORDER
        if taken is Taken.FOLDED and (fact := _FACT_OF.get(event["type"])) is not None:
            subject = data.get("item") or data.get("message")
            name = data.get("key") or (subject["id"] if subject else order_id)
            self._arrived[order_id, *fact, str(name)].append(receipt.at)

    def score(self, report: Mapping[str, Any], *, events: int, delivered: int, duplicates: int) -> Score:
        """`events` and `delivered` are the relay's own counts; the report is the simulator's."""
        lost = 0
        for order_id, order in report["orders"].items():
            fold = self.folds.get(order_id, Fold())
            answers = order["answers"]
            lost += len(fold.differences(Snapshot(answers["handling"], answers["items"], answers["messages"])))
        latencies, untold = self._latencies(report["facts"])
        return Score(
            orders=len(report["orders"]),
            changes=report["changes"],
            events=events,
            delivered=delivered,
            verified=len(self._ids),
            out_of_order=self.out_of_order,
            duplicates=duplicates,
            lost=lost,
            untold=untold,
            latency_p50=_quantile(latencies, 0.5),
            latency_p99=_quantile(latencies, 0.99),
        )

    def _latencies(self, facts: Sequence[JsonObject]) -> tuple[list[float], int]:
        """From the first answer that showed a fact to the receiver's having it, and how many facts nobody told."""
        arrived = {key: deque(times) for key, times in self._arrived.items()}
        found, untold = [], 0
        for fact in facts:
            waiting = arrived.get((fact["order_id"], fact["resource"], fact["fact"], str(fact["subject_id"])))
            if waiting:
                found.append((waiting.popleft() - fact["at"]) * 1000)
            else:
                untold += 1
        return sorted(found), untold


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
