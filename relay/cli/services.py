"""Commands that run: demo, up, api, worker, simulator, receive."""

import argparse
import asyncio
import os
import secrets
import signal
import sys
from pathlib import Path
from typing import Any

import uvloop

from relay import __version__, logs, metrics, tracing
from relay.cli.api_process import serve_api
from relay.cli.options import add_settings, command, environment, read_settings
from relay.demo import DemoOptions, demo
from relay.embedded import EmbeddedStore
from relay.errors import InvalidSettings
from relay.model.signing import Secret
from relay.processes import Child, Group
from relay.receiver import Receipt, Receiver, in_words
from relay.serving import run_until_signal, serve
from relay.settings import Settings
from relay.simulator.app import SimulatorConfig
from relay.simulator.server import run as run_simulator
from relay.store.connecting import security_of
from relay.store.starting import wait_for_redis
from relay.vault import generate_master_key
from relay.vitals import Vitals


def add_commands(commands: Any) -> None:
    parser = command(commands, "demo", "the main job in one terminal", "relay demo --orders 5 --once", _demo)
    parser.add_argument("--orders", type=int, default=3, help="simulated orders (default 3)")
    parser.add_argument("--speed", type=float, default=60, help="simulated seconds a second (default 60)")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other orders (default 1)")
    parser.add_argument("--once", action="store_true", help="stop when every order has ended and all is delivered")
    parser.add_argument("--json", action="store_true", help="the last line on standard output is one JSON object")
    parser.add_argument("--port", type=int, default=0, help="port of the API (default: any free one)")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="SPEC", help="a simulator fault, such as 500:0.05"
    )
    parser.add_argument(
        "--fail", type=float, default=0, metavar="RATE", help="share of POSTs that the receiver refuses"
    )

    parser = command(
        commands, "up", "the relay: API and workers in one process group", "relay up --data ./relay-data", _up
    )
    add_settings(parser)
    parser = command(commands, "api", "the API process of a deployment", "relay api --port 8080", _api)
    add_settings(parser)
    parser = command(commands, "worker", "a worker process of a deployment", "relay worker deliver", _worker)
    parser.add_argument("kind", nargs="?", default="all", choices=["poll", "deliver", "maintain", "all"])
    add_settings(parser)

    parser = command(
        commands, "simulator", "a simulated upstream", "relay simulator --orders 10 --speed 60 --port 9000", _simulator
    )
    parser.add_argument("--orders", type=int, default=3)
    parser.add_argument("--speed", type=float, default=60, help="simulated seconds a second (default 60)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--rate-limit", type=float, default=None, metavar="N", help="requests per second per credential"
    )
    parser.add_argument(
        "--fault", action="append", default=[], metavar="SPEC", help="such as 500:0.05 or latency:200ms:0.5"
    )
    parser.add_argument(
        "--dialect", choices=("specification", "connect"), default="specification", help="what it speaks"
    )
    parser.add_argument("--redacted", action="store_true", help="connect: shopper information removal is on")
    parser.add_argument(
        "--validators", action="store_true", help="answers have entity tags, and 304 for who knows them"
    )
    parser.add_argument("--gzip", action="store_true", help="answers are compressed for who accepts it")
    parser.add_argument("--static-token", default=None, help="a bearer token that is always good")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000, help="0: any free port (default 9000)")

    parser = command(
        commands,
        "receive",
        "a receiver that verifies and prints",
        "relay receive --secret whsec_... --port 9100",
        _receive,
    )
    parser.add_argument("--secret", action="append", required=True, metavar="whsec_...", help="may be repeated")
    parser.add_argument("--fail", type=float, default=0, metavar="RATE", help="share of requests answered with 500")
    parser.add_argument("--delay", type=float, default=0, metavar="S", help="seconds before each answer")
    parser.add_argument("--json", action="store_true", help="one JSON object a webhook")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9100, help="0: any free port (default 9100)")


def _demo(options: argparse.Namespace) -> int:
    chosen = DemoOptions(
        options.orders,
        options.speed,
        options.seed,
        options.once,
        options.json,
        options.port,
        tuple(options.fault),
        options.fail,
    )

    async def main() -> int:
        running = asyncio.create_task(demo(chosen))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)
        try:
            return await running
        except asyncio.CancelledError:
            return 130 if options.once else 0

    return int(uvloop.run(main()))


