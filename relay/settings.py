"""Settings: from the environment, a `.env` file and flags, read once in `main` and passed on as one frozen value.

`TABLE` is the single list: it drives reading, validation, `--flag` equivalents and the manual.
"""

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from relay.errors import InvalidInput, InvalidSettings, Problem
from relay.model.catalogue import EVENT_TYPES
from relay.model.retries import DEFAULT_SCHEDULE, GIVE_UP_AFTER, Schedule
from relay.vault import parse_master_keys

#: How long a retailer has to recover what was given up, after the last retry (seconds).
RECOVERY_WINDOW = 24 * 3600.0

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str) -> float:
    """`15s`, `2m`, `168h`, `250ms` in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text.strip())
    if match is None:
        raise ValueError("write a duration such as 15s, 2m or 168h")
    return float(match[1]) * _UNITS[match[2]]


def _durations(text: str) -> tuple[float, ...]:
    values = tuple(duration(part) for part in text.split(","))
    if not all(value > 0 for value in values):
        raise ValueError("every duration must be longer than nothing")
    return values


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("write 1 or 0")
    return text == "1"


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _weights(text: str) -> Mapping[str, float]:
    weights = {}
    for part in _list(text):
        name, separator, value = part.partition("=")
        if not separator or not re.fullmatch(r"\d{1,4}(\.\d+)?", value) or not 0 < float(value) <= 1000:
            raise ValueError("write type=weight, such as order.replacement_suggested=3, each above 0 and up to 1000")
        if name.strip() not in EVENT_TYPES:
            raise ValueError(f"{name.strip()!r} is no type of event; relay event-types lists them")
        weights[name.strip()] = float(value)
    return weights


def _number(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError(f"write a number from {low:g} to {high:g}")
        return value

    return read


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"write a whole number from {low} to {high}")
        return int(text)

    return read


def _file(text: str) -> str:
    if not Path(text).is_file():
        raise ValueError("there is no such file")
    return text


def _header(text: str) -> str:
    if not re.fullmatch(r"[!-~](?:[ -~]{0,198}[!-~])?", text):
        raise ValueError("write printable ASCII: it becomes a header")
    return text


def _choice(*allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"write one of: {', '.join(allowed)}")
        return text

    return read


def _url(*schemes: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        scheme, separator, rest = text.partition("://")
        if not separator or scheme not in schemes or not rest:
            raise ValueError("write a URL that begins with " + " or ".join(f"{s}://" for s in schemes))
        return text

    return read


def _admin_key(text: str) -> str:
    if len(text) < 24:
        raise ValueError("an operator's key has at least 24 characters")
    return text


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table: how its text is read, its default as text (None: unset), and what it is."""

    read: Callable[[str], Any]
    default: str | None
    about: str
    secret: bool = False


