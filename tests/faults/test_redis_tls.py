"""TLS to Redis and to Sentinels: a right certificate serves, any other is refused, for both clients of a process."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from relay.errors import StoreUnavailable
from relay.queue import open_pool
from relay.store.connecting import Security, open_client
from relay.store.redis import Db, wait_until_up
from tests.support.certificates import Authority
from tests.support.rig import eventually
from tests.support.servers import GOOD, Server, free_port
from tests.support.tools import need


def _authority(folder: Path) -> tuple[Authority, str]:
    folder.mkdir()
    authority = Authority.make(folder)
    (folder / "ca.pem").write_bytes(authority.pem)
    return authority, str(folder / "ca.pem")


@contextmanager
def _served(tmp_path: Path, *names: str, clients: str = "no") -> Iterator[tuple[int, str, Authority]]:
    """A Redis that speaks TLS only, with a certificate for these names: its port, its authority's file."""
    authority, ca = _authority(tmp_path / "ca")
    file, port = str(authority.file(*names)), free_port()
    tls = ["--tls-port", str(port), "--tls-cert-file", file, "--tls-key-file", file, "--tls-ca-cert-file", ca]
    server = Server(
        need("redis-server"),
        tmp_path / "redis",
        *GOOD,
        *tls,
        "--tls-auth-clients",
        clients,
        "--tls-replication",
        "yes",
        port=0,
    )
    server.start(wait=False)
    try:
        yield port, ca, authority
    finally:
        server.stop()


async def _answers(url: str, security: Security) -> bool:
    """Whether both clients of a process, the store's and arq's, get through."""
    outcomes = []
    db, pool = Db(open_client(url, security=security)), open_pool(url, "poll", security)
    try:
        for asking in (db.run("PING"), pool.ping()):
            try:
                outcomes.append(bool(await asking))
            except (StoreUnavailable, RedisError, OSError):
                outcomes.append(False)
    finally:
        await db.aclose()
        await pool.aclose(close_connection_pool=True)
    assert outcomes[0] == outcomes[1]
    return outcomes[0]


def test_the_right_authority_and_name_serve_and_any_other_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        with _served(tmp_path, "localhost") as (port, ca, _):
            _, stranger = _authority(tmp_path / "other")
            url = f"rediss://localhost:{port}"
            await eventually(lambda: _answers(url, Security(ca)))

            assert not await _answers(f"rediss://127.0.0.1:{port}", Security(ca))  # the certificate says localhost
            assert not await _answers(url, Security(stranger))
            assert not await _answers(url, Security())  # the system's authorities do not know it either
            with pytest.raises(StoreUnavailable, match=r"certificate|CERTIFICATE"):
                await wait_until_up(url, 5.0, Security(stranger))
            await wait_until_up(url, 5.0, Security(ca))

    asyncio.run(main())


def test_a_client_certificate_where_redis_asks_for_one(tmp_path: Path) -> None:
    async def main() -> None:
        with _served(tmp_path, "localhost", clients="yes") as (port, ca, authority):
            mine, url = str(authority.file("relay")), f"rediss://localhost:{port}"
            await eventually(lambda: _answers(url, Security(ca, mine, mine)))

            with pytest.raises(StoreUnavailable):  # TLS 1.3 refuses behind the handshake: every retry connects first
                await wait_until_up(url, 3.0, Security(ca))

    asyncio.run(main())


def test_sentinels_over_tls_with_an_account_of_their_own(tmp_path: Path) -> None:
    """The Sentinel wants a password that Redis does not have, and the other way round."""

    async def main() -> None:
        with _served(tmp_path, "localhost", "127.0.0.1") as (port, ca, authority):
            file, sentinel_port = str(authority.file("localhost")), free_port()
            await eventually(lambda: _answers(f"rediss://localhost:{port}", Security(ca)))
            admin = open_client(f"rediss://localhost:{port}", security=Security(ca))
            await admin.config_set("requirepass", "store-password")
            await admin.aclose(close_connection_pool=True)
            folder = tmp_path / "sentinel"
            folder.mkdir()
            (folder / "sentinel.conf").write_text(
                f"port 0\ntls-port {sentinel_port}\ntls-cert-file {file}\ntls-key-file {file}\ntls-ca-cert-file {ca}\n"
                "tls-auth-clients no\ntls-replication yes\nrequirepass sentinel-password\n"
                f"sentinel monitor main 127.0.0.1 {port} 1\nsentinel auth-pass main store-password\n"
            )
            sentinel = Server(need("redis-server"), folder, str(folder / "sentinel.conf"), "--sentinel", port=0)
            sentinel.start(wait=False)
            try:
                url = f"rediss+sentinel://:store-password@localhost:{sentinel_port}/main"
                good = Security(ca, sentinel_password="sentinel-password")
                await eventually(lambda: _answers(url, good))

                assert not await _answers(url, Security(ca, sentinel_password="wrong"))
                assert not await _answers(url, Security(ca))
                assert not await _answers(url.replace("store-", "wrong-"), good)
                assert not await _answers(url.replace("localhost", "127.0.0.1"), good)
                _, stranger = _authority(tmp_path / "other")
                assert not await _answers(url, Security(stranger, sentinel_password="sentinel-password"))
            finally:
                sentinel.stop()

    asyncio.run(main())
