"""Many simulated orders on one worker under a budget, for minutes: `python -m bench.endurance [--orders N] ...`.

In the end every order is rebuilt from its events alone and compared with what the simulator answered last. The
simulator counts the changes that its answers showed, and the most requests in any second.
"""

import argparse
import asyncio
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from bench.stage import Stage, exposition, report
from relay.embedded import EmbeddedStore
from relay.model import json_values
from relay.model.fold import Fold, Taken
from relay.model.orders import OrderId, RetailerId, Snapshot
from relay.store import keys
from relay.store.arms import Arms
from relay.store.log import Log
from relay.store.order_records import Registration, UserToken
from relay.store.orders import Orders
from relay.store.redis import Db, open_client
from relay.vault import Vault, generate_master_key, parse_master_keys

RETAILER = RetailerId("ret_bench")
TOKEN = "good-token"  # noqa: S105  the simulator's


async def _register(db: Db, vault: Vault, orders: int, budget: float) -> None:
    await Arms(db).set_rate(keys.SHARED_CREDENTIAL, budget)
    store = Orders(db, vault)
    wanted = [Registration(OrderId(f"o-{n + 1}"), None, UserToken(TOKEN)) for n in range(orders)]
    for start in range(0, orders, 500):
        await store.register(RETAILER, wanted[start : start + 500], credential=keys.SHARED_CREDENTIAL)


async def _folds(db: Db) -> tuple[dict[str, Fold], Counter[str]]:
    """Every order as its events tell it, and the events by type."""
    folds: dict[str, Fold] = {}
    types: Counter[str] = Counter()
    log, position = Log(db), "0-0"
    while entries := await log.after(RETAILER, position, 1_000):
        for entry in entries:
            taken = folds.setdefault(entry.order_id, Fold()).take(json_values.decode(entry.body))
            assert taken is Taken.FOLDED, (entry.order_id, taken)
            types[entry.type] += 1
        position = entries[-1].position
    return folds, types


async def _compare(answers: dict[str, Any], folds: dict[str, Fold], orders: Orders) -> tuple[int, list[str], int]:
    """How many orders were compared, which facts differ, and how many of an order's entries await the second reading
    that confirms that they went."""
    compared, awaited = 0, 0
    lost: list[str] = []
    for order_id, order in answers.items():
        seen = order["answers"]
        if any(value is None for value in seen.values()):
            continue
        compared += 1
        found = folds[order_id].differences(Snapshot(seen["handling"], seen["items"], seen["messages"]))
        if found:
            state = await orders.load_state(RETAILER, OrderId(order_id))
            missing = {} if state is None else state.missing
            gone = {f"{resource.value}[{key}]" for resource, keys_ in missing.items() for key in keys_}
            awaited += len(gone & set(found))
            lost += [f"{order_id}: {fact}" for fact in found if fact not in gone]
    return compared, lost, awaited


async def _measure(options: argparse.Namespace, stage: Stage, port: int) -> None:
    db, vault = Db(open_client(stage.redis_url)), Vault(parse_master_keys(stage.master_keys))
    await _register(db, vault, options.orders, options.budget)
    settings = {"poll_scale": str(1 / options.speed), "poll_floor": "100ms", "late_chat": "2s", "poll_pumps": "1"}
    with stage.running("workers", "all", metrics_port=str(port), **settings) as worker:
        await asyncio.sleep(options.seconds)
        turns = (await asyncio.to_thread(exposition, port))["relay_polls_total"]
        resident = _resident(worker.pid)
    async with httpx.AsyncClient(base_url=stage.server, trust_env=False, timeout=300) as http:
        told = (await http.get("/_sim/report")).json()
    folds, types = await _folds(db)
    compared, lost, awaited = await _compare(told["orders"], folds, Orders(db, vault))
    memory = int((await db.run("INFO", "memory"))["used_memory"])
    await db.aclose()
    requests = told["requests"]
    polls = requests["total"]
    rows = [
        ("orders, and those compared in the end", f"{options.orders}, {compared}"),
        ("changes that the simulator's answers showed", str(told["changes"])),
        ("events", str(sum(types.values()))),
        ("facts that differ in the end", f"{len(lost)} {lost[:5]}"),
        ("entries that went and await the second reading", str(awaited)),
        ("polls a second, of a budget of", f"{polls / options.seconds:.0f}, {options.budget:.0f}"),
        ("turns that came too late to be used", f"{max(0.0, turns - polls):.0f}"),
        ("most requests in any second", str(requests["max_in_a_second"])),
        ("answers by status", str(requests["by_status"])),
        ("worker's memory", f"{resident / 1e6:.0f} MB"),
        ("Redis's memory", f"{memory / 1e6:.0f} MB"),
    ]
    result = {
        "orders": options.orders,
        "changes": told["changes"],
        "events": sum(types.values()),
        "lost": len(lost),
        "polls_per_second": round(polls / options.seconds, 1),
        "budget": options.budget,
        "max_requests_in_a_second": requests["max_in_a_second"],
    }
    report(rows, result)


def _resident(pid: int) -> int:
    """Bytes of a process's memory (Linux)."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return 1024 * int(found[1]) if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.endurance", description=__doc__)
    parser.add_argument("--orders", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--budget", type=float, default=1_500.0, help="requests a second")
    parser.add_argument("--speed", type=float, default=20.0, help="simulated seconds a second")
    parser.add_argument("--port", type=int, default=9802, help="for the worker's metrics")
    options = parser.parse_args()
    with EmbeddedStore() as store:
        command = [sys.executable, "-m", "relay", "simulator", "--port", "0", "--orders", str(options.orders)]
        command += ["--speed", str(options.speed), "--static-token", TOKEN]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            assert found is not None
            stage = Stage(store.url, found[0], generate_master_key("bench"))
            asyncio.run(_measure(options, stage, options.port))
        finally:
            server.terminate()
            server.wait(timeout=10)


if __name__ == "__main__":
    main()
