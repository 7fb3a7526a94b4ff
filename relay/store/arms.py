"""What a poll pump asks of the store: arms to poll and where to put them back, budgets, and what all pumps learnt."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from relay import metrics
from relay.model.hazards import CELLS
from relay.model.pacing import EARLY, FIRST_FACTOR, GUARANTEED, NARROWEST
from relay.store import keys
from relay.store.order_records import Claim, Settlement, read_claim, trouble_record
from relay.store.redis import Arg, Db, as_dict

_json = msgspec.json.Encoder()

#: Share of a budget that is spent at most. Send times are granted evenly, so that this is what comes of any second; the
#: rest is for requests that are late: by LATEST_MS in setting out, and by 16 ms more on their way than others.
SPEND = 0.96
#: How late a request may set out (ms). What is later gives its turn back: requests that a stall has held up would else
#: leave together, and some second would hold more than the budget.
LATEST_MS = 25

#: How often what was learnt fades (ms), and the share that stays.
_FADE_EVERY_MS, _STAYS = 86_400_000, 0.9

Classes = Mapping[str, Sequence[float]]
Tempos = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True, slots=True)
class Load:
    """What a credential has to do: its requests a second (0: no limit), and its orders by stage. Until `gate_ms`
    nothing is asked; until `mint_ms` no token is minted, for the reason `why`."""

    rate: float
    stages: Mapping[str, int]
    gate_ms: int
    mint_ms: int
    why: str


class Arms:
    """`scale`: how long a second of the policy's time is (relay.model.cadence)."""

    def __init__(self, db: Db, *, scale: float = 1.0, dice: Callable[[], float] = random.random) -> None:
        self._db = db
        self._width_ms = NARROWEST * scale * 1000
        self._dice = dice

    async def claim(self, limit: int, *, lease_ms: int, horizon_ms: int) -> Claim:
        """Lease up to `limit` arms, spending budget; send times lie at most `horizon_ms` ahead. One round trip."""
        args: list[Arg] = [limit, lease_ms, horizon_ms, self._width_ms, EARLY, GUARANTEED, SPEND]
        claim, exceeded = read_claim(await self._db.script("claim", [keys.CREDENTIALS], args))
        if exceeded:
            metrics.budget_exceeded.inc(exceeded)
        return claim

    async def settle(self, settlements: Sequence[Settlement], learnt: Mapping[str, float] | None = None) -> int:
        """Put arms back that changed nothing, all in one round trip; says how many leases had been lost. `learnt`: what
        to add to the factors of pools, by id."""
        if not settlements and not learnt:
            return 0
        numbers: dict[str, int] = {}
        rows: list[Arg] = []
        for one in settlements:
            arm, due, read_at, trouble = one.arm, one.due, one.read_at_ms, ""
            if one.trouble is not None:
                trouble = _json.encode(trouble_record(one.trouble)).decode()
            elif arm.troubled and read_at is not None:
                trouble = "-"
            number = numbers.setdefault(arm.pool.id, len(numbers))
            delay: Arg = "" if due.delay_ms is None else due.delay_ms
            # cmsgpack in Lua reads strings only: everything here is ASCII or UTF-8 text.
            rows += (arm.member, number, arm.lease, delay, due.klass, "" if read_at is None else read_at)
            rows += (one.fingerprint, trouble, one.validator, one.holds)
        for pool_id in learnt or {}:
            numbers.setdefault(pool_id, len(numbers))
        pools = [[*name.split("/", 1), (learnt or {}).get(name, 0), FIRST_FACTOR] for name in numbers]
        return int(await self._db.script("settle", [keys.CREDENTIALS], [msgspec.msgpack.encode([pools, rows])]))

    async def throttle(self, credential: str, retry_after_s: float | None) -> int:
        """Upstream finds that a credential asks too much. Returns until when it asks nothing (ms; 0: it goes on)."""
        retry: Arg = "" if retry_after_s is None else round(retry_after_s * 1000)
        return int(await self._db.script("throttle", [keys.budget(credential)], [retry, self._dice()]))

    async def spend(self, credential: str, *, within_ms: int) -> int | None:
        """Spend one request outside of polling: in how many ms it may start; None when not within `within_ms`."""
        now, at, exceeded = await self._db.script("spend", [keys.budget(credential)], [within_ms, SPEND])
        if exceeded:
            metrics.budget_exceeded.inc()
        return None if int(at) < 0 else int(at) - int(now)

    async def turn(self, credential: str, *, within_ms: int) -> bool:
        """Spend one request outside of polling and wait until it may start; False when it may not within `within_ms`. A
        turn that a stall made late is lost, and another one taken, as in polling."""
        for _ in range(3):  # where every look at the store takes longer than that, it is no stall
            asked = time.monotonic()
            wait_ms = await self.spend(credential, within_ms=within_ms)
            if wait_ms is None:
                return False
            await asyncio.sleep(wait_ms / 1000)
            if (time.monotonic() - asked) * 1000 - wait_ms <= LATEST_MS:
                break
        return True

    async def set_rate(self, credential: str, rate: float | None) -> None:
        """The budget in requests a second; None: no limit. It holds from the next claim on, and what was granted by
        another is not counted against it."""
        key = keys.budget(credential)
        await self._db.run_many([["HSET", key, "rate", rate or 0], ["HDEL", key, "ss", "sc"]])

    async def load(self, credential: str) -> Load:
        stages, budget = await self._db.run_many(
            [
                ["HGETALL", keys.stages(credential)],
                ["HMGET", keys.budget(credential), "rate", "gate", "mint", "why"],
            ]
        )
        counts = {name.decode(): int(count) for name, count in as_dict(stages).items() if int(count) > 0}
        rate, gate, mint, why = ("" if raw is None else raw.decode() for raw in budget)
        return Load(float(rate or 0), counts, int(gate or 0), int(mint or 0), why)

    async def exchange(self, classes: Classes, tempos: Tempos, wanted: Iterable[str] = ()) -> tuple[Classes, Tempos]:
        """Add what was learnt here to what all learnt, and return the sums, in the form of `Hazards.drain`. `wanted`:
        retailers whose tempos are asked for besides. One round trip."""
        commands: list[list[Arg]] = []
        for name, sums in classes.items():
            for number, value in enumerate(sums):
                if value:
                    commands.append(["HINCRBYFLOAT", keys.HAZARDS, f"{name}/{number}", value])
        retailers = sorted({*tempos, *wanted})
        for retailer_id, by_resource in tempos.items():
            for resource, sums in by_resource.items():
                for number, value in enumerate(sums):
                    commands.append(["HINCRBYFLOAT", keys.tempo(retailer_id), f"{resource}/{number}", value])
        commands.append(["HGETALL", keys.HAZARDS])
        commands += [["HGETALL", keys.tempo(retailer_id)] for retailer_id in retailers]
        found = (await self._db.run_many(commands))[-1 - len(retailers) :]
        return _sums(found[0], 2 * CELLS + 1), {
            retailer_id: _sums(raw, 2) for retailer_id, raw in zip(retailers, found[1:], strict=True)
        }


async def fade(db: Db, retailers: Sequence[str]) -> bool:
    """Once a day, let what was learnt count a tenth less: the world of a month ago has one twentieth of its weight."""
    names = [keys.pause("fade"), keys.HAZARDS, *(keys.tempo(one) for one in retailers)]
    return bool(await db.script("fade", names, [_FADE_EVERY_MS, _STAYS]))


def _sums(answer: object, size: int) -> dict[str, list[float]]:
    """Fields `<name>/<n>` as lists by name."""
    found: dict[str, list[float]] = {}
    for raw, value in as_dict(answer).items():
        name, _, number = raw.decode().rpartition("/")
        if int(number) < size:
            found.setdefault(name, [0.0] * size)[int(number)] = float(value)
    return found
