"""Write a group of operations on executions at once: the journal, and the rows that it is folded into.

An operation is an append of a lease holder, an event of an outside engine, or a decision of the control plane.
Operations on one execution are applied in the order given.  A recorder remembers rows of executions in progress between
groups; what it remembers is checked when it writes.  Source: design.md section 2.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from flyteidl.admin.event_pb2 import (
    NodeExecutionEventRequest,
    TaskExecutionEventRequest,
    WorkflowExecutionEventRequest,
)
from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier
from flyteidl.event.event_pb2 import WorkflowExecutionEvent
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.admin.domain.announcing import EVENT_TOPICS, TERMINAL_TOPIC
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
from aerodrome.admin.domain.phases import (
    NODE_TERMINAL,
    NOTHING,
    TASK_OVER,
    WORKFLOW_NAMES,
    WORKFLOW_TERMINAL,
    TaskPhase,
    Writer,
)
from aerodrome.admin.domain.rows import Folded, NodeRow, TaskKey, TaskRow
from aerodrome.admin.domain.validation import not_found, proto_text
from aerodrome.admin.domain.verdicts import (
    ACCEPTED,
    Accepted,
    Refused,
    Repeated,
    Verdict,
    already_terminal,
    incompatible_cluster,
    refuse,
)
from aerodrome.admin.managers.changes import ItemsReport, NodeReport, Report, TaskReport, WorkflowReport
from aerodrome.admin.repositories.folded import FoldedRepository, NodeKey
from aerodrome.admin.repositories.journal import Changes, Entry, EntryKind, JournalRepository, LeaseRow
from aerodrome.idl.journal.v1.journal_pb2 import (
    AppendStatus,
    Control,
    ExecutionAppendResult,
    TransitionResult,
    TransitionStatus,
)
from aerodrome.stdlib import faults
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AerodromeError, AlreadyExists, Conflict, FailedPrecondition, NotFound
from aerodrome.stdlib.postgres.database import Connection, Database

_FOLD_AT_ONCE = 200
"""How many transitions are folded before others get a turn."""
_SIZES_TOLD = 4
"""Of how many nodes, and attempts, of a group others are told how large their closures are."""
_ITEMS_PER_WEIGHT = 10
"""How many map items cost as much to write as one transition."""


class Gone(NotFound):
    """The execution of an operation does not exist (any more)."""


_EMITTED: dict[type[object], str] = {WorkflowReport: "workflow", NodeReport: "node", TaskReport: "task"}


# --- operations


@dataclass(slots=True)
class Append:
    """A holder's transitions of one execution."""

    execution_id: int
    session_id: int
    epoch: int
    first_sequence: int
    reports: Sequence[Report]

    weight: int = field(init=False)

    def __post_init__(self) -> None:
        items = sum(report.items for report in self.reports if isinstance(report, ItemsReport))
        self.weight = len(self.reports) + items // _ITEMS_PER_WEIGHT or 1


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
    exists: bool = False
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
    ended_in: list[str] = field(default_factory=list)
    """The phases of those, by name and in the same order."""
    workflow_events: int = 0
    node_events: int = 0
    task_events: int = 0
    """How many events were accepted, of each kind."""
    nodes_begun: int = 0
    tasks_begun: int = 0
    nodes_ended: dict[int, int] = field(default_factory=dict)
    tasks_ended: dict[int, int] = field(default_factory=dict)
    """How many nodes and attempts events began, and ended in each phase."""
    lasted: list[tuple[str, str, float]] = field(default_factory=list)
    """Project, domain and duration in seconds of executions that are over and had begun."""
    node_bytes: list[int] = field(default_factory=list)
    task_bytes: list[int] = field(default_factory=list)
    """How large closures are, of a few of those that were written."""

    def __bool__(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.controls or self.ended or self.workflow_events or self.node_events or self.task_events)


