"""How metrics are declared: name, help text, labels, who sets them, and the label values that are known.

A process that was told by `begin` which kinds of work it does shows what those set and nothing else.
"""

from bisect import bisect_left
from collections import Counter as Counted
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.metrics import MetricWrapperBase

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for every counter, which no rule reads

registry = CollectorRegistry()

Combinations = tuple[tuple[str, ...], ...]
Known = Combinations | Mapping[str, Combinations]


@dataclass(frozen=True, slots=True)
class Declared:
    """`by`: the kinds of process that set it. `known`: by kind of process, the combinations of label values that begin
    at 0. `own`: the label whose values are a worker's own pumps."""

    metric: MetricWrapperBase
    name: str
    kind: str
    labels: tuple[str, ...]
    text: str
    by: tuple[str, ...]
    known: Mapping[str, Combinations]
    own: str | None


DECLARED: list[Declared] = []


class GatheredHistogram(Histogram):
    """A histogram that takes many values at once, under one lock a bucket and not one a value."""

    def observe_all(self, amounts: Sequence[float]) -> None:
        """As `observe` for each of them."""
        counts = Counted(bisect_left(self._upper_bounds, amount) for amount in amounts)
        for place, count in counts.items():
            self._buckets[place].inc(count)
        self._sum.inc(sum(amounts))


class SetBy:
    """Declares metrics that are set by these kinds of process."""

    def __init__(self, *by: str) -> None:
        self._by = by

    def counter(self, name: str, text: str, *labels: str, known: Known = (), own: str | None = None) -> Counter:
        metric = Counter(f"relay_{name}", text, labels, registry=registry)
        self._declare(metric, "counter", name, labels, text, known, own)
        return metric

    def gauge(self, name: str, text: str, *labels: str, known: Known = (), own: str | None = None) -> Gauge:
        metric = Gauge(f"relay_{name}", text, labels, registry=registry)
        self._declare(metric, "gauge", name, labels, text, known, own)
        return metric

    def histogram(
        self,
        name: str,
        text: str,
        buckets: tuple[float, ...],
        *labels: str,
        known: Known = (),
        own: str | None = None,
    ) -> GatheredHistogram:
        metric = GatheredHistogram(f"relay_{name}", text, labels, buckets=buckets, registry=registry)
        self._declare(metric, "histogram", name, labels, text, known, own)
        return metric

    def _declare(
        self,
        metric: MetricWrapperBase,
        kind: str,
        name: str,
        labels: tuple[str, ...],
        text: str,
        known: Known,
        own: str | None,
    ) -> None:
        by_role = known if isinstance(known, Mapping) else dict.fromkeys(self._by, known)
        DECLARED.append(Declared(metric, f"relay_{name}", kind, labels, text, self._by, by_role, own))


class _Collections(GCCollector):
    """Collections by generation; how many objects they took, of which nothing here tells, would be six series more."""

    def collect(self) -> Iterable[Metric]:
        return [family for family in super().collect() if family.name == "python_gc_collections"]


def begin(roles: Collection[str]) -> None:
    """Once in a process: show what processes of these kinds set, from 0 where the label values are known (a rate needs
    a first sample to rise from), and nothing else."""
    for one in DECLARED:
        if not set(one.by) & set(roles):
            registry.unregister(one.metric)
            continue
        for combination in {c for role in roles for c in one.known.get(role, ())}:
            if one.own is None or combination[one.labels.index(one.own)] in roles:
                one.metric.labels(*combination)
    ProcessCollector(registry=registry)
    _Collections(registry=registry)


def each(*values: Iterable[str]) -> Combinations:
    return tuple(product(*values))
