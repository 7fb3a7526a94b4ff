"""Traces, where RELAY_TRACING asks for them: one from the poll that found a change to every attempt to deliver it.

    poll ─┬─ fetch
          ├─ detect
          ├─ commit ─── traceparent, in the event's entry in the log ───┐
          ├─ attempt 1                                                  │
          └─ attempt 2 ◀────────────────────────────────────────────────┘

Without RELAY_TRACING nothing of OpenTelemetry is imported and `OFF` stands here: a hot path asks it for `on`, no more.
Spans tell ids that the relay made, types, counts and outcomes. No URL, no order and no text of anybody's: traces are
kept by others, where no purge reaches them.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Self

from relay import __version__
from relay.errors import InvalidSettings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan

#: How long the last spans may take to leave when a process ends (seconds): a collector that is away stops nobody.
CLOSE_WITHIN = 5.0
_EXTRA = (
    "RELAY_TRACING=1 needs the extra `tracing`, OpenTelemetry, which is not installed here:"
    " pip install 'post-checkout-relay[tracing]', or use the image, which has it"
)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_current: ContextVar[str] = ContextVar("relay_traceparent", default="")


def current() -> str:
    """The `traceparent` of the unit of work at hand, empty where it is not traced: what is committed carries it on."""
    return _current.get()


# ── off ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Span:
    """Part of a trace while it is entered. `traceparent` is for the receiver; empty: it is told nothing."""

    traceparent = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        return None

    def tell(self, *, well: bool = True, **attributes: str | int | None) -> None:
        """What came of it; None tells nothing."""


class Poll(Span):
    """A poll whose answer is not the committed one. It becomes a span with the first commit, or never."""

    @contextmanager
    def commit(self, event_types: Sequence[str]) -> Iterator[Span]:
        """Around one try to commit."""
        yield _NO_SPAN


class Tracing:
    """The null object."""

    on = False

    def poll(self, retailer_id: str, resource: str, fetch_ms: float | None) -> Poll:
        """`fetch_ms`: how long the request took that has just been answered; None where there was none."""
        return _NO_POLL

    def attempt(self, trace: str, **about: str | int) -> Span:
        """One attempt to deliver an event with the `traceparent` of its entry."""
        return _NO_SPAN

    def request(self, method: str, trace: str) -> Span:
        """A request to the API with its header `traceparent`."""
        return _NO_SPAN

    def close(self) -> None:
        """Send what is left."""


_NO_SPAN, _NO_POLL = Span(), Poll()
OFF = Tracing()


def require() -> None:
    """See that tracing could be opened, before anything waits or starts. Raises InvalidSettings."""
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace.export  # noqa: F401
    except ImportError as error:
        raise InvalidSettings(f"{_EXTRA} ({error})") from None
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if os.environ.get(name, "http/protobuf") != "http/protobuf":
            raise InvalidSettings(f"{name}: the relay exports traces as http/protobuf only")


def open_tracing(*, on: bool, receivers: bool) -> Tracing:
    """Tracing as the settings want it; exporter, sampler and resource as OTEL_* say. Raises InvalidSettings."""
    if not on:
        return OFF
    require()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    try:
        resource = Resource({"service.name": "post-checkout-relay", "service.version": __version__})
        provider = TracerProvider(resource=resource.merge(Resource.create()), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except ValueError as error:
        raise InvalidSettings(f"a setting of OpenTelemetry (OTEL_...) cannot be used: {error}") from None
    return OpenTelemetry(provider, receivers=receivers)


# ── on ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


class OpenTelemetry(Tracing):
    """Tracing with OpenTelemetry's SDK. `receivers`: they are sent the header `traceparent`."""

    on = True

    def __init__(self, provider: "TracerProvider", *, receivers: bool = False) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.api = trace
        self.nowhere: Callable[[], Context] = Context
        self.tracer = provider.get_tracer("relay", __version__)
        self._provider = provider
        self._receivers = receivers
        self._format = TraceContextTextMapPropagator()

    def poll(self, retailer_id: str, resource: str, fetch_ms: float | None) -> Poll:
        return _Poll(self, {"relay.retailer_id": retailer_id, "relay.resource": resource}, fetch_ms)

    def attempt(self, trace: str, **about: str | int) -> Span:
        attributes = {f"relay.{name}": value for name, value in about.items()}
        span = self.tracer.start_span(
            "attempt", self._from(trace), kind=self.api.SpanKind.CLIENT, attributes=attributes
        )
        carried = self.traceparent(span)
        return _Span(self, span, carried, carried if self._receivers else "")

    def request(self, method: str, trace: str) -> Span:
        about = {"http.request.method": method if method in _METHODS else "_OTHER"}
        span = self.tracer.start_span("request", self._from(trace), kind=self.api.SpanKind.SERVER, attributes=about)
        return _Span(self, span, self.traceparent(span))

    def close(self) -> None:
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_WITHIN)

    def traceparent(self, span: "OtelSpan") -> str:
        carrier: dict[str, str] = {}
        self._format.inject(carrier, self.within(span))
        return carrier.get("traceparent", "")

    def within(self, span: "OtelSpan") -> "Context":
        return self.api.set_span_in_context(span, self.nowhere())

    def _from(self, trace: str) -> "Context":
        """Below the span that a `traceparent` names; a trace of its own where it names none."""
        return self._format.extract({"traceparent": trace}, self.nowhere())


