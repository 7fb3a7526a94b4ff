"""What a step needs of the state that it finds."""

from typing import Any

import pytest

from relay.simulator.clock import Moment
from relay.simulator.steps import Step, perform
from relay.simulator.world import Order, World

NOW = Moment(10.0, 1.0)
OFFER = {"product_name": "B", "product_id": "p", "quantity": 1}
FOUND = Step(0, "item", "i", {"status": "found"})
SUGGEST = Step(0, "suggest", "i", OFFER)


def after(item: dict[str, Any], step: Step, status: str = "picking") -> Order:
    order = Order("o", None, {"status": status}, {"i": {"id": "i", **item}})
    perform(World(), order, step, NOW)
    return order


@pytest.mark.parametrize("decision", ["APPROVED", "REJECTED"])
@pytest.mark.parametrize("step", [FOUND, SUGGEST, Step(0, "withdraw", "i"), Step(0, "decide", "i", "APPROVED")])
def test_a_decision_stands(decision: str, step: Step) -> None:
    item = {"status": "replaced", "replacement": OFFER, "replacement_status": decision}

    assert after(item, step).items["i"] == {"id": "i", **item}


def test_while_a_suggestion_waits_the_item_is_only_offered_withdrawn_or_decided() -> None:
    item = {"status": "replaced", "replacement": {**OFFER, "quantity": 3}, "replacement_status": "PENDING"}

    assert after(item, FOUND).items["i"]["status"] == "replaced"
    assert after(item, SUGGEST).items["i"]["replacement"] == OFFER
    assert after(item, Step(0, "withdraw", "i")).items["i"] == {"id": "i", "status": "pending"}
    assert after(item, Step(0, "decide", "i", "REJECTED")).items["i"]["status"] == "refunded"


@pytest.mark.parametrize("status", ["delivered", "canceled"])
@pytest.mark.parametrize(
    "step",
    [FOUND, SUGGEST, Step(0, "say", "shopper", "Hi"), Step(0, "status", value="picking"), Step(0, "remove", "i")],
)
def test_nothing_happens_after_the_end(status: str, step: Step) -> None:
    order = after({"status": "pending"}, step, status)

    assert (order.status, order.items, order.messages) == (status, {"i": {"id": "i", "status": "pending"}}, [])


def test_an_item_that_is_gone_stays_gone() -> None:
    order = after({}, Step(0, "remove", "i"))
    perform(World(), order, FOUND, NOW)

    assert order.items == {}
