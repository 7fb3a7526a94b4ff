"""What a reading means for an order: the decisions that the pumps' tests cannot reach one by one."""

from dataclasses import replace
from typing import Any

import pytest

from relay.model import lifecycle
from relay.model.cadence import Cadence
from relay.model.lifecycle import BY_POLICY, Policy, observe, refuse, stop, troubled
from relay.model.orders import RESOURCES, OrderState, Resource, Tracking, Trouble
from tests.support.orders import make_handling, make_item, make_message, make_state, reading

POLICY = Policy()


def see(state: OrderState, resource: Resource, value: dict[str, Any], at: int) -> lifecycle.Step | None:
    return observe(state, reading(resource, value, at), now_ms=at + 1, policy=POLICY)


def test_a_stale_reading_changes_nothing() -> None:
    state = make_state(read_at_ms=dict.fromkeys(Resource, 5_000))

    assert see(state, Resource.HANDLING, make_handling(status="staging"), 5_000) is None
    assert see(state, Resource.HANDLING, make_handling(status="staging"), 4_000) is None
    assert see(state, Resource.HANDLING, make_handling(status="staging"), 5_001) is not None


def test_nothing_is_read_into_an_ended_order() -> None:
    assert see(make_state(tracking=Tracking.ENDED), Resource.HANDLING, make_handling(status="x"), 9_000) is None


def test_an_answer_spelled_otherwise_is_quiet() -> None:
    step = see(make_state(), Resource.ITEMS, {"items": [make_item(quantity=2.0)]}, 2_000)

    assert step is not None
    assert step.quiet
    assert step.events == ()


def test_a_status_change_makes_the_other_resources_due_at_once() -> None:
    step = see(make_state(), Resource.HANDLING, make_handling(status="staging"), 2_000)

    assert step is not None
    assert step.delays_ms == {
        Resource.HANDLING: BY_POLICY,
        Resource.ITEMS: 0,
        Resource.MESSAGES: 0,
    }


def test_until_the_first_complete_reading_what_was_read_is_not_read_again() -> None:
    state = OrderState(make_state().retailer_id, make_state().order_id, 1)
    first = see(state, Resource.HANDLING, make_handling(), 10)
    assert first is not None
    assert first.delays_ms == {Resource.HANDLING: None}
    second = see(first.state, Resource.ITEMS, {"items": []}, 11)
    assert second is not None
    third = see(second.state, Resource.MESSAGES, {"messages": []}, 12)

    assert third is not None
    assert [event.type for event in third.events] == ["order.tracking_started"]
    assert third.delays_ms == dict.fromkeys(RESOURCES, BY_POLICY)


def test_the_end_needs_all_three_resources_after_the_terminal_status() -> None:
    step = see(make_state(), Resource.HANDLING, make_handling(status="delivered"), 2_000)
    assert step is not None
    assert set(step.forget) == set(RESOURCES)
    assert [event.type for event in step.events] == ["order.status_changed"]
    for at, resource in ((3_000, Resource.HANDLING), (3_001, Resource.ITEMS)):
        value = make_handling(status="delivered") if resource is Resource.HANDLING else {"items": [make_item()]}
        step = see(step.state, resource, value, at)
        assert step is not None
        assert step.events == ()
    step = see(step.state, Resource.MESSAGES, {"messages": []}, 3_002)

    assert step is not None
    assert [event.type for event in step.events] == ["order.tracking_ended"]
    assert step.state.tracking is Tracking.ENDED
    assert set(step.delays_ms.values()) == {None}


def test_what_was_read_beside_the_terminal_status_confirms_nothing_and_is_read_again() -> None:
    step = see(make_state(), Resource.HANDLING, make_handling(status="delivered"), 2_000)
    assert step is not None
    for at, delay in ((2_000, POLICY.confirm_after_ms), (7_000, None)):
        step = see(step.state, Resource.ITEMS, {"items": [make_item(status="found")]}, at)
        assert step is not None
        assert step.delays_ms == {Resource.ITEMS: delay}


