"""Minted user tokens in Redis, sealed, expiring with themselves: one mint serves every process."""

from relay.errors import SecretUnreadable
from relay.store import keys
from relay.store.arms import Arms
from relay.store.redis import Db
from relay.vault import Vault


class StoredTokens:
    """Implements `relay.upstream.tokens.TokenCache`."""

    def __init__(self, db: Db, vault: Vault) -> None:
        self._db = db
        self._vault = vault
        self._arms = Arms(db)

    async def get(self, credential_id: str, user_id: str) -> bytes | None:
        name = keys.token(credential_id, user_id)
        sealed = await self._db.run("GET", name)
        try:
            return None if sealed is None else self._vault.open(sealed, context=name)
        except SecretUnreadable:
            return None  # sealed with a key that was retired: mint anew

    async def put(self, credential_id: str, user_id: str, value: bytes, *, ttl_s: int) -> None:
        name = keys.token(credential_id, user_id)
        await self._db.run("SET", name, self._vault.seal(value, context=name), "EX", ttl_s)

    async def drop(self, credential_id: str, user_id: str) -> None:
        await self._db.run("DEL", keys.token(credential_id, user_id))

    async def lock(self, credential_id: str, user_id: str, *, ttl_s: float) -> bool:
        name = keys.pause("mint/" + keys.token(credential_id, user_id))
        return await self._db.run("SET", name, "1", "NX", "PX", round(ttl_s * 1000)) is not None

    async def unlock(self, credential_id: str, user_id: str) -> None:
        await self._db.run("DEL", keys.pause("mint/" + keys.token(credential_id, user_id)))

    async def turn(self, credential_id: str, *, within_s: float) -> bool:
        return await self._arms.turn(credential_id, within_ms=round(within_s * 1000))

    async def pause(self, credential_id: str, seconds: float, why: str) -> None:
        until_ms = await self._db.now_ms() + round(seconds * 1000)
        await self._db.run("HSET", keys.budget(credential_id), "mint", until_ms, "why", why)

    async def resume(self, credential_id: str) -> None:
        await self._db.run("HDEL", keys.budget(credential_id), "mint", "why")
