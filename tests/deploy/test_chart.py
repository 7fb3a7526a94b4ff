"""What the chart's objects mean: who selects whom, who may reach whom, and that they agree with the code they run."""

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from relay.cli.api_process import DRAIN_WITHIN
from relay.serving import GRACE
from relay.settings import load
from tests.deploy.chart import COMPONENTS, SHAPES, Object, component, helm, objects, of, pods, settings_of, shape, text
from workers.context import Process
from workers.supervisor import worker_settings

DIGEST = "sha256:" + "0" * 64
#: Services, by what follows the release's name: how the name of what they lead to begins.
SERVICES = {
    "": "Deployment/r-relay-api",
    "-canary": "Deployment/r-relay-maintain",
    "-redis": "StatefulSet/r-relay-redis",
    "-probe": "Pod/r-relay-test",
}


@pytest.mark.parametrize("name", SHAPES)
def test_rendering_twice_gives_the_same_bytes(name: str) -> None:
    assert helm("template", "r", "helm/relay", "-f", shape(name)).stdout == text(name) != ""


@pytest.mark.parametrize("name", SHAPES)
def test_the_relay_accepts_what_the_chart_sets(name: str) -> None:
    found = objects(name)
    settings = load(settings_of(found))

    assert (settings.host, settings.port, settings.metrics_port) == ("0.0.0.0", 8080, 9102)
    assert settings.poll_pumps >= 1
    assert settings.deliver_pumps >= 1
    for one in of("Deployment", found).values():
        (container,) = one["spec"]["template"]["spec"]["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": "r-relay"}}], "the same in every process"
        assert container["env"] == component(found, "api")["spec"]["template"]["spec"]["containers"][0]["env"]


@pytest.mark.parametrize("name", SHAPES)
def test_selectors_choose_the_pods_they_mean_and_no_others(name: str) -> None:
    found = objects(name)
    labels = {whose: metadata["labels"] for whose, metadata, _ in pods(found)}
    expected = {f"Service/r-relay{suffix}": kind for suffix, kind in SERVICES.items()}

    def chosen(wanted: dict[str, str]) -> set[str]:
        assert "helm.sh/chart" not in wanted
        assert wanted["app.kubernetes.io/instance"] == "r"
        return {whose for whose, has in labels.items() if wanted.items() <= has.items()}

    for one in found:
        whose = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] in ("Deployment", "StatefulSet"):
            assert chosen(one["spec"]["selector"]["matchLabels"]) == {whose}
        elif one["kind"] == "PodDisruptionBudget":
            assert chosen(one["spec"]["selector"]["matchLabels"]) == {f"Deployment/{one['metadata']['name']}"}
            assert component(found, one["metadata"]["name"].removeprefix("r-relay-"))
        elif one["kind"] == "Service":
            hits = chosen(one["spec"]["selector"])
            assert hits
            assert all(hit.startswith(expected[whose]) for hit in hits)


@pytest.mark.parametrize("name", SHAPES)
def test_ports_that_are_named_exist(name: str) -> None:
    found = objects(name)
    named = {
        whose: {port["name"] for container in spec["containers"] for port in container.get("ports", [])}
        for whose, _, spec in pods(found)
    }
    for service, leads_to in SERVICES.items():
        for port in of("Service", found).get(f"r-relay{service}", {"spec": {"ports": []}})["spec"]["ports"]:
            assert port["targetPort"] in set().union(*(has for whose, has in named.items() if leads_to in whose))
    for monitor in of("PodMonitor", found).values():
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            assert all(endpoint["port"] in named[f"Deployment/r-relay-{kind}"] for kind in COMPONENTS[1:])
    for monitor in of("ServiceMonitor", found).values():
        (api,) = (one for one in of("Service", found).values() if one["metadata"]["name"] == "r-relay")
        assert monitor["spec"]["selector"]["matchLabels"].items() <= api["metadata"]["labels"].items()
        assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in api["spec"]["ports"]}


@pytest.mark.parametrize("name", SHAPES)
def test_one_owner_of_the_number_of_pods(name: str) -> None:
    found = objects(name)
    scalers = [one for one in found if one["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")]
    owned = [one["spec"]["scaleTargetRef"]["name"] for one in scalers]

    assert len(set(owned)) == len(owned)
    for one in of("Deployment", found).values():
        assert ("replicas" in one["spec"]) is (one["metadata"]["name"] not in owned)


