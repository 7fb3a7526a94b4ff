"""Which addresses a delivery may connect to: public ones, and those that the operator exempts.

An explicit table and the standard library's `is_global` must both agree that an address is public: each has been wrong
alone (CVE-2024-4032; translated, 6to4 and site-local addresses count as global in some releases). The table is that
of the IANA special-purpose registries (RFC 6890 and its updates), and what clouds put beside them.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from relay.model.targets import Allow

#: Answers of one name that are looked at; a name with more is refused.
MOST_ANSWERS = 32

_ROWS_4 = {
    "0.0.0.0/8": "this network",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "shared address space",
    "127.0.0.0/8": "loopback",
    "168.63.129.16/32": "a cloud's own service",  # a public address that reaches the host of a virtual machine
    "169.254.0.0/16": "link-local",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "protocol assignments",
    "192.0.2.0/24": "documentation",
    "192.88.99.0/24": "6to4 relay",
    "192.168.0.0/16": "private",
    "198.18.0.0/15": "benchmarking",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
}
#: IPv6. NAT64 is refused, not unwrapped: on a network with DNS64 the operator exempts the prefix knowingly.
_ROWS_6 = {
    "::/128": "unspecified",
    "::1/128": "loopback",
    "::/96": "IPv4-compatible",
    "::ffff:0:0/96": "IPv4-mapped",
    "::ffff:0:0:0/96": "IPv4-translated",
    "64:ff9b::/96": "NAT64",
    "64:ff9b:1::/48": "NAT64",
    "100::/64": "discard-only",
    "2001::/32": "Teredo",
    "2001::/23": "protocol assignments",
    "2001:db8::/32": "documentation",
    "2002::/16": "6to4",
    "3fff::/20": "documentation",
    "5f00::/16": "segment routing",
    "fc00::/7": "unique local",
    "fe80::/10": "link-local",
    "fec0::/10": "site-local",
    "ff00::/8": "multicast",
}
_TABLE_4 = [(ipaddress.IPv4Network(text), why) for text, why in _ROWS_4.items()]
_TABLE_6 = [(ipaddress.IPv6Network(text), why) for text, why in _ROWS_6.items()]
_UNICAST_6 = ipaddress.IPv6Network("2000::/3")
#: Interface identifiers of ISATAP (RFC 5214, 6.1): the lower 32 bits are an IPv4 address.
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


@dataclass(frozen=True, slots=True)
class Refused:
    """A name or address that is not connected to. `reason` is for the operator's log, never for a retailer."""

    reason: str


@lru_cache(maxsize=4096)
def refusal(address: str) -> str | None:
    """Why this address (text, without brackets) is not public; None when it is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "not an address"
    if isinstance(parsed, IPv4Address):
        return _refusal_4(parsed)
    return _refusal_6(parsed)


def _refusal_4(address: IPv4Address) -> str | None:
    for network, why in _TABLE_4:
        if address in network:
            return why
    return None if address.is_global else "not global"


def _refusal_6(address: IPv6Address) -> str | None:
    if address.scope_id is not None:
        return "scope id"  # names an interface of this machine
    for network, why in _TABLE_6:
        if address in network:
            return why
    if address not in _UNICAST_6:
        return "not allocated as unicast"
    low = int(address) & 0xFFFF_FFFF_FFFF_FFFF
    if low >> 32 in _ISATAP:
        inner = _refusal_4(IPv4Address(low & 0xFFFF_FFFF))
        if inner is not None:
            return f"ISATAP: {inner}"
    return None if address.is_global else "not global"


def judge(host: str, answers: Sequence[str], allow: Allow) -> tuple[str, ...] | Refused:
    """The addresses of `host` that may be connected to, in the resolver's order and without repetition.

    `host` is a normalised name or address. One answer that is neither public nor exempt refuses the name: whoever mixes
    them is rebinding. No answer at all gives the empty tuple.
    """
    distinct = tuple(dict.fromkeys(answers))
    if len(distinct) > MOST_ANSWERS:
        return Refused("too many addresses")
    for answer in distinct:
        reason = refusal(answer)
        if reason is not None and not allow.admits(host, answer):
            return Refused(reason)
    return distinct
