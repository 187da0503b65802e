"""What the platform tells about itself: metrics, spans, and how free the event loop is.

    telemetry = Telemetry(config)
    created = telemetry.metrics.counter("flyte:admin:executions_created", labels=("project", "domain"))
    created.add(1, project="flytesnacks", domain="development")
    with telemetry.span("append", execution=name):
        ...

Metrics are counted here rather than by the OpenTelemetry SDK, whose counters take 11 microseconds per addition on the
machine where ours take one, know no bound for labels, and have no quantiles.  They are read as Prometheus text
(`render`) and, where OTLP is configured, pushed under their dotted names.  Spans are OpenTelemetry's own.  Unless the
`otel` section names an exporter, the SDK is not even imported, and nothing is sent.
"""

from aerodrome.stdlib.telemetry.looplag import LoopLag
from aerodrome.stdlib.telemetry.metrics import (
    BoundCounter,
    BoundHistogram,
    BoundStopWatch,
    Counter,
    Gauge,
    Histogram,
    Metrics,
    StopWatch,
)
from aerodrome.stdlib.telemetry.service import Telemetry
from aerodrome.stdlib.telemetry.tracing import Span

__all__ = [
    "BoundCounter",
    "BoundHistogram",
    "BoundStopWatch",
    "Counter",
    "Gauge",
    "Histogram",
    "LoopLag",
    "Metrics",
    "Span",
    "StopWatch",
    "Telemetry",
]
