"""/_sim: what a test or a person wants of the simulator. Errors are {"error": str, "status": int} here too.

GET    /_sim/orders                         POST   /_sim/orders           {"order_id"?, "user_id"?, "handling"?, ...}
PATCH  /_sim/orders/{id}                    POST   /_sim/orders/{id}/advance   {"status"?}
PUT    /_sim/orders/{id}/items/{item_id}    DELETE the same
POST   /_sim/orders/{id}/messages           {"sender", "body"}
POST   /_sim/orders/{id}/suggest            {"item_id"?, "replacement"?}
GET    /_sim/report ?since= &happened_since=       GET /_sim/truth/{id}
GET    /_sim/faults                         POST {"fault": "500:0.05"} or fields    DELETE
DELETE /_sim/tokens                         POST   /_sim/reset
"""

from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.errors import Conflict, InvalidInput, NotFound, RelayError
from relay.simulator.faults import build, parse
from relay.simulator.scenario import draft, suggestion
from relay.simulator.steps import next_status
from relay.simulator.world import RESOURCES, Order

if TYPE_CHECKING:
    from relay.simulator.app import Simulator

Json = Any
Endpoint = Callable[[Request], Awaitable[Response]]
_CREATE_FIELDS = frozenset({"order_id", "user_id", "scenario", *RESOURCES})


class _Controls:
    def __init__(self, simulator: "Simulator") -> None:
        self._sim = simulator

    async def list_orders(self, request: Request) -> Response:
        self._sim.tick()
        orders = self._sim.world.orders.values()
        return answer({"orders": [{"order_id": o.order_id, "user_id": o.user_id, "status": o.status} for o in orders]})

    async def create_order(self, request: Request) -> Response:
        fields = await _object(request)
        if unknown := fields.keys() - _CREATE_FIELDS:
            raise InvalidInput(f"unknown fields: {', '.join(sorted(unknown))}")
        now = self._sim.tick()
        order_id = fields.get("order_id") or self._free_id()
        order = draft(str(order_id), fields.get("user_id"), self._sim.config.seed)
        explicit = fields.keys() & {*RESOURCES}
        _set_state(order, fields)
        scenario = fields.get("scenario", not explicit)
        if scenario and explicit:
            raise InvalidInput("an order with an explicit state cannot follow the scenario, which writes its own")
        self._sim.admit(order, now, start=now.simulated if scenario else None)
        return answer({"order_id": order.order_id, "user_id": order.user_id, **order.truth()}, 201)

    async def change_order(self, request: Request) -> Response:
        order = self._order(request)
        self._sim.world.handle(order, await _object(request), self._sim.tick(), "control")
        return answer(order.handling)

    async def advance(self, request: Request) -> Response:
        order, fields, now = self._order(request), await _object(request), self._sim.tick()
        planned = self._sim.planned(order.order_id)
        if "status" in fields:
            self._sim.world.handle(order, {"status": str(fields["status"])}, now, "control")
        elif planned:
            self._sim.advance(order, now)
        else:
            self._sim.world.handle(order, {"status": next_status(order)}, now, "control")
        return answer(order.handling)

    async def set_item(self, request: Request) -> Response:
        order, item_id = self._order(request), request.path_params["item_id"]
        self._sim.world.set_item(order, item_id, await _object(request), self._sim.tick(), "control")
        return answer(order.items[item_id])

    async def remove_item(self, request: Request) -> Response:
        self._sim.world.remove_item(self._order(request), request.path_params["item_id"], self._sim.tick(), "control")
        return Response(status_code=204)

    async def say(self, request: Request) -> Response:
        order, fields = self._order(request), await _object(request)
        sender = str(fields.get("sender", "shopper"))
        return answer(self._sim.world.say(order, sender, fields.get("body"), self._sim.tick(), "control"), 201)

    async def suggest(self, request: Request) -> Response:
        order, fields, now = self._order(request), await _object(request), self._sim.tick()
        open_items = (key for key, item in order.items.items() if item.get("status") in ("pending", "found"))
        item_id = str(fields.get("item_id") or next(open_items, ""))
        if item_id not in order.items:
            raise NotFound(f"order {order.order_id!r} has no item {item_id!r} to replace")
        dice = Random(f"{self._sim.config.seed}:{order.order_id}:{len(self._sim.world.happened)}")
        replacement = fields.get("replacement") or suggestion(order, item_id, dice)
        self._sim.world.suggest(order, item_id, replacement, now, "control")
        return answer(order.items[item_id])

    async def report(self, request: Request) -> Response:
        self._sim.tick()
        since, happened_since = (_index(request, name) for name in ("since", "happened_since"))
        return answer(self._sim.report(since, happened_since))

    async def truth(self, request: Request) -> Response:
        self._sim.tick()
        return answer(self._order(request).truth())

    async def list_faults(self, request: Request) -> Response:
        return answer({"faults": self._sim.faults.in_force()})

    async def add_fault(self, request: Request) -> Response:
        fields = await _object(request)
        fault = parse(str(fields["fault"])) if "fault" in fields else build(fields, str(fields.get("kind")))
        self._sim.faults.add(fault, self._sim.clock.now().wall)
        return answer({"faults": self._sim.faults.in_force()}, 201)

    async def clear_faults(self, request: Request) -> Response:
        return answer({"cleared": self._sim.faults.clear()})

    async def expire_tokens(self, request: Request) -> Response:
        return answer({"expired": self._sim.tokens.expire()})

    async def reset(self, request: Request) -> Response:
        self._sim.reset()
        return answer({"orders": list(self._sim.world.orders)})

    def _order(self, request: Request) -> Order:
        return self._sim.world.order(request.path_params["order_id"])

    def _free_id(self) -> str:
        orders = self._sim.world.orders
        return next(name for n in count(len(orders) + 1) if (name := f"o-{n}") not in orders)


