"""Limits that only a real server shows: a body without a declared length is counted while it comes in."""

import asyncio

import msgspec

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
