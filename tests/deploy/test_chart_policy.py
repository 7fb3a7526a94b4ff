"""Common mistakes in manifests, as kube-score knows them; what the chart does otherwise has its reason here."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.deploy.chart import SHAPES, VERSIONS, text
from tests.support.tools import need

#: Checks that are not heeded, and why.
OTHERWISE = {
    "container-resources": "requests are set; limits are the operator's, since a CPU limit throttles",
    "container-ephemeral-storage-request-and-limit": "the root is read-only, and nothing of size is written to /tmp",
    "container-image-pull-policy": "tags of releases do not move, and a digest can be given",
    "deployment-has-host-podantiaffinity": "topology spread constraints do that",
}
#: The same for some shapes or objects.
UNLESS: dict[str, Callable[[str, str], bool]] = {
    "deployment-replicas": lambda shape, kind: shape == "minimal",
    "pod-networkpolicy": lambda shape, kind: not shape_has(shape, "kind: NetworkPolicy"),
    # `helm test` runs a pod once, and nothing is asked of it; a Redis that is busy is not to be killed for it.
    "pod-probes": lambda shape, kind: kind in ("Pod", "StatefulSet"),
}


def shape_has(shape: str, line: str) -> bool:
    return line in text(shape)


def score(manifests: str) -> list[tuple[str, str, str]]:
    """Check, kind and name of each object that kube-score finds wanting."""
    command = [need("kube-score"), "score", "--output-format", "json", "--kubernetes-version", "v1.30", "-"]
    done = subprocess.run(command, input=manifests, capture_output=True, text=True, check=False, timeout=60)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert found, done.stderr
    return [
        (check["check"]["id"], one["type_meta"]["kind"], one["object_meta"]["name"])
        for one in found
        for check in one["checks"]
        if not check["skipped"] and check["grade"] < 10
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_no_common_mistake(shape: str) -> None:
    wanting = [
        (check, kind, name)
        for check, kind, name in score(text(shape, version=VERSIONS[0]))
        if check not in OTHERWISE and not (check in UNLESS and UNLESS[check](shape, kind))
    ]
    assert wanting == []


def test_a_mistake_is_found() -> None:
    careless = text("production").replace("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false")
    assert careless != text("production")
    assert "container-security-context-readonlyrootfilesystem" in {check for check, _, _ in score(careless)}
