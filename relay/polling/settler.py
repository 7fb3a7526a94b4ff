"""Arms on their way back: gathered for a moment, then written together."""

import asyncio
from collections.abc import Sequence

import structlog

from relay import metrics
from relay.errors import StoreUnavailable
from relay.polling.books import Books
from relay.polling.planner import Planner
from relay.store.arms import Arms
from relay.store.order_records import ClaimedArm, Settlement

#: An arm, when it was asked (ms), how long the answer took (seconds), and the validator that came with it.
Unchanged = tuple[ClaimedArm, int, float, str]
#: Arms that are claimed, or written, at once: the script takes some 2 ms, and Redis does nothing else meanwhile.
BATCH = 400
#: How long settled arms wait for company before they are written (seconds).
GATHER = 0.02


class Settler:
    """Writes settlements in batches until it is closed, and shares what the planner learnt."""

    def __init__(self, arms: Arms, planner: Planner, books: Books) -> None:
        self._arms = arms
        self._planner = planner
        self._books = books
        self._waiting: list[Settlement] = []
        self._unchanged: list[Unchanged] = []
        self._woken = asyncio.Event()
        self._closing = False
        self._log = structlog.get_logger("relay.polling")

    def put(self, settlement: Settlement) -> None:
        self._waiting.append(settlement)
        self._woken.set()

    def unchanged(self, arm: ClaimedArm, asked_ms: int, duration_s: float, validator: str) -> None:
        """An answer showed what was known; `validator` as in Settlement."""
        self._unchanged.append((arm, asked_ms, duration_s, validator))
        self._woken.set()

    def close(self) -> None:
        """Write what waits, then end."""
        self._closing = True
        self._woken.set()

    async def run(self) -> None:
        while self._count or not self._closing:
            await self._woken.wait()
            if self._count < BATCH and not self._closing:
                await asyncio.sleep(GATHER)
            try:
                await self._flush()
                await self._planner.exchange()
            except StoreUnavailable as error:  # what was not written falls due again with its leases
                self._log.warning("poll.store_unavailable", error=error.detail)
            except Exception:  # likewise: the pump goes on, and who is paged sees why its arms are late
                self._log.exception("poll.settling_failed")
            if self._count:
                self._woken.set()

    @property
    def _count(self) -> int:
        return len(self._waiting) + len(self._unchanged)

    async def _flush(self) -> None:
        """Write what waits; fewer than a batch that come meanwhile wait for company in their turn."""
        self._woken.clear()
        while self._count:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            room = BATCH - len(batch)
            same, self._unchanged = self._unchanged[:room], self._unchanged[room:]
            batch += self._reread(same)
            lost = await self._arms.settle(batch, self._planner.drain())
            if lost:
                metrics.leases_lost.labels("poll").inc(lost)
            if self._count < BATCH and not self._closing:
                break

    def _reread(self, polls: Sequence[Unchanged]) -> list[Settlement]:
        """Most polls find nothing new. They are planned anew, learnt from and counted together."""
        if not polls:
            return []
        arms, asked_ms, durations_s, validators = zip(*polls, strict=True)
        try:
            dues = self._planner.reread(arms, asked_ms)
        except Exception as error:  # a defect of ours, or a record that is none: one arm must not take others with it
            if len(polls) == 1:
                self._books.failed(arms[0], error)
                return []
            half = len(polls) // 2
            return self._reread(polls[:half]) + self._reread(polls[half:])
        self._books.unchanged(arms, asked_ms, durations_s)
        return [
            Settlement(arm, due, at, "", None, validator, f"f{arm.fingerprint}")
            for arm, due, at, validator in zip(arms, dues, asked_ms, validators, strict=True)
        ]