def _up(options: argparse.Namespace) -> int:
    settings = read_settings(options)
    if settings.tracing:
        tracing.require()
    logs.configure(settings.log_format, settings.log_level)
    given = environment(options)
    if settings.redis_url is not None:
        _need(settings, "up", "master_keys", "admin_key")
        return int(uvloop.run(_run_group(settings, given, settings.redis_url)))
    folder = Path(settings.data)
    with EmbeddedStore(folder) as store:
        given |= {"RELAY_REDIS_URL": store.url, **_kept_keys(settings, folder)}
        return int(uvloop.run(_run_group(settings, given, store.url)))


def _kept_keys(settings: Settings, folder: Path) -> dict[str, str]:
    """Keys that nobody gave are made once and kept beside the data, readable by their owner only."""
    kept = {}
    fresh = {"master_keys": generate_master_key("local"), "admin_key": secrets.token_urlsafe(32)}
    for name, made in fresh.items():
        value = getattr(settings, name)
        path = folder / f"{name}.secret"
        if value is None:
            if not path.exists():
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "w") as file:
                    file.write(made)
            value = path.read_text().strip()
            print(f"relay up: using the {name.replace('_', ' ')} in {path}", file=sys.stderr)
        kept[f"RELAY_{name.upper()}"] = value
    return kept


async def _run_group(settings: Settings, given: dict[str, str], redis_url: str) -> int:
    """API and workers until SIGTERM or SIGINT; the exit status."""
    await wait_for_redis(redis_url, security_of(settings), asyncio.Event())
    children = [Child("api", ["-m", "relay", "api"], given), Child("worker", ["-m", "workers", "all"], given)]
    group = Group(children, lambda name, line: print(line, file=sys.stderr, flush=True))
    running = asyncio.create_task(group.run())
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    print(f"relay up: API on http://{settings.host}:{settings.port}", file=sys.stderr, flush=True)
    await asyncio.wait({running, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
    await group.stop()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return group.status


def _api(options: argparse.Namespace) -> int:
    settings = read_settings(options)
    _need(settings, "api", "redis_url", "master_keys")
    if settings.tracing:
        tracing.require()
    logs.configure(settings.log_format, settings.log_level)

    metrics.begin(["api"])
    metrics.build_info.labels(__version__, "api").set(1)
    metrics.config_info.labels(settings.digest).set(1)

    async def main() -> None:
        vitals = Vitals()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, vitals.drain)
        async with vitals.timing():
            await serve_api(settings, vitals)

    try:
        uvloop.run(main())
    except OSError as error:
        raise InvalidSettings(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from None
    return 0


def _worker(options: argparse.Namespace) -> int:
    settings = read_settings(options)
    _need(settings, "worker", "redis_url", "master_keys")
    os.environ.update(environment(options))
    os.execv(sys.executable, [sys.executable, "-m", "workers", options.kind])  # noqa: S606


def _need(settings: Settings, command_name: str, *names: str) -> None:
    missing = [f"RELAY_{name.upper()}" for name in names if getattr(settings, name) is None]
    if missing:
        raise InvalidSettings(f"relay {command_name} needs {', '.join(missing)} (see relay check)")


def _simulator(options: argparse.Namespace) -> int:
    config = SimulatorConfig(
        orders=options.orders,
        speed=options.speed,
        seed=options.seed,
        rate_limit=options.rate_limit,
        faults=tuple(options.fault),
        static_token=options.static_token,
        dialect=options.dialect,
        redacted=options.redacted,
        validators=options.validators,
        gzip=options.gzip,
    )
    run_simulator(config, options.host, options.port)
    return 0


def _receive(options: argparse.Namespace) -> int:
    def told(receipt: Receipt) -> None:
        if options.json:
            print(receipt.body.decode(), flush=True)
            return
        data = receipt.event["data"]
        note = "" if receipt.first else "  (repeat)"
        note += "" if receipt.in_order else "  (OUT OF ORDER)"
        where = f"{data.get('order_id', '-')} #{data.get('sequence', '-')}"
        print(f"{receipt.event['type']:<30} {where:<16} {in_words(receipt.event)[:70]}{note}", flush=True)

    receiver = Receiver(
        [Secret.parse(text) for text in options.secret],
        fail_rate=options.fail,
        delay_s=options.delay,
        on_receipt=told,
    )
    announcement = f"receiver listening on http://{options.host}"
    run_until_signal(lambda ready: serve(receiver, options.host, options.port, ready), announcement)
    return 0
