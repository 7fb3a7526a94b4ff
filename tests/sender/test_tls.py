"""TLS to a pinned address: SNI and the certificate's name are the host's, never the address's."""

import asyncio
import ssl
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from relay.engine import Answer, Failure
from relay.guard import Guard, GuardedEngine
from relay.model.targets import Allow
from tests.support.certificates import Authority
from tests.support.names import Names
from tests.support.peers import answering, peer, silence

HOST = "shop.example.com"
#: By host, so that a port other than 443 may be named.
ALLOW = Allow.parse([HOST, "127.0.0.2/32"], http=False)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class Seen:
    """What a server was asked for in the handshake, and how often a request came through."""

    names: list[str | None] = field(default_factory=list)

    def watch(self, context: ssl.SSLContext) -> ssl.SSLContext:
        def note(_socket: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext) -> None:
            self.names.append(name)

        context.sni_callback = note
        return context


async def post(context: ssl.SSLContext, roots: list[bytes], host: str = HOST) -> Answer:
    async with peer(answering(OK), context, host="127.0.0.2") as port:
        names = Names({HOST: [["127.0.0.2"]]})
        engine = GuardedEngine(Guard(ALLOW, names), deadline=3, roots=roots)
        try:
            return await engine.send("POST", f"https://{host}:{port}/h", {}, b"{}", limit=100)
        finally:
            await engine.aclose()


def test_sni_and_name_check_use_the_host_while_the_address_is_pinned(tmp_path: Path) -> None:
    authority, seen = Authority.make(tmp_path), Seen()

    answer = asyncio.run(post(seen.watch(authority.context(HOST)), [authority.pem]))

    assert (answer.status, answer.body, answer.failure) == (200, b"ok", None), answer
    assert seen.names == [HOST]


@pytest.mark.parametrize(
    "make",
    [
        lambda authority: authority.context(HOST, starts=-5),
        lambda authority: authority.context(HOST, starts=1),
        lambda authority: authority.context(HOST, own=True),
        lambda authority: authority.context("other.example.com"),
        lambda authority: authority.context("example.com", "*.shop.example.com"),
        lambda authority: authority.context("127.0.0.2"),
        lambda authority: old(authority.context(HOST)),
    ],
    ids=["expired", "not yet valid", "self-signed", "another name", "near names", "the address", "TLS 1.1"],
)
def test_a_bad_certificate_is_a_tls_failure(tmp_path: Path, make: Callable[[Authority], ssl.SSLContext]) -> None:
    authority = Authority.make(tmp_path)

    answer = asyncio.run(post(make(authority), [authority.pem]))

    assert (answer.status, answer.failure) == (None, Failure.TLS), answer
    assert "127.0.0.2" not in answer.detail or "valid for" in answer.detail


def old(context: ssl.SSLContext) -> ssl.SSLContext:
    """Offers nothing newer than TLS 1.1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def test_an_authority_that_nobody_named_is_not_trusted(tmp_path: Path) -> None:
    answer = asyncio.run(post(Authority.make(tmp_path).context(HOST), []))

    assert answer.failure is Failure.TLS, answer


def test_a_certificate_for_the_address_serves_where_the_url_names_the_address(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)

    answer = asyncio.run(post(authority.context("127.0.0.2"), [authority.pem], host="127.0.0.2"))

    assert answer.status == 200, answer


def test_a_handshake_that_stalls_costs_the_deadline(tmp_path: Path) -> None:
    async def main() -> Answer:
        async with peer(silence, host="127.0.0.2") as port:
            engine = GuardedEngine(Guard(ALLOW, Names({HOST: [["127.0.0.2"]]})), deadline=0.5)
            try:
                return await engine.send("POST", f"https://{HOST}:{port}/h", {}, b"{}", limit=100)
            finally:
                await engine.aclose()

    answer = asyncio.run(main())
    assert answer.failure is Failure.TIMEOUT, answer
    assert answer.duration_ms < 1_000