def test_autoscalers_are_where_the_shapes_say() -> None:
    assert set(of("HorizontalPodAutoscaler", objects("hpa"))) == {"r-relay-api", "r-relay-deliver"}
    (scaled,) = of("ScaledObject", objects("keda")).values()
    assert scaled["spec"]["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert {trigger["metadata"]["ignoreNullValues"] for trigger in scaled["spec"]["triggers"]} == {"false"}
    assert {trigger["name"]: trigger["metricType"] for trigger in scaled["spec"]["triggers"]} == {
        "work": "AverageValue",
        "age": "Value",
    }


def test_budgets_exist_where_two_pods_run_at_least() -> None:
    assert set(of("PodDisruptionBudget", objects())) == {f"r-relay-{kind}" for kind in COMPONENTS}
    few = objects("default", "poll.replicas=1", "api.autoscaling.enabled=true", "api.autoscaling.minReplicas=1")
    assert set(of("PodDisruptionBudget", few)) == {"r-relay-deliver", "r-relay-maintain"}
    for one in of("PodDisruptionBudget", objects()).values():
        assert one["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize("name", SHAPES)
def test_every_pod_is_restricted(name: str) -> None:
    """The restricted Pod Security Standard and more, tests and the development Redis included."""
    for whose, _, spec in pods(objects(name)):
        pod = spec["securityContext"]
        assert (pod["runAsNonRoot"], pod["runAsUser"], pod["runAsGroup"]) == (True, 65532, 65532), whose
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, whose
        assert spec["automountServiceAccountToken"] is False, whose
        assert spec["enableServiceLinks"] is False, whose
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec), whose
        assert all(set(volume) - {"name"} <= {"emptyDir", "secret"} for volume in spec["volumes"]), whose
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, whose
            assert security["readOnlyRootFilesystem"] is True, whose
            assert security["capabilities"] == {"drop": ["ALL"]}, whose
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}, whose
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, whose


@pytest.mark.parametrize("name", SHAPES)
def test_images_are_pinned(name: str) -> None:
    for whose, _, spec in pods(objects(name)):
        for container in spec["containers"]:
            repository, separator, version = container["image"].rpartition("@")
            if not separator:
                repository, _, version = container["image"].rpartition(":")
            assert repository, whose
            assert version not in ("", "latest"), whose
            assert (version == DIGEST) is (name == "production"), "a digest stands above the tag"
    (redis,) = of("StatefulSet", objects("minimal", f"redis.dev.image.digest={DIGEST}")).values()
    assert redis["spec"]["template"]["spec"]["containers"][0]["image"] == f"valkey/valkey@{DIGEST}"


def test_probes_are_distinct() -> None:
    for one in of("Deployment", objects()).values():
        (container,) = one["spec"]["template"]["spec"]["containers"]
        live, ready, start = (container[f"{probe}Probe"] for probe in ("liveness", "readiness", "startup"))
        assert (live["httpGet"]["path"], ready["httpGet"]["path"]) == ("/livez", "/readyz")
        assert start["httpGet"] == live["httpGet"]
        assert {live["httpGet"]["port"], ready["httpGet"]["port"]} == {container["ports"][0]["containerPort"]}
        assert start["periodSeconds"] * start["failureThreshold"] >= 60
        assert ("lifecycle" in container) is (container["name"] == "api"), "no traffic, no preStop"


@pytest.mark.parametrize("timeout", [5, 100])
def test_grace_outlasts_what_a_worker_really_waits(timeout: int) -> None:
    waits = of_worker("deliver", RELAY_DELIVERY_TIMEOUT=f"{timeout}s")["job_completion_wait"]
    assert waits >= timeout + 10

    def given(grace: int) -> int:
        values = ("--set", f"deliver.timeoutSeconds={timeout},shutdown.gracePeriodSeconds={grace}")
        return helm("template", "r", "helm/relay", *values, "--set", "shutdown.preStopSeconds=1").returncode

    least = max(waits + 15, 1 + round(DRAIN_WITHIN) + 15)
    assert GRACE < 15, "what remains after a drain closes connections"
    assert (given(least), given(least - 1)) == (0, 1)


