"""How tracking ends on request: a retailer stops it, or has the order erased."""

from collections.abc import Callable
from contextlib import suppress

from relay.errors import Conflict, NotFound
from relay.model import lifecycle
from relay.model.lifecycle import Step
from relay.model.orders import OrderId, OrderState, RetailerId
from relay.store.order_records import Commit, Due
from relay.store.orders import Orders

#: How often a stop is decided anew when a reading was committed in between.
TRIES = 10


async def stop(orders: Orders, retailer_id: RetailerId, order_id: OrderId, *, now_ms: int, reason: str) -> bool:
    """End tracking with `order.tracking_ended`; False when it has ended already. Raises NotFound."""

    def decide(state: OrderState) -> Step | None:
        return lifecycle.stop(state, reason, now_ms=now_ms)

    return await _end(orders, retailer_id, order_id, decide)


async def purge(orders: Orders, retailer_id: RetailerId, order_id: OrderId, *, now_ms: int) -> None:
    """End tracking, if it has not ended, with an event that shows nothing of the order, and erase what is stored about
    it; also what is left of an order whose state has gone with its retention. Raises NotFound."""
    with suppress(NotFound):
        await _end(orders, retailer_id, order_id, lambda state: lifecycle.purge(state, now_ms=now_ms))
    await orders.purge(retailer_id, order_id)


async def _end(
    orders: Orders, retailer_id: RetailerId, order_id: OrderId, decide: Callable[[OrderState], Step | None]
) -> bool:
    for _ in range(TRIES):
        state = await orders.load_state(retailer_id, order_id)
        if state is None:
            raise NotFound("no such order")
        step = decide(state)
        if step is None:
            return False
        due = {resource: Due(delay) for resource, delay in step.delays_ms.items()}
        result = await orders.commit(Commit(state, step.state, step.events, due=due))
        if result == "ok":
            return True
    raise Conflict("the order keeps changing; try again", code="contended")
