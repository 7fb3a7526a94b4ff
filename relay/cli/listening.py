"""`relay listen`: the log, from now or from earlier, posted to a local URL and signed as in production. No tunnel."""

import argparse
import ipaddress
import json
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from relay.api import cursors
from relay.cli.options import add_settings, command
from relay.cli.remote import Api, moment, open_api
from relay.errors import InvalidInput
from relay.model.filters import Filter
from relay.model.signing import Secret, signed_headers

#: Seconds between looks at a log that had nothing new, and after a POST that failed.
_LOOK_EVERY = 0.5
_RETRY_AFTER = 2.0


def add_commands(commands: Any) -> None:
    example = "relay listen --forward-to http://localhost:3000/hooks --events 'order.item_*'"
    parser = command(commands, "listen", "post the log to a local URL, signed; needs no tunnel", example, _listen)
    parser.add_argument("--forward-to", metavar="URL", help="left out: only print")
    parser.add_argument("--events", default="*", help="comma-separated names or patterns (default: all)")
    parser.add_argument("--since", help="begin in the past: a moment, or how long ago (2h)")
    parser.add_argument(
        "--header", action="append", default=[], metavar="NAME:VALUE", help="sent along; may be repeated"
    )
    parser.add_argument("--secret", help="sign with this one (default: one that is kept for this user)")
    parser.add_argument("--print-secret", action="store_true", help="print the signing secret and end")
    parser.add_argument("--allow-remote", action="store_true", help="forward to a URL that is not on this machine")
    parser.add_argument("--count", type=int, default=0, metavar="N", help="end after N events")
    parser.add_argument("--json", action="store_true", help="one JSON object an event")
    add_settings(parser)


def _listen(options: argparse.Namespace) -> int:
    secret = kept_secret() if options.secret is None else Secret.parse(options.secret)
    if options.print_secret:
        print(secret.text)
        return 0
    if options.forward_to and not options.allow_remote and not _local(options.forward_to):
        raise InvalidInput("--forward-to names another machine: --allow-remote if that is meant")
    headers = dict(_header(text) for text in options.header)
    wanted = Filter.parse(options.events.split(","), "--events")
    api = open_api(options)
    if options.since is None:
        after = api.ask("GET", "/v1/events", after="now", limit="1")["resume"]
    else:
        since_ms = round(datetime.fromisoformat(moment(options.since)).timestamp() * 1000)
        after = cursors.encode("event", f"{max(0, since_ms - 1)}-0")
    if not options.json:
        print(f"signing with {secret.text}; listening", flush=True)
    told = 0
    with httpx.Client(timeout=30, trust_env=False) as client:
        for event in _follow(api, after):
            if not wanted.matches(event["type"]):
                continue
            # The bytes that the relay signs and sends, not another serialisation of the same.
            body = api.raw("GET", f"/v1/events/{event['id']}")
            _forward(client, options, event, body, headers, secret)
            told += 1
            if told == options.count:
                return 0
    return 0


def _follow(api: Api, after: str | None) -> Any:
    """Events behind a cursor, for ever."""
    while True:
        page = api.ask("GET", "/v1/events", after=after, limit="100")
        yield from page["data"]
        after = page["resume"]
        if page["next"] is None:
            time.sleep(_LOOK_EVERY)


def _forward(
    client: httpx.Client,
    options: argparse.Namespace,
    event: dict[str, Any],
    body: bytes,
    headers: dict[str, str],
    secret: Secret,
) -> None:
    """Post one event until the receiver takes it, in order, as the relay would; say what came of each attempt."""
    if not options.forward_to:
        _tell(options, event, body, "")
        return
    attempt = 0
    while True:
        attempt += 1
        signed = signed_headers(event["id"], int(time.time()), body, [secret])
        marks = {"content-type": "application/json", "relay-attempt": str(attempt)}
        try:
            status = client.post(options.forward_to, content=body, headers={**headers, **marks, **signed}).status_code
            outcome = str(status)
        except httpx.HTTPError as error:
            status, outcome = 0, type(error).__name__
        _tell(options, event, body, outcome)
        if 200 <= status < 300:
            return
        time.sleep(_RETRY_AFTER)


def _tell(options: argparse.Namespace, event: dict[str, Any], body: bytes, outcome: str) -> None:
    if options.json:
        print(json.dumps({"event": event, "outcome": outcome or None}, ensure_ascii=False), flush=True)
    else:
        order_id = event["data"].get("order_id", "-")
        print(f"{event['timestamp']}  {event['type']:<30} {order_id}  {len(body)} bytes  {outcome}", flush=True)


def kept_secret() -> Secret:
    """The secret of this user's `relay listen`: made once, so that a receiver's configuration outlives restarts."""
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "relay"
    path = folder / "listen.secret"
    try:
        return Secret.parse(path.read_text().strip())
    except FileNotFoundError:
        pass
    folder.mkdir(parents=True, exist_ok=True)
    secret = Secret.new()
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secret.text + "\n")
    except FileExistsError:  # another one was started at the same moment
        return Secret.parse(path.read_text().strip())
    return secret


def _local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _header(text: str) -> tuple[str, str]:
    name, separator, value = text.partition(":")
    if not separator or not name.strip():
        raise InvalidInput(f"--header {text!r}: write NAME:VALUE")
    return name.strip(), value.strip()
