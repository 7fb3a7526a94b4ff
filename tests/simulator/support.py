"""A wall clock to turn by hand, a way to ask an app without a socket, and a served simulator."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from starlette.types import ASGIApp, Message

from relay.simulator.app import Simulator, SimulatorConfig
from relay.simulator.clock import SimulatedClock
from relay.simulator.server import serve

T = TypeVar("T")
NOON = 1_790_000_000.0
TOKEN = "static-token"


class Wall:
    """A wall clock that stands still unless it is turned."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Got:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


def still(wall: Wall | None = None, **settings: Any) -> Simulator:
    """A simulator whose clock is turned by hand, one simulated second a second."""
    config = SimulatorConfig(**{"speed": 1, "static_token": TOKEN, **settings})
    return Simulator(config, SimulatedClock(config.speed, wall=wall or Wall()))


def ask(app: ASGIApp, method: str, path: str, body: Any = None, *, token: str | None = TOKEN, query: str = "") -> Got:
    """One request, in process."""
    return run(asking(app, method, path, body, token=token, query=query))


async def asking(
    app: ASGIApp,
    method: str,
    path: str,
    body: Any = None,
    *,
    token: str | None = TOKEN,
    query: str = "",
    transport: object = None,
) -> Got:
    content = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": headers,
        "root_path": "",
        "server": ("simulator", 80),
        "scheme": "http",
        "state": {"transport": transport},
    }
    await app(scope, receive, send)
    got = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return Got(sent[0]["status"], got, b"".join(message.get("body", b"") for message in sent[1:]))


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def poll_path(order_id: str, resource: str) -> str:
    family = "chat" if resource == "messages" else "orders"
    return f"/v2/post_checkout/{family}/{order_id}/{resource}"


@asynccontextmanager
async def serving(simulator: Simulator) -> AsyncIterator[tuple[str, int]]:
    """The simulator on a real socket: its host and port."""
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(simulator.app, "127.0.0.1", 0, port.set_result))
    try:
        yield "127.0.0.1", await port
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def exchange(address: tuple[str, int], request: bytes) -> bytes:
    """Everything that the other side sends for one raw request until it closes."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(request)
        await writer.drain()
        return await reader.read()
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def raw(path: str, *, method: str = "GET", body: bytes = b"", token: str = TOKEN) -> bytes:
    """A request that asks for the connection to be closed after it."""
    head = f"{method} {path} HTTP/1.1\r\nhost: sim\r\nauthorization: Bearer {token}\r\nconnection: close\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
