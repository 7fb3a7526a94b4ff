"""Commands of the retailer's engineer, over the API: orders, subscriptions, events, deliveries, trigger."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from relay.cli.options import Refused, add_settings, command, read_settings
from relay.errors import InvalidInput, InvalidSettings
from relay.settings import duration

#: Seconds between looks at a recovery that runs.
_LOOK_EVERY = 0.5


class Api:
    """The relay's API as a command uses it: problems become errors with the same words."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._client = httpx.Client(
            base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30, trust_env=False
        )

    def ask(self, method: str, path: str, body: Any = None, **query: str | None) -> Any:
        """The answer's JSON. Raises Refused for a problem, InvalidSettings when nobody answers."""
        raw = self.raw(method, path, body, **query)
        return json.loads(raw) if raw else None

    def raw(self, method: str, path: str, body: Any = None, **query: str | None) -> bytes:
        """The answer as it came."""
        given = {name: value for name, value in query.items() if value is not None}
        try:
            answer = self._client.request(method, path, params=given, json=body)
        except httpx.HTTPError as error:
            raise InvalidSettings(
                f"the API at {self._url} does not answer ({type(error).__name__}): check --api-url"
            ) from None
        if answer.is_success:
            return answer.content
        try:
            problem = answer.json()
            detail = f"{problem['detail']} ({problem['code']})"
        except (ValueError, KeyError, TypeError):
            detail = f"the API answered {answer.status_code}"
        raise Refused(detail)

    def pages(self, path: str, **query: str | None) -> Iterator[dict[str, Any]]:
        """Everything of a list."""
        after: str | None = None
        while True:
            page = self.ask("GET", path, limit="100", after=after, **query)
            yield from page["data"]
            after = page["next"]
            if after is None:
                return

    def close(self) -> None:
        self._client.close()


def open_api(options: argparse.Namespace) -> Api:
    """Raises InvalidSettings without a key."""
    return _open(options, "a retailer's key: RELAY_API_KEY or --api-key (`relay keys create`)")


def open_operator_api(options: argparse.Namespace) -> Api:
    """The API for what only the operator may do. Raises InvalidSettings without a key."""
    return _open(options, "the operator's key, which the API has in RELAY_ADMIN_KEY: RELAY_API_KEY or --api-key")


def _open(options: argparse.Namespace, key: str) -> Api:
    settings = read_settings(options)
    if settings.api_key is None:
        raise InvalidSettings(f"this command needs {key}")
    return Api(settings.api_url, settings.api_key)


def moment(text: str, now: datetime | None = None) -> str:
    """A moment as the API takes it, from RFC 3339 or from how long ago (`2h`). Raises InvalidInput."""
    try:
        return ((now or datetime.now(UTC)) - timedelta(seconds=duration(text))).isoformat(timespec="milliseconds")
    except ValueError:
        pass
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        given = None
    if given is None or given.tzinfo is None:
        raise InvalidInput(f"{text!r} is no moment: write 2026-11-23T12:00:00Z, or how long ago, such as 2h")
    return given.isoformat(timespec="milliseconds")


