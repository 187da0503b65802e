"""Write a group of operations on executions in one transaction: the journal, and the rows that it is folded into.

An operation is an append of a lease holder, an event of an outside engine, or a decision of the control plane.  The
recorder locks the executions in key order, loads what the operations touch and is not remembered, folds in memory, and
writes everything back with one statement per table.  Operations on one execution are applied in the order given.  A
recorder remembers rows of executions in progress between groups; what it remembers holds as long as the execution's
`last_sequence` did not move.  Source: design.md section 2.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from flyteidl.admin.event_pb2 import WorkflowExecutionEventRequest
from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier
from flyteidl.event.event_pb2 import WorkflowExecutionEvent
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.admin.domain.attempts import fold_task, fold_task_state
from aerodrome.admin.domain.folding import (
    ItemChange,
    Surroundings,
    abort_workflow,
    fold_items,
    fold_node,
    fold_node_state,
    fold_workflow,
    force_abort_nodes,
    force_abort_workflow,
    same_execution,
)
from aerodrome.admin.domain.phases import WORKFLOW_NAMES, WORKFLOW_TERMINAL, Writer
from aerodrome.admin.domain.rows import ExecutionRow, Folded, NodeRow, TaskKey, TaskRow
from aerodrome.admin.domain.validation import not_found, proto_text
from aerodrome.admin.domain.verdicts import (
    ACCEPTED,
    Accepted,
    Refused,
    Repeated,
    Verdict,
    incompatible_cluster,
    refuse,
)
from aerodrome.admin.managers.changes import ItemsReport, NodeReport, Report, TaskReport, WorkflowReport
from aerodrome.admin.repositories.folded import FoldedRepository, NodeKey
from aerodrome.admin.repositories.journal import Entry, EntryKind, JournalRepository, LeaseRow
from aerodrome.idl.journal.v1.journal_pb2 import (
    AppendStatus,
    Control,
    ExecutionAppendResult,
    TransitionResult,
    TransitionStatus,
)
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AerodromeError, AlreadyExists, NotFound
from aerodrome.stdlib.postgres.database import Connection, Database

TERMINAL_TOPIC = "executions.terminal"
"""Outbox topic of executions that ended: key is the execution id, payload a WorkflowExecutionEventRequest."""


class Gone(NotFound):
    """The execution of an operation does not exist (any more)."""


# --- operations


@dataclass(slots=True)
class Append:
    """A holder's transitions of one execution."""

    execution_id: int
    session_id: int
    epoch: int
    first_sequence: int
    reports: Sequence[Report]

    @property
    def weight(self) -> int:
        return len(self.reports) or 1


@dataclass(slots=True)
class Event:
    """One event of an outside engine."""

    execution_id: int
    report: WorkflowReport | NodeReport | TaskReport
    weight: int = 1


@dataclass(slots=True)
class Abort:
    """Somebody wants the execution to end."""

    execution_id: int
    cause: str
    principal: str
    weight: int = 1


@dataclass(slots=True)
class ForceAbort:
    """An operator ends the execution without asking its engine."""

    execution_id: int
    cause: str
    weight: int = 1


@dataclass(slots=True)
class SetSignal:
    """Somebody gives a signal its value (a serialized flyteidl.core.Literal)."""

    execution_id: int
    signal_id: str
    value: bytes
    weight: int = 1


Operation = Append | Event | Abort | ForceAbort | SetSignal

Outcome = ExecutionAppendResult | AerodromeError | None
"""What an operation is answered: an append's result, an error, or None for done."""


@dataclass(slots=True)
class Told:
    """What a group means for others, once it is committed."""

    controls: list[tuple[int, Control]] = field(default_factory=list)
    """Decisions, with the session that has to carry them out."""
    ended: list[tuple[int, int | None]] = field(default_factory=list)
    """Executions that are over, with the session that held them."""


_STATUS_OF = {
    TransitionStatus.TRANSITION_STATUS_ACCEPTED: "",
    TransitionStatus.TRANSITION_STATUS_REPEATED: "it was recorded before",
    TransitionStatus.TRANSITION_STATUS_REFUSED: "it was refused before",
    TransitionStatus.TRANSITION_STATUS_ABORTING: "the execution is being aborted",
}
_APPEND_ACCEPTED = TransitionResult(status=TransitionStatus.TRANSITION_STATUS_ACCEPTED)


