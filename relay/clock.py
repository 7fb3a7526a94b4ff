"""Redis's time in this process, between two looks at it.

Everything falls due by Redis's clock, so that skewed machines agree. A pump anchors a `Clock` whenever a script
returned the time; in between, the monotonic clock carries it on, which no clock step disturbs. An answer that was long
on its way says little about now: what it says for certain is kept to, and no more is taken from it.
"""

import time


class Clock:
    """Milliseconds by Redis's clock. Until it is anchored it is this machine's."""

    def __init__(self) -> None:
        self._offset_ms = time.time() * 1000 - time.monotonic() * 1000

    def anchor(self, redis_ms: int, asked: float) -> None:
        """Redis's clock showed `redis_ms` at some moment between `asked` (of `time.monotonic()`) and now."""
        least, most = redis_ms - time.monotonic() * 1000, redis_ms + 1 - asked * 1000
        self._offset_ms = min(max(self._offset_ms, least), most)

    def now_ms(self) -> int:
        return int(time.monotonic() * 1000 + self._offset_ms)
