"""Subscriptions: create, look at, change, delete."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from msgspec import UNSET

from relay.api import cursors, secrets
from relay.api.deps import Call, Reply
from relay.api.views import SubscriptionView
from relay.errors import Conflict, InvalidInput, Problem
from relay.model.events import rfc3339
from relay.model.filters import Filter
from relay.model.keyring import Keyring
from relay.model.signing import SigningKey
from relay.model.targets import parse_target
from relay.store.audit import redacted
from relay.store.log import ordinal
from relay.store.subscriptions import Backlog, Changed, Configuration, Subscription

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_VALUE = re.compile(r"[\x20-\x7e\t]*")
#: Headers that frame, route or identify a message, or that clouds and standards give a meaning to.
_FORBIDDEN = frozenset(
    {
        *("host", "content-length", "transfer-encoding", "expect", "connection", "keep-alive", "te", "trailer"),
        *("upgrade", "content-type", "content-encoding", "content-language", "content-location", "content-range"),
        *("content-md5", "content-digest", "digest", "accept-encoding", "user-agent", "cookie", "set-cookie"),
        *("forwarded", "via", "x-real-ip", "true-client-ip", "cf-connecting-ip", "metadata-flavor", "origin"),
        *("referer", "range", "max-forwards", "date", "http2-settings"),
    }
)
_FORBIDDEN_PREFIXES = (
    *("proxy-", "x-forwarded-", "sec-", "webhook-", "ce-", "relay-"),
    *("x-aws-", "x-amz-", "x-goog-", "x-google-", "x-ms-", "x-envoy-", "svix-"),
)

#: Why a subscription is disabled whose endpoint has not shown yet that it wants events.
UNVERIFIED = "unverified"


async def create(call: Call) -> Reply:
    body = call.body
    call.notes["url"] = redacted(body.url)
    configuration = Configuration(
        url=await _url(call, body.url),
        event_types=Filter.parse(body.event_types).patterns,
        description=body.description,
        enabled=body.enabled,
        payload=body.payload,
        ordering=body.ordering,
        backlog=body.backlog,
        max_in_flight=body.max_in_flight,
        rate_limit=body.rate_limit,
        heartbeat_seconds=body.heartbeat_seconds,
        headers=_headers(body.headers),
    )
    secret = await secrets.chosen(call, body.secret)
    keyring = Keyring.new(secret, SigningKey.new() if body.ed25519 else None)
    start = None if body.start == "now" else await _start(call, body.start)
    reason = "by_retailer"
    if configuration.enabled and (await call.deps.retailers.get(call.retailer_id)).verify_endpoints:
        configuration, reason = replace(configuration, enabled=False), UNVERIFIED
    made = await call.deps.subscriptions.create(
        call.retailer_id, configuration, keyring=keyring, start=start, disabled_reason=reason
    )
    return Reply(201, view(made, secret.text), headers={"cache-control": "no-store"})


async def page(call: Call) -> Reply:
    after, limit = cursors.page(call.request, "subscription")
    found, last = await call.deps.subscriptions.page(call.retailer_id, after=after, limit=limit)
    return Reply(200, {"data": [view(one) for one in found], "next": cursors.encode("subscription", last)})


async def get(call: Call) -> Reply:
    return Reply(200, view(await call.deps.subscriptions.get(call.retailer_id, call.path("subscription_id"))))


async def patch(call: Call) -> Reply:
    given: dict[str, Any] = {
        name: getattr(call.body, name) for name in call.body.__struct_fields__ if getattr(call.body, name) is not UNSET
    }
    call.notes["changed"] = ",".join(sorted(given))
    if "url" in given:
        call.notes["url"] = redacted(given["url"])
        given["url"] = await _url(call, given["url"])
    if "event_types" in given:
        given["event_types"] = Filter.parse(given["event_types"]).patterns
    if "headers" in given:
        given["headers"] = _headers(given["headers"])
    ed25519 = given.pop("ed25519", None)
    return Reply(200, view(await _amend(call, given, ed25519=ed25519)))


async def enable(call: Call) -> Reply:
    return Reply(200, view(await _amend(call, {"enabled": True}, call.body.backlog)))


async def disable(call: Call) -> Reply:
    return Reply(200, view(await _amend(call, {"enabled": False})))


async def verified(call: Call, subscription: Subscription) -> Subscription:
    """Note that the endpoint answered a challenge; a subscription that only waited for that is enabled. One whose URL
    was changed meanwhile stays as it is."""
    asked = subscription.configuration.url
    for _ in range(secrets.TRIES):
        known = await call.deps.subscriptions.get(call.retailer_id, subscription.id)
        if known.configuration.url != asked:
            return known
        waits = known.disabled_reason == UNVERIFIED
        after = replace(known.configuration, enabled=known.configuration.enabled or waits)
        with suppress(Changed):
            return await call.deps.subscriptions.amend(call.retailer_id, known, after, verified=True)
    raise secrets.contended()


async def _amend(
    call: Call, given: Mapping[str, Any], backlog: Backlog | None = None, ed25519: bool | None = None
) -> Subscription:
    """Change what is given. Another change at the same time, the relay's own included, is none to fail for."""
    strict = (await call.deps.retailers.get(call.retailer_id)).verify_endpoints
    for _ in range(secrets.TRIES):
        known = await call.deps.subscriptions.get(call.retailer_id, call.path("subscription_id"))
        before = known.configuration
        if "url" in given:
            call.notes["old_url"] = redacted(before.url)
        after, reason = replace(before, **given), "by_retailer"
        proven = known.verified and after.url == before.url
        if strict and after.enabled and not proven:
            if not before.enabled:
                detail = "the retailer's endpoints have to be verified first: POST .../verify"
                raise Conflict(detail, code="endpoint_not_verified")
            if after.url != before.url:
                after, reason = replace(after, enabled=False), UNVERIFIED
        with suppress(Changed):
            return await call.deps.subscriptions.amend(
                *(call.retailer_id, known, after),
                backlog=backlog or _backlog(after),
                reason=reason,
                keyring=_signing(known.keyring, ed25519),
            )
    raise secrets.contended()


