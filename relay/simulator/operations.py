"""The upstream API: five operations and the token endpoint, dispatched by hand because polls are what it is for.

One exchange: who asks (401), how often (429), what fault is due, then the operation. A poll's answer is entered into
the ledger only once it has gone out whole to a client that is still there.
"""

import asyncio
import gzip
import socket
import struct
import zlib
from dataclasses import replace
from email.utils import formatdate
from math import ceil
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.types import Receive, Scope, Send

from relay.errors import InvalidInput, NotFound, Unauthorized
from relay.simulator import connect
from relay.simulator.faults import POLLED, Fault
from relay.simulator.routes import Reply, Route, find, oauth_refusal, refusal
from relay.simulator.spoiling import spoil
from relay.simulator.tokens import Grant
from relay.simulator.traffic import held_up
from relay.simulator.world import HANDLING, MESSAGES, Order, item

if TYPE_CHECKING:
    from relay.simulator.app import Simulator

Json = Any
TOKEN_PATH = b"/v2/oauth/token"

#: How long a request under the fault `timeout` is kept waiting, in seconds, if the client does not leave first.
PATIENCE = 300.0
#: What a request body may measure; a chat message of 1,000 characters is far below it.
_BODY_LIMIT = 64 * 1024
#: On, for 0 seconds: closing sends RST instead of FIN.
_NO_LINGER = struct.pack("ii", 1, 0)


class ClientGone(Exception):
    """The client left before its answer was complete."""