@dataclass(slots=True)
class _Working:
    """One execution while its group is being written."""

    lease: LeaseRow
    folded: Folded
    row: ExecutionRow | None = None
    row_changed: bool = False
    lease_changed: bool = False
    session_before: int | None = None
    nodes: dict[str, NodeRow] = field(default_factory=dict)
    tasks: dict[tuple[str, TaskKey], TaskRow] = field(default_factory=dict)
    items: list[tuple[str, ItemChange]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    ended: bool = False
    signals: list[tuple[str, bytes]] = field(default_factory=list)


class Recorder:
    """Writes groups, one at a time; remembers rows of up to `cached_nodes` nodes between them."""

    def __init__(self, database: Database, clock: Clock, *, cached_nodes: int) -> None:
        self._database = database
        self._clock = clock
        self._cached_nodes = cached_nodes
        self._remembered: OrderedDict[int, _Memory] = OrderedDict()
        self._weight = 0

    @property
    def remembered_nodes(self) -> int:
        """How many nodes are remembered now."""
        return self._weight

    async def record(self, operations: Sequence[Operation]) -> tuple[list[Outcome], Told]:
        """Apply the operations of a group and commit; answers are in the order of the operations.

        Raises an AerodromeError if nothing was applied (or, when the database was lost at the commit, perhaps all of
        it; operations are idempotent, so that they can be repeated).
        """
        execution_ids = sorted({operation.execution_id for operation in operations})
        told = Told()
        try:
            async with self._database.transaction() as connection:
                group = _Group(connection, self._clock.now(), told)
                await group.open(execution_ids, self._remembered)
                outcomes = await group.apply(operations)
                await group.write()
        except BaseException:
            for execution_id in execution_ids:
                self.forget(execution_id)
            raise
        now = self._clock.boottime()
        for working in group.executions.values():
            self._remember(working, now)
        while self._weight > self._cached_nodes and self._remembered:
            self.forget(next(iter(self._remembered)))
        return outcomes, told

    def forget(self, execution_id: int) -> None:
        """Remember nothing of an execution."""
        memory = self._remembered.pop(execution_id, None)
        if memory is not None:
            self._weight -= memory.weight

    def forget_idle(self, idle_seconds: float) -> None:
        """Remember nothing of executions to which nothing happened for a while."""
        horizon = self._clock.boottime() - idle_seconds
        while self._remembered:
            execution_id, memory = next(iter(self._remembered.items()))
            if memory.used_at > horizon:
                return
            self.forget(execution_id)

    def _remember(self, working: _Working, now: float) -> None:
        folded = working.folded
        execution_id = folded.execution_id
        memory = self._remembered.get(execution_id)
        if memory is None or memory.folded is not folded:
            self.forget(execution_id)
            if folded.is_over:
                return
            memory = self._remembered[execution_id] = _Memory(folded)
        elif folded.is_over:
            self.forget(execution_id)
            return
        folded.last_sequence = working.lease.last_sequence
        for node_id, row in working.nodes.items():
            if row.is_over:  # hardly anything will happen to it any more
                folded.unload(node_id)
        weight = 1 + len(folded.nodes)
        for items in folded.items.values():
            weight += len(items.phases) // 512
        self._weight += weight - memory.weight
        memory.weight = weight
        memory.used_at = now
        self._remembered.move_to_end(execution_id)


@dataclass(slots=True)
class _Memory:
    folded: Folded
    weight: int = 0
    used_at: float = 0.0


class _Group:
    """The work of one transaction."""

    def __init__(self, connection: Connection, now: datetime, told: Told) -> None:
        self._journal = JournalRepository(connection)
        self._rows = FoldedRepository(connection)
        self._now = now
        self._told = told
        self.executions: dict[int, _Working] = {}

    async def open(self, execution_ids: Sequence[int], remembered: OrderedDict[int, _Memory]) -> None:
        """Lock the executions, and recall or look up what they are."""
        leases = await self._journal.lock(execution_ids)
        unknown = []
        for execution_id, lease in leases.items():
            memory = remembered.get(execution_id)
            if memory is None or memory.folded.last_sequence != lease.last_sequence:
                unknown.append(execution_id)
        described = await self._journal.describe(unknown) if unknown else {}
        for execution_id, lease in leases.items():
            folded = described.get(execution_id)
            if folded is None:
                memory = remembered.get(execution_id)
                if memory is None or execution_id in unknown:
                    continue  # removed between two statements
                folded = memory.folded
            else:
                folded.last_sequence = lease.last_sequence
                folded.complete = lease.last_sequence == 0
            self.executions[execution_id] = _Working(lease, folded, session_before=lease.session_id)

    async def apply(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Load what the operations touch, and fold them."""
        await self._load(operations)
        return [await self._apply(operation) for operation in operations]

    async def write(self) -> None:
        """Write everything that changed."""
        every = list(self.executions.values())
        entries = [entry for working in every for entry in working.entries]
        if entries:
            await self._journal.add(entries)
        nodes = [(working.folded.execution_id, row) for working in every for row in working.nodes.values()]
        if nodes:
            await self._rows.put_nodes(nodes)
        tasks = [
            (working.folded.execution_id, node_id, row)
            for working in every
            for (node_id, _), row in working.tasks.items()
        ]
        if tasks:
            await self._rows.put_tasks(tasks)
        items = [
            (working.folded.execution_id, node_id, change) for working in every for node_id, change in working.items
        ]
        if items:
            await self._rows.put_items(items)
        rows = [working.row for working in every if working.row_changed and working.row is not None]
        if rows:
            await self._rows.update_executions(rows)
        leases = [working.lease for working in every if working.lease_changed]
        if leases:
            await self._journal.update_leases(leases)
        ended = [_ended_message(working) for working in every if working.ended]
        if ended:
            await self._journal.add_outbox(ended)

    # --- loading

    async def _load(self, operations: Sequence[Operation]) -> None:
        nodes: dict[NodeKey, None] = {}
        items: dict[NodeKey, None] = {}
        rows: dict[int, None] = {}
        for operation in operations:
            working = self.executions.get(operation.execution_id)
            if working is None:
                continue
            if isinstance(operation, Append):
                for report in operation.reports:
                    self._want(working.folded, report, nodes, items, rows)
            elif isinstance(operation, Event):
                self._want(working.folded, operation.report, nodes, items, rows)
            elif not isinstance(operation, SetSignal):
                rows[operation.execution_id] = None
        if rows:
            for execution_id, row in (await self._rows.lock_executions(sorted(rows))).items():
                self.executions[execution_id].row = row
        if nodes:
            found = await self._rows.load_nodes(list(nodes))
            for key in nodes:
                folded = self.executions[key[0]].folded
                folded.nodes[key[1]] = found.get(key)
                folded.unloaded.discard(key[1])
        if items:
            for (execution_id, node_id), known in (await self._rows.load_items(list(items))).items():
                folded = self.executions[execution_id].folded
                folded.items[node_id] = known
                folded.items_unloaded.discard(node_id)
        for operation in operations:
            working = self.executions.get(operation.execution_id)
            if working is None:
                continue
            if isinstance(operation, Append):
                for report in operation.reports:
                    if isinstance(report, NodeReport):
                        await self._look_around(working, report)
            elif isinstance(operation, Event) and isinstance(operation.report, NodeReport):
                await self._look_around(working, operation.report)

    @staticmethod
    def _want(
        folded: Folded,
        report: Report,
        nodes: dict[NodeKey, None],
        items: dict[NodeKey, None],
        rows: dict[int, None],
    ) -> None:
        if isinstance(report, WorkflowReport):
            if report.event is not None:
                rows[folded.execution_id] = None
            return
        if folded.lacks(report.node_id):
            nodes[folded.execution_id, report.node_id] = None
        if isinstance(report, NodeReport):
            if report.event is not None:
                parent_id = report.event.parent_node_metadata.node_id
                if parent_id and folded.lacks(parent_id):
                    nodes[folded.execution_id, parent_id] = None
        elif isinstance(report, ItemsReport) and folded.lacks_items(report.node_id):
            items[folded.execution_id, report.node_id] = None

    async def _look_around(self, working: _Working, report: NodeReport) -> None:
        """Find out what the event refers to in other tables."""
        event = report.event
        if event is None or not (event.HasField("parent_task_metadata") or event.HasField("workflow_node_metadata")):
            return
        parent_task_execution_id: int | None = None
        child_exists = False
        if event.HasField("parent_task_metadata") and event.parent_task_metadata.id.ByteSize():
            identifier = event.parent_task_metadata.id
            if same_execution(identifier.node_execution_id.execution_id, working.folded):
                parent_task_execution_id = await self._rows.find_task_id(working.folded.execution_id, identifier)
        if event.HasField("workflow_node_metadata") and working.lease.writer != Writer.LEASE.value:
            child_exists = await self._rows.exists_execution(event.workflow_node_metadata.execution_id)
        if parent_task_execution_id is not None or child_exists:
            report.around = Surroundings(
                parent_task_execution_id=parent_task_execution_id,
                child_exists=child_exists,
                dynamic_workflow_reference=report.around.dynamic_workflow_reference,
            )

    # --- folding

    async def _apply(self, operation: Operation) -> Outcome:
        working = self.executions.get(operation.execution_id)
        if isinstance(operation, Append):
            return self._append(working, operation)
        if working is None:
            return Gone("entry not found")
        try:
            if isinstance(operation, Event):
                return self._event(working, operation)
            if isinstance(operation, Abort):
                return self._abort(working, operation)
            if isinstance(operation, ForceAbort):
                return await self._force_abort(working, operation)
            return await self._signal(working, operation)
        except AerodromeError as error:  # raised before anything was changed
            return error

    def _append(self, working: _Working | None, append: Append) -> ExecutionAppendResult:
        if working is None:
            return ExecutionAppendResult(
                execution_id=append.execution_id,
                status=AppendStatus.APPEND_STATUS_NOT_FOUND,
                reason="there is no such execution",
            )
        lease = working.lease
        refused = _gate(working, append)
        if refused is not None:
            return refused
        statuses = bytearray()
        results: list[TransitionResult] = []
        before = lease.last_sequence
        for report in append.reports:
            verdict = self._fold(working, report, Writer.LEASE)
            if verdict is ACCEPTED:
                statuses.append(TransitionStatus.TRANSITION_STATUS_ACCEPTED)
                results.append(_APPEND_ACCEPTED)
                self._enter(working, report.kind, report.transition.SerializeToString())
            else:
                result = _result_of(verdict)
                statuses.append(result.status)
                results.append(result)
        if lease.last_sequence != before:
            lease.applied_first = append.first_sequence
            lease.applied_results = bytes(statuses)
        return ExecutionAppendResult(
            execution_id=append.execution_id,
            status=AppendStatus.APPEND_STATUS_APPLIED,
            last_sequence=lease.last_sequence,
            results=results,
        )

    def _event(self, working: _Working, event: Event) -> AerodromeError | None:
        report, lease = event.report, working.lease
        assert report.event is not None  # events always carry one
        if lease.writer == Writer.LEASE.value:
            return incompatible_cluster(report.event.producer_id, lease.cluster)
        verdict = self._fold(working, report, Writer.EVENTS)
        if isinstance(verdict, Repeated):
            return AlreadyExists(verdict.message)
        if isinstance(verdict, Refused):
            return verdict.error
        if lease.writer == "":
            lease.writer = Writer.EVENTS.value
            lease.state = "closed"
        self._enter(working, EntryKind.EVENT, report.transition.SerializeToString())
        return None

    def _abort(self, working: _Working, abort: Abort) -> AerodromeError | None:
        row = _row(working)
        abort_workflow(row, abort.cause, abort.principal)
        working.folded.phase = row.phase
        working.row_changed = True
        control = Control(execution_id=abort.execution_id, sequence=working.lease.last_sequence + 1)
        control.abort.cause = abort.cause
        control.abort.principal = abort.principal
        self._decide(working, control)
        return None

    async def _force_abort(self, working: _Working, abort: ForceAbort) -> AerodromeError | None:
        row = _row(working)
        at = Timestamp()
        at.FromDatetime(self._now)
        force_abort_workflow(row, abort.cause, at)
        folded, lease = working.folded, working.lease
        for node in await self._rows.load_live_nodes(abort.execution_id):
            folded.nodes[node.node_id] = node
        await self._rows.abort_items(abort.execution_id)
        for node in force_abort_nodes(folded, abort.cause, at):
            working.nodes[node.node_id] = node
            for key, task in node.tasks.items():
                working.tasks[node.node_id, key] = task
        folded.phase = row.phase
        working.row_changed = True
        control = Control(execution_id=abort.execution_id, sequence=lease.last_sequence + 1)
        control.force_abort.cause = abort.cause
        lease.epoch += 1
        self._decide(working, control)
        self._close(working)
        return None

    async def _signal(self, working: _Working, signal: SetSignal) -> AerodromeError | None:
        if not await self._journal.set_signal(signal.execution_id, signal.signal_id, signal.value):
            return NotFound("entry not found")
        if working.folded.is_over:
            return None  # nobody waits for it any more; the value is kept all the same
        control = Control(execution_id=signal.execution_id, sequence=working.lease.last_sequence + 1)
        control.signal.signal_id = signal.signal_id
        control.signal.value = signal.value
        self._decide(working, control)
        return None

    def _decide(self, working: _Working, control: Control) -> None:
        self._enter(working, EntryKind.CONTROL, control.SerializeToString())
        working.lease.control_sequence = working.lease.last_sequence
        if working.session_before is not None:
            self._told.controls.append((working.session_before, control))

    def _enter(self, working: _Working, kind: int, body: bytes) -> None:
        lease = working.lease
        lease.last_sequence += 1
        working.lease_changed = True
        working.entries.append((lease.execution_id, lease.last_sequence, lease.epoch, kind, body, self._now))

    def _close(self, working: _Working) -> None:
        """The execution is over: nobody holds it any more, and others are told."""
        working.lease.state = "closed"
        working.lease.session_id = None
        working.lease_changed = True
        working.ended = True
        self._told.ended.append((working.folded.execution_id, working.session_before))

    def _fold(self, working: _Working, report: Report, writer: Writer) -> Verdict:
        if report.refused is not None:
            return report.refused
        folded = working.folded
        if isinstance(report, NodeReport):
            if report.event is None:
                verdict = fold_node_state(folded, report.node_id, report.state)
            else:
                verdict = fold_node(folded, report.event, writer, report.around, report.state)
            if verdict is ACCEPTED:
                node = folded.nodes[report.node_id]
                assert node is not None  # folding has made it
                working.nodes[report.node_id] = node
            return verdict
        if isinstance(report, TaskReport):
            if report.event is None:
                verdict = fold_task_state(folded, report.node_id, report.attempt, report.state)
            else:
                verdict = fold_task(folded, report.event, writer, report.state)
            if verdict is ACCEPTED:
                node = folded.nodes[report.node_id]
                assert node is not None  # an attempt has a node
                for key, task in node.tasks.items():
                    if key.retry_attempt == report.attempt:
                        working.tasks[report.node_id, key] = task
            return verdict
        if isinstance(report, ItemsReport):
            verdict = fold_items(folded, report.node_id, report.changes)
            if verdict is ACCEPTED:
                working.items.extend((report.node_id, change) for change in report.changes)
            return verdict
        return self._fold_workflow(working, report, writer)

    def _fold_workflow(self, working: _Working, report: WorkflowReport, writer: Writer) -> Verdict:
        if report.event is None:
            if working.folded.is_over:
                return refuse(f"the execution is {WORKFLOW_NAMES[working.folded.phase]}")
            working.lease.workflow_state = report.state
            working.lease_changed = True
            return ACCEPTED
        row = _row(working)
        verdict = fold_workflow(row, report.event, writer)
        if verdict is ACCEPTED:
            working.row_changed = True
            working.folded.phase = row.phase
            working.folded.cluster = row.cluster
            if report.state:
                working.lease.workflow_state = report.state
            if row.phase in WORKFLOW_TERMINAL:
                self._close(working)
        return verdict


def _row(working: _Working) -> ExecutionRow:
    if working.row is None:
        raise Gone("entry not found")
    return working.row


def _gate(working: _Working, append: Append) -> ExecutionAppendResult | None:
    """The answer to an append that is not to be applied: repeated, stale, or not understood."""
    lease = working.lease
    if append.epoch == lease.epoch and lease.writer == Writer.LEASE.value and append.first_sequence:
        if append.first_sequence == lease.applied_first:
            if len(append.reports) != len(lease.applied_results):
                return _invalid(
                    append,
                    lease,
                    f"an append with first_sequence {append.first_sequence} was applied before; "
                    f"it had {len(lease.applied_results)} transitions, this one has {len(append.reports)}",
                )
            return _again(append, lease, lease.applied_results)
        if append.first_sequence < lease.applied_first:
            return _again(append, lease, bytes([TransitionStatus.TRANSITION_STATUS_REPEATED]) * len(append.reports))
    if lease.state != "held" or lease.session_id != append.session_id or lease.epoch != append.epoch:
        return ExecutionAppendResult(
            execution_id=append.execution_id,
            status=AppendStatus.APPEND_STATUS_STALE,
            last_sequence=lease.last_sequence,
            reason=_why_stale(working, append),
        )
    if not 0 < append.first_sequence <= lease.last_sequence + 1:
        return _invalid(
            append,
            lease,
            f"first_sequence is {append.first_sequence}, but the journal ends at {lease.last_sequence}: "
            "wait for the answer to one append before sending the next",
        )
    for position, report in enumerate(append.reports):
        if not _speaks_of(report, working.folded):
            return _invalid(append, lease, f"transition {position}: its event speaks of another execution")
    return None


def _speaks_of(report: Report, folded: Folded) -> bool:
    if isinstance(report, ItemsReport) or report.event is None:
        return True
    if isinstance(report, NodeReport):
        return same_execution(report.event.id.execution_id, folded)
    if isinstance(report, TaskReport):
        return same_execution(report.event.parent_node_execution_id.execution_id, folded)
    return same_execution(report.event.execution_id, folded)


def _why_stale(working: _Working, append: Append) -> str:
    lease = working.lease
    if working.folded.is_over:
        return f"the execution is {WORKFLOW_NAMES[working.folded.phase]}"
    if lease.writer == Writer.EVENTS.value:
        return "another engine reports this execution"
    if lease.epoch != append.epoch:
        return f"the epoch is {lease.epoch}, not {append.epoch}: the lease has passed on"
    return f"session {append.session_id} does not hold the lease"


def _invalid(append: Append, lease: LeaseRow, reason: str) -> ExecutionAppendResult:
    return ExecutionAppendResult(
        execution_id=append.execution_id,
        status=AppendStatus.APPEND_STATUS_INVALID,
        last_sequence=lease.last_sequence,
        reason=reason,
    )


def _again(append: Append, lease: LeaseRow, statuses: Iterable[int]) -> ExecutionAppendResult:
    return ExecutionAppendResult(
        execution_id=append.execution_id,
        status=AppendStatus.APPEND_STATUS_APPLIED,
        last_sequence=lease.last_sequence,
        results=[
            TransitionResult(
                status=TransitionStatus.ValueType(status), reason=_STATUS_OF[TransitionStatus.ValueType(status)]
            )
            for status in statuses
        ],
    )


def _result_of(verdict: Verdict) -> TransitionResult:
    if isinstance(verdict, Repeated):
        return TransitionResult(status=TransitionStatus.TRANSITION_STATUS_REPEATED, reason=verdict.message)
    if isinstance(verdict, Refused):
        status = (
            TransitionStatus.TRANSITION_STATUS_ABORTING
            if verdict.aborting
            else TransitionStatus.TRANSITION_STATUS_REFUSED
        )
        return TransitionResult(status=status, reason=verdict.error.message)
    assert isinstance(verdict, Accepted)
    return _APPEND_ACCEPTED


def _ended_message(working: _Working) -> tuple[str, str, bytes]:
    folded, row = working.folded, working.row
    event = WorkflowExecutionEvent(
        execution_id=WorkflowExecutionIdentifier(project=folded.project, domain=folded.domain, name=folded.name),
        producer_id=folded.cluster,
    )
    if row is not None:
        event.phase = row.closure.phase
        event.occurred_at.CopyFrom(row.closure.updated_at)
        if row.closure.HasField("error"):
            event.error.CopyFrom(row.closure.error)
        elif row.closure.HasField("outputs"):
            event.output_uri = row.closure.outputs.uri
    request = WorkflowExecutionEventRequest(
        request_id=f"{folded.execution_id}-{working.lease.last_sequence}", event=event
    )
    return TERMINAL_TOPIC, str(folded.execution_id), request.SerializeToString()


def unknown_execution(identifier: WorkflowExecutionIdentifier, *, of_a_part: bool) -> NotFound:
    """The error for an event of an execution that does not exist; `of_a_part` for node and task events."""
    error = not_found("execution", identifier)
    if not of_a_part:
        return error
    return NotFound(f"Failed to get existing execution id: [{proto_text(identifier)}] with err: {error.message}")
