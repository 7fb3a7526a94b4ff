"""The dashboards as Grafana's own types of its classic schema read them: each kind of value, and no field unknown."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from tests.deploy.chart import folder

#: Fields that Grafana reads and the types lack, which hold what every plug-in has in common.
BESIDE = {
    ".templating.list[].definition",  # a variable's query, as the editor shows it
    ".annotations.list[].step",  # of Prometheus's annotations
    ".annotations.list[].titleFormat",
    ".panels[].options.tooltip.mode",  # of a heatmap, since Grafana 10.4
}


def read(value: Any) -> Any:
    """A dashboard as the types hold it, written again."""
    plugins.register_default_plugins()
    return json.loads(JSONEncoder().encode(dashboard.Dashboard.from_json(value)))


def lost(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    """Where what was given is not what was kept."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            if name in kept:
                yield from lost(value, kept[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}"
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for one, other in zip(given, kept, strict=True):
            yield from lost(one, other, f"{path}[]")
    elif given != kept:
        yield path


@pytest.mark.parametrize("path", folder("dashboards"), ids=lambda path: path.stem)
def test_every_field_is_one_that_grafana_knows(path: Path) -> None:
    given = json.loads(path.read_text())
    assert set(lost(given, read(given))) <= BESIDE


def test_a_field_that_nobody_knows_is_found() -> None:
    text = folder("dashboards")[0].read_text()
    wrong = json.loads(re.sub(r'"gridPos"', '"gridPosition"', text))
    assert ".panels[].gridPosition" in set(lost(wrong, read(wrong)))
