"""How polling does: what the budget is, what it needs to be, and how soon changes are noticed."""

from relay.api.deps import Call, Reply
from relay.api.views import PollingView
from relay.model.events import rfc3339
from relay.polling.outlook import look
from relay.polling.policy import policy_of


async def get(call: Call) -> Reply:
    """Of the caller's credential."""
    retailer = await call.deps.retailers.get(call.retailer_id)
    return Reply(200, await view(call, retailer.credential))


async def of_retailer(call: Call) -> Reply:
    """Of a retailer's credential, for operators."""
    retailer = await call.deps.retailers.get(call.path("retailer_id"))
    return Reply(200, await view(call, retailer.credential))


async def view(call: Call, credential: str) -> PollingView:
    outlook = await look(call.deps.arms, policy_of(call.deps.settings), credential)
    load, expected = outlook.load, outlook.forecast
    now_ms = await call.deps.db.now_ms()
    asks = load.gate_ms <= now_ms
    return PollingView(
        budget=load.rate or None,
        budget_needed=round(expected.needed, 2),
        budget_sufficient=expected.feasible,
        expected_delay_seconds=round(expected.mean_delay_s, 2),
        orders=outlook.orders,
        stages=dict(load.stages),
        paused_until=None if asks else rfc3339(load.gate_ms),
        credential="accepted" if load.mint_ms <= now_ms else load.why,
    )
