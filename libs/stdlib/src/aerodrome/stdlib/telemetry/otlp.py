"""OTLP over HTTP in its JSON form: spans and metrics as documents, and where they are sent or written.

Imported only where an exporter is configured.  Metrics go out under the dotted names of the platform's published schema
(`propeller.all.node.queueing-latency-ms`); `otlp_name` is the one table that maps them.  Everything here blocks.
Source: opentelemetry-proto's JSON mapping (identifiers in hex, 64-bit numbers as text).
"""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from aerodrome.stdlib.errors import FailedPrecondition, InvalidArgument
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.telemetry.metrics import QUANTILES, AnyMetric, Counter, Gauge, Histogram, Sample

SEND_SECONDS = 10.0

NAMES: Mapping[str, str] = {
    "propeller:*:workflow:acceptance_latency_ms": "propeller.*.workflow.acceptance-latency-ms",
    "propeller:*:workflow:completion_latency_ms": "propeller.*.workflow.completion-latency-ms",
    "propeller:*:node:queueing_latency_ms": "propeller.*.node.queueing-latency-ms",
    "propeller:*:node:transition_latency_ms": "propeller.*.node.transition-latency-ms",
    "propeller:*:node:success_duration_ms": "propeller.*.node.success-duration-ms",
    "propeller:*:node:user_error_duration_ms": "propeller.*.node.failure-duration-ms",
    "propeller:*:node:failure_duration_ms": "propeller.*.node.failure-duration-ms",
}
"""Prometheus names below their first prefix, and their dotted names; `*` is the propeller's namespace."""

COUNTED = frozenset({"propeller.*.node.success-duration-ms", "propeller.*.node.failure-duration-ms"})
"""Timers whose count the schema lists as a metric of its own, `<name>-count`."""

log = get_logger(__name__)

Document = dict[str, Any]


def otlp_name(prometheus: str) -> str:
    """The dotted name of a metric: from the table, or with `:` as `.` and `_` as `-`, without the prefix `flyte:`."""
    below = prometheus.removeprefix("flyte:")
    parts = below.split(":")
    if len(parts) > 2:
        pattern = ":".join((parts[0], "*", *parts[2:]))
        if pattern in NAMES:
            return NAMES[pattern].replace("*", parts[1], 1)
    return below.replace(":", ".").replace("_", "-")


def metrics_document(metrics: Sequence[AnyMetric], *, service: str, started_ns: int, now_ns: int) -> Document:
    """An ExportMetricsServiceRequest with the present state of `metrics`."""
    encoded = [each for metric in metrics for each in _metric(metric, started_ns, now_ns)]
    return {
        "resourceMetrics": [
            {"resource": _resource(service), "scopeMetrics": [{"scope": {"name": "aerodrome"}, "metrics": encoded}]}
        ]
    }


def spans_document(spans: Sequence[ReadableSpan]) -> Document:
    """An ExportTraceServiceRequest."""
    by_service: dict[str, list[Document]] = {}
    for span in spans:
        service = str(span.resource.attributes.get("service.name", ""))
        by_service.setdefault(service, []).append(_span(span))
    return {
        "resourceSpans": [
            {"resource": _resource(service), "scopeSpans": [{"scope": {"name": "aerodrome"}, "spans": encoded}]}
            for service, encoded in by_service.items()
        ]
    }


class Sender:
    """Posts documents to an address; says once when that begins to fail, and once when it works again."""

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidArgument(f"otel.otlphttp.endpoint has to be an http or https URL, and [{url}] is not")
        self._url = url
        self._failing = False

    def send(self, document: Document) -> bool:
        """Whether it was accepted."""
        body = json.dumps(document, separators=(",", ":")).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=SEND_SECONDS) as response:
                response.read()
        except (OSError, urllib.error.HTTPError) as error:
            if not self._failing:
                log.warning("telemetry cannot be sent", url=self._url, reason=str(error))
            self._failing = True
            return False
        if self._failing:
            log.info("telemetry is sent again", url=self._url)
        self._failing = False
        return True


class HttpSpanExporter(SpanExporter):
    """Posts spans to an OTLP receiver."""

    def __init__(self, endpoint: str) -> None:
        self._sender = Sender(endpoint)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS if self._sender.send(spans_document(spans)) else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        return