class _Span(Span):
    def __init__(self, tracing: OpenTelemetry, span: "OtelSpan", carried: str, told: str = "") -> None:
        """`carried` is what is committed meanwhile keeps, `told` what the receiver is told."""
        self.traceparent = told
        self._api = tracing.api
        self._span = span
        self._carried = carried
        self._before: Token[str] | None = None

    def __enter__(self) -> Self:
        self._before = _current.set(self._carried)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._before is not None:
            _current.reset(self._before)
        if kind is not None:  # its name only: what an exception says may hold anything
            self._span.set_attribute("error.type", kind.__name__)
            self._span.set_status(self._api.StatusCode.ERROR)
        self._span.end()

    def tell(self, *, well: bool = True, **attributes: str | int | None) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(_NAMES.get(name) or f"relay.{name}", value)
        if "route" in attributes:
            self._span.update_name(f"request {attributes['route']}")
        if not well:
            self._span.set_status(self._api.StatusCode.ERROR)


#: Attributes that OpenTelemetry has a name for.
_NAMES = {"status": "http.response.status_code", "route": "http.route"}


class _Poll(Poll):
    def __init__(self, tracing: OpenTelemetry, about: dict[str, str], fetch_ms: float | None) -> None:
        self._tracing = tracing
        self._about = about
        self._fetched = fetch_ms is not None
        self._mark = time.time_ns()
        self._began = self._mark - round((fetch_ms or 0) * 1e6)
        self._root: _Span | None = None
        self._span: OtelSpan | None = None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._root is not None:
            self._root.__exit__(kind, error, _)

    @contextmanager
    def commit(self, event_types: Sequence[str]) -> Iterator[Span]:
        tracing = self._tracing
        if self._span is None:
            self._span = tracing.tracer.start_span(
                "poll", tracing.nowhere(), attributes=self._about, start_time=self._began
            )
            self._root = _Span(tracing, self._span, "")
            if self._fetched:
                self._past("fetch", self._began, self._mark)
        self._past("detect", self._mark, time.time_ns())
        self._span.set_attribute("relay.event_types", event_types)
        span = tracing.tracer.start_span("commit", tracing.within(self._span))
        with _Span(tracing, span, tracing.traceparent(self._span)) as committing:
            yield committing
        self._mark = time.time_ns()

    def _past(self, name: str, began: int, ended: int) -> None:
        assert self._span is not None
        within = self._tracing.within(self._span)
        self._tracing.tracer.start_span(name, within, start_time=began).end(ended)
