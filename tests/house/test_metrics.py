"""Metrics: none that nobody sets, none with a label without bound, and a table of all that is true."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from relay import labels, metrics
from relay.declaring import DECLARED, GatheredHistogram
from tests.support import metrics_table

ROOT = Path(__file__).parents[2]

#: Closed sets all: never a retailer, subscription, URL, order or event.
LABELS = {
    *("component", "pump", "resource", "stage", "outcome", "verdict", "status_class", "type", "state", "reason"),
    *("kind", "level", "route", "method", "queue", "key_id", "version"),
    *("group", "result"),  # the first part of a path; what came of an action, a commit or a ring
    "digest",  # of the settings: one a deployment, two while it changes
}
SETTING = {"set", "inc", "dec", "observe", "observe_all", "labels", "set_function"}


def named() -> dict[str, MetricWrapperBase]:
    return {name: value for name, value in vars(metrics).items() if isinstance(value, MetricWrapperBase)}


def uses() -> set[str]:
    """Metrics on which the code calls what sets them."""
    found = set()
    for folder in ("relay", "workers"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and node.attr in SETTING and isinstance(node.value, ast.Attribute):
                    owner = node.value.value
                    if isinstance(owner, ast.Name) and owner.id == "metrics":
                        found.add(node.value.attr)
    return found


def test_every_metric_is_set_somewhere() -> None:
    elsewhere = {name for name in named() if name.startswith("canary_")} | {
        *("redis_policy_ok", "redis_persistence_ok", "redis_evicted", "redis_rejected", "redis_replica_link"),
        *("redis_memory_ratio", "redis_memory_bytes", "redis_memory_limit", "redis_clients", "shedding"),
    }  # set by the watch over Redis and the canary

    assert set(named()) - uses() - elsewhere == set()


def test_the_search_finds_what_is_never_set() -> None:
    assert "no_such_metric" not in uses()
    assert {"polls", "loop_lag", "redis_pool_in_use"} <= uses()


def test_every_metric_is_declared_once_with_bounded_labels() -> None:
    assert {one.metric for one in DECLARED} == set(named().values())
    assert {label for one in DECLARED for label in one.labels} - LABELS == set()
    assert all(set(one.by) <= set(labels.ROLES) and one.by for one in DECLARED)
    for one in DECLARED:
        assert all(len(row) == len(one.labels) for rows in one.known.values() for row in rows), one.name
        assert set(one.known) <= set(one.by), one.name


@pytest.mark.parametrize(
    ("name", "threshold"),
    [
        ("relay_detected_to_first_attempt_seconds", "1.0"),
        ("relay_detected_to_first_attempt_seconds", "86400.0"),
        ("relay_poll_lateness_seconds", "5.0"),
        ("relay_detected_to_delivered_seconds", "86400.0"),
        ("relay_event_loop_lag_seconds", "0.5"),
    ],
)
def test_what_an_objective_is_measured_by_has_a_bucket_for_it(name: str, threshold: str) -> None:
    assert metrics.registry.get_sample_value(f"{name}_bucket", {"le": threshold}) is not None


def test_the_table_in_the_documentation_is_true() -> None:
    assert metrics_table.rows() == metrics_table.written(), "python -m tests.support.metrics_table writes it"


@pytest.mark.parametrize("role", labels.ROLES)
def test_a_process_shows_what_it_sets_and_nothing_else(role: str) -> None:
    program = (
        "import sys; from relay import metrics; from prometheus_client import generate_latest;"
        f"metrics.begin(['{role}']); sys.stdout.write(generate_latest(metrics.registry).decode())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)

    shown = {line.split()[2] for line in done.stdout.splitlines() if line.startswith("# TYPE relay_")}
    assert shown == {one.name for one in DECLARED if role in one.by}
    if role == "poll":
        assert 'relay_polls_total{outcome="changed",resource="items"} 0.0' in done.stdout
        assert 'pump="deliver"' not in done.stdout


def test_a_histogram_takes_many_values_as_it_would_each() -> None:
    apart, together = CollectorRegistry(), CollectorRegistry()
    values = [0.0, 0.5, 0.50001, 1.0, 2.0, 99.0]
    buckets = (0.5, 1.0, 2.0)
    many = GatheredHistogram("h", "text", buckets=buckets, registry=together)
    for _ in range(2):
        many.observe_all(values)
    many.observe_all([])
    each_ = GatheredHistogram("h", "text", buckets=buckets, registry=apart)
    for value in values + values:
        each_.observe(value)

    assert generate_latest(together) == generate_latest(apart)