def controls(simulator: "Simulator") -> Starlette:
    """The Starlette app of everything under /_sim."""
    on = _Controls(simulator)
    one = "/_sim/orders/{order_id}"
    routes: list[tuple[str, str, Endpoint]] = [
        ("GET", "/_sim/orders", on.list_orders),
        ("POST", "/_sim/orders", on.create_order),
        ("PATCH", one, on.change_order),
        ("POST", one + "/advance", on.advance),
        ("PUT", one + "/items/{item_id}", on.set_item),
        ("DELETE", one + "/items/{item_id}", on.remove_item),
        ("POST", one + "/messages", on.say),
        ("POST", one + "/suggest", on.suggest),
        ("GET", "/_sim/report", on.report),
        ("GET", "/_sim/truth/{order_id}", on.truth),
        ("GET", "/_sim/faults", on.list_faults),
        ("POST", "/_sim/faults", on.add_fault),
        ("DELETE", "/_sim/faults", on.clear_faults),
        ("DELETE", "/_sim/tokens", on.expire_tokens),
        ("POST", "/_sim/reset", on.reset),
    ]
    return Starlette(
        routes=[Route(path, endpoint, methods=[method]) for method, path, endpoint in routes],
        exception_handlers={RelayError: _refuse},
    )


async def _refuse(request: Request, error: Exception) -> Response:
    status = 404 if isinstance(error, NotFound) else 409 if isinstance(error, Conflict) else 422
    return answer({"error": str(error), "status": status}, status)


def answer(value: Json, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _object(request: Request) -> dict[str, Json]:
    """The body as an object; none at all counts as an empty one."""
    try:
        value = msgspec.json.decode(await request.body() or b"{}")
    except msgspec.DecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidInput("the body must be a JSON object")
    return value


def _index(request: Request, name: str) -> int:
    text = request.query_params.get(name, "0")
    if not text.isdecimal():
        raise InvalidInput(f"{name} must be an index from 0")
    return int(text)


def _set_state(order: Order, fields: Mapping[str, Json]) -> None:
    """Put an explicit state in place of the drafted one."""
    if not isinstance(fields.get("handling", {}), dict):
        raise InvalidInput("handling must be an object")
    if not isinstance(order.user_id, str | None):
        raise InvalidInput("user_id must be a string")
    if "handling" in fields:
        order.handling = {"order_id": order.order_id, **fields["handling"]}
    for resource in ("items", "messages"):
        entries = fields.get(resource, [])
        if not isinstance(entries, list) or not all(
            isinstance(e, dict) and isinstance(e.get("id"), str) for e in entries
        ):
            raise InvalidInput(f"{resource} must be a list of objects, each with a string id")
    if "items" in fields:
        order.items = {entry["id"]: entry for entry in fields["items"]}
    order.messages = fields.get("messages", [])
    order.said = len(order.messages)
