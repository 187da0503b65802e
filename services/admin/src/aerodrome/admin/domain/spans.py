"""Where the time of an execution went: a tree of spans, made from what is known of its nodes and attempts.

A span of an execution, a node or an attempt holds those of what ran inside it, and leaves for what was spent around
them: set-up, transitions, resets between attempts, teardown.  Every level of the tree costs one of the depth that is
asked for.  A teardown that would be negative is left out, and any other leaf is then empty: times of different reports
need not agree.  Source: spec/control-plane.md, section 6.9.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flyteidl.admin.execution_pb2 import ExecutionClosure
from flyteidl.admin.node_execution_pb2 import NodeExecutionClosure, NodeExecutionMetaData
from flyteidl.admin.task_execution_pb2 import TaskExecutionClosure
from flyteidl.core.compiler_pb2 import CompiledWorkflow, CompiledWorkflowClosure
from flyteidl.core.identifier_pb2 import (
    Identifier,
    NodeExecutionIdentifier,
    TaskExecutionIdentifier,
    WorkflowExecutionIdentifier,
)
from flyteidl.core.metrics_pb2 import Span
from flyteidl.core.workflow_pb2 import BranchNode, Node
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

START, END = "start-node", "end-node"

WORKFLOW_SETUP = "WORKFLOW_SETUP"
WORKFLOW_TEARDOWN = "WORKFLOW_TEARDOWN"
NODE_SETUP = "NODE_SETUP"
NODE_TRANSITION = "NODE_TRANSITION"
NODE_IDLE = "NODE_IDLE"
NODE_RESET = "NODE_RESET"
NODE_TEARDOWN = "NODE_TEARDOWN"
TASK_SETUP = "TASK_SETUP"
TASK_RUNTIME = "TASK_RUNTIME"
TASK_TEARDOWN = "TASK_TEARDOWN"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node that ran."""

    node_id: str
    parent_id: str | None
    closure: NodeExecutionClosure
    metadata: NodeExecutionMetaData
    dynamic_reference: str = ""
    """Where the workflow that it made is stored, if it made one."""


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """An attempt of a node."""

    task: Identifier
    retry_attempt: int
    closure: TaskExecutionClosure


@dataclass(frozen=True, slots=True)
class ExecutionFacts:
    """An execution, as much of it as the depth of the tree needs."""

    key: WorkflowExecutionIdentifier
    closure: ExecutionClosure
    workflow: CompiledWorkflowClosure = field(default_factory=CompiledWorkflowClosure)
    nodes: Sequence[NodeFacts] = ()
    tasks: Mapping[str, Sequence[TaskFacts]] = field(default_factory=dict)
    """The attempts of each node, in order."""
    dynamic: Mapping[str, CompiledWorkflowClosure] = field(default_factory=dict)
    """The workflows that nodes made."""
    children: Mapping[str, ExecutionFacts] = field(default_factory=dict)
    """The executions that nodes launched."""


def execution_span(facts: ExecutionFacts, depth: int) -> Span:
    """The span of an execution with up to `depth` levels inside it; negative: with all of them."""
    closure = facts.closure
    span = _span(_at(closure, "created_at"), _at(closure, "updated_at"))
    span.workflow_id.CopyFrom(facts.key)
    if depth != 0:
        _Tree(facts).fill(span, depth)
    return span


def level_of(node: NodeFacts, by_id: Mapping[str, NodeFacts]) -> int:
    """How many levels below its execution a node is: 1 for one at the top."""
    level = 1
    while node.parent_id is not None and node.parent_id in by_id and level <= len(by_id):
        node = by_id[node.parent_id]
        level += 1
    return level


