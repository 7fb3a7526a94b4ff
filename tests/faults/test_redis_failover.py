"""Sentinels fail over under load: workers go on by themselves, what was replicated is kept, repeats are known."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from relay.model.fold import Fold
from relay.store.log import Log
from relay.store.redis import Db, open_client
from tests.support.rig import eventually
from tests.support.scenes import Scene, open_scene_on, patiently
from tests.support.servers import GOOD, Server
from tests.support.tools import need

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("busy")]


@dataclass
class Cell:
    primary: Server
    replica: Server
    sentinels: list[Server]

    @property
    def url(self) -> str:
        nodes = ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels)
        return f"redis+sentinel://{nodes}/main/0"


@asynccontextmanager
async def _cell(tmp_path: Path) -> AsyncIterator[Cell]:
    """A primary, its replica and three Sentinels that take a second to believe that it is dead."""
    program = need("redis-server")
    primary, replica = Server(program, tmp_path / "a", *GOOD), Server(program, tmp_path / "b", *GOOD)
    started: list[Server] = []
    try:
        for server in (primary, replica):
            started.append(server)
            await asyncio.to_thread(server.start)
        replica.ask("REPLICAOF", "127.0.0.1", primary.port)
        await eventually(lambda: _link_up(replica), within=40)
        sentinels = []
        for number in range(3):
            folder = tmp_path / f"s{number}"
            folder.mkdir()
            file = folder / "sentinel.conf"
            file.write_text(
                f"sentinel monitor main 127.0.0.1 {primary.port} 2\nsentinel down-after-milliseconds main 1000\n"
                "sentinel failover-timeout main 5000\nsentinel parallel-syncs main 1\n"
            )
            sentinels.append(Server(program, folder, str(file), "--sentinel"))
            started.append(sentinels[-1])
            await asyncio.to_thread(sentinels[-1].start)
        cell = Cell(primary, replica, sentinels)
        # They make each other's acquaintance at once, and have their usual habits from then on.
        for publish, info in ((100, 500), (2_000, 10_000)):
            for one in sentinels:
                one.ask("SENTINEL", "DEBUG", "publish-period", publish, "info-period", info)
            await eventually(lambda: all(_knows(one) for one in sentinels), within=40)
        yield cell
    finally:
        for server in reversed(started):
            await asyncio.to_thread(server.stop, kill=True)


def _link_up(replica: Server) -> bool:
    info: Any = replica.ask("INFO", "replication")
    return bool(info["master_link_status"] == "up")


def _knows(sentinel: Server) -> bool:
    """A Sentinel that knows the two others and the replica."""
    answer: Any = sentinel.ask("SENTINEL MASTERS")
    main = answer["main"] if isinstance(answer, dict) else {}
    return bool(main.get("num-other-sentinels") == 2 and main.get("num-slaves") == 1)


def _scene(cell: Cell, tmp_path: Path, speed: float = 600) -> AbstractAsyncContextManager[Scene]:
    return open_scene_on(cell.url, tmp_path, orders=10, speed=speed)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_the_primary_is_killed_under_load(tmp_path: Path) -> None:
    async def main() -> None:
        async with _cell(tmp_path) as cell, _scene(cell, tmp_path) as scene:
            receipts: list[tuple[str, int, str, bytes]] = []
            note = scene.rig.receiver.on_receipt
            assert note is not None

            def noting(receipt: Any) -> None:
                data = receipt.event["data"]
                if "order_id" in data:
                    receipts.append((data["order_id"], data["sequence"], receipt.event["id"], receipt.body))
                note(receipt)

            scene.rig.receiver.on_receipt = noting
            workers = [scene.workers.start() for _ in range(2)]
            async with scene.fed(1, 1.0):
                await eventually(lambda: len(receipts) > 40, within=60)
            # The replica falls behind: what is committed and delivered from here on is lost with the primary.
            cell.replica.ask("REPLICAOF", "127.0.0.1", 1)
            replicated = {event["id"]: event for event in await _log_of(cell.replica, scene)}
            before = len(receipts)
            await eventually(lambda: len(receipts) > before + 10, within=60)
            before = len(receipts)
            cell.primary.stop(kill=True)
            killed = time.monotonic()
            await eventually(lambda: _role(cell.replica) == "role:master", within=60)
            promoted = time.monotonic() - killed
            events = len(await _log_of(cell.replica, scene))
            await eventually(lambda: len(receipts) > before + 20, within=60)

            async def committed_more() -> bool:
                return len(await _log_of(cell.replica, scene)) > events

            await eventually(committed_more, within=60)
            recovered = time.monotonic() - killed
            await eventually(lambda: patiently(scene.ended), within=90)
            await eventually(lambda: patiently(scene.rig.idle), within=60)

            assert [worker.poll() for worker in workers] == [None, None]  # the same processes all along
            log = {event["id"]: event for event in await scene.rig.events()}
            assert replicated.keys() <= log.keys()
            assert all(log[name] == event for name, event in replicated.items())
            assert await eventually(scene.rig.balanced, within=30)
            assert log.keys() <= {name for _, _, name, _ in receipts}
            known, latest = _recognisable(receipts)
            # Some of what was lost had been delivered; who takes the later event of a sequence has what the log has.
            assert sum(known.values()) > 0
            mine = {
                (e["data"]["order_id"], e["data"]["sequence"]): e["id"] for e in log.values() if "order_id" in e["data"]
            }
            assert {place: latest[place] for place in mine} == mine
            print(json.dumps({"promoted_s": round(promoted, 1), "recovered_s": round(recovered, 1), **known}))

    run(main())


def _recognisable(receipts: list[tuple[str, int, str, bytes]]) -> tuple[dict[str, int], dict[tuple[str, int], str]]:
    """Counts of what a receiver sees twice: the same id again; another id (or other content) under a sequence that it
    has already, which is what an event of a lost commit looks like. And the id that came last
    for each order and sequence."""
    ids: dict[str, bytes] = {}
    places: dict[tuple[str, int], str] = {}
    found = {"repeats": 0, "other_content": 0, "other_ids": 0}
    for order, sequence, name, body in receipts:
        if name in ids:
            found["repeats"] += 1
            found["other_content"] += ids[name] != body
        elif places.get((order, sequence), name) != name:
            found["other_ids"] += 1
        ids[name] = body
        places[order, sequence] = name
    return found, places


def _role(server: Server) -> str:
    with suppress(Exception):
        info: Any = server.ask("INFO", "replication")
        return f"role:{info['role']}"
    return ""


async def _log_of(server: Server, scene: Scene) -> list[dict[str, Any]]:
    """The retailer's log as this server has it."""
    db = Db(open_client(server.url))
    try:
        return [json.loads(one.body) for one in await Log(db).after(scene.rig.retailer_id, "0-0", 100_000)]
    finally:
        await db.aclose()


