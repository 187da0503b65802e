"""The engine's transitions as the journal carries them, and back: events for the API, states for the next holder.

Source: spec/data-plane.md, section 6.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from flyteidl.core import catalog_pb2, execution_pb2, identifier_pb2
from flyteidl.event import event_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.idl.journal.v1 import journal_pb2
from aerodrome.idl.propeller.v1 import state_pb2
from aerodrome.plugins import names
from aerodrome.plugins.api import ErrorKind, Failure, PhaseInfo
from aerodrome.plugins.catalogue import advised, bounded
from aerodrome.propeller.engine.graph import NodeKind, NodeSpec
from aerodrome.propeller.engine.items import ItemInfo, ItemPlan, SavedItem
from aerodrome.propeller.engine.phases import NodePhase, TaskPhase, WorkflowPhase
from aerodrome.propeller.engine.state import (
    ItemTransition,
    NodeState,
    NodeTransition,
    SavedNode,
    SavedWorkflow,
    TaskTransition,
    Transition,
    WorkflowTransition,
)
from aerodrome.propeller.layout import Layout
from aerodrome.propeller.plain_events import PlainEvents, in_dynamic_chain, instant_of

PRODUCER = "propeller"
MAX_MESSAGE = 102_400
"""Characters of an error message that an event carries; longer ones keep head and tail."""

MAX_ITEM_MESSAGE = 4_096
"""The same for an item of a map."""
MAX_REASON = 8_192
"""The same for a reason, which is there besides the error."""
MAX_ITEMS = 5_000
"""Items in one entry of the journal."""
MAX_SHOWN_ITEMS = 200
"""The same where each is told of as a node too: those events and the entry behind them go to the journal at once."""

_W = execution_pb2.WorkflowExecution
_N = execution_pb2.NodeExecution
_T = execution_pb2.TaskExecution

WORKFLOW_EVENT: Mapping[WorkflowPhase, int] = {
    WorkflowPhase.RUNNING: _W.RUNNING,
    WorkflowPhase.SUCCEEDING: _W.SUCCEEDING,
    WorkflowPhase.SUCCEEDED: _W.SUCCEEDED,
    WorkflowPhase.FAILING: _W.FAILING,
    WorkflowPhase.FAILED: _W.FAILED,
    WorkflowPhase.ABORTED: _W.ABORTED,
}
NODE_EVENT: Mapping[NodePhase, int] = {
    NodePhase.QUEUED: _N.QUEUED,
    NodePhase.RUNNING: _N.RUNNING,
    NodePhase.DYNAMIC_RUNNING: _N.DYNAMIC_RUNNING,
    NodePhase.SUCCEEDED: _N.SUCCEEDED,
    NodePhase.FAILED: _N.FAILED,
    NodePhase.TIMED_OUT: _N.TIMED_OUT,
    NodePhase.SKIPPED: _N.SKIPPED,
    NodePhase.RECOVERED: _N.RECOVERED,
    NodePhase.ABORTED: _N.ABORTED,
}
_KINDS = {kind.value: kind for kind in ErrorKind}
_LAUNCHED = frozenset({NodePhase.RUNNING, NodePhase.SUCCEEDED})
"""Phases of a launch-plan node that tell of the execution that it launched."""
_ENDED = frozenset({NodePhase.SUCCEEDED, NodePhase.FAILED, NodePhase.TIMED_OUT, NodePhase.ABORTED})
_FINISHED_TASK = frozenset({TaskPhase.SUCCEEDED, TaskPhase.ABORTED, TaskPhase.FAILED, TaskPhase.RETRYABLE_FAILED})


_PLAIN_ITEM = ItemInfo()
_NO_ENTRY = catalog_pb2.CatalogMetadata()
_ITEM_ENDS = {
    TaskPhase.SUCCEEDED: NodePhase.SUCCEEDED,
    TaskPhase.FAILED: NodePhase.FAILED,
    TaskPhase.ABORTED: NodePhase.ABORTED,
}
_ARRAY_TYPE, _ARRAY_PLUGIN = "container_array", "k8s-array"
"""What the attempt of a map is called, by which the console knows that its external resources are items."""


class ItemsTransition:
    """Items of one node that changed at about the same time, each of them once.

    Those that begin are apart from the others: the journal takes all of them or none, and an abort refuses beginnings.
    """

    __slots__ = ("beginning", "changes", "node")

    def __init__(self, node: NodeState, *, beginning: bool) -> None:
        self.node = node
        self.beginning = beginning
        self.changes: dict[int, ItemTransition] = {}

    def __repr__(self) -> str:
        return f"I {self.node.unique_id} {len(self.changes)} items"


class ItemEvent:
    """What an item's change is as an event of a node of its own, or of that node's attempt (`phase` is None)."""

    __slots__ = ("change", "node", "phase")

    def __init__(self, change: ItemTransition, phase: NodePhase | None) -> None:
        self.node = change.node
        self.change = change
        self.phase = phase

    def __repr__(self) -> str:
        return f"{'T' if self.phase is None else 'N'} of {self.change!r}"


Written = NodeTransition | TaskTransition | WorkflowTransition | ItemsTransition | ItemEvent
"""What becomes one entry of the journal."""


def coalesced(transitions: Iterable[Transition], *, item_nodes: bool = False) -> list[Written]:
    """The same transitions with those of items gathered, in an order that says the same of each node and item.

    Items that are no tasks are shown as nodes of their own beside, and with `item_nodes` all are.
    """
    gathered: list[list[Written]] = []
    gathering: dict[NodeState, _Gathering] = {}
    for transition in transitions:
        if not isinstance(transition, ItemTransition):
            if isinstance(transition, WorkflowTransition):
                gathering.clear()
            else:
                gathering.pop(transition.node, None)
            gathered.append([transition])
            continue
        known = gathering.get(transition.node)
        if known is None:
            shown = item_nodes or transition.node.spec.task is None
            known = gathering[transition.node] = _Gathering(MAX_SHOWN_ITEMS if shown else MAX_ITEMS)
        place, fresh = known.add(transition)
        if fresh:
            gathered.append(place)
        if item_nodes or transition.node.spec.task is None:
            # Before the entry, so that whoever cuts can see that there is more to come.
            place[-1:] = [*_item_events(transition), place[-1]]
    return [one for place in gathered for one in place]


def _item_events(change: ItemTransition) -> Iterator[ItemEvent]:
    phase, first = change.phase, change.phase is TaskPhase.QUEUED and change.attempt == 0
    recovered = isinstance(change.info, ItemInfo) and change.info.recovered
    if first:
        yield ItemEvent(change, NodePhase.QUEUED)
    if change.node.spec.task is not None and not recovered:
        yield ItemEvent(change, None)
    # An execution that an item launches is named once it exists.
    if first if change.node.spec.task is not None else phase is TaskPhase.RUNNING and change.attempt == 0:
        yield ItemEvent(change, NodePhase.RUNNING)
    if recovered:
        yield ItemEvent(change, NodePhase.RECOVERED)
    elif phase in _ITEM_ENDS:
        yield ItemEvent(change, _ITEM_ENDS[phase])


class _Gathering:
    """What of one node's items has been gathered since its last own transition."""

    __slots__ = ("_count", "_most", "_open", "_seen")

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._open: dict[bool, tuple[int, ItemsTransition, list[Written]]] = {}
        self._seen: dict[int, int] = {}
        """By item: number of the last entry that it is in; later ones of it have to stand behind that."""

    def add(self, transition: ItemTransition) -> tuple[list[Written], bool]:
        """Put the transition into an entry; where that stands, as the last one, and whether it is a new one."""
        index, beginning = transition.index, transition.phase is TaskPhase.QUEUED
        known = self._open.get(beginning)
        fresh = known is None or self._seen.get(index, 0) >= known[0] or len(known[1].changes) >= self._most
        if known is None or fresh:
            self._count += 1
            entry = ItemsTransition(transition.node, beginning=beginning)
            known = self._open[beginning] = self._count, entry, [entry]
        number, entry, place = known
        entry.changes[index] = transition
        self._seen[index] = number
        return place, fresh


