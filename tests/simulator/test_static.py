"""The fixed answers for load: HTTP parsing over a real socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest

from relay.simulator.static import serve_static
from relay.simulator.world import RESOURCES
from tests.simulator.support import exchange, poll_path, raw, run
from tests.simulator.test_lives import SCHEMAS, validator

Address = tuple[str, int]


@asynccontextmanager
async def static(latency: float = 0.0) -> AsyncIterator[Address]:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve_static("127.0.0.1", 0, port.set_result, latency=latency))
    try:
        yield "127.0.0.1", await port
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def answers(reader: asyncio.StreamReader, count: int) -> list[tuple[int, bytes]]:
    """The next `count` answers of a kept-alive connection: status and body."""
    found = []
    for _ in range(count):
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        found.append((int(head.split()[1]), await reader.readexactly(length)))
    return found


async def send(address: Address, *pieces: bytes, expect: int) -> list[tuple[int, bytes]]:
    """Send pieces one by one over one connection, then read `expect` answers; nothing else may have come."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        found = await answers(reader, expect)
        writer.write_eof()
        assert await reader.read() == b""
        return found
    finally:
        writer.close()
        await writer.wait_closed()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("resource", RESOURCES)
def test_answers_are_valid_for_any_order(resource: str) -> None:
    async def scenario() -> None:
        async with static() as address:
            ((status, body),) = await send(address, get(poll_path("whatever", resource)), expect=1)
            assert status == 200
            validator(SCHEMAS[resource]).validate(msgspec.json.decode(body))
            if resource != "handling":
                assert len(msgspec.json.decode(body)[resource]) == {"items": 10, "messages": 2}[resource]

    run(scenario())


def test_several_requests_in_one_packet_are_answered_in_order() -> None:
    async def scenario() -> None:
        async with static() as address:
            packet = get("/a/items") + post("/hook", b'{"a":1}') + get("/nowhere") + get("/a/messages?x=/items")
            found = await send(address, packet, expect=4)
            assert [status for status, _ in found] == [200, 200, 404, 200]
            assert found[1][1] == b"{}"
            assert found[3][1].startswith(b'{"messages":')

    run(scenario())


def test_a_request_may_be_split_anywhere() -> None:
    async def scenario() -> None:
        async with static() as address:
            packet = post("/hook", b"0123456789") + get("/_sim/count")
            for cut in range(1, len(packet)):
                taken, count = await send(address, packet[:cut], packet[cut:], expect=2)
                assert taken == (200, b"{}")
                assert msgspec.json.decode(count[1]) == {"get": 0, "post": cut}

    run(scenario())


def test_byte_by_byte_over_one_connection() -> None:
    async def scenario() -> None:
        async with static() as address:
            packet = get("/a/handling") + post("/hook", b"\r\n\r\nGET / HTTP/1.1\r\n\r\n")
            found = await send(address, *(packet[n : n + 1] for n in range(len(packet))), expect=2)
            assert [status for status, _ in found] == [200, 200]

    run(scenario())


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (raw("/a/items"), 200),
        (b"GET /a/items HTTP/1.0\r\n\r\n", 200),
        (b"POST /hook HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"this is not http\r\n\r\n", 400),
        (b"GET /" + b"x" * 70_000, 400),
    ],
    ids=["close", "1.0", "chunked", "nonsense", "endless head"],
)
def test_when_the_connection_is_closed_after_the_answer(request_: bytes, status: int) -> None:
    async def scenario() -> None:
        async with static() as address:
            got = await asyncio.wait_for(exchange(address, request_), 5)
            assert got.count(b"HTTP/1.1 ") == 1
            assert got.startswith(b"HTTP/1.1 %d " % status)

    run(scenario())


def test_latency_delays_answers_and_not_the_next_request() -> None:
    async def scenario() -> None:
        async with static(latency=0.1) as address:
            clock = asyncio.get_running_loop().time
            began = clock()
            found = await asyncio.gather(*(send(address, get("/a/items"), expect=1) for _ in range(20)))
            assert all(status == 200 for ((status, _),) in found)
            assert 0.1 <= clock() - began < 1.0

    run(scenario())


def test_it_gives_a_token() -> None:
    async def scenario() -> None:
        async with static() as address:
            ((status, body),) = await send(address, post("/v2/oauth/token", b"{}"), expect=1)
            assert (status, msgspec.json.decode(body)["token_type"]) == (200, "Bearer")

    run(scenario())