def test_a_demoted_primary_that_still_answers(tmp_path: Path) -> None:
    """A failover that is asked for: until it is demoted, the old primary takes what is lost; connections to it stay
    open, and it answers and refuses to write. Every order goes on from what the new one has, and comes to its end."""

    async def main() -> None:
        async with _cell(tmp_path) as cell, _scene(cell, tmp_path, speed=1_200) as scene:
            worker = scene.workers.start()
            async with scene.fed(1, 1.0):
                await eventually(lambda: len(scene.rig.receipts) > 20, within=60)
            cell.sentinels[0].ask("SENTINEL", "FAILOVER", "main")
            await eventually(lambda: _role(cell.replica) == "role:master", within=60)
            before = len(scene.rig.receipts)
            await eventually(lambda: len(scene.rig.receipts) > before + 60 or scene.simulated_all, within=60)
            # A Sentinel waits eight seconds before it does this.
            cell.primary.ask("REPLICAOF", "127.0.0.1", cell.replica.port)
            verified = scene.rig.receiver.counters.verified
            await eventually(lambda: patiently(scene.rig.subscribe), within=30)  # the whole log once more
            await eventually(lambda: scene.rig.receiver.counters.verified > verified + 10, within=60)
            await eventually(lambda: patiently(scene.ended), within=90)
            await eventually(lambda: patiently(scene.rig.idle), within=60)

            assert worker.poll() is None
            assert await eventually(scene.rig.balanced, within=30)
            folds = {name: Fold() for name in scene.simulator.world.orders}
            for event in await scene.rig.events():
                folds[event["data"]["order_id"]].take(event)
            for name, fold in folds.items():
                assert fold.differences((await scene.rig.state(name)).snapshot) == [], name

    run(main())
