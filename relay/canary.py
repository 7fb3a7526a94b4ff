"""The canary: a synthetic change that goes the whole way every minute, by the very pumps that carry real orders.

    Canary: new marker ─▶ store ─▶ "poll now" ── claim ─▶ fetch ─▶ detect ─▶ commit ─▶ log ─▶ deliver ─┐
              ▲                                            │ GET                                       │ POST
              └────────────── store ◀── verified ──────────┴── the canary's own upstream and receiver ◀┘

Its retailer stands in no list of retailers, so nothing counts it; it has a credential, and so a budget, of its own; and
what it shows teaches the polling policy nothing. All state is in the store: whichever replica is asked answers alike.
"""

import asyncio
import json
import os
import secrets
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any

import structlog

from relay import metrics
from relay.engine import Answer, Engine
from relay.errors import NotFound, StoreUnavailable
from relay.model.keyring import Keyring
from relay.model.orders import JsonObject, OrderId, Resource, RetailerId
from relay.model.signing import Secret, VerificationFailed, verify
from relay.settings import Settings
from relay.store import keys
from relay.store.order_records import Registration, UserToken
from relay.store.orders import Orders
from relay.store.redis import Db, as_dict
from relay.store.slots import Slots
from relay.store.subscriptions import Configuration, Subscription, Subscriptions
from relay.upstream.client import HttpUpstream
from relay.upstream.dialects import open_dialect
from relay.upstream.interface import Access, Fetched, Refusal
from relay.vault import Vault

RETAILER = RetailerId(keys.CANARY)
#: No order that is registered through the API can have this id: blanks are refused there.
ORDER = OrderId("relay canary")
#: A change has to be back after so long (seconds), or before the next one.
WITHIN = 30.0
#: How often the store is asked whether it is (seconds).
_LOOK = 0.1
#: What its upstream says beside the order itself, by the last part of a path; of the live dialect, where status and
#: marker stand in the details, the handling too.
_BESIDE: Mapping[str, JsonObject] = {
    "items": {"items": [], "line_items": []},
    "messages": {"messages": [], "chat_messages": []},
    "location": {},
    "details": {"pickup_instructions": []},
}
_HANDLING: JsonObject = {"leave_unattended": False}
#: What the canary's receiver reads of a request at most.
_LARGEST = 64 * 1024


def address(settings: Settings) -> str:
    """Under which address workers find the canary's upstream and receiver."""
    return (settings.canary_url or f"http://127.0.0.1:{settings.canary_port}").rstrip("/")


def hook(settings: Settings) -> str:
    """The one URL that the canary's subscription posts to."""
    return f"{address(settings)}/hook"


class CanaryUpstream:
    """An `Upstream` that asks the canary's own for the canary's order, and the real one for all others."""

    def __init__(self, real: HttpUpstream, engine: Engine, settings: Settings) -> None:
        self._real = real
        self._own = HttpUpstream(address(settings), engine, open_dialect(settings)) if settings.canary else None

    def fetch(
        self, access: Access, order_id: OrderId, resource: Resource, *, validator: str = "", known: str = ""
    ) -> Coroutine[Any, Any, Fetched]:
        if order_id != ORDER:  # itself no coroutine: every poll of every order passes here
            return self._real.fetch(access, order_id, resource, validator=validator, known=known)
        return self._asked(access, resource, known)

    async def _asked(self, access: Access, resource: Resource, known: str) -> Fetched:
        if self._own is None:
            return Fetched(resource, None, b"", Refusal.SERVER_ERROR, "the canary is off in this process")
        fetched = await self._own.fetch(access, ORDER, resource, known=known)
        if fetched.refusal is None:
            return fetched
        # A failure of its own kind: that the canary cannot be reached says nothing of how much upstream takes.
        return Fetched(resource, None, b"", Refusal.SERVER_ERROR, fetched.detail, duration_ms=fetched.duration_ms)

    def parse(self, resource: Resource, raw: bytes, *, order_id: OrderId) -> JsonObject:
        own = self._own if order_id == ORDER and self._own is not None else self._real
        return own.parse(resource, raw, order_id=order_id)

    def check_decision(self, status: str, alternative: JsonObject | None) -> None:
        self._real.check_decision(status, alternative)

    async def decide_replacement(
        self, access: Access, order_id: OrderId, item_id: str, status: str, alternative: JsonObject | None = None
    ) -> JsonObject:
        return await self._real.decide_replacement(access, order_id, item_id, status, alternative)

    async def send_message(self, access: Access, order_id: OrderId, body: str) -> JsonObject:
        return await self._real.send_message(access, order_id, body)

    async def aclose(self) -> None:
        await self._real.aclose()
        if self._own is not None:
            await self._own.aclose()


