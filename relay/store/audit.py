"""The audit log: who did what, when, to which of a retailer's things. Append-only, bounded by its own retention.

A stream per retailer, `audit:R`; R is `operator` for what is nobody's in particular. An entry says with whose key, in
which request, what became of it, and to which object it was done. It never holds a secret, a token, a key or an order's
content: only ids, URLs without their queries, and codes. What the relay does by itself (`actor` is `relay`) is written
by the script that does it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec

from relay.store import keys
from relay.store.redis import Arg, Db

#: Entries of one retailer that are kept at most, whatever their age: a flood of requests cannot fill the store.
MOST = 100_000
#: Characters of one detail.
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that was done, or refused. `outcome` is `ok` or the code of the refusal; `details` are short texts."""

    name: str
    actor: str
    object_id: str = ""
    request_id: str = ""
    outcome: str = "ok"
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """An action as it was written; `position` is its stream id."""

    position: str
    action: Action

    @property
    def at_ms(self) -> int:
        return int(self.position.partition("-")[0])


class AuditLog:
    def __init__(self, db: Db) -> None:
        self._db = db

    async def write(self, owner: str, action: Action) -> None:
        details = {name: value[:_LONGEST] for name, value in action.details.items()}
        command: list[Arg] = ["XADD", keys.audit(owner), "MAXLEN", "~", MOST, "*", "a", action.name, "k", action.actor]
        command += ["o", action.object_id[:_LONGEST], "r", action.request_id, "u", action.outcome]
        await self._db.run(*command, "d", msgspec.json.encode(details))

    async def page(
        self, owner: str, *, before: str | None, limit: int, action: str | None
    ) -> tuple[list[Record], str | None]:
        """Newest first; the cursor is a position. `action` filters by name."""
        found: list[Record] = []
        last = "+" if before is None else f"({before}"
        while True:
            rows = await self._db.run("XREVRANGE", keys.audit(owner), last, "-", "COUNT", 500 if action else limit + 1)
            for row in rows:
                record = _read(row)
                if action is not None and record.action.name != action:
                    continue
                if len(found) == limit:
                    return found, found[-1].position
                found.append(record)
            if len(rows) < (500 if action else limit + 1):
                return found, None
            last = f"({rows[-1][0].decode()}"

    async def trim(self, owner: str, keep_from: str) -> int:
        """Drop what lies before a place; returns how many entries went."""
        return int(await self._db.run("XTRIM", keys.audit(owner), "MINID", keep_from))


def redacted(url: str) -> str:
    """A URL without query and userinfo, which may hold a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(malformed)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:_LONGEST]


def _read(row: Any) -> Record:
    position, fields = row
    named = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
    action = Action(
        named[b"a"].decode(),
        named[b"k"].decode(),
        named[b"o"].decode(),
        named[b"r"].decode(),
        named[b"u"].decode(),
        msgspec.json.decode(named[b"d"]),
    )
    return Record(position.decode(), action)
