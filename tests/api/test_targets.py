"""URL forms of security section 5.1 to 5.5, and those that must be accepted."""

import pytest

from relay.errors import InvalidInput
from relay.model.targets import Allow, parse_target

NOBODY = Allow()
NAME = "https://shop.example.com"

REFUSED = [
    *("", "ftp://h/", "gopher://h:6379/_INFO", "redis://h", "data:,x", "javascript:1", "http://shop.example.com/h"),
    *(
        "//shop.example.com/h",
        "shop.example.com/h",
        "https:shop.example.com",
        "https:///h",
        "https://",
        "htt\tps://a.b/",
    ),
    *(f" {NAME}/h", f"{NAME}/h ", f"{NAME}\r\nX: y/", f"{NAME}/\x00", f"{NAME}/\u200b", f"{NAME}\\@127.0.0.1/"),
    *(
        f"{NAME}/a b",
        f'{NAME}/"',
        f"{NAME}/<",
        f"{NAME}/%zz",
        f"{NAME}/%00",
        f"{NAME}/%0d",
        "https://sh%6fp.example.com/",
    ),
    *(
        f"{NAME}/" + "a" * 2048,
        "https://" + "a" * 64 + ".com/",
        "https://" + "a." * 127 + "com/",
        f"{NAME}/#f",
        f"{NAME}/#",
    ),
    *(
        "https://user:pw@shop.example.com/",
        "https://@shop.example.com/",
        f"{NAME}@169.254.169.254/",
        "https://@[::1]:9876",
    ),
    *("https://127.0.0.1/", "https://127.0.0.1./", "https://0.0.0.0/", "https://8.8.8.8/", "https://2130706433/"),
    *("https://0x7f000001/", "https://0177.0.0.1/", "https://127.1/", "https://0/", "https://010.8.8.8/"),
    *("https://999.1.1.1/", "https://1.2.3.4.5/", "https://a.0x7f/", "https://[::]/", "https://[::ffff:127.0.0.1]/"),
    *("https://[fe80::1%25eth0]/", "https://[2606:4700:4700::1111]/", "https://::1/", "https://[shop.example.com]/"),
    *("https://localhost/", "https://localhost./", "https://a.localhost/", "https://ip6-localhost/", "https://redis/"),
    *("https://METADATA.GOOGLE.INTERNAL./", "https://metadata.packet.net/", "https://a.local/", "https://a.test/"),
    *("https://a.example/", "https://a.onion/", "https://a.intranet/", "https://kubernetes.default.svc/"),
    *("https://a.svc.cluster.local/", "https://a..b/", "https://*.shop.example.com/", "https://-a.example.com/"),
    *("https://a-.example.com/", "https://__.example.com/", "https://127。0。0。1/", "https://ⓛocalhost/"),
    *("https://①②⑦.⓪.⓪.①/", "https://xn--0.example.com/", "https://shop.example.com../"),
    # the rest of the table's illustrations
    *("https://user@shop.example.com/", "https://:@shop.example.com/", "//", "https://shop.example.com\x00/"),
    *(f"{NAME}/\u00ad", f"{NAME}/\u202e", "https://redis:6379/", "https://metadata/", f"{NAME}:443:443/"),
    *("https://172.16.0.1/", "https://100.64.0.1/", "https://2852039166/", "https://[fec0::1]/", "https://[::1/"),
    *("https://metadata.google.internal/", "https://LOCALHOST/", "https://Metadata.Packet.Net./", "https://a.b.svc./"),
    *("https://shop..example.com/", "https://.example.com/", "https://shop.example.com,evil.example.com/"),
    *("https://0xa.example.0xff/", "https://shop.example.com:4\uff143/", "https://1.2.3.4.5/", "https://a.1/"),
    *(
        f"{NAME}:{port}/"
        for port in (
            "22",
            "25",
            "6379",
            "8443",
            "0",
            "65536",
            "00443",
            "https",
            "",
            "-1",
            "+443",
            "25",
            "53",
            "445",
            "2375",
            "3306",
        )
    ),
]


@pytest.mark.parametrize("url", REFUSED, ids=lambda url: repr(url)[:40])
def test_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        parse_target(url, NOBODY)

    assert refusal.value.code.startswith("url_")
    assert [p.pointer for p in refusal.value.problems] == ["/url"]


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTPS://SHOP.EXAMPLE.COM:443/h?q=1", f"{NAME}/h?q=1"),
        ("https://shop.example.com.", f"{NAME}/"),
        ("https://xn--bcher-kva.example.com/h", "https://xn--bcher-kva.example.com/h"),
        (f"{NAME}/a%20b", f"{NAME}/a%20b"),
        (f"{NAME}:443/h", f"{NAME}/h"),
        (f"{NAME}/h?token=secret", f"{NAME}/h?token=secret"),
        ("https://1.2.3.4.example.com/", "https://1.2.3.4.example.com/"),
        ("https://a_b.example.com/", "https://a_b.example.com/"),
        ("https://169.254.169.254.nip.io/", "https://169.254.169.254.nip.io/"),
    ],
)
def test_accepted_in_one_form(url: str, normal: str) -> None:
    target = parse_target(url, NOBODY)

    assert target.url == normal
    assert parse_target(target.url, NOBODY) == target


@pytest.mark.parametrize(
    "url",
    [
        "https://upstream.example.com/h",
        "https://UPSTREAM.example.com./h",
        "https://relay.example.com:443/v1/orders",
        "https://upstream.example.com:22/",
    ],
)
def test_our_own_hosts_and_the_upstreams_are_refused(url: str) -> None:
    allow = Allow.parse([], http=False, forbidden_hosts=["Upstream.example.com.", "relay.example.com"])

    with pytest.raises(InvalidInput) as refusal:
        parse_target(url, allow)

    assert refusal.value.code == "url_not_allowed"
    assert parse_target("https://a.relay.example.com/", allow).host == "a.relay.example.com"


def test_a_forbidden_host_that_the_operator_exempts_is_allowed() -> None:
    allow = Allow.parse(["127.0.0.0/8"], http=True, forbidden_hosts=["127.0.0.1"])

    assert parse_target("http://127.0.0.1:9000/h", allow).port == 9000


@pytest.mark.parametrize(
    "url",
    [
        *(
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://127.0.0.01/",
        ),
        *("https://[::ffff:127.0.0.1]/", "https://[::7f00:1]/", "https://[fe80::1%25eth0]/", "https://[fe80::1%eth0]/"),
        *("https://0.0.0.0/", "https://10.0.0.1/", "https://169.254.169.254/", "https://[::1]/"),
    ],
)
def test_disguises_are_refused_where_an_operator_allows_literals(url: str) -> None:
    allow = Allow.parse(["127.0.0.0/8", "fe80::/10"], http=False)

    with pytest.raises(InvalidInput):
        parse_target(url, allow)


def test_the_operator_exempts_by_name() -> None:
    allow = Allow.parse(["127.0.0.0/8", "hooks.internal"], http=True)

    assert parse_target("http://127.0.0.1:9000/h", allow).port == 9000
    assert parse_target("http://127.0.0.1.:9000/", allow).url == "http://127.0.0.1:9000/"
    assert parse_target("https://hooks.internal:8443/", allow).host == "hooks.internal"
    with pytest.raises(InvalidInput):
        parse_target("http://10.0.0.1/h", allow)
    with pytest.raises(InvalidInput):
        parse_target("http://127.0.0.1/h", Allow.parse(["127.0.0.0/8"], http=False))
