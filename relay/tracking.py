"""What a retailer does to a tracked order: stop it, decide on a replacement, send a message."""

from collections.abc import Callable
from contextlib import suppress

from relay.access import AccessRefused, TokenBroker
from relay.errors import Conflict, NotFound, UpstreamRefused
from relay.model import lifecycle
from relay.model.lifecycle import Step
from relay.model.orders import JsonObject, OrderId, OrderState, RetailerId
from relay.store.order_records import Commit, Due
from relay.store.orders import Orders
from relay.upstream.interface import Access, UnusableAnswer, Upstream

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


class Actions:
    """The retailer's decisions, passed on to upstream with the user's token. Never sent twice on our own account."""

    def __init__(self, orders: Orders, upstream: Upstream, broker: TokenBroker) -> None:
        self._orders = orders
        self._upstream = upstream
        self._broker = broker

    async def decide_replacement(
        self, retailer_id: RetailerId, order_id: OrderId, item_id: str, status: str
    ) -> JsonObject:
        """Approve or reject a replacement. The resulting change is polled at once. Raises UpstreamRefused."""
        access = await self._access(retailer_id, order_id)
        try:
            answer = await self._upstream.decide_replacement(access, order_id, item_id, status)
        except UnusableAnswer as error:
            raise _unknown(error) from None
        await self._orders.refresh(retailer_id, order_id)
        return answer

    async def send_message(self, retailer_id: RetailerId, order_id: OrderId, body: str) -> JsonObject:
        """Send a chat message as the customer. The resulting change is polled at once. Raises UpstreamRefused."""
        access = await self._access(retailer_id, order_id)
        try:
            answer = await self._upstream.send_message(access, order_id, body)
        except UnusableAnswer as error:
            raise _unknown(error) from None
        await self._orders.refresh(retailer_id, order_id)
        return answer

    async def _access(self, retailer_id: RetailerId, order_id: OrderId) -> Access:
        owner = await self._orders.owner(retailer_id, order_id)
        if owner is None:
            raise NotFound("no such order")
        try:
            return await self._broker.access(owner)
        except AccessRefused as error:
            raise UpstreamRefused(error.detail, status=401, code=error.code) from None


def _unknown(error: UnusableAnswer) -> UpstreamRefused:
    return UpstreamRefused(f"upstream's answer cannot be read: {error.detail}", status=200, code="outcome_unknown")
