"""Child processes of one command: started together, watched, stopped together."""

import asyncio
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

#: How long a child may take to stop after SIGTERM before it is killed (seconds): a deliver worker lets a post in flight
#: end, which takes the delivery time-out (15 by default) at the longest.
STOP_WITHIN = 40.0
_PR_SET_PDEATHSIG = 1
#: Exit status of a child that cannot work as it was set up.
MISTAKE = 2


#: Objects made and not freed until the youngest generation is collected.
GC_THRESHOLD = 50_000


@dataclass(frozen=True, slots=True)
class Child:
    """One process to keep running: a name for people, arguments after the interpreter, and its environment."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)


def settle_down() -> None:
    """At the end of a start: what was imported is there to stay, and need not be looked through again and again.

    With Python's own thresholds (700 objects) a worker spends a tenth of its time looking for cycles, of which its hot
    paths make none (docs/performance.md)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)


class Group:
    """Starts children, hands on each line they write, restarts one that dies, and stops all of them.

    `status` is 2 when a child ended for a mistake in its set-up, which ends them all. Lines are those on standard
    error, with `all_output` those on standard output too, which otherwise is the parent's own."""

    def __init__(
        self, children: Sequence[Child], on_line: Callable[[str, str], None], *, all_output: bool = False
    ) -> None:
        self._children = children
        self._on_line = on_line
        self._stdout = asyncio.subprocess.PIPE if all_output else None
        self._stderr = asyncio.subprocess.STDOUT if all_output else asyncio.subprocess.PIPE
        self._stopping = asyncio.Event()
        self.running: dict[str, asyncio.subprocess.Process] = {}
        self.restarts = 0
        self.status = 0

    async def run(self) -> None:
        """Keep the children running until `stop` or cancellation."""
        try:
            await asyncio.gather(*(self._keep(child) for child in self._children))
        finally:
            await self.stop()

    async def stop(self) -> None:
        """SIGTERM for all, SIGKILL for those that do not go."""
        self._stopping.set()
        left = [process for process in self.running.values() if process.returncode is None]
        for process in left:
            process.send_signal(signal.SIGTERM)
        waits = [asyncio.create_task(process.wait()) for process in left]
        if waits:
            await asyncio.wait(waits, timeout=STOP_WITHIN)
        for process in left:
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*waits)

    async def _keep(self, child: Child) -> None:
        pause = 0.5
        while not self._stopping.is_set():
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *child.arguments,
                env={**os.environ, **child.environment},
                stdout=self._stdout,
                stderr=self._stderr,
                limit=1024 * 1024,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
            self.running[child.name] = process
            lines = process.stdout or process.stderr
            assert lines is not None
            async for line in lines:
                self._on_line(child.name, line.decode("utf-8", "replace").rstrip())
            status = await process.wait()
            if self._stopping.is_set():
                return
            if status == MISTAKE:  # it has said what is wrong, and would say it again
                self.status = status
                self._stopping.set()
                await self.stop()
                return
            self.restarts += 1
            self._on_line(child.name, f"{child.name} ended with status {status}; starting it again")
            await asyncio.wait({asyncio.create_task(self._stopping.wait())}, timeout=pause)
            pause = min(10.0, 2 * pause)


def _die_with_parent() -> None:
    """A killed parent leaves no orphans behind (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
