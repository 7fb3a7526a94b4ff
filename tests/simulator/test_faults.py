"""Each fault: how it is written, whom it hits, what it does."""

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
import pytest

from relay.errors import InvalidInput
from relay.simulator.app import Simulator, SimulatorConfig
from relay.simulator.faults import Fault, parse
from relay.simulator.spoiling import HUGE_BYTES
from tests.simulator.support import TOKEN, Got, Wall, ask, asking, exchange, poll_path, raw, run, serving, still


def faulty(*faults: str, **settings: Any) -> Simulator:
    return still(faults=faults, orders=4, **settings)


def poll(simulator: Simulator, resource: str = "items", order_id: str = "o-1") -> Got:
    return ask(simulator.app, "GET", poll_path(order_id, resource))


def is_served(simulator: Simulator, resource: str = "items") -> bool:
    return simulator.ledger.answer("o-1", resource) is not None


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("500:0.05", Fault("500", 0.05)),
        ("timeout:0.01", Fault("timeout", 0.01)),
        ("latency", Fault("latency", duration=0.2)),
        ("latency:200ms:0.5", Fault("latency", 0.5, 0.2)),
        ("latency:0.5:1.5s", Fault("latency", 0.5, 1.5)),
        ("skew:-2m", Fault("skew", duration=-120)),
        (
            "cut:1:resource=items:order=o-2:count=3:for=30s",
            Fault("cut", resource="items", order_id="o-2", count=3, lasts=30),
        ),
        ("403", Fault("403")),
    ],
)
def test_written_faults(spec: str, fault: Fault) -> None:
    assert parse(spec) == fault


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("", "unknown kind"),
        ("200:1", "unknown kind"),
        ("slow", "unknown kind"),
        ("500:2", "from 0 to 1"),
        ("500:often", "neither a probability"),
        ("500:1:resource=orders", "resource must be"),
        ("500:1:count=many", "count must be"),
        ("500:1:count=0", "count must be"),
        ("500:1:for=soon", "unknown option"),
        ("500:1:color=red", "unknown option"),
        ("500:2s", "takes no duration"),
        ("latency:-1s", "not below 0"),
        ("500:nan", "from 0 to 1"),
    ],
)
def test_faults_that_cannot_be_read(spec: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        Simulator(SimulatorConfig(faults=[spec]))
    assert repr(spec) in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 429, 500, 502, 503, 504])
def test_any_error_status(status: int) -> None:
    simulator = faulty(str(status))
    got = poll(simulator)

    assert (got.status, got.json["status"]) == (status, status)
    assert ("retry-after" in got.headers) == (status in (429, 503))
    assert not is_served(simulator)


@pytest.mark.parametrize(
    ("kind", "body"),
    [("empty", b""), ("error-200", b'{"error":"Something went wrong","status":500}')],
)
def test_answers_that_say_nothing(kind: str, body: bytes) -> None:
    simulator = faulty(kind)
    got = poll(simulator)

    assert (got.status, got.body) == (200, body)
    assert not is_served(simulator)


def test_malformed() -> None:
    simulator = faulty("malformed")
    got = poll(simulator)

    assert got.body.startswith(b'{"items":[')
    with pytest.raises(msgspec.DecodeError):
        _ = got.json
    assert not is_served(simulator)


def test_huge() -> None:
    simulator = faulty("huge")
    got = poll(simulator)

    assert len(got.body) == HUGE_BYTES
    assert got.json == simulator.world.orders["o-1"].value("items")
    assert not is_served(simulator)


def test_wrong_type_and_wrong_content_type() -> None:
    simulator = faulty("wrong-type:1:resource=items", "wrong-content-type:1:resource=handling")
    got = poll(simulator)
    page = poll(simulator, "handling")

    assert not isinstance(got.json, dict) or not isinstance(got.json["items"], list)
    assert page.headers["content-type"].startswith("text/html")
    assert page.body.startswith(b"<!doctype html>")
    assert not is_served(simulator)
    assert not is_served(simulator, "handling")