def _signing(keyring: Keyring, ed25519: bool | None) -> Keyring | None:
    """The keyring with an Ed25519 key, or without; None where that is how it is."""
    if ed25519 is None or ed25519 == (keyring.signing is not None):
        return None
    return keyring.with_signing(SigningKey.new() if ed25519 else None)


def _backlog(configuration: Configuration) -> Backlog:
    return "latest" if configuration.backlog == "latest" else "all"


async def delete(call: Call) -> Reply:
    await call.deps.subscriptions.delete(call.retailer_id, call.path("subscription_id"))
    return Reply(204)


def view(subscription: Subscription, secret: str | None = None) -> SubscriptionView:
    """A subscription as the API shows it: header values that may be credentials are hidden."""
    configuration, signing = subscription.configuration, subscription.keyring.signing
    return SubscriptionView(
        id=subscription.id,
        url=configuration.url,
        event_types=list(configuration.event_types),
        description=configuration.description,
        enabled=configuration.enabled,
        disabled_reason=subscription.disabled_reason,
        payload=configuration.payload,
        ordering=configuration.ordering,
        backlog=configuration.backlog,
        max_in_flight=configuration.max_in_flight,
        rate_limit=configuration.rate_limit,
        headers=dict.fromkeys(configuration.headers, "(hidden)"),
        heartbeat_seconds=configuration.heartbeat_seconds,
        circuit=subscription.circuit,
        position=cursors.encode("event", subscription.position),
        sequence=subscription.sequence,
        delivered=subscription.delivered,
        dead=subscription.dead,
        skipped=subscription.skipped,
        verified=subscription.verified,
        failing_since=None if subscription.failing_since_ms is None else rfc3339(subscription.failing_since_ms),
        last_error=subscription.last_error,
        created_at=rfc3339(subscription.created_ms),
        ed25519=signing is not None,
        public_key=None if signing is None else signing.public_text,
        secret=UNSET if secret is None else secret,
    )


async def _url(call: Call, text: str) -> str:
    """The normalised URL. Its form is checked, and what its host resolves to now; both again at every send."""
    target = parse_target(text, call.deps.guard.allow)
    await call.deps.guard.check_resolves(target)
    return target.url


async def _start(call: Call, cursor: str) -> str:
    """A place in the log. One that lies ahead would skip events that have not happened: no list ever gave it out."""
    place = cursors.decode("event", cursor, "/start")
    if ordinal(place) > ordinal(await call.deps.log.last_position(call.retailer_id)):
        detail = "the cursor lies behind the end of the log"
        raise InvalidInput(detail, code="invalid_cursor", problems=[Problem("/start", "invalid_cursor", detail)])
    return place


def _headers(headers: dict[str, str]) -> dict[str, str]:
    """Refuse headers that would change framing, routing, identity or another system's mind."""
    problems = []
    seen: set[str] = set()
    for name, value in headers.items():
        low = name.lower()
        pointer = f"/headers/{name[:64].replace('~', '~0').replace('/', '~1')}"
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            problems.append(Problem(pointer, "invalid_header", "a header name is a token, its value printable ASCII"))
        elif low in _FORBIDDEN or low.startswith(_FORBIDDEN_PREFIXES):
            problems.append(Problem(pointer, "header_not_allowed", f"{name} cannot be set"))
        elif low in seen:
            problems.append(Problem(pointer, "duplicate_header", f"{name} stands twice"))
        seen.add(low)
    if problems:
        raise InvalidInput(problems[0].detail, code=problems[0].code, problems=problems)
    return dict(headers)
