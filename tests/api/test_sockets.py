"""Limits that only a real server shows: a body without a declared length is counted while it comes in; who dribbles
is cut off."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from relay import serving
from relay.serving import serve
from tests.api.support import Relay, driven


def test_a_chunked_body_is_cut_off_at_the_limit(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        server = asyncio.create_task(serve(relay.app, "127.0.0.1", 0, ready.set_result))
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", await ready)
            head = f"POST /v1/orders HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {key}\r\n"
            writer.write(f"{head}content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n".encode())
            # 66 KiB and no end: the answer comes while the body is still open.
            for _ in range(66):
                writer.write(b"400\r\n" + b" " * 1024 + b"\r\n")
            await writer.drain()
            answer = await asyncio.wait_for(reader.readuntil(b"}"), 10)
            writer.close()
        finally:
            server.cancel()
            await asyncio.gather(server, return_exceptions=True)

        status, _, rest = answer.partition(b"\r\n")
        assert status.startswith(b"HTTP/1.1 413 ")
        assert msgspec.json.decode(rest.partition(b"\r\n\r\n")[2])["code"] == "body_too_large"

    driven(store_url, test)


@asynccontextmanager
async def _served(app: Any) -> AsyncIterator[int]:
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    server = asyncio.create_task(serve(app, "127.0.0.1", 0, ready.set_result))
    try:
        yield await ready
    finally:
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)


@pytest.mark.parametrize("part", ["nothing", "head", "body", "second head"])
def test_a_request_that_does_not_arrive_gives_its_connection_back(
    store_url: str, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        monkeypatch.setattr(serving, "RECEIVE_WITHIN", 1.0)
        head = f"POST /v1/orders HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {key}\r\ncontent-length: 50\r\n"
        sent = {"nothing": "", "head": head, "body": f"{head}content-type: application/json\r\n\r\n{{"}
        before = relay.db.trips
        async with _served(relay.app) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            if part == "second head":
                writer.write(b"GET /livez HTTP/1.1\r\nhost: relay\r\n\r\n")
                assert (await asyncio.wait_for(reader.readuntil(b"}"), 20)).startswith(b"HTTP/1.1 200 ")
            writer.write(sent.get(part, head).encode())
            # Bytes that go on coming buy no time.
            while not reader.at_eof():
                if part != "nothing" and not writer.is_closing():
                    writer.write(b"x" if part == "body" else b"x: y\r\n")
                try:
                    await asyncio.wait_for(reader.read(1000), 0.05)
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
            writer.close()
        assert part != "body" or relay.db.trips > before  # it was let in, and then found wanting

    driven(store_url, test)


def test_a_connection_that_is_kept_and_a_slow_answer_are_not_hurried(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slowly(scope: Any, receive: Any, send: Any) -> None:
        assert not (await receive()).get("more_body")
        await asyncio.sleep(1.5)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def main() -> None:
        monkeypatch.setattr(serving, "RECEIVE_WITHIN", 1.0)
        async with _served(slowly) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for offer in (b"", b"connection: Upgrade\r\nupgrade: h2c\r\n"):
                writer.write(b"GET / HTTP/1.1\r\nhost: relay\r\n" + offer + b"\r\n")
                assert (await asyncio.wait_for(reader.readuntil(b"ok"), 20)).startswith(b"HTTP/1.1 200 ")
                await asyncio.sleep(1.5)
            writer.close()

    asyncio.run(main())