_STATUS_OF = {
    TransitionStatus.TRANSITION_STATUS_ACCEPTED: "",
    TransitionStatus.TRANSITION_STATUS_REPEATED: "it was recorded before",
    TransitionStatus.TRANSITION_STATUS_REFUSED: "it was refused before",
    TransitionStatus.TRANSITION_STATUS_ABORTING: "the execution is being aborted",
}
_TRANSITION_ACCEPTED = TransitionStatus.TRANSITION_STATUS_ACCEPTED
_APPEND_APPLIED = AppendStatus.APPEND_STATUS_APPLIED
_RESULT_ACCEPTED = TransitionResult(status=_TRANSITION_ACCEPTED)


@lru_cache(maxsize=256)
def _all_accepted(count: int) -> bytes:
    """What most appends are answered, but for execution and sequence: it is parsed faster than made."""
    return ExecutionAppendResult(status=_APPEND_APPLIED, results=[_RESULT_ACCEPTED] * count).SerializeToString()


@dataclass(slots=True)
class _Memory:
    """What is remembered of an execution between groups."""

    lease: LeaseRow
    folded: Folded
    weight: int = 0
    used_at: float = 0.0


@dataclass(slots=True)
class _Working:
    """One execution while its group is being written."""

    lease: LeaseRow
    folded: Folded
    mark: tuple[object, ...]
    """How the lease was."""
    session_before: int | None
    own_changed: bool = False
    lease_changed: bool = False
    ended: bool = False
    ended_by_force: bool = False
    nodes: dict[str, NodeRow] = field(default_factory=dict)
    tasks: dict[tuple[str, TaskKey], TaskRow] = field(default_factory=dict)
    items: list[tuple[str, ItemChange]] = field(default_factory=list)
    retried_items: bool = False
    """Some of them failed and may begin anew at once: their errors have to be written before that."""
    entries: list[Entry] = field(default_factory=list)
    signals: list[SetSignal] = field(default_factory=list)


