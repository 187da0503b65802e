"""Moments at which a process may die or an abort may come, each of which once ended otherwise than it should."""

from __future__ import annotations

import pytest
from flyteidl.core import compiler_pb2, identifier_pb2, workflow_pb2
from graphs import Record, identifier
from journalled import ControlPlane, writer

from aerodrome.admin.domain.verdicts import Refused
from aerodrome.idl.propeller.v1 import state_pb2
from aerodrome.plugins.api import ErrorKind, Failure
from aerodrome.propeller.engine.budget import Limits
from aerodrome.propeller.engine.engine import Engine
from aerodrome.propeller.engine.graph import END, START, Closure
from aerodrome.propeller.engine.items import ItemPlan, Items, SavedItem
from aerodrome.propeller.engine.phases import NodePhase, TaskPhase, WorkflowPhase
from aerodrome.propeller.engine.state import (
    Abort,
    ItemTransition,
    NodeTransition,
    Prepare,
    SavedNode,
    SavedWorkflow,
    Start,
    StartItem,
    Transition,
    WorkflowTransition,
)
from aerodrome.propeller.execution import never_began, together
from aerodrome.propeller.transcript import ItemEvent

FINISH = workflow_pb2.WorkflowMetadata.FAIL_AFTER_EXECUTABLE_NODES_COMPLETE
BROKEN = Failure("Broken", "it broke", ErrorKind.USER, retryable=False)


def closure() -> Closure:
    """Beside each other: n0, a task; sub, a sub-workflow of task n0, which lets what runs go on; m, an array."""
    compiled = compiler_pb2.CompiledWorkflowClosure()
    compiled.tasks.add().template.id.CopyFrom(identifier("t", identifier_pb2.TASK))
    inner = compiled.sub_workflows.add()
    for workflow, name in ((compiled.primary, "w"), (inner, "inner")):
        workflow.template.id.CopyFrom(identifier(name))
        workflow.template.metadata.on_failure = FINISH
        workflow.template.nodes.add(id=START)
        node = workflow.template.nodes.add(id="n0")
        node.task_node.reference_id.CopyFrom(identifier("t", identifier_pb2.TASK))
        workflow.template.nodes.add(id=END)
    template = compiled.primary.template
    sub = template.nodes.add(id="sub")
    sub.workflow_node.sub_workflow_ref.CopyFrom(identifier("inner"))
    sub.metadata.timeout.seconds = 10
    item = template.nodes.add(id="m").array_node.node
    item.workflow_node.launchplan_ref.CopyFrom(identifier("lp", identifier_pb2.LAUNCH_PLAN))
    for workflow, names in ((compiled.primary, ("n0", "sub", "m")), (inner, ("n0",))):
        for node_id in names:
            workflow.connections.downstream[START].ids.append(node_id)
            workflow.connections.downstream[node_id].ids.append(END)
    return Closure(compiled)


def restored(**nodes: SavedNode) -> Engine:
    known = {name.replace("_", "-"): node for name, node in nodes.items()}
    engine = Engine(closure())
    engine.restore(SavedWorkflow(WorkflowPhase.RUNNING, {START: SavedNode(NodePhase.SUCCEEDED), **known}), 5.0)
    return engine


RUNNING = SavedNode(NodePhase.RUNNING, queued_at=1.0, attempt_at=1.0, task_phase=TaskPhase.RUNNING)


def told(transitions: list[Transition]) -> list[tuple[str, NodePhase | None]]:
    return [(each.node.unique_id, each.phase) for each in transitions if isinstance(each, NodeTransition)]


def test_a_start_node_that_was_not_recorded_is_told_of_again_and_not_run() -> None:
    engine = Engine(closure())
    engine.restore(SavedWorkflow(WorkflowPhase.RUNNING), 5.0)
    step = engine.take()
    assert (START, NodePhase.SUCCEEDED) in told(step.transitions)
    assert {each.node.unique_id for each in step.free} == {"n0", "sub", "m"}


def test_a_sub_workflow_that_turns_out_to_have_failed_counts_once() -> None:
    engine = restored(n0=RUNNING, sub=RUNNING, sub_0_n0=SavedNode(NodePhase.FAILED, failure=BROKEN),
                      sub_0_end_node=SavedNode(NodePhase.SKIPPED), m=SavedNode(NodePhase.SUCCEEDED))  # fmt: skip
    assert ("sub", NodePhase.FAILED) in told(engine.take().transitions)
    assert not engine.terminal, "n0 runs yet"
    engine.succeeded(engine.root.node("n0"), 0, 6.0)
    assert (END, NodePhase.SKIPPED) in told(engine.take().transitions)
    assert engine.phase is WorkflowPhase.FAILED


