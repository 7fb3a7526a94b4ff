"""The connection to Redis: commands, pipelines and scripts, with recovery and a count of round trips."""

import asyncio
import builtins
import hashlib
import socket
from collections.abc import Sequence
from importlib import resources
from typing import Any

import redis.asyncio as aioredis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from relay import metrics
from relay.errors import InvalidSettings, StoreUnavailable

#: What a lost, restarting, read-only or overloaded Redis looks like from redis-py.
UNAVAILABLE = (ConnectionError, TimeoutError, BusyLoadingError, ReadOnlyError, OSError)

Arg = str | bytes | int | float


def connection_options() -> dict[str, Any]:
    """Options of every connection (arq.md, section 7): bounded waits, keepalive, three retries with back-off."""
    return {
        "socket_timeout": 5.0,
        "socket_connect_timeout": 2.0,
        "health_check_interval": 15,
        "retry": Retry(ExponentialBackoff(cap=1.0, base=0.05), 3),
        "retry_on_error": [ConnectionError, TimeoutError],
    }


def open_client(url: str, client_class: type[aioredis.Redis] = aioredis.Redis) -> aioredis.Redis:
    """A client for `redis://`, `rediss://`, `unix://` or `redis+sentinel://host:port[,host:port]/master[/db]`.

    Raises InvalidSettings when the URL cannot be read. Nothing is connected yet.
    """
    options = connection_options()
    if url.startswith("redis+sentinel://"):
        return _open_through_sentinel(url, client_class, options)
    try:
        parsed: dict[str, Any] = dict(parse_url(url))
    except ValueError as error:
        raise InvalidSettings(f"RELAY_REDIS_URL cannot be read: {error}") from None
    connection_class = parsed.pop("connection_class", aioredis.Connection)
    if issubclass(connection_class, aioredis.SSLConnection):
        options["ssl_check_hostname"] = True
    if not url.startswith("unix://"):
        options["socket_keepalive"] = True
    pool = aioredis.ConnectionPool(connection_class=connection_class, **options | parsed)
    return client_class(connection_pool=pool)


def _open_through_sentinel(url: str, client_class: type[aioredis.Redis], options: dict[str, Any]) -> aioredis.Redis:
    hosts, _, path = url.removeprefix("redis+sentinel://").partition("/")
    credentials, _, hosts = hosts.rpartition("@")
    user, _, password = credentials.partition(":")
    name, _, database = path.partition("/")
    if not hosts or not name:
        raise InvalidSettings("RELAY_REDIS_URL: write redis+sentinel://host:port[,host:port]/master[/database]")
    try:
        nodes = [(host, int(port or 26379)) for host, _, port in (h.partition(":") for h in hosts.split(","))]
        options |= {"username": user or None, "password": password or None, "db": int(database or 0)}
    except ValueError:
        raise InvalidSettings("RELAY_REDIS_URL: a Sentinel port or the database is not a number") from None
    sentinel = Sentinel(nodes, sentinel_kwargs={"socket_timeout": 2.0}, **options)  # type: ignore[no-untyped-call]
    client = sentinel.master_for(name, redis_class=client_class)
    assert isinstance(client, client_class)
    return client


class Script:
    """A Lua script of `relay/store/scripts`, called by its hash and sent again when Redis forgot it."""

    def __init__(self, name: str) -> None:
        folder = resources.files("relay.store").joinpath("scripts")
        self.name = name
        self.source = folder.joinpath("prelude.lua").read_bytes() + folder.joinpath(f"{name}.lua").read_bytes()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()


