"""The whole application over a real Valkey, and a client that holds every answer against the OpenAPI document."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
import jsonschema
import msgspec
from starlette.types import ASGIApp

from relay.api import openapi
from relay.api.app import create_app
from relay.api.deps import Deps
from relay.errors import UpstreamRefused
from relay.guard import Guard, GuardedEngine
from relay.model.changes import Cause
from relay.model.orders import JsonObject, OrderId, RetailerId
from relay.model.targets import Allow
from relay.resolver import Resolver
from relay.sender import Sender
from relay.settings import load
from relay.store.arms import Arms
from relay.store.attempts import Attempts
from relay.store.audit import AuditLog
from relay.store.deliveries import Deliveries
from relay.store.history import History
from relay.store.idempotency import Idempotency
from relay.store.limits import Limits
from relay.store.log import Log
from relay.store.orders import Orders
from relay.store.pauses import Pauses
from relay.store.recoveries import Recoveries
from relay.store.redis import Db, open_client
from relay.store.retailers import Retailers
from relay.store.subscriptions import Subscriptions
from relay.tracing import OFF, Tracing
from relay.vault import Vault, generate_master_key, parse_master_keys
from tests.support import acl
from tests.support.names import Names

T = TypeVar("T")
ADMIN = "an-operators-key-of-the-tests"
MASTER = generate_master_key("t1")
DOCUMENT = openapi.document()


@dataclass
class RecordedActions:
    """Stands for the way to upstream: notes what was passed on, and refuses when told to."""

    passed: list[tuple[str, ...]] = field(default_factory=list)
    refusal: UpstreamRefused | None = None
    causes: list[Cause] = field(default_factory=list)

    async def decide_replacement(
        self,
        retailer_id: RetailerId,
        order_id: OrderId,
        item_id: str,
        status: str,
        cause: Cause,
        alternative: JsonObject | None,
    ) -> JsonObject:
        self.causes.append(cause)
        self.passed.append((retailer_id, order_id, item_id, status, *(alternative or {})))
        if self.refusal is not None:
            raise self.refusal
        return {"id": item_id, "replacement_status": status}

    async def send_message(
        self, retailer_id: RetailerId, order_id: OrderId, body: str, cause: Cause, *, once: str | None = None
    ) -> JsonObject:
        self.causes.append(cause)
        self.passed.append((retailer_id, order_id, body))
        if self.refusal is not None:
            raise self.refusal
        return {"id": "m-1", "body": body}


@dataclass
class Relay:
    """The API in process, with the parts behind it."""

    db: Db
    deps: Deps
    app: ASGIApp
    actions: RecordedActions
    client: httpx.AsyncClient

    async def ask(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, **options: Any
    ) -> httpx.Response:
        """One request. Every answer has to be one that the OpenAPI document allows."""
        headers = dict(options.pop("headers", {}))
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        if body is not None:
            options["content"] = msgspec.json.encode(body)
            headers.setdefault("content-type", "application/json")
        response = await self.client.request(method, path, headers=headers, **options)
        conforms(response)
        return response

    async def retailer(self, **fields: Any) -> tuple[str, str]:
        """A new retailer and a key with all of its scopes."""
        made = await self.ask("POST", "/v1/retailers", {"name": "Shop", **fields}, key=ADMIN)
        issued = await self.ask("POST", f"/v1/retailers/{made.json()['id']}/keys", {}, key=ADMIN)
        return made.json()["id"], issued.json()["key"]


def conforms(response: httpx.Response) -> None:
    """Fail when an answer is not documented for its operation, or is not of the documented shape."""
    path = response.request.url.raw_path.partition(b"?")[0].decode()
    operation = None
    for template, methods in sorted(DOCUMENT["paths"].items(), key=lambda pair: "{" in pair[0]):
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path):
            operation = methods.get(response.request.method.lower())
            if operation is not None:
                break
    if operation is None:
        assert response.status_code in (200, 404, 405), response.text
        return
    documented = operation["responses"].get(str(response.status_code))
    assert documented is not None, f"{response.status_code} is not documented: {response.text}"
    content = documented.get("content")
    if content is None:
        assert response.content == b""
        return
    kind = response.headers["content-type"].partition(";")[0]
    schema = {**content[kind]["schema"], "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(schema).validate(response.json())


def driven(
    url: str,
    test: Callable[[Relay], Awaitable[None]],
    *,
    allow: Allow = Allow(),  # noqa: B008
    resolver: Resolver | None = None,
    tracing: Tracing = OFF,
    **chosen: str,
) -> None:
    """Run a test's coroutine against a fresh application on an emptied store. `chosen` are settings; unless they say
    otherwise, nobody is limited."""
    texts = {"RELAY_MASTER_KEYS": MASTER, "RELAY_ADMIN_KEY": ADMIN}
    texts |= {"RELAY_API_RATE": "0", "RELAY_API_RATE_RETAILER": "0", "RELAY_API_RATE_IP": "0", **chosen}
    settings = load(texts)

    async def main() -> None:
        db = Db(open_client(url))
        try:
            with acl.admin(url) as admin:
                admin.flushall()
            vault = Vault(parse_master_keys(MASTER))
            actions = RecordedActions()
            guard = Guard(allow, resolver or Names({}))
            engine = GuardedEngine(guard, deadline=2.0)
            deps = Deps(
                settings=settings,
                db=db,
                orders=Orders(db, vault),
                arms=Arms(db),
                log=Log(db),
                subscriptions=Subscriptions(db, vault),
                retailers=Retailers(db, vault, ADMIN),
                idempotency=Idempotency(db, vault),
                actions=actions,  # type: ignore[arg-type]
                guard=guard,
                sender=Sender(engine),
                deliveries=Deliveries(db, vault),
                recoveries=Recoveries(db),
                history=History(db, Log(db), Attempts(db)),
                pauses=Pauses(db),
                audit=AuditLog(db),
                limits=Limits(db, per_key=settings.api_rate, per_retailer=settings.api_rate_retailer),
                tracing=tracing,
            )
            app = create_app(deps)
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://relay") as client:
                await test(Relay(db, deps, app, actions, client))
            await engine.aclose()
        finally:
            await db.aclose()

    run(main())


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)
