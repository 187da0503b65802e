"""The engine's own record as a journal of plain values: what is appended, what is refused, what the next holder reads.

It keeps what a restart needs and nothing that only people read.  A node's state is the bytes that the transcript writes
down in production, and the next holder gets an `Assignment` of `NodeSnapshot`s which the transcript reads: there is one
way to restore.  Which phase may follow which, and what an abort refuses, are the control plane's own tables
(`aerodrome.admin.domain.phases`); the order of looking at them is that of its folding, which `journalled` has whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

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
    TaskPhase,
    WorkflowPhase,
    node_may_become,
    task_may_become,
    workflow_may_become,
)
from aerodrome.admin.domain.phases import NodePhase as Shown
from aerodrome.admin.domain.verdicts import ACCEPTED, Refused, Repeated, Verdict, refuse
from aerodrome.idl.journal.v1 import journal_pb2
from aerodrome.idl.propeller.v1 import state_pb2
from aerodrome.plugins.api import ErrorKind, Failure
from aerodrome.propeller import transcript
from aerodrome.propeller.engine.graph import NodeKind
from aerodrome.propeller.engine.phases import NodePhase
from aerodrome.propeller.engine.phases import WorkflowPhase as Own
from aerodrome.propeller.engine.state import NodeTransition, SavedWorkflow, TaskTransition, WorkflowTransition
from aerodrome.propeller.transcript import NODE_EVENT, WORKFLOW_EVENT, ItemEvent, ItemsTransition, Transcript, Written
from aerodrome.stdlib.errors import FailedPrecondition

WITH_ITEMS: Final = frozenset({"QUEUED", "RUNNING", "TIMED_OUT"})
"""Nodes whose items the next holder is told of."""
ITEM_ERRORS: Final = 10
"""How many errors of them."""
_FINISHED: Final = frozenset({TaskPhase.SUCCEEDED, TaskPhase.ABORTED, TaskPhase.FAILED, TaskPhase.RETRYABLE_FAILED})
_REPEATED: Final = Repeated("it was recorded before")
_ABORTING: Final = Refused(FailedPrecondition("the execution is being aborted"), aborting=True)


class NodeEntry(NamedTuple):
    """A node changed; `phase` is NOTHING where only its state did."""

    name: str
    phase: int
    state: bytes
    failure: Failure | None
    parent: str | None
    parent_attempt: int | None
    array: bool
    dynamic: bool
    made: str
    """Of a dynamic node: where the graph is that it goes on with."""


class TaskEntry(NamedTuple):
    """An attempt changed its phase."""

    name: str
    attempt: int
    phase: int
    version: int
    failure: Failure | None


class ItemState(NamedTuple):
    """An item as it was left."""

    phase: int
    attempt: int
    system_failures: int
    failure: Failure | None
    at: float
    """When, in seconds since 1970."""


class ItemsEntry(NamedTuple):
    """Items changed, by index."""

    name: str
    items: tuple[tuple[int, ItemState], ...]


class WorkflowEntry(NamedTuple):
    """The execution changed, or somebody wants it to end (`cause`)."""

    phase: Own | None
    failure: Failure | None
    cause: str


Entry = NodeEntry | TaskEntry | ItemsEntry | WorkflowEntry


class Attempt(NamedTuple):
    """An attempt as it was left."""

    phase: int
    version: int
    noted: tuple[int, int] | None
    """Phase and version of the last state that was kept beside its events."""
    failure: Failure | None


class Row:
    """What the entries of a node come to."""

    __slots__ = (
        "array",
        "attempts",
        "dynamic",
        "failure",
        "items",
        "made",
        "parent",
        "parent_attempt",
        "phase",
        "state",
    )

    def __init__(self) -> None:
        self.phase: int = NOTHING
        self.state = b""
        self.failure: Failure | None = None
        self.parent: str | None = None
        self.parent_attempt: int | None = None
        self.array = False
        self.dynamic = False
        self.made = ""
        self.attempts: Mapping[int, Attempt] = {}
        self.items: Mapping[int, ItemState] = {}

    def copy(self) -> Row:
        """The same, to be changed; what it holds is replaced and never changed."""
        other = Row.__new__(Row)
        other.phase, other.state, other.failure = self.phase, self.state, self.failure
        other.parent, other.parent_attempt, other.array = self.parent, self.parent_attempt, self.array
        other.dynamic, other.made = self.dynamic, self.made
        other.attempts, other.items = self.attempts, self.items
        return other


class Attempted(NamedTuple):
    """An attempt as anybody sees it."""

    number: int
    phase: str
    by_system: bool


class Told(NamedTuple):
    """A node as anybody sees it."""

    phase: str
    over: bool
    """Neither it nor an attempt of it can change any more."""
    parent: str | None
    parent_attempt: int | None
    array: bool
    dynamic: bool
    attempts: tuple[Attempted, ...]
    items: tuple[tuple[int, int], ...]
    """Phase and attempt of those that began."""
    outputs: str
    """Where they are; always empty in a record that has no references."""


class Journal:
    """One execution's entries and what they come to."""

    has_references = False
    outputs = ""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.abort_cause = ""
        self._phase: int = WorkflowPhase.UNDEFINED
        self._own = Own.READY
        self._failure: Failure | None = None
        self._ran = False
        self._rows: dict[str, Row] = {}
        self._mine: set[str] = set()
        """Rows that no copy shares."""
        self._told: dict[str, Told] | None = None
        """What was said last: it does not change any more once the execution is over."""

    @classmethod
    def replayed(cls, entries: Iterable[Entry]) -> Journal:
        """What a journal comes to, or any beginning of one."""
        journal = cls()
        for entry in entries:
            if isinstance(entry, WorkflowEntry) and entry.cause:
                journal.abort(entry.cause)
            else:
                verdict = journal._fold(entry)
                assert verdict is ACCEPTED, f"{entry} was accepted, and is not when it is told again: {verdict}"
        return journal

    def copy(self) -> Journal:
        """The same journal, to go on with otherwise."""
        other = Journal()
        other.entries = self.entries.copy()
        other.abort_cause = self.abort_cause
        other._phase, other._own, other._failure, other._ran = self._phase, self._own, self._failure, self._ran
        other._rows = self._rows.copy()
        self._mine = set()
        return other

    # What is appended

    def append(self, writer: Transcript, transitions: Sequence[Written]) -> list[Verdict]:
        """Record what a holder reports, and what comes of each; how nodes stand was kept by `writer` before."""
        verdicts: list[Verdict] = []
        for one in transitions:
            if isinstance(one, NodeTransition):
                entry: Entry = _node_entry(one)
            elif isinstance(one, TaskTransition):
                entry = TaskEntry(one.node.unique_id, one.attempt, one.phase, one.version, one.failure)
            elif isinstance(one, ItemsTransition):
                entry = _items_entry(one)
            elif isinstance(one, WorkflowTransition):
                entry = WorkflowEntry(one.phase, one.failure, "")
            else:
                entry = _item_entry(one)
            verdicts.append(self._fold(entry))
        return verdicts

    def abort(self, cause: str) -> None:
        """Somebody wants the execution to end."""
        assert self._phase not in WORKFLOW_TERMINAL
        self._phase = WorkflowPhase.ABORTING
        self.abort_cause = cause
        self.entries.append(WorkflowEntry(None, None, cause))

    def _fold(self, entry: Entry) -> Verdict:
        verdict = _FOLDS[type(entry)](self, entry)
        if verdict is ACCEPTED:
            self.entries.append(entry)
        return verdict

    def _row(self, name: str) -> Row:
        """The row of a node, to be changed."""
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = Row()
            self._mine.add(name)
        elif name not in self._mine:
            row = self._rows[name] = row.copy()
            self._mine.add(name)
        return row

    def _fold_node(self, entry: NodeEntry) -> Verdict:
        name, phase = entry.name, entry.phase
        known = self._rows.get(name)
        if phase == NOTHING:
            if self._phase in WORKFLOW_TERMINAL:
                return self._over()
            if known is not None and known.state == entry.state:
                return _REPEATED
            self._row(name).state = entry.state
            return ACCEPTED
        stored = NOTHING if known is None else known.phase
        if stored == NOTHING:
            if entry.parent is not None:
                parent = self._rows.get(entry.parent)
                if parent is None or parent.phase == NOTHING:
                    return refuse(f"{name} is in {entry.parent}, of which nothing was told")
        elif stored == phase:
            assert known is not None
            if phase != Shown.DYNAMIC_RUNNING or not entry.made or entry.made == known.made:
                return _REPEATED
        elif stored in NODE_TERMINAL:
            return refuse(f"node {name} is {NODE_NAMES[stored]} and cannot be {NODE_NAMES[phase]}")
        if self._phase in WORKFLOW_TERMINAL:
            return self._over()
        if self._phase == WorkflowPhase.ABORTING and phase in NODE_STARTS:
            return _ABORTING
        if stored != phase and not node_may_become(stored, phase):
            return refuse(f"node {name} is {NODE_NAMES[stored] or 'nothing'} and cannot be {NODE_NAMES[phase]}")
        row = self._row(name)
        row.phase, row.state = phase, entry.state
        if stored == NOTHING:
            row.parent, row.parent_attempt = entry.parent, entry.parent_attempt
        row.array = row.array or entry.array
        row.dynamic = row.dynamic or entry.dynamic
        row.made = entry.made or row.made
        if entry.failure is not None:
            row.failure = entry.failure
        return ACCEPTED

    def _fold_task(self, entry: TaskEntry) -> Verdict:
        name, number, phase = entry.name, entry.attempt, entry.phase
        node = self._rows.get(name)
        if node is None or node.phase == NOTHING:
            return refuse(f"attempt {number} of {name}, of which nothing was told")
        known = node.attempts.get(number)
        if known is not None:
            if known.phase == phase and known.version >= entry.version:
                return _REPEATED
            if known.phase in TASK_TERMINAL:
                return refuse(f"attempt {number} of {name} is {TASK_NAMES[known.phase]}, not {TASK_NAMES[phase]}")
        if self._phase in WORKFLOW_TERMINAL:
            return self._over()
        if not task_may_become(NOTHING if known is None else known.phase, phase):
            return refuse(f"attempt {number} of {name} cannot be {TASK_NAMES[phase]} after {known}")
        if known is None:
            if phase not in TASK_OVER:
                if self._phase == WorkflowPhase.ABORTING:
                    return _ABORTING
                if node.phase in NODE_TERMINAL:
                    return refuse(f"node {name} is {NODE_NAMES[node.phase]}; no attempt of it may start")
            for other, attempt in node.attempts.items():
                if attempt.phase not in TASK_OVER or other >= number:
                    return refuse(f"attempt {number} of {name} after {other} in {TASK_NAMES[attempt.phase]}")
        noted = known.noted if known is not None else None
        if phase != TaskPhase.QUEUED and phase not in _FINISHED:
            noted = (phase, entry.version)
        row = self._row(name)
        row.attempts = {**row.attempts, number: Attempt(phase, entry.version, noted, entry.failure)}
        return ACCEPTED

    def _fold_items(self, entry: ItemsEntry) -> Verdict:
        name = entry.name
        if self._phase in WORKFLOW_TERMINAL:
            return self._over()
        row = self._rows.get(name)
        if row is None or row.phase == NOTHING:
            return refuse(f"items of {name}, of which nothing was told")
        items = dict(row.items)
        for index, told in entry.items:
            known = items.get(index)
            starts = known is None or told.attempt > known.attempt
            if starts and told.phase not in TASK_OVER and self._phase == WorkflowPhase.ABORTING:
                return _ABORTING
            if known is not None:
                if not _item_may_become(known, told):
                    return refuse(f"item {index} of {name} cannot be {told} after {known}")
                if told.failure is None:
                    told = told._replace(failure=known.failure)  # the last one stays
            items[index] = told
        self._row(name).items = items
        return ACCEPTED

    def _fold_workflow(self, entry: WorkflowEntry) -> Verdict:
        own = entry.phase
        assert own is not None
        phase = WORKFLOW_EVENT.get(own)
        stored = self._phase
        if phase is None:
            if stored in WORKFLOW_TERMINAL:
                return self._over()
        else:
            if phase == stored:
                return _REPEATED
            if stored in WORKFLOW_TERMINAL:
                return self._over()
            if stored == WorkflowPhase.ABORTING and phase not in WORKFLOW_TERMINAL:
                return _ABORTING
            if not workflow_may_become(stored, phase) or (phase == WorkflowPhase.SUCCEEDED and not self._ran):
                return refuse(f"the execution is {WORKFLOW_NAMES[stored]} and cannot be {WORKFLOW_NAMES[phase]}")
            self._phase = phase
            self._ran = self._ran or phase == WorkflowPhase.RUNNING
        self._own, self._failure = own, entry.failure
        return ACCEPTED

    def _over(self) -> Refused:
        return refuse(f"the execution is {WORKFLOW_NAMES[self._phase]}")

    # What it comes to

    @property
    def over(self) -> bool:
        """The execution is in a terminal phase."""
        return self._phase in WORKFLOW_TERMINAL

    @property
    def phase(self) -> str:
        """The execution's, as anybody sees it."""
        return WORKFLOW_NAMES[self._phase]

    def told(self) -> dict[str, Told]:
        """The nodes, as anybody sees them."""
        if self._told is None or not self.over:
            self._told = {name: _told(row) for name, row in self._rows.items() if row.phase != NOTHING}
        return self._told

    def saved(self, now: float) -> SavedWorkflow:
        """What the next holder of the lease reads at that instant."""
        state = state_pb2.WorkflowState(phase=self._own)
        if self._failure is not None:
            state.error = _written(self._failure)
        assignment = journal_pb2.Assignment()
        if self._own is not Own.READY:
            assignment.workflow_state = state.SerializeToString()
        for name, row in self._rows.items():
            snapshot = assignment.nodes.add(node_id=name, phase=NODE_NAMES[row.phase], state=row.state)
            if row.attempts:
                number = max(row.attempts)
                noted = row.attempts[number].noted
                if noted is not None:
                    snapshot.attempt_state = state_pb2.NodeState(
                        attempts=number, task_phase=noted[0], task_version=noted[1]
                    ).SerializeToString()
            if row.phase == Shown.FAILED and row.failure is not None:
                snapshot.error = _written(row.failure)
            if row.items and snapshot.phase in WITH_ITEMS:
                _add_items(snapshot, row.items, now)
        return transcript.read(assignment)

    def check_fold(self) -> None:
        """Raises AssertionError unless the rows are what the entries come to (I8)."""
        again = Journal.replayed(self.entries)
        assert again.told() == self.told(), "the journal gives other nodes than the rows have"
        assert again.saved(0.0) == self.saved(0.0), "the journal gives another past than the rows have"