def test_reorder_shuffles_and_is_no_fact() -> None:
    simulator = faulty("reorder")
    orders = [tuple(item["id"] for item in poll(simulator).json["items"]) for _ in range(8)]

    assert len(set(orders)) > 1
    assert len({frozenset(order) for order in orders}) == 1
    assert is_served(simulator)
    assert simulator.ledger.facts == []


def test_unknown_fields_and_values_do_not_flap() -> None:
    simulator = faulty("unknown")
    order = simulator.world.orders["o-1"]
    item_id = next(iter(order.items))
    now = simulator.tick()
    simulator.world.handle(order, {"status": "staging"}, now, "control")
    simulator.world.set_item(order, item_id, {"status": "not_found"}, now, "control")
    simulator.world.say(order, "shopper", "Hi", now, "control")
    for _ in range(3):
        handling, items, messages = (poll(simulator, name).json for name in ("handling", "items", "messages"))

    assert (handling["status"], handling["tip"]) == ("bags_check", None)
    assert items["items"][0]["status"] == "awaiting_restock"
    assert items["metadata"] == {"is_expired": False}
    assert messages["messages"][0]["read"] is False
    assert simulator.ledger.facts == []
    assert order.status == "staging"


def test_unknown_picks_orders_and_stays_with_them() -> None:
    simulator = still(orders=30, faults=["unknown:0.5"])
    strange = [["tip" in poll(simulator, "handling", f"o-{n}").json for n in range(1, 31)] for _ in range(3)]

    assert strange[0] == strange[1] == strange[2]
    assert 5 < sum(strange[0]) < 25


def test_a_chat_expires_only_after_the_end() -> None:
    simulator = faulty("expired-chat")
    order = simulator.world.orders["o-1"]
    now = simulator.tick()
    simulator.world.say(order, "shopper", "Hi", now, "control")
    assert len(poll(simulator, "messages").json["messages"]) == 1
    simulator.world.handle(order, {"status": "delivered"}, now, "control")

    assert poll(simulator, "messages").json == {"messages": []}
    assert poll(simulator, "handling").json["status"] == "delivered"
    assert simulator.ledger.facts == []


def test_skew_shifts_date_and_created_at() -> None:
    simulator = faulty("skew:-90s")
    message = simulator.world.say(simulator.world.orders["o-1"], "shopper", "Hi", simulator.tick(), "control")
    got = poll(simulator, "messages")
    true, told = (datetime.fromisoformat(m["created_at"]) for m in (message, got.json["messages"][0]))

    assert (true - told).total_seconds() == 90
    assert parsedate_to_datetime(got.headers["date"]).timestamp() == int(simulator.clock.now().wall) - 90
    assert is_served(simulator, "messages")


def test_aim_count_and_time() -> None:
    wall = Wall()
    simulator = faulty("500:1:resource=items:order=o-2:count=2", "503:1:resource=messages:for=10s", wall=wall)
    assert [poll(simulator, "items", order_id).status for order_id in ("o-1", "o-2", "o-2", "o-2")] == [
        200,
        500,
        500,
        200,
    ]
    assert [poll(simulator, name).status for name in ("handling", "messages")] == [200, 503]
    wall.now += 10

    assert poll(simulator, "messages").status == 200
    assert simulator.faults.in_force() == []


def test_probability_counts_requests_and_follows_the_seed() -> None:
    def statuses(seed: int) -> list[int]:
        simulator = faulty("500:0.3", seed=seed)
        return [poll(simulator).status for _ in range(200)]

    assert 35 <= Counter(statuses(1))[500] <= 85
    assert statuses(1) == statuses(1) != statuses(2)


def test_writes_and_the_token_endpoint_are_hit_only_when_named() -> None:
    simulator = faulty("500", "503:1:resource=token")
    say = "/v2/post_checkout/chat/o-1/messages"
    assert ask(simulator.app, "POST", say, {"body": "Hi"}).status == 200
    assert ask(simulator.app, "POST", "/v2/oauth/token", {}, token=None).status == 503
    simulator.faults.add(parse("502:1:resource=chat"), 0)

    assert ask(simulator.app, "POST", say, {"body": "again"}).status == 502
    assert len(simulator.world.orders["o-1"].messages) == 1


