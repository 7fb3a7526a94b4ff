"""Retailers and API keys.

A key is `rly_`, its kind, 256 random bits in base62 and a checksum: a mistyped key is refused without a look-up, and
secret scanners find leaked ones. Only its SHA-256 is stored: for random keys a slow hash adds nothing.
"""

import hashlib
import hmac
import secrets
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from relay.errors import Conflict, InvalidInput, NotFound, Unauthorized
from relay.model.orders import JsonObject, RetailerId
from relay.store import keys
from relay.store.redis import Arg, Db, as_dict
from relay.vault import Vault

_json = msgspec.json.Encoder()

SCOPES = (
    "orders:read",
    "orders:write",
    "subscriptions:read",
    "subscriptions:write",
    "secrets:read",
    "events:read",
    "deliveries:read",
    "deliveries:write",
)
KINDS = {"op": "operator", "rt": "retailer"}
OPERATOR = "operator"

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
#: 43 characters of base62 hold 256 bits; 6 hold a CRC-32.
_RANDOM, _CHECKSUM = 43, 6


@dataclass(frozen=True, slots=True)
class Retailer:
    """A tenant. `client_id` and `budget` (requests per second) are those of its own upstream application, if any.
    `verify_endpoints`: a subscription is enabled only once its endpoint has answered a challenge."""

    id: RetailerId
    name: str
    created_ms: int
    client_id: str | None
    budget: float | None
    limits: Mapping[str, Any]
    verify_endpoints: bool = False

    @property
    def credential(self) -> str:
        """The credential whose budget pays for its polls."""
        return self.id if self.client_id is not None else keys.SHARED_CREDENTIAL


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is listed: never the key itself. Times are milliseconds; `expires_ms` None means never."""

    id: str
    name: str
    scopes: tuple[str, ...]
    created_ms: int
    expires_ms: int | None
    last4: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Who presented a good key, and what it may do."""

    kind: Literal["operator", "retailer"]
    retailer_id: RetailerId | None
    key_id: str
    scopes: frozenset[str]


