"""HTTP out: one engine for both hot paths, with httpx as the interface around it.

    httpx.AsyncClient ── EngineTransport ── Engine ── pyreqwest (Rust, tokio)
                                              │
    tests: TransportEngine over any httpx transport (ASGI, mock)

httpx's `Request`, `Response` and transport are how the rest of the project speaks HTTP. The two hot paths (polls and
deliveries) call `Engine.send` directly and so save the construction of httpx objects; the bench keeps the figures.

Nothing ambient takes effect: no proxy variables, no `.netrc`, no cookies, no redirects, no decompression.
"""

import enum
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import httpx
import msgspec
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError
from pyreqwest.proxy import ProxyBuilder
from pyreqwest.response import ResponseBodyReader

#: Bytes of a body that are asked of the engine at a time: most bodies come whole.
_AT_ONCE = 64 * 1024
#: Deadline of one exchange: DNS, connect, TLS, write, headers and body together, in seconds.
DEFAULT_DEADLINE = 15.0


class Failure(enum.StrEnum):
    """Why an exchange ended without a whole answer (webhooks.md, section 3)."""

    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    RESET = "reset"
    PROTOCOL = "protocol"
    #: Refused by the address guard (relay.guard): nothing was sent.
    BLOCKED = "blocked"


class Answer(msgspec.Struct, frozen=True):
    """What came back: a status with headers and body, or a failure with a short text.

    `body` holds at most the bytes asked for; `truncated` says that there was more. Header names are lower case.
    """

    status: int | None
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    body: bytes = b""
    truncated: bool = False
    failure: Failure | None = None
    detail: str = ""
    duration_ms: float = 0.0


class Engine(Protocol):
    """Sends one request. Never raises for what the peer or the network does: that is an Answer."""

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, *, limit: int
    ) -> Answer:
        """`limit` bounds the bytes of the answer's body that are read; the rest is never fetched."""
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Pin:
    """Connect to `address` (an IP address as text) for `host`; SNI, Host and the certificate's name stay `host`.

    `host` is a name as URLs have it after parsing: lower case, punycode, no trailing dot. The port is the URL's.
    """

    host: str
    address: str


#: The texts by which the pinned engine names a cause; `tests/upstream/test_engine.py` provokes each of them.
_CAUSES: tuple[tuple[str, Failure], ...] = (
    ("dns error", Failure.DNS),
    ("tcp connect error / deadline has elapsed", Failure.CONNECT),  # the connect timeout: a port that drops packets
    ("operation timed out", Failure.TIMEOUT),
    ("deadline has elapsed", Failure.TIMEOUT),
    ("certificate", Failure.TLS),
    ("InvalidContentType", Failure.TLS),
    ("HandshakeFailure", Failure.TLS),
    ("ProtocolVersion", Failure.TLS),
    ("tls handshake", Failure.TLS),
    ("message head is too large", Failure.PROTOCOL),
    ("invalid HTTP", Failure.PROTOCOL),
    ("invalid content-length", Failure.PROTOCOL),
    ("unexpected end of file", Failure.RESET),
    ("connection closed", Failure.RESET),
    ("Connection reset", Failure.RESET),
    ("Broken pipe", Failure.RESET),
    ("end of file before message length reached", Failure.RESET),
    ("client error (Connect)", Failure.CONNECT),
    ("tcp connect error", Failure.CONNECT),
)