def test_an_order_that_is_over_when_it_is_first_read_is_confirmed_like_any_other() -> None:
    state = OrderState(make_state().retailer_id, make_state().order_id, 1)
    values = {Resource.HANDLING: make_handling(status="delivered"), Resource.ITEMS: {"items": []}}
    for at, resource in enumerate((Resource.HANDLING, Resource.ITEMS), start=10):
        first = see(state, resource, values[resource], at)
        assert first is not None
        state = first.state
    step = see(state, Resource.MESSAGES, {"messages": []}, 12)

    assert step is not None
    assert [event.type for event in step.events] == ["order.tracking_started"]
    assert {step.delays_ms[resource] for resource in RESOURCES} == {POLICY.confirm_after_ms}


def test_while_the_end_cannot_be_confirmed_the_others_are_read_ever_more_rarely() -> None:
    """The items are refused for hours, say: nothing is committed but times of reading, and never without a wait."""
    policy = Policy(confirm_after_ms=0)
    state, at, waits = make_state(terminal_since_ms=2_000), 2_001, []
    for _ in range(16):
        step = observe(
            state, reading(Resource.HANDLING, make_handling(status="delivered"), at), now_ms=at, policy=policy
        )
        assert step is not None
        delay = step.delays_ms[Resource.HANDLING]
        assert delay is not None
        waits.append(delay)
        state, at = step.state, at + delay

    assert waits[0] == policy.cadence.again_ms()
    assert waits == sorted(waits)
    assert sum(waits) > 240_000
    assert waits[-1] <= 120_000


def test_an_entry_that_was_missing_from_a_chat_that_is_switched_off_holds_no_order_up() -> None:
    state = make_state(terminal_since_ms=1_500, read_at_ms=dict.fromkeys(Resource, 2_000))
    state = replace(state, missing={Resource.MESSAGES: frozenset({"m-1"})})
    step = refuse(
        state, Resource.MESSAGES, "forbidden", "", Trouble("forbidden", "", 0, 2), now_ms=3_000, policy=POLICY
    )

    assert step is not None
    assert step.state.tracking is Tracking.ENDED


@pytest.mark.parametrize("code", ["timeout", "server_error", "malformed", "nonsense", "throttled", "network"])
def test_faults_of_upstream_never_suspend(code: str) -> None:
    trouble = Trouble(code, "", 0, 1_000)

    assert refuse(make_state(), Resource.ITEMS, code, "", trouble, now_ms=10**9, policy=POLICY) is None


def test_patience_comes_before_suspension() -> None:
    trouble = Trouble("not_found", "", 1_000, 3)

    assert refuse(make_state(), Resource.ITEMS, "not_found", "", trouble, now_ms=120_999, policy=POLICY) is None
    step = refuse(make_state(), Resource.ITEMS, "not_found", "", trouble, now_ms=121_000, policy=POLICY)
    assert step is not None
    assert [event.type for event in step.events] == ["order.tracking_suspended"]
    assert refuse(step.state, Resource.ITEMS, "not_found", "", trouble, now_ms=10**7, policy=POLICY) is None
    given_up = refuse(step.state, Resource.ITEMS, "not_found", "", trouble, now_ms=10**8, policy=POLICY)
    assert given_up is not None
    assert given_up.state.tracking is Tracking.ENDED
    assert set(given_up.delays_ms.values()) == {None}


def test_chat_that_upstream_keeps_to_itself_is_no_fault() -> None:
    """Shopper information removal: a 403 that lasts switches the chat off, and the order goes on without it."""
    state = OrderState(make_state().retailer_id, make_state().order_id, 1)
    for at, resource in ((10, Resource.HANDLING), (11, Resource.ITEMS)):
        step = see(state, resource, make_handling() if resource is Resource.HANDLING else {"items": []}, at)
        assert step is not None
        state = step.state
    once, twice = Trouble("forbidden", "", 0, 1), Trouble("forbidden", "", 0, 2)
    args = (state, Resource.MESSAGES, "forbidden", "")
    assert refuse(*args, once, now_ms=10**9, policy=POLICY) is None
    step = refuse(*args, twice, now_ms=20, policy=POLICY)

    assert step is not None
    assert [event.type for event in step.events] == ["order.tracking_started"]
    assert b'"messages":null' in step.events[0].body
    assert b'"unavailable":["messages"]' in step.events[0].body
    assert refuse(step.state, *args[1:], twice, now_ms=10**9, policy=POLICY) is None
    back = see(step.state, Resource.MESSAGES, {"messages": [make_message()]}, 2_000)
    assert back is not None
    assert back.state.off == frozenset()
    assert [event.type for event in back.events] == ["order.message_created"]


