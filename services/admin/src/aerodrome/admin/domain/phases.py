"""Which phase may follow which, for executions, nodes and attempts.

There are two kinds of writers.  An outside engine reports by the standard event RPCs, at least once and out of order,
so almost everything may follow what is not terminal (`Writer.EVENTS`).  Our own engine writes ahead and in order, so
its phases follow the state machines of the engine (`Writer.LEASE`).  Phases are the numbers of flyteidl's enums;
columns hold their names.  Source: spec/control-plane.md section 5, spec/data-plane.md sections 1.4 and 1.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

from flyteidl.core.execution_pb2 import NodeExecution, TaskExecution, WorkflowExecution
from google.protobuf.descriptor import EnumDescriptor


class Writer(Enum):
    """Who reports an execution; the value is the one of column `leases.writer`."""

    LEASE = "lease"
    EVENTS = "events"


class WorkflowPhase:
    """Numbers of `flyteidl.core.WorkflowExecution.Phase`."""

    UNDEFINED = WorkflowExecution.UNDEFINED
    QUEUED = WorkflowExecution.QUEUED
    RUNNING = WorkflowExecution.RUNNING
    SUCCEEDING = WorkflowExecution.SUCCEEDING
    SUCCEEDED = WorkflowExecution.SUCCEEDED
    FAILING = WorkflowExecution.FAILING
    FAILED = WorkflowExecution.FAILED
    ABORTED = WorkflowExecution.ABORTED
    TIMED_OUT = WorkflowExecution.TIMED_OUT
    ABORTING = WorkflowExecution.ABORTING


class NodePhase:
    """Numbers of `flyteidl.core.NodeExecution.Phase`."""

    UNDEFINED = NodeExecution.UNDEFINED
    QUEUED = NodeExecution.QUEUED
    RUNNING = NodeExecution.RUNNING
    SUCCEEDED = NodeExecution.SUCCEEDED
    FAILING = NodeExecution.FAILING
    FAILED = NodeExecution.FAILED
    ABORTED = NodeExecution.ABORTED
    SKIPPED = NodeExecution.SKIPPED
    TIMED_OUT = NodeExecution.TIMED_OUT
    DYNAMIC_RUNNING = NodeExecution.DYNAMIC_RUNNING
    RECOVERED = NodeExecution.RECOVERED


class TaskPhase:
    """Numbers of `flyteidl.core.TaskExecution.Phase`."""

    UNDEFINED = TaskExecution.UNDEFINED
    QUEUED = TaskExecution.QUEUED
    RUNNING = TaskExecution.RUNNING
    SUCCEEDED = TaskExecution.SUCCEEDED
    ABORTED = TaskExecution.ABORTED
    FAILED = TaskExecution.FAILED
    INITIALIZING = TaskExecution.INITIALIZING
    WAITING_FOR_RESOURCES = TaskExecution.WAITING_FOR_RESOURCES
    RETRYABLE_FAILED = TaskExecution.RETRYABLE_FAILED


NOTHING = -1
"""In place of a node's or attempt's phase: no event of it was recorded yet."""


def _names(descriptor: EnumDescriptor) -> Mapping[int, str]:
    values = descriptor.values_by_number.items()
    return {number: str(value.name) for number, value in values}


WORKFLOW_NAMES = _names(WorkflowExecution.Phase.DESCRIPTOR)
NODE_NAMES: Mapping[int, str] = {**_names(NodeExecution.Phase.DESCRIPTOR), NOTHING: ""}
TASK_NAMES: Mapping[int, str] = {**_names(TaskExecution.Phase.DESCRIPTOR), NOTHING: ""}

WORKFLOW_NUMBERS = {name: number for number, name in WORKFLOW_NAMES.items()}
NODE_NUMBERS = {name: number for number, name in NODE_NAMES.items()}
TASK_NUMBERS = {name: number for number, name in TASK_NAMES.items()}

WORKFLOW_TERMINAL = frozenset(
    {WorkflowPhase.SUCCEEDED, WorkflowPhase.FAILED, WorkflowPhase.TIMED_OUT, WorkflowPhase.ABORTED}
)
NODE_TERMINAL = frozenset(
    {
        NodePhase.SUCCEEDED,
        NodePhase.FAILED,
        NodePhase.TIMED_OUT,
        NodePhase.ABORTED,
        NodePhase.SKIPPED,
        NodePhase.RECOVERED,
    }
)
TASK_TERMINAL = frozenset({TaskPhase.SUCCEEDED, TaskPhase.FAILED, TaskPhase.ABORTED})
TASK_OVER = TASK_TERMINAL | {TaskPhase.RETRYABLE_FAILED}
"""Phases in which an attempt no longer runs."""

NODE_STARTS = frozenset({NodePhase.UNDEFINED, NodePhase.QUEUED, NodePhase.RUNNING, NodePhase.DYNAMIC_RUNNING})
"""Node phases that begin or permit work, which is over once an execution is being aborted."""

_W, _N, _T = WorkflowPhase, NodePhase, TaskPhase

_WORKFLOW_MAY_FOLLOW: Mapping[int, frozenset[int]] = {
    _W.UNDEFINED: frozenset({_W.QUEUED, _W.RUNNING, _W.FAILING, _W.FAILED, _W.ABORTED, _W.TIMED_OUT}),
    _W.QUEUED: frozenset({_W.RUNNING, _W.FAILING, _W.FAILED, _W.ABORTED, _W.TIMED_OUT}),
    _W.RUNNING: frozenset({_W.SUCCEEDING, _W.SUCCEEDED, _W.FAILING, _W.FAILED, _W.ABORTED, _W.TIMED_OUT}),
    _W.SUCCEEDING: frozenset({_W.SUCCEEDED, _W.FAILING, _W.FAILED, _W.ABORTED, _W.TIMED_OUT}),
    _W.FAILING: frozenset({_W.FAILED, _W.ABORTED, _W.TIMED_OUT}),
    _W.ABORTING: WORKFLOW_TERMINAL,
}

_NODE_MAY_FOLLOW: Mapping[int, frozenset[int]] = {
    NOTHING: frozenset(
        {
            _N.QUEUED, _N.RUNNING, _N.DYNAMIC_RUNNING, _N.SUCCEEDED, _N.FAILING, _N.FAILED, _N.ABORTED, _N.SKIPPED,
            _N.RECOVERED,
        }
    ),
    _N.UNDEFINED: frozenset(NODE_NAMES) - {NOTHING, _N.UNDEFINED},
    _N.QUEUED: frozenset(
        {
            _N.RUNNING, _N.DYNAMIC_RUNNING, _N.SUCCEEDED, _N.FAILING, _N.FAILED, _N.ABORTED, _N.TIMED_OUT, _N.RECOVERED,
        }
    ),
    _N.RUNNING: frozenset({_N.DYNAMIC_RUNNING, _N.SUCCEEDED, _N.FAILING, _N.FAILED, _N.ABORTED, _N.TIMED_OUT}),
    # a dynamic node that is tried again reports RUNNING once more
    _N.DYNAMIC_RUNNING: frozenset({_N.RUNNING, _N.SUCCEEDED, _N.FAILING, _N.FAILED, _N.ABORTED, _N.TIMED_OUT}),
    _N.FAILING: frozenset({_N.FAILED, _N.ABORTED, _N.TIMED_OUT}),
}  # fmt: skip

_WAITING = frozenset({_T.UNDEFINED, _T.QUEUED, _T.INITIALIZING, _T.WAITING_FOR_RESOURCES})
_TASK_MAY_FOLLOW: Mapping[int, frozenset[int]] = {
    NOTHING: _WAITING | TASK_OVER | {_T.RUNNING},
    **dict.fromkeys(_WAITING, _WAITING | TASK_OVER | {_T.RUNNING}),
    _T.RUNNING: TASK_OVER | {_T.RUNNING},
    _T.RETRYABLE_FAILED: TASK_TERMINAL,
}

_NOTHING_MORE: frozenset[int] = frozenset()


def workflow_may_become(current: int, reported: int) -> bool:
    """Whether our engine may take an execution from `current` to `reported`."""
    return reported in _WORKFLOW_MAY_FOLLOW.get(current, _NOTHING_MORE)


def node_may_become(current: int, reported: int) -> bool:
    """Whether our engine may take a node from `current` (or NOTHING) to `reported`."""
    return reported in _NODE_MAY_FOLLOW.get(current, _NOTHING_MORE)


def task_may_become(current: int, reported: int) -> bool:
    """Whether our engine may take an attempt from `current` (or NOTHING) to `reported`, itself included."""
    return reported in _TASK_MAY_FOLLOW.get(current, _NOTHING_MORE)


def names(phases: Iterable[int], of: Mapping[int, str]) -> list[str]:
    """Names of `phases` in the order of their numbers, for messages."""
    return [of[phase] for phase in sorted(phases)]
