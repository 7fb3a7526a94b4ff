"""Unchanged polls a second of one worker process, beside the naive version and the bare engine, in one run."""

import asyncio
import signal
import socket
import time

from bench.stage import Stage, exposition, median, open_stage, report, until
from relay.model.orders import OrderId, RetailerId
from relay.store import keys
from relay.store.order_records import Registration, UserToken
from relay.store.orders import Orders
from relay.store.redis import Db, open_client
from relay.vault import Vault, parse_master_keys

ORDERS = 3_000
#: Orders of the measurement of memory.
MANY = 100_000
ROUNDS = 3
SECONDS = 5.0
#: The relay and the bare engine take turns: the machine's speed changes by half within seconds.
PAIRS, TURN = 15, 2.0
RETAILER = RetailerId("ret_bench")


async def _register(stage: Stage, count: int = ORDERS) -> None:
    db = Db(open_client(stage.redis_url))
    await db.run("FLUSHALL")
    orders = Orders(db, Vault(parse_master_keys(stage.master_keys)))
    wanted = [Registration(OrderId(f"o-{n}"), None, UserToken("t")) for n in range(count)]
    for start in range(0, count, 500):
        await orders.register(RETAILER, wanted[start : start + 500], credential=keys.SHARED_CREDENTIAL)
    await db.aclose()


async def _bytes_per_order(stage: Stage) -> float:
    """Everything that one of many orders costs besides its events: Redis's memory with all of them read, less what it
    had before."""
    db = Db(open_client(stage.redis_url))
    await db.run("FLUSHALL")
    before = await _used(db)
    await db.aclose()
    await _register(stage, MANY)
    count = stage.count("get")
    with stage.running("workers", "poll", poll_pumps="1"):
        await asyncio.to_thread(until, lambda: stage.count("get") - count >= 3 * MANY, 300.0)
    db = Db(open_client(stage.redis_url))
    events = [keys.log(RETAILER), keys.event_ids(RETAILER), *(keys.trail(RETAILER, f"o-{n}") for n in range(MANY))]
    for start in range(0, len(events), 1_000):
        await db.run("DEL", *events[start : start + 1_000])
    used = await _used(db)
    await db.run("FLUSHALL")
    await db.aclose()
    return (used - before) / MANY


async def _used(db: Db) -> int:
    return int((await db.run("INFO", "memory"))["used_memory"])


def _pairs(stage: Stage) -> tuple[list[float], list[float], float]:
    """GETs a second of the relay and of the bare engine, in turn, and Redis round trips an unchanged poll. The relay
    stands still while the engine runs."""
    asyncio.run(_register(stage))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"poll_scale": "0.0001", "poll_floor": "100ms", "poll_pumps": "1", "metrics_port": str(port)}
    before = stage.count("get")
    relay, engine = [], []
    with stage.running("workers", "poll", **settings) as worker:
        until(lambda: stage.count("get") - before > 6 * ORDERS)
        first = exposition(port)
        for _ in range(PAIRS):
            relay.append(stage.rate("get", TURN))
            worker.send_signal(signal.SIGSTOP)
            engine.append(_engine(stage))
            worker.send_signal(signal.SIGCONT)
            time.sleep(TURN / 4)  # until it is at work again
        last = exposition(port)
    trips = last["relay_redis_round_trips_total"] - first["relay_redis_round_trips_total"]
    return relay, engine, trips / (last["relay_polls_total"] - first["relay_polls_total"])


def _naive(stage: Stage) -> float:
    before = stage.count("get")
    with stage.running("bench.naive", "poll", stage.server, stage.redis_url, str(ORDERS)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        until(lambda: stage.count("get") > before)
        return stage.rate("get", SECONDS)


def _engine(stage: Stage) -> float:
    with stage.running("bench.engine", "get", stage.server, str(TURN)) as process:
        assert process.stdout is not None
        return float(process.stdout.readline())


def main() -> None:
    with open_stage() as stage:
        naive = [_naive(stage) for _ in range(ROUNDS)]
        relay, engine, trips = _pairs(stage)
        size = asyncio.run(_bytes_per_order(stage))
    ratios = [one / bare for one, bare in zip(relay, engine, strict=True)]
    rows = [
        ("naive: one arq job an order, httpx", f"{median(naive):9.0f} GET/s   {[round(x) for x in naive]}"),
        ("bare engine", f"{median(engine):9.0f} GET/s   {[round(x) for x in engine]}"),
        ("the relay, one worker process", f"{median(relay):9.0f} GET/s   {[round(x) for x in relay]}"),
        ("the relay to the bare engine, in pairs", f"{median(ratios):9.2f}         {[round(x, 2) for x in ratios]}"),
        ("round trips an unchanged poll", f"{trips:9.4f}"),
        ("bytes an order of ten items, of 100,000", f"{size:9.0f}"),
    ]
    report(
        rows,
        {
            "polls_per_second": round(median(relay)),
            "ratio_to_naive": round(median(relay) / median(naive), 2),
            "ratio_to_engine": round(median(ratios), 3),
            "round_trips_per_poll": round(trips, 4),
            "bytes_per_order": round(size),
        },
    )


if __name__ == "__main__":
    main()