def test_a_sub_workflow_that_was_being_ended_is_not_taken_for_done() -> None:
    engine = restored(n0=RUNNING, sub=RUNNING, sub_0_n0=SavedNode(NodePhase.ABORTED))
    step = engine.take()
    assert [each.node.unique_id for each in step.free] == ["m"], "nothing is collected"
    assert not told(step.transitions)
    engine.tick(11.0)
    engine.take()
    sub = engine.root.node("sub")
    engine.aborted(sub, 0, 12.0)
    assert sub.failure is not None
    assert sub.failure.code == "TimeoutExpired"


def test_nothing_begins_inside_of_what_was_being_ended() -> None:
    compiled = compiler_pb2.CompiledWorkflowClosure()
    compiled.tasks.add().template.id.CopyFrom(identifier("t", identifier_pb2.TASK))
    inner, innermost = compiled.sub_workflows.add(), compiled.sub_workflows.add()
    for workflow, name in ((compiled.primary, "w"), (inner, "inner"), (innermost, "innermost")):
        workflow.template.id.CopyFrom(identifier(name))
        for node_id in (START, END):
            workflow.template.nodes.add(id=node_id)
    sub = compiled.primary.template.nodes.add(id="sub")
    sub.workflow_node.sub_workflow_ref.CopyFrom(identifier("inner"))
    sub.metadata.timeout.seconds = 10
    for workflow, node_id in ((inner, "n0"), (innermost, "n0")):
        workflow.template.nodes.add(id=node_id).task_node.reference_id.CopyFrom(identifier("t", identifier_pb2.TASK))
    inner.template.nodes.add(id="more").workflow_node.sub_workflow_ref.CopyFrom(identifier("innermost"))
    block = inner.template.nodes.add(id="br").branch_node.if_else
    block.case.condition.comparison.left_value.primitive.boolean = True
    block.case.then_node.id = "arm"
    block.case.then_node.task_node.reference_id.CopyFrom(identifier("t", identifier_pb2.TASK))
    inner.connections.upstream["arm"].ids.append("n0")
    for workflow, names in ((compiled.primary, ("sub",)), (inner, ("n0", "more", "br")), (innermost, ("n0",))):
        for node_id in names:
            workflow.connections.downstream[START].ids.append(node_id)
            workflow.connections.downstream[node_id].ids.append(END)
    engine = Engine(Closure(compiled))
    saved = {
        START: SavedNode(NodePhase.SUCCEEDED), "sub": RUNNING, "sub-0-n0": SavedNode(NodePhase.ABORTED),
        "sub-0-more": RUNNING, "sub-0-br": SavedNode(NodePhase.RUNNING, queued_at=1.0, attempt_at=1.0, choice=0),
    }  # fmt: skip
    engine.restore(SavedWorkflow(WorkflowPhase.RUNNING, saved), 5.0)
    step = engine.take()
    assert not step.transitions
    assert not step.free
    assert not step.permitted
    engine.tick(21.0)
    step = engine.take()
    assert {command.node.unique_id for command in step.permitted if isinstance(command, Abort)} == {
        "sub-0-more", "sub-0-br",
    }  # fmt: skip


def test_a_sub_workflow_that_was_told_to_be_out_of_time_does_not_fail_otherwise() -> None:
    timing_out = SavedNode(NodePhase.TIMING_OUT, queued_at=1.0, attempt_at=1.0)
    engine = restored(n0=RUNNING, sub=timing_out, sub_0_n0=SavedNode(NodePhase.FAILED, failure=BROKEN),
                      sub_0_end_node=SavedNode(NodePhase.SKIPPED), m=SavedNode(NodePhase.SUCCEEDED))  # fmt: skip
    step = engine.take()
    assert not told(step.transitions), "TIMED_OUT was told already"
    sub = engine.root.node("sub")
    assert [command.node for command in step.permitted if isinstance(command, Abort)] == [sub]
    engine.aborted(sub, 0, 6.0)
    assert told(engine.take().transitions) == [("sub", None)]
    assert sub.phase is NodePhase.TIMED_OUT


def test_outputs_that_come_after_a_retry_are_not_the_retrys() -> None:
    engine = Engine(closure())
    engine.begin(1.0)
    node = engine.root.node("n0")
    engine.prepared(node, 2.0)
    engine.collected(node, 3.0)
    engine.collect_failed(node, BROKEN, 3.0)
    assert node.phase is NodePhase.RUNNING


def test_a_refused_start_of_what_is_being_ended_ends_once() -> None:
    engine = Engine(closure())
    engine.begin(1.0)
    first, second = engine.root.node("n0"), engine.root.node("sub")
    engine.prepared(first, 2.0)
    engine.prepared(second, 2.0)
    engine.take()
    engine.abort("enough", 3.0)
    engine.not_permitted(first)
    engine.aborted(first, 0, 4.0)
    assert not engine.terminal, "something of the other one is left"
    engine.aborted(second, 0, 5.0)
    assert engine.phase is WorkflowPhase.ABORTED


