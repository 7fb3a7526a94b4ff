"""What may be done only every so often, whoever asks: test sends, challenges."""

from collections.abc import Sequence

from relay.errors import RateLimited
from relay.store import keys
from relay.store.redis import Db


class Pauses:
    def __init__(self, db: Db) -> None:
        self._db = db

    async def take(self, names: Sequence[str], seconds: int, detail: str) -> None:
        """Take all names for so long, or none: raises RateLimited with `detail` while one of them is taken."""
        left_ms = await self._db.script("pause", [keys.pause(name) for name in names], [seconds * 1000])
        if left_ms:
            raise RateLimited(detail, retry_after_s=int(left_ms) / 1000)
