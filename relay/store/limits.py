"""How often the API may be called: rates that hold over all its processes (GCRA)."""

from dataclasses import dataclass

from relay.store import keys
from relay.store.redis import Db

#: Seconds' worth of requests that may come at once.
BURST_S = 2


@dataclass(frozen=True, slots=True)
class Allowance:
    """`wait_s` 0: the request may go. Of the `burst` requests that may come at once, `left` are left; after `reset_s`
    all of them may."""

    wait_s: float
    left: int
    reset_s: float
    burst: int


class Limits:
    """Requests a second of one key, and of one retailer over its keys; a retailer's own `api_rate` comes before that.
    0: no limit."""

    def __init__(self, db: Db, *, per_key: float, per_retailer: float) -> None:
        self._db = db
        self._per_key = per_key
        self._per_retailer = per_retailer

    async def spend(self, key_id: str, owner: str) -> Allowance | None:
        """Count one request of a key; `owner` is a retailer's id, or `operator`. None: there is no limit."""
        key_list = [keys.rate(key_id), keys.rate(owner), keys.retailer(owner)]
        wait, *rest = await self._db.script("allow", key_list, [self._per_key, self._per_retailer, BURST_S])
        return Allowance(wait / 1000, int(rest[0]), rest[1] / 1000, int(rest[2])) if rest else None
