"""The Prometheus rules: they parse, fire when they should and not before, and read only metrics that exist."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from relay import metrics
from relay.declaring import DECLARED
from tests.deploy.promql import labels_in, metrics_in
from tests.deploy.rules.burning import FLOORS, OBJECTIVES, ROWS, SCENES, Objective, Row, Scene
from tests.deploy.rules.cases import CASES, QUIET, Case, Quiet
from tests.support.tools import ROOT, need

FILES = sorted((ROOT / "helm/relay/files/rules").glob("*.yaml"))
RUNBOOKS = ROOT / "docs/runbooks"
#: Given by Prometheus itself for every target.
OF_EVERY_TARGET = {"up", "scrape_samples_scraped"}
#: Prometheus' own metrics: it has to scrape itself for them.
OF_PROMETHEUS = {"prometheus_target_scrapes_exceeded_sample_limit_total"}
#: Given by the scrape configuration.
TARGET_LABELS = {"namespace", "job", "instance", "component"}
#: Alerts that fire where there is nothing at all.
ABSENCE = {"RelayNoWorkers": 4, "RelayBacklogMetricsStale": 1, "RelayMetricsMissing": 1, "RelayWatchdog": 1}


def _rules() -> list[dict[str, Any]]:
    return [r for f in FILES for g in yaml.safe_load(f.read_text())["groups"] for r in g["rules"]]


ALERTS = [r for r in _rules() if "alert" in r]


def _expected(alert: str, labels: dict[str, str]) -> dict[str, Any]:
    """As promtool wants it: the rule's own labels and annotations beside the labels of the case."""
    [rule] = [r for r in ALERTS if r["alert"] == alert and r["labels"].items() >= _own(r, labels).items()]
    return {"exp_labels": {**rule["labels"], **labels}, "exp_annotations": rule["annotations"]}


def _own(rule: dict[str, Any], labels: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in labels.items() if k in rule["labels"]}


def _test(
    series: dict[str, str], *expected: tuple[str, int, list[dict[str, Any]]], interval: str = "1m"
) -> dict[str, Any]:
    return {
        "interval": interval,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"alertname": alert, "eval_time": f"{at}m", "exp_alerts": alerts} for alert, at, alerts in expected
        ],
    }


