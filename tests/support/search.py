"""Looking for a text in the whole store: every key's name, and every value of every type."""

from collections.abc import AsyncIterator
from typing import Any

from relay.store.redis import Db

_READ: dict[str, tuple[str, ...]] = {
    "string": ("GET",),
    "hash": ("HGETALL",),
    "list": ("LRANGE", "0", "-1"),
    "set": ("SMEMBERS",),
    "zset": ("ZRANGE", "0", "-1"),
    "stream": ("XRANGE", "-", "+"),
}


async def places(db: Db, text: str) -> list[str]:
    """The keys that hold the text, in any letter case."""
    wanted = text.lower().encode()
    return sorted({key async for key, value in _everything(db) if wanted in value.lower()})


async def _everything(db: Db) -> AsyncIterator[tuple[str, bytes]]:
    async for raw in db.client.scan_iter(count=1000):
        kind = (await db.run("TYPE", raw)).decode()
        if kind == "none":
            continue  # it went meanwhile
        command, *rest = _READ[kind]
        for value in _flat([raw, await db.run(command, raw, *rest)]):
            yield raw.decode(), value


def _flat(value: Any) -> list[bytes]:
    if isinstance(value, dict):
        return [one for pair in value.items() for inner in pair for one in _flat(inner)]
    if isinstance(value, list | tuple | set):
        return [one for inner in value for one in _flat(inner)]
    return [value if isinstance(value, bytes) else str(value).encode()]
