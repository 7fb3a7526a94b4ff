"""Bells: wake-up tokens on Redis lists. A bell is only a hint; what is due is written elsewhere, before it rings.

The tokens of a kind's bell (`poll`, `deliver`) say nothing: each wakes one pump. Those of a pump's own bell name the
subscription that has news, or `*` for all it owns.
"""

from collections.abc import Sequence

from relay.store import keys
from relay.store.redis import Db


class Bells:
    def __init__(self, db: Db) -> None:
        self._db = db

    async def wait(self, names: Sequence[str], timeout: float) -> tuple[str, str] | None:
        """Block until one of the bells rings; says which, and the token, or None after `timeout` seconds (at most
        2)."""
        rung = await self._db.block_on([keys.bell(name) for name in names], min(timeout, 2.0))
        return None if rung is None else (rung[0].removeprefix(keys.bell("")), rung[1])

    async def rest(self, name: str) -> list[str]:
        """The tokens that are on a bell beside the one that was heard."""
        found = await self._db.run("LPOP", keys.bell(name), 2_000)
        return [raw.decode() for raw in found or ()]

    async def ring(self, name: str, times: int = 1) -> None:
        """Leave tokens; they expire unheard after a minute."""
        key = keys.bell(name)
        await self._db.run_many([["LPUSH", key, *["1"] * times], ["LTRIM", key, 0, 63], ["PEXPIRE", key, 60_000]])
