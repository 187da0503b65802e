"""Fold reported events of executions, nodes and map items into their rows.

Pure: rows and an event in, a verdict out; an accepted event has changed the rows in place, any other has changed
nothing.  What must be looked up elsewhere is given (`Surroundings`); inline data were moved to the storage before where
the policy says so.  Attempts are folded in `attempts`.  Source: spec/control-plane.md sections 5.1, 5.2, 5.4 and 7.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flyteidl.core.catalog_pb2 import CatalogCacheStatus
from flyteidl.core.execution_pb2 import ExecutionError
from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier
from flyteidl.event.event_pb2 import NodeExecutionEvent, WorkflowExecutionEvent
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.admin.domain.attempts import abort_attempt
from aerodrome.admin.domain.phases import (
    NODE_NAMES,
    NODE_STARTS,
    NODE_TERMINAL,
    NOTHING,
    TASK_NAMES,
    TASK_OVER,
    TASK_TERMINAL,
    WORKFLOW_NAMES,
    WORKFLOW_TERMINAL,
    NodePhase,
    TaskPhase,
    WorkflowPhase,
    Writer,
    node_may_become,
    task_may_become,
    workflow_may_become,
)
from aerodrome.admin.domain.rows import (
    ABSENT,
    ExecutionRow,
    Folded,
    Items,
    NodeRow,
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
from aerodrome.stdlib.errors import FailedPrecondition

CACHE_STATUS_NAMES = {n: str(v.name) for n, v in CatalogCacheStatus.DESCRIPTOR.values_by_number.items()}
ERROR_KIND_NAMES = {n: str(v.name) for n, v in ExecutionError.ErrorKind.DESCRIPTOR.values_by_number.items()}

_OUTPUTS_WITH = frozenset({NodePhase.SUCCEEDED, NodePhase.RECOVERED})


def producer_matches(producer: str, cluster: str) -> bool:
    """Whether an engine that calls itself `producer` may report an execution of `cluster`."""
    return producer in ("", "propeller", cluster)


# --- executions


def judge_workflow(row: ExecutionRow, event: WorkflowExecutionEvent, writer: Writer) -> Verdict:
    """What a report means for the execution; changes nothing."""
    stored, reported = row.phase, event.phase
    if reported == stored and (reported != WorkflowPhase.QUEUED or writer is Writer.LEASE):
        return Repeated(
            f"This phase {WORKFLOW_NAMES[reported]} was already recorded for workflow execution "
            f"{proto_text(event.execution_id)}"
        )
    if (
        writer is Writer.EVENTS
        and reported not in (WorkflowPhase.UNDEFINED, WorkflowPhase.QUEUED)
        and not producer_matches(event.producer_id, row.cluster)
    ):
        return Refused(incompatible_cluster(event.producer_id, row.cluster))
    if stored in WORKFLOW_TERMINAL:
        return Refused(already_terminal(_phase_change(row, event), WORKFLOW_NAMES[stored]))
    if stored == WorkflowPhase.RUNNING and reported == WorkflowPhase.QUEUED:
        return refuse(f"Cannot go from RUNNING to QUEUED for workflow execution {proto_text(event.execution_id)}")
    if stored == WorkflowPhase.ABORTING and reported not in WORKFLOW_TERMINAL:
        message = (
            f"Invalid phase change from aborting to {WORKFLOW_NAMES[reported]} for workflow execution "
            f"{proto_text(event.execution_id)}"
        )
        return Refused(FailedPrecondition(message), aborting=True)
    if writer is Writer.LEASE:
        if not workflow_may_become(stored, reported):
            return refuse(_phase_change(row, event))
        if reported == WorkflowPhase.SUCCEEDED and not row.closure.HasField("started_at"):
            return refuse(f"{_phase_change(row, event)}: it never ran")
    return ACCEPTED


def fold_workflow(row: ExecutionRow, event: WorkflowExecutionEvent, writer: Writer) -> Verdict:
    """Fold a report into the execution's row."""
    verdict = judge_workflow(row, event, writer)
    if verdict is not ACCEPTED:
        return verdict
    closure, phase = row.closure, event.phase
    was_aborting = row.phase == WorkflowPhase.ABORTING
    row.phase = phase
    closure.phase = phase
    closure.updated_at.CopyFrom(event.occurred_at)
    row.execution_updated_at = instant(event.occurred_at)
    if phase == WorkflowPhase.RUNNING:
        closure.started_at.CopyFrom(event.occurred_at)
        row.started_at = row.execution_updated_at
    elif phase in WORKFLOW_TERMINAL:
        _end_workflow(row, event.occurred_at)
    if phase in (WorkflowPhase.UNDEFINED, WorkflowPhase.QUEUED) and event.producer_id not in ("", "propeller"):
        row.cluster_changed |= row.cluster != event.producer_id
        row.cluster = event.producer_id
    _put_workflow_result(row, event, writer, was_aborting=was_aborting)
    return ACCEPTED