class _Tree:
    """The nodes of one execution."""

    def __init__(self, facts: ExecutionFacts) -> None:
        self._facts = facts
        self._below: dict[str | None, list[NodeFacts]] = {}
        for node in facts.nodes:
            self._below.setdefault(node.parent_id, []).append(node)

    def fill(self, span: Span, depth: int) -> None:
        """What is inside the execution."""
        closure = self._facts.closure
        created, updated = _at(closure, "created_at"), _at(closure, "updated_at")
        level = _Level(self._facts.workflow, self._facts.workflow.primary, self._below.get(None, ()))
        started = level.updated(START)
        if started is None:
            _add(span, WORKFLOW_SETUP, created, updated)
            return
        _add(span, WORKFLOW_SETUP, created, started)
        self._nodes(span, level, depth - 1)
        _add_if_forward(span, WORKFLOW_TEARDOWN, level.last_upstream(END), updated)

    def _nodes(self, span: Span, level: _Level, depth: int) -> None:
        for node in level.inner():
            inner = span.spans.add()
            self._node(inner, level, node, depth, level.last_upstream(node.metadata.spec_node_id))

    def _node(self, span: Span, level: _Level, node: NodeFacts, depth: int, ready: Timestamp | None) -> None:
        """A node; `ready` is when the last of those that it waited for changed last."""
        created, updated = _at(node.closure, "created_at"), _at(node.closure, "updated_at")
        _put(span, created, updated)
        span.node_id.CopyFrom(NodeExecutionIdentifier(execution_id=self._facts.key, node_id=node.node_id))
        if ready is not None:
            _add(span, NODE_TRANSITION, ready, created)
        spec = level.specs.get(node.metadata.spec_node_id)
        if depth == 0 or spec is None:
            return
        match spec.WhichOneof("target"):
            case "task_node":
                self._task_node(span, level, node, depth - 1)
            case "workflow_node" if spec.workflow_node.HasField("sub_workflow_ref"):
                workflow = level.find(spec.workflow_node.sub_workflow_ref)
                below = _Level(level.closure, workflow, self._below.get(node.node_id, ()))
                self._inside(span, below, node, NODE_SETUP, created, depth)
            case "workflow_node":
                self._launched(span, node, depth)
            case "branch_node":
                self._branch(span, level, node, depth)
            case "gate_node":
                _gate(span, node)

    def _task_node(self, span: Span, level: _Level, node: NodeFacts, depth: int) -> None:
        created, updated = _at(node.closure, "created_at"), _at(node.closure, "updated_at")
        attempts = self._facts.tasks.get(node.node_id, ())
        if not attempts:
            _add(span, NODE_SETUP, created, updated)
            return
        _add(span, NODE_SETUP, created, _at(attempts[0].closure, "created_at"))
        previous: Timestamp | None = None
        for attempt in attempts:
            if previous is not None:
                _add(span, NODE_RESET, previous, _at(attempt.closure, "created_at"))
            if depth != 0:
                self._attempt(span.spans.add(), node, attempt)
            previous = _at(attempt.closure, "updated_at")
        if not node.metadata.is_parent_node:
            _add_if_forward(span, NODE_TEARDOWN, previous, updated)
            return
        made = self._facts.dynamic.get(node.node_id, CompiledWorkflowClosure())
        below = _Level(made, made.primary, self._below.get(node.node_id, ()))
        self._inside(span, below, node, NODE_RESET, previous, depth + 1)

    def _inside(
        self, span: Span, below: _Level, node: NodeFacts, first: str, since: Timestamp | None, depth: int
    ) -> None:
        """The nodes below one, after `first`, which began at `since`."""
        updated = _at(node.closure, "updated_at")
        started = below.updated(START) or below.begun()
        if started is None:
            _add(span, first, since, updated)
            return
        _add(span, first, since, started)
        self._nodes(span, below, depth - 1)
        _add_if_forward(span, NODE_TEARDOWN, below.last_upstream(END), updated)

    def _launched(self, span: Span, node: NodeFacts, depth: int) -> None:
        created, updated = _at(node.closure, "created_at"), _at(node.closure, "updated_at")
        child = self._facts.children.get(node.node_id)
        if child is None:
            _add(span, NODE_SETUP, created, updated)
            return
        _add(span, NODE_SETUP, created, _at(child.closure, "created_at"))
        span.spans.append(execution_span(child, depth - 1))
        _add_if_forward(span, NODE_TEARDOWN, _at(child.closure, "updated_at"), updated)

    def _branch(self, span: Span, level: _Level, node: NodeFacts, depth: int) -> None:
        created, updated = _at(node.closure, "created_at"), _at(node.closure, "updated_at")
        taken = self._below.get(node.node_id, ())
        if not taken:
            _add(span, NODE_SETUP, created, updated)
            return
        _add(span, NODE_SETUP, created, _at(taken[0].closure, "created_at"))
        for child in taken:
            self._node(span.spans.add(), level, child, depth - 1, None)
        _add_if_forward(span, NODE_TEARDOWN, _latest(taken), updated)

    def _attempt(self, span: Span, node: NodeFacts, attempt: TaskFacts) -> None:
        closure = attempt.closure
        created, updated, started = (_at(closure, name) for name in ("created_at", "updated_at", "started_at"))
        _put(span, created, updated)
        span.task_id.CopyFrom(
            TaskExecutionIdentifier(
                task_id=attempt.task,
                node_execution_id=NodeExecutionIdentifier(execution_id=self._facts.key, node_id=node.node_id),
                retry_attempt=attempt.retry_attempt,
            )
        )
        if started is None:
            _add(span, TASK_SETUP, created, updated)
            return
        _add(span, TASK_SETUP, created, started)
        ended = _end(started, closure.duration if closure.HasField("duration") else None, updated)
        _add(span, TASK_RUNTIME, started, ended)
        _add_if_forward(span, TASK_TEARDOWN, ended, updated)