class CanaryEngine:
    """An `Engine` for the deliveries of the canary's retailer, and of no other: the guarded one, but for the canary's
    own URL, letter by letter, which the operator set. A retailer's subscription to that URL is judged as any other."""

    def __init__(self, guarded: Engine, plain: Engine, settings: Settings) -> None:
        self._guarded = guarded
        self._plain = plain
        self._hook = hook(settings)

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, *, limit: int
    ) -> Answer:
        engine = self._plain if url == self._hook else self._guarded
        return await engine.send(method, url, headers, body, limit=limit)

    async def aclose(self) -> None:
        """Nothing: both engines belong to their process."""


class Canary:
    """Sends the changes and counts what comes back. Of several over one store, one works, under a lease."""

    def __init__(self, db: Db, vault: Vault, orders: Orders, settings: Settings) -> None:
        self._db = db
        self._orders = orders
        self._subscriptions = Subscriptions(db, vault)
        self._slots = Slots(db)
        self._hook = hook(settings)
        self._live = settings.upstream_dialect == "connect"
        self._every = settings.canary_every
        self._within = min(WITHIN, settings.canary_every)
        self._token = secrets.token_hex(8)
        self._logger = structlog.get_logger("relay.canary")

    async def run(self, stopping: asyncio.Event) -> None:
        """A round every `canary_every` until told to stop. Never raises: what goes wrong is a failure to be counted."""
        while not stopping.is_set():
            began = time.monotonic()
            try:
                await self.turn()
            except StoreUnavailable as error:
                self._failed("store_unavailable", error.detail)
            except Exception:
                metrics.canary_failures.inc()
                self._logger.exception("canary.broken")
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._every - (time.monotonic() - began))):
                    await stopping.wait()
        metrics.canary_enabled.set(0)
        with suppress(StoreUnavailable):
            await self._slots.release("canary", 0, self._token)

    async def turn(self) -> None:
        """One round if the lease is ours; else only say what the other one saw last."""
        lease_ms = round((self._every + self._within + 5) * 1000)
        ours = await self._slots.renew("canary", 0, self._token, lease_ms)
        ours = ours or await self._slots.take("canary", 0, self._token, lease_ms)
        metrics.canary_enabled.set(int(ours))
        if ours:
            await self._round()
        last = await self._db.run("HGET", keys.CANARY_STATE, "last")
        if last is not None:
            metrics.canary_last_success.set(int(last) / 1000)

    async def _round(self) -> None:
        marker, began_ms = secrets.token_hex(8), await self._db.now_ms()
        await self._subscription()
        await self._db.run_many(
            [
                ["HSET", keys.CANARY_STATE, "marker", marker, "fetched", "", "seen", "", "seen_ms", 0],
                ["HDEL", keys.CANARY_STATE, "refused"],
            ]
        )
        await self._poll_now()
        seen_ms = await self._await(marker)
        if seen_ms is not None:
            metrics.canary_duration.set(max(0, seen_ms - began_ms) / 1000)
            await self._db.run("HSET", keys.CANARY_STATE, "last", seen_ms)
            return
        state = as_dict(await self._db.run("HGETALL", keys.CANARY_STATE))
        if state.get(b"refused"):
            self._failed("unverified", "the webhook's signature or form was wrong")
        elif state.get(b"fetched") == marker.encode():
            self._failed("not_delivered", "the change was read from the canary's upstream, and no webhook came")
        else:
            self._failed("not_polled", "no poll worker read the change")
        # Begin anew: an open circuit or a backed-off poll would else outlast what was broken by hours.
        await retire(self._db, self._orders, self._subscriptions)

    def _failed(self, stage: str, detail: str) -> None:
        metrics.canary_failures.inc()
        self._logger.warning("canary.failed", stage=stage, detail=detail, within_s=self._within)

    async def _await(self, marker: str) -> int | None:
        """When the marker came back (ms), None if it did not in time."""
        ends_at = time.monotonic() + self._within
        while time.monotonic() < ends_at:
            seen, seen_ms = await self._db.run("HMGET", keys.CANARY_STATE, "seen", "seen_ms")
            if seen == marker.encode():
                return int(seen_ms)
            await asyncio.sleep(_LOOK)
        return None

    async def _subscription(self) -> None:
        """The canary's subscription as it has to be, made where it is not."""
        found = await _own_subscription(self._db, self._subscriptions)
        if found is not None and found.configuration.enabled and found.configuration.url == self._hook:
            return
        await retire(self._db, self._orders, self._subscriptions)
        made = await self._subscriptions.create(
            RETAILER, Configuration(url=self._hook), keyring=Keyring.new(Secret(os.urandom(32))), start=None
        )
        await self._db.run("HSET", keys.CANARY_STATE, "subscription", made.id)

    async def _poll_now(self) -> None:
        one = Registration(ORDER, None, UserToken("canary"))
        for _ in range(2):
            if (await self._orders.register(RETAILER, [one], credential=keys.CANARY))[0]:
                return
            if await self._orders.refresh(RETAILER, ORDER):
                return
            await self._orders.erase(RETAILER, ORDER)  # it was given up while nobody answered

    # ── what workers ask and post to ────────────────────────────────────────────────────────────────────────────

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI: the canary's upstream and its receiver."""
        if scope["type"] != "http":
            return
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > _LARGEST or not message.get("more_body"):
                break
        try:
            if scope["method"] == "POST" and scope["path"] == "/hook":
                headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
                status, answer = await self._receive(headers, bytes(body))
            elif scope["method"] == "GET":
                status, answer = 200, await self._resource(scope["path"].rpartition("/")[2])
            else:
                status, answer = 404, {}
        except StoreUnavailable:
            status, answer = 503, {}
        content = json.dumps(answer).encode()
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": content})

    async def _resource(self, name: str) -> JsonObject:
        if name in _BESIDE:
            return _BESIDE[name]
        if name == "handling" and self._live:
            return _HANDLING
        marker = await self._db.run("HGET", keys.CANARY_STATE, "marker") or b""
        await self._db.run("HSET", keys.CANARY_STATE, "fetched", marker)
        value: JsonObject = {"order_id": ORDER, "status": "picking", "canary": marker.decode()}
        return value | {"workflow_state": "picking", "fulfillment_type": "delivery"} if self._live else value

    async def _receive(self, headers: dict[str, str], body: bytes) -> tuple[int, JsonObject]:
        found = await _own_subscription(self._db, self._subscriptions)
        if found is None:
            return 404, {}
        now_ms = await self._db.now_ms()  # the clock that signs goes by it too
        known = [secret for secret, _ in found.keyring.secrets(now_ms)]
        try:
            verify(headers, body, known, now_s=now_ms // 1000)
        except VerificationFailed as error:
            self._logger.warning("canary.unverified", detail=str(error))
            await self._db.run("HSET", keys.CANARY_STATE, "refused", 1)
            return 401, {}
        marker = (json.loads(body)["data"].get("order") or {}).get("canary", "")
        if marker:
            await self._db.run("HSET", keys.CANARY_STATE, "seen", marker, "seen_ms", now_ms)
        return 200, {}


async def _own_subscription(db: Db, subscriptions: Subscriptions) -> Subscription | None:
    known = await db.run("HGET", keys.CANARY_STATE, "subscription")
    if known is None:
        return None
    try:
        return await subscriptions.get(RETAILER, known.decode())
    except NotFound:
        return None


async def retire(db: Db, orders: Orders, subscriptions: Subscriptions) -> None:
    """Take the canary's order and subscriptions away; its events leave with their retention."""
    for raw in await db.run("ZRANGE", keys.subscriptions(RETAILER), 0, -1):
        with suppress(NotFound):
            await subscriptions.delete(RETAILER, raw.decode())
    await orders.erase(RETAILER, ORDER)
    await db.run("HDEL", keys.CANARY_STATE, "subscription")
