"""What one hanging endpoint costs the others: 100 endpoints of 100 retailers on one worker process, with the hundredth
well and with it accepting every request and never answering. The rounds alternate, within one run.

Latency is from commit to receipt, of the 99 others. The hundredth gets ten times their events, of many orders.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from bench.delivery import event
from bench.stage import Stage, median, open_stage, report
from relay.model.keyring import Keyring
from relay.model.orders import OrderId, OrderState, RetailerId
from relay.model.signing import Secret
from relay.serving import serve
from relay.store import keys
from relay.store.order_records import Commit, Registration
from relay.store.orders import Orders
from relay.store.redis import Db, open_client
from relay.store.subscriptions import Configuration, Subscriptions
from relay.vault import Vault, parse_master_keys

ENDPOINTS = 100
ORDERS = 20
#: Events a second over all endpoints, and how long a round is measured (seconds) after its worker has started.
RATE, SECONDS = 150, 8.0
ROUNDS = 5
#: So that a round holds hanging, time-outs, an open circuit and probes.
DEADLINE = "2s"


class Endpoints:
    """An ASGI app that notes when each event came; the hundredth hangs when told to."""

    def __init__(self) -> None:
        self.hangs = False
        self.came: dict[str, float] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if self.hangs and scope["path"] == f"/{ENDPOINTS - 1}":
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        for name, value in scope["headers"]:
            if name == b"webhook-id":
                self.came.setdefault(value.decode(), time.perf_counter())
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


class Load:
    """Commits events of all retailers in turn, those of the hundredth ten times as often."""

    def __init__(self, stage: Stage, url: str) -> None:
        self.db = Db(open_client(stage.redis_url))
        self.vault = Vault(parse_master_keys(stage.master_keys))
        self.orders = Orders(self.db, self.vault)
        self.url = url
        self.states: dict[tuple[int, int], OrderState] = {}

    async def begin(self) -> None:
        await self.db.run("FLUSHALL")
        subscriptions = Subscriptions(self.db, self.vault)
        for number in range(ENDPOINTS):
            retailer = RetailerId(f"ret_{number}")
            await self.db.run("ZADD", keys.RETAILERS, number + 1, retailer)
            names = [OrderId(f"r{number}-o{n}") for n in range(ORDERS)]
            await self.orders.register(retailer, [Registration(name) for name in names], credential="shared")
            for n, name in enumerate(names):
                self.states[number, n] = OrderState(retailer, name, 1)
            await subscriptions.create(
                retailer, Configuration(f"{self.url}/{number}"), keyring=Keyring.new(Secret.new()), start="0-0"
            )
        await self.db.run("DEL", keys.CREDENTIALS)

    async def commit(self, turn: int) -> tuple[int, str, float]:
        """One event: whose, its id, and when its commit began."""
        number = ENDPOINTS - 1 if turn % 11 == 0 else turn % (ENDPOINTS - 1)
        at = (number, turn // ENDPOINTS % ORDERS)
        state = self.states[at]
        made = event(state.order_id, state.sequence + 1)
        after = OrderState(state.retailer_id, state.order_id, 1, state.version, state.sequence + 1)
        began = time.perf_counter()
        assert await self.orders.commit(Commit(state, after, [made])) == "ok"
        version = int(await self.db.run("HGET", keys.order(state.retailer_id, state.order_id), "v"))  # grows by chance
        self.states[at] = OrderState(state.retailer_id, state.order_id, 1, version, after.sequence)
        return number, made.id, began


async def _round(stage: Stage, endpoints: Endpoints, url: str, *, hangs: bool) -> list[float]:
    """Milliseconds from commit to receipt at the 99, sorted."""
    endpoints.hangs, endpoints.came = hangs, {}
    load = Load(stage, url)
    await load.begin()
    sent: dict[str, float] = {}
    with stage.running("workers", "deliver", deliver_pumps="1", delivery_timeout=DEADLINE):
        warm = RATE * 2
        began = time.perf_counter()
        for turn in range(warm + round(RATE * SECONDS)):
            await asyncio.sleep(max(0.0, began + turn / RATE - time.perf_counter()))
            number, id_, at = await load.commit(turn)
            if turn >= warm and number != ENDPOINTS - 1:
                sent[id_] = at
        await eventually(lambda: sent.keys() <= endpoints.came.keys())
    await load.db.aclose()
    return sorted((endpoints.came[id_] - at) * 1000 for id_, at in sent.items())


async def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def _measure(stage: Stage) -> tuple[list[list[float]], list[list[float]]]:
    endpoints = Endpoints()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(endpoints, "127.0.0.1", 0, port.set_result, grace=1))
    url = f"http://127.0.0.1:{await port}"
    well: list[list[float]] = []
    ill: list[list[float]] = []
    for number in range(ROUNDS):
        for hangs in (False, True) if number % 2 == 0 else (True, False):
            (ill if hangs else well).append(await _round(stage, endpoints, url, hangs=hangs))
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    return well, ill


def main() -> None:
    with open_stage() as stage:
        well, ill = asyncio.run(_measure(stage))

    def at(rounds: list[list[float]], share: float) -> list[float]:
        return [found[int(len(found) * share)] for found in rounds]

    def shown(values: list[float]) -> str:
        return f"{median(values):7.2f} ms   {[round(value, 2) for value in values]}"

    p50, p99 = (at(well, 0.5), at(ill, 0.5)), (at(well, 0.99), at(ill, 0.99))
    rows = [
        ("p50 of the 99, all well", shown(p50[0])),
        ("p50 of the 99, one hanging", shown(p50[1])),
        ("p99 of the 99, all well", shown(p99[0])),
        ("p99 of the 99, one hanging", shown(p99[1])),
    ]
    ratios = [round(median(with_) / median(without), 2) for without, with_ in (p50, p99)]
    report(rows, {"p50_ratio": ratios[0], "p99_ratio": ratios[1]})


if __name__ == "__main__":
    main()