class Transcript:
    """Writes the transitions of one execution."""

    def __init__(
        self,
        execution: identifier_pb2.WorkflowExecutionIdentifier,
        layout: Layout,
        *,
        output_uri: str,
        plugin_names: Mapping[str, str],
        item_nodes: bool = False,
    ) -> None:
        """`output_uri` is where the workflow's outputs are once it succeeded; `plugin_names` is by task type.

        With `item_nodes` every item of a map is shown as a node of its own, as those are that are no tasks.
        """
        self._item_nodes = item_nodes
        self._execution = execution
        self._layout = layout
        self._output_uri = output_uri
        self._plugin_names = plugin_names

    def coalesced(self, transitions: Iterable[Transition]) -> list[Written]:
        """What becomes the entries of the journal: `coalesced`, with what this transcript shows."""
        return coalesced(transitions, item_nodes=self._item_nodes)

    def keep(self, transitions: Iterable[Transition]) -> None:
        """Write down how nodes stand right after `Engine.take` gave these transitions.

        What is taken later may go to the journal in another append than they do, and a crash come in between.
        """
        for transition in transitions:
            if isinstance(transition, NodeTransition):
                transition.state = _state_with(transition, self._layout)

    def write(self, transitions: Iterable[Written]) -> Sequence[journal_pb2.Transition]:
        """The journal's form of what `coalesced` gave, in order.  Without `keep`, nodes are as they stand now."""
        append = journal_pb2.ExecutionAppend()
        self.write_to(append, transitions)
        return append.transitions

    def write_to(self, append: journal_pb2.ExecutionAppend, transitions: Iterable[Written]) -> None:
        """As `write`, right into an append."""
        reported = instant_of(time.time())
        plain = PlainEvents(
            self._execution, self._layout, producer=PRODUCER, plugin_names=self._plugin_names, reported=reported
        )
        written = append.transitions
        for transition in transitions:
            if isinstance(transition, NodeTransition):
                self._node(transition, written.add().node, plain, reported)
            elif isinstance(transition, TaskTransition):
                self._task(transition, written.add().task, plain, reported)
            elif isinstance(transition, ItemsTransition):
                written.add(items=_items(transition))
            elif isinstance(transition, ItemEvent):
                written.append(self._item_event(transition, reported))
            else:
                written.add(workflow=self._workflow(transition))

    def _item_event(self, transition: ItemEvent, reported: Timestamp) -> journal_pb2.Transition:
        change, node, phase = transition.change, transition.node, transition.phase
        item = node.spec.item
        assert item is not None
        unique_id = self._layout.item_id(node, change.index)
        own = f"{self._layout.item_dir(node, change.index)}/{change.attempt}"
        identifier = identifier_pb2.NodeExecutionIdentifier(node_id=unique_id, execution_id=self._execution)
        failure = change.failure or _abortion(change, "Task Aborted" if phase is None else "NodeAborted")
        error = error_of(failure) if failure is not None else None
        if phase is None:
            return journal_pb2.Transition(task=self._item_attempt(change, item, identifier, own, reported, error))
        event = event_pb2.NodeExecutionEvent(
            id=identifier,
            producer_id=PRODUCER,
            phase=NODE_EVENT[phase],  # type: ignore[arg-type]  # the stubs want the enumeration
            occurred_at=instant_of(change.at),
            reported_at=reported,
            event_version=1,
            spec_node_id=f"n{change.index}",
            node_name=item.template.metadata.name,
            input_uri=self._layout.inputs(node),
            retry_group=str(node.attempts),
            error=error,
        )
        event.parent_node_metadata.node_id = node.unique_id
        if item.task is not None:
            event.target_entity.CopyFrom(item.task.id)
        elif item.kind is NodeKind.LAUNCH_PLAN:
            event.target_entity.CopyFrom(item.template.workflow_node.launchplan_ref)
            if phase is not NodePhase.QUEUED:
                child = event.workflow_node_metadata.execution_id
                child.CopyFrom(self._execution)
                child.name = names.child_execution_name(self._layout.execution, unique_id, change.attempt)
        if phase in (NodePhase.SUCCEEDED, NodePhase.RECOVERED):
            event.output_uri = f"{own}/outputs.pb"
            info = change.info if isinstance(change.info, ItemInfo) else _PLAIN_ITEM
            if info.cache_status:
                event.task_node_metadata.cache_status = info.cache_status  # type: ignore[assignment]  # the same
                event.task_node_metadata.catalog_key.CopyFrom(info.catalog_key or _NO_ENTRY)
            event.deck_uri = info.deck_uri
        return journal_pb2.Transition(node=journal_pb2.NodeChange(node_id=unique_id, event=event.SerializeToString()))

    def _item_attempt(
        self,
        change: ItemTransition,
        item: NodeSpec,
        node: identifier_pb2.NodeExecutionIdentifier,
        own: str,
        reported: Timestamp,
        error: execution_pb2.ExecutionError | None,
    ) -> journal_pb2.TaskChange:
        assert item.task is not None
        event = event_pb2.TaskExecutionEvent(
            task_id=item.task.id,
            parent_node_execution_id=node,
            retry_attempt=change.attempt,
            phase=_T.FAILED if change.phase is TaskPhase.RETRYABLE_FAILED else int(change.phase),  # type: ignore[arg-type]  # the same
            producer_id=PRODUCER,
            occurred_at=instant_of(change.at),
            reported_at=reported,
            task_type=item.task.type,
            event_version=1,
            input_uri=self._layout.inputs(change.node),
            error=error,
        )
        event.metadata.generated_name = names.item_generated_name(self._layout.execution, node.node_id, change.attempt)
        event.metadata.plugin_identifier = self._plugin_names.get(item.task.type, "")
        if isinstance(change.info, ItemInfo) and change.info.said is not None:
            _add_info(event, change.info.said)
        if change.phase is TaskPhase.SUCCEEDED:
            event.output_uri = f"{own}/outputs.pb"
        return journal_pb2.TaskChange(node_id=node.node_id, attempt=change.attempt, event=event.SerializeToString())

    def _workflow(self, transition: WorkflowTransition) -> journal_pb2.WorkflowChange:
        failure = transition.failure
        error = error_of(failure) if failure is not None else None
        state = state_pb2.WorkflowState(phase=transition.phase)
        if error is not None:
            state.error = error.SerializeToString()
        change = journal_pb2.WorkflowChange(state=state.SerializeToString())
        number = WORKFLOW_EVENT.get(transition.phase)
        if number is not None:
            event = event_pb2.WorkflowExecutionEvent(
                execution_id=self._execution,
                producer_id=PRODUCER,
                phase=number,  # type: ignore[arg-type]  # the stubs want the enumeration
                occurred_at=instant_of(transition.at),
                error=error,
            )
            if transition.phase is WorkflowPhase.SUCCEEDED:
                event.output_uri = self._output_uri
            change.event = event.SerializeToString()
        return change

    def _node(
        self, transition: NodeTransition, change: journal_pb2.NodeChange, plain: PlainEvents, reported: Timestamp
    ) -> None:
        change.node_id = transition.node.unique_id
        change.state = _state_with(transition, self._layout) if transition.state is None else transition.state
        if transition.phase is not None:
            change.event = plain.node(transition) or self._node_event(transition, reported).SerializeToString()

    def _node_event(self, transition: NodeTransition, reported: Timestamp) -> event_pb2.NodeExecutionEvent:
        node, phase = transition.node, transition.phase
        assert phase is not None
        spec, scope = node.spec, node.scope
        event = event_pb2.NodeExecutionEvent(
            id=identifier_pb2.NodeExecutionIdentifier(node_id=node.unique_id, execution_id=self._execution),
            producer_id=PRODUCER,
            phase=NODE_EVENT[phase],  # type: ignore[arg-type]  # the stubs want the enumeration
            occurred_at=instant_of(transition.at),
            reported_at=reported,
            event_version=1,
            spec_node_id=spec.id,
            node_name=spec.template.metadata.name,
            is_parent=node.inner is not None
            or spec.kind is NodeKind.SUBWORKFLOW
            or (self._item_nodes and spec.kind is NodeKind.ARRAY),
            is_array=spec.kind is NodeKind.ARRAY,
            is_dynamic=phase is NodePhase.DYNAMIC_RUNNING or (spec.kind is NodeKind.TASK and node.inner is not None),
            is_in_dynamic_chain=in_dynamic_chain(node),
        )
        if spec.kind is not NodeKind.START:
            event.input_uri = self._layout.inputs(node)
        if scope.owner is not None:
            event.parent_node_metadata.node_id = scope.owner.unique_id
            event.retry_group = str(scope.owner_attempt)
        match spec.kind:
            case NodeKind.TASK:
                event.target_entity.CopyFrom(spec.template.task_node.reference_id)
            case NodeKind.LAUNCH_PLAN:
                event.target_entity.CopyFrom(spec.template.workflow_node.launchplan_ref)
            case _:
                pass
        if transition.failure is not None:
            event.error.CopyFrom(error_of(transition.failure))
        elif phase in (NodePhase.SUCCEEDED, NodePhase.RECOVERED):
            event.output_uri = self._layout.outputs(node)
        detail: Mapping[str, Any] = transition.detail or {}
        if "deck_uri" in detail:
            event.deck_uri = detail["deck_uri"]
        if "task_node_metadata" in detail:
            event.task_node_metadata.CopyFrom(detail["task_node_metadata"])
            if event.task_node_metadata.HasField("dynamic_workflow"):
                event.is_dynamic = event.is_parent = True
        elif "workflow_node_metadata" in detail:
            event.workflow_node_metadata.CopyFrom(detail["workflow_node_metadata"])
        if spec.kind is NodeKind.LAUNCH_PLAN and phase in _LAUNCHED:
            child = event.workflow_node_metadata.execution_id
            child.project, child.domain = self._execution.project, self._execution.domain
            child.name = self._layout.child_name(node, transition.attempt)
        elif spec.kind is NodeKind.TASK and phase in _ENDED and node.task_phase is not TaskPhase.UNDEFINED:
            event.task_node_metadata.checkpoint_uri = self._layout.checkpoints(node, transition.attempt)
        return event

    def _task(
        self, transition: TaskTransition, change: journal_pb2.TaskChange, plain: PlainEvents, reported: Timestamp
    ) -> None:
        change.node_id, change.attempt = transition.node.unique_id, transition.attempt
        change.event = plain.task(transition) or self._task_event(transition, reported).SerializeToString()
        if transition.phase is not TaskPhase.QUEUED and transition.phase not in _FINISHED_TASK:
            # Other phases come with a change of the node, whose state has them.
            change.state = state_pb2.NodeState(
                attempts=transition.attempt, task_phase=transition.phase, task_version=transition.version
            ).SerializeToString()

    def _task_event(self, transition: TaskTransition, reported: Timestamp) -> event_pb2.TaskExecutionEvent:
        node = transition.node
        task = node.spec.task
        assert task is not None
        info = transition.info if isinstance(transition.info, PhaseInfo) else None
        array = node.spec.kind is NodeKind.ARRAY
        event = event_pb2.TaskExecutionEvent(
            task_id=task.id,
            parent_node_execution_id=identifier_pb2.NodeExecutionIdentifier(
                node_id=node.unique_id, execution_id=self._execution
            ),
            retry_attempt=transition.attempt,
            phase=int(transition.phase),  # type: ignore[arg-type]  # the stubs want the enumeration
            phase_version=transition.version,
            producer_id=PRODUCER,
            occurred_at=_instant(info.occurred_at if info is not None else None, transition.at),
            reported_at=reported,
            task_type=_ARRAY_TYPE if array else task.type,
            event_version=1,
            input_uri=self._layout.inputs(node),
        )
        event.metadata.generated_name = self._layout.generated_name(node, transition.attempt)
        event.metadata.plugin_identifier = _ARRAY_PLUGIN if array else self._plugin_names.get(task.type, "")
        if info is not None:
            _add_info(event, info)
        if transition.failure is not None:
            event.error.CopyFrom(error_of(transition.failure))
        elif transition.phase is TaskPhase.SUCCEEDED:
            event.output_uri = self._layout.outputs(node, transition.attempt)
        return event


