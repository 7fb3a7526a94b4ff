"""The connection to Redis: commands, pipelines and scripts, with recovery and a count of round trips."""

import asyncio
import builtins
import hashlib
import re
import socket
import time
from collections.abc import Awaitable, Sequence
from importlib import resources
from typing import Any

import redis.asyncio as aioredis
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from relay import labels, metrics
from relay.errors import STORE_FULL, StoreUnavailable
from relay.store.connecting import Security
from relay.store.connecting import open_client as open_client

#: What a lost, restarting, read-only or overloaded Redis looks like from redis-py.
UNAVAILABLE = (ConnectionError, TimeoutError, BusyLoadingError, ReadOnlyError, OSError)

Arg = str | bytes | int | float

#: What redis-py puts before an error of a pipeline: the command, which may be a customer's data, and then the arguments
#: of the exception.
_IN_PIPELINE = re.compile(r"Command # \d+ .* of pipeline caused error: \(?['\"]?(.*?)['\"]?,?\)?$", re.DOTALL)
_REFUSES_WRITES = ("MISCONF", "NOREPLICAS", "READONLY", "LOADING", "UNBLOCKED")


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
        self._kinds = {
            kind: (metrics.redis_round_trips.labels(kind), metrics.redis_duration.labels(kind))
            for kind in labels.REDIS_KINDS
        }

    async def _ask(self, kind: str, answer: Awaitable[Any]) -> Any:
        """One round trip: counted, timed, and its failure said in the store's words."""
        self.trips += 1
        count, duration = self._kinds[kind]
        count.inc()
        began = time.perf_counter()
        try:
            return await answer
        except NoScriptError:
            raise
        except UNAVAILABLE as error:
            metrics.redis_errors.labels("unavailable").inc()
            raise StoreUnavailable(f"Redis is not available: {error}") from error
        except ResponseError as error:
            translated = _translated(error)
            metrics.redis_errors.labels("refused" if isinstance(translated, StoreUnavailable) else "other").inc()
            # Not even as the cause in a trace: what a pipeline's error tells of its command goes to no log.
            raise translated from (None if _IN_PIPELINE.match(str(error)) else error)
        finally:
            duration.observe(time.perf_counter() - began)

    async def run(self, *command: Arg) -> Any:
        """One command, one round trip."""
        return await self._ask("command", self.client.execute_command(*command))  # type: ignore[no-untyped-call]

    async def run_many(self, commands: Sequence[Sequence[Arg]]) -> list[Any]:
        """Several commands in one round trip, not atomic; the first error is raised."""
        if not commands:
            return []
        pipeline = self.client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(await self._ask("pipeline", _each_well(pipeline.execute(raise_on_error=False))))

    async def script(self, name: str, keys: Sequence[str], args: Sequence[Arg] = ()) -> Any:
        """Run a script atomically. Redis may have lost its script cache (restart, failover): then send the source."""
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = Script(name)
        call = self.client.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)  # type: ignore[no-untyped-call]
        try:
            return await self._ask("script", call)
        except NoScriptError:
            return await self.run("EVAL", script.source, len(keys), *keys, *args)

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
            metrics.redis_errors.labels("unavailable").inc()
            raise StoreUnavailable(f"Redis is not available: {error}") from error
        except ResponseError as error:  # such as UNBLOCKED: the server became a replica while we waited
            raise _translated(error) from error
        return None if popped is None else (popped[0].decode(), popped[1].decode())

    @property
    def pool(self) -> tuple[int, int]:
        """Connections that are busy, and how many there may be."""
        pool = self.client.connection_pool
        return len(pool._in_use_connections), pool.max_connections

    async def aclose(self) -> None:
        await self.client.aclose(close_connection_pool=True)


async def _each_well(executing: Awaitable[list[Any]]) -> list[Any]:
    """The answers of a pipeline. Its first error is raised as it is: redis-py would put the whole command before the
    text, so that it is not known by its beginning any more, and logs get arguments that are nobody's business."""
    answers = await executing
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def as_dict(answer: Any) -> dict[bytes, bytes]:
    """A hash as Redis answers it: a map, or from a script and in RESP2 a flat list."""
    return answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))


def _translated(error: ResponseError) -> Exception:
    text = _IN_PIPELINE.sub(r"\1", str(error))
    if isinstance(error, OutOfMemoryError):  # redis-py takes the code off the text of those it knows
        return StoreUnavailable(f"Redis is full: {text}", code=STORE_FULL)
    if text.startswith(_REFUSES_WRITES):
        return StoreUnavailable(f"Redis refuses to write: {text}")
    return error if text == str(error) else type(error)(text)


async def wait_until_up(url: str, seconds: float, security: Security | None = None) -> None:
    """Return once Redis answers; raise StoreUnavailable with what to check after `seconds`."""
    client = open_client(url, security=security)
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
