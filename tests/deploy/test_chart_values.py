"""What the chart refuses, with which words; and that its schema and README are those of its values."""

import json
import re
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.chart import CHART, files
from deploy.chart.values import read
from relay import __version__
from relay.api.routes import OPERATIONS
from relay.settings import TABLE
from tests.deploy.chart import helm

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())

#: Values that the schema refuses: what helm says of where, and of why.
MALFORMED = [
    ("image: {tga: x}", "at '/image'", "additional properties 'tga' not allowed"),
    ("deliver: {autoscaling: {keda: {url: x}}}", "at '/deliver/autoscaling/keda'", "'url' not allowed"),
    ("image: {tag: latest}", "at '/image/tag'", "'not' failed"),
    ("image: {digest: sha256:abc}", "at '/image/digest'", "does not match pattern"),
    ("image: {pullPolicy: Sometimes}", "at '/image/pullPolicy'", "must be one of 'Always', 'IfNotPresent', 'Never'"),
    ("image: {pullSecrets: [{name: registry}]}", "at '/image/pullSecrets/0'", "got object, want string"),
    ("redis: {dev: {image: {tag: latest}}}", "at '/redis/dev/image/tag'", "'not' failed"),
    ("publicPaths: [/metrics]", "at '/publicPaths/0'", "does not match pattern"),
    ("publicPaths: [/]", "at '/publicPaths/0'", "does not match pattern"),
    ("settings: {UPSTREAM_BUDGET: 5}", "at ''", "invalid propertyName 'UPSTREAM_BUDGET'"),
    ("settings: {RELAY_TARGET_ALLOW: [a]}", "at '/settings/RELAY_TARGET_ALLOW'", "got array"),
    ("api: {replicas: two}", "at '/api/replicas'", "got string, want integer"),
    ("api: {resources: {request: {cpu: 1}}}", "at '/api/resources'", "'request' not allowed"),
    ("api: {tolerations: [{effect: Never}]}", "at '/api/tolerations/0/effect'", "must be one of"),
    ("api: {podAnnotations: {a: on}}", "at '/api/podAnnotations/a'", "got boolean, want string"),
    ("deliver: {autoscaling: {minReplicas: 0}}", "at '/deliver/autoscaling/minReplicas'", "got 0, want 1"),
    ("poll: {pumps: 65}", "at '/poll/pumps'", "got 65, want 64"),
    ("shutdown: {preStopSeconds: 0}", "at '/shutdown/preStopSeconds'", "got 0, want 1"),
    ("canary: {enabled: 'yes'}", "at '/canary/enabled'", "got string, want boolean"),
    ("service: {type: ExternalName}", "at '/service/type'", "must be one of"),
    ("service: {port: 70000}", "at '/service/port'", "got 70,000, want 65,535"),
    ("ingress: {hosts: ['https://x']}", "at '/ingress/hosts/0'", "does not match pattern"),
    ("httpRoute: {parentRefs: [{namespace: x}]}", "at '/httpRoute/parentRefs/0'", "missing property 'name'"),
    ("commonLabels: {app.kubernetes.io/name: x}", "at ''", "invalid propertyName 'app.kubernetes.io/name'"),
    ("networkPolicy: {redis: {ports: []}}", "at '/networkPolicy/redis/ports'", "got 0, want 1"),
    ("networkPolicy: {dns: {to: [{cidr: 10.0.0.0/8}]}}", "at '/networkPolicy/dns/to/0'", "'cidr' not allowed"),
    ("networkPolicy: {receivers: {except: [10.0.0.0/8]}}", "at '/networkPolicy/receivers/except'", "contains"),
    ("monitoring: {interval: 15}", "at '/monitoring/interval'", "want string"),
    ("monitoring: {runbookBaseUrl: https://wiki}", "at '/monitoring/runbookBaseUrl'", "does not match pattern"),
    ("extraManifests: [1]", "at '/extraManifests/0'", "got number"),
    ("image: {repository: 'relay:latest'}", "at '/image/repository'", "does not match pattern"),
    ("settings: {RELAY_UPSTRAEM_URL: 'https://x'}", "at ''", "invalid propertyName 'RELAY_UPSTRAEM_URL'"),
    ("settings: {RELAY_API_KEY: rly_rt_x}", "at ''", "invalid propertyName 'RELAY_API_KEY'"),
    ("extraEnv: [{name: X, value: a, valueFrom: {}}]", "at '/extraEnv/0'", "'oneOf' failed"),
    ("extraEnv: [{name: X}]", "at '/extraEnv/0'", "'oneOf' failed"),
    ("commonLabels: {'a b': x}", "at ''", "invalid propertyName 'a b'"),
    ("commonLabels: {team: 'a b'}", "at '/commonLabels/team'", "does not match pattern"),
    ("commonLabels: {pod-template-hash: x}", "at ''", "invalid propertyName 'pod-template-hash'"),
    ("api: {podAnnotations: {checksum/config: x}}", "at ''", "invalid propertyName 'checksum/config'"),
    ("networkPolicy: {extraEgress: [{ports: [{port: 443}]}]}", "at '/networkPolicy/extraEgress/0'", "missing property"),
    ("networkPolicy: {extraEgress: [{to: []}]}", "at '/networkPolicy/extraEgress/0/to'", "got 0, want 1"),
    ("monitoring: {dashboards: {folderAnnotation: 'a: b'}}", "folderAnnotation'", "does not match pattern"),
    ("secrets: {keys: {redisUrl: 'a b'}}", "at '/secrets/keys/redisUrl'", "does not match pattern"),
    ("secrets: {inline: {adminKey: short}}", "at '/secrets/inline/adminKey'", "does not match pattern"),
]

