"""What a receiver may answer, through guard and sender: each costs at most the deadline and a few kB, and is shown as
a short harmless text."""

import asyncio
import gzip
import math
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from relay.guard import Guard, GuardedEngine
from relay.model.retries import Outcome
from relay.model.signing import Secret
from relay.model.targets import Allow
from relay.sender import Message, Sender
from tests.support.names import Names
from tests.support.peers import Handler, answering, endless, headers_without_end, peer, pouring, silence

DEADLINE = 0.5
#: What the sockets' buffers of both sides may hold when the relay hangs up (bytes).
BUFFERS = 16 * 1024 * 1024


@dataclass
class Case:
    """`kind` and `status` of the outcome that is expected; `most` bounds what the receiver gets rid of (bytes)."""

    name: str
    handle: Handler
    kind: str
    status: int | None = None
    most: float = BUFFERS


async def _head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def _bomb() -> bytes:
    """50 MB of zeros in 50 kB, and then some."""
    body = gzip.compress(b"\0" * 50_000_000, 9)
    head = f"HTTP/1.1 500 No\r\nconnection: close\r\ncontent-encoding: gzip\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _redirect(status: int, to: str) -> bytes:
    return f"HTTP/1.1 {status} Moved\r\nlocation: {to}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode()


METADATA = "http://169.254.169.254/latest/meta-data/"
CHUNKED = b"HTTP/1.1 500 No\r\ntransfer-encoding: chunked\r\n\r\n"

