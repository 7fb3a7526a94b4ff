"""The command line: `relay COMMAND`. Exit status 0, 1 when the answer is no, 2 for a mistake in use or set-up."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from relay import __version__
from relay.cli import health
from relay.cli.options import Refused
from relay.errors import RelayError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; never a stack trace for a user's mistake."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="relay", description="Change notifications for Post-Checkout orders.")
    parser.add_argument("--version", action="version", version=f"relay {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in _modules(given):
        module.add_commands(commands)
    options = parser.parse_args(given)
    try:
        return int(options.run(options))
    except Refused as error:
        print(f"relay {options.command}: {error.detail}", file=sys.stderr)
        return 1
    except RelayError as error:
        print(f"relay {options.command}: {error.detail}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return 130


def _modules(given: Sequence[str]) -> Sequence[Any]:
    """Who brings commands. The health check, asked every few seconds, loads a tenth of what the others need."""
    if given[:1] == ["healthcheck"]:
        return (health,)
    from relay.cli import documents, listening, operating, probing, provisioning, remote, services

    return (services, remote, listening, operating, documents, probing, provisioning, health)
