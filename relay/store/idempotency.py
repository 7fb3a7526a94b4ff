"""Idempotency keys: a POST that is sent again is answered again, not done again.

After draft-ietf-httpapi-idempotency-key. Answers may hold a secret that is shown once, so they are sealed.
"""

import hashlib
from dataclasses import dataclass

import msgspec

from relay.errors import Conflict, InvalidInput
from relay.store import keys
from relay.store.redis import Arg, Db
from relay.vault import Vault

#: How long an answer is kept, and how long a request may run before its key is free again (seconds).
KEPT_S, RUNNING_S = 24 * 3600, 60


@dataclass(frozen=True, slots=True)
class Remembered:
    """An earlier answer to the same request."""

    status: int
    body: bytes


class _Record(msgspec.Struct):
    request: str
    status: int | None = None
    body: bytes = b""


class Idempotency:
    def __init__(self, db: Db, vault: Vault) -> None:
        self._db = db
        self._vault = vault

    async def begin(self, caller: str, method: str, path: str, key: str, body: bytes) -> Remembered | None:
        """None: go on, and `finish` or `forget`. Raises Conflict (409) while the first request runs, InvalidInput (422)
        when the key was used with another body."""
        record = _Record(hashlib.sha256(body).hexdigest())
        name = keys.idempotency(_digest(caller, method, path, key))
        if await self._db.run("SET", name, msgspec.msgpack.encode(record), "NX", "EX", RUNNING_S) is not None:
            return None
        raw = await self._db.run("GET", name)
        if raw is None:
            return None
        known = msgspec.msgpack.decode(raw, type=_Record)
        if known.request != record.request:
            raise InvalidInput("this Idempotency-Key was used with another body", code="idempotency_key_reused")
        if known.status is None:
            raise Conflict("the first request with this Idempotency-Key is still running", code="request_in_progress")
        return Remembered(known.status, self._vault.open(known.body, context=name))

    async def finish(
        self,
        caller: str,
        method: str,
        path: str,
        key: str,
        body: bytes,
        answer: Remembered,
        *,
        about: str | None = None,
    ) -> None:
        """Keep the answer. `about` is the set that lists the answers about an order (keys.answers), if it is."""
        name = keys.idempotency(_digest(caller, method, path, key))
        sealed = self._vault.seal(answer.body, context=name)
        record = _Record(hashlib.sha256(body).hexdigest(), answer.status, sealed)
        commands: list[list[Arg]] = [["SET", name, msgspec.msgpack.encode(record), "EX", KEPT_S]]
        if about is not None:  # listed before it is kept: a purge in between finds a name without an answer
            commands = [["SADD", about, name], ["EXPIRE", about, KEPT_S], *commands]
        await self._db.run_many(commands)

    async def forget(self, caller: str, method: str, path: str, key: str) -> None:
        """The request failed on our side: it may be tried again."""
        await self._db.run("DEL", keys.idempotency(_digest(caller, method, path, key)))


def sealed_answer(record: bytes) -> bytes:
    """The sealed part of a stored record; empty while the first request runs."""
    return msgspec.msgpack.decode(record, type=_Record).body


def with_answer(record: bytes, sealed: bytes) -> bytes:
    """The record with its answer sealed anew."""
    known = msgspec.msgpack.decode(record, type=_Record)
    return msgspec.msgpack.encode(_Record(known.request, known.status, sealed))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
