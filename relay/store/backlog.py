"""What waits, over all subscriptions and all credentials, from counters and indexes: cheap enough for every second.

A subscription costs one short script, a credential two commands; a pool of which nothing can be due costs nothing.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from relay.store import keys
from relay.store.arms import SPEND
from relay.store.redis import Arg, Db

T = TypeVar("T")

#: Unread events that are counted of a subscription (reading one carries its body), and lanes that are looked at.
GLANCE, LANES = 100, 2_000
#: Subscriptions and pools of one round trip.
_AT_ONCE = 100
#: How long a poll may be overdue (ms), and how much of the last second's budget left over, without the budget being
#: idle: a pump sleeps up to half a second, and a request that a stall held up gives its turn back.
_PATIENCE_MS, _SPENT = 2_000, 0.9


@dataclass(slots=True)
class Waiting:
    """`since_ms`: the time of the oldest; None for none."""

    events: int = 0
    since_ms: int | None = None

    def add(self, events: int, since_ms: int) -> None:
        if events:
            self.events += events
            self.since_ms = since_ms if self.since_ms is None else min(self.since_ms, since_ms)


@dataclass(slots=True)
class Summary:
    """All subscriptions together. `imbalance` is what does not add up, without sign; `circuits` counts enabled
    subscriptions by their circuit."""

    now_ms: int
    waiting: dict[str, Waiting] = field(default_factory=lambda: {s: Waiting() for s in ("ready", "held", "parked")})
    imbalance: int = 0
    enabled: int = 0
    disabled: int = 0
    parked_lanes: int = 0
    dead: int = 0
    circuits: Counter[str] = field(default_factory=Counter)

    def age_s(self, state: str) -> float:
        since_ms = self.waiting[state].since_ms
        return 0.0 if since_ms is None else max(0, self.now_ms - since_ms) / 1000


@dataclass(slots=True)
class Polling:
    """All credentials together. `budget`: requests a second of those that have a limit, and `remaining` what refusals
    left of them; `least`: the share of its rate that the credential keeps which was slowed down most. `idle`: with some
    of them polls are overdue while the budget is not spent; `oldest_s`: how long the most overdue poll has been due."""

    budget: float = 0.0
    remaining: float = 0.0
    least: float = 1.0
    idle: bool = False
    credentials: Counter[str] = field(default_factory=Counter)
    active: int = 0
    suspended: int = 0
    due: int = 0
    oldest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Budget:
    """What claim.lua and throttle.lua keep of a credential."""

    rate: float
    gate_ms: int
    mint_ms: int
    why: str
    tat_ms: float
    cut: float
    cut_ms: int
    second: int
    count: int
    last: int

    def state(self, now_ms: int) -> str:
        if self.mint_ms > now_ms:
            return "refused" if self.why == "credential_refused" else "token_endpoint"
        if self.gate_ms > now_ms:
            return "paused"
        return "ok" if self.share(now_ms) == 1 else "slowed"

    def share(self, now_ms: int) -> float:
        """What upstream's refusals left of its rate (allowed_rate in prelude.lua), from 0 to 1."""
        if self.gate_ms > now_ms:
            return 0.0
        return min(1.0, self.cut + 0.002 * (now_ms - self.cut_ms) / 1000)

    def unspent(self, now_ms: int) -> bool:
        """Whether more could have been asked in the last second."""
        if self.rate <= 0 or self.gate_ms > now_ms or self.mint_ms > now_ms or self.tat_ms >= now_ms:
            return False
        allowed = SPEND * self.rate * self.share(now_ms)
        this = now_ms // 1000
        spent = self.last if self.second == this else self.count if self.second == this - 1 else 0
        return spent < _SPENT * allowed - 1 or self.tat_ms <= now_ms - max(1000, 2000 / max(allowed, 0.001))