TABLE: Mapping[str, Setting] = {
    "redis_url": Setting(
        _url("redis", "rediss", "redis+sentinel", "rediss+sentinel", "unix"),
        None,
        "the store; unset: the embedded one, where allowed",
    ),
    "redis_ca_file": Setting(_file, None, "TLS: PEM file of the authorities that Redis's certificate is checked by"),
    "redis_cert_file": Setting(_file, None, "TLS: PEM file of the relay's own certificate, where Redis asks for one"),
    "redis_key_file": Setting(_file, None, "TLS: PEM file of its key"),
    "redis_sentinel_username": Setting(str, None, "account on the Sentinels; unset: the default one"),
    "redis_sentinel_password": Setting(str, None, "its password", secret=True),
    "redis_unsafe": Setting(
        _flag, "0", "1: run although Redis may lose or evict data, or does not say that it will not"
    ),
    "upstream_url": Setting(_url("https", "http"), "https://connect.instacart.com", "the upstream API"),
    "upstream_dialect": Setting(
        _choice("specification", "connect"),
        "specification",
        "how the upstream spells its answers",
    ),
    "upstream_retailer_id": Setting(_header, None, "live dialect: which banner of several is meant"),
    "upstream_language": Setting(_choice("en-US", "en-CA", "fr-CA"), None, "live dialect: language of its texts"),
    "upstream_internal_ids": Setting(_flag, None, "live dialect: 1: ids are Instacart's own, 0: the retailer's"),
    "upstream_location": Setting(_flag, "0", "live dialect: 1: follow the shopper's location while delivering"),
    "upstream_client_id": Setting(str, None, "upstream application of retailers that have none of their own"),
    "upstream_client_secret": Setting(str, None, "its secret", secret=True),
    "upstream_budget": Setting(_number(0.1, 100_000), None, "requests per second it may spend; unset: no limit"),
    "upstream_timeout": Setting(duration, "10s", "deadline of one upstream request"),
    "master_keys": Setting(str, None, "id:base64[,...]: the first encrypts secrets at rest, all decrypt", secret=True),
    "admin_key": Setting(_admin_key, None, "an operator's bearer key, at least 24 characters", secret=True),
    "target_allow": Setting(_list, "", "networks and hosts that subscriptions may name although they are not public"),
    "target_refuse": Setting(
        _list, "", "public hosts that subscriptions may not name, such as the relay's own; always the upstream's"
    ),
    "allow_http_targets": Setting(_flag, "0", "1: subscriptions may use http://"),
    "egress_proxy": Setting(_url("http", "https"), None, "proxy through which deliveries go"),
    "retention_events": Setting(duration, "168h", "how long events stay in the log"),
    "retention_attempts": Setting(duration, "168h", "how long attempts are kept"),
    "retention_orders": Setting(duration, "24h", "how long an order's state stays after its end"),
    "retention_audit": Setting(duration, "2160h", "how long the audit log reaches back"),
    "api_rate": Setting(_number(0, 100_000), "50", "requests a second that one key may make; 0: no limit"),
    "api_rate_retailer": Setting(
        _number(0, 100_000), "100", "the same of a retailer without `api_rate` among its limits"
    ),
    "api_rate_ip": Setting(_number(0, 100_000), "200", "the same of one peer address, in each API process"),
    "retry_schedule": Setting(_durations, None, "waits between attempts; the last repeats, up to 72h after the event"),
    "delivery_timeout": Setting(duration, "15s", "deadline of one delivery: connect, TLS, headers and body"),
    "host": Setting(str, "127.0.0.1", "address that the API listens on"),
    "port": Setting(_whole(0, 65535), "8080", "port of the API"),
    "metrics_port": Setting(_whole(0, 65535), "9102", "port of a worker's /metrics, /livez and /readyz; 0: none"),
    "canary": Setting(_flag, "0", "1: a synthetic change goes the whole way, again and again, and is measured"),
    "canary_every": Setting(duration, "60s", "how often"),
    "canary_port": Setting(_whole(1, 65535), "9103", "port of the canary's upstream and receiver, in maintain workers"),
    "canary_url": Setting(
        _url("http"), None, "under which address poll and deliver workers reach that port; unset: on this machine"
    ),
    "tracing": Setting(
        _flag, "0", "1: traces by OpenTelemetry, from poll to delivery; OTEL_* say where to; needs the extra `tracing`"
    ),
    "trace_receivers": Setting(_flag, "0", "1: deliveries carry the header traceparent"),
    "log_format": Setting(_choice("json", "console"), "json", "how log lines look"),
    "log_level": Setting(_choice("debug", "info", "warning", "error"), "info", "least severe lines that are written"),
    "lease": Setting(duration, "15s", "how long a claimed order, an owned subscription or a pump slot is held"),
    "slice": Setting(duration, "60s", "how long a pump works before it hands over"),
    "poll_scale": Setting(_number(0.0001, 1000), "1", "multiplies the bounds of polling intervals"),
    "poll_floor": Setting(duration, "1s", "shortest polling interval, whatever the stage"),
    "poll_concurrency": Setting(_whole(1, 10_000), "256", "upstream requests in flight per pump at most"),
    "poll_pumps": Setting(_whole(1, 64), "2", "poll pumps over all processes"),
    "deliver_pumps": Setting(_whole(1, 64), "2", "deliver pumps over all processes"),
    "delivery_concurrency": Setting(_whole(1, 10_000), "512", "posts in flight per pump"),
    "host_concurrency": Setting(_whole(1, 10_000), "512", "posts in flight to one host, over all pumps and retailers"),
    "disable_after": Setting(duration, "120h", "an endpoint that only fails for so long is disabled"),
    "recovery_rate": Setting(_whole(1, 10_000), "50", "events a second that a recovery sends again"),
    "patience": Setting(duration, "2m", "how long 401, 403 or 404 may last before tracking is suspended"),
    "confirm_after": Setting(duration, "5s", "after this a terminal status is read again"),
    "late_chat": Setting(duration, "5m", "so long after the end, status and chat are read once more"),
    "abandon_after": Setting(duration, "24h", "an order that upstream refuses for so long is given up"),
    "poll_weights": Setting(
        _weights, "", "what a minute of delay costs, by type of event: order.replacement_suggested=3, others 1"
    ),
    "api_url": Setting(
        _url("https", "http"), "http://127.0.0.1:8080", "where commands such as `relay orders` find the API"
    ),
    "api_key": Setting(str, None, "the key that they present", secret=True),
    "data": Setting(str, "relay-data", "folder of the embedded store"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, read and checked. Durations are seconds. Secrets do not show in `repr`."""

    redis_url: str | None = field(default=None, repr=False)
    redis_ca_file: str | None = None
    redis_cert_file: str | None = None
    redis_key_file: str | None = None
    redis_sentinel_username: str | None = None
    redis_sentinel_password: str | None = field(default=None, repr=False)
    redis_unsafe: bool = False
    upstream_url: str = "https://connect.instacart.com"
    upstream_dialect: str = "specification"
    upstream_retailer_id: str | None = None
    upstream_language: str | None = None
    upstream_internal_ids: bool | None = None
    upstream_location: bool = False
    upstream_client_id: str | None = None
    upstream_client_secret: str | None = field(default=None, repr=False)
    upstream_budget: float | None = None
    upstream_timeout: float = 10.0
    master_keys: str | None = field(default=None, repr=False)
    admin_key: str | None = field(default=None, repr=False)
    target_allow: tuple[str, ...] = ()
    target_refuse: tuple[str, ...] = ()
    allow_http_targets: bool = False
    egress_proxy: str | None = field(default=None, repr=False)
    retention_events: float = 168 * 3600.0
    retention_attempts: float = 168 * 3600.0
    retention_orders: float = 24 * 3600.0
    retention_audit: float = 2160 * 3600.0
    api_rate: float = 50.0
    api_rate_retailer: float = 100.0
    api_rate_ip: float = 200.0
    retry_schedule: tuple[float, ...] | None = None
    delivery_timeout: float = 15.0
    host: str = "127.0.0.1"
    port: int = 8080
    metrics_port: int = 9102
    canary: bool = False
    canary_every: float = 60.0
    canary_port: int = 9103
    canary_url: str | None = None
    tracing: bool = False
    trace_receivers: bool = False
    log_format: str = "json"
    log_level: str = "info"
    lease: float = 15.0
    slice: float = 60.0
    poll_scale: float = 1.0
    poll_floor: float = 1.0
    poll_concurrency: int = 256
    poll_pumps: int = 2
    deliver_pumps: int = 2
    delivery_concurrency: int = 512
    host_concurrency: int = 512
    disable_after: float = 120 * 3600.0
    recovery_rate: int = 50
    patience: float = 120.0
    confirm_after: float = 5.0
    late_chat: float = 300.0
    abandon_after: float = 24 * 3600.0
    poll_weights: Mapping[str, float] = field(default_factory=dict)
    api_url: str = "http://127.0.0.1:8080"
    api_key: str | None = field(default=None, repr=False)
    data: str = "relay-data"

    @property
    def digest(self) -> str:
        """Twelve digits that differ where a setting does. Secrets are not in it, nor what a process has for itself."""
        common = replace(self, metrics_port=0, port=0, canary_port=0)
        return hashlib.sha256(repr(common).encode()).hexdigest()[:12]

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.retry_schedule or DEFAULT_SCHEDULE)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return "RELAY_" + name.upper()


def load(env: Mapping[str, str], dotenv: Path | None = None, flags: Mapping[str, str] | None = None) -> Settings:
    """Flags before environment before `.env` before defaults. Raises one InvalidSettings with everything wrong."""
    texts = dict(_read_dotenv(dotenv)) if dotenv is not None and dotenv.is_file() else {}
    texts |= {name: value for name, value in env.items() if name.startswith("RELAY_")}
    texts |= {variable(name): value for name, value in (flags or {}).items()}
    problems = [_unknown(name) for name in texts if name.removeprefix("RELAY_").lower() not in TABLE]
    values: dict[str, Any] = {}
    for name, setting in TABLE.items():
        text = texts.get(variable(name), setting.default)
        if text is None or (text == "" and setting.default is None):
            continue
        try:
            values[name] = setting.read(text)
        except ValueError as error:
            shown = "" if setting.secret else f" (it is {text!r})"
            problems.append(Problem(variable(name), "invalid_setting", f"{error}{shown}"))
    settings = Settings(**values)
    problems += _contradictions(settings)
    if problems:
        listed = "\n".join(f"  {problem.pointer}: {problem.detail}" for problem in problems)
        raise InvalidSettings(f"settings cannot be used:\n{listed}", problems=problems)
    return settings


def _contradictions(settings: Settings) -> list[Problem]:
    found = []

    def refuse(name: str, detail: str) -> None:
        found.append(Problem(variable(name), "contradiction", detail))

    if settings.retention_events < GIVE_UP_AFTER + RECOVERY_WINDOW:
        why = "must be at least the retry span of 72h and a day to recover what failed: 96h"
        refuse("retention_events", why)
    if settings.slice > 60:
        refuse("slice", "a pump works at most 60s at a time")
    if settings.lease < 1:
        refuse("lease", "a lease lasts at least 1s")
    if settings.canary_every < 1:
        refuse("canary_every", "the canary flies once a second at most")
    if (settings.upstream_client_id is None) != (settings.upstream_client_secret is None):
        refuse("upstream_client_secret", "give the client id and its secret together")
    if (settings.redis_cert_file is None) != (settings.redis_key_file is None):
        refuse("redis_key_file", "give the client certificate and its key together")
    if settings.trace_receivers and not settings.tracing:
        refuse("trace_receivers", "there is nothing to tell receivers of without RELAY_TRACING=1")
    if settings.redis_sentinel_username is not None and settings.redis_sentinel_password is None:
        refuse("redis_sentinel_password", "a Sentinel user has a password")
    if settings.master_keys is not None:
        try:
            parse_master_keys(settings.master_keys)
        except InvalidInput as error:
            refuse("master_keys", error.detail)
    return found


def _unknown(name: str) -> Problem:
    near = difflib.get_close_matches(name, [variable(known) for known in TABLE], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return Problem(name, "unknown_setting", f"there is no such setting{hint}")


def _read_dotenv(path: Path) -> list[tuple[str, str]]:
    pairs = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("#") or "=" not in text:
            continue
        name, _, value = text.removeprefix("export ").partition("=")
        if name.strip().startswith("RELAY_"):
            pairs.append((name.strip(), value.strip().strip("'\"")))
    return pairs
