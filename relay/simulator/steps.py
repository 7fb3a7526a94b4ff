"""The steps of a scenario, and doing one to an order. Pure.

A step is done only if the state that it finds allows it, so a customer's decision that came through the API before the
scripted one simply stands, and nothing happens to an order that has ended.
"""

from dataclasses import dataclass
from typing import Any

from relay.simulator.clock import Moment
from relay.simulator.world import DECISIONS, STATUSES, Order, World

Json = Any


@dataclass(frozen=True, slots=True)
class Step:
    """`verb` with its subject and value, `after` simulated seconds from the order's start."""

    after: float
    verb: str
    subject: str = ""
    value: Json = None


def perform(world: World, order: Order, step: Step, now: Moment, by: str = "scenario") -> None:
    """Do a step if the order's present state still allows it."""
    if order.ended:
        return
    if step.verb == "say":
        world.say(order, step.subject, step.value, now, by)
    elif step.verb in ("status", "handling"):
        world.handle(order, {"status": step.value} if step.verb == "status" else step.value, now, by)
    elif step.verb == "add":
        world.set_item(order, step.subject, step.value, now, by)
    elif step.subject in order.items:
        _perform_on_item(world, order, step, now, by)


def _perform_on_item(world: World, order: Order, step: Step, now: Moment, by: str) -> None:
    decision = order.items[step.subject].get("replacement_status")
    if step.verb == "remove":
        world.remove_item(order, step.subject, now, by)
    elif decision in DECISIONS:
        return
    elif step.verb == "suggest":
        world.suggest(order, step.subject, step.value, now, by)
    elif step.verb == "item" and decision is None:
        world.set_item(order, step.subject, step.value, now, by)
    elif decision == "PENDING" and step.verb == "withdraw":
        patch = {"status": "pending", "replacement": None, "replacement_status": None}
        world.set_item(order, step.subject, patch, now, by)
    elif decision == "PENDING" and step.verb == "decide":
        world.decide(order, step.subject, step.value, now, by)


def next_status(order: Order) -> str:
    """The status that follows on the straight way; the same one when there is none."""
    straight = [status for status in STATUSES if status != "canceled"]
    if order.ended or order.status not in straight:
        return order.status
    return straight[straight.index(order.status) + 1]
