"""Tracked orders in Redis: registering, claiming, settling and committing.

The hash `order:R:O`:

  c   credential whose budget pays for its polls      r   registered (ms)
  u   upstream user id                                 d   metadata, JSON
  k   the user's token as given, sealed                kv  how often `k` was replaced
  v   version: grows with every commit, by chance      q   sequence: events so far
  t   tracking: active, suspended, ended               s   1 once tracking_started was written
  n   snapshot: zlib of JSON [handling, items, messages, details, location, pickup], without nulls at its end
  g   the order's stage in that snapshot (relay/model/cadence.py), with a + while a replacement is pending
  p   JSON {"missing": {resource: [key]}, "terminal": ms}: what a further reading has to confirm
  and for each resource letter x of h, i, m, d, l, p:
  fx  fingerprint of the raw bytes; absent when the next reading must be looked at even if it is the same
  wx  when the request of the last good reading started (ms)
  ax  when it last changed, as far as is known (ms)
  bx  trouble, JSON {code, detail, since, count}
  ex  upstream's validator of the last reading: an entity tag, or `@` and a date
"""

import random
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal

import msgspec
from prometheus_client import Counter

from relay import metrics, tracing
from relay.errors import NotFound
from relay.model.orders import RESOURCES, OrderId, OrderState, Resource, RetailerId, Tracking
from relay.store import keys
from relay.store.order_records import (
    Commit,
    Registration,
    StoredOrder,
    TokenOwner,
    UserToken,
    as_dict,
    changed_fields,
    read_state,
    token_context,
)
from relay.store.redis import Arg, Db
from relay.vault import Vault

#: A version grows by up to so much. When Redis lost its last moments, an order goes on from an earlier version; in
#: steps of one it would soon have the number again on which a commit was decided that is still on its way.
VERSION_STEP = 1 << 20
_json = msgspec.json.Encoder()


