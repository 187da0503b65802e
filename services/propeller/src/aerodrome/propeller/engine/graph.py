"""A compiled workflow as the engine walks it: nodes by number, edges as tuples of numbers.

Built once per workflow from the compiled closure and shared by everything that runs it; immutable.
Source: spec/control-plane.md, 2.3; spec/data-plane.md, 1.7, 1.8, 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from flyteidl.core import compiler_pb2, condition_pb2, errors_pb2, identifier_pb2, tasks_pb2, workflow_pb2

START = "start-node"
END = "end-node"

Key = tuple[int, str, str, str, str]


class NodeKind(Enum):
    START = "start"
    END = "end"
    TASK = "task"
    SUBWORKFLOW = "subworkflow"
    LAUNCH_PLAN = "launch-plan"
    BRANCH = "branch"
    GATE = "gate"
    ARRAY = "array"


COUNTED = frozenset({NodeKind.TASK, NodeKind.LAUNCH_PLAN, NodeKind.ARRAY})
"""Kinds that count against `max_parallelism`; the others only coordinate."""


class BadSpecification(Exception):
    """The closure does not hold together; the execution fails with this text and code `BadSpecificationError`."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One arm of a branch: taken when `condition` holds, or as the last resort when it is None."""

    condition: condition_pb2.BooleanExpression | None
    node: int


@dataclass(slots=True, eq=False)
class NodeSpec:
    """What never changes about a node."""

    id: str
    kind: NodeKind
    template: workflow_pb2.Node
    max_attempts: int
    """User budget: retries + 1."""
    timeout: float
    """Seconds an attempt may take (twice that: the node, all attempts together); 0 is no limit."""
    interruptible: bool | None = None
    task: tasks_pb2.TaskTemplate | None = None
    arms: Graph | None = None
    """Of a branch: its inner nodes as a graph without edges."""
    choices: tuple[Choice, ...] = ()
    otherwise: errors_pb2.ContainerError | None = None
    counted: bool = False
    has_outputs: bool = True
    item_attempts: int = 1
    """Of an array: the user budget of each item."""
    item_timeout: float = 0.0
    """Of an array: seconds that an attempt of an item may take; 0 is no limit."""
    item: NodeSpec | None = None
    """Of an array: the node that each of its items is."""
    awaits: tuple[str, ...] = ()
    """Of a branch's arm: nodes outside the branch whose outputs it reads; the branch itself does not wait for them."""


@dataclass(slots=True, eq=False)
class Graph:
    """One scope's nodes and edges; `nodes[i]`'s successors are `downstream[i]`."""

    id: identifier_pb2.Identifier
    nodes: tuple[NodeSpec, ...]
    downstream: tuple[tuple[int, ...], ...]
    upstream_counts: tuple[int, ...]
    failure_node: NodeSpec | None = None
    finish_before_failing: bool = False
    """FAIL_AFTER_EXECUTABLE_NODES_COMPLETE: what does not depend on a failed node still runs."""
    outputs: frozenset[str] = frozenset()
    closure: Closure | None = None
    """What the identifiers in `nodes` refer to; a dynamic node brings a closure of its own."""
    index: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.index:
            self.index.update((node.id, number) for number, node in enumerate(self.nodes))


def key_of(identifier: identifier_pb2.Identifier) -> Key:
    """An identifier as a hashable value, without its org."""
    return (
        identifier.resource_type,
        identifier.project,
        identifier.domain,
        identifier.name,
        identifier.version,
    )


