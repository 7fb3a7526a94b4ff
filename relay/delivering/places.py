"""The places in which a pump's posts are in flight, shared out fairly between subscriptions and between hosts."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

#: A subscription holds at most one part in so many of the places that are free.
SHARE = 4


class Places:
    """At most `total` posts at a time, at most `per_host` to one host over all subscriptions, and at most half of all
    to endpoints whose last attempts failed.

    A subscription has at most a quarter of what is free, as with the dynamic thresholds of shared-memory switches
    (Choudhury and Hahne 1998): endpoints that begin to hang, all at once, and before their first time-out shows it,
    leave a share for the others.

    Who waits is served in turns, a subscription at a time: ten thousand posts that wait for one subscription delay
    another's by one turn.
    """

    def __init__(self, total: int, per_host: int) -> None:
        self._free = total
        self._free_doubtful = max(1, total // 2)
        self._per_host = per_host
        self._hosts: dict[str, int] = {}
        self._held: dict[str, int] = {}
        self._waiting: dict[str, deque[tuple[asyncio.Future[None], str, bool]]] = {}

    @asynccontextmanager
    async def hold(self, turn: str, host: str, *, doubtful: bool) -> AsyncIterator[None]:
        """Wait for a place and keep it. `turn` names who takes turns: the subscription."""
        if self._waiting or not self._fits(turn, host, doubtful):
            await self._wait(turn, host, doubtful)
        else:
            self._take(turn, host, doubtful)
        try:
            yield
        finally:
            self._give_back(turn, host, doubtful)

    async def _wait(self, turn: str, host: str, doubtful: bool) -> None:
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(turn, deque()).append((place, host, doubtful))
        self._serve()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._give_back(turn, host, doubtful)
            else:
                place.cancel()
            raise

    def _fits(self, turn: str, host: str, doubtful: bool) -> bool:
        if self._free <= 0 or (doubtful and self._free_doubtful <= 0):
            return False
        if self._held.get(turn, 0) >= max(1, self._free // SHARE):
            return False
        return self._hosts.get(host, 0) < self._per_host

    def _take(self, turn: str, host: str, doubtful: bool) -> None:
        self._free -= 1
        self._free_doubtful -= doubtful
        self._held[turn] = self._held.get(turn, 0) + 1
        self._hosts[host] = self._hosts.get(host, 0) + 1

    def _give_back(self, turn: str, host: str, doubtful: bool) -> None:
        self._free += 1
        self._free_doubtful += doubtful
        self._held[turn] -= 1
        if not self._held[turn]:
            del self._held[turn]
        self._hosts[host] -= 1
        if not self._hosts[host]:
            del self._hosts[host]
        self._serve()

    def _serve(self) -> None:
        """Give free places to those who wait, one a turn, round and round."""
        if not self._waiting:
            return
        served = True
        while served and self._free > 0:
            served = False
            for turn in list(self._waiting):
                queue = self._waiting.pop(turn)
                while queue and queue[0][0].cancelled():
                    queue.popleft()
                if not queue:
                    continue
                place, host, doubtful = queue[0]
                if self._fits(turn, host, doubtful):
                    queue.popleft()
                    self._take(turn, host, doubtful)
                    place.set_result(None)
                    served = True
                if queue:
                    self._waiting[turn] = queue  # behind the others
                if self._free <= 0:
                    break
