"""Counts what the journal records, under the names that dashboards of Flyte read.

Source: spec/control-plane.md, section 14.4.
"""

from __future__ import annotations

from aerodrome.admin.managers.recording import Told
from aerodrome.stdlib.telemetry import Metrics


class JournalCounters:
    """Counts events that were accepted and executions that ended, whoever reported them; `scope` as `flyte:`."""

    def __init__(self, metrics: Metrics, *, scope: str) -> None:
        prefix = f"{scope}admin"
        self._workflow_events = metrics.counter(f"{prefix}:execution_manager:execution_events_created")
        self._node_events = metrics.counter(f"{prefix}:node_execution_manager:node_execution_events_created")
        self._task_events = metrics.counter(f"{prefix}:task_execution_manager:task_execution_events_created")
        self._terminated = metrics.counter(f"{prefix}:execution_manager:executions_terminated", ("phase",))

    def told(self, told: Told) -> None:
        """Take note of a group that was committed."""
        self._workflow_events.add(told.workflow_events)
        self._node_events.add(told.node_events)
        self._task_events.add(told.task_events)
        for phase in told.ended_in:
            self._terminated.add(phase=phase)
