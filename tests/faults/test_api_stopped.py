"""The API told to end, or killed, with requests in flight: what was begun is answered, or has its effect once."""

import asyncio
import signal
from collections import Counter
from pathlib import Path

import httpx
import msgspec
import pytest

from relay.store.idempotency import RUNNING_S
from tests.support.fleet import Member, open_fleet, order
from tests.support.rig import eventually
from tests.support.scenes import Scene, finish, open_scene
from tests.support.workers import metric

pytestmark = pytest.mark.timeout(240)

#: What Kubernetes gives the API from SIGTERM on: 60 s less its pause before (docs/operations.md).
GRACE = 50.0
#: How long upstream takes for a message (seconds); longer than a busy machine takes to look at the probes.
SLOW = 8


def test_requests_in_flight_are_answered_after_sigterm(tmp_path: Path) -> None:
    """Chat messages that upstream takes its time for. Meanwhile the API is alive and not ready, and whoever comes anew
    is answered in full, or not taken."""

    async def main() -> None:
        async with (
            open_scene(tmp_path, orders=6, speed=1, upstream_timeout="30s") as scene,
            open_fleet(scene, "api", received=0) as fleet,
        ):
            (api,) = fleet.members
            headers = await fleet.retailer_key(scene.rig.retailer_id)
            fault = {"fault": f"latency:{SLOW}s:1:resource=chat"}
            assert (await fleet.client.post(f"{scene.rig.upstream_url}/_sim/faults", json=fault)).is_success
            names = list(scene.simulator.world.orders)
            sending = [
                asyncio.create_task(
                    fleet.client.post(
                        f"{api.url}/v1/orders/{one}/messages", json={"body": f"for {one}"}, headers=headers
                    )
                )
                for one in names
            ]
            await eventually(lambda: _in_flight(api, len(names)), within=30)

            knocking = asyncio.create_task(_knock(api, headers["authorization"]))
            stopping = asyncio.create_task(fleet.stop(api, GRACE))
            assert await eventually(lambda: _draining(fleet.client, api)) == (503, 200)
            answers = await asyncio.gather(*sending)
            took = await stopping
            seen = await knocking
            print(
                f"SIGTERM to exit with requests of {SLOW} s in flight: {took:.1f} s; who came meanwhile: {dict(seen)}"
            )

            assert {answer.status_code for answer in answers} == {200}, answers[0].text
            said = {one: [m["body"] for m in scene.simulator.world.order(one).messages] for one in names}
            assert said == {one: [f"for {one}"] for one in names}
            assert seen["503"] > 0
            assert seen.keys() <= {"200", "503", "not taken"}

    asyncio.run(main())


async def _in_flight(api: Member, count: int) -> bool:
    return await metric(api.port, "relay_http_requests_in_progress") == count


async def _draining(client: httpx.AsyncClient, api: Member) -> tuple[int, int] | None:
    ready = (await client.get(f"{api.url}/readyz")).status_code
    return (ready, (await client.get(f"{api.url}/livez")).status_code) if ready != 200 else None


async def _knock(api: Member, authorization: str) -> Counter[str]:
    """New connections until the process has ended, and what came of each."""
    seen: Counter[str] = Counter()
    request = f"GET /v1/orders HTTP/1.1\r\nhost: relay\r\nauthorization: {authorization}\r\nconnection: close\r\n\r\n"
    while api.process.poll() is None:
        answer = b""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
            writer.write(request.encode())
            while more := await reader.read(65536):
                answer += more
            writer.close()
        except OSError:
            pass
        seen[_outcome(answer)] += 1
        await asyncio.sleep(0.02)
    return seen


def _outcome(answer: bytes) -> str:
    """The status of an answer that is whole; of none at all, a client knows that it may ask again."""
    if not answer:
        return "not taken"
    head, _, body = answer.partition(b"\r\n\r\n")
    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    whole = length and len(body) == int(length[0].partition(b":")[2])
    return head.split()[1].decode() if whole else f"cut: {answer!r}"


def test_requests_in_flight_of_a_killed_api_have_one_effect(tmp_path: Path) -> None:
    """Each is sent again under its key, to the other process, until it is answered."""

    async def main() -> None:
        async with (
            open_scene(tmp_path, orders=1, speed=1_500) as scene,
            open_fleet(scene, "poll", "deliver", "maintain", "api", "api", received=1) as fleet,
        ):
            rig = scene.rig
            headers = await fleet.retailer_key(rig.retailer_id)
            victim = next(one for one in fleet.members if one.kind == "api")
            names, urls = scene.admit(20), [f"{rig.receiver_url}/made-{number}" for number in range(8)]
            asked: list[tuple[str, dict[str, object]]] = [("/v1/orders", order(name)) for name in names]
            asked += [("/v1/subscriptions", {"url": url, "event_types": ["subscription.failing"]}) for url in urls]
            async with asyncio.TaskGroup() as group:
                sending = [group.create_task(fleet.insist(path, body, headers)) for path, body in asked]
                await eventually(lambda: any(one.done() for one in sending), within=30)
                victim.process.send_signal(signal.SIGSTOP)  # with what it was about
                await fleet.kill(victim)
                await _let_time_pass(scene)
            answers = [one.result() for one in sending]
            codes = Counter((path, answer.status_code) for (path, _), answer in zip(asked, answers, strict=True))
            assert {answer.status_code for answer in answers} <= {200, 201, 409}, answers[-1].text
            print(f"{fleet.broken} requests were in flight; in the end: {dict(codes)}")

            assert fleet.broken > 0
            # Registering is idempotent by itself; a subscription that was made unseen shows by its URL.
            assert {status for path, status in codes if path == "/v1/orders"} <= {200, 201}
            assert {status for path, status in codes if path == "/v1/subscriptions"} <= {201, 409}
            made = [one.configuration.url for one in await rig.subscriptions.all(rig.retailer_id)]
            assert sorted(url for url in made if "/made-" in url) == urls
            await finish(scene)
            started = [one["data"]["order_id"] for one in await rig.events() if one["data"].get("sequence") == 1]
            assert sorted(started) == sorted(scene.simulator.world.orders)

    asyncio.run(main())


class _Kept(msgspec.Struct):
    request: str
    status: int | None = None


async def _let_time_pass(scene: Scene) -> None:
    """A key whose request did not come to its end is free again after a minute; here at once."""
    db = scene.rig.db
    async for name in db.client.scan_iter("*:idem:*"):
        raw = await db.run("GET", name)
        running = raw is not None and msgspec.msgpack.decode(raw, type=_Kept).status is None
        if running and 0 < await db.run("TTL", name) <= RUNNING_S:
            await db.run("PEXPIRE", name, 1)
