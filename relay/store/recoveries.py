"""Recoveries: what was not delivered is sent again, on request, a step at a time.

A recovery is a JSON document in `jobs:S`; while it runs, `sub:S` names it. The deliver pump that owns the subscription
takes the steps: each moves the cursor and puts events into lanes of their own in one script, so that a step counts
once.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from relay.errors import Conflict, NotFound, RateLimited
from relay.model.orders import LaneId, RetailerId, SubscriptionId
from relay.store import keys
from relay.store.deliveries import LaneEntry, Owned
from relay.store.log import ordinal
from relay.store.redis import Arg, Db

_json = msgspec.json.Encoder()

#: Recoveries that a subscription remembers.
REMEMBERED = 20
#: Events that wait to be sent on request, one by one or by a recovery: more waits in the recovery itself.
MOST_OUTSTANDING = 200

Only = Literal["failed", "missing", "all"]


@dataclass(frozen=True, slots=True)
class Recovery:
    """Send again what lies in the log between two places: `since` (exclusive) and `until` (inclusive), stream ids.

    `only`: dead letters (`failed`), what was never delivered (`missing`), or `all`. `cursor` is how far it came;
    `looked_at`, `resent` and `skipped` count events. What still waits to be sent anyway is skipped.
    """

    id: str
    since: str
    until: str
    only: Only
    created_ms: int
    cursor: str
    looked_at: int = 0
    resent: int = 0
    skipped: int = 0
    ended_ms: int | None = None


class Recoveries:
    def __init__(self, db: Db) -> None:
        self._db = db

    async def begin(
        self, retailer_id: RetailerId, subscription_id: str, *, since: str, until: str | None, only: Only
    ) -> Recovery:
        """Start one; `until` None: the end of the log. Raises NotFound, or Conflict: one is running, or the
        subscription is disabled."""
        now_ms = await self._db.now_ms()
        if until is None:
            rows = await self._db.run("XREVRANGE", keys.log(retailer_id), "+", "-", "COUNT", 1)
            until = rows[0][0].decode() if rows else since
        # Ids rise with time, so that the oldest can be told and forgotten.
        recovery = Recovery(f"rec_{now_ms:011x}{secrets.token_hex(6)}", since, until, only, now_ms, since)
        answer = await self._db.script(
            "recover",
            [keys.subscription(subscription_id), keys.jobs(subscription_id), keys.READY],
            [subscription_id, retailer_id, recovery.id, _json.encode(recovery), REMEMBERED],
        )
        _refuse(answer)
        return recovery

    async def get(self, subscription_id: str, recovery_id: str) -> Recovery:
        """Raises NotFound."""
        found = await self.read(subscription_id, recovery_id)
        if found is None:
            raise NotFound("no such recovery")
        return found[0]

    async def page(self, subscription_id: str) -> list[Recovery]:
        """Newest first."""
        stored = await self._db.run("HVALS", keys.jobs(subscription_id))
        found = [msgspec.json.decode(raw, type=Recovery) for raw in stored]
        return sorted(found, key=lambda one: one.id, reverse=True)

    async def read(self, subscription_id: str, recovery_id: str) -> tuple[Recovery, bytes] | None:
        """With the bytes that a step has to show."""
        raw = await self._db.run("HGET", keys.jobs(subscription_id), recovery_id)
        return None if raw is None else (msgspec.json.decode(raw, type=Recovery), raw)

    async def outstanding(self, subscription_id: SubscriptionId) -> int:
        """How many events wait to be sent on request."""
        return int(await self._db.run("HGET", keys.subscription(subscription_id), "replaying") or 0)

    async def dead(self, subscription_id: SubscriptionId, recovery: Recovery, limit: int) -> list[str]:
        """The next dead letters' places in the log, in its order."""
        since_ms, until_ms = recovery.cursor.partition("-")[0], recovery.until.partition("-")[0]
        after, last = ordinal(recovery.cursor), ordinal(recovery.until)
        found: list[str] = []
        offset = 0
        while len(found) < limit:
            members = await self._db.run(
                "ZRANGEBYSCORE", keys.dead(subscription_id), since_ms, until_ms, "LIMIT", offset, limit
            )
            positions = [raw.decode().partition("/")[0] for raw in members]
            found += [p for p in positions if after < ordinal(p) <= last]
            if len(members) < limit:
                break
            offset += limit
        return sorted(found, key=ordinal)[:limit]

    async def step(
        self, owned: Owned, read: bytes, after: Recovery, entries: Sequence[tuple[LaneId, LaneEntry]]
    ) -> bool:
        """Put entries into their lanes and move the recovery on; False when it is no longer as it was read."""
        one = owned.subscription_id
        args: list[Arg] = [one, owned.fence, after.id, read, _json.encode(after), int(after.ended_ms is not None)]
        for lane, entry in entries:
            args += [lane, entry.encode()]
        key_list = [keys.subscription(one), keys.jobs(one), keys.lanes(one)]
        answer = await self._db.script("recover_step", key_list, args)
        return bool(answer[1])

    async def redeliver(self, retailer_id: RetailerId, subscription_id: str, lane: LaneId, entry: LaneEntry) -> None:
        """Send one event once more. Raises NotFound, Conflict when the subscription is disabled, RateLimited when too
        much waits already."""
        key_list = [keys.subscription(subscription_id), keys.lanes(SubscriptionId(subscription_id))]
        answer = await self._db.script(
            "redeliver",
            [*key_list, keys.lane(subscription_id, lane)],
            [subscription_id, retailer_id, lane, entry.encode(), MOST_OUTSTANDING],
        )
        _refuse(answer)


def _refuse(answer: Sequence[bytes]) -> None:
    match answer[0]:
        case b"missing":
            raise NotFound("no such subscription")
        case b"disabled":
            raise Conflict("the subscription is disabled: enable it first", code="subscription_disabled")
        case b"running":
            raise Conflict(f"recovery {answer[1].decode()} is running: wait for its end", code="recovery_running")
        case b"busy":
            raise RateLimited(f"{MOST_OUTSTANDING} events wait to be sent on request: try again later", retry_after_s=5)