class Closure:
    """Everything one compiled workflow closure holds, with its graphs built on demand and kept."""

    def __init__(self, closure: compiler_pb2.CompiledWorkflowClosure, *, default_max_attempts: int = 1) -> None:
        self.primary = closure.primary
        self._default_max_attempts = default_max_attempts
        self._tasks = {key_of(task.template.id): task.template for task in closure.tasks}
        self._workflows = {key_of(workflow.template.id): workflow for workflow in closure.sub_workflows}
        self._graphs: dict[Key, Graph] = {}

    def root(self) -> Graph:
        """The graph of the primary workflow."""
        return self._graph(self.primary)

    def sub_workflow(self, identifier: identifier_pb2.Identifier) -> Graph:
        """The graph of a sub-workflow of this closure; raises BadSpecification if it is not part of it."""
        workflow = self._workflows.get(key_of(identifier))
        if workflow is None:
            raise BadSpecification(f"sub-workflow {identifier.name} is not part of the closure")
        return self._graph(workflow)

    def task(self, identifier: identifier_pb2.Identifier) -> tasks_pb2.TaskTemplate:
        """A task of this closure; raises BadSpecification if it is not part of it."""
        task = self._tasks.get(key_of(identifier))
        if task is None:
            raise BadSpecification(f"task {identifier.name} is not part of the closure")
        return task

    def _graph(self, workflow: compiler_pb2.CompiledWorkflow) -> Graph:
        key = key_of(workflow.template.id)
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._graphs[key] = self._build(workflow)
        return graph

    def _build(self, workflow: compiler_pb2.CompiledWorkflow) -> Graph:
        template = workflow.template
        nodes = tuple(self._node(node, workflow) for node in template.nodes)
        index = {node.id: number for number, node in enumerate(nodes)}
        if START not in index:
            raise BadSpecification(f"workflow {template.id.name} has no {START}")
        counts = [0] * len(nodes)
        downstream: list[tuple[int, ...]] = []
        edges = workflow.connections.downstream
        for node in nodes:
            ids = edges[node.id].ids if node.id in edges else ()
            successors = tuple(index[successor] for successor in ids if successor in index)
            for successor in successors:
                counts[successor] += 1
            downstream.append(successors)
        policy = workflow_pb2.WorkflowMetadata.FAIL_AFTER_EXECUTABLE_NODES_COMPLETE
        return Graph(
            id=template.id,
            nodes=nodes,
            downstream=tuple(downstream),
            upstream_counts=tuple(counts),
            failure_node=self._node(template.failure_node, workflow) if template.HasField("failure_node") else None,
            finish_before_failing=template.metadata.on_failure == policy,
            outputs=frozenset(template.interface.outputs.variables),
            closure=self,
            index=index,
        )

    def _node(self, node: workflow_pb2.Node, workflow: compiler_pb2.CompiledWorkflow) -> NodeSpec:
        kind = _kind(node)
        template = workflow.template
        task = None
        if kind is NodeKind.TASK:
            task = self.task(node.task_node.reference_id)
        elif kind is NodeKind.ARRAY and node.array_node.node.WhichOneof("target") == "task_node":
            task = self.task(node.array_node.node.task_node.reference_id)
        retries = node.metadata.retries.retries
        if not retries and task is not None and kind is NodeKind.TASK:
            retries = task.metadata.retries.retries
        timeout = node.metadata.timeout
        spec = NodeSpec(
            id=node.id,
            kind=kind,
            template=node,
            max_attempts=retries + 1 if retries > 0 else self._default_max_attempts,
            timeout=timeout.seconds + timeout.nanos / 1e9,
            interruptible=_interruptible(node, task, template),
            task=task,
            counted=kind in COUNTED,
            has_outputs=task is None or bool(task.interface.outputs.variables),
        )
        if kind is NodeKind.BRANCH:
            self._add_arms(spec, workflow)
        elif kind is NodeKind.ARRAY:
            spec.item = self._node(node.array_node.node, workflow)
            inner = node.array_node.node.metadata
            item_retries = inner.retries.retries or (task.metadata.retries.retries if task is not None else 0)
            spec.item_attempts = item_retries + 1 if item_retries > 0 else self._default_max_attempts
            spec.item_timeout = inner.timeout.seconds + inner.timeout.nanos / 1e9
        return spec

    def _add_arms(self, spec: NodeSpec, workflow: compiler_pb2.CompiledWorkflow) -> None:
        block = spec.template.branch_node.if_else
        arms: list[NodeSpec] = []
        choices: list[Choice] = []
        for case in (block.case, *block.other):
            choices.append(Choice(case.condition, len(arms)))
            arms.append(self._arm(case.then_node, workflow))
        match block.WhichOneof("default"):
            case "else_node":
                choices.append(Choice(None, len(arms)))
                arms.append(self._arm(block.else_node, workflow))
            case "error":
                spec.otherwise = errors_pb2.ContainerError(code="UserProvidedError", message=block.error.message)
            case _:
                pass
        spec.choices = tuple(choices)
        spec.arms = edgeless(workflow.template.id, arms, closure=self)

    def _arm(self, node: workflow_pb2.Node, workflow: compiler_pb2.CompiledWorkflow) -> NodeSpec:
        spec = self._node(node, workflow)
        upstream = workflow.connections.upstream
        spec.awaits = tuple(upstream[node.id].ids) if node.id in upstream else ()
        return spec


def edgeless(
    identifier: identifier_pb2.Identifier, nodes: Sequence[NodeSpec], *, closure: Closure | None = None
) -> Graph:
    """A graph of nodes that do not depend on each other: the arms of a branch, or a lone failure node."""
    return Graph(identifier, tuple(nodes), ((),) * len(nodes), (0,) * len(nodes), closure=closure)


def _kind(node: workflow_pb2.Node) -> NodeKind:
    if node.id == START:
        return NodeKind.START
    if node.id == END:
        return NodeKind.END
    match node.WhichOneof("target"):
        case "task_node":
            return NodeKind.TASK
        case "workflow_node":
            reference = node.workflow_node.WhichOneof("reference")
            return NodeKind.LAUNCH_PLAN if reference == "launchplan_ref" else NodeKind.SUBWORKFLOW
        case "branch_node":
            return NodeKind.BRANCH
        case "gate_node":
            return NodeKind.GATE
        case "array_node":
            return NodeKind.ARRAY
        case _:
            raise BadSpecification(f"node {node.id} has no target")


def _interruptible(
    node: workflow_pb2.Node, task: tasks_pb2.TaskTemplate | None, template: workflow_pb2.WorkflowTemplate
) -> bool | None:
    if node.metadata.WhichOneof("interruptible_value"):
        return node.metadata.interruptible
    if task is not None and task.metadata.WhichOneof("interruptible_value"):
        return task.metadata.interruptible
    return True if template.metadata_defaults.interruptible else None
