"""Pump slots: how many pumps of a kind work at a time, over all processes."""

from relay.store import keys
from relay.store.redis import Db


class Slots:
    def __init__(self, db: Db) -> None:
        self._db = db

    async def take(self, kind: str, number: int, token: str, lease_ms: int) -> bool:
        """False when another pump works in this slot."""
        return await self._db.run("SET", keys.slot(kind, number), token, "NX", "PX", lease_ms) is not None

    async def renew(self, kind: str, number: int, token: str, lease_ms: int) -> bool:
        """False when the slot went to somebody else."""
        return bool(await self._db.script("slot_renew", [keys.slot(kind, number)], [token, lease_ms]))

    async def release(self, kind: str, number: int, token: str) -> None:
        await self._db.script("slot_release", [keys.slot(kind, number)], [token])

    async def free(self, kind: str, count: int) -> list[int]:
        """The slots in which no pump works."""
        if count == 0:
            return []
        taken = await self._db.run("MGET", *(keys.slot(kind, number) for number in range(count)))
        return [number for number, token in enumerate(taken) if token is None]
