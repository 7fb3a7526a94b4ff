"""Which URLs a subscription may name: parsed once, strictly, refused rather than repaired.

The address behind a name is another matter, judged when it is connected to. Codes are stable.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from relay.errors import InvalidInput, Problem

LONGEST = 2048
_Refuse = Callable[[str, str], InvalidInput]
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})|%[01][0-9A-Fa-f]|%7[Ff]")
#: Names that exist only inside a network or are reserved (RFC 6761 and its successors), and Kubernetes' own.
_INSIDE = ("localhost", "internal", "local", "test", "example", "invalid", "onion", "intranet", "svc", "cluster.local")
_THIS_MACHINE = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))
_INSIDE_NAMES = frozenset({"ip6-localhost", "metadata.packet.net", "home.arpa"})


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart: `url` is its normalised form."""

    url: str
    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Allow:
    """What the operator says of targets: `networks` and `hosts` are exempt by name, `http` allows clear text, and
    `forbidden_hosts` (the upstream, ourselves) are refused although they are public."""

    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    hosts: frozenset[str] = frozenset()
    http: bool = False
    forbidden_hosts: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, entries: Sequence[str], *, http: bool, forbidden_hosts: Iterable[str] = ()) -> "Allow":
        """From settings. A forbidden host that the entries exempt is not forbidden: the exemption is explicit."""
        networks, hosts = [], set()
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                hosts.add(entry.lower().rstrip("."))
        allow = cls(tuple(networks), frozenset(hosts), http)
        forbidden = {host.lower().rstrip(".") for host in forbidden_hosts}
        return replace(allow, forbidden_hosts=frozenset(host for host in forbidden if not allow.permits(host)))

    def permits(self, host: str) -> bool:
        """Whether a URL may name this host (a name or an address, normalised) although it looks inside."""
        if host in self.hosts:
            return True
        address = _address(host.strip("[]"))
        if address is None:
            return host == "localhost" and self._loopback
        return self._covers(address)

    def admits(self, host: str, answer: str) -> bool:
        """Whether `answer`, an address that is not public, may be connected to for this host."""
        address = _address(answer)
        if address is None:
            return False
        # Whoever exempts 127.0.0.1 or ::1 means this machine, by whichever of the two its name answers.
        here = host == "localhost" and self._loopback and address.is_loopback
        return host in self.hosts or here or self._covers(address)

    @property
    def _loopback(self) -> bool:
        return any(self._covers(address) for address in _THIS_MACHINE)

    def _covers(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        return any(address in network for network in self.networks if network.version == address.version)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None for a name, and for an address with a scope id: it names an interface, which nobody can exempt."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return None if "%" in text else address


def parse_target(url: str, allow: Allow, pointer: str = "/url") -> Target:
    """Raises InvalidInput with a stable code for everything that is no plain public HTTPS URL."""

    def refuse(code: str, detail: str) -> InvalidInput:
        return InvalidInput(detail, code=code, problems=[Problem(pointer, code, detail)])

    if len(url) > LONGEST:
        raise refuse("url_too_long", f"a URL has at most {LONGEST} characters")
    if not url.isascii() or any(c <= " " or c in '\\"<>^`{|}\x7f' for c in url):
        raise refuse("url_bad_character", "blanks, control characters, quotes, \\ and non-ASCII: write punycode")
    if _ESCAPE.search(url):
        raise refuse("url_bad_escape", "a percent escape is malformed or hides a control character")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise refuse("url_malformed", "the host or port is malformed") from None
    scheme = parts.scheme
    if scheme not in ("https", "http") or not url[len(scheme) :].startswith("://") or not parts.hostname:
        raise refuse("url_not_absolute", "write an absolute URL: https://host/path")
    if scheme == "http" and not allow.http:
        raise refuse("url_not_https", "only https:// is accepted")
    if "@" in parts.netloc:
        raise refuse("url_userinfo", "credentials do not belong into a URL: use a header")
    if "#" in url:
        raise refuse("url_fragment", "a fragment is never sent")
    host = parts.hostname.lower()
    if host.rstrip(".") in allow.forbidden_hosts:
        raise refuse("url_not_allowed", "this host takes no deliveries")
    exempt = allow.permits(host.rstrip("."))
    if not exempt:
        _check_host(host, parts.netloc, refuse)
    _check_port(parts.netloc, port, exempt or scheme == "http", refuse)
    shown = f"[{host}]" if ":" in host else host.rstrip(".")
    netloc = shown if port is None or port == {"https": 443, "http": 80}[scheme] else f"{shown}:{port}"
    path = parts.path or "/"
    normal = f"{scheme}://{netloc}{path}" + (f"?{parts.query}" if parts.query else "")
    return Target(normal, scheme, host.rstrip("."), port or {"https": 443, "http": 80}[scheme])


def _check_port(netloc: str, port: int | None, any_port: bool, refuse: _Refuse) -> None:
    written = netloc.rpartition("]")[2].partition(":")
    if written[1] and (not written[2] or written[2] != str(port)):
        raise refuse("url_bad_port", "write the port as a plain number, or leave it out")
    if port not in (None, 443) and not any_port:
        raise refuse("url_port_not_allowed", "only port 443 is accepted")


def _check_host(host: str, netloc: str, refuse: _Refuse) -> None:
    name = host.rstrip(".")
    if "[" in netloc or ":" in host or _looks_like_address(name):
        raise refuse("url_ip_literal", "name a host; addresses are not accepted")
    if len(name) > 253 or "%" in name or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise refuse("url_bad_host", "the host name is malformed")
    if host.endswith("..") or any(set(label) <= {"_"} for label in name.split(".")):
        raise refuse("url_bad_host", "the host name is malformed")
    for label in name.split("."):
        if label.startswith("xn--"):
            try:
                label.encode("ascii").decode("idna")
            except UnicodeError:
                raise refuse("url_bad_host", f"{label} is no punycode") from None
    inside = any(name == suffix or name.endswith(f".{suffix}") for suffix in _INSIDE)
    if "." not in name or inside or name in _INSIDE_NAMES:
        raise refuse("url_not_public", "the name is reserved or exists only inside a network")


def _looks_like_address(name: str) -> bool:
    """Any notation that some resolver takes for an IPv4 address: the last label is digits, or begins with 0x."""
    last = name.rpartition(".")[2]
    return last.isdigit() or last.startswith("0x")
