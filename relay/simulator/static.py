"""An upstream and a receiver that never change, for measuring load: fixed bytes over a bare asyncio protocol.

    GET  .../handling, .../items, .../messages    valid answers of a ten-item order, whatever its id
    GET  /_sim/count                              {"get": n, "post": n}, not counting itself
    POST /v2/oauth/token                          a token that is never asked for
    POST anything else                            200 {}: a receiver that takes every delivery

Requests may be pipelined and split anywhere. Bodies need a content-length (411 otherwise). `latency` delays every
answer without holding up the next request. `python -m relay.simulator.static --port 0` runs it.
"""

import argparse
import asyncio
import re
from collections.abc import Callable
from typing import cast

import msgspec

from relay.serving import listen, run_until_signal
from relay.simulator.scenario import draft
from relay.simulator.tokens import SCOPE
from relay.simulator.world import RESOURCES, Order

_HEAD_END = b"\r\n\r\n"
#: A request head longer than this is nobody we know.
_HEAD_LIMIT = 64 * 1024
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close[ \t]*\r\n", re.IGNORECASE)


def sample_order(items: int = 10) -> Order:
    """A fixed order in picking, about as large as real ones. No `order_id`: it answers for all of them."""
    order = draft("static", None, seed=7)
    drafted = [*order.items.values(), *draft("static-more", None, seed=7).items.values()]
    order.items = {f"i{n}": {**item, "id": f"i{n}", "status": "found"} for n, item in enumerate(drafted[:items], 1)}
    del order.handling["order_id"]
    order.handling |= {"status": "picking", "shopper": {"name": "Maya", "phone_number": "(***) ***-4821"}}
    order.messages = [
        {"id": "m1", "sender": "shopper", "body": "Hi, I'm on it!", "created_at": "2026-01-01T12:00:00.000Z"},
        {"id": "m2", "sender": "customer", "body": "Thank you!", "created_at": "2026-01-01T12:00:41.000Z"},
    ]
    return order


def render(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


_NOT_FOUND = render(b"404 Not Found", b'{"error":"there is nothing at this path","status":404}')
_NO_LENGTH = render(b"411 Length Required", b'{"error":"send a content-length","status":411}')
_BAD = render(b"400 Bad Request", b'{"error":"not an HTTP request","status":400}')
_TAKEN = render(b"200 OK", b"{}")


class StaticAnswers:
    """What is answered, and how often it was."""

    def __init__(self) -> None:
        order = sample_order()
        self._by_end = {name.encode(): render(b"200 OK", order.body(name)) for name in RESOURCES}
        token = {"access_token": "static", "token_type": "Bearer", "expires_in": 86400, "scope": SCOPE, "created_at": 0}
        self._token = render(b"200 OK", msgspec.json.encode(token))
        self.gets = 0
        self.posts = 0

    def get(self, path: bytes) -> bytes:
        if path == b"/_sim/count":
            return render(b"200 OK", msgspec.json.encode({"get": self.gets, "post": self.posts}))
        self.gets += 1
        return self._by_end.get(path.partition(b"?")[0].rpartition(b"/")[2], _NOT_FOUND)

    def post(self, path: bytes) -> bytes:
        self.posts += 1
        return self._token if path == b"/v2/oauth/token" else _TAKEN


class StaticProtocol(asyncio.Protocol):
    """HTTP/1.1 with keep-alive; answers all whole requests of what has arrived with one write."""

    def __init__(self, answers: StaticAnswers, latency: float) -> None:
        self._answers = answers
        self._latency = latency
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._buffer = self._buffer + data if self._buffer else data
        replies: list[bytes] = []
        used = 0
        while not self._closing and (end := self._answer_one(used, replies)) > used:
            used = end
        self._buffer = self._buffer[used:]
        if replies:
            out = replies[0] if len(replies) == 1 else b"".join(replies)
            if self._latency:
                self._loop.call_later(self._latency, self._write, out, self._closing)
            else:
                self._write(out, self._closing)

    def _answer_one(self, start: int, replies: list[bytes]) -> int:
        """Answer the request at `start` of the buffer; where the next one begins, `start` if this one is not whole."""
        buffer = self._buffer
        end = buffer.find(_HEAD_END, start)
        if end < 0:
            return self._close_with(_BAD, replies, start) if len(buffer) - start > _HEAD_LIMIT else start
        head = buffer[start : end + 2]
        words = head[: head.find(b"\r\n")].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return self._close_with(_BAD, replies, len(buffer))
        if _CHUNKED.search(head):
            return self._close_with(_NO_LENGTH, replies, len(buffer))
        length = _LENGTH.search(head)
        end += 4 + (int(length[1]) if length else 0)
        if end > len(buffer):
            return start
        method, path, version = words
        if method == b"GET":
            replies.append(self._answers.get(path))
        elif method == b"POST":
            replies.append(self._answers.post(path))
        else:
            replies.append(_NOT_FOUND)
        self._closing = version == b"HTTP/1.0" or _CLOSE.search(head) is not None
        return end

    def _close_with(self, reply: bytes, replies: list[bytes], end: int) -> int:
        replies.append(reply)
        self._closing = True
        return end

    def _write(self, out: bytes, last: bool) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(out)
        if last:
            self._transport.close()


async def serve_static(host: str, port: int, ready: Callable[[int], None], *, latency: float = 0.0) -> None:
    """Serve until cancelled; `latency` in seconds. `ready` gets the port."""
    answers = StaticAnswers()
    listener = listen(host, port)
    server = await asyncio.get_running_loop().create_server(
        lambda: StaticProtocol(answers, latency), sock=listener, backlog=1024
    )
    ready(listener.getsockname()[1])
    async with server:
        await server.serve_forever()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m relay.simulator.static", description="Fixed answers, for load.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    options = parser.parse_args(arguments)
    run_until_signal(
        lambda ready: serve_static(options.host, options.port, ready, latency=options.latency),
        f"static server listening on http://{options.host}",
    )


if __name__ == "__main__":
    main()