INLINE = "secrets: {existingSecret: '', inline: {masterKeys: 'k:x', redisUrl: 'redis://x', %s}}"
#: Values that contradict each other: what the chart says, which is what to change.
CONTRADICTORY = [
    ("shutdown: {gracePeriodSeconds: 49}", "raise it to at least 50, or lower deliver.timeoutSeconds"),
    ("deliver: {timeoutSeconds: 40}", "raise it to at least 75, or lower deliver.timeoutSeconds"),
    ("shutdown: {preStopSeconds: 30}", "raise it to at least 75, or lower shutdown.preStopSeconds"),
    ("deliver: {replicas: 20}", "more than half of the 200 jobs that arq looks at"),
    ("poll: {replicas: 20}", "lower the number of workers, or poll.pumps"),
    ("deliver: {pumps: 1}", "raise deliver.pumps, or set it to 0"),
    (
        "deliver: {autoscaling: {hpa: {enabled: true}, keda: {enabled: true, serverAddress: http://p}}}",
        "a Deployment has one owner: turn one of them off",
    ),
    ("deliver: {autoscaling: {keda: {enabled: true}}}", "name the address of Prometheus"),
    (
        "deliver: {autoscaling: {keda: {enabled: true, serverAddress: http://p, fallbackReplicas: 7}}}",
        "fallbackReplicas is above deliver.autoscaling.maxReplicas: lower it",
    ),
    ("api: {autoscaling: {minReplicas: 9}}", "api.autoscaling.minReplicas (9) is above maxReplicas (6)"),
    ("secrets: {existingSecret: ''}", "no master key: name a secret in secrets.existingSecret"),
    ("secrets: {existingSecret: '', inline: {masterKeys: 'k:x'}}", "no Redis: name a secret"),
    ("secrets: {inline: {masterKeys: x}}", "secrets.existingSecret and secrets.inline are both given"),
    ("secrets: {keys: {masterKeys: ''}}", "must name keys of the existing secret"),
    (INLINE % "upstreamClientId: x", "belong together: give both or none"),
    (INLINE % "" + "\nredis: {dev: {enabled: true}}", "secrets.inline.redisUrl names another Redis: drop one of them"),
    ("secrets: {keys: {adminKey: ''}}\ntests: {delivery: {enabled: true}}", "tests.delivery needs the operator's key"),
    ("ingress: {enabled: true}", "ingress is enabled without hosts"),
    ("httpRoute: {enabled: true}", "name the Gateway that it attaches to"),
    ("redis: {tls: {clientSecret: x}}", "name the authority as well"),
    ("redis: {dev: {enabled: true}, tls: {caSecret: x}}", "redis.dev has no TLS"),
    ("settings: {RELAY_DELIVERY_TIMEOUT: 9s}", "is set by the chart: use deliver.timeoutSeconds"),
    ("settings: {RELAY_EGRESS_PROXY: 'http://u:p@proxy:3128'}", "give it by extraEnv with valueFrom.secretKeyRef"),
    ("api: {autoscaling: {enabled: true}, resources: {requests: {cpu: null}}}", "set api.resources.requests.cpu"),
    ("monitoring: {interval: 5s}", "monitoring.scrapeTimeout (10s) is longer than monitoring.interval (5s)"),
    ("settings: {RELAY_CANARY_URL: 'http://x'}", "RELAY_CANARY_URL is set by the chart"),
    ("extraEnv: [{name: RELAY_REDIS_URL, value: x}]", "is set by the chart: use secrets.keys.redisUrl"),
]


