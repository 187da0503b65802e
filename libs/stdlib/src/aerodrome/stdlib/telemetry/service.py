"""Metrics and spans of a process, as the `otel` section configures them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

from aerodrome.stdlib.config import TelemetryConfig
from aerodrome.stdlib.telemetry.looplag import LoopLag
from aerodrome.stdlib.telemetry.metrics import Metrics, add_process_metrics
from aerodrome.stdlib.telemetry.tracing import AttributeValue, Span, make_tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from aerodrome.stdlib.telemetry.otlp import Sender


class Telemetry:
    """Holds the metrics, makes the spans, and measures the event loop.

    `run` has to be under way for the loop's lag to be measured and for metrics to be pushed.  Raises
    FailedPrecondition or InvalidArgument where the configured exporter cannot be used.
    """

    def __init__(self, config: TelemetryConfig | None = None, *, span_exporter: SpanExporter | None = None) -> None:
        self._config = config or TelemetryConfig()
        self.metrics = Metrics()
        self.loop_lag = LoopLag()
        self._tracing = make_tracing(self._config, span_exporter)
        self._started_ns = time.time_ns()
        self._sender = self._make_sender()
        add_process_metrics(self.metrics)
        self.metrics.observed(
            "aerodrome:loop_lag_max_seconds",
            lambda: self.loop_lag.max_seconds,
            description="The longest that the event loop was held up",
        )
        for percent in (50, 99):
            self.metrics.observed(
                f"aerodrome:loop_lag_p{percent}_seconds",
                partial(self.loop_lag.percentile_seconds, percent),
                description=f"The lag of the event loop that {percent}% of samples do not exceed",
            )

    def span(
        self, name: str, /, *, parent: Mapping[str, str] | None = None, **attributes: AttributeValue
    ) -> AbstractContextManager[Span]:
        """A span for the block, below the one that is open here or, with `parent`, below the caller's.

        `parent` is what the caller's `carried` gave.  An exception is recorded and passes.
        """
        return self._tracing.span(name, attributes, parent)

    def carried(self) -> Mapping[str, str]:
        """Headers that tell a callee which span it is called from (W3C trace context); empty without one."""
        return self._tracing.carried()

    def render(self) -> bytes:
        """The metrics as Prometheus reads them at `/metrics`, version 0.0.4."""
        return self.metrics.render()

    async def run(self) -> None:
        """Measure the event loop, and push metrics where that is configured, until cancelled; then push once more."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.loop_lag.run(), name="loop lag")
            if self._sender is not None:
                group.create_task(self._push(self._sender), name="push metrics")

    async def aclose(self) -> None:
        """Hand over the spans that are left; none can be made any more."""
        await asyncio.to_thread(self._tracing.close)

    async def _push(self, sender: Sender) -> None:
        try:
            while True:
                await asyncio.sleep(self._config.export_interval.total_seconds())
                await self._push_once(sender)
        finally:
            await self._push_once(sender)

    async def _push_once(self, sender: Sender) -> None:
        from aerodrome.stdlib.telemetry.otlp import metrics_document

        def push() -> None:
            document = metrics_document(
                self.metrics.all(),
                service=self._config.service_name,
                started_ns=self._started_ns,
                now_ns=time.time_ns(),
            )
            sender.send(document)

        await asyncio.to_thread(push)

    def _make_sender(self) -> Sender | None:
        if self._config.type != "otlphttp":
            return None
        from aerodrome.stdlib.telemetry.otlp import Sender, metrics_endpoint

        return Sender(metrics_endpoint(self._config.otlphttp.endpoint))
