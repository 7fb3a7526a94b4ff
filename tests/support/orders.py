"""Builders: an order's resources and state, with defaults that a test overrides where it matters."""

from typing import Any

from relay.model.orders import OrderId, OrderState, Reading, Resource, RetailerId, Snapshot

RETAILER = RetailerId("ret_test")
ORDER = OrderId("o-1")


def make_handling(**fields: Any) -> dict[str, Any]:
    return {"order_id": ORDER, "status": "picking", "notes": "Ring twice.", **fields}


def make_item(id_: str = "i-1", **fields: Any) -> dict[str, Any]:
    return {"id": id_, "product_name": "Bananas", "quantity": 2, "status": "pending", **fields}


def make_message(id_: str = "m-1", **fields: Any) -> dict[str, Any]:
    return {"id": id_, "sender": "shopper", "body": "Hello!", "created_at": "2026-11-23T12:00:00Z", **fields}


def make_snapshot(**parts: Any) -> Snapshot:
    return Snapshot(
        parts.get("handling", make_handling()),
        {"items": parts.get("items", [make_item()])},
        {"messages": parts.get("messages", [])},
    )


def make_state(**fields: Any) -> OrderState:
    """A started order, all of it read at 1,000 ms."""
    defaults: dict[str, Any] = {
        "version": 3,
        "sequence": 1,
        "started": True,
        "snapshot": make_snapshot(),
        "read_at_ms": dict.fromkeys(Resource, 1_000),
    }
    return OrderState(RETAILER, ORDER, 500, **{**defaults, **fields})


def reading(resource: Resource, value: dict[str, Any], started_ms: int = 2_000) -> Reading:
    return Reading(resource, value, started_ms)
