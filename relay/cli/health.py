"""`relay healthcheck`: the container engine's question, answered by this container's own port. Imports little: it runs
every few seconds beside what it asks about."""

import argparse
import os
import socket
import sys
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from relay.cli.options import command
from relay.errors import InvalidSettings
from relay.settings import Settings, load

#: Seconds to connect and to answer; below the image's own time-out, so that the reason is told.
WITHIN = 3.0


def add_commands(commands: Any) -> None:
    parser = command(
        commands,
        "healthcheck",
        "whether the process in this container lives: exit status 0 or 1",
        "relay healthcheck worker --ready",
        _healthcheck,
    )
    parser.add_argument(
        "process",
        nargs="?",
        choices=["api", "worker"],
        help="whose port is asked: RELAY_PORT or RELAY_METRICS_PORT (default: those of the two that are open)",
    )
    parser.add_argument("--ready", action="store_true", help="ask /readyz instead of /livez")
    parser.add_argument(
        "--port", type=int, help="only whether this port takes connections: for `simulator` and `receive`"
    )


def _healthcheck(options: argparse.Namespace) -> int:
    """0 or 1 and nothing else: container engines keep other values for themselves."""
    try:
        settings = load(os.environ, Path(".env"))
    except InvalidSettings as error:
        return _say(False, error.detail)
    if options.port is not None:
        return _takes_connections(_near(settings), options.port)
    ports = {"api": settings.port, "worker": settings.metrics_port}
    asked = ports if options.process is None else {options.process: ports[options.process]}
    path = "/readyz" if options.ready else "/livez"
    answers = {name: answer for name, port in asked.items() if (answer := _ask(_near(settings), port, path))}
    if not answers:
        return _say(False, "nothing listens on " + " or ".join(f"{name}'s port {port}" for name, port in asked.items()))
    return _say(
        all(answer == "200" for answer in answers.values()),
        ", ".join(f"{name} {path}: {answer}" for name, answer in answers.items()),
    )


def _near(settings: Settings) -> str:
    """The address at which a process reaches what listens on `host` of its own machine."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104


def _ask(host: str, port: int, path: str) -> str | None:
    """The status as text, or what went wrong; None where nothing listens."""
    if port == 0:
        return None
    connection = HTTPConnection(host, port, timeout=WITHIN)
    try:
        connection.request("GET", path)
        return str(connection.getresponse().status)
    except ConnectionRefusedError:
        return None
    except (OSError, HTTPException) as error:
        return f"no answer: {str(error) or type(error).__name__}"
    finally:
        connection.close()


def _takes_connections(host: str, port: int) -> int:
    try:
        socket.create_connection((host, port), WITHIN).close()
    except OSError as error:
        return _say(False, f"port {port}: {error.strerror or error}")
    return _say(True, f"port {port} takes connections")


def _say(healthy: bool, text: str) -> int:
    print(f"relay healthcheck: {text}", file=sys.stdout if healthy else sys.stderr)
    return 0 if healthy else 1
