"""The OpenAPI 3.1 document, made from the table of operations and the types that validate."""

import re
from typing import Any

import msgspec

from relay import __version__
from relay.api.routes import OPERATIONS, OPERATOR, Operation
from relay.model import catalogue

_ERRORS = {
    "400": "Not JSON, or not readable",
    "401": "No key, or not a known one",
    "403": "The key lacks the scope",
    "404": "Nothing of that name here",
    "409": "Not in this state",
    "410": "It was purged",
    "413": "The body is too large",
    "415": "Not uncompressed application/json",
    "429": "Too many requests; Retry-After says when to come again",
    "422": "The input cannot be accepted; `errors` says where",
    "500": "The relay failed; the request id finds the reason",
    "502": "The upstream refused, or did not answer",
    "503": "The store is not available",
}


def document() -> dict[str, Any]:
    """The whole document."""
    types = [operation.body for operation in OPERATIONS if operation.body is not None]
    types += [kind for operation in OPERATIONS for _, kind, _ in operation.answers if kind is not None]
    shapes = [kind for kind in dict.fromkeys(types) if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    references, components = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    by_type = dict(zip(shapes, references, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, by_type)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "The relay",
            "version": __version__,
            "description": "Change notifications for Post-Checkout orders: track orders, subscribe URLs, pull events.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"key": []}],
        "paths": paths,
        "webhooks": {kind.name: _webhook(kind) for kind in catalogue.EVENT_TYPES.values()},
        "components": {
            "schemas": {**components, "Problem": _PROBLEM},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "`rly_...`"}},
        },
    }


def _operation(operation: Operation, by_type: dict[Any, Any]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    parameters += [
        {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
        for name, text in operation.query
    ]
    if operation.method == "POST":
        text = "Sent again with the same key, the request is answered again, not done again."
        parameters.append(
            {"name": "Idempotency-Key", "in": "header", "description": text, "schema": {"type": "string"}}
        )
    answers: dict[str, Any] = {}
    for status, kind, paged in operation.answers:
        answers[str(status)] = {"description": operation.summary}
        if kind is not None:
            content = {"schema": _answer(by_type.get(kind, {"type": "object"}), paged)}
            answers[str(status)]["content"] = {"application/json": content}
    for code, text in _ERRORS.items():
        answers[code] = {
            "description": text,
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    described = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": _needs(operation.scope),
        "parameters": parameters,
        "responses": answers,
    }
    if operation.body is not None:
        described["requestBody"] = {"content": {"application/json": {"schema": by_type[operation.body]}}}
    return described


def _answer(schema: dict[str, Any], paged: bool) -> dict[str, Any]:
    if not paged:
        return schema
    return {
        "type": "object",
        "properties": {"data": {"type": "array", "items": schema}, "next": {"type": ["string", "null"]}},
        "required": ["data", "next"],
    }


def _needs(scope: str | None) -> str:
    if scope is None:
        return "Needs any key."
    return "Needs an operator's key." if scope == OPERATOR else f"Needs the scope `{scope}`."


def _webhook(kind: catalogue.EventType) -> dict[str, Any]:
    schema = {name: value for name, value in kind.schema.items() if name != "$schema"}
    content = {"application/json": {"schema": schema, "example": kind.sample}}
    answers = {"2XX": {"description": "Received. Anything else is tried again."}}
    return {
        "post": {
            "operationId": "on" + "".join(part.capitalize() for part in re.split(r"[._]", kind.name)),
            "summary": kind.description,
            "requestBody": {"content": content},
            "responses": answers,
        }
    }


_PROBLEM = {
    "type": "object",
    "description": "RFC 9457, with a stable `code`.",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "code", "detail"],
                "properties": {name: {"type": "string"} for name in ("pointer", "code", "detail")},
            },
        },
    },
}
