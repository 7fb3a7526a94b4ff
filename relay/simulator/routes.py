"""Which of the five operations a request means, and what an answer is made of. Pure."""

from dataclasses import dataclass
from urllib.parse import unquote

import msgspec

from relay.simulator.connect import DETAILS, LOCATION, PICKUP
from relay.simulator.spoiling import JSON_TYPE
from relay.simulator.world import HANDLING, ITEMS, MESSAGES


@dataclass(frozen=True, slots=True)
class Route:
    """One of the five operations: `target` is what faults aim at."""

    method: str
    target: str
    order_id: str
    item_id: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `whole` False: a fault made it an error in 200's clothing."""

    status: int
    body: bytes
    content_type: bytes = JSON_TYPE
    retry_after: int | None = None
    whole: bool = True
    headers: tuple[tuple[bytes, bytes], ...] = ()
    skew: float = 0.0


def find(method: str, path: bytes, *, live: bool = False) -> Route | Reply:
    """The operation that a request means, or the answer that there is none. `live`: those of the live dialect too."""
    parts = [unquote(part.decode("latin-1")) if b"%" in part else part.decode("latin-1") for part in path.split(b"/")]
    match parts[2:]:
        case ["post_checkout", "orders", order_id, resource] if resource in (HANDLING, ITEMS):
            known = {"GET": Route("GET", resource, order_id)}
        case ["post_checkout", "chat", order_id, "messages"]:
            known = {"GET": Route("GET", MESSAGES, order_id), "POST": Route("POST", "chat", order_id)}
        case ["post_checkout", "orders", order_id, "items", item_id, "replacement"]:
            known = {"PUT": Route("PUT", "replacement", order_id, item_id)}
        case ["post_checkout", "orders", order_id] if live:
            known = {"GET": Route("GET", DETAILS, order_id)}
        case ["post_checkout", "orders", order_id, "location"] if live:
            known = {"GET": Route("GET", LOCATION, order_id)}
        case ["post_checkout", "orders", order_id, "pickup", "details"] if live:
            known = {"GET": Route("GET", PICKUP, order_id)}
        case _:
            return refusal(404, "there is nothing at this path")
    return known.get(method) or refusal(405, f"use {' or '.join(known)}")


def refusal(status: int, detail: str, *, retry_after: int | None = None) -> Reply:
    """The specification's error body."""
    return Reply(status, msgspec.json.encode({"error": detail, "status": status}), retry_after=retry_after)


def oauth_refusal(status: int, code: str, detail: str) -> Reply:
    body = {"error": code, "error_description": detail, "status": status}
    return Reply(status, msgspec.json.encode(body))
