"""The journal's door: everything that changes an execution passes here, and is written in groups.

Appends, events, aborts and signals that arrive at the same time share a transaction.  Each execution belongs to one of
a few lanes, which keeps the order of its operations; a lane takes what has arrived while its previous transaction ran.
One execution's trouble stays its own: when a group fails, its operations are tried one by one.  Source: design.md
section 2, spec/control-plane.md sections 5 and 7.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier
from flyteidl.core.literals_pb2 import LiteralMap
from flyteidl.event.event_pb2 import NodeExecutionEvent, TaskExecutionEvent, WorkflowExecutionEvent

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.domain.folding import Surroundings
from aerodrome.admin.domain.offloading import ExecutionPlace, data_path, dynamic_workflow_path
from aerodrome.admin.domain.validation import check_execution_id, check_text, not_found
from aerodrome.admin.domain.verdicts import Refused
from aerodrome.admin.managers.changes import (
    ItemsReport,
    NodeReport,
    Report,
    TaskReport,
    WorkflowReport,
    check_node_event,
    check_task_event,
    check_workflow_event,
    decode,
)
from aerodrome.admin.managers.recording import (
    Abort,
    Append,
    Event,
    ForceAbort,
    Gone,
    Operation,
    Outcome,
    Recorder,
    SetSignal,
    Told,
    unknown_execution,
)
from aerodrome.admin.repositories.journal import JournalRepository
from aerodrome.idl.journal.v1.journal_pb2 import (
    AppendRequest,
    AppendResponse,
    AppendStatus,
    ExecutionAppend,
    ExecutionAppendResult,
    NodeChange,
    TaskChange,
    Transition,
    WorkflowChange,
)
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import (
    AerodromeError,
    Conflict,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.storage import Storage

log = get_logger(__name__)

_TRANSIENT = (Unavailable, DeadlineExceeded, Conflict)
"""Errors of the database that say nothing about the operations."""
_MOST_IDENTITIES = 50_000
_DECODE_AT_ONCE = 400
"""How many transitions are decoded before others get a turn."""


class JournalWriter:
    """Writes what happens to executions; `run` has to be running for anything to be written.

    Accepted events of the kinds in `emits` (workflow, node, task) go to the outbox as well.
    """

    def __init__(
        self,
        database: Database,
        storage: Storage,
        clock: Clock,
        config: AdminConfig,
        *,
        emits: frozenset[str] = frozenset(),
    ) -> None:
        settings = config.journal
        self._database = database
        self._storage = storage
        self._clock = clock
        self._config = config
        self._settings = settings
        self._decoded = 0
        self._tell: list[Callable[[Told], None]] = []
        self._places: OrderedDict[int, ExecutionPlace] = OrderedDict()
        self._ids: OrderedDict[tuple[str, str, str], int] = OrderedDict()
        self._lanes = [
            _Lane(
                Recorder(database, clock, cached_nodes=settings.cached_nodes // settings.writers, emits=emits),
                self.tell,
                group_weight=settings.group_transitions,
                most_pending=max(1, settings.pending_transitions // settings.writers),
            )
            for _ in range(settings.writers)
        ]

    def subscribe(self, listener: Callable[[Told], None]) -> None:
        """Call `listener` with what each committed group means for others."""
        self._tell.append(listener)

    async def run(self) -> None:
        """Write until cancelled; what was accepted before is still written."""
        lanes = [
            asyncio.create_task(lane.run(), name=f"journal lane {index}") for index, lane in enumerate(self._lanes)
        ]
        tidying = asyncio.create_task(self._forget_idle(), name="journal memory")
        try:
            done, _ = await asyncio.wait([*lanes, tidying], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # none of them ends by itself
        finally:
            tidying.cancel()
            for lane in self._lanes:
                lane.close()
            await asyncio.wait([*lanes, tidying])

    async def _forget_idle(self) -> None:
        idle_seconds = self._settings.cache_idle.total_seconds()
        while True:
            await self._clock.sleep(idle_seconds / 3)
            for lane in self._lanes:
                lane.forget_idle(idle_seconds)

    @property
    def pending(self) -> int:
        """How many transitions wait to be written."""
        return sum(lane.pending for lane in self._lanes)

    @property
    def remembered_nodes(self) -> int:
        """How many nodes of executions in progress are in memory."""
        return sum(lane.remembered_nodes for lane in self._lanes)

    # --- what a lease holder reports

    async def append(self, request: AppendRequest) -> AppendResponse:
        """Apply the appends of a holder, each execution's in order, and answer per transition.

        Raises Unavailable, DeadlineExceeded or Conflict if the database could not do its work now: the holder repeats
        the request, which changes nothing that was applied already.
        """
        results: list[ExecutionAppendResult | None] = [None] * len(request.executions)
        waiting: list[tuple[int, Sequence[Report], asyncio.Future[Outcome]]] = []
        for position, execution in enumerate(request.executions):
            reports: Sequence[Report] = ()
            try:
                reports = await self._decode(execution)
                for report in reports:
                    if _carries_data(report):
                        await self._offload(execution.execution_id, report)
            except InvalidArgument as error:
                results[position] = _invalid(execution.execution_id, error.message)
                await self._take_back(reports)
                continue
            operation = Append(
                execution_id=execution.execution_id,
                session_id=request.session_id,
                epoch=execution.epoch,
                first_sequence=execution.first_sequence,
                reports=reports,
            )
            waiting.append((position, reports, await self._lane_of(execution.execution_id).put(operation)))
        if waiting:
            await asyncio.wait([future for _, _, future in waiting])
        for position, reports, future in waiting:
            outcome = future.result()
            if not isinstance(outcome, _TRANSIENT):
                await self._take_back(reports)
            if isinstance(outcome, ExecutionAppendResult):
                results[position] = outcome
            elif isinstance(outcome, _TRANSIENT) or outcome is None:
                raise outcome or Internal("an append was not answered")
            else:
                results[position] = _invalid(request.executions[position].execution_id, outcome.message)
        return AppendResponse(executions=[result for result in results if result is not None])

    async def _decode(self, execution: ExecutionAppend) -> list[Report]:
        transitions = execution.transitions
        count = len(transitions)
        if count > self._settings.append_transitions:
            raise InvalidArgument(
                f"an append of one execution has {count} transitions; send at most "
                f"{self._settings.append_transitions} at a time"
            )
        reports: list[Report] = []
        for first in range(0, count, _DECODE_AT_ONCE):
            self._decoded += min(count - first, _DECODE_AT_ONCE)
            if self._decoded >= _DECODE_AT_ONCE:
                self._decoded = 0
                await asyncio.sleep(0)
            part = transitions[first : first + _DECODE_AT_ONCE]
            reports += decode(part, max_items=self._settings.max_items, first_position=first)
        items = sum(report.items for report in reports if isinstance(report, ItemsReport))
        if items > self._settings.append_items:
            raise InvalidArgument(
                f"an append of one execution changes {items} items of maps; send at most "
                f"{self._settings.append_items} at a time"
            )
        return reports

    # --- what an outside engine reports

    async def report_workflow(self, event: WorkflowExecutionEvent) -> None:
        """Record an event of an execution; errors as in spec/control-plane.md section 5.1."""
        check_workflow_event(event)
        report = WorkflowReport(Transition(workflow=WorkflowChange(event=event.SerializeToString())), event, b"")
        self._check_size(event)
        execution_id = await self._identify(event.execution_id, of_a_part=False)
        await self._report(execution_id, event.execution_id, report, of_a_part=False)

    async def report_node(self, event: NodeExecutionEvent) -> None:
        """Record an event of a node; errors as in spec/control-plane.md section 5.2."""
        check_node_event(event)
        change = NodeChange(node_id=event.id.node_id, event=event.SerializeToString())
        report = NodeReport(Transition(node=change), event.id.node_id, event, b"")
        execution_id = await self._identify(event.id.execution_id, of_a_part=True)
        await self._report(execution_id, event.id.execution_id, report, of_a_part=True)

    async def report_task(self, event: TaskExecutionEvent) -> None:
        """Record an event of an attempt; errors as in spec/control-plane.md section 5.3."""
        check_task_event(event)
        self._check_size(event)
        node_id = event.parent_node_execution_id.node_id
        change = TaskChange(node_id=node_id, attempt=event.retry_attempt, event=event.SerializeToString())
        report = TaskReport(Transition(task=change), node_id, event.retry_attempt, event, b"")
        identifier = event.parent_node_execution_id.execution_id
        execution_id = await self._identify(identifier, of_a_part=True)
        await self._report(execution_id, identifier, report, of_a_part=True)

    async def _report(
        self,
        execution_id: int,
        identifier: WorkflowExecutionIdentifier,
        report: WorkflowReport | NodeReport | TaskReport,
        *,
        of_a_part: bool,
    ) -> None:
        try:
            if _carries_data(report):
                await self._offload(execution_id, report)
            await self._do(Event(execution_id, report))
        except Gone as error:
            self._forget_identity(identifier)
            await self._take_back([report])
            raise unknown_execution(identifier, of_a_part=of_a_part) from error
        except _TRANSIENT:
            raise  # perhaps it was recorded after all
        except AerodromeError:
            await self._take_back([report])
            raise

    # --- what the control plane decides

    async def request_abort(self, identifier: WorkflowExecutionIdentifier, cause: str, principal: str) -> None:
        """Begin the abort of an execution; may be repeated until it is over.

        Raises NotFound, or FailedPrecondition with the detail `already_in_terminal_state`.  Source:
        spec/control-plane.md section 7.
        """
        check_execution_id(identifier)
        check_text("cause", cause, max_chars=None, max_bytes=64 * 1024)
        await self._decide(identifier, lambda execution_id: Abort(execution_id, cause, principal))

    async def force_abort(self, identifier: WorkflowExecutionIdentifier, cause: str) -> None:
        """End an execution without its engine: its epoch is raised, and everything of it that was open is ABORTED.

        Raises NotFound, or FailedPrecondition with the detail `already_in_terminal_state`.
        """
        check_execution_id(identifier)
        check_text("cause", cause, max_chars=None, max_bytes=64 * 1024)
        await self._decide(identifier, lambda execution_id: ForceAbort(execution_id, cause))

    async def set_signal(self, identifier: WorkflowExecutionIdentifier, signal_id: str, value: bytes) -> None:
        """Give an existing signal its value, a serialized `flyteidl.core.Literal`, and tell the engine.

        The newest value counts.  Raises NotFound if there is no such signal, and FailedPrecondition with the detail
        `already_in_terminal_state` once the execution is over.  The value's type is the caller's to check.
        """
        check_execution_id(identifier)
        await self._decide(identifier, lambda execution_id: SetSignal(execution_id, signal_id, value))

    async def _decide(
        self, identifier: WorkflowExecutionIdentifier, operation: Callable[[int], Abort | ForceAbort | SetSignal]
    ) -> None:
        execution_id = await self._identify(identifier, of_a_part=False)
        try:
            await self._do(operation(execution_id))
        except Gone as error:
            self._forget_identity(identifier)
            raise not_found("execution", identifier) from error

    # --- inside

    async def _do(self, operation: Operation) -> None:
        future = await self._lane_of(operation.execution_id).put(operation)
        outcome = await future
        if isinstance(outcome, AerodromeError):
            raise outcome

    def _lane_of(self, execution_id: int) -> _Lane:
        return self._lanes[execution_id % len(self._lanes)]

    def tell(self, told: Told) -> None:
        """Pass on what was committed to all who subscribed."""
        for listener in self._tell:
            try:
                listener(told)
            except Exception:  # what was committed stands, whoever fails to hear of it
                log.exception("listener of the journal failed")

    async def _identify(self, identifier: WorkflowExecutionIdentifier, *, of_a_part: bool) -> int:
        key = (identifier.project, identifier.domain, identifier.name)
        known = self._ids.get(key)
        if known is not None:
            self._ids.move_to_end(key)
            return known
        async with self._database.connection() as connection:
            found = await JournalRepository(connection).identify(identifier)
        if found is None:
            raise unknown_execution(identifier, of_a_part=of_a_part)
        self._ids[key] = found
        if len(self._ids) > _MOST_IDENTITIES:
            self._ids.popitem(last=False)
        return found

    def _forget_identity(self, identifier: WorkflowExecutionIdentifier) -> None:
        self._ids.pop((identifier.project, identifier.domain, identifier.name), None)

    async def _place(self, execution_id: int) -> ExecutionPlace | None:
        known = self._places.get(execution_id)
        if known is not None:
            self._places.move_to_end(execution_id)
            return known
        async with self._database.connection() as connection:
            described = await JournalRepository(connection).describe(execution_id)
        if described is None:
            return None
        place = ExecutionPlace(execution_id, *described)
        self._places[execution_id] = place
        if len(self._places) > _MOST_IDENTITIES:
            self._places.popitem(last=False)
        return place

    # --- inline data

    def _check_size(self, event: WorkflowExecutionEvent | TaskExecutionEvent) -> None:
        limit = self._config.remote_data.max_size_in_bytes
        if limit and event.WhichOneof("output_result") == "output_data":
            size = event.output_data.ByteSize()
            if size > limit:
                raise ResourceExhausted(f"Output data size exceeds platform configured threshold ({size} > {limit})")

    async def _offload(self, execution_id: int, report: Report) -> None:
        """Store the inline data of a report, and let its event refer to them."""
        if isinstance(report, ItemsReport) or report.event is None:
            return
        event = report.event
        if not isinstance(event, NodeExecutionEvent):
            try:
                self._check_size(event)
            except ResourceExhausted as error:
                report.refused = Refused(error)
                return
        place = await self._place(execution_id)
        if place is None:
            return  # the journal will say that there is no such execution
        owner = _owner(event)
        if event.WhichOneof("output_result") == "output_data" and not self._stays_inline(event.output_data):
            event.output_uri = await self._store(report, place, owner, "offloaded_outputs", event.output_data)
        if not isinstance(event, WorkflowExecutionEvent) and event.WhichOneof("input_value") == "input_data":
            event.input_uri = await self._store(report, place, owner, "offloaded_inputs", event.input_data)
        if isinstance(report, NodeReport) and isinstance(event, NodeExecutionEvent):
            dynamic = event.task_node_metadata.dynamic_workflow
            if dynamic.HasField("compiled_workflow"):
                data = dynamic.compiled_workflow.SerializeToString(deterministic=True)
                prefix = self._config.flyteadmin.metadata_storage_prefix
                path = dynamic_workflow_path(place, prefix, event.id.node_id, dynamic.id, data)
                reference = self._storage.join(*path)
                report.stored += (reference,)
                await self._storage.write(reference, data)
                report.around = Surroundings(dynamic_workflow_reference=reference)
            report.transition.node.event = event.SerializeToString()
        elif isinstance(report, TaskReport):
            report.transition.task.event = event.SerializeToString()
        else:
            report.transition.workflow.event = event.SerializeToString()

    def _stays_inline(self, data: LiteralMap) -> bool:
        remote = self._config.remote_data
        if remote.inline_event_data_policy not in ("StoreInline", 1):
            return False
        return not remote.max_size_in_bytes or data.ByteSize() <= remote.max_size_in_bytes

    async def _store(
        self, report: Report, place: ExecutionPlace, owner: Sequence[str], what: str, data: LiteralMap
    ) -> str:
        content = data.SerializeToString(deterministic=True)
        reference = self._storage.join(*data_path(place, owner, what, content))
        report.stored += (reference,)
        await self._storage.write(reference, content)
        return reference

    async def _take_back(self, reports: Sequence[Report]) -> None:
        """Delete what was stored for reports that were not recorded: nothing refers to it."""
        for report in reports:
            if report.recorded:
                continue
            for reference in report.stored:
                try:
                    await self._storage.delete(reference)
                except AerodromeError as error:  # it is only litter, and the caller has to hear something else
                    log.warning("data of a refused event remain", reference=reference, error=error.message)


def _carries_data(report: Report) -> bool:
    """Whether the report's event has something that belongs into the storage."""
    if isinstance(report, ItemsReport) or report.event is None:
        return False
    event = report.event
    if event.WhichOneof("output_result") == "output_data":
        return True
    if isinstance(event, WorkflowExecutionEvent):
        return False
    if event.WhichOneof("input_value") == "input_data":
        return True
    return isinstance(event, NodeExecutionEvent) and event.task_node_metadata.dynamic_workflow.HasField(
        "compiled_workflow"
    )


