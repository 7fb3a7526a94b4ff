"""What Prometheus answers to a panel, and how Grafana would write it: legends, units, thresholds."""

import math
import re
from dataclasses import dataclass
from typing import Any

import httpx

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Window:
    """From when to when (Unix seconds), in steps; `rate`: what `$__rate_interval` is."""

    start: float
    end: float
    step: float
    rate: str = "15s"


@dataclass(frozen=True, slots=True)
class Course:
    """One series: its name in the legend, its labels, and its points; NaN where it has none."""

    name: str
    labels: dict[str, str]
    times: list[float]
    values: list[float]

    @property
    def numbers(self) -> list[float]:
        return [value for value in self.values if math.isfinite(value)]


def filled(expr: str, interval: str = "15s") -> str:
    """With the variables replaced as Grafana does for All."""
    return expr.replace("$job", ".+").replace("$instance", ".+").replace("$__rate_interval", interval)


async def courses(client: httpx.AsyncClient, expr: str, legend: str, window: Window) -> list[Course]:
    """Each series of an expression over the window, on a common grid of times. Raises ValueError for a bad one."""
    asked: dict[str, str | float] = {"query": filled(expr, window.rate), "start": window.start, "end": window.end}
    answer = (await client.get("/api/v1/query_range", params=asked | {"step": window.step})).json()
    if answer["status"] != "success":
        raise ValueError(f"{expr}: {answer}")
    steps = round((window.end - window.start) / window.step)
    times = [window.start + at * window.step for at in range(steps + 1)]
    found = []
    for one in answer["data"]["result"]:
        values = [math.nan] * len(times)
        for at, value in one["values"]:
            values[min(steps, round((at - window.start) / window.step))] = float(value)
        found.append(Course(_name(legend, one["metric"], expr), one["metric"], times, values))
    return found


def _name(legend: str, labels: dict[str, str], expr: str) -> str:
    if legend and legend != "__auto":
        return re.sub(r"{{(\w+)}}", lambda match: labels.get(match.group(1), ""), legend)
    return ", ".join(labels.values()) or expr


def written(value: float, unit: str, decimals: int | None = None) -> str:
    """A value as Grafana writes it in this unit."""
    if not math.isfinite(value):
        return "–"
    if unit == "percentunit":
        return f"{_plain(value * 100, decimals)} %"
    if unit == "s":
        return _duration(value, decimals)
    if unit == "bytes":
        return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB"), decimals)
    suffix = {"ops": " ops/s", "reqps": " req/s"}.get(unit, "")
    return _scaled(value, 1000, ("", "K", "M"), decimals) + suffix


def _duration(value: float, decimals: int | None) -> str:
    size = abs(value)
    if size >= 86400:
        return f"{_plain(value / 86400, decimals)} d"
    if size >= 3600:
        return f"{_plain(value / 3600, decimals)} h"
    if size >= 60:
        return f"{_plain(value / 60, decimals)} min"
    if size >= 1 or value == 0:
        return f"{_plain(value, decimals)} s"
    return f"{_plain(value * 1000, decimals)} ms"


def _scaled(value: float, base: int, names: tuple[str, ...], decimals: int | None) -> str:
    at = 0
    while abs(value) >= base and at < len(names) - 1:
        value /= base
        at += 1
    return f"{_plain(value, decimals)} {names[at]}".rstrip()


def _plain(value: float, decimals: int | None) -> str:
    """With these decimals, or three digits that say something."""
    if decimals is not None:
        return f"{value:.{decimals}f}"
    if value == round(value):
        return f"{value:.0f}"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(places, 3)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def mapped(value: float, defaults: Json) -> str:
    """A value in a panel's words: its mappings, or its unit and decimals."""
    for mapping in defaults["mappings"]:
        option = mapping["options"].get(f"{value:g}")
        if option is not None:
            return str(option["text"])
    return written(value, defaults["unit"], defaults.get("decimals"))


def coloured(value: float, defaults: Json) -> str:
    """The colour of the highest threshold that the value reaches."""
    found = str(defaults["thresholds"]["steps"][0]["color"])
    for step in defaults["thresholds"]["steps"][1:]:
        if value >= step["value"]:
            found = str(step["color"])
    return found