def _abortion(change: ItemTransition, code: str) -> Failure | None:
    """Why an item was aborted, which is why its node was; None if it was not."""
    if change.phase is not TaskPhase.ABORTED:
        return None
    return Failure(code, change.node.memo.get("abort_reason", ""), ErrorKind.UNKNOWN, retryable=False)


def _items(transition: ItemsTransition) -> journal_pb2.ItemsChange:
    written = journal_pb2.ItemsChange(node_id=transition.node.unique_id)
    before: tuple[int, int, int, bytes, int, str] | None = None
    last = -1
    for index in sorted(transition.changes):
        change = transition.changes[index]
        info = change.info if isinstance(change.info, ItemInfo) else _PLAIN_ITEM
        state = (
            change.attempt,
            change.system_failures,
            int(change.phase),
            b"" if change.failure is None else item_error(change.failure).SerializeToString(),
            info.cache_status,
            info.log_uri,
        )
        if state == before and index == last + 1:
            written.ranges[-1].last = index
        else:
            attempt, system_failures, phase, error, cache_status, log_uri = state
            written.ranges.add(
                first=index, last=index, attempt=attempt, system_failures=system_failures, phase=phase, error=error,
                cache_status=cache_status, log_uri=log_uri,
            )  # fmt: skip
        before, last = state, index
    return written


