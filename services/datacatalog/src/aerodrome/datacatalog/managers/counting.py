"""Counts what happens, under the names that dashboards of Flyte read.  Source: A.10 of the specification."""

from __future__ import annotations

from aerodrome.stdlib.telemetry import Telemetry
from aerodrome.stdlib.telemetry.metrics import Metrics


class Counting:
    """The data catalog's counters."""

    def __init__(self, telemetry: Telemetry | None, scope: str) -> None:
        metrics = telemetry.metrics if telemetry is not None else Metrics()
        self._counters = metrics.counter(
            f"{scope}:operations",
            ("operation", "result"),
            description="Datasets, artifacts, tags, reservations: what was done and what came of it",
        )

    def add(self, operation: str, result: str, amount: int = 1) -> None:
        """Count an operation such as `get_artifact` that ended in `hit` or the like."""
        self._counters.add(amount, operation=operation, result=result)