_FOLDS: Mapping[type, Callable[[Journal, Entry], Verdict]] = {
    NodeEntry: Journal._fold_node,  # type: ignore[dict-item]
    TaskEntry: Journal._fold_task,  # type: ignore[dict-item]
    ItemsEntry: Journal._fold_items,  # type: ignore[dict-item]
    WorkflowEntry: Journal._fold_workflow,  # type: ignore[dict-item]
}


@lru_cache(maxsize=1_000)
def _written(failure: Failure) -> bytes:
    return transcript.error_of(failure).SerializeToString()


@lru_cache(maxsize=1_000)
def _written_short(failure: Failure) -> bytes:
    return transcript.item_error(failure).SerializeToString()


def _node_entry(one: NodeTransition) -> NodeEntry:
    node, phase = one.node, one.phase
    assert one.state is not None
    owner = node.scope.owner
    return NodeEntry(
        node.unique_id,
        NOTHING if phase is None else NODE_EVENT[phase],
        one.state,
        one.failure,
        owner.unique_id if owner is not None else None,
        node.scope.owner_attempt,
        node.spec.kind is NodeKind.ARRAY,
        phase is NodePhase.DYNAMIC_RUNNING or (node.spec.kind is NodeKind.TASK and node.inner is not None),
        one.detail["task_node_metadata"].dynamic_workflow.dynamic_job_spec_uri
        if phase is NodePhase.DYNAMIC_RUNNING
        else "",
    )


