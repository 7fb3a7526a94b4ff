"""How a subscription does: what waits, and what came of its latest attempts."""

from collections.abc import Sequence
from dataclasses import dataclass

from relay.errors import NotFound
from relay.model.orders import RetailerId
from relay.store import keys
from relay.store.attempts import Attempt, decode_attempts
from relay.store.deliveries import ON_REQUEST
from relay.store.interest import Interest, read_interest
from relay.store.log import Log, ordinal
from relay.store.redis import Arg, Db, as_dict

#: Attempts of the events of so long ago are looked at (ms), and of so many events at most: more is sampled.
WINDOW = 3_600_000
SAMPLE = 2_000
#: Unread events that are counted one by one.
_UNREAD = 5_000
_CHUNK = 1_000


@dataclass(frozen=True, slots=True)
class Percentiles:
    """In milliseconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Statistics:
    """`waiting` counts at least so many events, and exactly if `exact`; `oldest_waiting_ms` is the age of the oldest.

    `attempts` and what follows are of the last hour's events: `attempt` is how long a successful POST took, `delivery`
    how long it was from an event's detection to its first delivery; None where nothing succeeded.
    """

    waiting: int
    exact: bool
    parked_lanes: int
    oldest_waiting_ms: int | None
    attempts: int
    succeeded: int
    attempt: Percentiles | None
    delivery: Percentiles | None


async def statistics(db: Db, log: Log, retailer_id: RetailerId, subscription_id: str) -> Statistics:
    """Raises NotFound."""
    record = as_dict(await db.run("HGETALL", keys.subscription(subscription_id)))
    if record.get(b"retailer") != retailer_id.encode():
        raise NotFound("no such subscription")
    now_ms = await db.now_ms()
    parked, heads = await _parked(db, subscription_id)
    interest, position = read_interest(subscription_id, record), record[b"pos"].decode()
    unread, exact = await _unread(db, log, retailer_id, subscription_id, interest, position)
    oldest = min([*heads, *unread], key=ordinal, default=None)
    tries = await _latest(db, subscription_id, now_ms)
    attempts = [one for _, ones in tries for one in ones if one.number]
    good = [one for one in attempts if one.verdict == "delivered"]
    firsts = [min(d.at_ms for d in done) - at_ms for at_ms, ones in tries if (done := _first_sent(ones))]
    return Statistics(
        waiting=parked + len(unread),
        exact=exact,
        parked_lanes=len(heads),
        oldest_waiting_ms=None if oldest is None else now_ms - ordinal(oldest)[0],
        attempts=len(attempts),
        succeeded=len(good),
        attempt=_percentiles([one.duration_ms for one in good]),
        delivery=_percentiles([float(max(0, first)) for first in firsts]),
    )


def _first_sent(tries: Sequence[Attempt]) -> list[Attempt]:
    return [one for one in tries if one.verdict == "delivered" and not one.replay]


async def _parked(db: Db, subscription_id: str) -> tuple[int, list[str]]:
    """How many events wait in lanes, and the places in the log of the lanes' heads."""
    names = [raw.decode() for raw in await db.run("ZRANGE", keys.lanes(subscription_id), 0, -1)]
    names = [name for name in names if not name.startswith(ON_REQUEST)]
    waiting = 0
    heads: list[str] = []
    for start in range(0, len(names), _CHUNK):
        chunk = [keys.lane(subscription_id, name) for name in names[start : start + _CHUNK]]
        commands: list[list[Arg]] = [["LLEN", key] for key in chunk]
        commands += [["LINDEX", key, 0] for key in chunk]
        answers = await db.run_many(commands)
        waiting += sum(answers[: len(chunk)])
        heads += [raw.decode().partition("/")[0] for raw in answers[len(chunk) :] if raw is not None]
    return waiting, heads


async def _unread(
    db: Db, log: Log, retailer_id: RetailerId, subscription_id: str, interest: Interest, position: str
) -> tuple[list[str], bool]:
    """Places of matching events behind the position that are not settled, and whether these are all."""
    ahead = {raw.decode() for raw in await db.run("SMEMBERS", keys.ahead(subscription_id))}
    found: list[str] = []
    looked = 0
    while looked < _UNREAD:
        entries = await log.after(retailer_id, position, 500)
        found += [e.position for e in entries if interest.wants(e) and e.position not in ahead and not e.gone]
        looked += len(entries)
        if len(entries) < 500:
            return found, True
        position = entries[-1].position
    return found, False


async def _latest(db: Db, subscription_id: str, now_ms: int) -> list[tuple[int, list[Attempt]]]:
    """Attempts of the last hour's events, each with the time of its event (ms)."""
    buckets = dict.fromkeys(keys.attempts(subscription_id, f"{at}-0") for at in range(now_ms - WINDOW, now_ms, 300_000))
    buckets[keys.attempts(subscription_id, f"{now_ms}-0")] = None
    commands: list[list[Arg]] = [["HRANDFIELD", key, SAMPLE // len(buckets), "WITHVALUES"] for key in buckets]
    found = []
    for answer in await db.run_many(commands):
        pairs = answer if answer and isinstance(answer[0], list) else list(zip(answer[::2], answer[1::2], strict=True))
        found += [(ordinal(place.decode())[0], decode_attempts(raw)) for place, raw in pairs]
    return found


def _percentiles(values: Sequence[float]) -> Percentiles | None:
    """Nearest-rank percentiles."""
    if not values:
        return None
    ranked = sorted(values)
    p50, p95, p99 = (ranked[min(len(ranked) - 1, int(len(ranked) * share))] for share in (0.5, 0.95, 0.99))
    return Percentiles(round(p50, 1), round(p95, 1), round(p99, 1))
