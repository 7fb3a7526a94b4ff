"""`python -m workers [poll|deliver|maintain|all]`: one worker process. `relay worker` starts it."""

import asyncio
import errno
import os
import signal
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import structlog
import uvloop

from relay import __version__, logs, metrics, processes, tracing
from relay.canary import Canary, retire
from relay.errors import InvalidSettings, StoreUnavailable
from relay.queue import KINDS, READ_LIMIT
from relay.sampling import Sampler
from relay.serving import serve
from relay.settings import Settings, load
from relay.store import keys
from relay.store.starting import opened
from relay.store.subscriptions import Subscriptions
from relay.vitals import Vitals
from relay.watching import Watch
from workers.context import Process, open_process
from workers.health import health_app
from workers.supervisor import Pulse, slots, supervise

#: What the log calls the wait for Redis.
WAITING = "worker.waiting_for_redis"


async def work(kinds: tuple[str, ...], settings: Settings) -> None:
    """Run the pumps of these kinds until SIGTERM or SIGINT. The probes are answered from the start."""
    vitals, pulses = Vitals(), {kind: Pulse(kind) for kind in kinds}
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, vitals.drain)
    async with vitals.timing():
        working = asyncio.create_task(_pump(kinds, settings, vitals, pulses))
        tasks = [working]
        if settings.metrics_port:
            app = health_app(list(pulses.values()), vitals)
            tasks.append(asyncio.create_task(serve(app, settings.host, settings.metrics_port, lambda port: None)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            await working
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(kinds: tuple[str, ...], settings: Settings, vitals: Vitals, pulses: dict[str, Pulse]) -> None:
    log = structlog.get_logger("workers")
    async with AsyncExitStack() as stack:
        process = await opened(stack, lambda: open_process(settings), settings, vitals.draining, word=WAITING)
        if process is None:
            return
        await stack.enter_async_context(vitals.watching(process.db))
        metrics.arq_read_limit.set(READ_LIMIT)
        for kind in kinds:
            metrics.pump_slots.labels(kind).set(slots(kind, settings))
        ending = [
            asyncio.create_task(supervise(kind, process, vitals.draining, pulse)) for kind, pulse in pulses.items()
        ]
        if "maintain" in kinds:
            ending.append(asyncio.create_task(Sampler(process.db, process.ringer).run(vitals.draining)))
        watch = Watch(process.db, process.pressure)
        watching = asyncio.create_task(watch.run())
        tasks = [*ending, watching]
        if "maintain" in kinds:
            tasks += await _canary(process, vitals.draining)
        log.info("worker.started", kinds=list(kinds), pid=os.getpid())
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            await asyncio.gather(*ending)
        finally:
            watch.stop()
            await asyncio.wait({watching})
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    log.info("worker.stopped", kinds=list(kinds))


async def _canary(process: Process, draining: asyncio.Event) -> list[asyncio.Task[None]]:
    """The canary's tasks; where it is off, what it left behind goes."""
    settings = process.settings
    if not settings.canary:
        with suppress(StoreUnavailable):  # the next start finds it as well
            if await process.db.run("EXISTS", keys.CANARY_STATE):
                await retire(process.db, process.orders, Subscriptions(process.db, process.vault))
                await process.db.run("DEL", keys.CANARY_STATE)
        return []
    canary = Canary(process.db, process.vault, process.orders, settings)
    serving = serve(canary, settings.host, settings.canary_port, lambda port: None)
    return [asyncio.create_task(serving), asyncio.create_task(canary.run(draining))]


def main(arguments: list[str]) -> int:
    kind = arguments[0] if arguments else "all"
    if kind not in (*KINDS, "all"):
        print(f"relay worker: {kind!r} is none of {', '.join((*KINDS, 'all'))}", file=sys.stderr)
        return 2
    try:
        settings = load(os.environ, Path(".env"))
        missing = [name for name in ("redis_url", "master_keys") if getattr(settings, name) is None]
        if missing:
            names = ", ".join(f"RELAY_{name.upper()}" for name in missing)
            raise InvalidSettings(f"a worker needs {names}")
        if settings.tracing:
            tracing.require()
    except InvalidSettings as error:
        print(f"relay worker: {error.detail}", file=sys.stderr)
        return 2
    logs.configure(settings.log_format, settings.log_level)
    kinds = KINDS if kind == "all" else (kind,)
    metrics.begin(kinds)
    metrics.build_info.labels(__version__, kind).set(1)
    metrics.config_info.labels(settings.digest).set(1)
    try:
        processes.settle_down()
        uvloop.run(work(kinds, settings))
    except InvalidSettings as error:
        print(f"relay worker: {error.detail}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
            raise
        ports = [settings.metrics_port, *([settings.canary_port] if settings.canary else [])]
        where = " or ".join(f"{settings.host}:{port}" for port in ports)
        print(f"relay worker: cannot serve metrics on {where}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