class Orders:
    """Tracked orders. Every write is one script; a commit is refused when the order moved on in the meantime.

    `resources` are those of a first complete reading: what is read when an order is new, and when it is refreshed.
    """

    def __init__(self, db: Db, vault: Vault, resources: Sequence[Resource] = RESOURCES) -> None:
        self._db = db
        self._vault = vault
        self._letters = "".join(resource.short for resource in resources)

    async def register(
        self, retailer_id: RetailerId, registrations: Sequence[Registration], *, credential: str
    ) -> list[bool]:
        """Track orders; False where one is tracked already, which is then left as it is."""
        calls: list[tuple[list[str], list[Arg]]] = []
        for one in registrations:
            fields: list[Arg] = ["s", ""]
            if one.user_id is not None:
                fields += ["u", one.user_id]
            if one.metadata:
                fields += ["d", _json.encode(one.metadata)]
            if one.access_token is not None:
                fields += ["k", self._seal(retailer_id, one.order_id, one.access_token), "kv", 1]
            key = keys.order(retailer_id, one.order_id)
            calls.append(
                ([key, keys.orders(retailer_id)], [retailer_id, one.order_id, credential, self._letters, *fields])
            )
        return [answer == 1 for answer in await self._db.script_each("register", calls)]

    async def load(self, retailer_id: RetailerId, order_id: OrderId) -> StoredOrder | None:
        found = await self._load_many(retailer_id, [order_id])
        return found[0]

    async def load_state(self, retailer_id: RetailerId, order_id: OrderId) -> OrderState | None:
        """The committed state alone, in one round trip."""
        return read_state(retailer_id, order_id, await self._db.run("HGETALL", keys.order(retailer_id, order_id)))

    async def page(
        self, retailer_id: RetailerId, *, after: str | None, limit: int
    ) -> tuple[list[StoredOrder], str | None]:
        """Orders by registration, oldest first; the cursor is `<registered ms>/<order>`."""
        low = "-inf"
        skip = ""
        if after is not None:
            low, _, skip = after.partition("/")
        members = await self._db.run(
            "ZRANGEBYSCORE", keys.orders(retailer_id), low, "+inf", "WITHSCORES", "LIMIT", 0, 2 * limit + 1
        )
        listed = [(members[i].decode(), int(members[i + 1])) for i in range(0, len(members), 2)]
        wanted = [(order, at) for order, at in listed if not skip or (at, order) > (int(low), skip)]
        chosen = wanted[:limit]
        found = await self._load_many(retailer_id, [OrderId(order) for order, _ in chosen])
        more = len(wanted) > limit and chosen
        return [o for o in found if o is not None], f"{chosen[-1][1]}/{chosen[-1][0]}" if more else None

    async def amend(
        self,
        retailer_id: RetailerId,
        order_id: OrderId,
        *,
        access_token: UserToken | None,
        metadata: Mapping[str, str] | None,
    ) -> bool:
        """Replace the user's token, the metadata, or both; False when the order is not tracked."""
        key = keys.order(retailer_id, order_id)
        if not await self._db.run("EXISTS", key):
            return False
        commands: list[list[Arg]] = []
        if access_token is not None:
            commands.append(["HSET", key, "k", self._seal(retailer_id, order_id, access_token)])
            commands.append(["HINCRBY", key, "kv", 1])
        if metadata is not None:
            commands.append(["HSET", key, "d", _json.encode(metadata)])
        await self._db.run_many(commands)
        return True

    async def refresh(self, retailer_id: RetailerId, order_id: OrderId) -> bool:
        """Make the order due now, before all else; False when it is not tracked any more."""
        key = keys.order(retailer_id, order_id)
        return bool(await self._db.script("refresh", [key], [retailer_id, order_id, self._letters]))

    async def erase(self, retailer_id: RetailerId, order_id: OrderId) -> bool:
        """Forget everything that is stored about the order but its events, which leave with their retention."""
        key = keys.order(retailer_id, order_id)
        return bool(await self._db.script("erase", [key, keys.orders(retailer_id)], [retailer_id, order_id]))

    async def purge(self, retailer_id: RetailerId, order_id: OrderId) -> int:
        """Erase all that is stored about the order, its events too; returns how many. Raises NotFound.

        What remains of an event is ids and counts. An event on its way to a receiver arrives; nothing of it is kept.
        """
        owner = await self.owner(retailer_id, order_id)
        tokens: list[Arg] = []
        if owner is not None and owner.user_id is not None:
            tokens = [keys.token(owner.credential, owner.user_id)]
        key_list = [keys.order(retailer_id, order_id), keys.orders(retailer_id), keys.trail(retailer_id, order_id)]
        key_list += [keys.log(retailer_id), keys.gone(retailer_id), keys.subscriptions(retailer_id)]
        key_list.append(keys.answers(retailer_id, order_id))
        erased = int(await self._db.script("purge", key_list, [retailer_id, order_id, *tokens]))
        if erased < 0:
            raise NotFound("no such order")
        return erased

    async def token(self, retailer_id: RetailerId, order_id: OrderId) -> UserToken | None:
        """The token that the retailer gave for this order."""
        sealed = await self._db.run("HGET", keys.order(retailer_id, order_id), "k")
        if sealed is None:
            return None
        record = msgspec.json.decode(self._vault.open(sealed, context=token_context(retailer_id, order_id)))
        return UserToken(record["token"], record["expires_ms"])

    async def owner(self, retailer_id: RetailerId, order_id: OrderId) -> TokenOwner | None:
        """What tells which token the order uses; None when it is not tracked."""
        fields = await self._db.run("HMGET", keys.order(retailer_id, order_id), "c", "u", "kv")
        if fields[0] is None:
            return None
        credential, user_id, revision = ("" if raw is None else raw.decode() for raw in fields)
        return TokenOwner(retailer_id, order_id, credential, user_id or None, revision)

    async def commit(self, commit: Commit) -> Literal["ok", "conflict", "gone"]:
        """Write state, sequence, events and wake-ups in one script; refused when the version moved on."""
        before, after = commit.before, commit.after
        fields = changed_fields(commit)
        arms: list[Arg] = []
        for resource, due in commit.due.items():
            own = commit.arm is not None and commit.arm.resource is resource and after.tracking is not Tracking.ENDED
            lease = commit.arm.lease if own and commit.arm is not None else ""
            arms += [resource.short, lease, "" if due.delay_ms is None else due.delay_ms, due.klass]
        events: list[Arg] = []
        for event in commit.events:
            events += [event.id, event.type, event.sequence, event.body]
        retailer_id, order_id = before.retailer_id, before.order_id
        began = time.perf_counter()
        answer = await self._db.script(
            "commit",
            [
                keys.order(retailer_id, order_id),
                keys.log(retailer_id),
                keys.event_ids(retailer_id),
                keys.trail(retailer_id, order_id),
                keys.live(retailer_id),
            ],
            [
                *(retailer_id, order_id, before.version, before.version + random.randint(1, VERSION_STEP)),
                *(len(fields) // 2, *fields),
                *(len(arms) // 4, *arms),
                *(len(commit.events), *events),
                tracing.current(),
            ],
        )
        metrics.commit_duration.observe(time.perf_counter() - began)
        result: Literal["ok", "conflict", "gone"] = answer[0].decode()
        metrics.commits.labels(result).inc()
        if result == "ok":
            for event in commit.events:
                _committed(event.type).inc()
        return result

    async def _load_many(self, retailer_id: RetailerId, order_ids: Sequence[OrderId]) -> list[StoredOrder | None]:
        commands: list[list[Arg]] = [["HGETALL", keys.order(retailer_id, order_id)] for order_id in order_ids]
        hashes = [as_dict(answer) for answer in await self._db.run_many(commands)]
        asked: list[Arg] = [retailer_id]
        for order_id, record in zip(order_ids, hashes, strict=True):
            asked += [record.get(b"c", b""), order_id]
        due_times = await self._db.script("due_times", [], asked) if order_ids else []
        found: list[StoredOrder | None] = []
        for order_id, record, due_at in zip(order_ids, hashes, due_times, strict=True):
            state = read_state(retailer_id, order_id, record)
            if state is None:
                found.append(None)
                continue
            last = max(state.read_at_ms.values(), default=None)
            found.append(StoredOrder(state, last, int(due_at) if due_at else None))
        return found

    def _seal(self, retailer_id: RetailerId, order_id: OrderId, token: UserToken) -> bytes:
        plain = _json.encode({"token": token.token, "expires_ms": token.expires_ms})
        return self._vault.seal(plain, context=token_context(retailer_id, order_id))


@cache
def _committed(event_type: str) -> Counter:
    return metrics.events_committed.labels(event_type)
