"""The compose file as `docker compose` reads it: interpolated, for an env file."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.tools import ROOT

FOLDER = ROOT / "deploy"
#: `${NAME}`, `${NAME:-otherwise}` and `${NAME:?why}`, without another one inside.
_VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::([-?])([^${}]*))?\}")


class Missing(Exception):
    """A variable that the file demands."""


def env_file(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def read(env: Mapping[str, str]) -> dict[str, Any]:
    """The file with these variables. Raises Missing."""
    text = (FOLDER / "compose.yaml").read_text()
    document: dict[str, Any] = _interpolated(yaml.safe_load(text), env)
    for service in document["services"].values():
        given = service.get("environment", {})
        filled = {name: env.get(name) if value is None else value for name, value in given.items()}
        service["environment"] = {name: value for name, value in filled.items() if value is not None}
    return document


def _interpolated(value: Any, env: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _interpolated(one, env) for name, one in value.items()}
    if isinstance(value, list):
        return [_interpolated(one, env) for one in value]
    if not isinstance(value, str):
        return value
    while True:
        value, count = _VARIABLE.subn(lambda match: _value(match, env), value)
        if not count:
            return value


def _value(match: "re.Match[str]", env: Mapping[str, str]) -> str:
    name, mode, text = match.groups()
    if env.get(name):
        return env[name]
    if mode == "?":
        raise Missing(f"{name}: {text}")
    return text if mode == "-" else ""