class Recorder:
    """Writes groups, one at a time; remembers rows of up to `cached_nodes` nodes between them.

    `emits` are the kinds of events that others want to hear of: accepted ones go to the outbox too.

    Rows are read without locks and folded in memory.  One statement then locks the executions, sees that none has moved
    on since, and writes everything; mostly it is the group's only round trip.  If one has moved on (a lease passed on,
    another replica wrote), the group is read and folded again under locks.
    """

    def __init__(
        self, database: Database, clock: Clock, *, cached_nodes: int, emits: frozenset[str] = frozenset()
    ) -> None:
        self._database = database
        self._clock = clock
        self._emits = emits
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
        group = _Group(self._clock.now(), self._emits)
        try:
            try:
                outcomes = await self._record(group, execution_ids, operations)
            except Conflict:
                for execution_id in execution_ids:
                    self.forget(execution_id)
                group = _Group(self._clock.now(), self._emits)
                outcomes = await self._record_locked(group, execution_ids, operations)
        except BaseException:
            for execution_id in execution_ids:
                self.forget(execution_id)
            raise
        if faults.enabled:
            _pass_points(operations)
        now = self._clock.boottime()
        for working in group.executions.values():
            self._remember(working, now)
        while self._weight > self._cached_nodes and self._remembered:
            self.forget(next(iter(self._remembered)))
        return outcomes, group.told

    async def _record(
        self, group: _Group, execution_ids: Sequence[int], operations: Sequence[Operation]
    ) -> list[Outcome]:
        group.recall(execution_ids, self._remembered)
        if group.has_to_read(execution_ids, operations):
            async with self._database.connection() as connection:
                await group.read(connection, execution_ids, operations)
        outcomes = await group.apply(operations)
        if group.has_more_to_write:
            async with self._database.transaction() as connection:
                await group.write(connection)
        else:
            async with self._database.connection() as connection:
                await group.write(connection)
        return outcomes

    async def _record_locked(
        self, group: _Group, execution_ids: Sequence[int], operations: Sequence[Operation]
    ) -> list[Outcome]:
        async with self._database.transaction() as connection:
            await JournalRepository(connection).lock(execution_ids)
            await group.read(connection, execution_ids, operations)
            outcomes = await group.apply(operations)
            await group.write(connection)
        return outcomes

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
        folded, lease = working.folded, working.lease
        execution_id = folded.execution_id
        if folded.is_over:
            self.forget(execution_id)
            return
        memory = self._remembered.get(execution_id)
        if memory is None or memory.folded is not folded:
            self.forget(execution_id)
            memory = self._remembered[execution_id] = _Memory(lease, folded)
        lease.workflow_state = None  # it is stored
        folded.own.cluster_changed = False
        for node_id, row in working.nodes.items():
            if row.is_over:  # hardly anything will happen to it any more
                folded.unload(node_id)
        weight = 1 + len(folded.nodes) + sum(len(items.phases) // 512 for items in folded.items.values())
        self._weight += weight - memory.weight
        memory.weight = weight
        memory.used_at = now
        self._remembered.move_to_end(execution_id)


async def record_within(
    connection: Connection, operations: Sequence[Operation], now: datetime
) -> tuple[list[Outcome], Told]:
    """Apply operations in the caller's transaction, as a part of it; pass on what they mean once it is committed.

    Recorders that remember the executions find out when they write, and read them again.
    """
    group = _Group(now)
    execution_ids = sorted({operation.execution_id for operation in operations})
    await JournalRepository(connection).lock(execution_ids)
    await group.read(connection, execution_ids, operations)
    outcomes = await group.apply(operations)
    await group.write(connection)
    return outcomes, group.told


class _Group:
    """The work of one transaction: recall or read, fold, write."""

    def __init__(self, now: datetime, emits: frozenset[str] = frozenset()) -> None:
        self._now = now
        self._emits = emits
        self._emitted: list[tuple[str, str, bytes]] = []
        self._folded = 0
        self.told = Told()
        self.executions: dict[int, _Working] = {}

    # --- reading

    def recall(self, execution_ids: Iterable[int], remembered: OrderedDict[int, _Memory]) -> None:
        """Take up what is remembered of the executions."""
        for execution_id in execution_ids:
            memory = remembered.get(execution_id)
            if memory is not None:
                self._take_up(memory.lease, memory.folded)

    def _take_up(self, lease: LeaseRow, folded: Folded) -> None:
        self.executions[lease.execution_id] = _Working(lease, folded, lease.mark, lease.session_id)

    def has_to_read(self, execution_ids: Sequence[int], operations: Iterable[Operation]) -> bool:
        """Whether anything that the operations touch is not in memory."""
        if len(self.executions) < len(execution_ids):
            return True
        wanted = _Wanted()
        for operation in operations:
            self._want(operation, wanted)
            if not wanted.nothing:
                return True
        return False

    async def read(self, connection: Connection, execution_ids: Sequence[int], operations: Sequence[Operation]) -> None:
        """Load what the operations touch and is not in memory."""
        journal, rows = JournalRepository(connection), FoldedRepository(connection)
        unknown = [execution_id for execution_id in execution_ids if execution_id not in self.executions]
        if unknown:
            for lease, folded in await journal.read(unknown):
                self._take_up(lease, folded)
        wanted = _Wanted()
        for operation in operations:
            self._want(operation, wanted)
        if wanted.nodes:
            found = await rows.load_nodes(list(wanted.nodes))
            for key in wanted.nodes:
                folded = self.executions[key[0]].folded
                folded.nodes[key[1]] = found.get(key)
                folded.unloaded.discard(key[1])
        if wanted.items:
            for (execution_id, node_id), known in (await rows.load_items(list(wanted.items))).items():
                folded = self.executions[execution_id].folded
                folded.items[node_id] = known
                folded.items_unloaded.discard(node_id)
        for working, report in wanted.surroundings:
            await look_around(rows, working.folded, report, Writer(working.lease.writer or Writer.EVENTS.value))
        for signal in wanted.signals:
            signal.exists = await journal.find_signal(signal.execution_id, signal.signal_id)
        for execution_id in wanted.everything:
            folded = self.executions[execution_id].folded
            for node in await rows.load_live_nodes(execution_id):
                folded.nodes[node.node_id] = node
                folded.unloaded.discard(node.node_id)

    def _want(self, operation: Operation, wanted: _Wanted) -> None:
        working = self.executions.get(operation.execution_id)
        if working is None:
            return
        if isinstance(operation, Append):
            for report in operation.reports:
                _want_report(working, report, wanted)
        elif isinstance(operation, Event):
            _want_report(working, operation.report, wanted)
        elif isinstance(operation, SetSignal):
            wanted.signals.append(operation)
        elif isinstance(operation, ForceAbort):
            wanted.everything.append(operation.execution_id)

    # --- writing

    @property
    def has_more_to_write(self) -> bool:
        """Whether the group needs more than its one statement."""
        return any(
            working.retried_items or working.signals or working.ended_by_force or working.folded.own.cluster_changed
            for working in self.executions.values()
        )

    async def write(self, connection: Connection) -> None:
        """Write everything that changed.  Raises Conflict if one of the executions has moved on."""
        changes = Changes(outbox=list(self._emitted))
        for execution_id, working in self.executions.items():
            changes.leases.append((working.lease, working.mark, working.lease_changed))
            changes.entries += working.entries
            changes.nodes += [(execution_id, row) for row in working.nodes.values()]
            changes.tasks += [(execution_id, node_id, row) for (node_id, _), row in working.tasks.items()]
            if not working.retried_items:
                changes.items += [(execution_id, node_id, change) for node_id, change in working.items]
            if working.own_changed:
                changes.executions.append(working.folded.own)
            if working.ended:
                changes.outbox.append(_ended_message(working))
        journal, rows = JournalRepository(connection), FoldedRepository(connection)
        if changes.leases:
            await journal.write(changes, self._now)
        self.told.node_bytes += [row.closure.ByteSize() for _, row in changes.nodes[:_SIZES_TOLD]]
        self.told.task_bytes += [row.closure.ByteSize() for _, _, row in changes.tasks[:_SIZES_TOLD]]
        if not self.has_more_to_write:
            return
        items = [
            (execution_id, node_id, change)
            for execution_id, working in self.executions.items()
            for node_id, change in working.items
            if working.retried_items
        ]
        if items:
            await rows.put_items(items)
        for execution_id, working in self.executions.items():
            if working.folded.own.cluster_changed:
                await rows.tell_spec_cluster(execution_id, working.folded.own.cluster)
            if working.ended_by_force:
                await rows.abort_items(execution_id)
            for signal in working.signals:
                await journal.set_signal(execution_id, signal.signal_id, signal.value)

    async def apply(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Fold the operations, in order."""
        outcomes: list[Outcome] = []
        for operation in operations:
            if isinstance(operation, Append):
                outcomes.append(await self._append(self.executions.get(operation.execution_id), operation))
            else:
                outcomes.append(self._apply(operation))
        return outcomes

    # --- folding

    def _apply(self, operation: Event | Abort | ForceAbort | SetSignal) -> Outcome:
        working = self.executions.get(operation.execution_id)
        if working is None:
            return Gone("entry not found")
        try:
            if isinstance(operation, Event):
                return self._event(working, operation)
            if isinstance(operation, Abort):
                return self._abort(working, operation)
            if isinstance(operation, ForceAbort):
                return self._force_abort(working, operation)
            return self._signal(working, operation)
        except AerodromeError as error:  # raised before anything was changed
            return error

    async def _append(self, working: _Working | None, append: Append) -> ExecutionAppendResult:
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
        results: list[TransitionResult] | None = None  # while all are accepted
        before = lease.last_sequence
        for report in append.reports:
            self._folded += 1
            if self._folded % _FOLD_AT_ONCE == 0:
                await asyncio.sleep(0)
            verdict = self._fold(working, report, Writer.LEASE)
            if verdict is ACCEPTED:
                statuses.append(_TRANSITION_ACCEPTED)
                if results is not None:
                    results.append(_RESULT_ACCEPTED)
                report.recorded = True
                self._enter(working, report.kind, report.transition.SerializeToString())
                if self._emits:
                    self._emit(working, report)
            else:
                if results is None:
                    results = [_RESULT_ACCEPTED] * len(statuses)
                result = _result_of(verdict)
                statuses.append(result.status)
                results.append(result)
        if lease.last_sequence != before:
            lease.applied_first = append.first_sequence
            lease.applied_results = bytes(statuses)
        if results is None:
            answer = ExecutionAppendResult.FromString(_all_accepted(len(statuses)))
        else:
            answer = ExecutionAppendResult(status=_APPEND_APPLIED, results=results)
        answer.execution_id, answer.last_sequence = append.execution_id, lease.last_sequence
        return answer

    def _event(self, working: _Working, event: Event) -> AerodromeError | None:
        report, lease = event.report, working.lease
        assert report.event is not None  # events always carry one
        if lease.writer == Writer.LEASE.value:
            return incompatible_cluster(report.event.producer_id, lease.cluster)
        if lease.state == "waiting":  # engines try again later
            return FailedPrecondition(
                "the execution waits for room under its launch plan's concurrency limit, and may not begin yet"
            )
        verdict = self._fold(working, report, Writer.EVENTS)
        if isinstance(verdict, Repeated):
            return AlreadyExists(verdict.message)
        if isinstance(verdict, Refused):
            return verdict.error
        if lease.writer == "":
            lease.writer = Writer.EVENTS.value
            lease.state = "closed"
        report.recorded = True
        self._enter(working, EntryKind.EVENT, report.transition.SerializeToString())
        if self._emits:
            self._emit(working, report)
        return None

    def _abort(self, working: _Working, abort: Abort) -> AerodromeError | None:
        abort_workflow(working.folded.own, abort.cause, abort.principal)
        working.own_changed = True
        control = Control(execution_id=abort.execution_id, sequence=working.lease.last_sequence + 1)
        control.abort.cause = abort.cause
        control.abort.principal = abort.principal
        self._decide(working, control)
        if working.lease.state == "waiting":  # no engine ever heard of it, so that nothing is left to be ended
            return self._force_abort(working, ForceAbort(abort.execution_id, abort.cause))
        return None

    def _force_abort(self, working: _Working, abort: ForceAbort) -> AerodromeError | None:
        at = Timestamp()
        at.FromDatetime(self._now)
        force_abort_workflow(working.folded.own, abort.cause, at)
        folded, lease = working.folded, working.lease
        working.ended_by_force = True
        for node in force_abort_nodes(folded, abort.cause, at):
            working.nodes[node.node_id] = node
            for key, task in node.tasks.items():
                working.tasks[node.node_id, key] = task
        working.own_changed = True
        control = Control(execution_id=abort.execution_id, sequence=lease.last_sequence + 1)
        control.force_abort.cause = abort.cause
        lease.epoch += 1
        self._decide(working, control)
        self._close(working)
        return None

    def _signal(self, working: _Working, signal: SetSignal) -> AerodromeError | None:
        if not signal.exists:
            return NotFound("entry not found")
        if working.folded.is_over:
            phase = WORKFLOW_NAMES[working.folded.own.phase]
            return already_terminal(
                f"signal [{signal.signal_id}] cannot be set: the execution is over ({phase}), and nobody waits for it",
                phase,
            )
        working.signals.append(signal)
        control = Control(execution_id=signal.execution_id, sequence=working.lease.last_sequence + 1)
        control.signal.signal_id = signal.signal_id
        control.signal.value = signal.value
        self._decide(working, control)
        return None

    def _decide(self, working: _Working, control: Control) -> None:
        self._enter(working, EntryKind.CONTROL, control.SerializeToString())
        working.lease.control_sequence = working.lease.last_sequence
        if working.session_before is not None:
            self.told.controls.append((working.session_before, control))

    def _enter(self, working: _Working, kind: int, body: bytes) -> None:
        lease = working.lease
        lease.last_sequence += 1
        working.lease_changed = True
        working.entries.append((lease.execution_id, lease.last_sequence, lease.epoch, kind, body))

    def _emit(self, working: _Working, report: Report) -> None:
        """Let others hear of an accepted event."""
        kind = _EMITTED.get(type(report))
        if kind not in self._emits or isinstance(report, ItemsReport) or report.event is None:
            return
        key = str(working.folded.execution_id)
        request_id = f"{key}-{working.lease.last_sequence}"
        request: WorkflowExecutionEventRequest | NodeExecutionEventRequest | TaskExecutionEventRequest
        if isinstance(report, WorkflowReport):
            request = WorkflowExecutionEventRequest(request_id=request_id, event=report.event)
        elif isinstance(report, NodeReport):
            request = NodeExecutionEventRequest(request_id=request_id, event=report.event)
        else:
            request = TaskExecutionEventRequest(request_id=request_id, event=report.event)
        self._emitted.append((EVENT_TOPICS[kind], key, request.SerializeToString()))

    def _close(self, working: _Working) -> None:
        """The execution is over: nobody holds it any more, and others are told."""
        working.lease.state = "closed"
        working.lease.session_id = None
        working.lease_changed = True
        working.ended = True
        self.told.ended.append((working.folded.execution_id, working.session_before))
        self.told.ended_in.append(WORKFLOW_NAMES[working.folded.own.phase])
        duration = working.folded.own.duration
        if duration is not None:
            self.told.lasted.append((working.folded.project, working.folded.domain, duration / 1e9))

    def _fold(self, working: _Working, report: Report, writer: Writer) -> Verdict:
        if report.refused is not None:
            return report.refused
        folded = working.folded
        if isinstance(report, NodeReport):
            earlier = folded.nodes.get(report.node_id)
            begins = earlier is None or not earlier.exists
            if report.event is None:
                verdict = fold_node_state(folded, report.node_id, report.state)
            else:
                verdict = fold_node(folded, report.event, writer, report.around, report.state)
            if verdict is ACCEPTED:
                node = folded.nodes[report.node_id]
                assert node is not None  # folding has made it
                working.nodes[report.node_id] = node
                if report.event is not None:
                    self.told.node_events += 1
                    self.told.nodes_begun += begins
                    if node.phase in NODE_TERMINAL:
                        self.told.nodes_ended[node.phase] = self.told.nodes_ended.get(node.phase, 0) + 1
            return verdict
        if isinstance(report, TaskReport):
            begins = not _has_attempt(folded.nodes.get(report.node_id), report.attempt)
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
                if report.event is not None:
                    self.told.task_events += 1
                    self.told.tasks_begun += begins
                    phase = report.event.phase
                    if phase in TASK_OVER:
                        self.told.tasks_ended[phase] = self.told.tasks_ended.get(phase, 0) + 1
            return verdict
        if isinstance(report, ItemsReport):
            verdict = fold_items(folded, report.node_id, report.changes)
            if verdict is ACCEPTED:
                working.items.extend((report.node_id, change) for change in report.changes)
                working.retried_items |= any(change.phase == TaskPhase.RETRYABLE_FAILED for change in report.changes)
            return verdict
        return self._fold_workflow(working, report, writer)

    def _fold_workflow(self, working: _Working, report: WorkflowReport, writer: Writer) -> Verdict:
        if report.event is None:
            if working.folded.is_over:
                return refuse(f"the execution is {WORKFLOW_NAMES[working.folded.phase]}")
            working.lease.workflow_state = report.state
            working.lease_changed = True
            return ACCEPTED
        own = working.folded.own
        verdict = fold_workflow(own, report.event, writer)
        if verdict is ACCEPTED:
            working.own_changed = True
            self.told.workflow_events += 1
            if report.state:
                working.lease.workflow_state = report.state
            if own.phase in WORKFLOW_TERMINAL:
                self._close(working)
        return verdict


@dataclass(slots=True)
class _Wanted:
    """What has to be read."""

    nodes: dict[NodeKey, None] = field(default_factory=dict)
    items: dict[NodeKey, None] = field(default_factory=dict)
    surroundings: list[tuple[_Working, NodeReport]] = field(default_factory=list)
    signals: list[SetSignal] = field(default_factory=list)
    everything: list[int] = field(default_factory=list)
    """Executions of which every node that is not over is wanted."""

    @property
    def nothing(self) -> bool:
        return not (self.nodes or self.items or self.surroundings or self.signals or self.everything)


def _want_report(working: _Working, report: Report, wanted: _Wanted) -> None:
    if isinstance(report, WorkflowReport):
        return
    folded = working.folded
    if folded.lacks(report.node_id):
        wanted.nodes[folded.execution_id, report.node_id] = None
    if isinstance(report, ItemsReport):
        if folded.lacks_items(report.node_id):
            wanted.items[folded.execution_id, report.node_id] = None
    elif isinstance(report, NodeReport) and report.event is not None:
        event = report.event
        if event.HasField("parent_node_metadata"):
            parent_id = event.parent_node_metadata.node_id
            if parent_id and folded.lacks(parent_id):
                wanted.nodes[folded.execution_id, parent_id] = None
        if event.HasField("parent_task_metadata") or (
            working.lease.writer != Writer.LEASE.value and event.HasField("workflow_node_metadata")
        ):
            wanted.surroundings.append((working, report))


async def look_around(rows: FoldedRepository, folded: Folded, report: NodeReport, writer: Writer) -> None:
    """Find out what a report's event refers to in other tables."""
    event = report.event
    if event is None:
        return
    parent_task_execution_id: int | None = None
    child_exists = False
    if event.HasField("parent_task_metadata") and event.parent_task_metadata.id.ByteSize():
        identifier = event.parent_task_metadata.id
        if same_execution(identifier.node_execution_id.execution_id, folded):
            parent_task_execution_id = await rows.find_task_id(folded.execution_id, identifier)
    if event.HasField("workflow_node_metadata") and writer is Writer.EVENTS:
        child_exists = await rows.exists_execution(event.workflow_node_metadata.execution_id)
    report.around = Surroundings(
        parent_task_execution_id=parent_task_execution_id,
        child_exists=child_exists,
        dynamic_workflow_reference=report.around.dynamic_workflow_reference,
    )


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
    folded = working.folded
    own = WorkflowExecutionIdentifier(project=folded.project, domain=folded.domain, name=folded.name)
    for position, report in enumerate(append.reports):
        if not _speaks_of(report, own):
            return _invalid(append, lease, f"transition {position}: its event speaks of another execution")
    return None


def _has_attempt(node: NodeRow | None, attempt: int) -> bool:
    """Whether an event of the attempt was recorded."""
    return node is not None and any(
        key.retry_attempt == attempt and task.phase != NOTHING for key, task in node.tasks.items()
    )


def _speaks_of(report: Report, own: WorkflowExecutionIdentifier) -> bool:
    if isinstance(report, ItemsReport) or report.event is None:
        return True
    if isinstance(report, NodeReport):
        told = report.event.id.execution_id
    elif isinstance(report, TaskReport):
        told = report.event.parent_node_execution_id.execution_id
    else:
        told = report.event.execution_id
    # Compared at once, but for an organization and fields that nobody knows.
    return told == own or (told.name == own.name and told.project == own.project and told.domain == own.domain)


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
    return _RESULT_ACCEPTED


def _ended_message(working: _Working) -> tuple[str, str, bytes]:
    folded, closure = working.folded, working.folded.own.closure
    event = WorkflowExecutionEvent(
        execution_id=WorkflowExecutionIdentifier(project=folded.project, domain=folded.domain, name=folded.name),
        producer_id=folded.own.cluster,
        phase=closure.phase,
        occurred_at=closure.updated_at,
    )
    if closure.HasField("error"):
        event.error.CopyFrom(closure.error)
    elif closure.HasField("outputs"):
        event.output_uri = closure.outputs.uri
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


def _pass_points(operations: Sequence[Operation]) -> None:
    """What was committed is not acknowledged yet."""
    faults.point("journal.committed")
    if any(isinstance(operation, Abort) for operation in operations):
        faults.point("abort.committed")
    appends = (operation for operation in operations if isinstance(operation, Append))
    if any(isinstance(report, ItemsReport) for append in appends for report in append.reports):
        faults.point("items.committed")
