"""The phases of workflows and nodes inside the engine; finer than what the API shows.

The numbers are stored in journals (`NodeState.phase`): add, never renumber.  Source: spec/data-plane.md, 1.2, 1.4, 1.5.
"""

from __future__ import annotations

from enum import IntEnum


class WorkflowPhase(IntEnum):
    READY = 0
    RUNNING = 1
    SUCCEEDING = 2
    SUCCEEDED = 3
    FAILING = 4
    FAILED = 5
    ABORTED = 6
    HANDLING_FAILURE = 7
    ABORTING = 8

    @property
    def terminal(self) -> bool:
        return self in _TERMINAL_WORKFLOW


_TERMINAL_WORKFLOW = frozenset({WorkflowPhase.SUCCEEDED, WorkflowPhase.FAILED, WorkflowPhase.ABORTED})


class NodePhase(IntEnum):
    NOT_STARTED = 0
    QUEUED = 1
    RUNNING = 2
    FAILING = 3
    SUCCEEDING = 4
    SUCCEEDED = 5
    FAILED = 6
    SKIPPED = 7
    RETRYING = 8
    TIMING_OUT = 9
    TIMED_OUT = 10
    DYNAMIC_RUNNING = 11
    RECOVERED = 12
    ABORTED = 13


TERMINAL = frozenset(
    {
        NodePhase.SUCCEEDED,
        NodePhase.FAILED,
        NodePhase.SKIPPED,
        NodePhase.TIMED_OUT,
        NodePhase.RECOVERED,
        NodePhase.ABORTED,
    }
)
"""Phases that a node never leaves."""

GOOD = frozenset({NodePhase.SUCCEEDED, NodePhase.RECOVERED})
"""Terminal phases that let downstream nodes run."""

LIVE = frozenset(
    {
        NodePhase.QUEUED,
        NodePhase.RUNNING,
        NodePhase.RETRYING,
        NodePhase.DYNAMIC_RUNNING,
        NodePhase.SUCCEEDING,
        NodePhase.FAILING,
        NodePhase.TIMING_OUT,
    }
)
"""Phases in which something of the node may exist outside the engine, so that an abort has to reach it."""


class TaskPhase(IntEnum):
    """Phases of one attempt; the numbers of flyteidl.core.TaskExecution.Phase."""

    UNDEFINED = 0
    QUEUED = 1
    RUNNING = 2
    SUCCEEDED = 3
    ABORTED = 4
    FAILED = 5
    INITIALIZING = 6
    WAITING_FOR_RESOURCES = 7
    RETRYABLE_FAILED = 8
