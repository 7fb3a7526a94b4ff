"""Bells: wake-up tokens on Redis lists. A bell is only a hint; what is due is written elsewhere, before it rings."""

from collections.abc import Sequence

from relay.store import keys
from relay.store.redis import Db


class Bells:
    def __init__(self, db: Db) -> None:
        self._db = db

    async def wait(self, names: Sequence[str], timeout: float) -> str | None:
        """Block until one of the bells rings; says which, or None after `timeout` seconds (at most 2)."""
        rung = await self._db.block_on([keys.bell(name) for name in names], min(timeout, 2.0))
        return None if rung is None else rung.removeprefix(keys.bell(""))

    async def ring(self, name: str, times: int = 1) -> None:
        """Leave tokens; they expire unheard after a minute."""
        key = keys.bell(name)
        await self._db.run_many([["LPUSH", key, *["1"] * times], ["LTRIM", key, 0, 63], ["PEXPIRE", key, 60_000]])
