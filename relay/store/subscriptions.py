"""Subscriptions as the retailer sees them: configuration, state, secrets. What the deliver pump does is deliveries.py.

The hash `sub:S`:

  retailer  R                     url      where to, as given
  doc       JSON of the rest of the configuration: description, payload, ordering, ...
  filters   JSON [[stream id, [pattern]]]: from behind that place on these patterns hold; the last one is today's
  secrets   sealed JSON [{secret, until_ms}], newest first: whsec_ and whsk_ keys
  headers   sealed JSON of the retailer's own headers
  enabled   1 or 0                disabled_reason
  created   ms                    rev      counts changes of the configuration
  start     stream id at which it began            enabled_at  since when it is enabled (ms)
  skips     JSON [[stream id, stream id]]: stretches that the retailer left out when enabling it
  fold_to   what waits up to there is folded per order        pruned  1 once old patterns were forgotten
  verified  the URL that last answered a challenge
  job       the recovery that runs          rang, replaying  what was put into lanes from outside, and still waits there
  pos, pos_seq, matched, delivered, dead, skipped, last_error, health, hold, tat, beat_at, owner, fence, batch: the
  deliver pump's
"""

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from relay.errors import Conflict, InvalidInput, NotFound, Problem
from relay.model.circuit import Circuit
from relay.model.keyring import Keyring
from relay.model.orders import JsonObject, RetailerId, SubscriptionId
from relay.store import keys
from relay.store.deliveries import read_health
from relay.store.keyrings import open_keyring, seal_keyring
from relay.store.redis import Arg, Db
from relay.vault import Vault

_json = msgspec.json.Encoder()

#: Subscriptions a retailer may have: each is visited by every commit of the retailer's orders.
MOST = 50


#: Fields of a configuration that are stored by themselves.
_APART = frozenset({"event_types", "enabled", "headers"})

