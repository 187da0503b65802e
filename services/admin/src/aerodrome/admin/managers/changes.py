"""What a holder or an outside engine reports, decoded and checked once, before it is queued for the journal.

Nothing here looks at what is recorded.  Errors are InvalidArgument with the texts of spec/control-plane.md sections 1.2
and 5; for an append they make the whole append of that execution invalid.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flyteidl.core.identifier_pb2 import NodeExecutionIdentifier, ResourceType
from flyteidl.event.event_pb2 import NodeExecutionEvent, TaskExecutionEvent, WorkflowExecutionEvent
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.admin.domain.folding import CACHE_STATUS_NAMES, NOWHERE, ItemChange, Surroundings
from aerodrome.admin.domain.phases import NODE_NAMES, NOTHING, TASK_NAMES, WORKFLOW_NAMES
from aerodrome.admin.domain.validation import (
    MAX_TEXT_CHARS,
    check_execution_id,
    check_identifier,
    check_node_execution_id,
    check_task_execution_id,
    check_text,
    invalid_value,
    missing,
)
from aerodrome.admin.domain.verdicts import Refused
from aerodrome.admin.repositories.journal import EntryKind
from aerodrome.idl.journal.v1.journal_pb2 import (
    ItemsChange,
    NodeChange,
    TaskChange,
    Transition,
    WorkflowChange,
)
from aerodrome.stdlib.errors import InvalidArgument

_LATEST_SECONDS = 7_258_118_400
"""The year 2200: instants beyond are mistakes, and their differences would not fit a column."""
_TASK = int(ResourceType.TASK)
_MAX_INT = 2**31 - 1
_MAX_SMALLINT = 2**15 - 1
_SHOWN_CHARS = 200
"""How much of a name that does not fit is repeated in the error."""
_MAX_TEXT_BYTES = 64 * 1024
"""Longest reference or error code."""
MAX_STATE_BYTES = 8 * 2**20
"""Longest state that an engine may leave at an execution, a node or an attempt."""


@dataclass(slots=True)
class WorkflowReport:
    """A change of the execution itself.

    `stored` is where its inline data were put, which nothing refers to unless it was `recorded`; so for all reports.
    """

    transition: Transition
    event: WorkflowExecutionEvent | None
    state: bytes
    refused: Refused | None = None
    stored: tuple[str, ...] = ()
    recorded: bool = False

    kind = EntryKind.WORKFLOW


@dataclass(slots=True)
class NodeReport:
    """A change of a node."""

    transition: Transition
    node_id: str
    event: NodeExecutionEvent | None
    state: bytes
    around: Surroundings = NOWHERE
    refused: Refused | None = None
    stored: tuple[str, ...] = ()
    recorded: bool = False

    kind = EntryKind.NODE


@dataclass(slots=True)
class TaskReport:
    """A change of an attempt."""

    transition: Transition
    node_id: str
    attempt: int
    event: TaskExecutionEvent | None
    state: bytes
    refused: Refused | None = None
    stored: tuple[str, ...] = ()
    recorded: bool = False

    kind = EntryKind.TASK


@dataclass(slots=True)
class ItemsReport:
    """Changes of map items of a node."""

    transition: Transition
    node_id: str
    changes: tuple[ItemChange, ...]
    refused: Refused | None = None
    stored: tuple[str, ...] = ()
    recorded: bool = False

    kind = EntryKind.ITEMS

    @property
    def items(self) -> int:
        """How many items change; one that is in two ranges counts twice."""
        return sum(change.last - change.first + 1 for change in self.changes)


Report = WorkflowReport | NodeReport | TaskReport | ItemsReport


def decode(transitions: Iterable[Transition], *, max_items: int, first_position: int = 0) -> list[Report]:
    """The reports in `transitions`, the first of which is number `first_position` of its append.

    Raises InvalidArgument that says which one cannot be understood, and why.
    """
    reports: list[Report] = []
    for position, transition in enumerate(transitions, first_position):
        try:
            reports.append(_decode(transition, max_items))
        except InvalidArgument as error:
            raise InvalidArgument(f"transition {position}: {error.message}") from None
        except DecodeError as error:
            raise InvalidArgument(f"transition {position}: its event is not a valid message ({error})") from error
    return reports


def _decode(transition: Transition, max_items: int) -> Report:
    change = transition.WhichOneof("change")
    if change == "node":
        return _decode_node(transition, transition.node)
    if change == "task":
        return _decode_task(transition, transition.task)
    if change == "workflow":
        return _decode_workflow(transition, transition.workflow)
    if change == "items":
        return _decode_items(transition, transition.items, max_items)
    raise InvalidArgument("it has no change that is known here")


def _decode_workflow(transition: Transition, change: WorkflowChange) -> Report:
    state = _checked_state(change.state)
    if not change.event:
        return WorkflowReport(transition, None, state)
    event = WorkflowExecutionEvent.FromString(change.event)
    check_workflow_event(event)
    return WorkflowReport(transition, event, state)


def _decode_node(transition: Transition, change: NodeChange) -> Report:
    state = _checked_state(change.state)
    node_id = change.node_id
    if not change.event:
        if not node_id:
            raise missing("node_id")
        check_text("node_id", node_id)
        return NodeReport(transition, node_id, None, state)
    event = NodeExecutionEvent.FromString(change.event)
    check_node_event(event)
    if event.id.node_id != node_id:
        raise InvalidArgument(
            f"the event speaks of node {event.id.node_id[:_SHOWN_CHARS]}, the change of node {node_id[:_SHOWN_CHARS]}"
        )
    return NodeReport(transition, node_id, event, state)


def _decode_task(transition: Transition, change: TaskChange) -> Report:
    state = _checked_state(change.state)
    node_id = change.node_id
    if not change.event:
        if not node_id:
            raise missing("node_id")
        check_text("node_id", node_id)
        return TaskReport(transition, node_id, change.attempt, None, state)
    event = TaskExecutionEvent.FromString(change.event)
    check_task_event(event)
    if event.parent_node_execution_id.node_id != node_id or event.retry_attempt != change.attempt:
        raise InvalidArgument(
            f"the event speaks of attempt {event.retry_attempt} of node "
            f"{event.parent_node_execution_id.node_id[:_SHOWN_CHARS]}, "
            f"the change of attempt {change.attempt} of node {node_id[:_SHOWN_CHARS]}"
        )
    return TaskReport(transition, node_id, change.attempt, event, state)


def _decode_items(transition: Transition, change: ItemsChange, max_items: int) -> Report:
    if not change.node_id:
        raise missing("node_id")
    check_text("node_id", change.node_id)
    changes = []
    for item in change.ranges:
        if item.first > item.last or item.last >= max_items:
            raise InvalidArgument(
                f"items {item.first} to {item.last} are no range within the {max_items} that a map may have"
            )
        if item.phase not in TASK_NAMES:
            raise invalid_value("phase")
        if item.attempt > _MAX_INT or item.system_failures > _MAX_INT:
            raise invalid_value("attempt")
        if item.cache_status not in CACHE_STATUS_NAMES:
            raise invalid_value("cache_status")
        check_text("log_uri", item.log_uri, max_chars=None, max_bytes=_MAX_TEXT_BYTES)
        changes.append(
            ItemChange(
                first=item.first, last=item.last, attempt=item.attempt, system_failures=item.system_failures,
                phase=item.phase, error=item.error, cache_status=item.cache_status, log_uri=item.log_uri,
            )
        )  # fmt: skip
    return ItemsReport(transition, change.node_id, tuple(changes))


def check_workflow_event(event: WorkflowExecutionEvent) -> None:
    """Raise InvalidArgument unless the event says of which execution it speaks, and what can be stored."""
    if not event.HasField("execution_id"):
        raise missing("execution_id")
    check_execution_id(event.execution_id)
    _check_occurred_at(event)
    if event.phase not in WORKFLOW_NAMES:
        raise invalid_value("phase")
    check_text("producer_id", event.producer_id)
    result = event.WhichOneof("output_result")
    if result == "error":
        _check_long("error.code", event.error.code)
    elif result == "output_uri":
        _check_long("output_uri", event.output_uri)


def check_node_event(event: NodeExecutionEvent) -> None:
    """Raise InvalidArgument unless the event says of which node it speaks, and what can be stored."""
    _check_node_id(event.id)
    _check_occurred_at(event)
    if event.HasField("reported_at"):
        _check_instant("reported_at", event.reported_at)
    if event.phase not in NODE_NAMES or event.phase == NOTHING:
        raise invalid_value("phase")
    if not 0 <= event.event_version <= _MAX_SMALLINT:
        raise invalid_value("event_version")
    if event.input_uri:
        _check_long("input_uri", event.input_uri)
    if event.HasField("parent_node_metadata"):
        check_text("parent_node_metadata.node_id", event.parent_node_metadata.node_id)
    if event.HasField("parent_task_metadata") and event.parent_task_metadata.id.ByteSize():
        check_task_execution_id(event.parent_task_metadata.id)
    if event.HasField("workflow_node_metadata"):
        check_execution_id(event.workflow_node_metadata.execution_id)
    result = event.WhichOneof("output_result")
    if result == "error":
        _check_long("error.code", event.error.code)
    elif result == "output_uri":
        _check_long("output_uri", event.output_uri)


def check_task_event(event: TaskExecutionEvent) -> None:
    """Raise InvalidArgument unless the event says of which attempt it speaks, and what can be stored."""
    _check_occurred_at(event)
    if not event.HasField("task_id"):
        raise missing("task_id")
    if not event.HasField("parent_node_execution_id"):
        raise missing("node_execution_id")
    _check_node_id(event.parent_node_execution_id)
    task = event.task_id
    if task.resource_type != _TASK or not _are_plain(task.project, task.domain, task.name, task.version):
        check_identifier(task, _TASK)
    if event.HasField("reported_at"):
        _check_instant("reported_at", event.reported_at)
    if event.phase not in TASK_NAMES or event.phase == NOTHING:
        raise invalid_value("phase")
    if event.phase_version > _MAX_INT:
        raise invalid_value("phase_version")
    if event.retry_attempt > _MAX_INT:
        raise invalid_value("retry_attempt")
    if event.input_uri:
        _check_long("input_uri", event.input_uri)
    result = event.WhichOneof("output_result")
    if result == "error":
        _check_long("error.code", event.error.code)
    elif result == "output_uri":
        _check_long("output_uri", event.output_uri)


def _check_node_id(identifier: NodeExecutionIdentifier) -> None:
    execution = identifier.execution_id
    if not _are_plain(identifier.node_id, execution.project, execution.domain, execution.name):
        check_node_execution_id(identifier)


def _are_plain(first: str, second: str, third: str, fourth: str) -> bool:
    """Whether texts are fine at a glance: most are, and a closer look costs more than everything else here."""
    joined = first + second + third + fourth
    return (
        bool(first and second and third and fourth and len(joined) <= MAX_TEXT_CHARS and joined.isascii())
        and "\0" not in joined
    )


def _check_occurred_at(event: WorkflowExecutionEvent | NodeExecutionEvent | TaskExecutionEvent) -> None:
    if not event.HasField("occurred_at"):
        raise missing("occurred_at")
    _check_instant("occurred_at", event.occurred_at)


def _check_instant(field: str, timestamp: Timestamp) -> None:
    if not 0 <= timestamp.seconds < _LATEST_SECONDS or not 0 <= timestamp.nanos < 1_000_000_000:
        raise invalid_value(field)


def _check_long(field: str, value: str) -> None:
    if len(value) < 4096 and "\0" not in value and value.isascii():
        return
    check_text(field, value, max_chars=None, max_bytes=_MAX_TEXT_BYTES)


def _checked_state(state: bytes) -> bytes:
    if len(state) > MAX_STATE_BYTES:
        raise InvalidArgument(
            f"the engine's state has {len(state)} bytes, at most {MAX_STATE_BYTES} are kept here; "
            "write it to the storage and keep a reference"
        )
    return state