class Operations:
    """ASGI app of everything under /v2/."""

    def __init__(self, simulator: "Simulator") -> None:
        self._sim = simulator
        self._date = (0, b"")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: bytes = scope.get("raw_path") or scope["path"].encode()
        if path == TOKEN_PATH:
            await self._token(scope, receive, send)
            return
        sim = self._sim
        now = sim.tick()
        arrived = sim.traffic.arrived(now.wall, held_up(scope))
        route = find(scope["method"], path, live=sim.config.live)
        if isinstance(route, Reply):
            await self._send(route, send)
            return
        grant = sim.tokens.grant(_header(scope, b"authorization"), now.wall)
        if grant is None:
            await self._send(refusal(401, "a valid bearer token is required"), send)
            return
        wait = sim.limit.wait(grant.client_id, arrived)
        if wait > 0:
            await self._send(refusal(429, "too many requests per second", retry_after=ceil(wait)), send)
            return
        faults = sim.faults.draw(route.target, route.order_id, now.wall)
        if faults or route.method != "GET":
            await self._exchange(route, grant, faults, scope, receive, send)
        else:
            await self._answer_poll(route, self._operate(route, grant, b""), scope, send)

    async def _exchange(
        self, route: Route, grant: Grant, faults: list[Fault], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """The slow way: a body to read, or faults to suffer."""
        try:
            body = await _read(receive)
            reply = await self._suffer(faults, scope, receive) if faults else None
        except ClientGone:
            self._sim.traffic.by_status["none"] += 1
            return
        self._sim.tick()
        reply = reply or self._spoil(route, self._operate(route, grant, body), faults)
        if any(fault.kind == "cut" for fault in faults):
            await self._cut(reply, scope, receive, send)
        elif route.method == "GET":
            await self._answer_poll(route, reply, scope, send)
        else:
            await self._send(reply, send)

    async def _suffer(self, faults: list[Fault], scope: Scope, receive: Receive) -> Reply | None:
        """What happens before the operation: waiting, going away, or an error in its stead."""
        pause = sum(fault.duration for fault in faults if fault.kind == "latency")
        if any(fault.kind == "timeout" for fault in faults):
            await _linger(receive, pause + PATIENCE)
            raise ClientGone
        if pause:
            await _linger(receive, pause)
        if any(fault.kind == "reset" for fault in faults):
            await _hang_up(scope, receive, reset=True)
            raise ClientGone
        status = next((fault.status for fault in faults if fault.status is not None), None)
        if status is None:
            return None
        return refusal(status, f"injected {status}", retry_after=1 if status in (429, 503) else None)

    def _operate(self, route: Route, grant: Grant, body: bytes) -> Reply:
        """The operation itself."""
        try:
            order = self._sim.world.order(route.order_id)
            if not grant.sees(order.user_id):
                raise NotFound(f"there is no order {route.order_id!r}")
            if route.method == "GET":
                return self._read_order(order, route.target)
            if route.target == "chat" and order.ended and self._sim.config.live:
                return refusal(403, "Sending a message is not allowed at this time")
            return Reply(200, msgspec.json.encode(self._write(route, order, body)))
        except NotFound as error:
            return refusal(404, error.detail)
        except InvalidInput as error:
            return refusal(400, error.detail)

    def _read_order(self, order: Order, target: str) -> Reply:
        config = self._sim.config
        if not config.live:
            return Reply(200, order.body(target))
        if config.redacted and target in (connect.LOCATION, MESSAGES):
            return refusal(403, "Shopper PII")
        ended = order.ended and (self._sim.ended_for(order) or 0) > connect.CHAT_HOURS * 3600
        return Reply(200, connect.render(order, target, expired=ended, redacted=config.redacted))

    def _write(self, route: Route, order: Order, body: bytes) -> dict[str, Json]:
        now = self._sim.clock.now()
        if route.target == "replacement":
            item(order, route.item_id)
            given = _object(body)
            if self._sim.config.live:
                connect.check_alternative(given)
            decision = str(given.get("status"))
            self._sim.world.decide(order, route.item_id, decision, now, "customer")
            return {} if self._sim.config.live else {"id": route.item_id, "replacement_status": decision}
        said = self._sim.world.say(order, "customer", _object(body).get("body"), now, "customer")
        return connect.said(order, said) if self._sim.config.live else said

    def _spoil(self, route: Route, reply: Reply, faults: list[Fault]) -> Reply:
        """The faults that change a good poll's answer, in the order given."""
        if reply.status != 200 or route.target not in POLLED:
            return reply
        if self._sim.config.live:  # the others are about the specification's shapes
            faults = [fault for fault in faults if fault.kind not in ("expired-chat", "reorder", "unknown", "skew")]
        status = self._sim.world.order(route.order_id).status
        body, content_type, whole, skew = reply.body, reply.content_type, True, 0.0
        for fault in faults:
            if whole:
                body, content_type, whole = spoil(body, route.target, status, fault, self._sim.dice)
            skew += fault.duration if fault.kind == "skew" else 0.0
        return Reply(200, body, content_type, whole=whole, skew=skew)

    async def _answer_poll(self, route: Route, reply: Reply, scope: Scope, send: Send) -> None:
        at, gone = self._sim.clock.now().wall, _left(scope)
        good = reply.status == 200 and reply.whole
        told = self._told(route, reply) if good else None
        await self._send(self._conditional(reply, scope), send)
        if good and told is not None and not gone:
            resource = HANDLING if route.target == connect.DETAILS else route.target
            self._sim.ledger.served(route.order_id, resource, told, at)

    def _told(self, route: Route, reply: Reply) -> bytes | None:
        """What the answer tells, in the specification's words."""
        if not self._sim.config.live:
            return reply.body
        before = self._sim.ledger.answer(route.order_id, HANDLING)
        return connect.truth(self._sim.world.order(route.order_id), route.target, before)

    def _conditional(self, reply: Reply, scope: Scope) -> Reply:
        """With a validator, or without a body for who has it; compressed for who accepts it."""
        config = self._sim.config
        if reply.status != 200 or not reply.whole or not (config.validators or config.gzip):
            return reply
        headers, body = list(reply.headers), reply.body
        if config.validators:
            tag = b'"%08x"' % zlib.crc32(body)
            headers.append((b"etag", tag))
            if _header(scope, b"if-none-match") == tag:
                return Reply(304, b"", headers=tuple(headers))
        if config.gzip and b"gzip" in _header(scope, b"accept-encoding"):
            headers.append((b"content-encoding", b"gzip"))
            body = gzip.compress(body, mtime=0)
        return replace(reply, body=body, headers=tuple(headers))

    async def _token(self, scope: Scope, receive: Receive, send: Send) -> None:
        now = self._sim.clock.now()
        self._sim.traffic.counted(now.wall, held_up(scope))
        faults = self._sim.faults.draw("token", None, now.wall)
        try:
            body = await _read(receive)
            reply = await self._suffer(faults, scope, receive)
        except ClientGone:
            return
        await self._send(reply or self._issue(scope, body, now.wall), send, counted=False)

    def _issue(self, scope: Scope, body: bytes, now: float) -> Reply:
        if scope["method"] != "POST":
            return refusal(405, "use POST")
        if b"client_" in scope["query_string"]:
            return oauth_refusal(403, "query_params_forbidden", "credentials do not belong into the query string")
        try:
            return Reply(200, msgspec.json.encode(self._sim.tokens.issue(_object(body), now)))
        except Unauthorized as error:
            return oauth_refusal(401, error.code, error.detail)
        except InvalidInput as error:
            return oauth_refusal(400, error.code, error.detail)

    async def _send(self, reply: Reply, send: Send, *, counted: bool = True) -> None:
        if self._sim.config.live and reply.status >= 400:
            reply = _in_live_form(reply)
        if counted:
            self._sim.traffic.by_status[str(reply.status)] += 1
        await send({"type": "http.response.start", "status": reply.status, "headers": self._headers(reply)})
        await send({"type": "http.response.body", "body": reply.body})

    async def _cut(self, reply: Reply, scope: Scope, receive: Receive, send: Send) -> None:
        """Half of the body under the whole one's content-length, then the end of the connection."""
        self._sim.traffic.by_status["none"] += 1
        await send({"type": "http.response.start", "status": reply.status, "headers": self._headers(reply)})
        await send({"type": "http.response.body", "body": reply.body[: len(reply.body) // 2], "more_body": True})
        await _hang_up(scope, receive, reset=False)

    def _headers(self, reply: Reply) -> list[tuple[bytes, bytes]]:
        headers = [
            (b"content-type", reply.content_type),
            (b"content-length", b"%d" % len(reply.body)),
            (b"date", self._now_as_header(reply.skew)),
        ]
        headers += reply.headers
        if reply.retry_after is not None:
            headers.append((b"retry-after", b"%d" % reply.retry_after))
        return headers

    def _now_as_header(self, skew: float) -> bytes:
        """The Date header, formatted once a second."""
        second = int(self._sim.clock.now().wall)
        if skew:
            return formatdate(second + skew, usegmt=True).encode()
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True).encode())
        return self._date[1]


def _in_live_form(reply: Reply) -> Reply:
    try:
        value = msgspec.json.decode(reply.body)
        detail = None if "error_description" in value else value["error"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return reply
    return replace(reply, body=connect.error(reply.status, detail)) if isinstance(detail, str) else reply


def _object(body: bytes) -> dict[str, Json]:
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError:
        value = None
    if not isinstance(value, dict):
        raise InvalidInput("the body must be a JSON object")
    return value


def _header(scope: Scope, name: bytes) -> bytes:
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return b""


async def _read(receive: Receive) -> bytes:
    """The whole request body; what exceeds the limit is dropped, so that it is no JSON."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        if len(body) <= _BODY_LIMIT:
            body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


async def _linger(receive: Receive, seconds: float) -> None:
    """Wait; ClientGone when the client does not. The request's body must have been read."""
    gone = asyncio.ensure_future(receive())
    done, _ = await asyncio.wait({gone}, timeout=seconds)
    if done:
        raise ClientGone
    gone.cancel()


def _transport(scope: Scope) -> asyncio.Transport | None:
    """The connection, when `server` serves it; None in process."""
    transport: asyncio.Transport | None = scope.get("state", {}).get("transport")
    return transport


def _left(scope: Scope) -> bool:
    """Whether the client has gone. Asked before the answer: the server itself closes after one that was the last."""
    transport = _transport(scope)
    return transport is not None and transport.is_closing()


async def _hang_up(scope: Scope, receive: Receive, *, reset: bool) -> None:
    """End the connection, after what was written or at once, and wait until the server has noticed."""
    transport = _transport(scope)
    if transport is None:
        raise ConnectionResetError("the simulator ended this connection")
    if reset:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        transport.abort()
    else:
        transport.close()
    await receive()
