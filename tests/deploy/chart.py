"""The chart, rendered by the real helm. helm is told the version of Kubernetes: as built here it assumes 1.20."""

import base64
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support.tools import ROOT, need

CHART = ROOT / "helm" / "relay"
#: The shapes that are supported, each a file of values.
SHAPES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
#: The oldest and the newest Kubernetes.
VERSIONS = ("1.30.0", "1.37.0")
COMPONENTS = ("api", "poll", "deliver", "maintain")

Object = dict[str, Any]


def helm(*arguments: str, version: str = VERSIONS[-1]) -> subprocess.CompletedProcess[str]:
    command = [need("helm"), *arguments, "--kube-version", version]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def shape(name: str) -> str:
    return str(CHART / "ci" / f"{name}-values.yaml")


@functools.cache
def text(name: str = "default", *values: str, release: str = "r", version: str = VERSIONS[-1]) -> str:
    """A shape, with further values, as helm renders it."""
    given = [part for value in values for part in ("--set", value)]
    done = helm("template", release, "helm/relay", "-f", shape(name), *given, version=version)
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def _parsed(rendered: str) -> tuple[Object, ...]:
    return tuple(one for one in yaml.load_all(rendered, yaml.CSafeLoader) if one)


def objects(name: str = "default", *values: str, release: str = "r") -> tuple[Object, ...]:
    """The same as objects, which nobody may change."""
    return _parsed(text(name, *values, release=release))


def of(kind: str, found: tuple[Object, ...]) -> dict[str, Object]:
    """Those of a kind, by name."""
    return {one["metadata"]["name"]: one for one in found if one["kind"] == kind}


def component(found: tuple[Object, ...], name: str) -> Object:
    """A component's Deployment."""
    return of("Deployment", found)[f"r-relay-{name}"]


def pods(found: tuple[Object, ...]) -> Iterator[tuple[str, Object, Object]]:
    """Every pod that the chart makes: whose, its metadata, its spec."""
    for one in found:
        whose = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] == "Pod":
            yield whose, one["metadata"], one["spec"]
        elif "template" in one.get("spec", {}):
            yield whose, one["spec"]["template"]["metadata"], one["spec"]["template"]["spec"]


def folder(name: str) -> list[Path]:
    """What lies in the chart for Prometheus (`rules`) or Grafana (`dashboards`)."""
    return sorted((CHART / "files" / name).iterdir())


def settings_of(found: tuple[Object, ...]) -> dict[str, str]:
    """What the ConfigMap says, and something for each variable that comes from a Secret."""
    said: dict[str, str] = dict(of("ConfigMap", found)["r-relay"]["data"])
    secrets = {
        "RELAY_REDIS_URL": "rediss+sentinel://s1/main" if "RELAY_REDIS_CA_FILE" not in said else "rediss://redis",
        "RELAY_MASTER_KEYS": "k1:" + base64.b64encode(bytes(32)).decode(),
        "RELAY_ADMIN_KEY": "x" * 24,
    }
    for variable in component(found, "api")["spec"]["template"]["spec"]["containers"][0]["env"]:
        said.setdefault(variable["name"], variable.get("value", secrets.get(variable["name"], "from-a-secret")))
    certificate = {
        name: str(CHART / "Chart.yaml") for name in said if name.endswith("_FILE")
    }  # files of the pod, not of this machine
    return {name: value for name, value in (said | certificate).items() if name.startswith("RELAY_")}
