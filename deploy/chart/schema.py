"""values.schema.json: its keys and their comments are those of values.yaml, what each may be is written here.

A boolean, a text or a whole number needs no rule; a list or a map does, so that none stays open by oversight.
"""

import json
from typing import Any

from deploy.chart.values import Value
from relay.settings import TABLE

Schema = dict[str, Any]

LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
NAME = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)?$"
HOST = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
CIDR = r"^[0-9a-fA-F.:]+/[0-9]{1,3}$"
CIDR_V4 = r"^[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9]{1,2}$"
CIDR_V6 = r"^[0-9a-fA-F:]*:[0-9a-fA-F:]*/[0-9]{1,3}$"
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"
#: Labels by which the chart's own selectors choose; another value would tear Deployments from their pods.
OWN_LABELS = (
    r"^(app\.kubernetes\.io/(name|instance|component|version|managed-by|part-of)|helm\.sh/chart|pod-template-hash)$"
)
#: By these pods are replaced when their configuration changes.
OWN_ANNOTATIONS = r"^checksum/"
LABEL_NAME = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
#: A registry's port is followed by a path: `relay:1.0` has a tag, which is `image.tag`.
REPOSITORY = r"^[a-z0-9][a-zA-Z0-9._-]*(:[0-9]{1,5}/[a-zA-Z0-9._-]+)?(/[a-zA-Z0-9._-]+)*$"
DATA_KEY = r"^[-._a-zA-Z0-9]*$"


def _text(pattern: str = "", least: int = 0) -> Schema:
    return {"type": "string"} | ({"pattern": pattern} if pattern else {}) | ({"minLength": least} if least else {})


def _one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def _whole(least: int, most: int | None = None) -> Schema:
    return {"type": "integer", "minimum": least} | ({} if most is None else {"maximum": most})


def _list(items: Schema, least: int = 0) -> Schema:
    return {"type": "array", "items": items} | ({"minItems": least} if least else {})


def _map(values: Schema, names: Schema | None = None) -> Schema:
    return {"type": "object", "additionalProperties": values} | ({"propertyNames": names} if names else {})


def _object(required: tuple[str, ...] = (), **keys: Schema) -> Schema:
    closed: Schema = {"type": "object", "additionalProperties": False, "properties": keys}
    return closed | ({"required": list(required)} if required else {"minProperties": 1})


OPEN: Schema = {"type": "object"}
STRINGS = _map(_text())
LABELS = _map(_text(LABEL_VALUE), {"pattern": LABEL_NAME, "not": {"pattern": OWN_LABELS}})
ANNOTATIONS = _map(_text(), {"pattern": LABEL_NAME, "not": {"pattern": OWN_ANNOTATIONS}})
#: What the relay reads, but for the key that commands present: a ConfigMap is no place for it.
SETTINGS = {"enum": sorted(f"RELAY_{name.upper()}" for name in TABLE if name != "api_key")}
PORT = _whole(1, 65535)
PEERS = _list(
    _object(
        ipBlock=_object(("cidr",), cidr=_text(CIDR), **{"except": _list(_text(CIDR))}),
        namespaceSelector=OPEN,
        podSelector=OPEN,
    )
)
QUANTITIES = _map({"type": ["string", "number"], "pattern": QUANTITY})
EFFECT = _one_of("NoSchedule", "PreferNoSchedule", "NoExecute")

#: What keys of this name may be, wherever they stand.
BY_KEY: dict[str, Schema] = {
    "replicas": _whole(0),
    "minReplicas": _whole(1),
    "maxReplicas": _whole(1),
    "pumps": _whole(0, 64),
    "resources": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"requests": QUANTITIES, "limits": QUANTITIES},
    },
    "annotations": ANNOTATIONS,
    "podAnnotations": ANNOTATIONS,
    "nodeSelector": STRINGS,
    "tolerations": _list(
        _object(
            key=_text(),
            operator=_one_of("Exists", "Equal"),
            value=_text(),
            effect=EFFECT,
            tolerationSeconds=_whole(0),
        )
    ),
    "affinity": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"nodeAffinity": OPEN, "podAffinity": OPEN, "podAntiAffinity": OPEN},
    },
    "repository": _text(REPOSITORY),
    "digest": _text(r"^(sha256:[0-9a-f]{64})?$"),
}

