"""Tracked orders: register, look at, stop, and pass the customer's decisions on."""

import hashlib
import time
from datetime import datetime

from msgspec import UNSET

from relay import tracking
from relay.api import cursors
from relay.api.deps import Call, Reply
from relay.api.schemas import AccessToken, AlternativeItem, OrderRegistration
from relay.api.views import BulkAnswer, BulkView, DataView, OrderView, TroubleView
from relay.errors import Conflict, InvalidInput, NotFound, Problem
from relay.model.changes import Cause
from relay.model.events import rfc3339
from relay.model.orders import JsonObject, OrderId, Resource
from relay.store.order_records import Registration, StoredOrder, UserToken


async def create(call: Call) -> Reply:
    registration = _registration(call.body, "")
    retailer = await call.deps.retailers.get(call.retailer_id)
    created = await call.deps.orders.register(call.retailer_id, [registration], credential=retailer.credential)
    return Reply(201 if created[0] else 200, await _view(call, registration.order_id))


async def bulk(call: Call) -> Reply:
    registrations = [_registration(one, f"/orders/{index}") for index, one in enumerate(call.body.orders)]
    retailer = await call.deps.retailers.get(call.retailer_id)
    created = await call.deps.orders.register(call.retailer_id, registrations, credential=retailer.credential)
    answers = [
        BulkAnswer(one.order_id, "created" if new else "exists")
        for one, new in zip(registrations, created, strict=True)
    ]
    return Reply(200, BulkView(answers))


async def page(call: Call) -> Reply:
    after, limit = cursors.page(call.request, "order")
    found, last = await call.deps.orders.page(call.retailer_id, after=after, limit=limit)
    return Reply(200, {"data": [view(order) for order in found], "next": cursors.encode("order", last)})


async def get(call: Call) -> Reply:
    return Reply(200, await _view(call, _order_id(call)))


async def patch(call: Call) -> Reply:
    token = None if call.body.access_token is UNSET else _token(call.body.access_token)
    metadata = None if call.body.metadata is UNSET else call.body.metadata
    done = await call.deps.orders.amend(call.retailer_id, _order_id(call), access_token=token, metadata=metadata)
    if not done:
        raise NotFound("no such order")
    if token is not None:
        await call.deps.orders.refresh(call.retailer_id, _order_id(call))
    return Reply(200, await _view(call, _order_id(call)))


async def delete(call: Call) -> Reply:
    order_id = _order_id(call)
    purge = call.request.query_params.get("purge", "false")
    if purge not in ("true", "false"):
        raise InvalidInput("purge is true or false", problems=[Problem("purge", "invalid_value", "true or false")])
    now_ms = await call.deps.db.now_ms()
    if purge == "true":
        call.notes["purged"] = "true"
        await tracking.purge(call.deps.orders, call.retailer_id, order_id, now_ms=now_ms)
    else:
        await tracking.stop(call.deps.orders, call.retailer_id, order_id, now_ms=now_ms, reason="stopped")
    return Reply(202, {"order_id": order_id, "tracking": "ended", "purged": purge == "true"})


async def refresh(call: Call) -> Reply:
    if not await call.deps.orders.refresh(call.retailer_id, _order_id(call)):
        await _view(call, _order_id(call))
        raise Conflict("tracking of this order has ended", code="tracking_ended")
    return Reply(202, await _view(call, _order_id(call)))


async def items(call: Call) -> Reply:
    return Reply(200, DataView((await _view(call, _order_id(call))).items))


async def messages(call: Call) -> Reply:
    return Reply(200, DataView((await _view(call, _order_id(call))).messages))


async def decide(call: Call) -> Reply:
    body, item_id = call.body, call.path("item_id")
    call.notes.update({"item_id": item_id, "status": body.status})
    alternative = None if body.alternative_item is None else _alternative(body.status, body.alternative_item)
    answer = await call.deps.actions.decide_replacement(
        call.retailer_id, _order_id(call), item_id, body.status, _cause(call), alternative
    )
    # Upstream may answer with nothing at all: what was decided is known here.
    return Reply(200, {"id": item_id, "replacement_status": body.status} | answer)


