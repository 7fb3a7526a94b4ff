"""The retailer's decisions, passed on to upstream with the user's token. Never sent twice on our own account."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from relay import metrics
from relay.access import AccessRefused, TokenBroker
from relay.errors import Conflict, InvalidInput, NotFound, RateLimited, StoreUnavailable, UpstreamRefused
from relay.model.changes import Cause, keyed
from relay.model.orders import TERMINAL_STATUSES, JsonObject, OrderId, OrderState, Resource, RetailerId, Tracking
from relay.model.sightings import milliseconds
from relay.store.arms import Arms
from relay.store.decisions import Decision, Decisions
from relay.store.order_records import TokenOwner
from relay.store.orders import Orders
from relay.upstream.interface import Access, UnusableAnswer, Upstream
from relay.upstream.tokens import Blame

#: How long a write may wait for its turn in the credential's budget (ms).
PATIENCE_MS = 5_000
#: How long a write whose outcome is not known keeps the same from being sent again (seconds): long enough for its
#: consequence to be seen.
UNKNOWN_FOR_S = 60.0
Send = Callable[[Access], Awaitable[JsonObject]]


class Actions:
    def __init__(
        self, orders: Orders, arms: Arms, decisions: Decisions, upstream: Upstream, broker: TokenBroker
    ) -> None:
        self._orders = orders
        self._arms = arms
        self._decisions = decisions
        self._upstream = upstream
        self._broker = broker
        self._log = structlog.get_logger("relay.actions")

    async def decide_replacement(
        self,
        retailer_id: RetailerId,
        order_id: OrderId,
        item_id: str,
        status: str,
        cause: Cause,
        alternative: JsonObject | None = None,
    ) -> JsonObject:
        """Approve or reject a replacement; `alternative` asks for something else instead (live dialect). The resulting
        change is polled at once. The same decision again is answered as the first time, without sending it.

        Raises NotFound, Conflict (`tracking_ended`, `order_over`, `already_decided`, `nothing_to_decide`), RateLimited
        (`upstream_busy`), UpstreamRefused.
        """
        state = await self._state(retailer_id, order_id)
        name = f"replacement/{item_id}"
        known = {one.what: one for one in await self._decisions.of(retailer_id, order_id)}.get(name)
        item = keyed((state.snapshot.items or {}).get("items")).get(item_id)
        if known is not None and known.told and item is not None and item.get("replacement_status") == "PENDING":
            await self._decisions.drop(retailer_id, order_id, name)  # that one is over: here is another suggestion
        elif known is not None and (known.told or known.answer is not None):
            if known.content == status:
                return known.answer or {}
            raise Conflict(f"this was decided: {known.content}; a decision is final", code="already_decided")
        elif known is not None and _age_s(known) > UNKNOWN_FOR_S:
            await self._decisions.drop(retailer_id, order_id, name)  # the retailer asks for it again, knowing that
        _decidable(state, item)
        self._upstream.check_decision(status, alternative)
        decision = Decision(name, status, cause)

        async def send(access: Access) -> JsonObject:
            return await self._upstream.decide_replacement(access, order_id, item_id, status, alternative)

        return await self._pass_on(retailer_id, order_id, decision, send, "replacement")

    async def send_message(
        self, retailer_id: RetailerId, order_id: OrderId, body: str, cause: Cause, *, once: str | None = None
    ) -> JsonObject:
        """Send a chat message as the customer. The resulting change is polled at once. `once` names this wish of the
        retailer: with the same name it is answered as the first time, and never sent again, also when it is not known
        whether it arrived.

        Raises as above, and Conflict (`chat_unavailable`) where upstream does not show the chat, InvalidInput
        (`idempotency_key_reused`)."""
        state = await self._state(retailer_id, order_id)
        if Resource.MESSAGES in state.off:
            raise Conflict("upstream keeps the chat of this order to itself", code="chat_unavailable")
        name = f"message/{once or f'{cause.request_id}/{time.time_ns()}'}"
        known = {one.what: one for one in await self._decisions.of(retailer_id, order_id)}.get(name)
        if known is not None and known.content != body:
            raise InvalidInput("this Idempotency-Key was used with another body", code="idempotency_key_reused")
        if known is not None and (known.told or known.answer is not None):
            return known.answer or {}
        decision = Decision(name, body, cause)

        async def send(access: Access) -> JsonObject:
            return await self._upstream.send_message(access, order_id, body)

        return await self._pass_on(retailer_id, order_id, decision, send, "message")

    async def _state(self, retailer_id: RetailerId, order_id: OrderId) -> OrderState:
        state = await self._orders.load_state(retailer_id, order_id)
        if state is None:
            raise NotFound("no such order")
        if state.tracking is Tracking.ENDED:
            raise Conflict("tracking of this order has ended", code="tracking_ended")
        return state

    async def _pass_on(
        self, retailer_id: RetailerId, order_id: OrderId, decision: Decision, send: Send, kind: str
    ) -> JsonObject:
        """Write down, send once, write down what came of it, look at once. A crash leaves the first note behind: the
        change is then still recognised, and nothing is sent again."""
        owner = await self._orders.owner(retailer_id, order_id)
        if owner is None:
            raise NotFound("no such order")
        access = await self._access(owner)
        await self._wait_for_turn(owner.credential)
        if not await self._decisions.begin(retailer_id, order_id, decision):
            detail = "this is on its way to upstream, or its outcome is not known yet; look at the order"
            raise Conflict(detail, code="in_progress")
        try:
            answer = await self._send(owner, access, send)
        except UpstreamRefused as error:
            metrics.actions.labels(kind, error.code).inc()
            if error.status == 429 or (error.status == 503 and error.retry_after_s is not None):
                await self._arms.throttle(owner.credential, error.retry_after_s)
            if _nothing_done(error):
                await self._decisions.drop(retailer_id, order_id, decision.what)
            else:
                await self._orders.refresh(retailer_id, order_id)  # to see whether it arrived
            raise
        metrics.actions.labels(kind, "accepted").inc()
        await self._decisions.write(retailer_id, order_id, replace(decision, answer=answer))
        await self._orders.refresh(retailer_id, order_id)
        self._log.info(
            "action.passed_on", kind=kind, retailer_id=retailer_id, order_id=order_id, key_id=decision.cause.key_id
        )
        return answer

    async def _send(self, owner: TokenOwner, access: Access, send: Send) -> JsonObject:
        """Once; a second time only after a 401, which says that nothing was done, and with another token."""
        try:
            return await _told(send(access))
        except UpstreamRefused as error:
            if error.status != 401:
                raise
            renewed = await self._renewed(owner, access)
            if renewed is None:
                raise
            try:
                await self._wait_for_turn(owner.credential)
            except (RateLimited, StoreUnavailable):
                raise error from None  # certain that nothing was done: it may be asked for again at once
        return await _told(send(renewed))

    async def _renewed(self, owner: TokenOwner, access: Access) -> Access | None:
        try:
            return await self._broker.renewed(owner, access)
        except AccessRefused:
            return None

    async def _wait_for_turn(self, credential: str) -> None:
        """A write is a request like any other: the budget pays for it."""
        if not await self._arms.turn(credential, within_ms=PATIENCE_MS):
            raise RateLimited(
                "upstream asked for a pause, or its budget is spent; try again", retry_after_s=5, code="upstream_busy"
            )

    async def _access(self, owner: TokenOwner) -> Access:
        try:
            return await self._broker.access(owner)
        except AccessRefused as error:
            if error.code == Blame.BUSY.value:
                raise RateLimited(error.detail, retry_after_s=5, code="upstream_busy") from None
            raise UpstreamRefused(error.detail, status=401, code=error.code) from None


def _nothing_done(error: UpstreamRefused) -> bool:
    """Whether it is certain: upstream refused it (4xx), or never got it."""
    return error.code == "upstream_unreachable" or (error.status is not None and 400 <= error.status < 500)


def _age_s(decision: Decision) -> float:
    return time.time() - (milliseconds(decision.cause.at) or 0) / 1000


def _decidable(state: OrderState, item: JsonObject | None) -> None:
    """Refuse only what is certain: upstream may know of a replacement that no poll has seen yet."""
    if state.snapshot.status in TERMINAL_STATUSES:
        raise Conflict("the order is over; what was suggested has been bought or refunded", code="order_over")
    decided = item.get("replacement_status") if item is not None else None
    if decided in ("APPROVED", "REJECTED"):
        raise Conflict(f"this was decided: {decided}; a decision is final", code="already_decided")
    if item is not None and item.get("status") == "refunded":
        raise Conflict("the item was refunded: there is nothing to decide", code="nothing_to_decide")


async def _told(sending: Awaitable[JsonObject]) -> JsonObject:
    try:
        return await sending
    except UnusableAnswer as error:
        detail = f"upstream's answer cannot be read: {error.detail}; whether it was done will show in the order"
        raise UpstreamRefused(detail, status=200, code="outcome_unknown") from None
