"""Who may reach whom: the chart's policies, and the canary's way through them."""

import ipaddress

import pytest

from relay.model import addresses
from relay.settings import load
from tests.deploy.chart import COMPONENTS, Object, component, objects, of, settings_of


def egress(found: tuple[Object, ...], name: str) -> list[Object]:
    return list(of("NetworkPolicy", found)[f"r-relay-{name}"]["spec"]["egress"])


def allows(rules: list[Object], address: str, port: int) -> bool:
    """Whether an address outside the cluster is reached."""
    target = ipaddress.ip_address(address)
    for rule in rules:
        if port not in {one["port"] for one in rule["ports"]}:
            continue
        for peer in rule.get("to", [{"ipBlock": {"cidr": "0.0.0.0/0"}}, {"ipBlock": {"cidr": "::/0"}}]):
            block = peer.get("ipBlock")
            if block is None or target not in ipaddress.ip_network(block["cidr"]):
                continue
            if not any(target in ipaddress.ip_network(without) for without in block.get("except", [])):
                return True
    return False


METADATA = ("169.254.169.254", "fd00:ec2::254", "fe80::a9fe:a9fe", "64:ff9b::a9fe:a9fe")
PRIVATE = ("10.1.2.3", "172.31.0.1", "192.168.0.1", "100.100.100.200", "127.0.0.1", "::1")


def test_policies_reach_the_internet_but_neither_metadata_nor_private_ranges() -> None:
    found = objects("everything-on")

    for address in (*METADATA, *PRIVATE, "203.0.114.9", "2001:db8::9"):
        assert not any(allows(egress(found, kind), address, 443) for kind in COMPONENTS), address
        assert not any(allows(egress(found, kind), address, 80) for kind in COMPONENTS), address
    assert allows(egress(found, "deliver"), "8.8.4.4", 443)
    assert allows(egress(found, "deliver"), "2606:4700::1", 443)
    assert allows(egress(found, "poll"), "203.0.113.5", 443)
    assert not allows(egress(found, "poll"), "8.8.4.4", 443), "upstream only"
    assert not allows(egress(found, "maintain"), "8.8.4.4", 443)


@pytest.mark.parametrize("name", ["production", "everything-on", "sentinel"])
def test_policies_let_everybody_resolve_names_and_reach_redis(name: str) -> None:
    found = objects(name)
    policies = of("NetworkPolicy", found)

    for kind in COMPONENTS:
        (dns,) = [rule for rule in egress(found, kind) if {"port": 53, "protocol": "UDP"} in rule["ports"]]
        assert {"port": 53, "protocol": "TCP"} in dns["ports"]
        assert [rule for rule in egress(found, kind) if {"port": 6379, "protocol": "TCP"} in rule["ports"]]
    assert {"port": 53, "protocol": "UDP"} in egress(found, "test")[0]["ports"]
    deny = policies["r-relay-default-deny"]["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(deny)
    if name == "production":
        assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in egress(found, "api")[0]["to"]


def test_the_canary_is_reached_by_poll_and_deliver_workers() -> None:
    off, found = objects(), objects("everything-on")

    assert "r-relay-canary" not in of("Service", off)
    assert load(settings_of(off)).canary is False
    settings = load(settings_of(found))
    assert (settings.canary, settings.canary_url) == (True, "http://r-relay-canary:9103")
    (port,) = of("Service", found)["r-relay-canary"]["spec"]["ports"]
    container = component(found, "maintain")["spec"]["template"]["spec"]["containers"][0]
    assert {"name": port["targetPort"], "containerPort": settings.canary_port} in container["ports"]
    assert port["port"] == settings.canary_port == 9103

    policies = of("NetworkPolicy", found)
    (way_in,) = [rule for rule in policies["r-relay-maintain"]["spec"]["ingress"] if rule["ports"][0]["port"] == 9103]
    (who,) = way_in["from"][0]["podSelector"]["matchExpressions"]
    assert (who["operator"], who["values"]) == ("In", ["poll", "deliver"])
    labels = component(found, "maintain")["spec"]["template"]["metadata"]["labels"]
    for kind in ("poll", "deliver"):
        (way_out,) = [rule for rule in egress(found, kind) if rule["ports"][0]["port"] == 9103]
        assert way_out["to"][0]["podSelector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("kind", ["api", "deliver"])
@pytest.mark.parametrize("row", [*addresses._ROWS_4, *addresses._ROWS_6])
def test_the_second_wall_is_no_lower_than_the_first(kind: str, row: str) -> None:
    """What the address guard refuses, the policies refuse too."""
    if row == "::ffff:0:0/96":  # on the wire such an address is its IPv4 one, and Kubernetes refuses the notation
        return
    refused = ipaddress.ip_network(row)
    for address in (refused[0], refused[-1]):
        assert not allows(egress(objects("production"), kind), str(address), 443)
