"""The log as a pull feed: the same envelopes, ids, bytes and order as pushed."""

from relay.api import cursors
from relay.api.deps import Call, Reply
from relay.errors import NotFound
from relay.model import catalogue
from relay.model.filters import Filter
from relay.model.orders import EventId


async def page(call: Call) -> Reply:
    after, limit = cursors.page(call.request, "event")
    pattern = call.request.query_params.get("type")
    matches = None if pattern is None else Filter.parse([pattern], "type").matches
    entries, last = await call.deps.log.page(
        call.retailer_id,
        after=after,
        limit=limit,
        order_id=call.request.query_params.get("order_id"),
        matches=matches,
    )
    cursor = cursors.encode("event", last)
    shown = b"null" if cursor is None else b'"' + cursor.encode() + b'"'
    # Bodies are passed on as stored: the bytes that were signed and sent.
    return Reply(200, raw=b'{"data":[' + b",".join(e.body for e in entries) + b'],"next":' + shown + b"}")


async def get(call: Call) -> Reply:
    entry = await call.deps.log.find(call.retailer_id, EventId(call.path("event_id")))
    if entry is None:
        raise NotFound("no such event")
    return Reply(200, raw=entry.body)


async def types(call: Call) -> Reply:
    return Reply(200, {"data": catalogue.document(), "next": None})
