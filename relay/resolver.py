"""Names to addresses, by the system's resolver, bounded in time and in number.

`getaddrinfo` blocks and cannot be cancelled. It runs on threads of its own, never on the loop's executor: a slow name
server holds a few of these threads, and nothing else. The threads are daemons, so a stuck one delays no shutdown.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

#: Lookups of one process that run at the same time.
THREADS = 64


class Resolver(Protocol):
    async def resolve(self, host: str) -> Sequence[str]:
        """Every address of `host`, as text, best first. A trailing dot keeps search domains out.

        Raises OSError when there is none, or when the name server does not answer.
        """
        ...


class SystemResolver:
    """`getaddrinfo`: the hosts file and name servers of this machine, ordered by RFC 6724."""

    def __init__(self, lookup: Callable[[str], Sequence[str]] | None = None, *, threads: int = THREADS) -> None:
        """`lookup` blocks until it has the addresses of a name, or raises OSError."""
        self._lookup = lookup or _getaddrinfo
        self._free = asyncio.Semaphore(threads)

    async def resolve(self, host: str) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sequence[str]] = loop.create_future()
        await self._free.acquire()

        def done(found: Sequence[str] | Exception) -> None:
            self._free.release()  # by the thread's end, not by the waiter's: an abandoned lookup still holds its place
            if answer.done():
                return
            if isinstance(found, Exception):
                answer.set_exception(found)
            else:
                answer.set_result(found)

        def work() -> None:
            found: Sequence[str] | Exception
            try:
                found = self._lookup(host)
            except Exception as error:  # whatever it is, it is the waiter's
                found = error
            with suppress(RuntimeError):  # the loop was closed in the meantime
                loop.call_soon_threadsafe(done, found)

        threading.Thread(target=work, name="resolver", daemon=True).start()
        return await answer


def _getaddrinfo(host: str) -> list[str]:
    # As bytes: text would go through the IDNA codec of 2003, which folds some characters into digits.
    found = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for _, _, _, _, sockaddr in found]
