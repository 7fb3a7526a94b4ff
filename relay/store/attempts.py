"""What became of each event at each subscription: one JSON line an attempt, in hashes that expire as a whole.

A line is [relay-sequence, number of the attempt, when (ms), outcome, status or null, duration (ms), verdict, error, 1
for what was sent on request]. The pump's batch script appends it; `RELAY_RETENTION_ATTEMPTS` after the last one the
hash is gone. An event that was delivered needs about 65 bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from relay.store import keys
from relay.store.redis import Arg, Db

_json = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One POST and what came of it. `verdict`: delivered, retry, dead, gone, or skipped (folded into a snapshot, or
    left out by the retailer), in which case nothing was sent."""

    sequence: int
    number: int
    at_ms: int
    outcome: str
    status: int | None
    duration_ms: float
    verdict: str
    error: str = ""
    replay: bool = False

    def encode(self) -> bytes:
        line: list[object] = [self.sequence, self.number, self.at_ms, self.outcome, self.status]
        line += [round(self.duration_ms, 1), self.verdict]
        if self.error or self.replay:
            line.append(self.error)
        if self.replay:
            line.append(1)
        return _json.encode(line) + b"\n"


def decode_attempts(raw: bytes | None) -> list[Attempt]:
    """All lines of one event, oldest first."""
    found = []
    for line in (raw or b"").splitlines():
        sequence, number, at_ms, outcome, status, duration_ms, verdict, *more = msgspec.json.decode(line)
        error, replay = (more[0] if more else ""), len(more) > 1
        found.append(Attempt(sequence, number, at_ms, outcome, status, duration_ms, verdict, error, replay))
    return found


class Attempts:
    def __init__(self, db: Db) -> None:
        self._db = db

    async def of(self, subscription_id: str, positions: Sequence[str]) -> list[list[Attempt]]:
        """The attempts for events at positions, in one round trip; empty where none was made or they expired."""
        commands: list[list[Arg]] = [["HGET", keys.attempts(subscription_id, p), p] for p in positions]
        return [decode_attempts(raw) for raw in await self._db.run_many(commands)]
