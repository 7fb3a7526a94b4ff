"""What a traced run told: the SDK's own memory exporter, and a collector on a real socket."""

from collections.abc import Sequence
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from relay.tracing import OpenTelemetry


class Traced:
    """Tracing into memory. `tracing` is for what is traced."""

    def __init__(self, *, receivers: bool = False, sampler: Sampler | None = None) -> None:
        self._memory = InMemorySpanExporter()
        provider = TracerProvider(sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._memory))
        self.tracing = OpenTelemetry(provider, receivers=receivers)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """All that ended, oldest first."""
        return self._memory.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]


def trace_of(span: ReadableSpan) -> int:
    return int(span.context.trace_id)


def traceparent(span: ReadableSpan) -> str:
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


class Collector:
    """An ASGI app that takes what an OTLP exporter sends; `spans` as (service, span)."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        assert scope["path"] == "/v1/traces"
        for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = next(a.value.string_value for a in sent.resource.attributes if a.key == "service.name")
            self.spans += [(service, span) for scoped in sent.scope_spans for span in scoped.spans]
        headers = [(b"content-type", b"application/x-protobuf"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
