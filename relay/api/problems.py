"""Errors as problem documents (RFC 9457) with stable codes."""

import math
from typing import Any

import msgspec
from starlette.responses import Response

from relay.errors import (
    STORE_FULL,
    Conflict,
    Forbidden,
    Gone,
    InvalidInput,
    NotFound,
    RateLimited,
    RelayError,
    StoreUnavailable,
    Unauthorized,
    UpstreamRefused,
)

_STATUS: tuple[tuple[type[RelayError], int, str], ...] = (
    (InvalidInput, 422, "The input cannot be accepted"),
    (NotFound, 404, "Not found"),
    (Gone, 410, "Gone"),
    (Conflict, 409, "Conflict"),
    (Unauthorized, 401, "Unauthorized"),
    (Forbidden, 403, "Forbidden"),
    (RateLimited, 429, "Too many requests"),
    (StoreUnavailable, 503, "The store is not available"),
    (UpstreamRefused, 502, "The upstream refused"),
)
#: Codes whose status differs from that of their class.
_BY_CODE = {
    "malformed_json": (400, "The body is not JSON"),
    "bad_request": (400, "The request cannot be read"),
    "unsupported_media_type": (415, "Unsupported media type"),
    "body_too_large": (413, "The body is too large"),
    "draining": (503, "This process is about to end"),
    "method_not_allowed": (405, "Method not allowed"),
}
#: Seconds after which a client may come again when the store is away.
RETRY_AFTER = 2
#: The same when it is full: memory is freed by retention, or by people.
RETRY_AFTER_FULL = 10


def problem(error: RelayError, request_id: str) -> Response:
    """The answer to a request that ended in `error`."""
    status, title = _BY_CODE.get(error.code) or next(
        ((status, title) for kind, status, title in _STATUS if isinstance(error, kind)), (500, "Internal error")
    )
    if isinstance(error, UpstreamRefused) and error.status in (400, 401, 403, 404, 409):
        status = {401: 409, 403: 409}.get(error.status, error.status)
    if isinstance(error, UpstreamRefused) and error.status == 429:
        status = 429
    detail = error.detail
    if isinstance(error, StoreUnavailable):
        away = "the store is not available; try again"
        detail = "the store is nearly full; try again later" if error.code == STORE_FULL else away
    document: dict[str, Any] = {
        "type": f"about:blank#{error.code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": error.code,
        "request_id": request_id,
    }
    if error.problems:
        document["errors"] = [{"pointer": p.pointer, "code": p.code, "detail": p.detail} for p in error.problems]
    headers = {}
    if status == 503:
        headers["retry-after"] = str(RETRY_AFTER_FULL if error.code == STORE_FULL else RETRY_AFTER)
    if isinstance(error, RateLimited):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    elif status == 429:
        headers["retry-after"] = str(RETRY_AFTER)
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(msgspec.json.encode(document), status, headers, "application/problem+json")