CASES = [
    Case("silence after accept", silence, "timeout"),
    Case("headers at a byte a time", answering(b"HTTP/1.1 200 OK\r\nx: ", pouring(b"y", 0.01)), "timeout"),
    Case("headers a line at a time", answering(b"HTTP/1.1 200 OK\r\n", pouring(b"x: y\r\n", 0.01)), "timeout"),
    Case("status line at a byte a time", answering(b"HTTP/1.1 200 ", pouring(b"O", 0.01)), "timeout"),
    Case("headers without end", answering(b"HTTP/1.1 200 OK\r\n", headers_without_end), "protocol"),
    Case("one header without end", answering(b"HTTP/1.1 200 OK\r\nx: ", endless), "protocol"),
    Case("a thousand headers", answering(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000 + b"\r\n"), "protocol"),
    # The engine skips interim answers without a bound, so these are read at the speed of the line until the deadline.
    Case("1xx for ever", answering(b"", pouring(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)), "timeout", most=math.inf),
    Case("hints for ever", answering(b"", pouring(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", 0.01)), "timeout"),
    Case(
        "another protocol",
        answering(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
        "answered",
        101,
    ),
    Case("endless body", answering(b"HTTP/1.1 500 No\r\n\r\n", endless), "answered", 500),
    Case(
        "10 GB announced",
        answering(b"HTTP/1.1 500 No\r\ncontent-length: 10000000000\r\n\r\n", endless),
        "answered",
        500,
    ),
    Case("endless chunks", answering(CHUNKED, pouring(b"400\r\n" + b"x" * 1024 + b"\r\n")), "answered", 500),
    Case("chunk extensions for ever", answering(CHUNKED, pouring(b"1;" + b"a" * 10_000 + b"\r\nx\r\n")), "protocol"),
    Case("one chunk size for ever", answering(CHUNKED + b"1;", endless), "protocol"),
    Case("trailers for ever", answering(CHUNKED + b"0\r\n", headers_without_end), "protocol"),
    Case("body at a byte a time", answering(b"HTTP/1.1 500 No\r\n\r\n", pouring(b"x", 0.01)), "timeout"),
    Case("a bomb", answering(_bomb()), "answered", 500),
    Case("no HTTP", answering(b"SSH-2.0-OpenSSH_9\r\n\r\n"), "protocol"),
    Case("junk", answering(b"\x00\xff" * 1000, endless), "protocol"),
    Case("no status", answering(b"HTTP/1.1 999999 Huh\r\n\r\n"), "protocol"),
    Case("two lengths", answering(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"), "protocol"),
    Case("a reset", answering(b""), "reset"),
    *(
        Case(f"{status} to {to}", answering(_redirect(status, to)), "answered", status)
        for status in (301, 302, 303, 307, 308)
        for to in (METADATA, "http://shop.example.com/", "/")
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("host", ["shop.example.com", "127.0.0.2"])
def test_costs_at_most_the_deadline_and_the_cap(case: Case, host: str) -> None:
    names = Names({"shop.example.com": [["127.0.0.2"]]})
    written, connections = 0, 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written, connections
        connections += 1
        transport = writer.transport
        plain = transport.write

        def write(data: bytes) -> None:
            nonlocal written
            written += len(data)
            plain(data)

        transport.write = write  # type: ignore[method-assign,assignment]
        await case.handle(reader, writer)

    resident = _resident_kb()

    async def main() -> tuple[Outcome, float]:
        async with peer(counted, host="127.0.0.2") as port:
            allow = Allow.parse(["127.0.0.2/32"], http=True)
            engine = GuardedEngine(Guard(allow, names), deadline=DEADLINE)
            try:
                began = time.perf_counter()
                return await _post(engine, f"http://{host}:{port}/h"), time.perf_counter() - began
            finally:
                await engine.aclose()

    outcome, took = asyncio.run(main())
    assert (outcome.kind, outcome.status) == (case.kind, case.status), outcome
    assert took < DEADLINE + 5.0  # not for ever; what the machine does besides is its own affair
    assert len(outcome.detail) <= 200
    assert outcome.detail.isprintable()
    assert written < case.most
    assert _resident_kb() - resident < 32 * 1024
    assert connections == 1  # neither followed nor repeated
    assert names.asked == (["shop.example.com."] if host == "shop.example.com" else [])


def _resident_kb() -> int:
    """The largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def _post(engine: GuardedEngine, url: str) -> Outcome:
    message = Message("evt_1", b"{}", sequence=1, attempt=1)
    return await Sender(engine).post(url, message, keys=[Secret(b"k" * 32)], headers={}, now_s=1)


def _exchange(answers: Sequence[bytes]) -> tuple[list[bytes], list[Outcome]]:
    """One request for each answer, on one connection; the heads as received, and the outcomes."""
    heads: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            heads.append(await _head(reader))
            await reader.readexactly(2)
            writer.write(answer)
            await writer.drain()

    async def main() -> list[Outcome]:
        async with peer(handle, host="127.0.0.2") as port:
            engine = GuardedEngine(Guard(Allow.parse(["127.0.0.2/32"], http=True), Names({})), deadline=2)
            try:
                return [await _post(engine, f"http://127.0.0.2:{port}/h") for _ in answers]
            finally:
                await engine.aclose()

    return heads, asyncio.run(main())


def test_identity_is_asked_and_compressed_bytes_are_not_decoded() -> None:
    squeezed = gzip.compress(b"a secret text that would be shown if it were decoded")
    answer = b"HTTP/1.1 500 No\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(squeezed) + squeezed

    heads, [outcome] = _exchange([answer])

    assert b"accept-encoding: identity" in heads[0].lower()
    assert "secret text" not in outcome.detail


def test_cookies_are_not_kept_and_success_shows_nothing() -> None:
    first = b"HTTP/1.1 200 OK\r\nset-cookie: a=b; path=/\r\ncontent-length: 5\r\n\r\nerror"

    heads, outcomes = _exchange([first, first])

    assert [(outcome.kind, outcome.status, outcome.detail) for outcome in outcomes] == [("answered", 200, "")] * 2
    assert all(b"cookie" not in head.lower() for head in heads)


def test_what_is_shown_of_a_failure_is_short_and_printable() -> None:
    body = b"<script>alert(1)</script>\x1b[31m\x00\r\n\xff" + b"x" * 3_000
    answer = b"HTTP/1.1 400 Bad\r\ncontent-length: %d\r\n\r\n" % len(body) + body

    _, [outcome] = _exchange([answer])

    assert outcome.detail.startswith("<script>alert(1)</script>")
    assert len(outcome.detail) == 200
    assert outcome.detail.isprintable()