def refusal(values: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    given = tmp_path_factory.mktemp("bad") / "values.yaml"
    given.write_text(values)
    done = helm("template", "r", "helm/relay", "-f", str(given))
    assert done.returncode != 0
    return done.stderr


@pytest.mark.parametrize(("values", "where", "why"), MALFORMED)
def test_malformed_values_are_refused(
    values: str, where: str, why: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    said = refusal(values, tmp_path_factory)

    assert [line for line in said.splitlines() if where in line and why in line], said


@pytest.mark.parametrize(("values", "sentence"), CONTRADICTORY)
def test_contradictory_values_are_refused(values: str, sentence: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert sentence in refusal(values, tmp_path_factory)


def test_the_chart_deploys_this_release() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert chart["appVersion"] == __version__
    assert f"image: relay:{__version__}\n" in chart["annotations"]["artifacthub.io/images"]


def test_an_old_kubernetes_is_refused() -> None:
    assert "kubeVersion: >=1.30.0-0" in helm("template", "r", "helm/relay", version="1.29.9").stderr


def test_readme_and_schema_are_those_of_the_values() -> None:
    for name, text in files().items():
        assert (CHART / name).read_text() == text, f"{name} has drifted from values.yaml: make chart-readme"


def test_readme_has_a_row_for_every_value_and_says_how_to_upgrade() -> None:
    text = (CHART / "README.md").read_text()
    rows = re.findall(r"^\| `([A-Za-z0-9.]+)` \|", text[text.index("## Values") :], re.MULTILINE)

    assert rows == [leaf.name for leaf in read((CHART / "values.yaml").read_text()).leaves()]
    assert "## Upgrading" in text


def test_schema_is_valid_and_accepts_the_defaults() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(VALUES, SCHEMA, jsonschema.Draft7Validator)


def test_schema_and_values_have_the_same_keys_and_nothing_is_open() -> None:
    def walk(path: str, schema: dict[str, Any], value: Any) -> None:
        if "properties" in schema and isinstance(value, dict) and value and schema.get("additionalProperties") is False:
            if path.endswith((".resources", ".affinity")):
                return
            assert set(schema["properties"]) - {"global"} == set(value), path
            for key in value:
                walk(f"{path}.{key}", schema["properties"][key], value[key])
            return
        assert "type" in schema, path
        assert schema["type"] != "array" or schema["items"], f"{path}: of what?"
        assert schema["type"] != "object" or "additionalProperties" in schema, f"{path}: of what?"

    walk("", SCHEMA, VALUES)


def test_each_value_without_rule_is_refused_by_the_generator() -> None:
    from deploy.chart.schema import schema

    with pytest.raises(ValueError, match=r"open\.ended: what may it be"):
        schema(read((CHART / "values.yaml").read_text() + "open:\n  # -- Anything\n  ended: []\n"))
    with pytest.raises(ValueError, match="no comment above bare"):
        read("bare: 1\n")
    with pytest.raises(ValueError, match="belongs to no key"):
        read("# -- lost\n- item\n")


def test_public_paths_are_served_by_the_api() -> None:
    served = {operation.path for operation in OPERATIONS} | {"/openapi.json"}

    for prefix in VALUES["publicPaths"]:
        assert any(path == prefix or path.startswith(f"{prefix}/") for path in served), prefix
    assert not [path for path in served if not path.startswith(tuple(VALUES["publicPaths"]))]


def test_settings_of_the_chart_and_of_its_shapes_are_the_relays() -> None:
    known = {f"RELAY_{name.upper()}" for name in TABLE}
    checks = (CHART / "templates" / "_checks.tpl").read_text()
    config = (CHART / "templates" / "configmap.yaml").read_text()
    pod = (CHART / "templates" / "_pod.tpl").read_text()
    shapes = "".join(open_shape.read_text() for open_shape in (CHART / "ci").iterdir())

    used = set(re.findall(r"\bRELAY_[A-Z_]+\b", config + pod + shapes))
    assert used <= known
    own = set(re.findall(r"^  (RELAY_[A-Z_]+):", checks, re.MULTILINE))
    assert own <= known
    assert set(re.findall(r'set \$own "(RELAY_[A-Z_]+)"', config)) - own == {
        "RELAY_TARGET_ALLOW",  # the delivery test adds to what is given
        "RELAY_ALLOW_HTTP_TARGETS",
    }
