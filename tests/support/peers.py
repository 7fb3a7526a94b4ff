"""Servers that misbehave, on real sockets."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def peer(
    handle: Handler, context: ssl.SSLContext | None = None, *, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[int]:
    """A server for the block; gives its port. Connections end with the handler."""

    async def safely(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(safely, host, port, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def answering(raw: bytes, then: Handler | None = None) -> Handler:
    """Reads a request, writes `raw`, and goes on as `then`, or closes; without anything to write, resets."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if length is not None:  # closed with something unread, the connection would be reset, and the answer with it
            await reader.readexactly(int(length[1]))
        writer.write(raw)
        await writer.drain()
        if then is not None:
            await then(reader, writer)
        elif raw:
            writer.close()
            await writer.wait_closed()

    return handle


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the other side gives up


def pouring(piece: bytes, pause_s: float = 0.0) -> Handler:
    """Writes `piece` until the other side gives up."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(piece)
            await writer.drain()
            if pause_s:
                await asyncio.sleep(pause_s)

    return handle


endless = pouring(b"x" * 65536)
headers_without_end = pouring(b"x-filler: " + b"y" * 1000 + b"\r\n")
drip = pouring(b"x", 0.01)