def test_chat_is_read_once_more_late_and_a_status_that_comes_back_in_time_revives_the_order() -> None:
    policy = Policy(late_ms=10_000)

    def look(state: OrderState, resource: Resource, value: dict[str, Any], at: int) -> lifecycle.Step:
        step = observe(state, reading(resource, value, at), now_ms=at + 1, policy=policy)
        assert step is not None
        return step

    delivered = make_handling(status="delivered")
    state = look(make_state(), Resource.HANDLING, delivered, 2_000).state
    state = look(state, Resource.HANDLING, delivered, 7_000).state
    items = look(state, Resource.ITEMS, {"items": [make_item()]}, 7_001)
    assert items.delays_ms == {Resource.ITEMS: None}
    messages = look(items.state, Resource.MESSAGES, {"messages": []}, 7_002)
    assert messages.state.tracking is Tracking.ACTIVE
    assert messages.delays_ms == {Resource.MESSAGES: 5_000}
    revived = look(messages.state, Resource.HANDLING, make_handling(status="delivering"), 9_000)
    assert revived.delays_ms[Resource.ITEMS] == 0
    late = look(messages.state, Resource.HANDLING, delivered, 12_000)
    over = look(late.state, Resource.MESSAGES, {"messages": [make_message()]}, 12_001)

    assert [event.type for event in over.events] == ["order.message_created", "order.tracking_ended"]


def test_an_order_put_away_after_its_end_has_ended() -> None:
    state = make_state(terminal_since_ms=1_500)
    step = refuse(
        state, Resource.ITEMS, "not_found", "", Trouble("not_found", "", 2_000, 9), now_ms=10**6, policy=POLICY
    )

    assert step is not None
    assert step.state.tracking is Tracking.ENDED


def test_trouble_is_counted_while_it_stays_the_same() -> None:
    first = troubled(None, "timeout", "a", now_ms=5)
    second = troubled(first, "timeout", "b", now_ms=9)

    assert (second.since_ms, second.count, second.detail) == (5, 2, "b")
    assert troubled(second, "not_found", "c", now_ms=9) == Trouble("not_found", "c", 9, 1)


def test_a_stop_ends_once() -> None:
    step = stop(make_state(), "stopped", now_ms=5)

    assert step is not None
    assert step.events[0].type == "order.tracking_ended"
    assert stop(step.state, "stopped", now_ms=6) is None


def test_cadence_bounds_and_backs_off() -> None:
    cadence = Cadence(scale=0.1, floor=0.5)

    assert cadence.bounds(Resource.HANDLING, "picking") == (0.5, 15.0)
    assert cadence.bounds(Resource.ITEMS, "picking+") == (0.5, 6.0)
    assert cadence.bounds(Resource.ITEMS, "no such stage") == (0.5, 12.0)
    waits = [Cadence().retry_ms(n, None, lambda: 0.5) for n in range(1, 8)]
    assert waits == [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]
    assert Cadence().retry_ms(1, 90.0, lambda: 0.5) == 90_000
    assert Cadence().retry_ms(20, None, lambda: 0.5, slow=True) == 600_000


def test_a_missing_entry_keeps_the_order_from_ending() -> None:
    state = make_state(terminal_since_ms=1_500, read_at_ms=dict.fromkeys(Resource, 2_000))
    state = replace(state, missing={Resource.ITEMS: frozenset({"i-1"})})
    step = see(state, Resource.MESSAGES, {"messages": []}, 3_000)

    assert step is not None
    assert step.state.tracking is Tracking.ACTIVE
