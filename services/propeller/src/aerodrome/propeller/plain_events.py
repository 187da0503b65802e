"""Events of task nodes of which there is nothing special to say, written piece by piece.

Most events of a large graph differ in a few fields.  What protobuf writes of two parts of a message, one behind the
other, is read as the message with both parts, so what is alike is written once and only put in front: making each event
anew takes longer than everything else that is done to tell of it.  They are the same events that `transcript` makes.
"""

from __future__ import annotations

from collections.abc import Mapping

from flyteidl.core import execution_pb2, identifier_pb2
from flyteidl.event import event_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.plugins.api import PhaseInfo
from aerodrome.propeller.engine.graph import NodeKind
from aerodrome.propeller.engine.phases import NodePhase, TaskPhase
from aerodrome.propeller.engine.state import NodeState, NodeTransition, TaskTransition
from aerodrome.propeller.layout import Layout

_N = execution_pb2.NodeExecution
_ID = identifier_pb2.NodeExecutionIdentifier
_NODE_PHASES = {
    NodePhase.QUEUED: event_pb2.NodeExecutionEvent(phase=_N.QUEUED).SerializeToString(),
    NodePhase.RUNNING: event_pb2.NodeExecutionEvent(phase=_N.RUNNING).SerializeToString(),
    NodePhase.SUCCEEDED: event_pb2.NodeExecutionEvent(phase=_N.SUCCEEDED).SerializeToString(),
}
_TASK_PHASES = {
    phase: event_pb2.TaskExecutionEvent(phase=int(phase)).SerializeToString()  # type: ignore[arg-type]  # the same numbers
    for phase in (TaskPhase.QUEUED, TaskPhase.SUCCEEDED)
}
_NODE, _TASK, _NODE_SHARED, _TASK_SHARED = "node event", "task event", "node events", "task events"
"""Keys of memos of nodes, and of scopes."""


class PlainEvents:
    """Serialized events of one execution that were reported at one moment."""

    def __init__(
        self,
        execution: identifier_pb2.WorkflowExecutionIdentifier,
        layout: Layout,
        *,
        producer: str,
        plugin_names: Mapping[str, str],
        reported: Timestamp,
    ) -> None:
        self._execution = execution
        self._layout = layout
        self._producer = producer
        self._plugin_names = plugin_names
        self._reported = reported
        self._node_times: dict[float, bytes] = {}
        self._task_times: dict[float, bytes] = {}

    def node(self, transition: NodeTransition) -> bytes | None:
        """The event of a task node; None if there is more to say of it."""
        node, phase = transition.node, transition.phase
        known = None if phase is None else _NODE_PHASES.get(phase)
        if (
            known is None
            or node.spec.kind is not NodeKind.TASK
            or node.inner is not None
            or transition.failure is not None
            or transition.detail
        ):
            return None
        times = self._node_times.get(transition.at)
        if times is None:
            times = self._node_times[transition.at] = event_pb2.NodeExecutionEvent(
                occurred_at=instant_of(transition.at), reported_at=self._reported
            ).SerializeToString()
        written: bytes = (node.memo.get(_NODE) or self._begin_node(node)) + known + times
        if phase is NodePhase.SUCCEEDED:
            event = event_pb2.NodeExecutionEvent(output_uri=self._layout.outputs(node))
            if node.task_phase is not TaskPhase.UNDEFINED:
                event.task_node_metadata.checkpoint_uri = self._layout.checkpoints(node, transition.attempt)
            written += event.SerializeToString()
            del node.memo[_NODE]
        return written

    def task(self, transition: TaskTransition) -> bytes | None:
        """The event of an attempt; None if there is more to say of it."""
        node, phase, info = transition.node, transition.phase, transition.info
        known = _TASK_PHASES.get(phase)
        if (
            known is None
            or node.spec.kind is not NodeKind.TASK
            or transition.failure is not None
            or transition.version
            or (isinstance(info, PhaseInfo) and _says_more(info))
        ):
            return None
        times = self._task_times.get(transition.at)
        if times is None:
            times = self._task_times[transition.at] = event_pb2.TaskExecutionEvent(
                occurred_at=instant_of(transition.at), reported_at=self._reported
            ).SerializeToString()
        event = event_pb2.TaskExecutionEvent(
            parent_node_execution_id=_ID(node_id=node.unique_id), input_uri=self._layout.inputs(node)
        )
        event.metadata.generated_name = self._layout.generated_name(node, transition.attempt)
        if transition.attempt:
            event.retry_attempt = transition.attempt
        if phase is TaskPhase.SUCCEEDED:
            event.output_uri = self._layout.outputs(node, transition.attempt)
        return self._attempts(node) + known + times + event.SerializeToString()

    def _begin_node(self, node: NodeState) -> bytes:
        """What all events of a node say."""
        spec, scope = node.spec, node.scope
        shared: dict[int, bytes] = scope.memo.setdefault(_NODE_SHARED, {})
        written = shared.get(id(spec.task))
        if written is None:
            event = event_pb2.NodeExecutionEvent(
                id=_ID(execution_id=self._execution),
                producer_id=self._producer,
                event_version=1,
                is_in_dynamic_chain=in_dynamic_chain(node),
                target_entity=spec.template.task_node.reference_id,
            )
            if scope.owner is not None:
                event.parent_node_metadata.node_id = scope.owner.unique_id
                event.retry_group = str(scope.owner_attempt)
            written = shared[id(spec.task)] = event.SerializeToString()
        own = event_pb2.NodeExecutionEvent(
            id=_ID(node_id=node.unique_id),
            spec_node_id=spec.id,
            node_name=spec.template.metadata.name,
            input_uri=self._layout.inputs(node),
        )
        known: bytes = written + own.SerializeToString()
        node.memo[_NODE] = known
        return known

    def _attempts(self, node: NodeState) -> bytes:
        """What all events of all attempts of a task say."""
        task = node.spec.task
        assert task is not None
        shared: dict[int, bytes] = node.scope.memo.setdefault(_TASK_SHARED, {})
        written = shared.get(id(task))
        if written is None:
            event = event_pb2.TaskExecutionEvent(
                task_id=task.id,
                parent_node_execution_id=_ID(execution_id=self._execution),
                producer_id=self._producer,
                task_type=task.type,
                event_version=1,
            )
            event.metadata.plugin_identifier = self._plugin_names.get(task.type, "")
            written = shared[id(task)] = event.SerializeToString()
        return written


def instant_of(seconds: float) -> Timestamp:
    """An instant in seconds since 1970, to the microsecond."""
    whole = int(seconds)
    return Timestamp(seconds=whole, nanos=int((seconds - whole) * 1e6) * 1000)


def in_dynamic_chain(node: NodeState) -> bool:
    """Whether one of the nodes around a node is dynamic."""
    scope = node.scope
    known: bool | None = scope.memo.get("dynamic chain")
    if known is None:
        owner = scope.owner
        known = owner is not None and (owner.spec.kind is NodeKind.TASK or in_dynamic_chain(owner))
        scope.memo["dynamic chain"] = known
    return known


def _says_more(info: PhaseInfo) -> bool:
    return bool(
        info.occurred_at is not None
        or info.reason
        or info.logs
        or info.custom_info is not None
        or info.external_resources
        or info.additional_reasons
        or info.log_context is not None
    )
