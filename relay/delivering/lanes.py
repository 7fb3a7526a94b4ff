"""The lanes of one subscription: queues in memory, and when the ones that are parked in Redis are due.

A lane is in one of three places: nowhere (its next event makes a queue), in memory (a queue, its head perhaps in
flight), or parked (in Redis, with the time of its next attempt). Events of a parked lane join it there.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Mapping

from relay.delivering.jobs import Job
from relay.model.orders import LaneId


class Lanes:
    def __init__(self, parked: Mapping[LaneId, int]) -> None:
        self.parked = dict(parked)
        self.runnable: deque[LaneId] = deque()
        self._queues: dict[LaneId, deque[Job]] = {}
        self._due = [(at, lane) for lane, at in parked.items()]
        heapq.heapify(self._due)

    def __contains__(self, lane: LaneId) -> bool:
        """Whether the lane is in memory."""
        return lane in self._queues

    def add(self, lane: LaneId, jobs: Iterable[Job]) -> None:
        """Put jobs at a lane's end in memory; a new lane can run."""
        queue = self._queues.get(lane)
        if queue is None:
            self._queues[lane] = deque(jobs)
            self.runnable.append(lane)
        else:
            queue.extend(jobs)

    def head(self, lane: LaneId) -> Job:
        return self._queues[lane][0]

    def pop(self, lane: LaneId) -> Job:
        """Take the head away; the lane stays in memory until `rest` is asked or `done` is told."""
        return self._queues[lane].popleft()

    def rest(self, lane: LaneId) -> list[Job]:
        """Take the whole lane out of memory."""
        return list(self._queues.pop(lane, ()))

    def go_on(self, lane: LaneId) -> bool:
        """After the head was taken: the lane runs on, or, when it is empty (False), leaves memory."""
        if self._queues[lane]:
            self.runnable.append(lane)
            return True
        del self._queues[lane]
        return False

    def queued(self) -> list[LaneId]:
        return list(self._queues)

    def forget_runnable(self) -> None:
        self.runnable.clear()

    def sleep(self, lane: LaneId, at_ms: int) -> None:
        """The lane is parked until a time."""
        self.parked[lane] = at_ms
        heapq.heappush(self._due, (at_ms, lane))

    def unpark(self, lane: LaneId) -> None:
        self.parked.pop(lane, None)

    def wake(self, now_ms: int) -> None:
        """Every parked lane is due now."""
        for lane, at_ms in self.parked.items():
            if at_ms > now_ms:
                self.sleep(lane, now_ms)

    def merge(self, parked: Mapping[LaneId, int]) -> None:
        """Take in lanes that were parked, or made due, from outside."""
        for lane, at_ms in parked.items():
            if at_ms < self.parked.get(lane, at_ms + 1):
                self.sleep(lane, at_ms)

    def positions(self) -> list[str]:
        """Places in the log of all that is in memory."""
        return [job.entry.position for queue in self._queues.values() for job in queue]

    def due(self, now_ms: int, most: int) -> list[LaneId]:
        """Parked lanes whose time has come and that are not in memory; each is told once."""
        chosen: list[LaneId] = []
        while self._due and self._due[0][0] <= now_ms and len(chosen) < most:
            lane = self._next()
            if lane is not None:
                chosen.append(lane)
        return chosen

    def earliest(self) -> LaneId | None:
        """The parked lane that is due first, whenever that is: for a probe."""
        while self._due:
            lane = self._next()
            if lane is not None:
                return lane
        return None

    def _next(self) -> LaneId | None:
        at_ms, lane = heapq.heappop(self._due)
        return lane if self.parked.get(lane) == at_ms and lane not in self._queues else None

    @property
    def next_due_ms(self) -> int | None:
        """When something may have to be fetched; a time that has become void may be told."""
        return self._due[0][0] if self._due else None