class Retailers:
    def __init__(self, db: Db, vault: Vault, admin_key: str | None = None) -> None:
        self._db = db
        self._vault = vault
        self._admin = admin_key.encode() if admin_key is not None else None

    async def create(
        self,
        name: str,
        *,
        upstream: tuple[str, str] | None,
        budget: float | None,
        limits: JsonObject,
        verify_endpoints: bool = False,
    ) -> Retailer:
        """`upstream` is (client id, client secret) of the retailer's own application."""
        now_ms = await self._db.now_ms()
        id_ = RetailerId("ret_" + _random(16).lower())
        document = {"name": name, "created_ms": now_ms, "limits": limits, "verify": verify_endpoints}
        await self._write(id_, document, upstream, budget)
        await self._db.run("ZADD", keys.RETAILERS, now_ms, id_)
        return await self.get(id_)

    async def get(self, retailer_id: str) -> Retailer:
        """Raises NotFound."""
        record = as_dict(await self._db.run("HGETALL", keys.retailer(retailer_id)))
        if b"doc" not in record:
            raise NotFound("no such retailer")
        document = msgspec.json.decode(record[b"doc"])
        return Retailer(
            RetailerId(retailer_id),
            document["name"],
            document["created_ms"],
            document.get("client_id"),
            document.get("budget"),
            document.get("limits") or {},
            document.get("verify", False),
        )

    async def page(self, *, after: str | None, limit: int) -> tuple[list[Retailer], str | None]:
        """By creation; the cursor is an id."""
        start = 0
        if after is not None:
            rank = await self._db.run("ZRANK", keys.RETAILERS, after)
            if rank is None:
                raise InvalidInput("the cursor's retailer is gone: start again", code="invalid_cursor")
            start = int(rank) + 1
        ids = [raw.decode() for raw in await self._db.run("ZRANGE", keys.RETAILERS, start, start + limit)]
        found = [await self.get(id_) for id_ in ids[:limit]]
        return found, ids[limit - 1] if len(ids) > limit else None

    async def amend(
        self,
        retailer_id: RetailerId,
        *,
        name: str | None,
        upstream: tuple[str, str] | None,
        budget: float | None,
        limits: JsonObject | None,
        verify_endpoints: bool | None = None,
    ) -> Retailer:
        """Change what is given. A first upstream application of its own is refused while orders are tracked with the
        shared one."""
        known = await self.get(retailer_id)
        if upstream is not None and known.client_id is None and await self._db.run("ZCARD", keys.orders(retailer_id)):
            raise Conflict("orders are tracked with the deployment's credential", code="credential_in_use")
        document = {
            "name": known.name if name is None else name,
            "created_ms": known.created_ms,
            "limits": dict(known.limits) if limits is None else limits,
            "verify": known.verify_endpoints if verify_endpoints is None else verify_endpoints,
        }
        if upstream is None and known.client_id is not None:
            upstream = await self.upstream_secret(retailer_id)
        await self._write(retailer_id, document, upstream, known.budget if budget is None else budget)
        return await self.get(retailer_id)

    async def delete(self, retailer_id: RetailerId) -> None:
        """Raises Conflict while it has orders or subscriptions: nothing disappears unasked."""
        await self.get(retailer_id)
        orders, subscriptions = await self._db.run_many(
            [["ZCARD", keys.orders(retailer_id)], ["ZCARD", keys.subscriptions(retailer_id)]]
        )
        if orders or subscriptions:
            raise Conflict("delete its orders and subscriptions first", code="retailer_in_use")
        for key in await self.keys(retailer_id):
            await self.revoke(retailer_id, key.id)
        await self._db.run(
            "DEL",
            *(keys.retailer(retailer_id), keys.retailer_keys(retailer_id), keys.budget(retailer_id)),
            *(keys.log(retailer_id), keys.event_ids(retailer_id), keys.gone(retailer_id)),
            keys.audit(retailer_id),
        )
        await self._db.run("ZREM", keys.RETAILERS, retailer_id)

    async def upstream_secret(self, retailer_id: RetailerId) -> tuple[str, str] | None:
        """Client id and secret of the retailer's own upstream application."""
        sealed = await self._db.run("HGET", keys.retailer(retailer_id), "up")
        if sealed is None:
            return None
        pair = msgspec.json.decode(self._vault.open(sealed, context=f"{retailer_id}/retailer/upstream"))
        return pair["client_id"], pair["client_secret"]

    async def _write(
        self, id_: RetailerId, document: JsonObject, upstream: tuple[str, str] | None, budget: float | None
    ) -> None:
        commands: list[list[Arg]] = []
        fields: list[Arg] = []
        if upstream is not None:
            document = {**document, "client_id": upstream[0], "budget": budget}
            plain = _json.encode({"client_id": upstream[0], "client_secret": upstream[1]})
            fields = ["up", self._vault.seal(plain, context=f"{id_}/retailer/upstream")]
            commands.append(["HSET", keys.budget(id_), "rate", budget or 0])
            commands.append(["HDEL", keys.budget(id_), "ss", "sc"])  # what another budget granted
        commands.append(["HSET", keys.retailer(id_), "doc", _json.encode(document), *fields])
        rate = (document.get("limits") or {}).get("api_rate")
        change: list[Arg] = ["HSET", keys.retailer(id_), "api_rate", rate or 0]
        commands.append(["HDEL", keys.retailer(id_), "api_rate"] if rate is None else change)
        await self._db.run_many(commands)

    # ── keys ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def issue(
        self, retailer_id: str, *, name: str, scopes: Sequence[str], expires_ms: int | None
    ) -> tuple[ApiKey, str]:
        """A new key, and the one time that it is seen. `retailer_id` is OPERATOR for an operator's key."""
        kind = "op" if retailer_id == OPERATOR else "rt"
        presented = _stamped(f"rly_{kind}_{_random(_RANDOM)}")
        digest = hashlib.sha256(presented.encode()).hexdigest()
        key = ApiKey("key_" + _random(12), name, tuple(scopes), await self._db.now_ms(), expires_ms, presented[-4:])
        record = {"retailer": retailer_id, "key_id": key.id, "scopes": key.scopes, "expires_ms": expires_ms}
        listed = msgspec.to_builtins(key) | {"digest": digest}
        commands: list[list[Arg]] = [
            ["SET", keys.api_key(digest), _json.encode(record)],
            ["HSET", keys.retailer_keys(retailer_id), key.id, _json.encode(listed)],
        ]
        if expires_ms is not None:
            commands.append(["PEXPIREAT", keys.api_key(digest), expires_ms])
        await self._db.run_many(commands)
        return key, presented

    async def keys(self, retailer_id: str) -> list[ApiKey]:
        """All keys, oldest first."""
        listed = await self._db.run("HVALS", keys.retailer_keys(retailer_id))
        found = [msgspec.json.decode(raw, type=ApiKey) for raw in listed]
        return sorted(found, key=lambda key: (key.created_ms, key.id))

    async def revoke(self, retailer_id: str, key_id: str) -> None:
        """Raises NotFound."""
        raw = await self._db.run("HGET", keys.retailer_keys(retailer_id), key_id)
        if raw is None:
            raise NotFound("no such key")
        digest = msgspec.json.decode(raw)["digest"]
        await self._db.run_many([["DEL", keys.api_key(digest)], ["HDEL", keys.retailer_keys(retailer_id), key_id]])

    async def authenticate(self, presented: str) -> Caller:
        """Raises Unauthorized, in the same words whether the key is unknown, mistyped, revoked or expired."""
        given = presented.encode("utf-8", "replace")
        if self._admin is not None and hmac.compare_digest(given, self._admin):
            return Caller("operator", None, "admin", frozenset())
        if not well_formed(presented):
            raise Unauthorized("no such key")
        raw = await self._db.run("GET", keys.api_key(hashlib.sha256(given).hexdigest()))
        if raw is None:
            raise Unauthorized("no such key")
        record = msgspec.json.decode(raw)
        if record["retailer"] == OPERATOR:
            return Caller("operator", None, record["key_id"], frozenset())
        return Caller("retailer", RetailerId(record["retailer"]), record["key_id"], frozenset(record["scopes"]))


def well_formed(presented: str) -> bool:
    """Whether a key's form and checksum are right: says nothing of whether it is known."""
    body, checksum = presented[:-_CHECKSUM], presented[-_CHECKSUM:]
    return presented.startswith("rly_") and presented.isascii() and _stamped(body) == body + checksum


def _stamped(body: str) -> str:
    return body + _base62(zlib.crc32(body.encode("utf-8", "replace")), _CHECKSUM)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


def _random(width: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(width))