def test_faults_are_added_listed_and_cleared_at_run_time() -> None:
    simulator = faulty()
    ask(simulator.app, "POST", "/_sim/faults", {"fault": "500:1:resource=items"})
    ask(simulator.app, "POST", "/_sim/faults", {"kind": "404", "resource": "handling", "count": 1})
    assert [poll(simulator, name).status for name in ("items", "handling", "handling")] == [500, 404, 200]
    assert [fault["kind"] for fault in ask(simulator.app, "GET", "/_sim/faults").json["faults"]] == ["500"]
    assert ask(simulator.app, "DELETE", "/_sim/faults").json == {"cleared": 1}

    assert poll(simulator).status == 200


def test_cut_reset_and_timeout_on_the_wire() -> None:
    simulator = still(faults=["cut:1:resource=items", "reset:1:resource=handling", "timeout:1:resource=messages"])

    async def scenario() -> None:
        async with serving(simulator) as address:
            cut = await exchange(address, raw(poll_path("o-1", "items")))
            head, _, body = cut.partition(b"\r\n\r\n")
            whole = simulator.world.orders["o-1"].body("items")
            assert f"content-length: {len(whole)}".encode() in head
            assert whole.startswith(body)
            assert 0 < len(body) < len(whole)
            with pytest.raises(ConnectionResetError):
                await exchange(address, raw(poll_path("o-1", "handling")))
            await _leave_after(address, raw(poll_path("o-1", "messages")), 0.05)
            await _until(lambda: simulator.traffic.by_status["none"] == 3)

    run(scenario())
    assert not any(is_served(simulator, resource) for resource in ("handling", "items", "messages"))


def test_an_answer_later_than_the_clients_patience_was_not_served() -> None:
    simulator = still(faults=["latency:30s:1:count=1", "latency:20ms"])

    async def scenario() -> None:
        async with serving(simulator) as address:
            await _leave_after(address, raw(poll_path("o-1", "items")), 0.05)
            await _until(lambda: simulator.traffic.by_status["none"] == 1)
            assert not is_served(simulator)
            began = asyncio.get_running_loop().time()
            got = await exchange(address, raw(poll_path("o-1", "items")))
            assert got.startswith(b"HTTP/1.1 200 ")
            assert asyncio.get_running_loop().time() - began >= 0.02

    run(scenario())
    assert is_served(simulator)


def test_an_answer_to_a_connection_that_is_closing_was_not_served() -> None:
    class Closing:
        def is_closing(self) -> bool:
            return True

    simulator = still()
    got = run(asking(simulator.app, "GET", poll_path("o-1", "items"), transport=Closing()))

    assert got.status == 200
    assert not is_served(simulator)


async def _leave_after(address: tuple[str, int], request: bytes, patience: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(exchange(address, request), patience)
        raise AssertionError("there was an answer")


async def _until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  the server in this loop offers no event to wait for
            await asyncio.sleep(0.005)


def test_the_rate_limit_holds_in_every_second() -> None:
    wall = Wall()
    simulator = still(wall, rate_limit=5)
    first = [poll(simulator) for _ in range(7)]
    assert [got.status for got in first] == [200] * 5 + [429] * 2
    assert first[-1].headers["retry-after"] == "1"
    wall.now += 0.999
    assert poll(simulator).status == 429
    wall.now += 0.002
    assert [poll(simulator).status for _ in range(6)] == [200] * 5 + [429]
    assert simulator.traffic.report() == {"total": 14, "by_status": {"200": 10, "429": 4}, "max_in_a_second": 8}


def test_a_rate_below_one_stretches_the_window() -> None:
    wall = Wall()
    simulator = still(wall, rate_limit=0.25)
    assert [poll(simulator).status, poll(simulator).headers.get("retry-after")] == [200, "4"]
    wall.now += 4.001

    assert poll(simulator).status == 200


def test_the_token_is_needed_before_anything_is_counted_against_it() -> None:
    simulator = still(rate_limit=1)
    assert [ask(simulator.app, "GET", poll_path("o-1", "items"), token="bad").status for _ in range(3)] == [401] * 3

    assert ask(simulator.app, "GET", poll_path("o-1", "items"), token=TOKEN).status == 200
