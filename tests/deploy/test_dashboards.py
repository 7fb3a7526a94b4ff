"""Dashboards: the files are what Python makes, hold the rules of good ones, and every panel shows something."""

import asyncio
import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deploy.dashboards import FOLDER, files
from deploy.dashboards.results import Window, courses, filled
from deploy.stack import RULES, Options, running
from relay import metrics
from tests.deploy.promql import labels_in, metrics_in
from tests.support.rig import eventually
from tests.support.tools import need

UIDS = ("relay-overview", "relay-deliveries", "relay-polling", "relay-workers", "relay-redis")
BOARDS: dict[str, dict[str, Any]] = {uid: json.loads((FOLDER / f"{uid}.json").read_text()) for uid in UIDS}
#: Series that Prometheus itself makes, or the Python client's own collectors.
OTHERS = {
    *("up", "ALERTS", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"),
    *("process_max_fds", "python_gc_collections_total"),
    *("kube_deployment_spec_replicas", "kube_deployment_status_replicas_ready"),  # of kube-state-metrics
}
#: Labels that Prometheus or its configuration adds.
TARGET_LABELS = {"job", "instance", "namespace", "component", "le", "alertname", "alertstate", "severity"} | {
    *("deployment", "generation")  # of the other series
}


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str, str]]:
    """Dashboard, panel, expression."""
    for uid, board in BOARDS.items():
        for panel in panels(board):
            for target in panel["targets"]:
                yield uid, panel["title"], target["expr"]
        for annotation in board["annotations"]["list"]:
            yield uid, f"annotation {annotation['name']}", annotation["expr"]


def exposed() -> dict[str, set[str]]:
    """Every series of the relay, and its labels."""
    found: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        if family.type == "counter":
            suffixes = ["_total"]
        else:
            suffixes = ["_bucket", "_count", "_sum"] if family.type == "histogram" else [""]
        declared = metrics.registry._names_to_collectors[family.name]
        for suffix in suffixes:
            found[family.name + suffix] = set(getattr(declared, "_labelnames", ()))
    return found


def test_the_files_are_what_python_makes() -> None:
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == files()  # else: make dashboards


@pytest.mark.parametrize("uid", UIDS)
def test_a_dashboard_can_be_provisioned(uid: str) -> None:
    board = BOARDS[uid]
    assert board["uid"] == uid
    assert board["editable"] is False
    assert board["tags"] == ["relay"]
    assert board["time"] == {"from": "now-6h", "to": "now"}
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "job", "instance"]
    assert {link["type"] for link in board["links"]} == {"dashboards", "link"}
    assert [annotation["name"] for annotation in board["annotations"]["list"]] == ["Versions", "Alerts"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


@pytest.mark.parametrize("uid", UIDS)
def test_panels_explain_themselves(uid: str) -> None:
    titles = [panel["title"] for panel in panels(BOARDS[uid])]
    assert len(set(titles)) == len(titles)
    for panel in panels(BOARDS[uid]):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0


@pytest.mark.parametrize("uid", UIDS)
def test_panels_do_not_overlap_and_leave_no_hole(uid: str) -> None:
    places = [panel["gridPos"] for panel in BOARDS[uid]["panels"]]
    for a, b in combinations(places, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)
    area = 24 * max(place["y"] + place["h"] for place in places)
    assert sum(place["w"] * place["h"] for place in places) == area


def test_counters_are_rated_and_instances_bounded() -> None:
    for uid, title, expr in queries():
        for counter in re.finditer(r"(relay|python)_\w+_total|\w+_bucket|process_cpu_seconds_total", expr):
            assert re.search(r"(rate|increase)\($", expr[: counter.start()]), (uid, title)
        assert set(re.findall(r"\brate\([^\[]+\[([^\]]+)\]", expr)) <= {"$__rate_interval"}, (uid, title)
        if re.search(r"by \([^)]*instance", expr):
            assert "topk(" in expr, (uid, title)


def test_every_selector_carries_the_variables() -> None:
    for uid, title, expr in queries():
        for metric, labels in labels_in(expr).items():
            if metric.startswith(("relay_", "process_", "python_", "up")):
                assert {"job", "instance"} <= labels, (uid, title, metric)
        for metric in metrics_in(expr):
            assert metric == "ALERTS" or ":" in metric or metric in labels_in(expr), (uid, title, metric)


def test_every_metric_and_label_exists() -> None:
    series = exposed()
    recorded = {
        rule["record"]
        for path in RULES.glob("*.yaml")
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
    for uid, title, expr in queries():
        names = metrics_in(expr)
        assert names <= set(series) | recorded | OTHERS, (uid, title, names)
        has = set().union(*(series.get(name, set()) for name in names)) | TARGET_LABELS
        for metric, labels in labels_in(expr).items():
            assert labels <= (series[metric] | TARGET_LABELS if metric in series else has), (uid, title, metric)


def test_every_linked_runbook_exists() -> None:
    runbooks = {path.name for path in (FOLDER.parents[3] / "docs" / "runbooks").glob("*.md")}
    links = [link["url"] for board in BOARDS.values() for panel in panels(board) for link in panel.get("links", [])]
    assert len(links) > 20
    assert {url.rsplit("/", 1)[1] for url in links} <= runbooks


def test_promtool_reads_every_expression(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{at}", "expr": filled(expr)} for at, (_, _, expr) in enumerate(queries())]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run([need("promtool"), "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


#: Panels that show nothing in this run, with the reason.
EMPTY = {("relay-workers", "Replicas"): "needs kube-state-metrics, and that a cluster"}


async def _shows(client: httpx.AsyncClient, expr: str) -> bool:
    """Whether the expression gives at least one number over the last minute."""
    now = time.time()
    return any(one.numbers for one in await courses(client, expr, "", Window(now - 60, now, 1)))


async def _empty(client: httpx.AsyncClient) -> set[tuple[str, str]]:
    wanted = [query for query in queries() if not query[1].startswith("annotation")]
    return {(uid, title) for uid, title, expr in wanted if not await _shows(client, expr)}


@pytest.mark.timeout(200)
def test_every_panel_shows_something() -> None:
    """The whole stack, changes, failures and retries, scraped by a real Prometheus every second."""

    async def main() -> None:
        options = Options(orders=30, scrape=1, prometheus=need("prometheus"))
        async with running(options) as stack:
            assert stack.prometheus is not None
            async with httpx.AsyncClient(base_url=stack.prometheus, trust_env=False, timeout=20) as client:
                empty: set[tuple[str, str]] = set()

                async def all_show() -> bool:
                    nonlocal empty
                    empty = await _empty(client)
                    return not empty - set(EMPTY)

                with suppress(AssertionError):  # said below, by name
                    await eventually(all_show, within=90)
                assert sorted(empty - set(EMPTY)) == []
                assert sorted(set(EMPTY) - empty) == []  # an exception that is none any more: take it out

    asyncio.run(main())
