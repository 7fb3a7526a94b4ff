"""The chart, rendered by the real helm: what its objects say, and what it refuses."""

import subprocess
from typing import Any

import pytest
import yaml

from tests.support.tools import ROOT, need


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [need("helm"), *arguments, "--kube-version", "1.34.0"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def objects(*values: str) -> list[dict[str, Any]]:
    done = helm("template", "r", "helm/relay", *[part for value in values for part in ("--set", value)])
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def test_the_chart_passes_lint() -> None:
    done = helm("lint", "--strict", "helm/relay")

    assert done.returncode == 0, done.stdout


def test_rendering_twice_gives_the_same_bytes() -> None:
    assert helm("template", "r", "helm/relay").stdout == helm("template", "r", "helm/relay").stdout != ""


def test_deployments_select_their_pods_and_are_restricted() -> None:
    found = [one for one in objects() if one["kind"] == "Deployment"]

    assert len(found) == 4
    for one in found:
        pod = one["spec"]["template"]
        assert one["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        container = pod["spec"]["containers"][0]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["livenessProbe"]["httpGet"]["path"] != container["readinessProbe"]["httpGet"]["path"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("image.tga=x", "additional properties 'tga' not allowed"),
        ("image.tag=latest", "at '/image/tag'"),
        ("publicPaths={/metrics}", "at '/publicPaths/0'"),
        ("shutdown.gracePeriodSeconds=40", "raise it to at least 50"),
        ("deliver.replicas=20", "more than half of the 200 jobs"),
        ("deliver.pumps=1", "some would idle"),
        ("secrets.existingSecret=", "no master key"),
        ("ingress.enabled=true", "ingress is enabled without hosts"),
        ("settings.RELAY_PORT=1", "is set by the chart"),
    ],
)
def test_what_cannot_work_is_refused(value: str, message: str) -> None:
    done = helm("template", "r", "helm/relay", "--set", value)

    assert done.returncode != 0
    assert message in done.stderr