def abort_workflow(row: ExecutionRow, cause: str, principal: str) -> None:
    """Begin the abort of an execution that is not over; a repeat replaces cause and principal."""
    if row.phase in WORKFLOW_TERMINAL:
        raise already_terminal("Cannot abort an already terminated workflow execution", WORKFLOW_NAMES[row.phase])
    row.phase = WorkflowPhase.ABORTING
    row.closure.phase = WorkflowPhase.ABORTING
    _put_abort(row, cause, principal)


def force_abort_workflow(row: ExecutionRow, cause: str, at: Timestamp) -> None:
    """End an execution at once, without its engine; its principal is that of the abort before, if there was one."""
    if row.phase in WORKFLOW_TERMINAL:
        raise already_terminal("Cannot abort an already terminated workflow execution", WORKFLOW_NAMES[row.phase])
    row.phase = WorkflowPhase.ABORTED
    row.closure.phase = WorkflowPhase.ABORTED
    row.closure.updated_at.CopyFrom(at)
    row.execution_updated_at = instant(at)
    _end_workflow(row, at)
    _put_abort(row, cause, row.closure.abort_metadata.principal)


def force_abort_nodes(folded: Folded, cause: str, at: Timestamp) -> list[NodeRow]:
    """End every node and attempt that is not over; returns the nodes that changed."""
    changed: list[NodeRow] = []
    for row in folded.nodes.values():
        if row is None or not row.exists or row.is_over:
            continue
        changed.append(row)
        for task in row.tasks.values():
            if task.phase not in TASK_OVER:
                abort_attempt(task, cause, at)
        if row.phase not in NODE_TERMINAL:
            row.phase = NodePhase.ABORTED
            row.closure.phase = NodePhase.ABORTED
            row.closure.updated_at.CopyFrom(at)
            row.node_execution_updated_at = instant(at)
            if row.closure.HasField("started_at"):
                row.duration = nanoseconds_between(row.closure.started_at, at)
                row.closure.duration.FromNanoseconds(row.duration)
            row.closure.error.code = "NodeAborted"
            row.closure.error.message = cause
            row.error_kind, row.error_code = ERROR_KIND_NAMES[0], "NodeAborted"
    return changed


def _put_abort(row: ExecutionRow, cause: str, principal: str) -> None:
    row.closure.abort_metadata.cause = cause
    row.closure.abort_metadata.principal = principal
    row.abort_cause = cause
    row.error_kind = row.error_code = None


def _end_workflow(row: ExecutionRow, at: Timestamp) -> None:
    closure = row.closure
    if closure.HasField("started_at"):
        row.duration = nanoseconds_between(closure.started_at, at)
        closure.duration.FromNanoseconds(row.duration)


