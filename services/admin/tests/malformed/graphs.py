"""Workflows of any shape: with nodes that wait for themselves or for each other, and with themselves inside of them."""

from __future__ import annotations

from random import Random
from typing import Any

from flyteidl.admin.workflow_pb2 import WorkflowCreateRequest
from flyteidl.core.condition_pb2 import BooleanExpression
from flyteidl.core.literals_pb2 import BindingData
from flyteidl.core.types_pb2 import SimpleType
from flyteidl.core.workflow_pb2 import Node, WorkflowTemplate

from .good import INTEGER, Good, interface, parsed

IDS = ("n0", "n1", "n2", "n3", "n0", "start-node", "end-node", "", "none")
"""What nodes are called and refer to; the more often the likelier."""
WORKFLOWS = ("self", "a", "b", "c", "none")
DEEPEST = 4


def any_graph(chance: Random, good: Good) -> WorkflowCreateRequest:
    """A request to register a workflow whose parts are sound by themselves, and refer to each other at random."""
    name = good.fresh("g")
    request = WorkflowCreateRequest()
    request.id.CopyFrom(parsed(type(request.id), good.entity("WORKFLOW", name)))
    graph = _Graph(chance, good, name)
    request.spec.template.CopyFrom(graph.workflow("self"))
    for each in chance.choice(((), ("a",), ("a", "b"), ("a", "b", "c"), ("a", "a"), ("self",))):
        request.spec.sub_workflows.append(graph.workflow(each))
    return request


def chain(good: Good, length: int, *, closed: bool) -> WorkflowCreateRequest:
    """A workflow whose nodes wait each for the one before it, and the first for the last if it is `closed`."""
    request = good.workflow()
    template = request.spec.template
    first = template.nodes[0]
    del template.nodes[:]
    for index in range(length):
        node = template.nodes.add()
        node.CopyFrom(first)
        node.id = f"n{index}"
        promise = node.inputs[0].binding.promise
        if index or closed:
            promise.node_id, promise.var = f"n{(index - 1) % length}", "o"
    return request


def tower(good: Good, height: int) -> WorkflowCreateRequest:
    """A workflow with a node that is a workflow with a node that is a workflow, and so on; the last holds the first."""
    request = good.every_node()
    inner = request.spec.sub_workflows[0]
    del request.spec.sub_workflows[:]
    for level in range(height):
        workflow = request.spec.sub_workflows.add()
        workflow.CopyFrom(inner)
        workflow.id.name = "inner" if level == 0 else f"inner{level}"
        node = workflow.nodes[0]
        following = (level + 1) % height
        node.workflow_node.sub_workflow_ref.CopyFrom(inner.id)
        node.workflow_node.sub_workflow_ref.name = "inner" if following == 0 else f"inner{following}"
    return request


class _Graph:
    def __init__(self, chance: Random, good: Good, name: str) -> None:
        self._chance = chance
        self._good = good
        self._name = name

    def workflow(self, which: str) -> WorkflowTemplate:
        template = WorkflowTemplate(id=parsed(Node, self._reference(which)).workflow_node.sub_workflow_ref)
        template.interface.CopyFrom(
            parsed(type(template.interface), interface(a=INTEGER, l={"collectionType": INTEGER}, o=INTEGER))
        )
        for index in range(self._chance.randrange(5)):
            self._fill(template.nodes.add(), f"n{index}" if self._chance.random() < 0.8 else self._id())
        for _ in range(self._chance.choice((1, 1, 1, 0, 2))):
            self._promise(template.outputs.add(var="o").binding)
        if self._chance.random() < 0.2:
            self._fill(template.failure_node, self._id())
        return template

    def _reference(self, which: str) -> dict[str, Any]:
        name = {"self": self._name}.get(which, which)
        return {"workflowNode": {"subWorkflowRef": self._good.entity("WORKFLOW", name)}}

    def _fill(self, node: Node, node_id: str, depth: int = 0) -> None:
        node.id = node_id
        self._promise(node.inputs.add(var="a").binding)
        node.upstream_node_ids.extend(self._id() for _ in range(self._chance.choice((0, 0, 1, 2))))
        kinds = ["task"] * 4 + ["workflow"] * 2 + ["plan", "sleep", "signal", "branch", "branch", "array"]
        match self._chance.choice(kinds if depth < DEEPEST else ["task"]):
            case "task":
                node.MergeFrom(parsed(Node, {"taskNode": {"referenceId": self._good.entity("TASK", "t")}}))
            case "workflow":
                node.MergeFrom(parsed(Node, self._reference(self._chance.choice(WORKFLOWS))))
            case "plan":
                plan = self._chance.choice(("lp", "none"))
                node.MergeFrom(
                    parsed(Node, {"workflowNode": {"launchplanRef": self._good.entity("LAUNCH_PLAN", plan)}})
                )
            case "sleep":
                node.gate_node.sleep.duration.seconds = self._chance.choice((0, 1, -1, 2**62))
            case "signal":
                node.gate_node.signal.signal_id = self._id()
                node.gate_node.signal.type.simple = SimpleType.INTEGER
            case "array":
                node.array_node.is_original_sub_node_interface.value = True
                self._fill(node.array_node.node, self._id(), depth + 1)
            case "branch":
                blocks = node.branch_node.if_else
                self._condition(blocks.case.condition, 0)
                self._fill(blocks.case.then_node, self._id(), depth + 1)
                for _ in range(self._chance.choice((0, 1))):
                    other = blocks.other.add()
                    self._condition(other.condition, 0)
                    self._fill(other.then_node, self._id(), depth + 1)
                if self._chance.random() < 0.7:
                    self._fill(blocks.else_node, self._id(), depth + 1)

    def _condition(self, condition: BooleanExpression, depth: int) -> None:
        if depth < DEEPEST and self._chance.random() < 0.3:
            self._condition(condition.conjunction.left_expression, depth + 1)
            self._condition(condition.conjunction.right_expression, depth + 1)
            return
        condition.comparison.left_value.var = self._chance.choice(("a", "x", ".a", "a.b"))
        condition.comparison.right_value.primitive.integer = 3

    def _promise(self, binding: BindingData, depth: int = 0) -> None:
        if depth < DEEPEST and self._chance.random() < 0.1:
            for _ in range(self._chance.choice((0, 1, 2))):
                self._promise(binding.collection.bindings.add(), depth + 1)
            return
        binding.promise.node_id = self._id()
        binding.promise.var = self._chance.choice(("o", "a", "a", "", "none"))

    def _id(self) -> str:
        return self._chance.choice(IDS)
