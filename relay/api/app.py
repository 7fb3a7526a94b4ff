"""The application: routes from the table, and the steps every request goes through.

request id ▸ log line and metrics ▸ problems ▸ rate of the address ▸ key ▸ its rate ▸ scope ▸ body ▸ idempotency ▸
handler ▸ audit log
"""

import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from urllib.parse import quote, unquote

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay import metrics
from relay.api import audit, bodies, limits
from relay.api.deps import Call, Deps, Reply
from relay.api.observability import PROBES, probes
from relay.api.problems import problem
from relay.api.routes import OPERATIONS, OPERATOR, Operation
from relay.errors import (
    STORE_FULL,
    Forbidden,
    InvalidInput,
    NotFound,
    RateLimited,
    RelayError,
    StoreUnavailable,
    Unauthorized,
)
from relay.store import keys
from relay.store.idempotency import Remembered
from relay.store.retailers import Caller
from relay.tracing import Tracing
from relay.vitals import Vitals

#: Codes of what is refused before it is looked at; limits are counted where they are spent.
_REJECTED = {"unauthorized": "auth", "body_too_large": "size", "store_unavailable": "redis"}
_CLASSES = {number: f"{number}xx" for number in range(1, 6)}
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FREEING = ("GET", "DELETE")
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def create_app(deps: Deps, vitals: Vitals | None = None) -> ASGIApp:
    """The API over a process's clients."""
    vitals = vitals or Vitals(deps.db)
    addresses = limits.Addresses(deps.settings.api_rate_ip)
    routes = [
        Route(_pattern(o), _endpoint(deps, vitals, addresses, o), methods=[o.method]) for o in _merged(OPERATIONS)
    ]
    app = Starlette(
        routes=[*routes, *probes(vitals)],
        exception_handlers={HTTPException: _http_error, Exception: _defect},
    )
    return Observed(app, vitals, deps.tracing)


def _merged(operations: tuple[Operation, ...]) -> list[Operation]:
    """Fixed paths before those with parameters, so that `/v1/orders/bulk` is no order."""
    return sorted(operations, key=lambda operation: "{" in operation.path)