class _Level:
    """The nodes of one workflow that ran, and how that workflow connects them."""

    def __init__(
        self, closure: CompiledWorkflowClosure, workflow: CompiledWorkflow, nodes: Sequence[NodeFacts]
    ) -> None:
        self.closure = closure
        self._nodes = nodes
        self._by_spec = {node.metadata.spec_node_id: node for node in nodes}
        self._upstream = workflow.connections.upstream
        self.specs: dict[str, Node] = {}
        self._collect(workflow.template.nodes)
        if workflow.template.HasField("failure_node"):
            self._collect([workflow.template.failure_node])

    def _collect(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            self.specs.setdefault(node.id, node)
            if node.WhichOneof("target") == "branch_node":
                self._collect(_arms(node.branch_node))

    def find(self, identifier: Identifier) -> CompiledWorkflow:
        """A sub-workflow of this one; an empty one if the closure does not hold it."""
        for workflow in self.closure.sub_workflows:
            if workflow.template.id == identifier:
                return workflow
        return CompiledWorkflow()

    def updated(self, spec_node_id: str) -> Timestamp | None:
        """When a node changed last."""
        node = self._by_spec.get(spec_node_id)
        return None if node is None else _at(node.closure, "updated_at")

    def begun(self) -> Timestamp | None:
        """When the first of the nodes was made; our own engine reports no start nodes below the top."""
        known = [node.closure.created_at for node in self._nodes if node.closure.HasField("created_at")]
        return min(known, key=_order, default=None)

    def inner(self) -> list[NodeFacts]:
        """The nodes other than the first and the last, in the order in which they were made."""
        nodes = [node for node in self._nodes if node.metadata.spec_node_id not in (START, END)]
        return sorted(nodes, key=lambda node: _order(node.closure.created_at))

    def last_upstream(self, spec_node_id: str) -> Timestamp | None:
        """When the last of the nodes that one waits for changed last; None if none of them ran."""
        if spec_node_id not in self._upstream:
            return None
        ran = (self._by_spec.get(each) for each in self._upstream[spec_node_id].ids)
        return _latest([node for node in ran if node is not None])


def _arms(branch: BranchNode) -> list[Node]:
    if_else = branch.if_else
    arms = [if_else.case.then_node, *(each.then_node for each in if_else.other)]
    return [*arms, if_else.else_node] if if_else.WhichOneof("default") == "else_node" else arms


def _gate(span: Span, node: NodeFacts) -> None:
    closure = node.closure
    created, updated, started = (_at(closure, name) for name in ("created_at", "updated_at", "started_at"))
    if started is None:
        _add(span, NODE_SETUP, created, updated)
        return
    _add(span, NODE_SETUP, created, started)
    ended = _end(started, closure.duration if closure.HasField("duration") else None, updated)
    _add(span, NODE_IDLE, started, ended)
    _add_if_forward(span, NODE_TEARDOWN, ended, updated)


def _latest(nodes: Sequence[NodeFacts]) -> Timestamp | None:
    known = [node.closure.updated_at for node in nodes if node.closure.HasField("updated_at")]
    return max(known, key=_order, default=None)


def _end(started: Timestamp, duration: Duration | None, updated: Timestamp | None) -> Timestamp | None:
    """When something that started ended: after its duration, or as far as is known."""
    if duration is None:
        return updated
    nanos = started.nanos + duration.nanos
    return Timestamp(seconds=started.seconds + duration.seconds + nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)


def _at(closure: ExecutionClosure | NodeExecutionClosure | TaskExecutionClosure, field_name: str) -> Timestamp | None:
    at: Timestamp = getattr(closure, field_name)
    return at if closure.HasField(field_name) and _order(at) != (0, 0) else None


def _order(at: Timestamp) -> tuple[int, int]:
    return at.seconds, at.nanos


def _span(start: Timestamp | None, end: Timestamp | None) -> Span:
    return _put(Span(), start, end)


def _put(span: Span, start: Timestamp | None, end: Timestamp | None) -> Span:
    if start is not None:
        span.start_time.CopyFrom(start)
    if end is not None:
        span.end_time.CopyFrom(end)
    return span


def _add(parent: Span, operation: str, start: Timestamp | None, end: Timestamp | None) -> None:
    if start is not None and end is not None and _order(start) > _order(end):
        start = end
    _put(parent.spans.add(operation_id=operation), start, end)


def _add_if_forward(parent: Span, operation: str, start: Timestamp | None, end: Timestamp | None) -> None:
    """Add a leaf unless it would end before it starts, or its start is not known."""
    if start is not None and end is not None and _order(start) <= _order(end):
        _add(parent, operation, start, end)
