"""Cursors and limits of lists: opaque to the client, checked when they come back."""

import base64
import binascii

from starlette.requests import Request

from relay.errors import InvalidInput, Problem

DEFAULT, MOST = 50, 100


def encode(kind: str, place: str | None) -> str | None:
    """A place in a list as a cursor; `kind` ties it to the list it came from."""
    return None if place is None else base64.urlsafe_b64encode(f"{kind}:{place}".encode()).decode().rstrip("=")


def decode(kind: str, cursor: str, pointer: str = "after") -> str:
    """The place. Raises InvalidInput (`invalid_cursor`) for one that was altered or is another list's."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    found, _, place = text.partition(":")
    if found != kind or not place or encode(kind, place) != cursor or not _plausible(kind, place):
        detail = "not a cursor of this list"
        raise InvalidInput(detail, code="invalid_cursor", problems=[Problem(pointer, "invalid_cursor", detail)])
    return place


def _plausible(kind: str, place: str) -> bool:
    if kind in ("event", "delivery", "audit"):
        ms, _, number = place.partition("-")
        return _counts(ms) and _counts(number)
    if kind == "order":
        return _counts(place.partition("/")[0])
    return place.isascii()


def _counts(text: str) -> bool:
    """A whole number that Redis takes for half of a stream id, and for a score without rounding."""
    return text.isascii() and text.isdigit() and int(text[:20]) < 2**53


def limit(request: Request) -> int:
    """`limit` of a list request. Raises InvalidInput."""
    text = request.query_params.get("limit", str(DEFAULT))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST):
        detail = f"limit is a whole number from 1 to {MOST}"
        raise InvalidInput(detail, code="invalid_limit", problems=[Problem("limit", "invalid_limit", detail)])
    return int(text)


def page(request: Request, kind: str) -> tuple[str | None, int]:
    """`after` and `limit` of a list request. Raises InvalidInput."""
    after = request.query_params.get("after")
    return (None if after is None else decode(kind, after)), limit(request)
