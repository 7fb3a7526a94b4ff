"""What a runbook tells to type exists: commands and their flags, paths, labels, metrics, settings, log lines."""

import argparse
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from relay.api.routes import OPERATIONS
from relay.cli import documents, listening, operating, remote, services
from relay.labels import ROLES
from relay.model.catalogue import EVENT_TYPES
from relay.settings import TABLE
from tests.deploy.promql import labels_in, metrics_in
from tests.deploy.test_rules import ALERTS, TARGET_LABELS, known_series
from tests.support.tools import ROOT, need

PAGES = sorted((ROOT / "docs/runbooks").glob("Relay*.md"))
README = ROOT / "docs/runbooks/README.md"
VALUES = yaml.safe_load((ROOT / "helm/relay/values.yaml").read_text())
#: Of Prometheus itself, and of the client library's process collector.
BESIDE = {"ALERTS", "process_cpu_seconds_total"}
PROGRAMS = {"relay", "kubectl", "curl", "redis-cli", "helm"}
OBJECTS = {f"deploy/relay-{role}" for role in ROLES} | {"statefulset/relay-redis", "POD"}
SOURCE = "".join(f.read_text() for folder in ("relay", "workers") for f in (ROOT / folder).rglob("*.py"))


def _blocks(page: Path, language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)
    return [line for block in found for line in block.splitlines()]


def _inline(page: Path) -> list[str]:
    """What stands between single backticks outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.S))


def _lines(page: Path) -> list[list[str]]:
    """Every command, in words; of a pipe the first, of `kubectl exec ... -- relay ...` both."""
    texts = _blocks(page, "sh") + [text for text in _inline(page) if text.split()[0] in PROGRAMS and " " in text]
    words = [shlex.split(text.split(" | ")[0]) for text in texts]
    return words + [line[line.index("--") + 1 :] for line in words if line[:2] == ["kubectl", "exec"]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="relay")
    commands = parser.add_subparsers(required=True)
    for module in (services, remote, listening, operating, documents):
        module.add_commands(commands)
    return parser


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_can_be_typed(page: Path) -> None:
    parser = _parser()
    for line in _lines(page):
        if line[0] == "relay":
            parser.parse_args(line[1:])
        elif line[0] == "kubectl":
            _check_kubectl(line)
        elif line[0] == "curl":
            assert "Authorization: Bearer" in " ".join(line) or "/v1/" not in " ".join(line)
        else:
            assert line[0] in PROGRAMS | {"python", "df"}, line


def _check_kubectl(line: list[str]) -> None:
    if "-l" in line:
        labels = dict(pair.split("=") for pair in line[line.index("-l") + 1].split(","))
        assert labels.pop("app.kubernetes.io/name") == "relay"
        assert labels.pop("app.kubernetes.io/component", "api") in ROLES
        assert labels == {}
    if line[1] in ("exec", "rollout", "delete"):
        assert OBJECTS & set(line), line
    if line[1] == "logs":
        assert "--tail=-1" in line or "--tail=50" in line, "a selector shows ten lines"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_log_lines_that_are_looked_for_are_written(page: Path) -> None:
    for text in _blocks(page, "sh"):
        if " | grep " in text and " logs " in text:
            for word in text.split(" | grep ")[1].replace("-e ", "").split():
                assert re.search(rf'"{re.escape(word)}[a-z_.]*', SOURCE), word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_paths_are_operations(page: Path) -> None:
    text = page.read_text()
    known = {(one.method, re.sub(r"\{\w+\}", "*", one.path)) for one in OPERATIONS}
    for method, path in re.findall(r"(?:(GET|POST|PATCH|PUT|DELETE) |RELAY_API_URL)(/v1/[\w/{}-]+)", text):
        assert (method or "GET", re.sub(r"\{\w+\}|\b[A-Z]+\b", "*", path)) in known, path
    assert len(re.findall(r"/v1/", text)) == len(re.findall(r"(?:GET|POST|PATCH|PUT|DELETE|RELAY_API_URL) ?/v1/", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_names_exist(page: Path) -> None:
    text = page.read_text()
    assert set(re.findall(r"RELAY_([A-Z_]+)", text)) <= {name.upper() for name in TABLE}
    assert set(re.findall(r"\bRelay[A-Z]\w+", text)) <= {rule["alert"] for rule in ALERTS}
    types = {t for t in _inline(page) if re.fullmatch(r"order\.\w+", t)} | set(re.findall(r"--type (\S+)", text))
    assert types <= EVENT_TYPES.keys()
    for name in _inline(page):
        log_line = f'"{name}"' in SOURCE
        if not log_line and re.fullmatch(r"(api|poll|deliver|maintain|networkPolicy|monitoring|canary)(\.\w+)+", name):
            value: Any = VALUES
            for part in name.split("."):
                value = value[part]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_queries_read_what_exists(page: Path) -> None:
    known = known_series()
    every = set().union(*known.values()) | TARGET_LABELS | {"__name__", "alertname"}
    queries = _blocks(page, "promql")
    queries += [
        name for name in _inline(page) if re.fullmatch(r"relay_\w+", name) and name != "relay_pump_wait_seconds"
    ]
    assert queries
    for query in queries:
        assert metrics_in(query) <= known.keys() | BESIDE, query
        for metric, labels in labels_in(query).items():
            assert labels <= (known[metric] | TARGET_LABELS if metric in known else every), query


def test_queries_are_promql(tmp_path: Path) -> None:
    rules = [{"record": "a:b", "expr": query} for page in PAGES for query in _blocks(page, "promql")]
    groups = [{"name": str(number), "rules": [rule]} for number, rule in enumerate(rules)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": groups}))
    done = subprocess.run(
        [need("promtool"), "check", "rules", "--lint=none", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_short_whole_and_listed(page: Path) -> None:
    text = page.read_text()
    parts = [f"# {page.stem}", "## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]
    assert re.findall(r"^#+ .*$", text, re.M) == parts
    assert len(text.splitlines()) <= 40
    [row] = [line for line in README.read_text().splitlines() if f"]({page.name})" in line]
    for severity in {rule["labels"]["severity"] for rule in ALERTS if rule["alert"] == page.stem}:
        assert re.search(rf"Severity: .*\b{severity}\b", text)
        assert severity in row.split("|")[2]


def test_operations_lists_every_alert_under_its_severity() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    section = page.split("## Objectives and alerts")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (critical|warning|info|none) \|[^|]*\| (\[.*) \|$", section, re.M)
    listed = {
        (severity, name) for severity, links in rows for name in re.findall(r"\[(\w+)\]\(runbooks/\1\.md\)", links)
    }
    assert listed == {(rule["labels"]["severity"], rule["alert"]) for rule in ALERTS}
