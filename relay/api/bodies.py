"""Request bodies: counted while they stream in, strictly read, validated by the type that documents them."""

import json
import re
from typing import Any, NoReturn

import msgspec
from starlette.requests import Request

from relay.errors import InvalidInput, Problem

#: Bytes a body may have; a bulk registration more.
LIMIT = 64 * 1024
BULK_LIMIT = 2 * 1024 * 1024
_DEPTH = 32
_AT = re.compile(r" - at `\$(.*)`$")


async def read(request: Request, limit: int) -> bytes:
    """The body. Raises InvalidInput for compressed, mistyped and oversized ones, however they are framed."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise InvalidInput("send the body uncompressed", code="unsupported_media_type")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise InvalidInput(f"a body here has at most {limit} bytes", code="body_too_large")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise InvalidInput(f"a body here has at most {limit} bytes", code="body_too_large")
    if body:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise InvalidInput("send content-type: application/json", code="unsupported_media_type")
    return bytes(body)


def parse(raw: bytes, shape: type[Any]) -> Any:
    """A body as its type. Raises InvalidInput: 400 for what is no strict JSON, 422 for what does not fit."""
    value = _strict(raw or b"{}")
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        text = str(error)
        where = _AT.search(text)
        pointer = _pointer(where[1]) if where else ""
        detail = _AT.sub("", text)
        unknown = re.search(r"unknown field `(.*)`", detail)
        missing = re.search(r"missing required field `(.*)`", detail)
        code = "unknown_field" if unknown else "missing_field" if missing else "invalid_value"
        named = unknown or missing
        if named:
            pointer = f"{pointer}/{named[1]}"
        raise InvalidInput(detail, code=code, problems=[Problem(pointer or "", code, detail)]) from None


def _strict(raw: bytes) -> Any:
    """JSON without duplicate keys, NaN, byte-order marks, lone surrogates or excessive depth."""

    def refuse(detail: str) -> NoReturn:
        raise InvalidInput(detail, code="malformed_json")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            refuse("a key stands twice in one object")
        return found

    if raw.startswith(b"\xef\xbb\xbf"):
        refuse("the body begins with a byte-order mark")
    try:
        text = raw.decode("utf-8")
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=lambda name: refuse(f"{name} is not JSON"))
        _check(value, 0)
    except RecursionError:
        refuse("the body is nested too deeply")
    except UnicodeError:
        refuse("the body is not valid UTF-8")
    except ValueError as error:
        refuse(f"the body is not JSON: {str(error)[:120]}")
    return value


def _check(value: Any, depth: int) -> None:
    if depth > _DEPTH:
        raise RecursionError
    if isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check(key, depth + 1)
            _check(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, depth + 1)


def _pointer(path: str) -> str:
    """`.items[2].name` as a JSON pointer."""
    return re.sub(r"\[(\d+|\.\.\.)\]", r"/\1", path).replace(".", "/") if path else ""