def _add_info(event: event_pb2.TaskExecutionEvent, info: PhaseInfo) -> None:
    event.logs.extend(info.logs)
    if info.reason:
        event.reason = bounded(info.reason, MAX_REASON)
        event.reasons.add(reason=event.reason, occurred_at=event.occurred_at)
    for reason in info.additional_reasons:
        event.reasons.add(
            reason=bounded(reason.text, MAX_REASON), occurred_at=_instant(reason.occurred_at, time.time())
        )
    if info.custom_info is not None:
        event.custom_info.CopyFrom(info.custom_info)
    event.metadata.external_resources.extend(info.external_resources)
    if info.log_context is not None:
        event.log_context.CopyFrom(info.log_context)


def error_of(failure: Failure) -> execution_pb2.ExecutionError:
    """A failure as the API shows it, its message bounded and ending with the next step."""
    return advised(failure, MAX_MESSAGE).error()


def item_error(failure: Failure) -> execution_pb2.ExecutionError:
    """As `error_of`, shorter: a map may have many of them."""
    return advised(failure, MAX_ITEM_MESSAGE).error()


def failure_of(serialized: bytes) -> Failure | None:
    """A failure from a serialized ExecutionError; None for no bytes."""
    return failure_in(execution_pb2.ExecutionError.FromString(serialized)) if serialized else None


