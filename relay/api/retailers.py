"""Retailers and their keys: the operator's provisioning."""

from datetime import UTC, datetime

from msgspec import UNSET

from relay.api import cursors
from relay.api.deps import Call, Reply
from relay.api.views import KeyView, RetailerView, UpstreamView
from relay.errors import InvalidInput, Problem
from relay.model.events import rfc3339
from relay.model.orders import RetailerId
from relay.store.retailers import SCOPES, ApiKey, Retailer


async def create(call: Call) -> Reply:
    body = call.body
    made = await call.deps.retailers.create(
        body.name,
        upstream=None if body.upstream is None else (body.upstream.client_id, body.upstream.client_secret),
        budget=None if body.upstream is None else body.upstream.budget,
        limits=body.limits,
        verify_endpoints=body.verify_endpoints,
    )
    return Reply(201, _view(made))


async def page(call: Call) -> Reply:
    after, limit = cursors.page(call.request, "retailer")
    found, last = await call.deps.retailers.page(after=after, limit=limit)
    return Reply(200, {"data": [_view(one) for one in found], "next": cursors.encode("retailer", last)})


async def get(call: Call) -> Reply:
    return Reply(200, _view(await call.deps.retailers.get(call.path("retailer_id"))))


async def patch(call: Call) -> Reply:
    body = call.body
    upstream = None if body.upstream is UNSET else body.upstream
    changed = await call.deps.retailers.amend(
        RetailerId(call.path("retailer_id")),
        name=None if body.name is UNSET else body.name,
        upstream=None if upstream is None else (upstream.client_id, upstream.client_secret),
        budget=None if upstream is None else upstream.budget,
        limits=None if body.limits is UNSET else body.limits,
        verify_endpoints=None if body.verify_endpoints is UNSET else body.verify_endpoints,
    )
    return Reply(200, _view(changed))


async def delete(call: Call) -> Reply:
    await call.deps.retailers.delete(RetailerId(call.path("retailer_id")))
    return Reply(204)


async def create_key(call: Call) -> Reply:
    retailer = await call.deps.retailers.get(call.path("retailer_id"))
    scopes = list(SCOPES) if call.body.scopes is None else call.body.scopes
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        detail = f"scopes are: {', '.join(SCOPES)}"
        raise InvalidInput(detail, code="unknown_scope", problems=[Problem("/scopes", "unknown_scope", detail)])
    expires = call.body.expires_at
    if expires is not None and expires <= datetime.now(UTC):
        detail = "a key that has expired is of no use"
        raise InvalidInput(detail, code="expired", problems=[Problem("/expires_at", "expired", detail)])
    key, presented = await call.deps.retailers.issue(
        retailer.id,
        name=call.body.name,
        scopes=scopes,
        expires_ms=None if expires is None else round(expires.timestamp() * 1000),
    )
    return Reply(201, _key_view(key, presented), headers={"cache-control": "no-store"})


async def keys(call: Call) -> Reply:
    retailer = await call.deps.retailers.get(call.path("retailer_id"))
    found = await call.deps.retailers.keys(retailer.id)
    return Reply(200, {"data": [_key_view(key) for key in found], "next": None})


async def revoke_key(call: Call) -> Reply:
    retailer = await call.deps.retailers.get(call.path("retailer_id"))
    await call.deps.retailers.revoke(retailer.id, call.path("key_id"))
    return Reply(204)


def _view(retailer: Retailer) -> RetailerView:
    upstream = None if retailer.client_id is None else UpstreamView(retailer.client_id, retailer.budget)
    return RetailerView(
        *(retailer.id, retailer.name, upstream, dict(retailer.limits), retailer.verify_endpoints),
        created_at=rfc3339(retailer.created_ms),
    )


def _key_view(key: ApiKey, presented: str | None = None) -> KeyView:
    expires = None if key.expires_ms is None else rfc3339(key.expires_ms)
    return KeyView(
        *(key.id, key.name, list(key.scopes), key.last4, rfc3339(key.created_ms), expires),
        key=UNSET if presented is None else presented,
    )
