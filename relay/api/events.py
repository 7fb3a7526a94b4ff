"""The log as a pull feed: the same envelopes, ids, bytes and order as pushed."""

import msgspec

from relay.api import cursors
from relay.api.deps import Call, Reply
from relay.errors import Gone, NotFound
from relay.model import catalogue
from relay.model.filters import Filter
from relay.model.orders import EventId
from relay.store.log import START, Entry


async def page(call: Call) -> Reply:
    """`next` is there while there is more; `resume` always: where to go on from when more has happened."""
    query = call.request.query_params
    if query.get("after") == "now":
        after, limit = await call.deps.log.last_position(call.retailer_id), cursors.limit(call.request)
    else:
        given, limit = cursors.page(call.request, "event")
        after = given or START
    pattern = query.get("type")
    page_ = await call.deps.log.page(
        call.retailer_id,
        after=after,
        limit=limit,
        order_id=query.get("order_id"),
        matches=None if pattern is None else Filter.parse([pattern], "type").matches,
    )
    resume = msgspec.json.encode(cursors.encode("event", page_.reached))
    # Bodies are passed on as stored: the bytes that were signed and sent.
    data = b",".join(entry.body for entry in page_.entries)
    following = resume if page_.more else b"null"
    return Reply(200, raw=b'{"data":[' + data + b'],"next":' + following + b',"resume":' + resume + b"}")


async def get(call: Call) -> Reply:
    return Reply(200, raw=(await found(call)).body)


async def found(call: Call) -> Entry:
    """The event that the path names. Raises NotFound, and Gone when it was purged."""
    entry = await call.deps.log.find(call.retailer_id, EventId(call.path("event_id")))
    if entry is None:
        raise NotFound("no such event")
    if entry.gone:
        raise Gone("the event was purged with its order")
    return entry


async def types(call: Call) -> Reply:
    return Reply(200, {"data": catalogue.document(), "next": None})