def add_commands(commands: Any) -> None:
    parser = command(commands, "orders", "track, show and stop orders", "relay orders track o-1 --user-id u-7", _orders)
    parser.add_argument("action", choices=["list", "show", "track", "stop", "refresh"])
    parser.add_argument("order", nargs="?", help="the order's id upstream")
    parser.add_argument("--user-id", help="track: the user whose token is minted")
    parser.add_argument("--token", help="track: the user's access token, if none is to be minted")
    parser.add_argument("--purge", action="store_true", help="stop: also erase what is stored about the order")
    _finish(parser)

    example = "relay subscriptions create https://shop.example.com/hooks --event-types 'order.item_*'"
    parser = command(commands, "subscriptions", "the URLs that events are posted to", example, _subscriptions)
    actions = ["list", "show", "create", "enable", "disable", "delete", "secret", "rotate", "test", "verify", "stats"]
    parser.add_argument("action", choices=actions)
    parser.add_argument("value", nargs="?", help="a subscription's id; create: the URL")
    parser.add_argument("--event-types", help="create: comma-separated names or patterns (default order.*)")
    parser.add_argument("--payload", choices=["full", "thin"], help="create")
    parser.add_argument("--backlog", choices=["all", "latest", "skip"], help="enable: what becomes of what waited")
    parser.add_argument("--overlap", help="rotate: how long the old secret signs too, such as 24h; 0s if it leaked")
    parser.add_argument("--event-type", help="test: a sample of this type")
    _finish(parser)

    parser = command(commands, "events", "the log", "relay events list --order-id o-1 --type 'order.item_*'", _events)
    parser.add_argument("action", choices=["list", "show", "deliveries"])
    parser.add_argument("event", nargs="?", help="an event's id")
    parser.add_argument("--order-id")
    parser.add_argument("--type", help="a name or a pattern")
    _finish(parser)

    example = "relay deliveries recover sub_... --since 2h --only missing"
    parser = command(commands, "deliveries", "what became of events, and sending them again", example, _deliveries)
    parser.add_argument("action", choices=["list", "redeliver", "recover"])
    parser.add_argument("value", help="a subscription's id; redeliver: an event's")
    parser.add_argument("--subscription", help="redeliver: to which")
    parser.add_argument("--status", choices=["waiting", "retrying", "delivered", "dead", "skipped"], help="list")
    parser.add_argument("--order-id", help="list")
    parser.add_argument("--event-type", help="list")
    parser.add_argument("--since", help="recover: a moment, or how long ago (2h)")
    parser.add_argument("--until", help="recover: a moment, or how long ago; default: now")
    parser.add_argument("--only", choices=["failed", "missing", "all"], default="failed", help="recover")
    parser.add_argument("--no-wait", action="store_true", help="recover: do not wait for its end")
    _finish(parser)

    example = "relay trigger order.replacement_suggested"
    parser = command(commands, "trigger", "send a sample event to a subscription", example, _trigger)
    parser.add_argument("event_type")
    parser.add_argument("--subscription", help="may be left out where there is only one")
    _finish(parser)


