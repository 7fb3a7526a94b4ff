"""Commands that print documents: openapi, event-types."""

import argparse
import json
from typing import Any

from relay.api import openapi
from relay.cli.options import command
from relay.model import catalogue


def add_commands(commands: Any) -> None:
    command(commands, "openapi", "print the API's OpenAPI 3.1 document", "relay openapi > openapi.json", _openapi)
    parser = command(commands, "event-types", "print the catalogue of events", "relay event-types --json", _event_types)
    parser.add_argument("--json", action="store_true", help="with JSON Schema and a sample each")


def _openapi(_: argparse.Namespace) -> int:
    print(json.dumps(openapi.document(), indent=2, ensure_ascii=False))
    return 0


def _event_types(options: argparse.Namespace) -> int:
    if options.json:
        print(json.dumps(catalogue.document(), indent=2, ensure_ascii=False))
        return 0
    for kind in catalogue.EVENT_TYPES.values():
        print(f"{kind.name:<30} {kind.description}")
    return 0