class FileSpanExporter(SpanExporter):
    """Appends spans to a file, one JSON document on each line."""

    def __init__(self, path: str) -> None:
        try:
            self._file = Path(path).open("a", encoding="utf-8")  # noqa: SIM115 - closed by shutdown
        except OSError as error:
            raise FailedPrecondition(f"otel.file.filename [{path}] cannot be written: {error.strerror}") from error
        self._lock = threading.Lock()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._lock:
            self._file.writelines(json.dumps(_span(span), separators=(",", ":")) + "\n" for span in spans)
            self._file.flush()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self._file.close()


def metrics_endpoint(traces_endpoint: str) -> str:
    """Where metrics go if spans go to `traces_endpoint`: beside them, at `/v1/metrics`."""
    return re.sub(r"/v1/traces/?$", "", traces_endpoint).rstrip("/") + "/v1/metrics"


def _resource(service: str) -> Document:
    return {"attributes": _attributes({"service.name": service})}


def _metric(metric: AnyMetric, started_ns: int, now_ns: int) -> Iterator[Document]:
    name = otlp_name(metric.name)
    samples = metric.samples()
    times = {"startTimeUnixNano": str(started_ns), "timeUnixNano": str(now_ns)}

    def points(values: Sequence[tuple[Sample, Document]]) -> list[Document]:
        return [{"attributes": _attributes(sample.labels), **times, **value} for sample, value in values]

    described = {"name": name, "description": metric.description}
    if isinstance(metric, Counter):
        data = points([(sample, {"asDouble": sample.value}) for sample in samples])
        yield {**described, "sum": {"dataPoints": data, "aggregationTemporality": 2, "isMonotonic": True}}
    elif isinstance(metric, Gauge):
        yield {**described, "gauge": {"dataPoints": points([(each, {"asDouble": each.value}) for each in samples])}}
    elif isinstance(metric, Histogram):
        data = points(
            [
                (
                    sample,
                    {
                        "count": str(sample.count),
                        "sum": sample.sum,
                        "bucketCounts": [str(count) for count in sample.buckets],
                        "explicitBounds": list(metric.buckets),
                    },
                )
                for sample in samples
            ]
        )
        yield {**described, "histogram": {"dataPoints": data, "aggregationTemporality": 2}}
    else:
        data = points(
            [
                (
                    sample,
                    {
                        "count": str(sample.count),
                        "sum": sample.sum,
                        "quantileValues": [
                            {"quantile": quantile, "value": value}
                            for quantile, value in zip(QUANTILES, sample.quantiles, strict=True)
                            if value == value  # nothing was observed: there is no value, and JSON has no NaN
                        ],
                    },
                )
                for sample in samples
            ]
        )
        yield {**described, "summary": {"dataPoints": data}}
        pattern = ".".join("*" if at == 1 else part for at, part in enumerate(name.split(".")))
        if pattern in COUNTED:
            counts = points([(sample, {"asInt": str(sample.count)}) for sample in samples])
            total = {"dataPoints": counts, "aggregationTemporality": 2, "isMonotonic": True}
            yield {**described, "name": f"{name}-count", "sum": total}


def _span(span: ReadableSpan) -> Document:
    context = span.get_span_context()
    document: Document = {
        "traceId": f"{context.trace_id:032x}" if context else "",
        "spanId": f"{context.span_id:016x}" if context else "",
        "name": span.name,
        "kind": span.kind.value + 1,
        "startTimeUnixNano": str(span.start_time or 0),
        "endTimeUnixNano": str(span.end_time or 0),
        "attributes": _attributes(span.attributes or {}),
        "events": [
            {
                "name": event.name,
                "timeUnixNano": str(event.timestamp),
                "attributes": _attributes(event.attributes or {}),
            }
            for event in span.events
        ],
        "status": {"code": span.status.status_code.value, "message": span.status.description or ""},
    }
    if span.parent is not None:
        document["parentSpanId"] = f"{span.parent.span_id:016x}"
    return document


def _attributes(values: Mapping[str, Any]) -> list[Document]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: object) -> Document:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case list() | tuple():
            return {"arrayValue": {"values": [_value(item) for item in value]}}
    return {"stringValue": str(value)}