def _promtool(tmp_path: Path, alerts: set[str], tests: list[dict[str, Any]], interval: str = "1m") -> None:
    """Only these alerts and the recordings that they read, which come first."""
    read = {metric for r in ALERTS if r["alert"] in alerts for metric in metrics_in(r["expr"])}
    every = [g for f in FILES for g in yaml.safe_load(f.read_text())["groups"]]
    every = [
        g | {"rules": [r for r in g["rules"] if {r.get("alert"), r.get("record")} & (alerts | read)]} for g in every
    ]
    wanted = sorted((g for g in every if g["rules"]), key=lambda group: "alert" in group["rules"][0])
    rules, file = tmp_path / "rules.yaml", tmp_path / "test.yaml"
    rules.write_text(yaml.safe_dump({"groups": wanted}))
    order = [group["name"] for group in wanted]
    head = {"rule_files": [str(rules)], "evaluation_interval": interval, "group_eval_order": order}
    file.write_text(yaml.safe_dump({**head, "tests": tests}))
    done = subprocess.run([need("promtool"), "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _of(case: Case) -> list[dict[str, Any]]:
    fires = [_expected(case.alert, case.labels)]
    tests = [_test(case.firing, (case.alert, case.at, fires)), _test(case.below, (case.alert, case.at, []))]
    if case.recovered:
        tests.append(_test(case.recovered, (case.alert, case.at, fires), (case.alert, case.later, [])))
    return tests


def test_promtool_accepts_the_rules() -> None:
    subprocess.run([need("promtool"), "check", "rules", *FILES], check=True, capture_output=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_alert_fires_when_it_should_and_recovers(case: Case, tmp_path: Path) -> None:
    _promtool(tmp_path, {case.alert}, _of(case))


@pytest.mark.parametrize("quiet", QUIET, ids=lambda quiet: f"{quiet.alert}-{quiet.why}")
def test_alert_is_not_taken_in(quiet: Quiet, tmp_path: Path) -> None:
    _promtool(tmp_path, {quiet.alert}, [_test(quiet.series, *((quiet.alert, at, []) for at in quiet.at))])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.window)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.name)
def test_error_budget_burns(objective: Objective, row: Row, tmp_path: Path) -> None:
    tests = [_burning(objective, row, scene(objective, row)) for scene in SCENES]
    _promtool(tmp_path, {objective.alert}, tests, f"{row.step}m")


def test_one_bad_event_does_not_fire() -> None:
    for budget, floors in FLOORS.items():
        for row in ROWS:
            assert 1 / floors[row.window] < row.factor * budget


def _burning(objective: Objective, row: Row, scene: Scene) -> dict[str, Any]:
    at = sum(piece.minutes for piece in scene.pieces) - row.step
    fires = [_expected(objective.alert, {"namespace": "n", "window": window}) for window in scene.fire]
    return _test(objective.series(scene, row.step), (objective.alert, at, fires), interval=f"{row.step}m")


def test_where_there_is_nothing_only_absence_is_told(tmp_path: Path) -> None:
    silent: dict[str, list[dict[str, Any]]] = {r["alert"]: [] for r in ALERTS}
    told = {
        alert: [{"exp_labels": r["labels"], "exp_annotations": r["annotations"]} for r in ALERTS if r["alert"] == alert]
        for alert in ABSENCE
    }
    assert {alert: len(fires) for alert, fires in told.items()} == ABSENCE
    _promtool(tmp_path, set(silent), [_test({}, *((alert, 40, fires) for alert, fires in (silent | told).items()))])


def test_watchdog_always_fires(tmp_path: Path) -> None:
    _promtool(tmp_path, {"RelayWatchdog"}, [_test({}, ("RelayWatchdog", 0, [_expected("RelayWatchdog", {})]))])


def test_every_alert_has_cases_a_runbook_and_a_sentence() -> None:
    tested = {case.alert for case in CASES} | {objective.alert for objective in OBJECTIVES} | {"RelayWatchdog"}
    assert {r["alert"] for r in ALERTS} == tested
    assert {r["alert"] for r in ALERTS} == {f.stem for f in RUNBOOKS.glob("Relay*.md")}
    for rule in ALERTS:
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url", "dashboard_url"}
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["runbook_url"] == f"https://runbooks.invalid/{rule['alert']}.md"
        assert rule["labels"]["severity"] in ("critical", "warning", "info", "none")


def known_series() -> dict[str, set[str]]:
    """Series that there are, with their labels: of the registry, of Prometheus, and recorded."""
    known: dict[str, set[str]] = {key: set() for key in OF_EVERY_TARGET | OF_PROMETHEUS}
    known |= {r["record"]: set() for r in _rules() if "record" in r}
    for one in DECLARED:
        if one.kind == "histogram":
            known |= {f"{one.name}_bucket": {*one.labels, "le"}, f"{one.name}_count": set(one.labels)}
        else:
            known[one.name] = set(one.labels)
    return known


def test_rules_read_only_what_exists() -> None:
    known = known_series()
    every = set().union(*known.values()) | TARGET_LABELS
    for rule in _rules():
        assert metrics_in(rule["expr"]) <= known.keys(), rule
        for metric, labels in labels_in(rule["expr"]).items():
            assert labels <= (known[metric] | TARGET_LABELS if metric else every), rule


def _given() -> list[dict[str, str]]:
    """The series of every case."""
    scenes = [o.series(scene(o, row), row.step) for o in OBJECTIVES for row in ROWS for scene in SCENES]
    return [*(s for c in CASES for s in (c.firing, c.below, c.recovered)), *(q.series for q in QUIET), *scenes]


def test_cases_give_only_what_exists() -> None:
    """A rule that joins on a label its series has not got passes by a case that gives it one."""
    known = known_series()
    for name in {name for series in _given() for name in series}:
        [metric] = metrics_in(name)
        assert labels_in(name).get(metric, set()) <= known[metric] | TARGET_LABELS, name


_MATCHED = re.compile(r"(\w+)\{([^}]*)\}")
_VALUES = re.compile(r'(\w+)\s*(?:=|!=|=~|!~)\s*"([^"]*)"')


def test_label_values_in_rules_are_ones_that_are_set() -> None:
    by_name = {one.name: one for one in DECLARED}
    seen = 0
    for rule in _rules():
        for metric, matchers in _MATCHED.findall(rule["expr"]):
            one = by_name.get(metric)
            if one is None or not (combinations := {c for each in one.known.values() for c in each}):
                continue
            for label, values in _VALUES.findall(matchers):
                seen += 1
                assert set(values.split("|")) <= {c[one.labels.index(label)] for c in combinations}, rule
    assert seen > 10


def _exposed() -> dict[str, set[str]]:
    """Bounds as the exposition writes them, by series."""
    for one in DECLARED:
        if one.kind == "histogram":
            (one.metric.labels(*one.labels) if one.labels else one.metric).observe(1)  # type: ignore[attr-defined]
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            if "le" in sample.labels:
                found.setdefault(sample.name, set()).add(sample.labels["le"])
    return found


def test_bounds_are_written_as_the_exposition_writes_them() -> None:
    exposed = _exposed()
    texts = [r["expr"] for r in _rules()]
    texts += [f.read_text().replace('\\"', '"') for f in (ROOT / "helm/relay/files/dashboards").glob("*.json")]
    matched = [
        (metric, bound) for text in texts for metric, labels in _MATCHED.findall(text) for bound in _LE.findall(labels)
    ]
    assert {metric for metric, _ in matched} >= {
        "relay_detected_to_first_attempt_seconds_bucket",
        "relay_poll_lateness_seconds_bucket",
    }
    assert [(metric, bound) for metric, bound in matched if bound not in exposed[metric]] == []


_LE = re.compile(r'\ble="([^"]*)"')
