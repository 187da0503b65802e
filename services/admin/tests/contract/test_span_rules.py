"""The tree of spans by itself, over executions of any shape.  Source: spec/control-plane.md, section 6.9."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from flyteidl.admin.execution_pb2 import ExecutionClosure
from flyteidl.admin.node_execution_pb2 import NodeExecutionClosure, NodeExecutionMetaData
from flyteidl.admin.task_execution_pb2 import TaskExecutionClosure
from flyteidl.core.compiler_pb2 import CompiledWorkflow, CompiledWorkflowClosure
from flyteidl.core.identifier_pb2 import Identifier, WorkflowExecutionIdentifier
from flyteidl.core.metrics_pb2 import Span
from flyteidl.core.workflow_pb2 import Node
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.admin.domain.spans import END, START, ExecutionFacts, NodeFacts, TaskFacts, execution_span

KEY = WorkflowExecutionIdentifier(project="p", domain="d", name="e")
IDS = ["a", "b", "c"]
BELOW = Identifier(name="below")

KINDS = ["task", "sub", "plan", "gate", "branch", "array", "unknown"]


class Chance(Random):
    """Makes executions; from a seed, since drawing each part of one by itself takes long."""

    def half(self) -> bool:
        return self.random() < 0.5

    def time(self) -> Timestamp | None:
        return Timestamp(seconds=self.randint(1, 50)) if self.random() < 0.8 else None

    def nodes(self, parent: str | None) -> list[NodeFacts]:
        """Some of the nodes of a workflow, some of them without some of their times."""
        return [
            NodeFacts(
                spec if parent is None else f"{parent}-{spec}",
                parent,
                NodeExecutionClosure(created_at=self.time(), updated_at=self.time(), started_at=self.time()),
                NodeExecutionMetaData(spec_node_id=spec, is_parent_node=self.half()),
            )
            for spec in (START, *IDS, END)
            if self.random() < 0.8
        ]

    def workflow(self) -> CompiledWorkflow:
        """Nodes of any kind, connected in any way."""
        workflow = CompiledWorkflow()
        for spec in IDS:
            node = Node(id=spec)
            match self.choice(KINDS):
                case "task":
                    node.task_node.SetInParent()
                case "sub":
                    node.workflow_node.sub_workflow_ref.CopyFrom(BELOW)
                case "plan":
                    node.workflow_node.launchplan_ref.SetInParent()
                case "gate":
                    node.gate_node.SetInParent()
                case "branch":
                    node.branch_node.SetInParent()
                case "array":
                    node.array_node.SetInParent()
            if node.WhichOneof("target") is not None:
                workflow.template.nodes.append(node)
        for spec in (*IDS, END):
            workflow.connections.upstream[spec].ids.extend(self.choices([START, *IDS], k=self.randint(0, 3)))
        return workflow

    def attempt(self, number: int) -> TaskFacts:
        closure = TaskExecutionClosure(created_at=self.time(), started_at=self.time(), updated_at=self.time())
        return TaskFacts(Identifier(name="t"), number, closure)

    def execution(self, *, nested: bool = True) -> ExecutionFacts:
        """An execution with nodes below its nodes, and perhaps executions that these launched."""
        below = self.workflow()
        below.template.id.CopyFrom(BELOW)
        closure = CompiledWorkflowClosure(primary=self.workflow(), sub_workflows=[below])
        nodes = self.nodes(None)
        for node in list(nodes):
            nodes += self.nodes(node.node_id)
        return ExecutionFacts(
            key=KEY,
            closure=ExecutionClosure(created_at=self.time(), updated_at=self.time()),
            workflow=closure,
            nodes=nodes,
            tasks={node.node_id: [self.attempt(number) for number in range(self.randint(0, 3))] for node in nodes},
            dynamic={node.node_id: closure for node in nodes if self.half()},
            children={node.node_id: self.execution(nested=False) for node in nodes if nested and self.random() < 0.2},
        )


executions = st.integers(0, 2**64 - 1).map(lambda seed: Chance(seed).execution())


def height(span: Span) -> int:
    """How many levels of spans that are no leaves there are inside this one."""
    return max((1 + height(each) for each in span.spans if each.WhichOneof("id") != "operation_id"), default=0)


def leaves(span: Span) -> Iterator[Span]:
    for each in span.spans:
        if each.WhichOneof("id") == "operation_id":
            yield each
        yield from leaves(each)


@given(executions, st.integers(-1, 8))
def test_a_tree_is_no_deeper_than_asked_for_and_its_leaves_go_forward(facts: ExecutionFacts, depth: int) -> None:
    span = execution_span(facts, depth)
    if depth >= 0:
        assert height(span) <= depth
    for leaf in leaves(span):
        assert not leaf.spans
        if leaf.HasField("start_time") and leaf.HasField("end_time"):
            assert leaf.start_time.ToNanoseconds() <= leaf.end_time.ToNanoseconds()


@given(executions, st.integers(0, 6))
def test_a_deeper_tree_says_all_that_a_shallower_one_does(facts: ExecutionFacts, depth: int) -> None:
    def count(span: Span) -> int:
        return 1 + sum(map(count, span.spans))

    assert count(execution_span(facts, depth)) <= count(execution_span(facts, depth + 1))
    assert execution_span(facts, -1) == execution_span(facts, 60)
