"""How many requests came, and a limit on them per client credential."""

import asyncio
import socket
import sys
from collections import Counter, deque
from typing import Any

from starlette.types import Scope

#: What the kernel's time of an arrival may be off by (its tick, in seconds).
_TICK = 0.004
#: Times are counted so many at once; what reached this host may be noticed so much later (seconds).
_AT_ONCE, _STILL_COMING = 10_000, 10.0
#: Where `struct tcp_info` tells how many ms ago data was last received.
_LAST_RECEIVED = 8 + 4 * 11


class RateLimit:
    """At most `rate` requests in any second for each credential; a fractional rate stretches the window instead."""

    def __init__(self, rate: float | None) -> None:
        self._capacity = max(1, int(rate)) if rate else 0
        self._window = self._capacity / rate if rate else 0.0
        self._admitted: dict[str, deque[float]] = {}

    def wait(self, client_id: str, now: float) -> float:
        """0 when the request is admitted, else the seconds until one would be."""
        if not self._capacity:
            return 0.0
        admitted = self._admitted.setdefault(client_id, deque())
        while admitted and admitted[0] <= now - self._window:
            admitted.popleft()
        if len(admitted) < self._capacity:
            admitted.append(now)
            return 0.0
        return admitted[0] + self._window - now


class Traffic:
    """Requests for the five operations: how many, by status, and the most in any one second of wall time, those for
    tokens among them. What is counted are the times when requests reached this host (`held_up`), which may come in any
    order."""

    def __init__(self) -> None:
        self.total = 0
        self.by_status: Counter[str] = Counter()
        self._times: list[float] = []
        self._most = 0
        self._enough = _AT_ONCE
        self._second = 1.0

    def arrived(self, now: float, waited: float | None = None) -> float:
        """A request for one of the five operations, which waited here for so long (`held_up`); returns when it came."""
        self.total += 1
        return self.counted(now, waited)

    def counted(self, now: float, waited: float | None = None) -> float:
        """Any request: whoever limits requests counts it."""
        if waited is not None:  # of two times that are off by a tick, so much is for sure within one second
            self._second = 1.0 - 2 * _TICK
        at = now - (waited or 0.0)
        self._times.append(at)
        if len(self._times) >= self._enough:
            self._count()
            last = max(self._times)
            self._times = [one for one in self._times if one > last - _STILL_COMING]
            self._enough = 2 * len(self._times) + _AT_ONCE
        return at

    @property
    def times(self) -> list[float]:
        """When the last ten thousand or so came, rising."""
        return sorted(self._times)

    @property
    def max_in_a_second(self) -> int:
        self._count()
        return self._most

    def _count(self) -> None:
        times, first = self.times, 0
        for number, at in enumerate(times):
            while times[first] <= at - self._second:
                first += 1
            self._most = max(self._most, number - first + 1)

    def report(self) -> dict[str, Any]:
        """`by_status` has "none" for requests that were never completely answered."""
        return {
            "total": self.total,
            "by_status": dict(sorted(self.by_status.items())),
            "max_in_a_second": self.max_in_a_second,
        }


def held_up(scope: Scope) -> float | None:
    """For how many seconds a request has lain in this host before anybody looked at it, as the kernel tells (Linux;
    None elsewhere, and without a socket). A busy event loop would take what has queued up for a burst."""
    transport = scope.get("state", {}).get("transport")
    known = transport.get_extra_info("socket") if isinstance(transport, asyncio.Transport) else None
    if known is None or sys.platform != "linux":
        return None
    try:
        info = known.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)
    except OSError:  # closed meanwhile
        return None
    return int.from_bytes(info[_LAST_RECEIVED : _LAST_RECEIVED + 4], sys.byteorder) / 1000
