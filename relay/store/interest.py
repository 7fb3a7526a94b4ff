"""Which events of the log are a subscription's, whoever asks: the pump that sends them, the ledger that counts them."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from relay.model.filters import Filter
from relay.store.log import Entry, ordinal

Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Interest:
    """The filters with the place in the log from which each holds, and the stretches that the retailer skipped."""

    subscription_id: str
    epochs: tuple[tuple[Place, Filter], ...]
    skips: tuple[tuple[Place, Place], ...] = ()

    def wants(self, entry: Entry) -> bool:
        """Whether an event is for this subscription, by the filters in force when it was written. What tells of a
        subscription is for the retailer's other ones."""
        at = ordinal(entry.position)
        chosen: Filter | None = None
        for since, filter_ in self.epochs:
            if since < at:
                chosen = filter_
        return chosen is not None and entry.subject != self.subscription_id and chosen.matches(entry.type)

    def skipped(self, position: str) -> bool:
        """Whether the retailer chose to skip this stretch when enabling the subscription."""
        if not self.skips:
            return False
        at = ordinal(position)
        return any(since < at <= until for since, until in self.skips)

    @property
    def current(self) -> Filter:
        """The filters of today."""
        return self.epochs[-1][1]


def read_interest(subscription_id: str, record: Mapping[bytes, bytes]) -> Interest:
    """From the hash of a subscription."""
    epochs = msgspec.json.decode(record[b"filters"])
    skips = msgspec.json.decode(record.get(b"skips", b"[]"))
    return Interest(
        subscription_id,
        tuple((ordinal(since), Filter(tuple(patterns))) for since, patterns in epochs),
        tuple((ordinal(since), ordinal(until)) for since, until in skips),
    )
