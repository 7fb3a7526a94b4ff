"""Deliveries a second of one worker process, beside the naive version and the bare engine, and the latency at 100/s."""

import asyncio
import os
import time

from bench.stage import Stage, median, open_stage, report, until
from relay.model.events import Event, rfc3339
from relay.model.keyring import Keyring
from relay.model.orders import EventId, OrderId, OrderState, RetailerId
from relay.model.signing import Secret
from relay.receiver import Receipt, Receiver
from relay.serving import serve
from relay.store import keys
from relay.store.order_records import Commit, Registration
from relay.store.orders import Orders
from relay.store.redis import Db, open_client
from relay.store.subscriptions import Configuration, Subscriptions
from relay.vault import Vault, parse_master_keys

EVENTS, ORDERS = 50_000, 500
ROUNDS = 3
SECONDS = 3.0
RETAILER = RetailerId("ret_bench")


class Filler:
    """Writes events through the commit script, as the poll pump would."""

    def __init__(self, stage: Stage) -> None:
        self.db = Db(open_client(stage.redis_url))
        self.vault = Vault(parse_master_keys(stage.master_keys))
        self.orders = Orders(self.db, self.vault)

    async def begin(self, url: str) -> Secret:
        await self.db.run("FLUSHALL")
        await self.db.run("ZADD", keys.RETAILERS, 1, RETAILER)
        wanted = [Registration(OrderId(f"o-{n}")) for n in range(ORDERS)]
        await self.orders.register(RETAILER, wanted, credential=keys.SHARED_CREDENTIAL)
        await self.db.run("DEL", keys.CREDENTIALS)
        secret = Secret(os.urandom(32))
        configuration = Configuration(url, max_in_flight=64)
        subscriptions = Subscriptions(self.db, self.vault)
        await subscriptions.create(RETAILER, configuration, keyring=Keyring.new(secret), start="0-0")
        return secret

    async def commit(self, state: OrderState, count: int) -> OrderState:
        """`count` further events of one order in one commit; the state after it."""
        events = [event(state.order_id, state.sequence + n) for n in range(1, count + 1)]
        after = OrderState(RETAILER, state.order_id, 1, state.version, state.sequence + count)
        assert await self.orders.commit(Commit(state, after, events)) == "ok"
        version = await self.db.run("HGET", keys.order(RETAILER, state.order_id), "v")  # it grows by chance
        return OrderState(RETAILER, state.order_id, 1, int(version), after.sequence)

    async def fill(self) -> None:
        states = [OrderState(RETAILER, OrderId(f"o-{n}"), 1) for n in range(ORDERS)]
        for _ in range(EVENTS // ORDERS // 20):
            states = list(await asyncio.gather(*(self.commit(state, 20) for state in states)))


def event(order_id: str, sequence: int) -> Event:
    id_ = EventId(f"evt_{order_id}_{sequence}".ljust(30, "a"))
    head = f'{{"id":"{id_}","type":"order.status_changed","timestamp":"{rfc3339(round(time.time() * 1000))}",'
    data = f'"data":{{"order_id":"{order_id}","sequence":{sequence},"filler":"{"x" * 740}"}}}}'
    return Event(id_, "order.status_changed", OrderId(order_id), sequence, (head + data).encode())


async def _fill(stage: Stage) -> None:
    filler = Filler(stage)
    await filler.begin(f"{stage.server}/hook")
    await filler.fill()
    await filler.db.aclose()


def _relay(stage: Stage) -> float:
    asyncio.run(_fill(stage))
    before = stage.count("post")
    with stage.running("workers", "deliver", deliver_pumps="1"):
        until(lambda: stage.count("post") - before > 2_000)
        return stage.rate("post", SECONDS)


def _naive(stage: Stage) -> float:
    asyncio.run(Db(open_client(stage.redis_url)).run("FLUSHALL"))
    with stage.running("bench.naive", "deliver", stage.server, stage.redis_url, "6000") as process:
        assert process.stdout is not None
        process.stdout.readline()
        before = stage.count("post")
        until(lambda: stage.count("post") > before + 100)
        return stage.rate("post", SECONDS)


def _engine(stage: Stage) -> float:
    with stage.running("bench.engine", "post", stage.server, str(SECONDS)) as process:
        assert process.stdout is not None
        return float(process.stdout.readline())


async def _latency(stage: Stage, per_second: int, seconds: float) -> list[float]:
    """Milliseconds from commit to the verified receipt, at a steady rate over many orders."""
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    found: list[float] = []
    sent: dict[str, float] = {}

    total = round(per_second * seconds)
    complete = asyncio.Event()

    def received(receipt: Receipt) -> None:
        found.append((time.perf_counter() - sent[receipt.event["id"]]) * 1000)
        if len(found) == total:
            complete.set()

    receiver = Receiver([], on_receipt=received)
    serving = asyncio.create_task(serve(receiver, "127.0.0.1", 0, port.set_result))
    filler = Filler(stage)
    receiver.secrets.append(await filler.begin(f"http://127.0.0.1:{await port}/hook"))
    states = {n: OrderState(RETAILER, OrderId(f"o-{n}"), 1) for n in range(ORDERS)}
    with stage.running("workers", "deliver", deliver_pumps="1"):
        began = time.perf_counter()
        for number in range(total):
            await asyncio.sleep(max(0.0, began + number / per_second - time.perf_counter()))
            state = states[number % ORDERS]
            sent[event(state.order_id, state.sequence + 1).id] = time.perf_counter()
            states[number % ORDERS] = await filler.commit(state, 1)
        async with asyncio.timeout(10):
            await complete.wait()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    await filler.db.aclose()
    return sorted(found[per_second:])  # the first second is the worker's start


def main() -> None:
    naive, engine, relay = [], [], []
    with open_stage() as stage:
        for _ in range(ROUNDS):
            naive.append(_naive(stage))
            engine.append(_engine(stage))
            relay.append(_relay(stage))
        latencies = asyncio.run(_latency(stage, 100, 8))
    p50, p99 = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)]
    rows = [
        ("naive: one arq job a delivery, httpx", f"{median(naive):9.0f} /s   {[round(x) for x in naive]}"),
        ("bare engine", f"{median(engine):9.0f} /s   {[round(x) for x in engine]}"),
        ("the relay, one worker process", f"{median(relay):9.0f} /s   {[round(x) for x in relay]}"),
        ("committed to received at 100/s", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"),
    ]
    report(
        rows,
        {
            "deliveries_per_second": round(median(relay)),
            "ratio_to_naive": round(median(relay) / median(naive), 2),
            "ratio_to_engine": round(median(relay) / median(engine), 3),
            "latency_ms": {"p50": round(p50, 1), "p99": round(p99, 1)},
        },
    )


if __name__ == "__main__":
    main()
