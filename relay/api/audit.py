"""What is written into the audit log about requests, and reading it."""

from typing import Any

import structlog

from relay import metrics
from relay.api import cursors
from relay.api.deps import Call, Reply
from relay.api.views import AuditView
from relay.errors import InvalidInput, NotFound, Problem, StoreUnavailable
from relay.model.events import rfc3339
from relay.store.audit import Action, Record
from relay.store.retailers import OPERATOR


async def page(call: Call) -> Reply:
    """A retailer reads its own part; an operator a retailer's, or its own."""
    before, limit = cursors.page(call.request, "audit")
    query = call.request.query_params
    owner: str | None = call.caller.retailer_id
    if owner is None:
        owner = query.get("retailer_id", OPERATOR)
    elif "retailer_id" in query:
        detail = "retailer_id is for operators"
        raise InvalidInput(detail, problems=[Problem("retailer_id", "invalid_value", detail)])
    found, last = await call.deps.audit.page(owner, before=before, limit=limit, action=query.get("action"))
    return Reply(200, {"data": [_view(one) for one in found], "next": cursors.encode("audit", last)})


async def done(call: Call, name: str, outcome: str, value: Any = None) -> None:
    """Write down what a request did, or what it was refused. The deed is done: failing to write it fails nothing."""
    notes = dict(call.notes)
    made = getattr(value, "id", "")
    params = call.request.path_params
    object_id = notes.pop("object", "") or params.get("key_id") or made or next(iter(params.values()), "")
    action = Action(name, call.caller.key_id, str(object_id), _request_id(call.request), outcome, notes)
    owner = call.caller.retailer_id or params.get("retailer_id") or (made if name == "retailer.created" else "")
    await _write(call, str(owner or OPERATOR), action)


async def denied(call: Call, operation: str, code: str) -> None:
    """A known key tried what it may not do."""
    action = Action("authorization.denied", call.caller.key_id, operation, _request_id(call.request), code)
    await _write(call, call.caller.retailer_id or OPERATOR, action)


async def _write(call: Call, owner: str, action: Action) -> None:
    try:
        if owner.startswith("ret_"):
            try:
                await call.deps.retailers.get(owner)
            except NotFound:
                owner = OPERATOR  # deleted, or never there: no stream is made for what a path says
        await call.deps.audit.write(owner, action)
    except StoreUnavailable as error:
        metrics.audit_failures.inc()
        structlog.get_logger("relay.api").error("audit.not_written", action=action.name, error=error.detail)


def _request_id(request: Any) -> str:
    return str(request.scope["state"]["request_id"])


def _view(record: Record) -> AuditView:
    action = record.action
    return AuditView(
        *(rfc3339(record.at_ms), action.name, action.actor, action.object_id or None, action.request_id or None),
        outcome=action.outcome,
        details=dict(action.details),
    )