class Backlog:
    def __init__(self, db: Db) -> None:
        self._db = db

    async def summary(self) -> Summary:
        """What waits for subscriptions."""
        found = Summary(await self._db.now_ms())
        retailers = await self._db.run("ZRANGE", keys.RETAILERS, 0, -1)
        for some in _chunks(retailers):
            lists: list[list[Arg]] = [["ZRANGE", keys.subscriptions(raw.decode()), 0, -1] for raw in some]
            ids = [raw.decode() for listed in await self._db.run_many(lists) for raw in listed]
            for few in _chunks(ids):
                calls = [([keys.subscription(s), keys.ahead(s), keys.lanes(s)], [s, GLANCE, LANES]) for s in few]
                for row in await self._db.script_each("sample", calls):
                    if row:
                        _add(found, *row)
        return found

    async def log_events(self) -> int:
        """How many events all logs hold."""
        retailers = await self._db.run("ZRANGE", keys.RETAILERS, 0, -1)
        return sum(await self._db.run_many([["XLEN", keys.log(raw.decode())] for raw in retailers]))

    async def polling(self) -> Polling:
        """What is due, and what budgets are there for it."""
        now_ms = await self._db.now_ms()
        found = Polling(suspended=int(await self._db.run("SCARD", keys.SUSPENDED)))
        found.budget = found.remaining = await self._budgets()
        credentials = [raw.decode() for raw in await self._db.run("ZRANGE", keys.CREDENTIALS, 0, -1)]
        orders = 0
        for some in _chunks(credentials):
            commands: list[list[Arg]] = []
            for one in some:
                fields = ("rate", "gate", "mint", "why", "tat", "cut", "cut_at", "second", "count", "last")
                commands.append(["HMGET", keys.budget(one), *fields])
                commands.append(["HGET", keys.load(one), "*"])
                commands.append(["ZRANGEBYSCORE", keys.pools(one), "-inf", now_ms])
            answers = await self._db.run_many(commands)
            for number, one in enumerate(some):
                raw, load, pools = answers[3 * number : 3 * number + 3]
                orders += int(load or 0)
                budget = _read_budget(raw)
                found.credentials[budget.state(now_ms)] += 1
                share = budget.share(now_ms)
                found.remaining -= (1 - share) * budget.rate
                found.least = min(found.least, share)
                overdue_ms = await self._overdue(found, one, [raw_pool.decode() for raw_pool in pools], now_ms)
                found.idle = found.idle or (overdue_ms > _PATIENCE_MS and budget.unspent(now_ms))
        found.active = max(0, orders - found.suspended)
        return found

    async def _budgets(self) -> float:
        retailers = [raw.decode() for raw in await self._db.run("ZRANGE", keys.RETAILERS, 0, -1)]
        names = [keys.SHARED_CREDENTIAL, *retailers]
        rates = await self._db.run_many([["HGET", keys.budget(one), "rate"] for one in names])
        return sum(float(rate or 0) for rate in rates)

    async def _overdue(self, found: Polling, credential: str, retailers: Sequence[str], now_ms: int) -> int:
        """Add what is due of a credential; how long its most overdue poll has been due (ms)."""
        longest = 0
        for few in _chunks(retailers):
            for count, since in await self._db.script("overdue", [], [f"{credential}/{one}" for one in few]):
                found.due += count
                if since:
                    longest = max(longest, now_ms - int(since))
        found.oldest_s = max(found.oldest_s, longest / 1000)
        return longest


def _add(
    found: Summary,
    enabled: int,
    circuit: bytes,
    blocked: int,
    unread: list[int],
    due: list[int],
    parked: list[int],
    lanes: int,
    dead: int,
    imbalance: int,
) -> None:
    """Add one subscription."""
    if enabled:
        found.enabled += 1
        found.circuits[circuit.decode()] += 1
    else:
        found.disabled += 1
    free = found.waiting["held" if blocked else "ready"]
    free.add(*unread)
    free.add(*due)
    found.waiting["parked"].add(*parked)
    found.parked_lanes += lanes
    found.dead += dead
    found.imbalance += imbalance


def _read_budget(raw: Sequence[bytes | None]) -> _Budget:
    rate, gate, mint, why, tat, cut, cut_at, second, count, last = ("" if v is None else v.decode() for v in raw)
    return _Budget(
        *(float(rate or 0), int(gate or 0), int(mint or 0), why, float(tat or 0)),
        *(float(cut or 1), int(cut_at or 0), int(second or 0), int(count or 0), int(last or 0)),
    )


def _chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]
