"""The table of operations, from which both the routes and the OpenAPI document are made."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from relay.api import (
    audit,
    bodies,
    deliveries,
    events,
    orders,
    polling,
    retailers,
    schemas,
    secrets,
    subscriptions,
    trials,
    views,
)
from relay.api.deps import Call, Reply

#: Scope of operations that only an operator's key may call.
OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Operation:
    """One method on one path. `scope` None: any good key. `answers`: (status, type, whether it is a page of it).
    `audit`: what the audit log calls it; None for what changes and reveals nothing."""

    method: str
    path: str
    name: str
    summary: str
    scope: str | None
    handler: Callable[[Call], Awaitable[Reply]]
    answers: tuple[tuple[int, Any, bool], ...]
    body: type[Any] | None = None
    limit: int = bodies.LIMIT
    query: tuple[tuple[str, str], ...] = ()
    audit: str | None = None


_PAGE = (("limit", "At most so many, up to 100."), ("after", "Cursor: the `next` of the page before."))
_FEED = (_PAGE[0], ("after", "Cursor: `next` or `resume` of the page before; `now`: the end of the log."))
_ORDER = "/v1/orders/{order_id}"
_SUBSCRIPTION = "/v1/subscriptions/{subscription_id}"
_RETAILER = "/v1/retailers/{retailer_id}"
s = schemas
v = views

OPERATIONS = (
    Operation(
        *("POST", "/v1/orders", "registerOrder", "Track an order", "orders:write", orders.create),
        answers=((201, v.OrderView, False), (200, v.OrderView, False)),
        body=s.OrderRegistration,
    ),
    Operation(
        *("GET", "/v1/orders", "listOrders", "List tracked orders", "orders:read", orders.page),
        answers=((200, v.OrderView, True),),
        query=_PAGE,
    ),
    Operation(
        *("POST", "/v1/orders/bulk", "registerOrders", "Track up to 1,000 orders", "orders:write", orders.bulk),
        answers=((200, v.BulkView, False),),
        body=s.BulkRegistration,
        limit=bodies.BULK_LIMIT,
    ),
    Operation(
        *("GET", _ORDER, "getOrder", "An order as it is now", "orders:read", orders.get),
        answers=((200, v.OrderView, False),),
    ),
    Operation(
        *("PATCH", _ORDER, "updateOrder", "Give a new token or metadata", "orders:write", orders.patch),
        answers=((200, v.OrderView, False),),
        body=s.OrderPatch,
    ),
    Operation(
        *("DELETE", _ORDER, "stopOrder", "Stop tracking", "orders:write", orders.delete),
        audit="order.stopped",
        answers=((202, dict[str, Any], False),),
        query=(("purge", "`true`: also erase what is stored about the order."),),
    ),
    Operation(
        *("POST", f"{_ORDER}/refresh", "refreshOrder", "Poll now", "orders:write", orders.refresh),
        answers=((202, v.OrderView, False),),
        body=s.Empty,
    ),
    Operation(
        *("GET", f"{_ORDER}/items", "listItems", "The order's items", "orders:read", orders.items),
        answers=((200, v.DataView, False),),
    ),
    Operation(
        "PUT",
        f"{_ORDER}/items/{{item_id}}/replacement",
        "decideReplacement",
        "Approve or reject a replacement",
        "orders:write",
        orders.decide,
        audit="replacement.decided",
        answers=((200, dict[str, Any], False),),
        body=s.ReplacementDecision,
    ),
    Operation(
        *("GET", f"{_ORDER}/messages", "listMessages", "The order's chat", "orders:read", orders.messages),
        answers=((200, v.DataView, False),),
    ),
    Operation(
        *("POST", f"{_ORDER}/messages", "sendMessage", "Write to the shopper", "orders:write", orders.say),
        audit="message.sent",
        answers=((200, dict[str, Any], False),),
        body=s.ChatMessage,
    ),
    Operation(
        *("GET", "/v1/polling", "getPolling", "How soon changes are noticed, and what the budget allows"),
        *("orders:read", polling.get),
        answers=((200, v.PollingView, False),),
    ),
    Operation(
        *("GET", f"{_RETAILER}/polling", "getRetailerPolling", "The same, of a retailer", OPERATOR),
        polling.of_retailer,
        answers=((200, v.PollingView, False),),
    ),
    Operation(
        "POST",
        "/v1/subscriptions",
        "createSubscription",
        "Have events posted to a URL; the secret is shown this once",
        "subscriptions:write",
        subscriptions.create,
        audit="subscription.created",
        answers=((201, v.SubscriptionView, False),),
        body=s.SubscriptionRequest,
    ),
    Operation(
        "GET",
        "/v1/subscriptions",
        "listSubscriptions",
        "List subscriptions",
        "subscriptions:read",
        subscriptions.page,
        answers=((200, v.SubscriptionView, True),),
        query=_PAGE,
    ),
    Operation(
        *("GET", _SUBSCRIPTION, "getSubscription", "A subscription", "subscriptions:read", subscriptions.get),
        answers=((200, v.SubscriptionView, False),),
    ),
    Operation(
        "PATCH",
        _SUBSCRIPTION,
        "updateSubscription",
        "Change a subscription; new filters hold for events from now on",
        "subscriptions:write",
        subscriptions.patch,
        audit="subscription.updated",
        answers=((200, v.SubscriptionView, False),),
        body=s.SubscriptionPatch,
    ),
    Operation(
        "DELETE",
        _SUBSCRIPTION,
        "deleteSubscription",
        "Delete a subscription with what it still had to deliver",
        "subscriptions:write",
        subscriptions.delete,
        audit="subscription.deleted",
        answers=((204, None, False),),
    ),
    Operation(
        *("POST", f"{_SUBSCRIPTION}/enable", "enableSubscription", "Enable a subscription again"),
        *("subscriptions:write", subscriptions.enable),
        audit="subscription.enabled",
        answers=((200, v.SubscriptionView, False),),
        body=s.EnableRequest,
    ),
    Operation(
        *("POST", f"{_SUBSCRIPTION}/disable", "disableSubscription", "Disable a subscription; what waits is kept"),
        *("subscriptions:write", subscriptions.disable),
        audit="subscription.disabled",
        answers=((200, v.SubscriptionView, False),),
        body=s.Empty,
    ),
    Operation(
        *("GET", f"{_SUBSCRIPTION}/secret", "getSecret", "The secrets that sign now", "secrets:read", secrets.get),
        audit="secret.read",
        answers=((200, v.SecretView, False),),
    ),
    Operation(
        *("POST", f"{_SUBSCRIPTION}/secret/rotate", "rotateSecret", "A new secret; the old ones sign for an overlap"),
        *("subscriptions:write", secrets.rotate),
        audit="secret.rotated",
        answers=((200, v.SecretView, False),),
        body=s.RotateRequest,
    ),
    Operation(
        *("POST", f"{_SUBSCRIPTION}/test", "testSubscription", "Send a test event now; answers with the attempt"),
        *("subscriptions:write", trials.test),
        audit="subscription.tested",
        answers=((200, v.TrialView, False),),
        body=s.TestRequest,
    ),
    Operation(
        *("POST", f"{_SUBSCRIPTION}/verify", "verifySubscription", "Send a challenge that proves the endpoint's will"),
        *("subscriptions:write", trials.verify),
        audit="subscription.verified",
        answers=((200, v.VerificationView, False),),
        body=s.Empty,
    ),
    Operation(
        *("POST", f"{_SUBSCRIPTION}/recover", "recoverSubscription", "Send again what failed, or was missed"),
        *("deliveries:write", deliveries.recover),
        audit="recovery.started",
        answers=((202, v.RecoveryView, False),),
        body=s.RecoverRequest,
    ),
    Operation(
        *("GET", f"{_SUBSCRIPTION}/recoveries", "listRecoveries", "The latest recoveries, newest first"),
        *("deliveries:read", deliveries.recoveries),
        answers=((200, v.RecoveryView, True),),
    ),
    Operation(
        *("GET", f"{_SUBSCRIPTION}/recoveries/{{recovery_id}}", "getRecovery", "How far a recovery came"),
        *("deliveries:read", deliveries.recovery),
        answers=((200, v.RecoveryView, False),),
    ),
    Operation(
        *("GET", f"{_SUBSCRIPTION}/deliveries", "listDeliveries", "What became of each event, newest first"),
        *("deliveries:read", deliveries.page),
        answers=((200, v.DeliveryView, True),),
        query=(
            *_PAGE,
            ("status", "Only those: waiting, retrying, delivered, dead or skipped."),
            ("order_id", "Only this order's."),
            ("event_type", "Only this type, or a pattern such as order.*"),
        ),
    ),
    Operation(
        *("GET", f"{_SUBSCRIPTION}/stats", "getStatistics", "What waits, and how the last hour's attempts went"),
        *("deliveries:read", deliveries.stats),
        answers=((200, v.StatisticsView, False),),
    ),
    Operation(
        *("GET", "/v1/events", "listEvents", "The log as a pull feed", "events:read", events.page),
        answers=((200, v.EventPage, False),),
        query=(*_FEED, ("order_id", "Only this order's."), ("type", "Only this type, or a pattern such as order.*")),
    ),
    Operation(
        *("GET", "/v1/events/{event_id}", "getEvent", "An event as delivered", "events:read", events.get),
        answers=((200, v.EventView, False),),
    ),
    Operation(
        *("GET", "/v1/events/{event_id}/deliveries", "listEventDeliveries", "What became of an event"),
        *("deliveries:read", deliveries.of_event),
        answers=((200, v.DeliveryView, True),),
    ),
    Operation(
        *("POST", "/v1/events/{event_id}/redeliver", "redeliverEvent", "Send an event again, under the same id"),
        *("deliveries:write", deliveries.redeliver),
        audit="event.redelivered",
        answers=((202, v.RedeliveryView, False),),
        body=s.RedeliverRequest,
    ),
    Operation(
        *("GET", "/v1/event-types", "listEventTypes", "The catalogue of events", None, events.types),
        answers=((200, v.EventTypeView, True),),
    ),
    Operation(
        *("GET", "/v1/audit-log", "listAuditLog", "Who did what, newest first", None, audit.page),
        answers=((200, v.AuditView, True),),
        query=(
            *_PAGE,
            ("action", "Only this action, such as subscription.updated."),
            ("retailer_id", "Operators: whose; without it the operators' own."),
        ),
    ),
    Operation(
        *("POST", "/v1/retailers", "createRetailer", "Add a retailer", OPERATOR, retailers.create),
        audit="retailer.created",
        answers=((201, v.RetailerView, False),),
        body=s.RetailerRequest,
    ),
    Operation(
        *("GET", "/v1/retailers", "listRetailers", "List retailers", OPERATOR, retailers.page),
        answers=((200, v.RetailerView, True),),
        query=_PAGE,
    ),
    Operation(
        *("GET", _RETAILER, "getRetailer", "A retailer", OPERATOR, retailers.get),
        answers=((200, v.RetailerView, False),),
    ),
    Operation(
        *("PATCH", _RETAILER, "updateRetailer", "Change a retailer", OPERATOR, retailers.patch),
        audit="retailer.updated",
        answers=((200, v.RetailerView, False),),
        body=s.RetailerPatch,
    ),
    Operation(
        *("DELETE", _RETAILER, "deleteRetailer", "Delete an empty retailer", OPERATOR, retailers.delete),
        audit="retailer.deleted",
        answers=((204, None, False),),
    ),
    Operation(
        *("POST", f"{_RETAILER}/keys", "createKey", "Issue a key; shown this once", OPERATOR, retailers.create_key),
        audit="key.created",
        answers=((201, v.KeyView, False),),
        body=s.KeyRequest,
    ),
    Operation(
        *("GET", f"{_RETAILER}/keys", "listKeys", "A retailer's keys", OPERATOR, retailers.keys),
        answers=((200, v.KeyView, True),),
    ),
    Operation(
        *("DELETE", f"{_RETAILER}/keys/{{key_id}}", "revokeKey", "Revoke a key", OPERATOR, retailers.revoke_key),
        audit="key.revoked",
        answers=((204, None, False),),
    ),
)
