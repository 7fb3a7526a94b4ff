"""Structured logs: one wide line per unit of work, static event names, ids as fields, secrets never."""

import logging
import sys
from collections.abc import MutableMapping
from functools import cache
from typing import Any

import structlog
from prometheus_client import Counter

from relay import metrics

_SECRET_WORDS = ("secret", "token", "authorization", "password", "master_key", "api_key", "assertion")
_HARMLESS = frozenset({"token_revision"})


def configure(log_format: str, log_level: str) -> None:
    """Send structlog, and the standard library's loggers, to standard error in one format."""
    level = logging.getLevelNamesMapping()[log_level.upper()]
    renderer: Any = structlog.processors.JSONRenderer()
    if log_format == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        count,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]
    formatting = [structlog.processors.format_exc_info] if log_format == "json" else []
    structlog.configure(
        processors=[*shared, *formatting, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *formatting, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("arq", "arq.worker", "httpx", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # uvicorn warns of whatever a stranger sends that is no request, and says neither who nor what.
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("uvicorn.access").disabled = True


def count(_: Any, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Count the line by its level. What is below RELAY_LOG_LEVEL never comes here."""
    _lines(fields["level"]).inc()
    return fields


@cache
def _lines(level: str) -> Counter:
    return metrics.log_lines.labels(level)


def redact(_: Any, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Hide the values of fields that are named like secrets: the last line of defence, not the first."""
    for name in fields:
        if name not in _HARMLESS and any(word in name.lower() for word in _SECRET_WORDS):
            fields[name] = "[hidden]"
    return fields