class FastEngine:
    """pyreqwest behind `Engine`: connections pooled per host, HTTP/1.1, one total deadline."""

    def __init__(
        self,
        *,
        deadline: float = DEFAULT_DEADLINE,
        connect_timeout: float = 5.0,
        proxy: str | None = None,
        pin: Pin | None = None,
        roots: Sequence[bytes] = (),
    ) -> None:
        """`proxy` is the one explicit way through a proxy; proxy variables in the environment have no effect.

        `pin` gives one name its address; other names are still resolved by the engine. `roots` are PEM certificates
        trusted beside the system's. Building takes about 7 ms of CPU without the GIL: the system's roots are read anew.
        """
        builder = ClientBuilder().no_proxy()
        if proxy is not None:
            builder = builder.proxy(ProxyBuilder.all(proxy))
        if pin is not None:
            builder = builder.resolve(pin.host, pin.address, 0)
        for root in roots:
            builder = builder.add_root_certificate_pem(root)
        self._client: Client = (
            builder.follow_redirects(False)
            .http1_only()
            .gzip(False)
            .brotli(False)
            .zstd(False)
            .deflate(False)
            .referer(False)
            .default_cookie_store(False)
            .min_tls_version("TLSv1.2")
            .tcp_nodelay(True)
            .timeout(timedelta(seconds=deadline))
            .connect_timeout(timedelta(seconds=min(connect_timeout, deadline)))
            .pool_max_idle_per_host(512)
            .pool_idle_timeout(timedelta(seconds=30))
            .build()
        )

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        limit: int,
        within: float | None = None,
    ) -> Answer:
        """As `Engine.send`; `within` (seconds) shortens the deadline of this one exchange."""
        began = time.perf_counter()
        try:
            builder = self._client.request(method, url).headers(headers)
            if within is not None:
                builder = builder.timeout(timedelta(seconds=within))
            if body is not None:
                builder = builder.body_bytes(body)
            exchange = builder.build_streamed()
            response = await exchange.__aenter__()
            reader, wanted, whole = response.body_reader, min(limit + 1, _AT_ONCE), False
            try:
                chunk = await reader.read(wanted)
                got = b"" if chunk is None else bytes(chunk)
                whole = len(got) < wanted  # fewer bytes than it was asked for: that was the end
                if not whole:
                    got, whole = await _rest(reader, got, limit)
            finally:
                if not whole:  # else nothing is left to close, and the engine was woken once less
                    await exchange.__aexit__(None, None, None)
            return Answer(
                response.status,
                response.headers,
                got[:limit],
                len(got) > limit,
                duration_ms=(time.perf_counter() - began) * 1000,
            )
        except PyreqwestError as error:
            failure, detail = classify(error)
            return Answer(None, failure=failure, detail=detail, duration_ms=(time.perf_counter() - began) * 1000)

    async def aclose(self) -> None:
        await self._client.close()


async def _rest(reader: ResponseBodyReader, first: bytes, limit: int) -> tuple[bytes, bool]:
    """The rest of a body of which `first` is known, up to one byte more than `limit`, and whether that was all. Chunks
    are joined once: a drip costs no quadratic copies."""
    chunks, left, whole = [first], limit + 1 - len(first), False
    while left > 0 and not whole:
        wanted = min(left, _AT_ONCE)
        chunk = await reader.read(wanted)
        chunks.append(b"" if chunk is None else bytes(chunk))
        left, whole = left - len(chunks[-1]), len(chunks[-1]) < wanted
    return b"".join(chunks), whole


def classify(error: PyreqwestError) -> tuple[Failure, str]:
    """The failure behind an engine error, with its innermost cause as text."""
    causes = [cause["message"] for cause in (getattr(error, "details", None) or {}).get("causes") or []]
    text = " / ".join(causes[1:] or causes) or error.message
    for marker, failure in _CAUSES:
        if marker in text:
            return failure, (causes or [error.message])[-1]
    return Failure.PROTOCOL, (causes or [error.message])[-1]


class EngineTransport(httpx.AsyncBaseTransport):
    """An httpx transport over an Engine, for everything that is not a hot path."""

    def __init__(self, engine: Engine, *, limit: int = 16 * 1024 * 1024) -> None:
        self._engine = engine
        self._limit = limit

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        answer = await self._engine.send(
            request.method, str(request.url), dict(request.headers), body or None, limit=self._limit
        )
        if answer.status is None:
            raise _EXCEPTIONS.get(answer.failure, httpx.ConnectError)(answer.detail, request=request)
        return httpx.Response(answer.status, headers=dict(answer.headers), content=answer.body, request=request)


_EXCEPTIONS: dict[Failure | None, type[httpx.TransportError]] = {
    Failure.TIMEOUT: httpx.ReadTimeout,
    Failure.RESET: httpx.ReadError,
    Failure.PROTOCOL: httpx.RemoteProtocolError,
}


class TransportEngine:
    """An Engine over any httpx transport: tests drive the relay against ASGI apps without a socket."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, *, limit: int
    ) -> Answer:
        try:
            response = await self._transport.handle_async_request(
                httpx.Request(method, url, headers=dict(headers), content=body)
            )
            content = await response.aread()
        except httpx.TimeoutException as error:
            return Answer(None, failure=Failure.TIMEOUT, detail=str(error))
        except httpx.TransportError as error:
            return Answer(None, failure=Failure.CONNECT, detail=str(error))
        return Answer(response.status_code, dict(response.headers), content[:limit], len(content) > limit)

    async def aclose(self) -> None:
        await self._transport.aclose()
