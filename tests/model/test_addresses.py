"""Which addresses are public: every row of the table, its edges and its neighbours, and how a mix is judged."""

import ipaddress

import pytest

from relay.model import addresses
from relay.model.addresses import MOST_ANSWERS, Refused, judge, refusal
from relay.model.targets import Allow

NOBODY = Allow()

#: Every refused range, written out once more: a row that is lost from the table is missed here.
RANGES = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
    *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    *("::/128", "::1/128", "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48"),
    *("100::/64", "2001::/32", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16"),
    *("fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
]

REFUSED = [
    # section 5.2
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("100.64.0.1", "169.254.169.254", "169.254.170.2", "168.63.129.16", "192.0.2.1", "198.18.0.1"),
    *("224.0.0.1", "255.255.255.255"),
    # no addresses, or in a notation that is not one
    *("", "localhost", "127.0.0.1.", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "010.8.8.8"),
    *("999.1.1.1", "1.2.3.4.5", "[::1]", "8.8.8.8/32", " 8.8.8.8", "١.1.1.1"),
    # section 5.3
    *("::", "::1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::7f00:1", "::ffff:0:7f00:1", "fe80::5efe:7f00:1"),
    *("64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
    *("fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "3fff::1"),
    # a scope id, even on a public address; mapped public addresses; what is not allocated
    *("2606:4700:4700::1111%eth0", "::ffff:8.8.8.8", "1000::1", "4000::1", "e000::1"),
    # ISATAP under a public prefix, both forms of the identifier
    *("2606:4700::5efe:7f00:1", "2606:4700::5efe:10.0.0.1", "2606:4700::200:5efe:169.254.169.254"),
    "2606:4700::200:5efe:a83f:8110",
]

PUBLIC = [
    *("8.8.8.8", "1.1.1.1", "93.184.216.34", "100.63.255.254", "100.128.0.1", "172.32.0.1", "2606:4700:4700::1111"),
    *("2606:4700::5efe:8.8.8.8", "2606:4700::200:5efe:808:808", "2606:4700::5eff:7f00:1", "2a00::1"),
]


@pytest.mark.parametrize("address", REFUSED, ids=repr)
def test_refused(address: str) -> None:
    assert refusal(address) is not None


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert refusal(address) is None


@pytest.mark.parametrize("text", RANGES)
def test_every_refused_range_from_edge_to_edge(text: str) -> None:
    network = ipaddress.ip_network(text)

    for address in (network[0], network[-1], network[network.num_addresses // 2]):
        assert refusal(str(address)) is not None, address


def test_table_and_standard_library_each_refuse_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    uncached = refusal.__wrapped__
    assert uncached("168.63.129.16") == "a cloud's own service"  # global, as the library sees it
    monkeypatch.setattr(addresses, "_TABLE_4", [])
    monkeypatch.setattr(addresses, "_TABLE_6", [])

    for address in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "2001:db8::1", "2606:4700::5efe:10.0.0.1"):
        assert uncached(address) is not None, address
    assert uncached("fe80::1") == "not allocated as unicast"


#: The addresses just outside. IPv6 ones outside 2000::/3 are no public unicast either: there, either answer is right.
NEIGHBOURS = sorted(
    str(address)
    for network in map(ipaddress.ip_network, RANGES)
    for number in (int(network[0]) - 1, int(network[-1]) + 1)
    if 0 <= number < 2**network.max_prefixlen
    for address in [ipaddress.ip_address(number) if network.version == 4 else ipaddress.IPv6Address(number)]
    if not any(address in ipaddress.ip_network(other) for other in RANGES if (":" in other) == (network.version == 6))
    if network.version == 4 or address in ipaddress.ip_network("2000::/3")
)


@pytest.mark.parametrize("address", NEIGHBOURS)
def test_the_neighbours_of_every_refused_range_are_public(address: str) -> None:
    assert refusal(address) is None


def test_there_are_neighbours_on_both_sides() -> None:
    assert {"9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "168.63.129.15"} <= set(NEIGHBOURS)
    assert {"2001:200::", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::", "2003::"} <= set(NEIGHBOURS)


@pytest.mark.parametrize(
    "answers",
    [
        ["93.184.216.34", "127.0.0.1"],
        ["127.0.0.1", "93.184.216.34"],
        ["93.184.216.34", "fd00::1"],
        ["10.0.0.1", "2606:4700:4700::1111"],
        ["93.184.216.34", "::ffff:93.184.216.34"],
        ["93.184.216.34", "64:ff9b::808:808"],
        ["0.0.0.0"],
        ["::"],
        [f"93.184.216.{n}" for n in range(MOST_ANSWERS + 1)],
    ],
    ids=lambda answers: " ".join(answers)[:40],
)
def test_one_bad_answer_refuses_the_name(answers: list[str]) -> None:
    assert isinstance(judge("shop.example.com", answers, NOBODY), Refused)


def test_public_answers_are_taken_in_the_resolvers_order() -> None:
    answers = ["2606:4700:4700::1111", "93.184.216.34", "2606:4700:4700::1111"]

    assert judge("shop.example.com", answers, NOBODY) == ("2606:4700:4700::1111", "93.184.216.34")
    assert judge("shop.example.com", [], NOBODY) == ()
    most = [f"93.184.216.{n}" for n in range(MOST_ANSWERS)]
    assert judge("shop.example.com", [*most, *most], NOBODY) == tuple(most)


@pytest.mark.parametrize(
    ("entries", "host", "answers", "accepted"),
    [
        (["127.0.0.0/8"], "shop.example.com", ["127.0.0.9"], True),
        (["127.0.0.0/8"], "shop.example.com", ["127.0.0.9", "93.184.216.34"], True),
        (["127.0.0.0/8"], "shop.example.com", ["127.0.0.9", "10.0.0.1"], False),
        (["127.0.0.0/8"], "shop.example.com", ["::1"], False),
        (["127.0.0.0/8"], "shop.example.com", ["::ffff:127.0.0.1"], False),
        (["127.0.0.0/8"], "localhost", ["::1", "127.0.0.1"], True),
        (["127.0.0.0/8"], "localhost", ["10.0.0.1"], False),
        (["127.0.0.2/32"], "localhost", ["127.0.0.1"], False),
        (["::1"], "localhost", ["127.0.0.1"], True),
        (["10.0.0.0/8"], "localhost", ["127.0.0.1"], False),
        (["hooks.internal"], "hooks.internal", ["10.0.0.1", "fd00::1"], True),
        (["hooks.internal"], "other.internal", ["10.0.0.1"], False),
        (["hooks.internal"], "a.hooks.internal", ["10.0.0.1"], False),
        (["fe80::/10", "hooks.internal"], "hooks.internal", ["fe80::1%eth0"], False),
        (["fd00::/8"], "fd00::1", ["fd00::1"], True),
    ],
)
def test_the_operator_exempts_networks_and_hosts(
    entries: list[str], host: str, answers: list[str], accepted: bool
) -> None:
    verdict = judge(host, answers, Allow.parse(entries, http=False))

    assert verdict == tuple(answers) if accepted else isinstance(verdict, Refused)