def _item_entry(one: ItemEvent) -> NodeEntry | TaskEntry:
    """An item that is shown as a node, or an attempt of it; under the name that it has in the model."""
    node, change = one.node, one.change
    name = f"{node.unique_id}[{change.index}]"
    if one.phase is not None:
        return NodeEntry(
            name, NODE_EVENT[one.phase], b"", change.failure, node.unique_id, node.attempts, False, False, ""
        )
    phase = int(change.phase)
    ended = phase == TaskPhase.RETRYABLE_FAILED
    return TaskEntry(name, change.attempt, TaskPhase.FAILED if ended else phase, 0, change.failure)


def _items_entry(one: ItemsTransition) -> ItemsEntry:
    changes = one.changes
    return ItemsEntry(
        one.node.unique_id,
        tuple(
            (index, ItemState(change.phase, change.attempt, change.system_failures, change.failure, change.at))
            for index, change in sorted(changes.items())
        ),
    )


def _item_may_become(known: ItemState, told: ItemState) -> bool:
    if known.phase == TaskPhase.SUCCEEDED:
        return told.phase == known.phase and told.attempt == known.attempt
    if told.attempt == known.attempt:
        return told.phase == known.phase or (
            known.phase not in TASK_TERMINAL and task_may_become(known.phase, told.phase)
        )
    return told.attempt > known.attempt and known.phase in TASK_OVER