def _put_workflow_result(
    row: ExecutionRow, event: WorkflowExecutionEvent, writer: Writer, *, was_aborting: bool
) -> None:
    result = event.WhichOneof("output_result")
    if result is None:
        return
    closure, phase = row.closure, event.phase
    if was_aborting and phase == WorkflowPhase.ABORTED and closure.HasField("abort_metadata"):
        return  # who asked for the abort, and why, is what people want to see
    if result == "error":
        put_error(closure.error, event.error)
        row.error_kind = ERROR_KIND_NAMES.get(event.error.kind, "UNKNOWN")
        row.error_code = event.error.code
        return
    if writer is Writer.LEASE and phase != WorkflowPhase.SUCCEEDED:
        return
    if result == "output_uri":
        closure.outputs.uri = event.output_uri
    else:
        closure.output_data.CopyFrom(event.output_data)
    row.error_kind = row.error_code = None


def _phase_change(row: ExecutionRow, event: WorkflowExecutionEvent) -> str:
    return (
        f"Invalid phase change from {WORKFLOW_NAMES[row.phase]} to {WORKFLOW_NAMES[event.phase]} for workflow "
        f"execution {proto_text(event.execution_id)}"
    )


# --- nodes


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an event refers to outside of its own row, as far as it exists."""

    parent_task_execution_id: int | None = None
    """Row of the attempt that `parent_task_metadata` names."""
    child_exists: bool = False
    """Whether there is the execution that `workflow_node_metadata` names."""
    dynamic_workflow_reference: str = ""
    """Where the compiled workflow that the event carries was stored."""


NOWHERE = Surroundings()


def judge_node(folded: Folded, event: NodeExecutionEvent, writer: Writer, around: Surroundings = NOWHERE) -> Verdict:
    """What a report means for the node; changes nothing."""
    if writer is Writer.EVENTS and not producer_matches(event.producer_id, folded.own.cluster):
        return Refused(incompatible_cluster(event.producer_id, folded.own.cluster))
    row = folded.nodes.get(event.id.node_id)
    reported = event.phase
    stored = NOTHING if row is None else row.phase
    if stored == NOTHING:
        verdict = _judge_parents(folded, event, around)
        if verdict is not ACCEPTED:
            return verdict
    elif stored == reported and not (writer is Writer.LEASE and _expands_again(row, event)):
        return Repeated(f"This phase was already recorded {NODE_NAMES[reported]} for {proto_text(event.id)}")
    elif stored in NODE_TERMINAL:
        message = (
            f"Invalid phase change from {NODE_NAMES[stored]} to {NODE_NAMES[reported]} for node execution "
            f"{proto_text(event.id)}"
        )
        return Refused(already_terminal(message, NODE_NAMES[stored]))
    if writer is Writer.LEASE:
        if folded.is_over:
            return refuse(f"the execution is {WORKFLOW_NAMES[folded.phase]}")
        if folded.phase == WorkflowPhase.ABORTING and reported in NODE_STARTS:
            return Refused(FailedPrecondition("the execution is being aborted"), aborting=True)
        if stored != reported and not node_may_become(stored, reported):
            return refuse(
                f"Invalid phase change from {NODE_NAMES[stored] or 'nothing'} to {NODE_NAMES[reported]} for node "
                f"execution {proto_text(event.id)}"
            )
    elif stored != NOTHING and event.HasField("workflow_node_metadata") and not around.child_exists:
        return Refused(not_found("execution", event.workflow_node_metadata.execution_id))
    return ACCEPTED


def fold_node(
    folded: Folded, event: NodeExecutionEvent, writer: Writer, around: Surroundings = NOWHERE, state: bytes = b""
) -> Verdict:
    """Fold a report into the node's row, which the first event of a node makes; `state` replaces the engine's own."""
    verdict = judge_node(folded, event, writer, around)
    if verdict is not ACCEPTED:
        return verdict
    node_id = event.id.node_id
    row = folded.nodes.get(node_id)
    if row is None:
        row = folded.nodes[node_id] = NodeRow(node_id)
    if state:
        row.engine_state = state
    first = row.phase == NOTHING
    phase = event.phase
    closure = row.closure
    row.phase = phase
    closure.phase = phase
    occurred_at = event.occurred_at
    reported_at = event.reported_at
    updated_at = reported_at if reported_at.seconds or reported_at.nanos else occurred_at
    closure.updated_at.CopyFrom(updated_at)
    row.node_execution_updated_at = instant(updated_at)
    if first:
        _begin_node(row, event, around)
    if phase == NodePhase.RUNNING:
        closure.started_at.CopyFrom(occurred_at)
        row.started_at = instant(occurred_at)
        closure.deck_uri = event.deck_uri
    elif phase in NODE_TERMINAL:
        _end_node(row, event, writer)
    if not row.input_uri and event.input_uri:
        row.input_uri = event.input_uri
    if event.is_parent:
        row.metadata.is_parent_node = True
    if event.is_dynamic:
        row.metadata.is_dynamic = True
    if event.is_array:
        row.metadata.is_array = True
    if event.is_eager:
        row.metadata.is_eager = True
    target = event.WhichOneof("target_metadata")
    if target == "task_node_metadata":
        _put_task_node_metadata(row, event, around)
    elif (
        target == "workflow_node_metadata"
        and not closure.HasField("workflow_node_metadata")
        and (writer is Writer.LEASE or around.child_exists)
    ):
        closure.workflow_node_metadata.executionId.CopyFrom(event.workflow_node_metadata.execution_id)
    return ACCEPTED


def fold_node_state(folded: Folded, node_id: str, state: bytes) -> Verdict:
    """Keep what the engine remembers of a node, whether or not an event of it was reported yet."""
    if folded.is_over:
        return refuse(f"the execution is {WORKFLOW_NAMES[folded.phase]}")
    row = folded.nodes.get(node_id)
    if row is None:
        row = folded.nodes[node_id] = NodeRow(node_id)
    elif row.engine_state == state:
        return Repeated("this state was already recorded")
    row.engine_state = state
    return ACCEPTED


def _expands_again(row: NodeRow | None, event: NodeExecutionEvent) -> bool:
    """Whether a dynamic node tells of what another attempt made."""
    made = event.task_node_metadata.dynamic_workflow.dynamic_job_spec_uri
    return (
        row is not None
        and event.phase == NodePhase.DYNAMIC_RUNNING
        and bool(made)
        and made != row.closure.dynamic_job_spec_uri
    )


def _judge_parents(folded: Folded, event: NodeExecutionEvent, around: Surroundings) -> Verdict:
    parent_task = event.parent_task_metadata.id
    if around.parent_task_execution_id is None and event.HasField("parent_task_metadata") and parent_task.ByteSize():
        return Refused(not_found("task execution", parent_task))
    parent_id = event.parent_node_metadata.node_id
    if parent_id:
        parent = folded.nodes.get(parent_id)
        if parent is None or not parent.exists:
            identifier = type(event.id)(node_id=parent_id, execution_id=event.id.execution_id)
            return Refused(not_found("node execution", identifier))
    return ACCEPTED


def _begin_node(row: NodeRow, event: NodeExecutionEvent, around: Surroundings) -> None:
    row.closure.created_at.CopyFrom(event.occurred_at)
    row.node_execution_created_at = instant(event.occurred_at)
    row.metadata.retry_group = event.retry_group
    row.metadata.spec_node_id = event.spec_node_id
    row.parent_node_id = event.parent_node_metadata.node_id or None
    row.parent_task_execution_id = around.parent_task_execution_id
    row.event_version = event.event_version


def _end_node(row: NodeRow, event: NodeExecutionEvent, writer: Writer) -> None:
    closure = row.closure
    closure.deck_uri = event.deck_uri
    if closure.HasField("started_at"):
        row.duration = nanoseconds_between(closure.started_at, event.occurred_at)
        closure.duration.FromNanoseconds(row.duration)
    result = event.WhichOneof("output_result")
    if result == "error":
        put_error(closure.error, event.error)
        row.error_kind = ERROR_KIND_NAMES.get(event.error.kind, "UNKNOWN")
        row.error_code = event.error.code
    elif result is not None and (writer is Writer.EVENTS or event.phase in _OUTPUTS_WITH):
        if result == "output_uri":
            closure.output_uri = event.output_uri
        else:
            closure.output_data.CopyFrom(event.output_data)


def _put_task_node_metadata(row: NodeRow, event: NodeExecutionEvent, around: Surroundings) -> None:
    reported = event.task_node_metadata
    target = row.closure.task_node_metadata
    target.Clear()
    target.SetInParent()
    target.checkpoint_uri = reported.checkpoint_uri
    if reported.HasField("catalog_key"):
        target.cache_status = reported.cache_status
        target.catalog_key.CopyFrom(reported.catalog_key)
        row.cache_status = CACHE_STATUS_NAMES.get(reported.cache_status, str(reported.cache_status))
    if reported.HasField("dynamic_workflow"):
        if around.dynamic_workflow_reference:
            row.dynamic_workflow_reference = around.dynamic_workflow_reference
        if reported.dynamic_workflow.dynamic_job_spec_uri:
            row.closure.dynamic_job_spec_uri = reported.dynamic_workflow.dynamic_job_spec_uri


# --- map items


@dataclass(frozen=True, slots=True)
class ItemChange:
    """Items `first` to `last`, both included, of a node are in `phase` with `attempt`."""

    first: int
    last: int
    attempt: int
    system_failures: int
    phase: int
    error: bytes
    cache_status: int
    log_uri: str


_ITEMS_FINAL = frozenset({TaskPhase.SUCCEEDED})


def fold_items(folded: Folded, node_id: str, changes: Iterable[ItemChange]) -> Verdict:
    """Fold ranges of items, all of them or none: an item succeeds once, and its attempts only grow.

    The node's items must be known (`folded.items`).
    """
    if folded.is_over:
        return refuse(f"the execution is {WORKFLOW_NAMES[folded.phase]}")
    row = folded.nodes.get(node_id)
    if row is None or not row.exists:
        return refuse(f"node {node_id} does not exist")
    items = folded.items.setdefault(node_id, Items())
    changes = list(changes)
    for change in changes:
        for phase, attempt in items.states(change.first, change.last):
            stored = NOTHING if phase == ABSENT else phase
            starts = stored == NOTHING or change.attempt > attempt
            if starts and change.phase not in TASK_OVER and folded.phase == WorkflowPhase.ABORTING:
                return Refused(FailedPrecondition("the execution is being aborted"), aborting=True)
            if not _item_may_become(stored, attempt, change.phase, change.attempt):
                return refuse(
                    f"items {change.first} to {change.last} of node {node_id}: attempt {attempt} in "
                    f"{TASK_NAMES[stored] or 'no phase'} cannot be followed by attempt {change.attempt} in "
                    f"{TASK_NAMES[change.phase]}"
                )
    for change in changes:
        items.put(change.first, change.last, change.phase, change.attempt)
    return ACCEPTED


def _item_may_become(stored: int, stored_attempt: int, reported: int, attempt: int) -> bool:
    if stored == NOTHING:
        return True
    if stored in _ITEMS_FINAL:
        return reported == stored and attempt == stored_attempt
    if attempt == stored_attempt:
        return reported == stored or (stored not in TASK_TERMINAL and task_may_become(stored, reported))
    return attempt > stored_attempt and stored in TASK_OVER


def same_execution(identifier: WorkflowExecutionIdentifier, folded: Folded) -> bool:
    """Whether `identifier` names the execution of `folded`."""
    return (
        identifier.name == folded.name and identifier.project == folded.project and identifier.domain == folded.domain
    )