def test_an_array_that_was_cut_off_while_it_took_items_over_is_asked_again() -> None:
    engine = Engine(closure())
    engine.begin(1.0)
    node = engine.root.node("m")
    engine.prepared(node, 2.0, plan=ItemPlan(3), done=[1])
    transitions = engine.take().transitions
    mine = [each for each in transitions if isinstance(each, NodeTransition | ItemTransition) and each.node is node]
    shown = [each.phase if isinstance(each, NodeTransition) else each.index for each in mine]
    assert shown == [NodePhase.QUEUED, 1, NodePhase.RUNNING, 0, 2]
    writer().keep(transitions)
    queued = mine[0]
    assert isinstance(queued, NodeTransition)
    assert queued.state is not None
    assert state_pb2.NodeState.FromString(queued.state).phase == NodePhase.QUEUED
    again = restored(m=SavedNode(NodePhase.QUEUED, plan=ItemPlan(3)))
    step = again.take()
    assert any(isinstance(each, Prepare) and each.node.unique_id == "m" for each in step.free)
    assert not any(isinstance(each, Start | StartItem) for each in step.permitted)


def test_items_do_not_begin_in_a_node_that_was_being_ended() -> None:
    items = Items(ItemPlan(3, concurrency=1))
    items.restore([SavedItem(0, TaskPhase.ABORTED)])
    assert not list(items.begin())
    assert not items.done


def test_an_array_fails_with_the_same_whether_it_saw_its_items_fail_or_was_told_of_it() -> None:
    def failed(index: int, kind: ErrorKind) -> Failure:
        return Failure("Broken", f"item {index}", kind, retryable=True)

    kinds = {index: ErrorKind.SYSTEM if index == 3 else ErrorKind.USER for index in (20, 5, 3, *range(7, 18))}
    limits = Limits(max_system_failures=0)
    seen, told = Items(ItemPlan(30)), Items(ItemPlan(30))
    assert len(list(seen.begin())) == 30
    for index, kind in kinds.items():
        assert not seen.fail(index, failed(index, kind), max_attempts=1, limits=limits)
    told.restore([SavedItem(index, TaskPhase.FAILED, failure=failed(index, kinds[index])) for index in sorted(kinds)])
    assert seen.failure("m") == told.failure("m")
    assert seen.failure("m").kind is ErrorKind.SYSTEM, "that of the first of the items"


def test_an_array_says_how_often_its_items_were_tried() -> None:
    items = Items(ItemPlan(1))
    assert list(items.begin()) == [0]
    broken = Failure("Broken", "it broke", ErrorKind.USER, retryable=True)
    assert items.fail(0, broken, max_attempts=2, limits=Limits())
    assert not items.fail(0, broken, max_attempts=2, limits=Limits())
    assert "[0], attempt 2: Broken: it broke" in items.failure("m").message


def test_a_state_is_that_of_its_own_moment_whatever_follows_before_it_is_appended() -> None:
    engine = Engine(closure())
    engine.begin(1.0)
    node = engine.root.node("n0")
    engine.prepared(node, 2.0)
    record, transcript = Record(), writer()
    first = engine.take().transitions
    transcript.keep(first)
    engine.succeeded(node, 0, 3.0)
    record.append(first)
    states = [one.node.state for one in transcript.write(transcript.coalesced(first)) if one.node.node_id == "n0"]
    assert {state_pb2.NodeState.FromString(state).phase for state in states} == {NodePhase.RUNNING}


@pytest.mark.parametrize("count", [3, 450])
def test_what_is_told_of_items_and_the_entry_that_has_them_are_not_torn(count: int) -> None:
    engine = Engine(closure())
    engine.begin(1.0)
    engine.prepared(engine.root.node("m"), 2.0, plan=ItemPlan(count))
    written = writer().coalesced(engine.take().transitions)
    events = [number for number, one in enumerate(written) if isinstance(one, ItemEvent)]
    assert len(events) == count
    assert all(together(written[number], written[number + 1]) for number in events)
    longest = run = 0
    for one in written:
        run = run + 1 if isinstance(one, ItemEvent) else 0
        longest = max(longest, run)
    assert longest <= 200, "an append has its limit"


def test_an_abort_before_the_beginning_leaves_no_execution_that_nobody_ends() -> None:
    over = WorkflowTransition(WorkflowPhase.SUCCEEDED, 1.0)
    assert never_began(over, aborting=True)
    assert not never_began(over, aborting=False)
    assert not never_began(WorkflowTransition(WorkflowPhase.RUNNING, 1.0), aborting=True)
    plane = ControlPlane()
    plane.abort("enough")
    begin, end = writer().write([WorkflowTransition(WorkflowPhase.RUNNING, 1.0), over])
    assert all(isinstance(each, Refused) for each in plane.take([begin, end]))
    plane.take(writer().write([WorkflowTransition(WorkflowPhase.ABORTED, 2.0)]))
    assert plane.over