def failure_in(error: execution_pb2.ExecutionError) -> Failure:
    """The failure that the API shows as `error`."""
    return Failure(
        error.code,
        error.message,
        _KINDS.get(error.kind, ErrorKind.UNKNOWN),
        retryable=False,
        timestamp=error.timestamp.ToDatetime(UTC) if error.HasField("timestamp") else None,
        worker=error.worker,
    )


def read(assignment: journal_pb2.Assignment) -> SavedWorkflow:
    """What an assignment says about the execution's past, as the engine restores it."""
    nodes: dict[str, SavedNode] = {}
    for snapshot in assignment.nodes:
        state = state_pb2.NodeState.FromString(snapshot.state)
        task = state_pb2.NodeState.FromString(snapshot.attempt_state)
        if not task.task_phase or task.attempts != state.attempts or state.task_phase in _FINISHED_TASK:
            task = state  # it is older than the node's
        nodes[snapshot.node_id] = SavedNode(
            phase=NodePhase(state.phase),
            attempts=state.attempts,
            system_failures=state.system_failures,
            queued_at=state.queued_at,
            attempt_at=state.attempt_at,
            choice=state.choice - 1,
            expansion=state.expansion,
            task_phase=TaskPhase(task.task_phase),
            task_version=task.task_version,
            failure=failure_of(snapshot.error),
            plan=_plan(state.items) if state.HasField("items") else None,
            items=tuple(_saved_item(item) for item in snapshot.items),
        )
    workflow = state_pb2.WorkflowState.FromString(assignment.workflow_state)
    phase = WorkflowPhase(workflow.phase)
    if phase is WorkflowPhase.ABORTING:
        phase = WorkflowPhase.RUNNING
    return SavedWorkflow(phase=phase, nodes=nodes, failure=failure_of(workflow.error))


