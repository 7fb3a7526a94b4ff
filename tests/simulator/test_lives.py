"""Whole lives of many orders, polled through the app: valid against the specification, plausible, repeatable."""

import asyncio
from collections import Counter, defaultdict
from datetime import datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from jsonschema import Draft202012Validator

from relay.simulator.app import Simulator
from relay.simulator.world import RESOURCES
from tests.simulator.support import Wall, asking, poll_path, still

SPECIFICATION = Path(__file__).parent.parent / "data" / "post-checkout-openapi.yaml"
SCHEMAS = {"handling": "OrderHandlingResponse", "items": "OrderItemsResponse", "messages": "ChatMessagesResponse"}
ORDERS, MINUTES = 40, 275

#: For (order, resource) the distinct answers, each with the minute of the first poll that showed it.
Lives = dict[tuple[str, str], list[tuple[float, Any]]]


@cache
def specification() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(SPECIFICATION.read_text())
    return document


def closed(schema: Any) -> Any:
    """The same schema with no room for fields that it does not name."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    extra = {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {}
    return {**{key: closed(value) for key, value in schema.items()}, **extra}


@cache
def validator(name: str) -> Draft202012Validator:
    components = closed(specification()["components"])
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": components})


@pytest.fixture(scope="module")
def lives() -> Lives:
    wall = Wall()
    simulator = still(wall, orders=ORDERS)
    answers: Lives = defaultdict(list)
    asyncio.run(_live(simulator, wall, answers))
    return answers


async def _live(simulator: Simulator, wall: Wall, answers: Lives) -> None:
    last: dict[tuple[str, str], bytes] = {}
    for minute in range(MINUTES):
        for order_id in simulator.world.orders:
            for resource in RESOURCES:
                got = await asking(simulator.app, "GET", poll_path(order_id, resource))
                assert (got.status, got.headers["content-type"]) == (200, "application/json")
                if got.body != last.get((order_id, resource)):
                    last[order_id, resource] = got.body
                    answers[order_id, resource].append((minute, got.json))
        wall.now += 60


def test_every_answer_is_valid_and_has_no_other_fields(lives: Lives) -> None:
    for (_, resource), answers in lives.items():
        for _, value in answers:
            validator(SCHEMAS[resource]).validate(value)


def test_a_wrong_answer_would_be_caught() -> None:
    assert not validator("OrderHandlingResponse").is_valid({"status": "bags_check"})
    assert not validator("OrderHandlingResponse").is_valid({"surprise": 1})
    assert not validator("OrderItemsResponse").is_valid({"items": [{"quantity": "1"}]})


def test_every_order_ends_after_a_plausible_time(lives: Lives) -> None:
    ends: Counter[str] = Counter()
    for n in range(1, ORDERS + 1):
        history = [(at, value["status"]) for at, value in lives[f"o-{n}", "handling"]]
        ends[history[-1][1]] += 1
        picking = next(at for at, status in history if status == "picking")

        assert 90 <= history[-1][0] <= 225 + 31
        assert picking <= 11 + 31
        assert not {"delivered", "canceled"} & {status for _, status in history[:-1]}
        last = max(lives[f"o-{n}", resource][-1][0] for resource in RESOURCES)
        assert last == history[-1][0]

    assert set(ends) == {"delivered", "canceled"}


def test_statuses_step_back_and_pickups_are_not_delivered_by_car(
    lives: Lives,
) -> None:
    ways: Counter[str] = Counter()
    for n in range(1, ORDERS + 1):
        statuses = [value["status"] for _, value in lives[f"o-{n}", "handling"]]
        way = [status for status, before in zip(statuses, [None, *statuses], strict=False) if status != before]
        ways["back"] += any(pair == ("staging", "picking") for pair in pairwise(way))
        ways["pickup"] += way[-2:] == ["staging", "delivered"]
        ways["delivery"] += way[-2:] == ["delivering", "delivered"]

    assert min(ways["back"], ways["pickup"], ways["delivery"]) >= 2


def test_items_meet_every_fate_and_never_return(lives: Lives) -> None:
    seen: Counter[str] = Counter()
    for n in range(1, ORDERS + 1):
        gone: set[str] = set()
        answers = [{i["id"]: i for i in value["items"]} for _, value in lives[f"o-{n}", "items"]]
        assert 6 <= len(answers[0]) <= 20
        for before, after in pairwise(answers):
            gone |= before.keys() - after.keys()
            assert not gone & after.keys()
            seen["added"] += len(after.keys() - before.keys())
            seen["removed"] += len(before.keys() - after.keys())
            for item_id in before.keys() & after.keys():
                seen[after[item_id]["status"]] += 1
                seen["quantity"] += before[item_id]["quantity"] != after[item_id]["quantity"]
                seen["replacement"] += before[item_id].get("replacement") != after[item_id].get("replacement")
                seen["withdrawn"] += "replacement" in before[item_id] and "replacement" not in after[item_id]
                seen[after[item_id].get("replacement_status", "none")] += 1
        refused = [i for i in answers[-1].values() if i.get("replacement_status") == "REJECTED"]
        assert all(item["status"] == "refunded" for item in refused)

    wanted = {"added", "removed", "found", "not_found", "replaced", "refunded", "quantity", "replacement", "withdrawn"}
    assert all(seen[kind] for kind in wanted | {"PENDING", "APPROVED", "REJECTED"}), seen


def test_chat_is_chronological_from_both_sides_with_unique_ids(
    lives: Lives,
) -> None:
    senders: Counter[str] = Counter()
    bodies: set[str] = set()
    ids: list[str] = []
    for n in range(1, ORDERS + 1):
        messages = lives[f"o-{n}", "messages"][-1][1]["messages"]
        times = [datetime.fromisoformat(message["created_at"]) for message in messages]
        assert times == sorted(times)
        assert all(message["created_at"].endswith("Z") for message in messages)
        ids += [message["id"] for message in messages]
        senders.update(message["sender"] for message in messages)
        bodies |= {message["body"] for message in messages}

    assert len(ids) == len(set(ids))
    assert min(senders["customer"], senders["shopper"]) > 20
    assert len(bodies) > 60


def test_handling_is_edited_and_shoppers_change(lives: Lives) -> None:
    edited: Counter[str] = Counter()
    for n in range(1, ORDERS + 1):
        answers = [value for _, value in lives[f"o-{n}", "handling"]]
        for before, after in pairwise(answers):
            edited.update(
                key for key in ("shopper", "notes", "address", "coordinates") if before.get(key) != after.get(key)
            )

    assert edited["shopper"] >= ORDERS
    assert min(edited["notes"], edited["address"], edited["coordinates"]) >= 1


def _history(seed: int, jumps: list[float]) -> tuple[list[Any], bytes]:
    wall = Wall()
    simulator = still(wall, orders=5, seed=seed)
    for jump in jumps:
        wall.now += jump
        simulator.tick()
    truth = {order_id: order.truth() for order_id, order in simulator.world.orders.items()}
    return list(simulator.world.happened), msgspec.json.encode(truth)


def test_the_same_seed_gives_the_same_history_however_often_it_is_looked_at() -> None:
    once = _history(3, [6 * 3600.0])

    assert _history(3, [60.0] * 360) == once
    assert _history(4, [6 * 3600.0]) != once


def test_what_happened_carries_both_times() -> None:
    wall = Wall()
    simulator = still(wall, orders=1, speed=60)
    start = simulator.clock.start
    wall.now += 300
    simulator.tick()
    happened = simulator.world.happened

    assert len(happened) > 20
    assert all(one.at == pytest.approx(wall.now - 300 + (one.simulated_at - start) / 60) for one in happened)
    assert [one.simulated_at for one in happened] == sorted(one.simulated_at for one in happened)
