"""The engine against real sockets that misbehave: every failure told apart, at most the deadline and a few kB."""

import asyncio
import ssl
from pathlib import Path

import httpx
import pytest

from relay.engine import Answer, EngineTransport, Failure, FastEngine, TransportEngine
from tests.support.certificates import Authority
from tests.support.peers import Handler, answering, drip, endless, headers_without_end, peer, silence


def ask(handle: Handler, *, limit: int = 4096, path: str = "/", context: ssl.SSLContext | None = None) -> Answer:
    async def main() -> Answer:
        engine = FastEngine(deadline=0.5)
        try:
            async with peer(handle, context) as port:
                scheme = "https" if context else "http"
                return await engine.send("POST", f"{scheme}://127.0.0.1:{port}{path}", {"a": "b"}, b"{}", limit=limit)
        finally:
            await engine.aclose()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("handle", "failure"),
    [
        (silence, Failure.TIMEOUT),
        (answering(b"HTTP/1.1 200 OK\r\n", silence), Failure.TIMEOUT),
        (answering(b"HTTP/1.1 200 OK\r\nx: ", drip), Failure.TIMEOUT),
        (answering(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", drip), Failure.TIMEOUT),
        (answering(b""), Failure.RESET),
        (answering(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"), Failure.RESET),
        (answering(b"SSH-2.0-OpenSSH_9\r\n\r\n"), Failure.PROTOCOL),
        (answering(b"HTTP/1.1 200 OK\r\n", headers_without_end), Failure.PROTOCOL),
        (answering(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"), Failure.PROTOCOL),
        (answering(b"HTTP/1.1 999999 Huh\r\n\r\n"), Failure.PROTOCOL),
    ],
    ids=[
        *("silence", "half a head", "dripped headers", "dripped body", "hangs up", "cut body", "no http"),
        *("endless headers", "two lengths", "no status"),
    ],
)
def test_failures_are_told_apart(handle: Handler, failure: Failure) -> None:
    answer = ask(handle)

    assert (answer.status, answer.failure) == (None, failure), answer
    assert answer.duration_ms < 2_000


def test_an_endless_body_costs_the_limit_only() -> None:
    answer = ask(answering(b"HTTP/1.1 500 No\r\ncontent-length: 10000000000\r\n\r\n", endless))

    assert (answer.status, len(answer.body), answer.truncated) == (500, 4096, True)


def test_nothing_is_followed_decoded_or_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    redirect = ask(answering(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"))
    squeezed = ask(answering(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\n\x1f\x8b\x08"))

    assert redirect.status == 302
    assert squeezed.body == b"\x1f\x8b\x08"


def test_an_address_without_a_listener_and_a_name_without_an_address() -> None:
    async def main() -> tuple[Answer, Answer]:
        engine = FastEngine(deadline=3)
        try:
            return (
                await engine.send("GET", "http://127.0.0.1:1/", {}, None, limit=10),
                await engine.send("GET", "http://nowhere.invalid/", {}, None, limit=10),
            )
        finally:
            await engine.aclose()

    refused, unknown = asyncio.run(main())
    assert refused.failure is Failure.CONNECT
    assert unknown.failure is Failure.DNS


@pytest.mark.parametrize("expired", [False, True], ids=["self-signed", "expired"])
def test_an_untrusted_certificate_is_refused(tmp_path: Path, expired: bool) -> None:
    context = Authority.make(tmp_path).context("localhost", "127.0.0.1", starts=-5 if expired else -1, own=True)
    answer = ask(answering(b"HTTP/1.1 200 OK\r\n\r\n"), context=context)

    assert answer.failure is Failure.TLS, answer


def test_tls_against_a_plain_port_is_a_tls_failure() -> None:
    async def main() -> Answer:
        engine = FastEngine(deadline=2)
        try:
            async with peer(answering(b"HTTP/1.1 400 Bad\r\n\r\n")) as port:
                return await engine.send("GET", f"https://127.0.0.1:{port}/", {}, None, limit=10)
        finally:
            await engine.aclose()

    assert asyncio.run(main()).failure in (Failure.TLS, Failure.TIMEOUT)


def test_the_engine_serves_httpx_and_httpx_serves_as_an_engine() -> None:
    async def app(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/slow":
            raise httpx.ReadTimeout("slow", request=request)
        if request.url.path == "/gone":
            raise httpx.ConnectError("gone", request=request)
        return httpx.Response(201, json={"got": request.content.decode()})

    async def main() -> None:
        engine = TransportEngine(httpx.MockTransport(app))
        answer = await engine.send("POST", "http://x/", {"a": "b"}, b"hi", limit=8)
        assert (answer.status, answer.body, answer.truncated) == (201, b'{"got":"', True)
        assert (await engine.send("GET", "http://x/slow", {}, None, limit=8)).failure is Failure.TIMEOUT
        assert (await engine.send("GET", "http://x/gone", {}, None, limit=8)).failure is Failure.CONNECT
        async with httpx.AsyncClient(transport=EngineTransport(engine)) as client:
            assert (await client.post("http://x/", content=b"hi")).json() == {"got": "hi"}
            with pytest.raises(httpx.ReadTimeout):
                await client.get("http://x/slow")
            with pytest.raises(httpx.ConnectError):
                await client.get("http://x/gone")

    asyncio.run(main())


def test_a_configured_proxy_is_used_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readuntil(b"\r\n\r\n")).splitlines()[0])
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await writer.drain()

    async def main() -> Answer:
        async with peer(proxy) as port:
            monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
            engine = FastEngine(deadline=2, proxy=f"http://127.0.0.1:{port}")
            try:
                return await engine.send("POST", "http://shop.example.com/hook", {}, b"{}", limit=10)
            finally:
                await engine.aclose()

    answer = asyncio.run(main())
    assert (answer.status, answer.body) == (200, b"ok"), answer
    assert seen == [b"POST http://shop.example.com/hook HTTP/1.1"]


@pytest.mark.parametrize("limit", [10, 65_535, 65_536, 131_072, 1 << 20])
def test_a_body_is_read_to_its_end_or_to_the_limit(limit: int) -> None:
    for size in (0, 1, limit - 1, limit, limit + 1, 65_535, 65_536, 65_537, 131_072, 300_000):
        body = bytes(n % 251 for n in range(size))
        chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + (
            b"%x\r\n%b\r\n" % (size, body) if size else b""
        )
        for whole in (b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (size, body), chunked + b"0\r\n\r\n"):
            answer = ask(answering(whole), limit=limit)
            assert (answer.status, answer.failure, answer.truncated) == (200, None, size > limit), (size, answer.detail)
            assert answer.body == body[:limit]


def test_connections_are_used_again_after_a_whole_body_and_not_after_a_cut_one() -> None:
    """What was not read to its end must not be taken for the answer to the next request."""
    connections = requests = 0

    async def counting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections, requests
        connections += 1
        while await reader.readuntil(b"\r\n\r\n"):
            requests += 1
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5000000\r\n\r\n" + b"%05d" % requests * 1_000_000)

    async def main() -> None:
        engine = FastEngine()
        async with peer(counting) as port:

            async def send(limit: int) -> bytes:
                answer = await engine.send("GET", f"http://127.0.0.1:{port}/", {}, None, limit=limit)
                return answer.body

            assert [(await send(5_000_000))[-5:] for _ in range(3)] == [b"00001", b"00002", b"00003"]
            assert connections == 1
            assert await send(10) == b"0000400004"
            assert await send(5_000_000) == b"00005" * 1_000_000
            assert connections == 2
            await engine.aclose()

    asyncio.run(main())
