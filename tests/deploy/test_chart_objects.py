"""Every shape of the chart, for the oldest and the newest Kubernetes: linted, and each object held against its schema.

The schemas are those of the package kubernetes-validate, and the definitions that KEDA, Gateway API and the Prometheus
operator publish. kubeconform judges them; its own way to them would be the network.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.chart import SHAPES, VERSIONS, folder, helm, objects, of, shape, text
from tests.support.tools import CRDS, definition, need

PACKAGED = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
_REFERENCE = re.compile(r"^(?:/api/_definitions\.json)?#/\$defs/(.+)$")
KINDS = [
    "apps-v1/Deployment",
    "apps-v1/StatefulSet",
    "autoscaling-v2/HorizontalPodAutoscaler",
    "networking-v1/Ingress",
    "networking-v1/NetworkPolicy",
    "policy-v1/PodDisruptionBudget",
    "v1/ConfigMap",
    "v1/Pod",
    "v1/Secret",
    "v1/Service",
    "v1/ServiceAccount",
]
FOREIGN = sorted(CRDS)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", SHAPES)
def test_lint_has_nothing_to_say(name: str, version: str) -> None:
    done = helm("lint", "--strict", "helm/relay", "-f", shape(name), version=version)

    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout


def _references(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node
        node = list(node.values())
    if isinstance(node, list):
        for one in node:
            yield from _references(one)


def _standalone(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """One file with all that it refers to: the package's refer to an address that kubeconform would ask the network."""
    schema.pop("$id", None)
    used: dict[str, Any] = {}
    open_ends: list[Any] = [schema]
    while open_ends:
        for node in _references(open_ends.pop()):
            found = _REFERENCE.match(node["$ref"])
            assert found is not None, node["$ref"]
            node["$ref"] = f"#/$defs/{found[1]}"
            if found[1] not in used:
                used[found[1]] = definitions[found[1]]
                open_ends.append(used[found[1]])
    return schema | {"$defs": used}


def _closed(node: Any) -> Any:
    """A definition's schema as strict as the server's field validation: a key that it does not name is wrong."""
    if isinstance(node, list):
        return [_closed(one) for one in node]
    if not isinstance(node, dict):
        return node
    closed = {key: _closed(value) for key, value in node.items() if not key.startswith("x-kubernetes-")}
    if isinstance(node.get("properties"), dict) and not node.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as kubeconform looks for schemas: v1.30.0/deployment-apps-v1.json."""
    root = tmp_path_factory.mktemp("schemas")
    foreign = {}
    for kind in FOREIGN:
        crd = yaml.load(definition(kind).read_text(), yaml.CSafeLoader)
        group = crd["spec"]["group"].split(".")[0]
        for version in crd["spec"]["versions"]:
            name = f"{kind.lower()}-{group}-{version['name']}.json"
            foreign[name] = json.dumps(_closed(version["schema"]["openAPIV3Schema"]))
    for version in VERSIONS:
        (root / f"v{version}").mkdir()
        packaged = PACKAGED / f"v{version}-local-strict"
        definitions = json.loads((packaged / "_definitions.json").read_text())["$defs"]
        for each in KINDS:
            group, kind = each.split("/")
            name = f"{kind.lower()}-{group}.json"
            schema = _standalone(json.loads((packaged / name).read_text()), definitions)
            (root / f"v{version}" / name).write_text(json.dumps(schema))
        for name, schema_text in foreign.items():
            (root / f"v{version}" / name).write_text(schema_text)
    return root


def kubeconform(schemas: Path, version: str, *files: Path) -> subprocess.CompletedProcess[str]:
    where = f"{schemas}/{{{{.NormalizedKubernetesVersion}}}}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    command = [need("kubeconform"), "-strict", "-summary", "-output", "json", "-kubernetes-version", version]
    command += ["-schema-location", where, *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_one_that_kubernetes_knows(version: str, schemas: Path, tmp_path: Path) -> None:
    for name in SHAPES:
        (tmp_path / f"{name}.yaml").write_text(text(name, version=version))

    done = kubeconform(schemas, version, *sorted(tmp_path.iterdir()))

    assert done.returncode == 0, json.loads(done.stdout)["resources"]
    summary = json.loads(done.stdout)["summary"]
    assert (summary["invalid"], summary["errors"], summary["skipped"]) == (0, 0, 0)
    assert summary["valid"] == sum(len(re.findall(r"^kind:", path.read_text(), re.M)) for path in tmp_path.iterdir())


#: An object, a key of it that is wrong, and what kubeconform says: the schemas above do refuse.
WRONG = {
    "Deployment": ("replicas: 2", 'replicas: "2"'),
    "NetworkPolicy": ("policyTypes:", "policyType:"),
    "ServiceMonitor": ("sampleLimit:", "samplesLimit:"),
    "PodMonitor": ("scrapeTimeout: 10s", "scrapeTimeout: ten"),
    "PrometheusRule": ("expr:", "expression:"),
    "ScaledObject": ("fallback:", "fallBack:"),
    "HTTPRoute": ("type: PathPrefix", "type: Prefix"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_the_schemas_refuse_what_is_wrong(kind: str, schemas: Path, tmp_path: Path) -> None:
    rendered = text("everything-on", "poll.replicas=2")
    (one,) = [part for part in rendered.split("\n---\n") if f"\nkind: {kind}\n" in part and WRONG[kind][0] in part][:1]
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(one.replace(*WRONG[kind], 1))

    done = kubeconform(schemas, VERSIONS[-1], wrong)

    assert done.returncode == 1
    assert [found["status"] for found in json.loads(done.stdout)["resources"]] == ["statusInvalid"], done.stdout


def test_every_kind_of_foreign_object_is_rendered_somewhere() -> None:
    assert {one["kind"] for one in objects("everything-on")} >= set(FOREIGN)


ADDRESSES = {
    "https://runbooks.invalid/": "https://wiki.example.com/relay/runbooks/",
    "https://dashboards.invalid/": "https://grafana.example.com/",
}


def _addressed(content: str) -> str:
    for ours, theirs in ADDRESSES.items():
        content = content.replace(ours, theirs)
    return content


def test_rules_are_embedded_as_they_are() -> None:
    found = of("PrometheusRule", objects("production"))

    assert len(found) == len(folder("rules")) > 0
    for path in folder("rules"):
        assert found[f"r-relay-{path.stem}"]["spec"] == yaml.safe_load(_addressed(path.read_text())), path.name
    assert ".invalid" not in str(found)


def test_dashboards_are_embedded_byte_by_byte() -> None:
    found = {name: one for name, one in of("ConfigMap", objects("production")).items() if "-dashboard-" in name}

    assert len(found) == len(folder("dashboards")) > 0
    for path in folder("dashboards"):
        one = found[f"r-relay-dashboard-{path.stem}"]
        assert one["data"] == {path.name: _addressed(path.read_text())}, path.name
        assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert one["metadata"]["annotations"] == {"grafana_folder": "Relay"}
        assert "{{" in one["data"][path.name], "Grafana's own templates have survived"
        assert len(json.dumps(one)) < 900_000, "a ConfigMap holds 1 MiB"
    assert ".invalid" not in str(found)
