"""A Redis that fills up: the API and polling shed, deliveries drain, and everything goes on when memory is free."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.exceptions import OutOfMemoryError

from relay.errors import STORE_FULL
from tests.support.fleet import found_after
from tests.support.rig import eventually
from tests.support.scenes import Scene, finish, open_scene
from tests.support.servers import free_port
from tests.support.workers import Workers, metric

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("busy")]
ADMIN = "an-operators-key-of-the-tests"


@asynccontextmanager
async def open_api_process(workers: Workers) -> AsyncIterator[httpx.AsyncClient]:
    """The API as a process of its own."""
    port = free_port()
    environment = workers.environment | {"RELAY_PORT": str(port), "RELAY_ADMIN_KEY": ADMIN}
    with workers.logs.open("ab") as log:
        process = await asyncio.to_thread(
            subprocess.Popen, [sys.executable, "-m", "relay", "api"], env=environment, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:

            async def up() -> bool:
                with suppress(httpx.TransportError):
                    return (await client.get("/readyz")).status_code == 200
                return False

            await eventually(up, within=40)
            yield client
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 20)


async def _fill(scene: Scene, limit_mb: int) -> None:
    """Ballast until Redis takes nothing any more, however small."""
    client = scene.rig.db.client
    await client.config_set("maxmemory", f"{limit_mb}mb")
    for size in (1_000_000, 100_000, 10_000, 1_000, 10):
        for number in range(10_000):
            try:
                await client.set(f"ballast:{size}:{number}", b"x" * size)
            except OutOfMemoryError:
                break


async def _free(scene: Scene) -> None:
    client = scene.rig.db.client
    async for key in client.scan_iter("ballast:*", count=1000):
        await client.delete(key)


def test_full_redis_is_survived_without_loss(tmp_path: Path) -> None:
    """New orders come all along, so there is a backlog when Redis is full, and work when it is not any more."""

    async def main() -> None:
        async with open_scene(tmp_path, orders=6, speed=1_500) as scene, open_api_process(scene.workers) as api:
            ports = {kind: free_port() for kind in ("poll", "deliver", "maintain")}
            workers = [scene.workers.start(kind, metrics_port=str(port)) for kind, port in ports.items()]
            made = await api.post("/v1/retailers", json={"name": "Corner"}, headers=_bearer(ADMIN))
            retailer = made.json()["id"]
            key = (await api.post(f"/v1/retailers/{retailer}/keys", json={}, headers=_bearer(ADMIN))).json()["key"]
            headers = _bearer(key)
            assert (await api.post("/v1/orders", json=_order("kept"), headers=headers)).status_code == 201
            async with scene.fed(1, 1.0):
                await eventually(lambda: len(scene.rig.receipts) > 20, within=60)
                scene.rig.receiver.fail_rate = 1.0  # a backlog, to be drained while Redis is full
                await eventually(lambda: _waiting(scene, 5), within=60)
                await _fill(scene, 48)
                await eventually(lambda: _is(ports["poll"], "relay_shedding", 1), within=60)
                scene.rig.receiver.fail_rate = 0.0
                await _sheds(scene, api, headers, ports["poll"])
                await _free(scene)
                await eventually(lambda: _is(ports["poll"], "relay_shedding", 0), within=60)
                assert (await eventually(lambda: _taken(api, headers), within=60)).status_code == 201
                found = time.time()
                await eventually(lambda: found_after(scene, found), within=60)
            assert [worker.poll() for worker in workers] == [None] * 3
            await finish(scene)

    asyncio.run(main())


async def _sheds(scene: Scene, api: httpx.AsyncClient, headers: dict[str, str], poll_port: int) -> None:
    """The API takes nothing new and reads, polling pauses, deliveries drain."""
    refused = await eventually(lambda: _refusal(api, headers), within=60)
    assert refused.headers["content-type"] == "application/problem+json"
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["code"] == STORE_FULL
    assert (await api.get("/v1/orders/kept", headers=headers)).status_code == 200
    await eventually(scene.rig.idle, within=60)
    polled = await metric(poll_port, "relay_polls_total")
    await asyncio.sleep(3)  # six turns of a pump: none of them claims anything
    assert await metric(poll_port, "relay_polls_total") == polled
    assert await scene.rig.balanced()
    assert (await api.delete("/v1/orders/kept?purge=true", headers=headers)).status_code in (202, 503)


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def _order(order_id: str) -> dict[str, Any]:
    return {"order_id": order_id, "access_token": {"token": "good-token", "expires_at": "2100-01-01T00:00:00Z"}}


async def _waiting(scene: Scene, count: int) -> bool:
    return sum(account.waiting for account in await scene.rig.accounts()) >= count


async def _is(port: int, name: str, value: float) -> bool:
    return await metric(port, name) == value


async def _refusal(api: httpx.AsyncClient, headers: dict[str, str]) -> httpx.Response | None:
    answer = await api.post("/v1/orders", json=_order("late"), headers=headers)
    return answer if answer.status_code == 503 else None


async def _taken(api: httpx.AsyncClient, headers: dict[str, str]) -> httpx.Response | None:
    answer = await api.post("/v1/orders", json=_order("after"), headers=headers)
    return answer if answer.status_code == 201 else None
