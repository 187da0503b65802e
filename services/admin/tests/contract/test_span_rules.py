"""The tree of spans by itself, over executions of any shape.  Source: spec/control-plane.md, section 6.9."""

from __future__ import annotations

from collections.abc import Iterator

from flyteidl.admin.execution_pb2 import ExecutionClosure
from flyteidl.admin.node_execution_pb2 import NodeExecutionClosure, NodeExecutionMetaData
from flyteidl.admin.task_execution_pb2 import TaskExecutionClosure
from flyteidl.core.compiler_pb2 import CompiledWorkflow, CompiledWorkflowClosure
from flyteidl.core.identifier_pb2 import Identifier, WorkflowExecutionIdentifier
from flyteidl.core.metrics_pb2 import Span
from flyteidl.core.workflow_pb2 import Node
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from aerodrome.admin.domain.spans import END, START, ExecutionFacts, NodeFacts, TaskFacts, execution_span

KEY = WorkflowExecutionIdentifier(project="p", domain="d", name="e")
IDS = ["a", "b", "c"]
BELOW = Identifier(name="below")

_times = st.one_of(st.none(), st.integers(1, 50))
_kinds = st.sampled_from(["task", "dynamic", "sub", "plan", "gate", "branch", "array", "unknown"])


def at(seconds: int | None) -> Timestamp | None:
    return None if seconds is None else Timestamp(seconds=seconds)


@st.composite
def nodes_below(draw: st.DrawFn, parent: str | None) -> list[NodeFacts]:
    """Some of the nodes of a workflow, some of them without some of their times."""
    found = []
    for spec in (START, *IDS, END):
        if draw(st.booleans()):
            closure = NodeExecutionClosure(
                created_at=at(draw(_times)), updated_at=at(draw(_times)), started_at=at(draw(_times))
            )
            name = spec if parent is None else f"{parent}-{spec}"
            metadata = NodeExecutionMetaData(spec_node_id=spec, is_parent_node=draw(st.booleans()))
            found.append(NodeFacts(name, parent, closure, metadata))
    return found


@st.composite
def workflows(draw: st.DrawFn) -> CompiledWorkflow:
    """Nodes of any kind, connected in any way."""
    workflow = CompiledWorkflow()
    for spec in IDS:
        node = Node(id=spec)
        match draw(_kinds):
            case "task" | "dynamic":
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
        workflow.connections.upstream[spec].ids.extend(draw(st.lists(st.sampled_from([START, *IDS]), max_size=3)))
    return workflow


@st.composite
def executions(draw: st.DrawFn, nested: bool = True) -> ExecutionFacts:
    below = draw(workflows())
    below.template.id.CopyFrom(BELOW)
    nodes = draw(nodes_below(None))
    for node in list(nodes):
        nodes += draw(nodes_below(node.node_id))
    attempt = st.builds(
        lambda number, created, started, updated: TaskFacts(
            Identifier(name="t"),
            number,
            TaskExecutionClosure(created_at=at(created), started_at=at(started), updated_at=at(updated)),
        ),
        st.integers(0, 3), _times, _times, _times,
    )  # fmt: skip
    closure = CompiledWorkflowClosure(primary=draw(workflows()), sub_workflows=[below])
    return ExecutionFacts(
        key=KEY,
        closure=ExecutionClosure(created_at=at(draw(_times)), updated_at=at(draw(_times))),
        workflow=closure,
        nodes=nodes,
        tasks={node.node_id: draw(st.lists(attempt, max_size=3)) for node in nodes},
        dynamic={node.node_id: closure for node in nodes if draw(st.booleans())},
        children={node.node_id: draw(executions(nested=False)) for node in nodes[:2] if nested and draw(st.booleans())},
    )


def height(span: Span) -> int:
    """How many levels of spans that are no leaves there are inside this one."""
    return max((1 + height(each) for each in span.spans if each.WhichOneof("id") != "operation_id"), default=0)


def leaves(span: Span) -> Iterator[Span]:
    for each in span.spans:
        if each.WhichOneof("id") == "operation_id":
            yield each
        yield from leaves(each)


@settings(max_examples=40)
@given(executions(), st.integers(-1, 8))
def test_a_tree_is_no_deeper_than_asked_for_and_its_teardowns_go_forward(facts: ExecutionFacts, depth: int) -> None:
    span = execution_span(facts, depth)
    if depth >= 0:
        assert height(span) <= depth
    for leaf in leaves(span):
        assert not leaf.spans
        if leaf.operation_id.endswith("_TEARDOWN"):
            assert leaf.start_time.ToNanoseconds() <= leaf.end_time.ToNanoseconds()


@settings(max_examples=40)
@given(executions(), st.integers(0, 6))
def test_a_deeper_tree_says_all_that_a_shallower_one_does(facts: ExecutionFacts, depth: int) -> None:
    def count(span: Span) -> int:
        return 1 + sum(map(count, span.spans))

    assert count(execution_span(facts, depth)) <= count(execution_span(facts, depth + 1))
    assert execution_span(facts, -1) == execution_span(facts, 60)