Backlog = Literal["all", "latest", "skip"]


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a retailer chooses. `headers` may hold credentials and are sealed."""

    url: str
    event_types: tuple[str, ...] = ("order.*",)
    description: str = ""
    enabled: bool = True
    payload: str = "full"
    ordering: str = "order"
    backlog: str = "all"
    max_in_flight: int | None = None
    rate_limit: float | None = None
    heartbeat_seconds: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def document(self) -> JsonObject:
        """The part that is stored as plain JSON. What is as it is by default is left out: there are many of these."""
        chosen = (
            (one.name, getattr(self, one.name), one.default)
            for one in dataclasses.fields(self)
            if one.name not in _APART
        )
        return {name: value for name, value, default in chosen if value != default}


@dataclass(frozen=True, slots=True)
class Subscription:
    id: SubscriptionId
    retailer_id: RetailerId
    configuration: Configuration
    created_ms: int
    position: str
    sequence: int
    disabled_reason: str | None
    matched: int
    delivered: int
    dead: int
    skipped: int
    last_error: JsonObject | None
    circuit: Circuit
    failing_since_ms: int | None
    verified: bool
    revision: str
    keyring: Keyring


class Changed(Conflict):
    """The subscription is not any more as it was read."""


class Subscriptions:
    def __init__(self, db: Db, vault: Vault) -> None:
        self._db = db
        self._vault = vault

    async def create(
        self,
        retailer_id: RetailerId,
        configuration: Configuration,
        *,
        keyring: Keyring,
        start: str | None,
        disabled_reason: str = "by_retailer",
    ) -> Subscription:
        """Create; `start` is a stream id, None for the end of the log; the reason is for one that is created disabled.
        Raises Conflict at the limit or for a URL that another subscription of the retailer has."""
        id_ = SubscriptionId("sub_" + _random_name())
        fields: list[Arg] = ["doc", _json.encode(configuration.document())]
        fields += ["secrets", seal_keyring(self._vault, retailer_id, id_, keyring)]
        if configuration.headers:
            fields += ["headers", self._seal(retailer_id, id_, "headers", dict(configuration.headers))]
        if not configuration.enabled:
            fields += ["disabled_reason", disabled_reason]
        key_list = [keys.subscription(id_), keys.subscriptions(retailer_id), keys.live(retailer_id)]
        answer = await self._db.script(
            "subscribe",
            [*key_list, keys.log(retailer_id), keys.READY],
            [
                *(id_, retailer_id, start or "$", _json.encode(list(configuration.event_types)), configuration.url),
                *(int(configuration.enabled), MOST, *fields),
            ],
        )
        if answer[0] == b"limit":
            raise Conflict(f"a retailer has at most {MOST} subscriptions", code="too_many_subscriptions")
        if answer[0] == b"duplicate":
            raise _duplicate(answer[1])
        return await self.get(retailer_id, id_)

    async def get(self, retailer_id: RetailerId, subscription_id: str) -> Subscription:
        """Raises NotFound, also for another retailer's."""
        record = await self._db.run("HGETALL", keys.subscription(subscription_id))
        return self._read(retailer_id, subscription_id, record)

    async def all(self, retailer_id: RetailerId) -> list[Subscription]:
        """All of a retailer's: at most MOST."""
        return (await self.page(retailer_id, after=None, limit=MOST))[0]

    async def page(
        self, retailer_id: RetailerId, *, after: str | None, limit: int
    ) -> tuple[list[Subscription], str | None]:
        """By creation, oldest first; the cursor is an id."""
        ids = [raw.decode() for raw in await self._db.run("ZRANGE", keys.subscriptions(retailer_id), 0, -1)]
        begin = 0
        if after is not None:
            if after not in ids:
                raise InvalidInput("the cursor's subscription is gone: start again", code="invalid_cursor")
            begin = ids.index(after) + 1
        chosen = ids[begin : begin + limit]
        records = await self._db.run_many([["HGETALL", keys.subscription(one)] for one in chosen])
        found = [self._read(retailer_id, one, record) for one, record in zip(chosen, records, strict=True) if record]
        return found, chosen[-1] if begin + limit < len(ids) else None

    async def amend(
        self,
        retailer_id: RetailerId,
        before: Subscription,
        after: Configuration,
        *,
        backlog: Backlog = "all",
        reason: str = "by_retailer",
        verified: bool = False,
        keyring: Keyring | None = None,
    ) -> Subscription:
        """Change the configuration. Filters hold from the end of the log on; disabling keeps what waits, and `backlog`
        says what becomes of it when the subscription is enabled again. `verified`: the URL has answered a challenge.
        `keyring` takes the place of the one before; None leaves it. Raises NotFound, Conflict for a URL that another
        subscription has, and Changed when somebody else changed the subscription since it was read."""
        changed = before.configuration
        fields: list[Arg] = ["doc", _json.encode(after.document())]
        if after.headers != changed.headers:
            sealed: Arg = self._seal(retailer_id, before.id, "headers", dict(after.headers)) if after.headers else ""
            fields += ["headers", sealed]
        if verified:
            fields += ["verified", after.url]
        if keyring is not None:
            fields += ["secrets", seal_keyring(self._vault, retailer_id, before.id, keyring)]
        patterns: Arg = "" if after.event_types == changed.event_types else _json.encode(list(after.event_types))
        enabled = "" if after.enabled == changed.enabled else str(int(after.enabled))
        key_list = [keys.subscription(before.id), keys.live(retailer_id), keys.log(retailer_id), keys.READY]
        key_list.append(keys.subscriptions(retailer_id))
        answer = await self._db.script(
            "amend_subscription",
            key_list,
            [before.id, retailer_id, before.revision, patterns, enabled, backlog, reason, after.url, *fields],
        )
        if answer[0] == b"missing":
            raise NotFound("no such subscription")
        if answer[0] == b"changed":
            raise Changed(
                "somebody else changed the subscription at the same time; try again", code="changed_meanwhile"
            )
        if answer[0] == b"duplicate":
            raise _duplicate(answer[1])
        return await self.get(retailer_id, before.id)

    async def delete(self, retailer_id: RetailerId, subscription_id: str) -> None:
        """Raises NotFound."""
        one = subscription_id
        key_list = [keys.subscription(one), keys.subscriptions(retailer_id), keys.live(retailer_id)]
        key_list += [keys.ahead(one), keys.lanes(one), keys.dead(one), keys.READY, keys.jobs(one)]
        if not await self._db.script("unsubscribe", key_list, [one, retailer_id]):
            raise NotFound("no such subscription")

    def _read(self, retailer_id: RetailerId, subscription_id: str, record: Any) -> Subscription:
        fields = record if isinstance(record, dict) else dict(zip(record[::2], record[1::2], strict=True))
        if fields.get(b"retailer") != retailer_id.encode():
            raise NotFound("no such subscription")
        document = msgspec.json.decode(fields[b"doc"])
        headers = {}
        if b"headers" in fields:
            context = f"{retailer_id}/{subscription_id}/headers"
            headers = msgspec.json.decode(self._vault.open(fields[b"headers"], context=context))
        patterns: Sequence[str] = msgspec.json.decode(fields[b"filters"])[-1][1]
        error = fields.get(b"last_error")
        health = read_health(fields)
        return Subscription(
            SubscriptionId(subscription_id),
            retailer_id,
            Configuration(event_types=tuple(patterns), enabled=fields[b"enabled"] == b"1", headers=headers, **document),
            created_ms=int(fields[b"created"]),
            position=fields[b"pos"].decode(),
            sequence=int(fields[b"pos_seq"]),
            disabled_reason=fields[b"disabled_reason"].decode() if b"disabled_reason" in fields else None,
            matched=int(fields.get(b"matched", 0)),
            delivered=int(fields.get(b"delivered", 0)),
            dead=int(fields.get(b"dead", 0)),
            skipped=int(fields.get(b"skipped", 0)),
            last_error=msgspec.json.decode(error) if error else None,
            circuit=health.circuit,
            failing_since_ms=health.since_ms if len(health.lanes) > 1 else None,
            verified=fields.get(b"verified") == fields[b"url"],
            revision=fields.get(b"rev", b"0").decode(),
            keyring=open_keyring(self._vault, retailer_id, subscription_id, fields[b"secrets"]),
        )

    def _seal(self, retailer_id: str, subscription_id: str, what: str, value: Any) -> bytes:
        return self._vault.seal(_json.encode(value), context=f"{retailer_id}/{subscription_id}/{what}")


def _duplicate(other: bytes) -> Conflict:
    detail = f"subscription {other.decode()} has this URL already"
    return Conflict(detail, code="duplicate_url", problems=[Problem("/url", "duplicate_url", detail)])


def _random_name() -> str:
    """100 random bits in lower-case base32."""
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    return "".join(secrets.choice(alphabet) for _ in range(20))