class _Segment(Convertor[str]):
    """One segment of a path as it was sent: ids are upstream's, and what is a slash in one is quoted."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        return unquote(value)

    def to_string(self, value: str) -> str:
        return quote(value, safe="")


register_url_convertor("segment", _Segment())


def _pattern(operation: Operation) -> str:
    return operation.path.replace("}", ":segment}")


def _endpoint(
    deps: Deps, vitals: Vitals, addresses: limits.Addresses, operation: Operation
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        request_id: str = request.scope["state"]["request_id"]
        request.scope["state"]["route"] = operation.path
        headers: dict[str, str] = {}
        try:
            if vitals.redis_away:  # at once: a Redis that hangs would hold the request for seconds
                raise StoreUnavailable("the store is not available; try again")
            caller, headers = await _admitted(deps, addresses, request)
            response = await _answer(Call(deps, caller, request, None), operation)
        except ClientDisconnect:
            return Response(status_code=499)
        except RelayError as error:
            if error.code in _REJECTED:
                metrics.http_rejected.labels(_REJECTED[error.code]).inc()
            response = problem(error, request_id)
        response.headers.update(headers)
        return response

    return endpoint


async def _admitted(deps: Deps, addresses: limits.Addresses, request: Request) -> tuple[Caller, dict[str, str]]:
    """Who asks, and the headers that tell of its limits."""
    try:
        addresses.check(limits.peer(request))
        caller = await _authenticate(deps, request)
        return caller, await limits.spend(deps, caller)
    except RateLimited:
        metrics.http_rejected.labels("rate").inc()
        raise


async def _authenticate(deps: Deps, request: Request) -> Caller:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized("send Authorization: Bearer KEY")
    caller = await deps.retailers.authenticate(key.strip())
    request.scope["state"] |= {"retailer_id": caller.retailer_id, "key_id": caller.key_id}
    return caller


def _permit(caller: Caller, operation: Operation) -> None:
    if operation.scope == OPERATOR:
        if caller.kind != "operator":
            raise Forbidden("only an operator's key may do this", code="operator_only")
    elif operation.scope is not None:
        if caller.kind == "operator":
            raise Forbidden("this takes a retailer's key", code="retailer_only")
        if operation.scope not in caller.scopes:
            raise Forbidden(f"the key lacks the scope {operation.scope}", code="missing_scope")


def _admit(call: Call, operation: Operation) -> None:
    """What would fill a nearly full Redis further waits; reading, deleting and disabling go on."""
    if call.deps.pressure.shedding and operation.method not in _FREEING and operation.name != "disableSubscription":
        metrics.http_rejected.labels("overload").inc()
        raise StoreUnavailable("the store is nearly full: nothing new is taken", code=STORE_FULL)


async def _answer(call: Call, operation: Operation) -> Response:
    """Permit, read, do, and write down what was done or refused where the operation is one that is audited."""
    try:
        _permit(call.caller, operation)
    except Forbidden as error:
        await audit.denied(call, operation.name, error.code)
        raise
    _admit(call, operation)
    try:
        raw = await bodies.read(call.request, operation.limit) if operation.body is not None else b""
        body = bodies.parse(raw, operation.body) if operation.body is not None else None
        return await _answer_once(replace(call, body=body), operation, raw)
    except StoreUnavailable as error:
        if error.code == STORE_FULL:
            call.deps.pressure.refused()
        raise
    except RelayError as error:
        if operation.audit is not None:
            await audit.done(call, operation.audit, error.code)
        raise


async def _answer_once(call: Call, operation: Operation, raw: bytes) -> Response:
    """Run the handler, or repeat the answer that an earlier request with the same Idempotency-Key got."""
    request, answers = call.request, call.deps.idempotency
    key = request.headers.get("idempotency-key") if request.method == "POST" else None
    if key is None:
        return await _done(call, operation)
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidInput("an Idempotency-Key has 1 to 255 printable characters", code="bad_request")
    scope = (call.caller.key_id, request.method, request.url.path, key)
    known = await answers.begin(*scope, raw)
    if known is not None:
        return Response(known.body, known.status, {"idempotency-replayed": "true"}, "application/json")
    try:
        response = await _done(call, operation)
    except BaseException:
        await answers.forget(*scope)
        raise
    answer = Remembered(response.status_code, bytes(response.body))
    await answers.finish(*scope, raw, answer, about=_about(call))
    return response


async def _done(call: Call, operation: Operation) -> Response:
    reply = await operation.handler(call)
    if operation.audit is not None:
        await audit.done(call, operation.audit, "ok", reply.value)
    return _response(reply)


def _about(call: Call) -> str | None:
    """Where an answer is listed that shows an order, so that a purge of the order finds it."""
    order_id = call.request.path_params.get("order_id") or getattr(call.body, "order_id", None)
    if order_id is None or call.caller.retailer_id is None:
        return None
    return keys.answers(call.caller.retailer_id, order_id)


def _response(reply: Reply) -> Response:
    if reply.status == 204:
        return Response(status_code=204, headers=reply.headers)
    content = reply.raw if reply.raw is not None else msgspec.json.encode(reply.value)
    return Response(content, reply.status, reply.headers, "application/json")


def _methods(path: str) -> list[str]:
    """What a path can be asked. The router itself names the methods of the first route that fits only."""
    fits = [o for o in OPERATIONS if compile_path(_pattern(o))[0].fullmatch(path)]
    return sorted({o.method for o in fits} | {"HEAD" for o in fits if o.method == "GET"}) or ["GET", "HEAD"]


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    request_id: str = request.scope["state"]["request_id"]
    if error.status_code == 405:
        response = problem(InvalidInput("this path has other methods", code="method_not_allowed"), request_id)
        response.headers["allow"] = ", ".join(_methods(request.url.path))
        return response
    return problem(NotFound("no such path"), request_id)


async def _defect(request: Request, error: Exception) -> Response:
    structlog.get_logger("relay.api").error("request.failed", exc_info=error)
    return problem(
        RelayError("the relay failed; the request id finds the reason"), request.scope["state"]["request_id"]
    )


def _group(route: str | None) -> str:
    """The first part of a path after the version: a dozen of them, where routes are sixty."""
    return "other" if route is None else route.removeprefix("/v1/").strip("/").partition("/")[0]


class Observed:
    """Request id, one log line, the metrics and the span of each request, whatever becomes of it."""

    def __init__(self, app: ASGIApp, vitals: Vitals, tracing: Tracing) -> None:
        self._app = app
        self._vitals = vitals
        self._tracing = tracing
        self._log = structlog.get_logger("relay.api")
        self._methods = {"GET", "HEAD", *(operation.method for operation in OPERATIONS)}
        for operation in OPERATIONS:
            for status_class in ("2xx", "5xx"):  # what a ratio of errors is made of begins at 0
                metrics.http_requests.labels(operation.path, operation.method, status_class)
            metrics.http_duration.labels(_group(operation.path))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        scope = {**scope, "path": scope.get("raw_path", b"").decode("latin-1") or quote(scope["path"])}
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else "req_" + secrets.token_hex(10)
        state = scope["state"] = {**scope.get("state", {}), "request_id": request_id}
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        self._vitals.entered()
        try:
            answering = self._refuse if self._vitals.draining.is_set() else self._app
            if not self._tracing.on:
                await answering(scope, receive, sending)
                return
            with self._tracing.request(scope["method"], headers.get(b"traceparent", b"").decode("latin-1")) as span:
                try:
                    await answering(scope, receive, sending)
                finally:
                    about = {"route": state.get("route") or "other", "retailer_id": state.get("retailer_id")}
                    span.tell(well=status < 500, status=status, **about)
        finally:
            self._vitals.left()
            self._told(scope, state.get("route"), status, time.perf_counter() - began)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        metrics.http_rejected.labels("draining").inc()
        error = RelayError("this process is about to end: send the request again", code="draining")
        response = problem(error, scope["state"]["request_id"])
        response.headers["connection"] = "close"
        await response(scope, receive, send)

    def _told(self, scope: Scope, route: str | None, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in self._methods else "other"  # a client may send any word
        metrics.http_requests.labels(route or "other", method, _CLASSES.get(status // 100, "other")).inc()
        metrics.http_duration.labels(_group(route)).observe(seconds)
        self._log.info(
            "request.served",
            method=method,
            route=route or "other",
            status=status,
            duration_ms=round(seconds * 1000, 2),
            request_id=scope["state"]["request_id"],
            retailer_id=scope["state"].get("retailer_id"),
            key_id=scope["state"].get("key_id"),
        )
