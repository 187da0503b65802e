"""Fold reported events of task executions (attempts) into their rows.

Logs, reasons, custom information and external resources are merged, everything else is replaced.  Pure, as `folding`.
Source: spec/control-plane.md sections 5.3 and 5.4.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableSequence, Sequence

from flyteidl.admin.task_execution_pb2 import Reason, TaskExecutionClosure
from flyteidl.core.catalog_pb2 import CatalogCacheStatus
from flyteidl.core.execution_pb2 import TaskLog
from flyteidl.event.event_pb2 import ExternalResourceInfo, TaskExecutionEvent, TaskExecutionMetadata
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.admin.domain.phases import (
    NODE_NAMES,
    NODE_TERMINAL,
    NOTHING,
    TASK_NAMES,
    TASK_OVER,
    TASK_TERMINAL,
    WORKFLOW_NAMES,
    WORKFLOW_TERMINAL,
    TaskPhase,
    WorkflowPhase,
    Writer,
    task_may_become,
)
from aerodrome.admin.domain.rows import (
    Folded,
    NodeRow,
    TaskKey,
    TaskRow,
    instant,
    nanoseconds_between,
    put_error,
)
from aerodrome.admin.domain.validation import not_found, proto_text
from aerodrome.admin.domain.verdicts import (
    ACCEPTED,
    Refused,
    Repeated,
    Verdict,
    already_terminal,
    incompatible_cluster,
    refuse,
)
from aerodrome.stdlib.errors import FailedPrecondition, NotFound

MAX_EXTERNAL_RESOURCES = 2000
"""Most external resources that a closure keeps: failed and running ones first."""
MAX_REASONS = 500
"""Most reasons that a closure keeps: the first one and the latest."""

_PENDING = frozenset({TaskPhase.QUEUED, TaskPhase.INITIALIZING})
_FAILED = frozenset({TaskPhase.FAILED, TaskPhase.RETRYABLE_FAILED})


def key_of(event: TaskExecutionEvent) -> TaskKey:
    """Which attempt of its node an event speaks of."""
    task = event.task_id
    return TaskKey(event.retry_attempt, task.name, task.version, task.project, task.domain)


def judge_task(folded: Folded, event: TaskExecutionEvent, writer: Writer) -> Verdict:
    """What a report means for the attempt; changes nothing."""
    return _judge(folded, event, writer, folded.nodes.get(event.parent_node_execution_id.node_id), key_of(event))


def _judge(folded: Folded, event: TaskExecutionEvent, writer: Writer, node: NodeRow | None, key: TaskKey) -> Verdict:
    if writer is Writer.EVENTS and event.producer_id not in ("", "propeller", folded.own.cluster):
        return Refused(incompatible_cluster(event.producer_id, folded.own.cluster))
    if node is None or not node.exists:
        error = not_found("node execution", event.parent_node_execution_id)
        return Refused(
            NotFound(
                f"Failed to get existing node execution id: [{proto_text(event.parent_node_execution_id)}] "
                f"with err: {error.message}"
            )
        )
    row = node.tasks.get(key)
    reported = event.phase
    if row is not None:
        stored = row.phase
        if stored == reported and row.phase_version >= event.phase_version:
            return Repeated(
                f"have already recorded task execution phase {TASK_NAMES[reported]} (version: {event.phase_version}) "
                f"for {_shown(event)}"
            )
        if stored in TASK_TERMINAL:
            message = (
                f"invalid phase change from {TASK_NAMES[stored]} to {TASK_NAMES[reported]} for task execution "
                f"{_shown(event)}"
            )
            return Refused(already_terminal(message, TASK_NAMES[stored]))
    if writer is Writer.LEASE:
        return _judge_strictly(folded, node, row, key, reported)
    return ACCEPTED


def _judge_strictly(folded: Folded, node: NodeRow, row: TaskRow | None, key: TaskKey, reported: int) -> Verdict:
    if folded.phase in WORKFLOW_TERMINAL:
        return refuse(f"the execution is {WORKFLOW_NAMES[folded.phase]}")
    stored = NOTHING if row is None else row.phase
    if not task_may_become(stored, reported):
        return refuse(
            f"invalid phase change from {TASK_NAMES[stored] or 'nothing'} to {TASK_NAMES[reported]} for attempt "
            f"{key.retry_attempt} of node {node.node_id}"
        )
    if row is not None:
        return ACCEPTED
    if reported not in TASK_OVER:
        if folded.phase == WorkflowPhase.ABORTING:
            return Refused(FailedPrecondition("the execution is being aborted"), aborting=True)
        if node.phase in NODE_TERMINAL:
            return refuse(f"node {node.node_id} is {NODE_NAMES[node.phase]}; no attempt of it may start")
    for other in node.tasks.values():
        if other.phase not in TASK_OVER:
            return refuse(
                f"attempt {other.key.retry_attempt} of node {node.node_id} is {TASK_NAMES[other.phase]}; "
                f"attempt {key.retry_attempt} cannot begin before it is over"
            )
        if other.key.retry_attempt >= key.retry_attempt:
            return refuse(
                f"attempt {key.retry_attempt} of node {node.node_id} cannot begin after attempt "
                f"{other.key.retry_attempt}"
            )
    return ACCEPTED


def fold_task(folded: Folded, event: TaskExecutionEvent, writer: Writer, state: bytes = b"") -> Verdict:
    """Fold a report into the attempt's row, which its first event makes; `state` replaces the engine's own."""
    node = folded.nodes.get(event.parent_node_execution_id.node_id)
    key = key_of(event)
    verdict = _judge(folded, event, writer, node, key)
    if verdict is not ACCEPTED:
        return verdict
    assert node is not None  # judged above
    row = node.tasks.get(key)
    first = row is None
    if row is None:
        row = node.tasks[key] = TaskRow(key)
    if state:
        row.engine_state = state
    closure = row.closure
    phase = event.phase
    changed = phase != row.phase
    row.phase = phase
    row.phase_version = event.phase_version
    closure.phase = phase
    occurred_at, reported_at = event.occurred_at, event.reported_at
    updated_at = reported_at if reported_at.seconds or reported_at.nanos else occurred_at
    closure.updated_at.CopyFrom(updated_at)
    row.task_execution_updated_at = instant(updated_at)
    if first:
        closure.created_at.CopyFrom(occurred_at)
        row.task_execution_created_at = instant(occurred_at)
        closure.task_type = event.task_type
        closure.logs.extend(event.logs)
    elif event.logs:
        merged = filtered_logs(merged_logs(closure.logs, event.logs), phase)
        del closure.logs[:]
        closure.logs.extend(merged)
    elif closure.logs:
        kept = filtered_logs(closure.logs, phase)
        if len(kept) < len(closure.logs):
            del closure.logs[:]
            closure.logs.extend(kept)
    if phase == TaskPhase.RUNNING:
        if not closure.HasField("started_at"):
            closure.started_at.CopyFrom(occurred_at)
            row.started_at = instant(occurred_at)
    elif phase in TASK_TERMINAL:
        _end_task(row, event, writer)
    _put_reasons(closure, event)
    if event.HasField("custom_info"):
        merge_patch(closure.custom_info, event.custom_info)
    if event.HasField("metadata"):
        if first and not event.metadata.external_resources:
            closure.metadata.CopyFrom(event.metadata)
        else:
            _merge_metadata(closure.metadata, event.metadata, phase, changed=changed and not first)
    elif changed and not first and closure.metadata.external_resources:
        _filter_resource_logs(closure.metadata, phase)
    if event.event_version > closure.event_version:
        closure.event_version = event.event_version
    if not row.input_uri and event.input_uri:
        row.input_uri = event.input_uri
    if event.HasField("log_context") and event.log_context.ByteSize():
        closure.log_context.CopyFrom(event.log_context)
    return ACCEPTED


def fold_task_state(folded: Folded, node_id: str, attempt: int, state: bytes) -> Verdict:
    """Keep what the engine remembers of an attempt that was reported before."""
    if folded.phase in WORKFLOW_TERMINAL:
        return refuse(f"the execution is {WORKFLOW_NAMES[folded.phase]}")
    node = folded.nodes.get(node_id)
    rows = [] if node is None else [row for key, row in node.tasks.items() if key.retry_attempt == attempt]
    if not rows:
        return refuse(
            f"attempt {attempt} of node {node_id} does not exist; report its first phase along with its state"
        )
    if rows[0].engine_state == state:
        return Repeated("this state was already recorded")
    rows[0].engine_state = state
    return ACCEPTED


def abort_attempt(row: TaskRow, cause: str, at: Timestamp) -> None:
    """End an attempt whose engine is not asked any more."""
    closure = row.closure
    row.phase = TaskPhase.ABORTED
    closure.phase = TaskPhase.ABORTED
    closure.updated_at.CopyFrom(at)
    row.task_execution_updated_at = instant(at)
    if closure.HasField("started_at"):
        row.duration = nanoseconds_between(closure.started_at, at)
        closure.duration.FromNanoseconds(row.duration)
    closure.error.code = "Task Aborted"
    closure.error.message = cause


def _end_task(row: TaskRow, event: TaskExecutionEvent, writer: Writer) -> None:
    closure = row.closure
    if closure.HasField("started_at"):
        row.duration = nanoseconds_between(closure.started_at, event.occurred_at)
        closure.duration.FromNanoseconds(row.duration)
    result = event.WhichOneof("output_result")
    if result == "error":
        put_error(closure.error, event.error)
    elif result is not None and (writer is Writer.EVENTS or event.phase == TaskPhase.SUCCEEDED):
        if result == "output_uri":
            closure.output_uri = event.output_uri
        else:
            closure.output_data.CopyFrom(event.output_data)


def _put_reasons(closure: TaskExecutionClosure, event: TaskExecutionEvent) -> None:
    reasons = closure.reasons
    if event.reasons:
        reasons.extend(Reason(occurred_at=reason.occurred_at, message=reason.reason) for reason in event.reasons)
        closure.reason = event.reasons[-1].reason
    elif event.reason:
        if event.reason != closure.reason:
            reasons.append(Reason(occurred_at=event.occurred_at, message=event.reason))
        closure.reason = event.reason
    else:
        return
    if len(reasons) > MAX_REASONS:
        del reasons[1 : len(reasons) - MAX_REASONS + 1]


def merged_logs(existing: Iterable[TaskLog], latest: Sequence[TaskLog]) -> list[TaskLog]:
    """`latest` first, then of `existing` what `latest` replaces neither by its uri nor by its name."""
    if not latest:
        return list(existing)
    uris = {log.uri for log in latest}
    names = {log.name for log in latest if log.name}
    return [*latest, *(log for log in existing if log.uri not in uris and log.name not in names)]


def filtered_logs(logs: Iterable[TaskLog], phase: int) -> list[TaskLog]:
    """The logs that are worth showing in `phase`."""
    if phase in TASK_TERMINAL:
        return [log for log in logs if not log.HideOnceFinished]
    if phase in _PENDING:
        return [log for log in logs if log.ShowWhilePending]
    return list(logs)


def merge_patch(target: Struct, patch: Struct) -> None:
    """Apply `patch` to `target` as a JSON merge patch (RFC 7396): null removes, objects merge, the rest replaces."""
    for name, value in patch.fields.items():
        kind = value.WhichOneof("kind")
        if kind == "null_value":
            target.fields.pop(name, None)
        elif kind == "struct_value":
            if name not in target.fields or target.fields[name].WhichOneof("kind") != "struct_value":
                target.fields[name].struct_value.Clear()
                target.fields[name].struct_value.SetInParent()
            merge_patch(target.fields[name].struct_value, value.struct_value)
        else:
            target.fields[name].CopyFrom(value)
    target.SetInParent()


def _merge_metadata(
    target: TaskExecutionMetadata, reported: TaskExecutionMetadata, phase: int, *, changed: bool
) -> None:
    target.SetInParent()
    if reported.generated_name:
        target.generated_name = reported.generated_name
    if reported.plugin_identifier:
        target.plugin_identifier = reported.plugin_identifier
    if reported.instance_class:
        target.instance_class = reported.instance_class
    if target.resource_pool_info or reported.resource_pool_info:
        del target.resource_pool_info[:]
        target.resource_pool_info.extend(reported.resource_pool_info)
    if reported.external_resources:
        _merge_resources(target.external_resources, reported.external_resources)
    if changed:
        _filter_resource_logs(target, phase)


def _merge_resources(existing: MutableSequence[ExternalResourceInfo], reported: Sequence[ExternalResourceInfo]) -> None:
    known = {(resource.index, resource.retry_attempt): resource for resource in existing}
    for resource in reported:
        key = (resource.index, resource.retry_attempt)
        present = known.get(key)
        if present is None:
            fresh = ExternalResourceInfo()
            fresh.CopyFrom(resource)
            known[key] = fresh
        else:
            _merge_resource(present, resource)
    chosen = [known[key] for key in sorted(known)]
    if len(chosen) > MAX_EXTERNAL_RESOURCES:
        chosen = sorted(
            sorted(chosen, key=_interest)[:MAX_EXTERNAL_RESOURCES],
            key=lambda resource: (resource.index, resource.retry_attempt),
        )
    copies = [ExternalResourceInfo.FromString(resource.SerializeToString()) for resource in chosen]
    del existing[:]
    existing.extend(copies)


def _merge_resource(present: ExternalResourceInfo, resource: ExternalResourceInfo) -> None:
    if resource.external_id:
        present.external_id = resource.external_id
    present.phase = resource.phase
    if resource.cache_status != CatalogCacheStatus.CACHE_DISABLED:
        present.cache_status = resource.cache_status
    if resource.logs:
        merged = [TaskLog.FromString(log.SerializeToString()) for log in merged_logs(present.logs, resource.logs)]
        del present.logs[:]
        present.logs.extend(merged)
    if resource.HasField("custom_info"):
        present.custom_info.CopyFrom(resource.custom_info)
    if resource.HasField("workflow_node_metadata"):
        present.workflow_node_metadata.CopyFrom(resource.workflow_node_metadata)
    if resource.HasField("log_context") and resource.log_context.ByteSize():
        present.log_context.CopyFrom(resource.log_context)


def _interest(resource: ExternalResourceInfo) -> int:
    """How much people want to see a resource, the smaller the more."""
    if resource.phase in _FAILED:
        return 0
    return 1 if resource.phase == TaskPhase.RUNNING else 2


def _filter_resource_logs(metadata: TaskExecutionMetadata, phase: int) -> None:
    for resource in metadata.external_resources:
        if resource.logs:
            kept = [TaskLog.FromString(log.SerializeToString()) for log in filtered_logs(resource.logs, phase)]
            del resource.logs[:]
            resource.logs.extend(kept)


def _shown(event: TaskExecutionEvent) -> str:
    return (
        f"{proto_text(event.parent_node_execution_id)} {proto_text(event.task_id)} retry_attempt: {event.retry_attempt}"
    )