class Db:
    """Redis as the store uses it. One instance a process; `trips` counts network round trips.

    Every failure to reach a writable Redis is raised as StoreUnavailable.
    """

    def __init__(self, client: aioredis.Redis) -> None:
        self.client = client
        self.trips = 0
        self._scripts: dict[str, Script] = {}

    def _count(self, kind: str = "command") -> None:
        self.trips += 1
        metrics.redis_round_trips.labels(kind).inc()

    async def run(self, *command: Arg) -> Any:
        """One command, one round trip."""
        self._count()
        try:
            return await self.client.execute_command(*command)  # type: ignore[no-untyped-call]
        except UNAVAILABLE as error:
            raise StoreUnavailable(f"Redis is not available: {error}") from error
        except ResponseError as error:
            raise _translated(error) from error

    async def run_many(self, commands: Sequence[Sequence[Arg]]) -> list[Any]:
        """Several commands in one round trip, not atomic; the first error is raised."""
        if not commands:
            return []
        self._count()
        pipeline = self.client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            return list(await pipeline.execute())
        except UNAVAILABLE as error:
            raise StoreUnavailable(f"Redis is not available: {error}") from error
        except ResponseError as error:
            raise _translated(error) from error

    async def script(self, name: str, keys: Sequence[str], args: Sequence[Arg] = ()) -> Any:
        """Run a script atomically. Redis may have lost its script cache (restart, failover): then send the source."""
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = Script(name)
        self._count("script")
        try:
            return await self.client.execute_command(  # type: ignore[no-untyped-call]
                "EVALSHA", script.sha, len(keys), *keys, *args
            )
        except NoScriptError:
            return await self.run("EVAL", script.source, len(keys), *keys, *args)
        except UNAVAILABLE as error:
            raise StoreUnavailable(f"Redis is not available: {error}") from error
        except ResponseError as error:
            raise _translated(error) from error

    async def script_each(self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Arg]]]) -> list[Any]:
        """The same script for several keys and arguments, each call atomic by itself, all in two round trips."""
        script = self._scripts.setdefault(name, Script(name))
        commands: list[list[Arg]] = [["EVALSHA", script.sha, len(keys), *keys, *args] for keys, args in calls]
        await self.run("SCRIPT", "LOAD", script.source)
        return await self.run_many(commands)

    async def now_ms(self) -> int:
        """Redis's clock, the only one by which things fall due."""
        seconds, micros = await self.run("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def block_on(self, keys: Sequence[str], timeout: float) -> tuple[str, str] | None:
        """Wait up to `timeout` seconds for a token on one of the lists; says on which, and the token."""
        try:
            async with asyncio.timeout(timeout + 2):
                popped = await self.client.execute_command(  # type: ignore[no-untyped-call]
                    "BLPOP", *keys, max(0.01, timeout)
                )
        except UNAVAILABLE as error:
            raise StoreUnavailable(f"Redis is not available: {error}") from error
        except ResponseError as error:  # such as UNBLOCKED: the server became a replica while we waited
            raise _translated(error) from error
        return None if popped is None else (popped[0].decode(), popped[1].decode())

    async def aclose(self) -> None:
        await self.client.aclose(close_connection_pool=True)


def as_dict(answer: Any) -> dict[bytes, bytes]:
    """A hash as Redis answers it: a map, or from a script and in RESP2 a flat list."""
    return answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))


def _translated(error: ResponseError) -> Exception:
    text = str(error)
    if text.startswith(("OOM", "MISCONF", "NOREPLICAS", "READONLY", "LOADING", "UNBLOCKED")):
        return StoreUnavailable(f"Redis refuses to write: {text}")
    return error


async def wait_until_up(url: str, seconds: float) -> None:
    """Return once Redis answers; raise StoreUnavailable with what to check after `seconds`."""
    client = open_client(url)
    try:
        async with asyncio.timeout(seconds):
            await client.ping()
    except (RedisError, OSError, socket.gaierror, TimeoutError, builtins.TimeoutError) as error:
        raise StoreUnavailable(
            f"Redis at {redacted(url)} does not answer ({str(error) or 'timeout'}). Check RELAY_REDIS_URL, or unset it"
            " where the command may use the embedded store."
        ) from None
    finally:
        await client.aclose(close_connection_pool=True)


def redacted(url: str) -> str:
    """The URL without its password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
