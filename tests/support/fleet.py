"""A relay as it is deployed: processes of each kind and the API, each with its probes, seen from outside."""

import asyncio
import itertools
import secrets
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.rig import eventually
from tests.support.scenes import Scene
from tests.support.workers import unused_ports

ADMIN_KEY = "rly_admin_" + "0" * 32
#: Until new events arrive again; measured, it is below 20 s (docs/operations.md). The rest is for a busy machine.
RECOVERED = 60.0


@dataclass
class Member:
    kind: str
    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Fleet:
    scene: Scene
    client: httpx.AsyncClient
    members: list[Member] = field(default_factory=list)
    livez: list[int] = field(default_factory=list)
    retried: int = 0
    broken: int = 0

    @property
    def api(self) -> str:
        return next(one.url for one in self.members if one.kind == "api")

    def start(self, kind: str, *, skew: int = 0) -> Member:
        """`skew`: how many seconds its wall clock is ahead."""
        port, workers = unused_ports(1)[0], self.scene.workers
        own = {"port": str(port), "admin_key": ADMIN_KEY} if kind == "api" else {"metrics_port": str(port)}
        if skew:
            process = workers.start_skewed(kind, skew, **own)
        else:
            process = workers.start_api(**own) if kind == "api" else workers.start(kind, **own)
        self.members.append(Member(kind, process, port))
        return self.members[-1]

    async def status(self, member: Member, path: str) -> int | None:
        """None: it is not listening (any more)."""
        try:
            return (await self.client.get(f"{member.url}{path}")).status_code
        except httpx.TransportError:
            return None

    async def ready(self, *members: Member) -> bool:
        statuses = await asyncio.gather(*(self.status(one, "/readyz") for one in members or self.members))
        return set(statuses) == {200}

    async def look(self) -> None:
        """One look at every `/livez`; the statuses are kept."""
        answers = await asyncio.gather(*(self.client.get(f"{one.url}/livez") for one in self.members))
        self.livez += [answer.status_code for answer in answers]

    async def stop(self, member: Member, within: float) -> float:
        """SIGTERM; the seconds until it ended, which it does with status 0."""
        self.members.remove(member)
        began = time.monotonic()
        assert await asyncio.to_thread(self.scene.workers.stop, member.process, within) == 0
        return time.monotonic() - began

    async def kill(self, member: Member) -> None:
        self.members.remove(member)
        await asyncio.to_thread(self.scene.workers.kill, member.process)

    async def writes(self) -> httpx.Response:
        """What the API answers to a request that writes."""
        return await self.client.post(f"{self.api}/v1/retailers", headers=operator(), json={"name": "Passing"})

    async def refused(self) -> float:
        """The API says that its store is away, and when to come again; the seconds that took."""
        began = time.monotonic()
        answer = await self.writes()
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) >= 1
        return time.monotonic() - began

    async def retailer_key(self, retailer_id: str) -> dict[str, str]:
        """Headers of a key of the retailer's own."""
        made = await self.client.post(f"{self.api}/v1/retailers/{retailer_id}/keys", headers=operator(), json={})
        assert made.status_code == 201, made.text
        return {"authorization": f"Bearer {made.json()['key']}"}

    async def insist(self, path: str, body: Any, headers: dict[str, str]) -> httpx.Response:
        """What a client does whose POST has to take effect once: under one key, sent again, to whoever takes it, while
        there is no connection, no answer, or one that says so. As behind a Service, a process that drains gets nothing
        new once that is known."""
        headers = headers | {"idempotency-key": secrets.token_hex(8)}
        for number in itertools.count():
            apis = [one for one in self.members if one.kind == "api"]
            try:
                answer = await self.client.post(f"{apis[number % len(apis)].url}{path}", json=body, headers=headers)
                code = answer.json().get("code") if answer.status_code >= 400 else None
                if answer.status_code not in (429, 503) and code != "request_in_progress":
                    return answer
            except httpx.TransportError as error:
                self.broken += not isinstance(error, httpx.ConnectError)
            self.retried += 1
            await asyncio.sleep(0.1)
        raise AssertionError

    @asynccontextmanager
    async def registering(self, headers: dict[str, str], count: int, every: float) -> AsyncIterator[list[str]]:
        """New orders all along, registered through the API; gives the names of those that are."""
        stop, registered = asyncio.Event(), list[str]()

        async def register(name: str) -> None:
            answer = await self.insist("/v1/orders", order(name), headers)
            assert answer.status_code == 201, answer.text
            registered.append(name)

        async def feed() -> None:
            async with asyncio.TaskGroup() as group:
                while not stop.is_set():
                    for name in self.scene.admit(count):
                        group.create_task(register(name))
                    with suppress(TimeoutError):
                        async with asyncio.timeout(every):
                            await stop.wait()

        feeding = asyncio.create_task(feed())
        try:
            yield registered
        finally:
            stop.set()
            await feeding

    async def recovered(self, since: float) -> float:
        """Seconds since then (monotonic), once an event arrives that was found after now."""
        now = time.time()
        await eventually(lambda: found_after(self.scene, now), within=RECOVERED)
        return time.monotonic() - since

    @property
    def same(self) -> bool:
        """No process has ended."""
        return all(one.process.poll() is None for one in self.members)


def operator() -> dict[str, str]:
    return {"authorization": f"Bearer {ADMIN_KEY}"}


def order(name: str) -> dict[str, Any]:
    """A registration of one of the simulator's orders."""
    return {"order_id": name, "access_token": {"token": "good-token", "expires_at": "2100-01-01T00:00:00Z"}}


def found_after(scene: Scene, at: float) -> bool:
    """Whether an event has arrived that was found after that time (Unix)."""
    latest = itertools.islice(reversed(scene.rig.receipts), 300)
    return any(one.at - one.latency_ms / 1000 > at for one in latest)


@asynccontextmanager
async def open_fleet(scene: Scene, *kinds: str, received: int = 20) -> AsyncIterator[Fleet]:
    """Processes of these kinds, ready and under load."""
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        fleet = Fleet(scene, client)
        for kind in kinds:
            fleet.start(kind)
        await eventually(fleet.ready, within=60)
        await eventually(lambda: len(scene.rig.receipts) >= received, within=60)
        yield fleet