def _owner(event: WorkflowExecutionEvent | NodeExecutionEvent | TaskExecutionEvent) -> tuple[str, ...]:
    """Path elements of what the event speaks of, below its execution."""
    if isinstance(event, WorkflowExecutionEvent):
        return ()
    if isinstance(event, NodeExecutionEvent):
        return (event.id.node_id,)
    task = event.task_id
    return (
        event.parent_node_execution_id.node_id, task.project, task.domain, task.name, task.version,
        str(event.retry_attempt),
    )  # fmt: skip


def _invalid(execution_id: int, reason: str) -> ExecutionAppendResult:
    return ExecutionAppendResult(execution_id=execution_id, status=AppendStatus.APPEND_STATUS_INVALID, reason=reason)


class _Lane:
    """A queue of operations and the one recorder that writes them."""

    def __init__(
        self, recorder: Recorder, tell: Callable[[Told], None], *, group_weight: int, most_pending: int
    ) -> None:
        self._recorder = recorder
        self._tell = tell
        self._group_weight = group_weight
        self._most_pending = most_pending
        self._queue: deque[tuple[Operation, asyncio.Future[Outcome]]] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False
        self.pending = 0
        """Weight of the operations in the queue."""

    @property
    def remembered_nodes(self) -> int:
        return self._recorder.remembered_nodes

    async def put(self, operation: Operation) -> asyncio.Future[Outcome]:
        """Queue an operation, as soon as there is room; the future tells its outcome and never raises."""
        while self.pending >= self._most_pending and not self._closed:
            self._room.clear()
            await self._room.wait()
        if self._closed:
            raise Unavailable("the control plane is stopping; try again")
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue.append((operation, future))
        self.pending += operation.weight
        self._arrived.set()
        return future

    def close(self) -> None:
        """Take nothing more; `run` ends when what was queued is written."""
        self._closed = True
        self._arrived.set()
        self._room.set()

    def forget_idle(self, idle_seconds: float) -> None:
        self._recorder.forget_idle(idle_seconds)

    async def run(self) -> None:
        """Write groups until closed."""
        while True:
            if not self._queue:
                if self._closed:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                await asyncio.sleep(0)  # let the rest of a burst arrive
                continue
            group = self._take()
            await self._write(group)

    def _take(self) -> list[tuple[Operation, asyncio.Future[Outcome]]]:
        group: list[tuple[Operation, asyncio.Future[Outcome]]] = []
        weight = 0
        while self._queue:
            operation = self._queue[0][0]
            alone = isinstance(operation, ForceAbort)  # it reads rows that the rest of a group would still hold back
            if group and (alone or weight + operation.weight > self._group_weight):
                break
            group.append(self._queue.popleft())
            weight += operation.weight
            if alone:
                break
        self.pending -= weight
        if self.pending < self._most_pending:
            self._room.set()
        return group

    async def _write(self, group: Sequence[tuple[Operation, asyncio.Future[Outcome]]]) -> None:
        try:
            outcomes, told = await self._recorder.record([operation for operation, _ in group])
        except Exception as error:  # noqa: BLE001 - it is answered to whoever waits for it
            if len(group) > 1 and not isinstance(error, (Unavailable, DeadlineExceeded)):
                log.warning("journal group failed, writing its operations one by one", error=str(error))
                for one in group:
                    await self._write([one])
                return
            outcome = _as_outcome(error, group[0][0])
            for _, future in group:
                _answer(future, outcome)
            return
        for (_, future), answer in zip(group, outcomes, strict=True):
            _answer(future, answer)
        if told:
            self._tell(told)


def _as_outcome(error: Exception, operation: Operation) -> AerodromeError:
    if isinstance(error, AerodromeError):
        log.warning("journal write failed", execution_id=operation.execution_id, error=error.message)
        return error
    log.error("journal write failed", execution_id=operation.execution_id, exc_info=error)
    return Internal("the journal could not be written because of a defect; the log says more")


def _answer(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():
        future.set_result(outcome)
