"""Spans: OpenTelemetry's where an exporter is configured, and otherwise nothing at all.

The SDK is imported only when there is somebody to send to.  OTLP over HTTP is written here, in its JSON form; OTLP over
gRPC and Jaeger need their exporter's package to be installed beside us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from aerodrome.stdlib.config import TelemetryConfig
from aerodrome.stdlib.errors import FailedPrecondition

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.sampling import Sampler

AttributeValue = str | bool | int | float

EXPORTERS: Mapping[str, tuple[str, str]] = {
    "otlpgrpc": ("otlp_proto_grpc", "opentelemetry-exporter-otlp-proto-grpc"),
    "jaeger": ("jaeger_thrift", "opentelemetry-exporter-jaeger-thrift"),
}
"""For a value of `otel.type`, the entry point of its exporter and the package that has it."""


class Span(Protocol):
    """Something that takes time and may have parts."""

    def set_attribute(self, key: str, value: AttributeValue) -> None: ...

    def add_event(self, name: str, attributes: Mapping[str, AttributeValue] | None = None) -> None: ...


class Tracing(Protocol):
    """Makes spans."""

    def span(
        self, name: str, attributes: Mapping[str, AttributeValue], parent: Mapping[str, str] | None
    ) -> AbstractContextManager[Span]: ...

    def carried(self) -> Mapping[str, str]: ...

    def close(self) -> None: ...


class NoTracing:
    """Makes spans that nobody sees, at next to no cost."""

    def span(
        self, name: str, attributes: Mapping[str, AttributeValue], parent: Mapping[str, str] | None
    ) -> AbstractContextManager[Span]:
        return _NOTHING

    def carried(self) -> Mapping[str, str]:
        return {}

    def close(self) -> None:
        return


class _Nothing:
    """A span and its context manager in one, shared by everybody."""

    __slots__ = ()

    def __enter__(self) -> Span:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        return

    def add_event(self, name: str, attributes: Mapping[str, AttributeValue] | None = None) -> None:
        return


_NOTHING = _Nothing()


class SdkTracing:
    """Makes OpenTelemetry's spans and hands them to an exporter, from a thread of its own."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("aerodrome")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(
        self, name: str, attributes: Mapping[str, AttributeValue], parent: Mapping[str, str] | None
    ) -> Iterator[Span]:
        context = None if parent is None else self._propagator.extract(dict(parent))
        with self._tracer.start_as_current_span(name, context=context, attributes=dict(attributes)) as span:
            yield span

    def carried(self) -> Mapping[str, str]:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier

    def close(self) -> None:
        self._provider.shutdown()


def make_tracing(config: TelemetryConfig, exporter: SpanExporter | None) -> Tracing:
    """The tracing that `config` asks for, or one that hands its spans to `exporter`.

    Raises FailedPrecondition if the exporter's package is not installed, or its file cannot be opened.
    """
    if exporter is None and config.type == "noop":
        return NoTracing()
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(
        resource=Resource.create({"service.name": config.service_name}),
        sampler=_sampler(config),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(exporter or _exporter(config)))
    return SdkTracing(provider)


def _sampler(config: TelemetryConfig) -> Sampler:
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased

    if config.sampler.parent_sampler == "always":
        return ParentBased(ALWAYS_ON)
    return ParentBased(TraceIdRatioBased(config.sampler.trace_id_ratio))


def _exporter(config: TelemetryConfig) -> SpanExporter:
    match config.type:
        case "file":
            from aerodrome.stdlib.telemetry.otlp import FileSpanExporter

            return FileSpanExporter(config.file.filename)
        case "otlphttp":
            from aerodrome.stdlib.telemetry.otlp import HttpSpanExporter

            return HttpSpanExporter(config.otlphttp.endpoint)
    from importlib.metadata import entry_points

    name, package = EXPORTERS[config.type]
    found = next(iter(entry_points(group="opentelemetry_traces_exporter", name=name)), None)
    if found is None:
        raise FailedPrecondition(f"otel.type {config.type} needs the package {package}; install it, or use otlphttp")
    make: Callable[..., SpanExporter] = found.load()
    endpoint = config.jaeger.endpoint if config.type == "jaeger" else config.otlpgrpc.endpoint
    return make(collector_endpoint=endpoint) if config.type == "jaeger" else make(endpoint=endpoint)
