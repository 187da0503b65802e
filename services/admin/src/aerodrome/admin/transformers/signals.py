"""Rows of signals as the messages of SignalService."""

from __future__ import annotations

from flyteidl.admin.signal_pb2 import Signal
from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier

from aerodrome.stdlib.postgres.database import Record


def fill_signal(target: Signal, execution: WorkflowExecutionIdentifier, row: Record) -> Signal:
    """A signal; without `value` while nobody has set one."""
    target.id.signal_id = row["signal_id"]
    target.id.execution_id.project = execution.project
    target.id.execution_id.domain = execution.domain
    target.id.execution_id.name = execution.name
    target.type.SetInParent()
    target.type.MergeFromString(row["type"])
    if row["value"] is not None:
        target.value.SetInParent()
        target.value.MergeFromString(row["value"])
    return target