async def say(call: Call) -> Reply:
    if not call.body.body.strip():
        detail = "a message says something"
        raise InvalidInput(detail, code="blank", problems=[Problem("/body", "blank", detail)])
    answer = await call.deps.actions.send_message(
        call.retailer_id, _order_id(call), call.body.body, _cause(call), once=_wish(call)
    )
    return Reply(200, {"sender": "customer", "body": call.body.body} | answer)


def _wish(call: Call) -> str | None:
    """What tells a request that is sent again from another one like it, also after a crash in between."""
    key = call.request.headers.get("idempotency-key")
    return None if key is None else hashlib.sha256(f"{call.caller.key_id} {key}".encode()).hexdigest()[:32]


def _cause(call: Call) -> Cause:
    at = rfc3339(round(time.time() * 1000))
    return Cause(call.caller.key_id, call.request.scope["state"]["request_id"], at)


def _alternative(status: str, given: AlternativeItem) -> JsonObject:
    """Exactly one of upc and rrc, exactly one of count and weight, and only with a rejection."""
    problems = []
    if status != "REJECTED":
        problems.append(Problem("/alternative_item", "not_allowed", "goes with REJECTED only"))
    for one, other in (("upc", "rrc"), ("count", "weight")):
        if (getattr(given, one) is None) == (getattr(given, other) is None):
            problems.append(Problem("/alternative_item", "invalid_value", f"give exactly one of {one} and {other}"))
    if problems:
        raise InvalidInput("the alternative item cannot be asked for", problems=problems)
    found = {name: getattr(given, name) for name in ("upc", "rrc", "count", "weight")}
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in found.items()
        if value is not None
    }


def view(order: StoredOrder) -> OrderView:
    """An order as the API shows it."""
    state = order.state
    trouble = state.trouble
    return OrderView(
        order_id=state.order_id,
        tracking=state.tracking.value,
        stage=state.snapshot.status,
        version=state.version,
        sequence=state.sequence,
        order=state.snapshot.order,
        items=_listed(order, Resource.ITEMS),
        messages=_listed(order, Resource.MESSAGES),
        unavailable=sorted(resource.value for resource in state.off),
        metadata=dict(state.metadata),
        user_id=state.user_id,
        trouble=None
        if trouble is None
        else TroubleView(trouble.code, trouble.detail, rfc3339(trouble.since_ms), trouble.count),
        registered_at=rfc3339(state.registered_ms),
        last_polled_at=None if order.last_polled_ms is None else rfc3339(order.last_polled_ms),
        next_due_at=None if order.next_due_ms is None else rfc3339(order.next_due_ms),
    )


def _listed(order: StoredOrder, resource: Resource) -> list[dict[str, object]] | None:
    value = order.state.snapshot.get(resource)
    return None if value is None else value.get(resource.value, [])


async def _view(call: Call, order_id: OrderId) -> OrderView:
    found = await call.deps.orders.load(call.retailer_id, order_id)
    if found is None:
        raise NotFound("no such order")
    return view(found)


def _order_id(call: Call) -> OrderId:
    return OrderId(call.path("order_id"))


def _registration(body: OrderRegistration, pointer: str) -> Registration:
    token = None if body.access_token is None else _token(body.access_token, f"{pointer}/access_token")
    return Registration(OrderId(body.order_id), body.user_id, token, body.metadata)


def _token(body: AccessToken, pointer: str = "/access_token") -> UserToken:
    expires_ms = None
    if body.expires_at is not None:
        expires_ms = round(body.expires_at.timestamp() * 1000)
        if body.expires_at <= datetime.now(body.expires_at.tzinfo):
            detail = "the token has expired"
            raise InvalidInput(
                detail, code="token_expired", problems=[Problem(f"{pointer}/expires_at", "token_expired", detail)]
            )
    return UserToken(body.token, expires_ms)
