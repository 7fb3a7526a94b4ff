"""What a runner has under way: posts and heartbeats, each a task of its own."""

import asyncio
import time
from collections.abc import Callable


class Flights:
    """`landed` is told of each that ended, and of its error if it had one."""

    def __init__(self, landed: Callable[[BaseException | None], None]) -> None:
        self._tasks: dict[asyncio.Task[None], float] = {}
        self._told = landed
        self._awaited: set[asyncio.Task[None]] | None = None

    def __len__(self) -> int:
        return len(self._tasks)

    def launch(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.create_task(work)
        self._tasks[task] = time.monotonic()
        task.add_done_callback(self._landed)

    def await_those(self, older_than: float = 0.0) -> bool:
        """What is under way now, and since so many seconds, is `awaited`, until all of it has `arrived`, whatever is
        launched meanwhile. Says whether there is any."""
        now = time.monotonic()
        self._awaited = {task for task, began in self._tasks.items() if now - began >= older_than}
        return bool(self._awaited)

    @property
    def awaited(self) -> bool:
        return bool(self._awaited)

    @property
    def arrived(self) -> bool:
        return self._awaited is not None and not self._awaited

    async def end(self, within: float) -> None:
        """Return when all have ended, or it took too long."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=within)

    async def cut(self) -> None:
        """Cancel what is left."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if self._awaited is not None:
            self._awaited.discard(task)
        self._told(None if task.cancelled() else task.exception())
