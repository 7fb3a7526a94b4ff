"""Metrics as tests read them: of this process, and of a live one."""

from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from relay import metrics


class Since:
    """What metrics of this process rose by since this was made: other tests count in the same registry."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        for family in metrics.registry.collect():
            for sample in family.samples:
                self._before[sample.name, tuple(sorted(sample.labels.items()))] = sample.value

    def rise(self, name: str, **labels: str) -> float:
        now = metrics.registry.get_sample_value(f"relay_{name}", labels) or 0.0
        return now - self._before.get((f"relay_{name}", tuple(sorted(labels.items()))), 0.0)


def gauge(name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"relay_{name}", labels)


@dataclass(frozen=True)
class Scrape:
    """One exposition. `series` counts what Prometheus would store."""

    text: str
    families: frozenset[str]
    series: int

    def value(self, name: str, **labels: str) -> float:
        """The sum of a sample over the labels that are not given."""
        found = 0.0
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    found += sample.value
        return found


async def scrape(port: int) -> Scrape:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    families = list(text_string_to_metric_families(text))
    # The parser takes _total off a counter's name.
    names = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    return Scrape(text, frozenset(names), sum(len(family.samples) for family in families))