def _finish(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true")
    add_settings(parser)


def _needed(value: str | None, what: str) -> str:
    if not value:
        raise InvalidInput(f"give {what}")
    return value


def _orders(options: argparse.Namespace) -> int:
    api = open_api(options)
    if options.action == "list":
        return _show(options, api.pages("/v1/orders"), _order_line)
    order_id = _needed(options.order, "the order's id")
    if options.action == "track":
        body: dict[str, Any] = {"order_id": order_id}
        if options.user_id:
            body["user_id"] = options.user_id
        if options.token:
            body["access_token"] = {"token": options.token}
        return _show(options, [api.ask("POST", "/v1/orders", body)], _order_line)
    if options.action == "stop":
        purge = "true" if options.purge else None
        return _show(options, [api.ask("DELETE", f"/v1/orders/{order_id}", purge=purge)], _order_line)
    if options.action == "refresh":
        return _show(options, [api.ask("POST", f"/v1/orders/{order_id}/refresh", {})], _order_line)
    return _document(api.ask("GET", f"/v1/orders/{order_id}"))


def _order_line(one: dict[str, Any]) -> str:
    status = (one.get("order") or {}).get("status", "-")
    return f"{one['order_id']:<24} {one['tracking']:<10} {status}"


def _subscriptions(options: argparse.Namespace) -> int:
    api = open_api(options)
    if options.action == "list":
        return _show(options, api.pages("/v1/subscriptions"), _subscription_line)
    value = _needed(options.value, "the URL" if options.action == "create" else "the subscription's id")
    path = f"/v1/subscriptions/{value}"
    if options.action == "create":
        return _create(options, api, value)
    if options.action in ("enable", "disable"):
        body = {"backlog": options.backlog} if options.backlog else {}
        return _show(options, [api.ask("POST", f"{path}/{options.action}", body)], _subscription_line)
    if options.action in ("secret", "rotate"):
        return _secret(options, api, path)
    if options.action == "test":
        return _test(options, api, value, options.event_type or "webhook.test")
    if options.action == "verify":
        answer = api.ask("POST", f"{path}/verify", {})
        _show(options, [answer], lambda one: "verified" if one["verified"] else f"not verified: {one['attempt']}")
        return 0 if answer["verified"] else 1
    if options.action == "delete":
        api.ask("DELETE", path)
        return 0
    return _document(api.ask("GET", f"{path}/stats" if options.action == "stats" else path))


def _create(options: argparse.Namespace, api: Api, url: str) -> int:
    body: dict[str, Any] = {"url": url}
    if options.event_types:
        body["event_types"] = options.event_types.split(",")
    if options.payload:
        body["payload"] = options.payload
    return _show(options, [api.ask("POST", "/v1/subscriptions", body)], lambda one: f"{one['id']}  {one['secret']}")


def _secret(options: argparse.Namespace, api: Api, path: str) -> int:
    if options.action == "rotate":
        body = {"overlap_seconds": round(_seconds(options.overlap))} if options.overlap else {}
        answer = api.ask("POST", f"{path}/secret/rotate", body)
    else:
        answer = api.ask("GET", f"{path}/secret")
    return _show(options, [answer], lambda one: one["secret"])


def _subscription_line(one: dict[str, Any]) -> str:
    state = "enabled" if one["enabled"] else f"disabled ({one['disabled_reason']})"
    return f"{one['id']}  {state:<22} {one['circuit']:<9} {','.join(one['event_types']):<20} {one['url']}"


def _seconds(text: str) -> float:
    try:
        return duration(text)
    except ValueError as error:
        raise InvalidInput(str(error)) from None


def _events(options: argparse.Namespace) -> int:
    api = open_api(options)
    if options.action == "list":
        found = api.pages("/v1/events", order_id=options.order_id, type=options.type)
        return _show(options, found, _event_line)
    event_id = _needed(options.event, "the event's id")
    if options.action == "deliveries":
        return _show(options, api.ask("GET", f"/v1/events/{event_id}/deliveries")["data"], _delivery_line)
    return _document(api.ask("GET", f"/v1/events/{event_id}"))


def _event_line(one: dict[str, Any]) -> str:
    data = one["data"]
    return (
        f"{one['timestamp']}  {one['id']}  {one['type']:<30} {data.get('order_id', '-')} #{data.get('sequence', '-')}"
    )


def _deliveries(options: argparse.Namespace) -> int:
    api = open_api(options)
    if options.action == "redeliver":
        body = {"subscription_id": _needed(options.subscription, "--subscription")}
        answer = api.ask("POST", f"/v1/events/{options.value}/redeliver", body)
        return _show(options, [answer], lambda one: f"{one['event_id']} is sent again to {one['subscription_id']}")
    path = f"/v1/subscriptions/{options.value}"
    if options.action == "list":
        filters = {"status": options.status, "order_id": options.order_id, "event_type": options.event_type}
        return _show(options, api.pages(f"{path}/deliveries", **filters), _delivery_line)
    body = {"since": moment(_needed(options.since, "--since")), "only": options.only}
    if options.until:
        body["until"] = moment(options.until)
    job = api.ask("POST", f"{path}/recover", body)
    while not options.no_wait and job["status"] == "running":
        time.sleep(_LOOK_EVERY)
        job = api.ask("GET", f"{path}/recoveries/{job['id']}")
        if sys.stderr.isatty():
            print(f"\r{job['progress']:4.0%}  {job['resent']} sent again", end="", file=sys.stderr)
    if sys.stderr.isatty() and not options.no_wait:
        print(file=sys.stderr)
    return _show(options, [job], lambda one: f"{one['id']}  {one['status']}  {one['resent']} of {one['looked_at']}")


def _delivery_line(one: dict[str, Any]) -> str:
    tries = one["attempts"]
    last = f"{tries[-1]['outcome']} {tries[-1]['status_code'] or ''}".strip() if tries else ""
    return f"{one['event_id']}  {one['status']:<9} {one['event_type']:<30} {len(tries)} attempts  {last}"


def _trigger(options: argparse.Namespace) -> int:
    api = open_api(options)
    subscription_id = options.subscription
    if subscription_id is None:
        known = [one["id"] for one in api.pages("/v1/subscriptions")]
        if len(known) != 1:
            raise InvalidInput(f"there are {len(known)} subscriptions: say which with --subscription")
        subscription_id = known[0]
    return _test(options, api, subscription_id, options.event_type)


def _test(options: argparse.Namespace, api: Api, subscription_id: str, event_type: str) -> int:
    """Exit status 1 when the receiver did not take it."""
    answer = api.ask("POST", f"/v1/subscriptions/{subscription_id}/test", {"event_type": event_type})
    tried = answer["attempt"]
    text = f"{answer['event_type']}: {tried['outcome']} {tried['status_code'] or ''} in {tried['duration_ms']:.0f} ms"
    _show(options, [answer], lambda _: text + (f": {tried['error']}" if tried["error"] else ""))
    return 0 if tried["status_code"] is not None and 200 <= tried["status_code"] < 300 else 1


def _show(options: argparse.Namespace, rows: Any, line: Any) -> int:
    if options.json:
        print(json.dumps(list(rows), ensure_ascii=False))
    else:
        for row in rows:
            print(line(row))
    return 0


def _document(value: Any) -> int:
    print(json.dumps(value, indent=2, ensure_ascii=False))
    return 0