def _add_items(snapshot: journal_pb2.NodeSnapshot, items: Mapping[int, ItemState], now: float) -> None:
    errors = 0
    for index in sorted(items):
        item = items[index]
        told = snapshot.items.add(
            first=index, last=index, attempt=item.attempt, system_failures=item.system_failures, phase=item.phase
        )
        told.failed_ms_ago = failed_ms_ago(item.phase, item.attempt, item.at, now)
        told.changed_ms_ago = changed_ms_ago(item.phase, item.at, now)
        if item.phase == TaskPhase.FAILED:
            errors += 1
            if errors <= ITEM_ERRORS and item.failure is not None:
                told.error = _written_short(item.failure)


def failed_ms_ago(phase: int, attempt: int, at: float, now: float) -> int:
    """How long ago the last attempt failed of an item that may have to wait for the next; it changed last at `at`."""
    waits = phase == TaskPhase.RETRYABLE_FAILED or (phase == TaskPhase.QUEUED and attempt > 0)
    return max(0, round((now - at) * 1_000)) if waits else 0


def changed_ms_ago(phase: int, at: float, now: float) -> int:
    """For how long an item has been in its phase that changed last at `at`, if its attempt is under way."""
    under_way = phase not in TASK_TERMINAL and phase not in (TaskPhase.UNDEFINED, TaskPhase.RETRYABLE_FAILED)
    return max(0, int((now - at) * 1_000)) if under_way else 0


def _told(row: Row) -> Told:
    attempts = tuple(
        Attempted(
            number,
            TASK_NAMES[attempt.phase],
            attempt.failure is not None and attempt.failure.kind is ErrorKind.SYSTEM,
        )
        for number, attempt in sorted(row.attempts.items())
    )
    over = row.phase in NODE_TERMINAL and all(attempt.phase in TASK_OVER for attempt in row.attempts.values())
    items = tuple((item.phase, item.attempt) for _, item in sorted(row.items.items())) if row.items else ()
    return Told(
        NODE_NAMES[row.phase], over, row.parent, row.parent_attempt, row.array, row.dynamic, attempts, items, ""
    )
