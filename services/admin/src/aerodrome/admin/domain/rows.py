"""The rows that the journal is folded into, as they live in memory.

A row holds its closure as a live message, which folding changes in place, and beside it the facts that lists filter and
sort by.  Instants are aware and in UTC, durations are nanoseconds.  Source: migrations/0001_foundations.sql.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from flyteidl.admin.execution_pb2 import ExecutionClosure
from flyteidl.admin.node_execution_pb2 import NodeExecutionClosure, NodeExecutionMetaData
from flyteidl.admin.task_execution_pb2 import TaskExecutionClosure
from flyteidl.core.execution_pb2 import ExecutionError
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.admin.domain.phases import NODE_TERMINAL, NOTHING, TASK_OVER, WORKFLOW_TERMINAL, TaskPhase

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TaskKey(NamedTuple):
    """An attempt among those of its node."""

    retry_attempt: int
    name: str
    version: str
    project: str
    domain: str


@dataclass(slots=True)
class TaskRow:
    """One attempt of a task node."""

    key: TaskKey
    phase: int = NOTHING
    phase_version: int = 0
    closure: TaskExecutionClosure = field(default_factory=TaskExecutionClosure)
    input_uri: str = ""
    started_at: datetime | None = None
    task_execution_created_at: datetime | None = None
    task_execution_updated_at: datetime | None = None
    duration: int | None = None
    engine_state: bytes = b""
    writes: int = 0
    """How often it was written back since it was loaded."""


@dataclass(slots=True)
class NodeRow:
    """One node of an execution, with its attempts."""

    node_id: str
    phase: int = NOTHING
    closure: NodeExecutionClosure = field(default_factory=NodeExecutionClosure)
    metadata: NodeExecutionMetaData = field(default_factory=NodeExecutionMetaData)
    input_uri: str = ""
    started_at: datetime | None = None
    node_execution_created_at: datetime | None = None
    node_execution_updated_at: datetime | None = None
    duration: int | None = None
    parent_node_id: str | None = None
    parent_task_execution_id: int | None = None
    error_kind: str | None = None
    error_code: str | None = None
    cache_status: str | None = None
    dynamic_workflow_reference: str = ""
    event_version: int = 0
    engine_state: bytes = b""
    tasks: dict[TaskKey, TaskRow] = field(default_factory=dict)
    writes: int = 0
    """How often it was written back since it was loaded."""

    @property
    def exists(self) -> bool:
        """Whether an event of the node was recorded, so that the API shows it."""
        return self.phase != NOTHING

    @property
    def is_over(self) -> bool:
        """Whether neither the node nor any of its attempts can change its phase any more."""
        return self.phase in NODE_TERMINAL and all(task.phase in TASK_OVER for task in self.tasks.values())


ABSENT = 255
"""In place of an item's phase: nothing was recorded of it yet."""


@dataclass(slots=True)
class Items:
    """The map items of one node: phase and attempt by index."""

    phases: bytearray = field(default_factory=bytearray)
    attempts: array[int] = field(default_factory=lambda: array("i"))

    def grow(self, size: int) -> None:
        """Have room for items below `size`."""
        more = size - len(self.phases)
        if more > 0:
            self.phases.extend(bytes([ABSENT]) * more)
            self.attempts.extend(array("i", [0]) * more)

    def put(self, first: int, last: int, phase: int, attempt: int) -> None:
        """Set items `first` to `last`, both included."""
        self.grow(last + 1)
        count = last - first + 1
        self.phases[first : last + 1] = bytes([phase]) * count
        self.attempts[first : last + 1] = array("i", [attempt]) * count

    def abort(self) -> None:
        """End the items that are known and not over."""
        for index, phase in enumerate(self.phases):
            if phase != ABSENT and phase not in TASK_OVER:
                self.phases[index] = TaskPhase.ABORTED

    def states(self, first: int, last: int) -> Iterable[tuple[int, int]]:
        """Each different (phase, attempt) of items `first` to `last`, both included."""
        self.grow(last + 1)
        return set(zip(self.phases[first : last + 1], self.attempts[first : last + 1], strict=True))


@dataclass(slots=True)
class ExecutionRow:
    """The execution itself, as workflow events change it."""

    execution_id: int
    phase: int
    closure: ExecutionClosure
    cluster: str = ""
    started_at: datetime | None = None
    execution_updated_at: datetime | None = None
    duration: int | None = None
    abort_cause: str = ""
    error_kind: str | None = None
    error_code: str | None = None
    cluster_changed: bool = False
    """Whether the spec has to be told the cluster as well."""


@dataclass(slots=True)
class Folded:
    """What is known of one execution while its journal is being written.

    `nodes` maps to None where it is known that there is no such row.  In a `complete` one only the `unloaded` nodes
    have rows that are not in memory.
    """

    execution_id: int
    project: str
    domain: str
    name: str
    own: ExecutionRow
    nodes: dict[str, NodeRow | None] = field(default_factory=dict)
    items: dict[str, Items] = field(default_factory=dict)
    complete: bool = False
    unloaded: set[str] = field(default_factory=set)
    items_unloaded: set[str] = field(default_factory=set)

    @property
    def phase(self) -> int:
        return self.own.phase

    @property
    def is_over(self) -> bool:
        return self.own.phase in WORKFLOW_TERMINAL

    def lacks(self, node_id: str) -> bool:
        """Whether the node has to be loaded before anything can be said of it."""
        return node_id not in self.nodes and (not self.complete or node_id in self.unloaded)

    def lacks_items(self, node_id: str) -> bool:
        """Whether the node's items have to be loaded before anything can be said of them."""
        return node_id not in self.items and (not self.complete or node_id in self.items_unloaded)

    def unload(self, node_id: str) -> None:
        """Remember of a stored node only that it is there."""
        self.nodes.pop(node_id, None)
        self.unloaded.add(node_id)
        if self.items.pop(node_id, None) is not None:
            self.items_unloaded.add(node_id)


MAX_ERROR_CHARS = 102_400
"""Longest error message that is kept; longer ones lose their middle.  Source: spec/data-plane.md section 1.14."""

_CUT = "\n… (cut) …\n"


def put_error(target: ExecutionError, error: ExecutionError) -> None:
    """Copy `error`, its message cut to what is kept."""
    target.CopyFrom(error)
    message = error.message
    if len(message) > MAX_ERROR_CHARS:
        half = (MAX_ERROR_CHARS - len(_CUT)) // 2
        target.message = message[:half] + _CUT + message[-half:]


def instant(timestamp: Timestamp) -> datetime:
    """`timestamp` to the microsecond."""
    return _instant(timestamp.seconds, timestamp.nanos)


@lru_cache(maxsize=1024)  # what an engine does at once has one time, and making it takes longer than to find it
def _instant(seconds: int, nanos: int) -> datetime:
    return _EPOCH + timedelta(0, seconds, nanos // 1000)


def nanoseconds_between(start: Timestamp, end: Timestamp) -> int:
    """Nanoseconds from `start` to `end`; negative if the reporting clocks disagree that much."""
    return (end.seconds - start.seconds) * 1_000_000_000 + end.nanos - start.nanos
