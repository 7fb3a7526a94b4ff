"""How a client of Redis is opened: a server, a socket, or the primary that Sentinels name; TLS; bounded waits.

redis://[user:password@]host:port/db        rediss:// the same over TLS
redis+sentinel://[user:password@]host:port[,host:port]/name[/db]     rediss+sentinel:// both over TLS
unix://path
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote

import redis.asyncio as aioredis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError, ReadOnlyError, TimeoutError

from relay.errors import InvalidSettings
from relay.settings import Settings

#: Connections that the pool of one process may open: two hundred posts settle at a time, and pumps block on bells.
MAX_CONNECTIONS = 1000
_SENTINEL = {"redis+sentinel": False, "rediss+sentinel": True}
#: Waits on a Sentinel (seconds): another one is asked next.
_SENTINEL_WAIT = 1.0
#: Longest wait for an answer, and for a connection (seconds).
ANSWER_WITHIN, CONNECT_WITHIN = 5.0, 2.0
#: How often a command is tried again, and until when after it began (seconds): an outage of a moment is bridged, and a
#: Redis that accepts connections and answers nothing costs one wait for an answer, not one a try.
RETRIES, RETRY_WITHIN = 3, 3.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Security:
    """What a URL does not say: certificates (paths of PEM files), and the account on the Sentinels themselves."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    @property
    def tls(self) -> dict[str, Any]:
        """Options of a connection over TLS: the server is verified, and has to have the name that was asked for."""
        found: dict[str, Any] = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
        files = {"ssl_ca_certs": self.ca_file, "ssl_certfile": self.cert_file, "ssl_keyfile": self.key_file}
        return found | {name: path for name, path in files.items() if path is not None}


def security_of(settings: Settings) -> Security:
    return Security(
        settings.redis_ca_file,
        settings.redis_cert_file,
        settings.redis_key_file,
        settings.redis_sentinel_username,
        settings.redis_sentinel_password,
    )


class BoundedRetry(Retry):
    """Tries again at one level only, and for a bounded time.

    redis-py tries again where it sends a command, and inside of that where it looks after an idle connection or asks
    the Sentinels: four tries of four, each with its wait. A connection has its own of these and serves one call at a
    time, so what begins while another one runs is inside of it.
    """

    __slots__ = ("_busy",)

    def __init__(self) -> None:
        super().__init__(ExponentialBackoff(cap=1.0, base=0.05), RETRIES)
        self._busy = False

    async def call_with_retry(self, do: Callable[[], Awaitable[T]], fail: Callable[[Any], Any]) -> T:
        outermost, self._busy = not self._busy, True
        give_up, failures = time.monotonic() + RETRY_WITHIN, 0
        try:
            while True:
                try:
                    return await do()
                except self._supported_errors as error:
                    failures += 1
                    await fail(error)
                    pause = self._backoff.compute(failures)
                    if not outermost or failures > RETRIES or time.monotonic() + pause > give_up:
                        raise
                await asyncio.sleep(pause)
        finally:
            self._busy = not outermost


class _Unlocked:
    """A pool whose calls connect side by side: redis-py holds the pool's lock meanwhile, so that behind a server that
    does not answer AUTH each call would wait for all those before it."""

    async def get_connection(self, *arguments: Any, **options: Any) -> Any:
        connection = self.get_available_connection()  # type: ignore[attr-defined]
        try:
            await self.ensure_connection(connection)  # type: ignore[attr-defined]
        except BaseException:
            await self.release(connection)  # type: ignore[attr-defined]
            raise
        return connection


class _Pool(_Unlocked, aioredis.ConnectionPool):
    pass


class _Writable:
    """A connection that ends when its server turns out to be no primary any more: the next one asks, or resolves the
    name, anew. redis-py does so behind a Sentinel only."""

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*arguments, **options)  # type: ignore[misc]
        except ReadOnlyError:
            await self.disconnect()  # type: ignore[attr-defined]
            raise ConnectionError("the server has become a replica") from None


class WritableConnection(_Writable, aioredis.Connection):
    pass


class WritableSSLConnection(_Writable, aioredis.SSLConnection):
    pass


class _SentinelPool(_Unlocked, SentinelConnectionPool):
    """Closes its connections to the Sentinels as well."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose(close_connection_pool=True)


def connection_options() -> dict[str, Any]:
    """Options of every connection (docs/operations.md): bounded waits, keepalive, three retries with back-off."""
    return {
        "socket_timeout": ANSWER_WITHIN,
        "socket_connect_timeout": CONNECT_WITHIN,
        "health_check_interval": 15,
        "retry": BoundedRetry(),
        "retry_on_error": [ConnectionError, TimeoutError],
        "lib_name": None,  # CLIENT SETINFO: a command more to permit, which Redis 7.0 does not know
        "lib_version": None,
    }


def open_client(
    url: str, client_class: type[aioredis.Redis] = aioredis.Redis, security: Security | None = None
) -> aioredis.Redis:
    """A client for one of the URLs above. Raises InvalidSettings when it cannot be read. Nothing is connected yet."""
    security = security or Security()
    options = connection_options()
    scheme, _, rest = url.partition("://")
    if scheme in _SENTINEL:
        return _open_through_sentinel(rest, client_class, options, security, tls=_SENTINEL[scheme])
    try:
        parsed: dict[str, Any] = dict(parse_url(url))
    except ValueError as error:
        raise InvalidSettings(f"RELAY_REDIS_URL cannot be read: {error}") from None
    connection_class = parsed.pop("connection_class", WritableConnection)
    if issubclass(connection_class, aioredis.SSLConnection):
        connection_class = WritableSSLConnection
        options |= security.tls
    if not url.startswith("unix://"):
        options["socket_keepalive"] = True
    pool = _Pool(connection_class=connection_class, **{"max_connections": MAX_CONNECTIONS} | options | parsed)
    return client_class(connection_pool=pool)


def _open_through_sentinel(
    rest: str, client_class: type[aioredis.Redis], options: dict[str, Any], security: Security, *, tls: bool
) -> aioredis.Redis:
    hosts, _, path = rest.partition("/")
    credentials, _, hosts = hosts.rpartition("@")
    user, _, password = credentials.partition(":")
    name, _, database = path.partition("/")
    if not hosts or not name:
        raise InvalidSettings("RELAY_REDIS_URL: write redis+sentinel://host:port[,host:port]/master[/database]")
    try:
        nodes = [(host, int(port or 26379)) for host, _, port in (h.partition(":") for h in hosts.split(","))]
        options |= {"username": unquote(user) or None, "password": unquote(password) or None, "db": int(database or 0)}
    except ValueError:
        raise InvalidSettings("RELAY_REDIS_URL: a Sentinel port or the database is not a number") from None
    asked: dict[str, Any] = {
        "socket_timeout": _SENTINEL_WAIT,
        "socket_connect_timeout": _SENTINEL_WAIT,
        "socket_keepalive": True,
        "username": security.sentinel_username,
        "password": security.sentinel_password,
    }
    over_tls = {"ssl": True} | security.tls if tls else {}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        nodes, sentinel_kwargs=asked | over_tls, socket_keepalive=True, **options | over_tls
    )
    client = sentinel.master_for(
        name, redis_class=client_class, connection_pool_class=_SentinelPool, max_connections=MAX_CONNECTIONS
    )
    assert isinstance(client, client_class)
    return client
