"""The Prometheus rules: they parse, fire when they should and not before, and read only metrics that exist."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from relay import metrics
from tests.deploy.promql import labels_in, metrics_in
from tests.deploy.rules.cases import AT, BURN, CASES, LATER, Case
from tests.support.tools import ROOT, need

FILES = sorted((ROOT / "helm/relay/files/rules").glob("*.yaml"))
RUNBOOKS = ROOT / "docs/runbooks"
#: Given by Prometheus itself for every target.
OF_PROMETHEUS = {"up", "scrape_samples_scraped"}
#: Given by the scrape configuration.
TARGET_LABELS = {"namespace", "job", "instance", "component"}
#: Alerts whose windows of a day the table's minutes do not reach, or that are always on: cases of their own below.
OWN = {"RelayWatchdog", "RelayBudgetTooSmall", "RelayChangeSpike", *BURN}


def _rules() -> list[dict[str, Any]]:
    return [r for f in FILES for g in yaml.safe_load(f.read_text())["groups"] for r in g["rules"]]


ALERTS = [r for r in _rules() if "alert" in r]


def _expected(alert: str, labels: dict[str, str]) -> dict[str, Any]:
    """As promtool wants it: the rule's own labels and annotations beside the labels of the case."""
    [rule] = [r for r in ALERTS if r["alert"] == alert and r["labels"].items() >= _own(r, labels).items()]
    return {"exp_labels": {**rule["labels"], **labels}, "exp_annotations": rule["annotations"]}


def _own(rule: dict[str, Any], labels: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in labels.items() if k in rule["labels"]}


def _test(series: dict[str, str], *expected: tuple[str, str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"alertname": a, "eval_time": at, "exp_alerts": alerts} for a, at, alerts in expected],
    }


def _promtool(tmp_path: Path, tests: list[dict[str, Any]]) -> None:
    file = tmp_path / "test.yaml"
    rules = [str(f) for f in FILES]
    file.write_text(yaml.safe_dump({"rule_files": rules, "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run([need("promtool"), "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _of(case: Case) -> list[dict[str, Any]]:
    fires = [_expected(case.alert, case.labels)]
    at = "90m" if case.alert == "RelayVersionSkew" else AT
    tests = [_test(case.firing, (case.alert, at, fires)), _test(case.below, (case.alert, at, []))]
    if case.recovered:
        tests.append(_test(case.recovered, (case.alert, at, fires), (case.alert, LATER, [])))
    return tests


def test_promtool_accepts_the_rules() -> None:
    subprocess.run([need("promtool"), "check", "rules", *FILES], check=True, capture_output=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_alert_fires_when_it_should_and_recovers(case: Case, tmp_path: Path) -> None:
    _promtool(tmp_path, _of(case))


def test_watchdog_always_fires(tmp_path: Path) -> None:
    _promtool(tmp_path, [_test({}, ("RelayWatchdog", "0m", [_expected("RelayWatchdog", {})]))])


def test_every_alert_has_cases_a_runbook_and_a_sentence() -> None:
    assert {r["alert"] for r in ALERTS} == {case.alert for case in CASES} | OWN
    assert {r["alert"] for r in ALERTS} == {f.stem for f in RUNBOOKS.glob("Relay*.md")}
    for rule in ALERTS:
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url", "dashboard_url"}
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["runbook_url"] == f"https://runbooks.invalid/{rule['alert']}.md"
        assert rule["labels"]["severity"] in ("critical", "warning", "info", "none")


def _known() -> dict[str, set[str]]:
    """Series of the registry with their labels; a histogram's with le."""
    known: dict[str, set[str]] = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            [family] = metric.describe()
            own = set(metric._labelnames)
            if family.type == "histogram":
                known |= {f"{family.name}_bucket": own | {"le"}, f"{family.name}_count": own}
            else:
                known[family.name + ("_total" if family.type == "counter" else "")] = own
    return known


def test_rules_read_only_what_exists() -> None:
    known = _known() | {key: set() for key in OF_PROMETHEUS}
    known |= {r["record"]: set() for r in _rules() if "record" in r}
    every = set().union(*known.values()) | TARGET_LABELS
    for rule in _rules():
        assert metrics_in(rule["expr"]) <= known.keys(), rule
        for metric, labels in labels_in(rule["expr"]).items():
            assert labels <= (known[metric] | TARGET_LABELS if metric else every), rule


def test_thresholds_of_objectives_are_buckets() -> None:
    assert 1.0 in metrics.first_attempt._upper_bounds
    assert 5.0 in metrics.poll_lateness._upper_bounds
