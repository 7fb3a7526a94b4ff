"""Each fault of upstream under a budget: it holds in every second as the simulator counts them, no snapshot is damaged,
and everything is found out once the fault is over."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from relay.access import TokenBroker
from relay.model.cadence import Cadence
from relay.model.fold import Fold, Taken
from relay.model.lifecycle import Policy
from relay.model.orders import OrderId, Snapshot, Tracking
from relay.polling import PollPump
from relay.simulator.app import Simulator, SimulatorConfig
from relay.simulator.faults import parse
from relay.store.order_records import Registration
from relay.store.tokens import StoredTokens
from relay.upstream import tokens as tokens_module
from relay.upstream.tokens import Tokens
from tests.e2e.test_credentials import Keys, minting
from tests.support.budget import held
from tests.support.rig import Rig, eventually, open_rig

pytestmark = pytest.mark.timeout(150)

BUDGET, ORDERS = 100, 8
#: As in production, but a hundred times as fast; nothing lasts long enough to suspend an order.
POLICY = Policy(Cadence(scale=0.01, floor=0.05), patience_ms=60_000, confirm_after_ms=30, late_ms=300)


class Twisted:
    """A simulator in front of which something garbles answers: `other` gives the next order's handling, `twins` lists
    the first item twice, with a quantity of its own."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self.how = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.how == "other" and scope["path"].endswith("/handling"):
            *before, number, resource = scope["path"].split("/")
            other = f"o-{int(number.removeprefix('o-')) % ORDERS + 1}"
            path = "/".join([*before, other, resource])
            scope = {**scope, "path": path, "raw_path": path.encode()}
        elif self.how == "twins" and scope["path"].endswith("/items"):
            send = _twinned(send)
        await self._simulator.app(scope, receive, send)


def _twinned(send: Any) -> Any:
    start: dict[str, Any] = {}

    async def told(message: Any) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
            return
        body = json.loads(message["body"])
        if body.get("items"):
            body["items"].append({**body["items"][0], "quantity": 77})
        raw = json.dumps(body).encode()
        headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
        await send({**start, "headers": [*headers, (b"content-length", str(len(raw)).encode())]})
        await send({**message, "body": raw})

    return told


@dataclass
class Trouble:
    """What is broken, and by which outcome of polls that shows."""

    rig: Rig
    simulator: Simulator
    twisted: Twisted
    keys: Keys
    pumps: list[PollPump]

    def shows(self, outcome: str, often: int) -> Callable[[], bool]:
        before = self._count(outcome)
        return lambda: self._count(outcome) >= before + often

    def _count(self, outcome: str) -> int:
        return sum(pump.tally[outcome] for pump in self.pumps)

    def add(self, *faults: str) -> None:
        for fault in faults:
            self.simulator.faults.add(parse(fault), self.simulator.clock.now().wall)

    def mend(self) -> None:
        self.simulator.faults.clear()
        self.twisted.how = ""
        self.keys.secret = "sim-secret"


def _revoke(trouble: Trouble) -> None:
    trouble.keys.secret = "revoked"
    trouble.simulator.tokens.expire()


def _close_the_token_endpoint(trouble: Trouble) -> None:
    trouble.add("503:1:resource=token")
    trouble.simulator.tokens.expire()


def _twist(how: str) -> Callable[[Trouble], None]:
    return lambda trouble: setattr(trouble.twisted, "how", how)


def _faults(*faults: str) -> Callable[[Trouble], None]:
    return lambda trouble: trouble.add(*faults)


FAULTS: dict[str, tuple[Callable[[Trouble], None], str, int]] = {
    "429": (_faults("429:1"), "throttled", 5),
    "half of the requests time out": (_faults("timeout:0.5"), "timeout", 10),
    "latency rises tenfold": (_faults("latency:300ms:1"), "unchanged", 60),
    "the token endpoint is down": (_close_the_token_endpoint, "token_endpoint", 5),
    "the credential is revoked": (_revoke, "credential_refused", 5),
    "another order's data": (_twist("other"), "nonsense", 5),
    "duplicated ids": (_twist("twins"), "changed", 5),
    "nothing but nonsense": (_faults("wrong-type:0.4", "malformed:0.4", "error-200:0.4"), "malformed", 10),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_budget_holds_and_nothing_is_damaged_or_lost(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(tokens_module, "PAUSES", {"credential_refused": (0.3, 1.0), "token_endpoint": (0.2, 0.5)})
    monkeypatch.setattr(tokens_module, "BACK_OFF", 0.2)
    breaks, outcome, often = FAULTS[name]

    async def main() -> None:
        simulator = Simulator(SimulatorConfig(orders=ORDERS, speed=1500, seed=3, user_ids=False))
        twisted, keys = Twisted(simulator), Keys()
        async with open_rig(redis_url, twisted) as rig, minting(rig) as http:
            await rig.arms.set_rate("shared", BUDGET)
            wanted = [Registration(OrderId(f"o-{n + 1}"), f"user-{n + 1}") for n in range(ORDERS)]
            await rig.orders.register(rig.retailer_id, wanted, credential="shared")
            broker = TokenBroker(rig.orders, Tokens(http, StoredTokens(rig.db, rig.vault)), keys.find)
            pumps = [rig.poll(POLICY, broker=broker) for _ in range(2)]
            await eventually(lambda: _started(rig), within=30)

            trouble = Trouble(rig, simulator, twisted, keys, pumps)
            shown = trouble.shows(outcome, often)
            breaks(trouble)
            await eventually(shown, within=30)
            trouble.mend()

            await eventually(lambda: _ended(rig, simulator), within=90)
            await rig.stop()
            await _prove(rig, simulator)
            assert simulator.traffic.max_in_a_second > BUDGET / 2
            held(rig.engine, simulator.traffic, BUDGET)

    asyncio.run(main())


async def _started(rig: Rig) -> bool:
    return len([one for one in await rig.events() if one["type"] == "order.tracking_started"]) == ORDERS


async def _ended(rig: Rig, simulator: Simulator) -> bool:
    simulator.tick()
    states = [await rig.state(name) for name in simulator.world.orders]
    return all(state.tracking is Tracking.ENDED for state in states)


async def _prove(rig: Rig, simulator: Simulator) -> None:
    """What is stored, and what the events tell, is what upstream served last; and no order was ever suspended."""
    folds: dict[str, Fold] = {}
    for event in await rig.events():
        assert folds.setdefault(event["data"]["order_id"], Fold()).take(event) is Taken.FOLDED
        assert event["type"] != "order.tracking_suspended"
    for order_id, order in msgspec.to_builtins(simulator.report())["orders"].items():
        answers = order["answers"]
        truth = Snapshot(answers["handling"], answers["items"], answers["messages"])
        assert folds[order_id].differences(truth) == [], order_id
        assert folds[order_id].differences((await rig.state(order_id)).snapshot) == [], order_id
