"""What several commands share: every setting is also a `--flag`, and a no of the API is an error."""

import argparse
import os
from pathlib import Path
from typing import Any

from relay.errors import RelayError
from relay.settings import TABLE, Settings, load


class Refused(RelayError):
    """The API said no; the text is the problem's. Exit status 1."""

    code = "refused"


def command(commands: Any, name: str, about: str, example: str, run: Any) -> argparse.ArgumentParser:
    """A sub-command with its example."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=about, epilog=f"example: {example}", formatter_class=argparse.HelpFormatter
    )
    parser.set_defaults(run=run)
    return parser


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Every setting as a flag; the environment and `.env` are read as well."""
    group = parser.add_argument_group(
        "settings", "each is also an environment variable: --redis-url is RELAY_REDIS_URL"
    )
    for name, setting in TABLE.items():
        default = f" (default {setting.default})" if setting.default else ""
        text = (setting.about + default).replace("%", "%%")
        group.add_argument(f"--{name.replace('_', '-')}", dest=f"setting_{name}", metavar="VALUE", help=text)


def read_settings(options: argparse.Namespace) -> Settings:
    """Settings from flags, environment and `.env`. Raises InvalidSettings."""
    flags = {name: value for name in TABLE if (value := getattr(options, f"setting_{name}", None)) is not None}
    return load(os.environ, Path(".env"), flags)


def environment(options: argparse.Namespace) -> dict[str, str]:
    """The flags as environment variables, for a child process."""
    given = {f"RELAY_{name.upper()}": getattr(options, f"setting_{name}", None) for name in TABLE}
    return {name: value for name, value in given.items() if value is not None}