#: What these may be.
BY_NAME: dict[str, Schema] = {
    "nameOverride": _text(rf"^$|{LABEL}"),
    "fullnameOverride": _text(rf"^$|{LABEL}"),
    "commonLabels": LABELS,
    "image.tag": {"type": "string", "pattern": r"^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$", "not": {"const": "latest"}},
    "image.pullPolicy": _one_of("Always", "IfNotPresent", "Never"),
    "image.pullSecrets": _list(_text(least=1)),
    "secrets.existingSecret": _text(NAME),
    # Shorter ones end every process with status 2.
    "secrets.inline.adminKey": _text("^(.{24,})?$"),
    "redis.tls.caSecret": _text(NAME),
    "redis.tls.clientSecret": _text(NAME),
    "redis.tls.caKey": _text(DATA_KEY, least=1),
    "redis.dev.image.tag": {"type": "string", "minLength": 1, "not": {"const": "latest"}},
    "redis.dev.maxmemoryMb": _whole(16),
    "redis.dev.storage": _text(QUANTITY),
    "settings": _map({"type": ["string", "number", "boolean"]}, SETTINGS),
    "extraEnv": _list(
        _object(("name",), name=_text("^[A-Za-z_][A-Za-z0-9_]*$"), value=_text(), valueFrom=OPEN)
        | {"oneOf": [{"required": ["value"]}, {"required": ["valueFrom"]}]}
    ),
    "shutdown.gracePeriodSeconds": _whole(1),
    # 0 is legal from Kubernetes 1.32 on only.
    "shutdown.preStopSeconds": _whole(1),
    "api.autoscaling.targetCPUUtilizationPercentage": _whole(1, 1000),
    "deliver.timeoutSeconds": _whole(1, 600),
    "deliver.concurrency": _whole(1),
    "deliver.autoscaling.targetAgeSeconds": _whole(1),
    "deliver.autoscaling.hpa.metricName": _text(least=1),
    "deliver.autoscaling.hpa.metricLabels": STRINGS,
    "deliver.autoscaling.keda.serverAddress": _text("^(https?://.+)?$"),
    "deliver.autoscaling.keda.pollingInterval": _whole(1),
    "deliver.autoscaling.keda.fallbackReplicas": _whole(1),
    "deliver.autoscaling.keda.authenticationRef": _text(NAME),
    "podDisruptionBudget.maxUnavailable": _whole(1),
    "serviceAccount.name": _text(NAME),
    "service.type": _one_of("ClusterIP", "NodePort", "LoadBalancer"),
    "service.port": PORT,
    "publicPaths": _list(_text(r"^/(v1(/.*)?|openapi\.json)$"), 1),
    "ingress.hosts": _list(_text(HOST)),
    "ingress.tlsSecret": _text(NAME),
    "httpRoute.parentRefs": _list(
        _object(
            ("name",),
            name=_text(least=1),
            namespace=_text(LABEL),
            sectionName=_text(least=1),
            group=_text(),
            kind=_text(least=1),
            port=PORT,
        )
    ),
    "httpRoute.hostnames": _list(_text(HOST)),
    "networkPolicy.ingressNamespaces": _list(_text(LABEL)),
    "networkPolicy.monitoringNamespaces": _list(_text(LABEL)),
    "networkPolicy.dns.to": PEERS,
    "networkPolicy.redis.to": PEERS,
    "networkPolicy.redis.ports": _list(PORT, 1),
    "networkPolicy.upstream.to": PEERS,
    "networkPolicy.upstream.ports": _list(PORT, 1),
    "networkPolicy.receivers.ports": _list(PORT, 1),
    # The metadata of clouds stays out of reach: the range may not be taken from the list.
    "networkPolicy.receivers.except": _list(_text(CIDR_V4)) | {"contains": {"const": "169.254.0.0/16"}},
    "networkPolicy.receivers.exceptV6": _list(_text(CIDR_V6)) | {"contains": {"const": "fc00::/7"}},
    "networkPolicy.receivers.clusterRanges": _list(_text(CIDR)),
    # A rule without peers would open everything, the metadata of clouds too.
    "networkPolicy.extraEgress": _list(_object(("to",), ports=_list(OPEN, 1), to=PEERS | {"minItems": 1})),
    "monitoring.additionalLabels": LABELS,
    "monitoring.interval": _text(r"^[0-9]+(ms|s|m)$"),
    "monitoring.scrapeTimeout": _text(r"^[0-9]+(ms|s|m)$"),
    "monitoring.sampleLimit": _whole(1),
    "monitoring.labelLimit": _whole(1),
    "monitoring.runbookBaseUrl": _text("^https?://.*/$"),
    "monitoring.dashboardBaseUrl": _text("^https?://.*/$"),
    "monitoring.dashboards.labels": LABELS,
    "monitoring.dashboards.folderAnnotation": _text(LABEL_NAME),
    "extraManifests": _list({"type": ["object", "string"]}),
}


def schema(values: Value) -> str:
    """The schema's text. Raises for a rule that no value has, and for a list or map without rule."""
    leaves = [leaf.name for leaf in values.leaves()]
    if stale := set(BY_NAME) - set(leaves):
        raise ValueError(f"rules without value: {', '.join(sorted(stale))}")
    root: Schema = {"$schema": "http://json-schema.org/draft-07/schema#"} | _of(values)
    root["properties"]["global"] = {"type": "object", "description": "Helm's own, where the chart is a dependency"}
    return json.dumps(root, indent=1, ensure_ascii=False) + "\n"


def _of(value: Value) -> Schema:
    said: Schema = {"description": value.comment} if value.comment else {}
    if value.keys:
        keys = {key.path[-1]: _of(key) for key in value.keys}
        return said | {"type": "object", "additionalProperties": False, "properties": keys}
    return said | _rule(value)


def _rule(value: Value) -> Schema:
    if rule := BY_NAME.get(value.name) or BY_KEY.get(value.path[-1]):
        return rule
    if value.path[:2] == ("secrets", "keys"):
        return _text(DATA_KEY)
    match value.default:
        case bool():
            return {"type": "boolean"}
        case str():
            return {"type": "string"}
    raise ValueError(f"{value.name}: what may it be? Say so in deploy/chart/schema.py")