@pytest.mark.parametrize("pumps", [8, 40])
def test_workers_leave_half_of_what_arq_reads(pumps: int) -> None:
    settings = of_worker("deliver", RELAY_DELIVER_PUMPS=str(pumps))
    most = settings["queue_read_limit"] // 2 // settings["max_jobs"]

    def given(replicas: int) -> int:
        values = ("--set", f"deliver.pumps={pumps},deliver.replicas={replicas}")
        return helm("template", "r", "helm/relay", *values).returncode

    assert (given(most), given(most + 1)) == (0, 1)


def of_worker(kind: str, **settings: str) -> dict[str, Any]:
    """arq's settings of a worker that is given these."""
    return worker_settings(kind, cast(Process, SimpleNamespace(settings=load(settings))))


def test_pods_restart_when_what_the_chart_makes_changes() -> None:
    def sums(*values: str) -> list[dict[str, str]]:
        found = objects("minimal", *values)
        return [component(found, kind)["spec"]["template"]["metadata"]["annotations"] for kind in COMPONENTS]

    before, settings, secret = (
        sums(),
        sums("settings.RELAY_LOG_LEVEL=debug"),
        sums("secrets.inline.adminKey=" + "y" * 24),
    )
    for was, by_settings, by_secret in zip(before, settings, secret, strict=True):
        assert was["checksum/config"] != by_settings["checksum/config"]
        assert was["checksum/secret"] == by_settings["checksum/secret"]
        assert was["checksum/secret"] != by_secret["checksum/secret"]
        assert len(was["checksum/config"]) == hashlib.sha256().digest_size * 2


def test_two_releases_share_a_namespace() -> None:
    ours, theirs = objects("everything-on", release="r"), objects("everything-on", release="s")

    def names(found: tuple[Object, ...]) -> set[tuple[str, str]]:
        return {(one["kind"], one["metadata"]["name"]) for one in found if one["metadata"]["name"] != "written"}

    assert not names(ours) & names(theirs)
    labels = [metadata["labels"] for _, metadata, _ in pods(theirs)]
    for one in [*of("Deployment", ours).values(), *of("NetworkPolicy", ours).values()]:
        selector = one["spec"].get("selector") or one["spec"]["podSelector"]
        assert not [has for has in labels if selector["matchLabels"].items() <= has.items()]


@pytest.mark.parametrize("release", ["a" * 53, "a" * 52 + "b", "dotted.name", "x-" + "y" * 48])
def test_names_fit_whatever_the_release_is_called(release: str) -> None:
    found = objects("everything-on", release=release)
    names = {one["metadata"]["name"] for one in found if one["kind"] in ("Service", "Deployment", "StatefulSet", "Pod")}

    assert all(len(name) <= 63 and "." not in name for name in names)
    assert len(names) >= 10
    assert names.isdisjoint(one["metadata"]["name"] for one in objects("everything-on", release="a" * 51 + "cc"))


def test_only_public_paths_are_routed() -> None:
    found = objects("everything-on")
    (ingress,), (route,) = of("Ingress", found).values(), of("HTTPRoute", found).values()
    public = ["/v1", "/openapi.json"]

    for rule in ingress["spec"]["rules"]:
        assert [path["path"] for path in rule["http"]["paths"]] == public
    assert [match["path"]["value"] for match in route["spec"]["rules"][0]["matches"]] == public


def test_large_numbers_and_booleans_reach_the_relay_as_it_reads_them(tmp_path: Path) -> None:
    given = tmp_path / "values.yaml"
    given.write_text(
        "settings: {RELAY_API_RATE_IP: 12000000, RELAY_TRACING: true, RELAY_TRACE_RECEIVERS: false,"
        " RELAY_POLL_SCALE: 0.5, RELAY_API_RATE: '007'}"
    )
    rendered = helm("template", "r", "helm/relay", "-f", str(given), "-s", "templates/configmap.yaml").stdout
    data = yaml.safe_load(rendered)["data"]

    expected = {
        "RELAY_API_RATE_IP": "12000000",
        "RELAY_TRACING": "1",
        "RELAY_TRACE_RECEIVERS": "0",
        "RELAY_POLL_SCALE": "0.5",
        "RELAY_API_RATE": "007",
    }
    assert expected.items() <= data.items()