def shared(assignment: journal_pb2.Assignment) -> Iterator[tuple[str, bytes, bytes]]:
    """The nodes of an assignment that have inputs or outputs among the shared values, and by which those are found."""
    for snapshot in assignment.nodes:
        state = state_pb2.NodeState.FromString(snapshot.state)
        if state.shared_inputs or state.shared_outputs:
            yield snapshot.node_id, state.shared_inputs, state.shared_outputs


def _state_with(transition: NodeTransition, layout: Layout) -> bytes:
    node = transition.node
    # An array is QUEUED until what it took over is recorded: whoever restores it before that asks for it again.
    queued = transition.phase is NodePhase.QUEUED and node.spec.kind is NodeKind.ARRAY
    return _state(node, NodePhase.QUEUED if queued else node.phase, layout)


def _state(node: NodeState, phase: NodePhase, layout: Layout) -> bytes:
    inputs, outputs = layout.shares(node.unique_id)
    state = state_pb2.NodeState(
        phase=phase,
        attempts=node.attempts,
        queued_at=node.queued_at,
        attempt_at=node.attempt_at,
        choice=node.choice + 1,
        task_phase=node.task_phase,
    )
    # Most nodes have little of what follows, and there may be very many of them.
    if inputs:
        state.shared_inputs = inputs
    if outputs:
        state.shared_outputs = outputs
    if node.system_failures:
        state.system_failures = node.system_failures
    if node.task_version:
        state.task_version = node.task_version
    if node.expansion:
        state.expansion = node.expansion
    if node.items is not None:
        state.items.CopyFrom(_written_plan(node.items.plan))
    return state.SerializeToString()


def _written_plan(plan: ItemPlan) -> state_pb2.ItemPlan:
    return state_pb2.ItemPlan(
        size=plan.size,
        concurrency=plan.concurrency,
        min_successes=plan.min_successes,
        min_success_ratio=plan.min_success_ratio,
    )


def _plan(written: state_pb2.ItemPlan) -> ItemPlan:
    return ItemPlan(
        size=written.size,
        concurrency=written.concurrency,
        min_successes=written.min_successes if written.HasField("min_successes") else None,
        min_success_ratio=written.min_success_ratio if written.HasField("min_success_ratio") else None,
    )


def _saved_item(known: journal_pb2.ItemRange) -> SavedItem:
    return SavedItem(
        index=known.first,
        last=known.last,
        phase=TaskPhase(known.phase),
        attempt=known.attempt,
        system_failures=known.system_failures,
        failure=failure_of(known.error),
        failed_ago=known.failed_ms_ago / 1000,
        changed_ago=known.changed_ms_ago / 1000,
    )


def _instant(moment: datetime | None, otherwise: float) -> Timestamp:
    return instant_of(moment.timestamp() if moment is not None else otherwise)
