"""What the journal is told of each transition, and that a holder that reads it stands where the last one stood.

Source: spec/data-plane.md, 6.1 to 6.3.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from flyteidl.core import catalog_pb2, compiler_pb2, execution_pb2, identifier_pb2
from flyteidl.event import event_pb2
from google.protobuf import struct_pb2
from graphs import Crash, Record, Shape, World, identifier, random_closure
from hypothesis import given, settings
from hypothesis import strategies as st

from aerodrome.idl.journal.v1 import journal_pb2
from aerodrome.idl.propeller.v1 import state_pb2
from aerodrome.plugins.api import ErrorKind, Failure, Phase, PhaseInfo, Reason
from aerodrome.plugins.catalogue import NEXT_STEP, advised
from aerodrome.propeller import transcript
from aerodrome.propeller.engine.engine import Engine
from aerodrome.propeller.engine.graph import END, START, Closure
from aerodrome.propeller.engine.items import ItemInfo, ItemPlan, SavedItem
from aerodrome.propeller.engine.phases import NodePhase, TaskPhase, WorkflowPhase
from aerodrome.propeller.engine.state import (
    NodeState,
    NodeTransition,
    SavedNode,
    SavedWorkflow,
    TaskTransition,
    Transition,
    WorkflowTransition,
)
from aerodrome.propeller.layout import Layout
from aerodrome.propeller.plain_events import PlainEvents, instant_of
from aerodrome.propeller.transcript import MAX_MESSAGE, Transcript, coalesced

EXECUTION = identifier_pb2.WorkflowExecutionIdentifier(project="p", domain="d", name="e0")
DATA = "s3://b/meta/p-d-e0"
AT = 1_700_000_000.25
N = execution_pb2.NodeExecution
T = execution_pb2.TaskExecution
W = execution_pb2.WorkflowExecution


def writer() -> Transcript:
    layout = Layout(execution="e0", data_dir=DATA, raw_base="s3://b/raw")
    return Transcript(EXECUTION, layout, output_uri=f"{DATA}/out.pb", plugin_names={"python-task": "container"})


def closure() -> Closure:
    """n0: a task; sub: a sub-workflow of one task; b: a branch with one arm; lp: a launch plan; m: an array."""
    compiled = compiler_pb2.CompiledWorkflowClosure()
    compiled.tasks.add().template.id.CopyFrom(identifier("t", identifier_pb2.TASK))
    compiled.tasks[0].template.type = "python-task"
    task = identifier("t", identifier_pb2.TASK)
    inner = compiled.sub_workflows.add()
    for workflow, name in ((compiled.primary, "w"), (inner, "inner")):
        template = workflow.template
        template.id.CopyFrom(identifier(name))
        template.nodes.add(id=START)
        node = template.nodes.add(id="n0")
        node.metadata.name = f"{name}.task"
        node.task_node.reference_id.CopyFrom(task)
        template.nodes.add(id=END)
        workflow.connections.downstream[START].ids.append("n0")
        workflow.connections.downstream["n0"].ids.append(END)
    nodes = compiled.primary.template.nodes
    nodes.add(id="sub").workflow_node.sub_workflow_ref.CopyFrom(identifier("inner"))
    arm = nodes.add(id="b").branch_node.if_else.case.then_node
    arm.id = "arm"
    arm.task_node.reference_id.CopyFrom(task)
    nodes.add(id="lp").workflow_node.launchplan_ref.CopyFrom(identifier("lp", identifier_pb2.LAUNCH_PLAN))
    nodes.add(id="m").array_node.node.task_node.reference_id.CopyFrom(task)
    for name in ("sub", "b", "lp", "m"):
        compiled.primary.connections.downstream[START].ids.append(name)
        compiled.primary.connections.downstream[name].ids.append(END)
    return Closure(compiled)


def begun() -> Engine:
    engine = Engine(closure())
    engine.begin(AT)
    return engine


def node_events(transitions: list[Transition]) -> list[event_pb2.NodeExecutionEvent]:
    written = [one.node.event for one in writer().write(coalesced(transitions)) if one.WhichOneof("change") == "node"]
    return [event_pb2.NodeExecutionEvent.FromString(event) for event in written if event]


def task_events(transitions: list[Transition]) -> list[event_pb2.TaskExecutionEvent]:
    written = [one.task.event for one in writer().write(coalesced(transitions)) if one.WhichOneof("change") == "task"]
    return [event_pb2.TaskExecutionEvent.FromString(event) for event in written]


def node_event(transition: NodeTransition) -> event_pb2.NodeExecutionEvent:
    (event,) = node_events([transition])
    return event


def task_event(transition: TaskTransition) -> event_pb2.TaskExecutionEvent:
    (event,) = task_events([transition])
    return event


def workflow_event(transition: WorkflowTransition) -> event_pb2.WorkflowExecutionEvent:
    (written,) = writer().write([transition])
    return event_pb2.WorkflowExecutionEvent.FromString(written.workflow.event)


# Workflow events


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (WorkflowPhase.RUNNING, W.RUNNING),
        (WorkflowPhase.SUCCEEDING, W.SUCCEEDING),
        (WorkflowPhase.SUCCEEDED, W.SUCCEEDED),
        (WorkflowPhase.FAILING, W.FAILING),
        (WorkflowPhase.FAILED, W.FAILED),
        (WorkflowPhase.ABORTED, W.ABORTED),
    ],
)
def test_a_workflow_event_says_who_what_and_when(phase: WorkflowPhase, expected: int) -> None:
    event = workflow_event(WorkflowTransition(phase, AT))
    assert event.execution_id == EXECUTION
    assert (event.producer_id, event.phase) == ("propeller", expected)
    assert event.occurred_at.ToMicroseconds() == 1_700_000_000_250_000
    assert event.output_uri == (f"{DATA}/out.pb" if phase is WorkflowPhase.SUCCEEDED else "")
    assert not event.HasField("error")


@pytest.mark.parametrize("phase", [WorkflowPhase.ABORTING, WorkflowPhase.HANDLING_FAILURE])
def test_phases_of_the_engines_own_are_only_remembered(phase: WorkflowPhase) -> None:
    (written,) = writer().write([WorkflowTransition(phase, AT)])
    assert written.workflow.event == b""
    assert state_pb2.WorkflowState.FromString(written.workflow.state).phase == phase


def test_a_failing_workflow_says_why() -> None:
    failure = Failure("Broken", "it broke", ErrorKind.SYSTEM, retryable=False)
    error = workflow_event(WorkflowTransition(WorkflowPhase.FAILING, AT, failure)).error
    assert error == advised(failure).error()
    assert error.message.startswith("it broke\n\nNext step: ")


# Node events


def test_a_node_event_has_the_fields_of_its_node() -> None:
    node = begun().root.node("n0")
    event = node_event(NodeTransition(node, NodePhase.QUEUED, AT))
    assert event.id == identifier_pb2.NodeExecutionIdentifier(node_id="n0", execution_id=EXECUTION)
    assert (event.producer_id, event.event_version, event.phase) == ("propeller", 1, N.QUEUED)
    assert event.occurred_at.ToMicroseconds() == 1_700_000_000_250_000
    assert event.HasField("reported_at")
    assert (event.spec_node_id, event.node_name) == ("n0", "w.task")
    assert event.input_uri == f"{DATA}/n0/data/inputs.pb"
    assert event.target_entity == identifier("t", identifier_pb2.TASK)
    assert event.retry_group == ""
    assert not event.HasField("parent_node_metadata")
    assert (event.is_parent, event.is_dynamic, event.is_array) == (False, False, False)
    assert event.WhichOneof("output_result") is None


@pytest.mark.parametrize("phase", sorted(transcript.NODE_EVENT))
@pytest.mark.parametrize("name", ["n0", "sub", "b", "lp", "m", END])
def test_every_event_of_a_node_but_the_start_says_where_its_inputs_are(name: str, phase: NodePhase) -> None:
    event = node_event(NodeTransition(begun().root.node(name), phase, AT))
    assert event.input_uri == f"{DATA}/{name}/data/inputs.pb"
    assert event.phase == transcript.NODE_EVENT[phase]


def test_the_start_node_has_outputs_only() -> None:
    event = node_event(NodeTransition(begun().root.node(START), NodePhase.SUCCEEDED, AT))
    assert event.input_uri == ""
    assert event.output_uri == f"{DATA}/start-node/data/0/outputs.pb"
    assert event.WhichOneof("target_metadata") is None
    assert not event.HasField("target_entity")


@pytest.mark.parametrize("phase", [NodePhase.SUCCEEDED, NodePhase.RECOVERED])
def test_a_node_that_did_well_says_where_the_outputs_of_its_last_attempt_are(phase: NodePhase) -> None:
    node = begun().root.node("n0")
    node.attempts = 2
    assert node_event(NodeTransition(node, phase, AT)).output_uri == f"{DATA}/n0/data/2/outputs.pb"


@pytest.mark.parametrize("phase", [NodePhase.QUEUED, NodePhase.RUNNING, NodePhase.SKIPPED, NodePhase.TIMED_OUT])
def test_other_phases_have_neither_outputs_nor_error(phase: NodePhase) -> None:
    event = node_event(NodeTransition(begun().root.node("n0"), phase, AT))
    assert event.WhichOneof("output_result") is None


def test_a_failed_node_says_why() -> None:
    failure = Failure("Broken", "it broke", ErrorKind.USER, retryable=False, worker="w-1")
    event = node_event(NodeTransition(begun().root.node("n0"), NodePhase.FAILED, AT, failure))
    assert event.error == advised(failure).error()
    assert (event.error.code, event.error.worker) == ("Broken", "w-1")
    assert event.error.message.startswith("it broke\n\nNext step: ")


@pytest.mark.parametrize(
    ("name", "target", "parent", "array"),
    [
        ("n0", "t", False, False),
        ("sub", "", True, False),
        ("lp", "lp", False, False),
        ("b", "", False, False),
        ("m", "", False, True),
        (END, "", False, False),
    ],
)
def test_kinds_differ_in_target_parenthood_and_array(name: str, target: str, parent: bool, array: bool) -> None:
    event = node_event(NodeTransition(begun().root.node(name), NodePhase.QUEUED, AT))
    assert event.target_entity.name == target
    assert (event.is_parent, event.is_array, event.is_dynamic) == (parent, array, False)


@pytest.mark.parametrize(("owner_name", "child_name"), [("sub", "n0"), ("b", "arm")])
def test_a_nested_node_names_its_parent_and_the_parents_attempt(owner_name: str, child_name: str) -> None:
    engine = begun()
    owner = engine.root.node(owner_name)
    engine.prepared(owner, AT, choice=0)
    assert owner.inner is not None
    child = owner.inner.node(child_name)
    engine.prepared(child, AT)
    events = [event for event in node_events(engine.take().transitions) if event.id.node_id == child.unique_id]
    assert [event.phase for event in events] == [N.QUEUED, N.RUNNING]
    for event in events:
        assert event.id.node_id == f"{owner_name}-0-{child_name}"
        assert event.spec_node_id == child_name
        assert event.parent_node_metadata.node_id == owner_name
        assert event.retry_group == "0"
        assert event.input_uri == f"{DATA}/{owner_name}/data/0/{child_name}/inputs.pb"


def test_the_nested_start_node_is_not_told_of() -> None:
    engine = begun()
    engine.take()
    engine.prepared(engine.root.node("sub"), AT)
    assert [event.id.node_id for event in node_events(engine.take().transitions)] == ["sub", "sub"]


def test_a_task_that_turned_out_to_be_dynamic_is_a_parent_from_then_on() -> None:
    engine = begun()
    node = engine.root.node("n0")
    engine.prepared(node, AT)
    before = node_events(engine.take().transitions)
    engine.expanded(node, 0, closure().sub_workflow(identifier("inner")), AT, expansion="")
    after = [event for event in node_events(engine.take().transitions) if event.id.node_id == "n0"]
    assert not any(event.is_parent or event.is_dynamic for event in before)
    assert [(event.phase, event.is_parent, event.is_dynamic) for event in after] == [(N.DYNAMIC_RUNNING, True, True)]
    event = node_event(NodeTransition(node, NodePhase.SUCCEEDED, AT))
    assert (event.is_parent, event.is_dynamic) == (True, True)


def test_what_a_handler_adds_goes_along() -> None:
    node = begun().root.node("n0")
    metadata = event_pb2.TaskNodeMetadata(cache_status=catalog_pb2.CACHE_HIT)
    detail = {"deck_uri": "s3://b/deck.html", "task_node_metadata": metadata}
    event = node_event(NodeTransition(node, NodePhase.SUCCEEDED, AT, None, detail))
    assert event.deck_uri == "s3://b/deck.html"
    assert event.task_node_metadata == metadata
    child = event_pb2.WorkflowNodeMetadata(execution_id=EXECUTION)
    detail_of_plan = {"workflow_node_metadata": child}
    taken_over = NodeTransition(begun().root.node("lp"), NodePhase.RECOVERED, AT, None, detail_of_plan)
    assert node_event(taken_over).workflow_node_metadata == child


def test_what_a_launch_plan_node_launches_is_told_once_it_runs() -> None:
    node = begun().root.node("lp")
    for phase in (NodePhase.QUEUED, NodePhase.FAILED):  # a launch that was refused has made nothing
        assert not node_event(NodeTransition(node, phase, AT)).HasField("workflow_node_metadata")
    for phase in (NodePhase.RUNNING, NodePhase.SUCCEEDED):
        child = node_event(NodeTransition(node, phase, AT)).workflow_node_metadata.execution_id
        assert (child.project, child.domain, child.name) == ("p", "d", "e0-lp-0")


def test_whatever_is_inside_of_a_dynamic_node_says_so() -> None:
    engine = begun()
    node = engine.root.node("n0")
    engine.prepared(node, AT)
    engine.expanded(node, 0, closure().root(), AT, expansion="")
    assert node.inner is not None
    inner = node.inner.node("sub")
    engine.take()
    engine.prepared(inner, AT)
    assert all(event.is_in_dynamic_chain for event in node_events(engine.take().transitions))
    assert not node_event(NodeTransition(node, NodePhase.SUCCEEDED, AT)).is_in_dynamic_chain


def test_an_attempt_that_failed_says_where_its_checkpoints_are() -> None:
    engine = begun()
    node = engine.root.node("n0")
    engine.prepared(node, AT)
    event = node_event(NodeTransition(node, NodePhase.FAILED, AT))
    assert event.task_node_metadata.checkpoint_uri.endswith("/_flytecheckpoints")
    skipped = node_event(NodeTransition(begun().root.node("n0"), NodePhase.SKIPPED, AT))
    assert not skipped.HasField("task_node_metadata")


def test_a_change_of_what_is_only_remembered_is_no_event() -> None:
    node = begun().root.node("n0")
    node.attempts, node.system_failures, node.phase = 2, 1, NodePhase.RUNNING
    (written,) = writer().write([NodeTransition(node, None, AT)])
    assert (written.node.node_id, written.node.event) == ("n0", b"")
    state = state_pb2.NodeState.FromString(written.node.state)
    assert (state.phase, state.attempts, state.system_failures) == (NodePhase.RUNNING, 2, 1)


# Task events


def running(attempt: int = 0) -> NodeState:
    node = begun().root.node("n0")
    node.phase, node.attempts = NodePhase.RUNNING, attempt
    return node


def test_a_task_event_has_the_fields_of_its_attempt() -> None:
    event = task_event(TaskTransition(running(1), TaskPhase.QUEUED, 0, AT))
    assert event.task_id == identifier("t", identifier_pb2.TASK)
    assert event.parent_node_execution_id.node_id == "n0"
    assert event.parent_node_execution_id.execution_id == EXECUTION
    assert (event.retry_attempt, event.phase, event.phase_version) == (1, T.QUEUED, 0)
    assert (event.producer_id, event.task_type, event.event_version) == ("propeller", "python-task", 1)
    assert event.occurred_at.ToMicroseconds() == 1_700_000_000_250_000
    assert event.HasField("reported_at")
    assert event.input_uri == f"{DATA}/n0/data/inputs.pb"
    assert (event.metadata.generated_name, event.metadata.plugin_identifier) == ("e0-n0-1", "container")
    assert event.WhichOneof("output_result") is None


def test_what_the_plugin_says_goes_along() -> None:
    info = PhaseInfo(
        Phase.RUNNING,
        version=3,
        reason="pulled",
        occurred_at=datetime(2026, 1, 2, tzinfo=UTC),
        logs=(execution_pb2.TaskLog(uri="http://log", name="Log"),),
        additional_reasons=(Reason("scheduled", datetime(2026, 1, 1, tzinfo=UTC)),),
        custom_info=struct_pb2.Struct(fields={"k": struct_pb2.Value(string_value="v")}),
        external_resources=(event_pb2.ExternalResourceInfo(external_id="x"),),
    )
    event = task_event(TaskTransition(running(), TaskPhase.RUNNING, 3, AT, info))
    assert (event.phase, event.phase_version, event.reason) == (T.RUNNING, 3, "pulled")
    assert event.occurred_at.ToDatetime(UTC) == datetime(2026, 1, 2, tzinfo=UTC)
    assert [(one.reason, one.occurred_at.ToDatetime(UTC).day) for one in event.reasons] == [
        ("pulled", 2),
        ("scheduled", 1),
    ]
    assert [log.uri for log in event.logs] == ["http://log"]
    assert event.custom_info["k"] == "v"
    assert [one.external_id for one in event.metadata.external_resources] == ["x"]


def test_an_attempt_that_succeeded_says_where_its_outputs_are() -> None:
    event = task_event(TaskTransition(running(1), TaskPhase.SUCCEEDED, 0, AT))
    assert event.output_uri == f"{DATA}/n0/data/1/outputs.pb"


def test_an_attempt_that_failed_says_why() -> None:
    failure = Failure("Broken", "it broke", ErrorKind.SYSTEM, retryable=True)
    event = task_event(TaskTransition(running(), TaskPhase.FAILED, 0, AT, None, failure))
    assert (event.phase, event.error.code, event.error.kind) == (
        T.FAILED,
        "Broken",
        execution_pb2.ExecutionError.SYSTEM,
    )


def test_a_failed_attempt_keeps_its_number_when_another_follows_in_the_same_step() -> None:
    engine = begun()
    node = engine.root.node("n0")
    engine.prepared(node, AT)
    engine.take()
    engine.failed(node, 0, Failure("Lost", "", ErrorKind.SYSTEM, retryable=True), AT)
    events = task_events(engine.take().transitions)
    assert [(event.retry_attempt, event.phase) for event in events] == [(0, T.FAILED), (1, T.QUEUED)]


# Errors


@given(st.integers(0, 3 * MAX_MESSAGE))
@settings(max_examples=30, deadline=None)
def test_messages_are_bounded_and_keep_head_and_tail(length: int) -> None:
    message = "H" * (length // 2) + "T" * (length - length // 2)
    error = transcript.error_of(Failure("Broken", message, ErrorKind.USER, retryable=False))
    assert len(error.message) <= MAX_MESSAGE
    said, _, step = error.message.rpartition("\n\n")
    assert step.startswith(NEXT_STEP)
    if length <= MAX_MESSAGE // 2:
        assert said == message
    if length <= MAX_MESSAGE:
        return
    head, middle, tail = said.split("\n")
    assert set(head) == {"H"}
    assert set(tail) == {"T"}
    assert len(head) == len(tail)
    assert f" {length - len(head) - len(tail)} characters left out" in middle


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=9), st.text(max_size=9), st.sampled_from(ErrorKind), st.text(max_size=9))
def test_an_error_is_read_back_as_it_was(code: str, message: str, kind: ErrorKind, worker: str) -> None:
    failure = Failure(code, message, kind, retryable=False, worker=worker)
    read = transcript.failure_of(transcript.error_of(failure).SerializeToString())
    assert read == advised(failure)


def test_an_item_is_written_with_its_attempt_and_error() -> None:
    engine = begun()
    node = engine.root.node("m")
    engine.prepared(node, AT, plan=ItemPlan(2, 1, None, None))
    engine.take()
    failure = Failure("Broken", "", ErrorKind.USER, retryable=False)
    engine.item_failed(node, 0, 0, failure, AT)
    changes = [
        one.items for one in writer().write(coalesced(engine.take().transitions)) if one.WhichOneof("change") == "items"
    ]
    (known,) = changes[0].ranges
    assert changes[0].node_id == "m"
    assert (known.first, known.last, known.attempt, known.phase) == (0, 0, 0, TaskPhase.FAILED)
    assert transcript.failure_of(known.error) == advised(failure)


def array(*, successes: float = 1.0, size: int = 100, concurrency: int = 0) -> tuple[Engine, NodeState]:
    engine = begun()
    node = engine.root.node("m")
    engine.prepared(node, AT, plan=ItemPlan(size, concurrency, None, successes))
    return engine, node


def ranges(engine: Engine) -> list[list[tuple[int, int, int, str]]]:
    written = writer().write(coalesced(engine.take().transitions))
    return [
        [(one.first, one.last, one.attempt, TaskPhase(one.phase).name) for one in change.items.ranges]
        for change in written
        if change.WhichOneof("change") == "items"
    ]


def test_items_that_change_at_about_the_same_time_are_ranges_whatever_their_order() -> None:
    engine, node = array(concurrency=10)
    assert ranges(engine) == [[(0, 9, 0, "QUEUED")]]
    for index in (3, 1, 0, 2, 7):
        engine.item_succeeded(node, index, 0, AT)
    assert ranges(engine) == [[(0, 3, 0, "SUCCEEDED"), (7, 7, 0, "SUCCEEDED")], [(10, 14, 0, "QUEUED")]]


def test_what_one_item_does_stays_in_its_order() -> None:
    engine, node = array(size=2)
    engine.take()
    failure = Failure("Gone", "", ErrorKind.SYSTEM, retryable=True)
    engine.item_phase(node, 0, 0, TaskPhase.RUNNING, AT)
    engine.item_failed(node, 0, 0, failure, AT)
    engine.item_phase(node, 0, 1, TaskPhase.RUNNING, AT)
    engine.item_succeeded(node, 1, 0, AT)
    engine.item_succeeded(node, 0, 1, AT)
    assert ranges(engine) == [
        [(0, 0, 0, "RUNNING")],
        [(0, 0, 0, "RETRYABLE_FAILED")],
        [(0, 0, 1, "QUEUED")],
        [(0, 0, 1, "RUNNING"), (1, 1, 0, "SUCCEEDED")],
        [(0, 0, 1, "SUCCEEDED")],
    ]


def test_what_is_said_of_an_item_travels_with_it() -> None:
    engine, node = array(size=1)
    engine.take()
    engine.item_succeeded(node, 0, 0, AT, ItemInfo(cache_status=2, log_uri="http://log"))
    (written,) = [one for one in writer().write(coalesced(engine.take().transitions)) if one.HasField("items")]
    assert [(one.cache_status, one.log_uri) for one in written.items.ranges] == [(2, "http://log")]


def test_the_attempt_of_a_map_is_one_that_the_console_knows_as_such() -> None:
    engine, node = array(size=2, successes=0.5)
    queued, running = task_events(engine.take().transitions)
    assert (queued.task_type, queued.metadata.plugin_identifier) == ("container_array", "k8s-array")
    assert queued.phase == T.QUEUED
    assert queued.custom_info["size"] == 2
    assert queued.custom_info["min_successes"] == 1
    assert running.phase == T.RUNNING
    engine.item_succeeded(node, 0, 0, AT)
    engine.item_failed(node, 1, 0, Failure("Broken", "", ErrorKind.USER, retryable=False), AT)
    engine.collected(node, AT)
    (done,) = task_events(engine.take().transitions)
    assert (done.phase, done.retry_attempt) == (T.SUCCEEDED, 0)
    assert done.output_uri == f"{DATA}/m/data/0/outputs.pb"


def test_items_may_be_shown_as_nodes_of_their_own() -> None:
    engine, node = array(size=2, successes=0.5)
    layout = Layout(execution="e0", data_dir=DATA, raw_base="s3://b/raw")
    shown = Transcript(EXECUTION, layout, output_uri="", plugin_names={"python-task": "container"}, item_nodes=True)

    def events() -> list[str]:
        told = []
        for one in shown.write(shown.coalesced(engine.take().transitions)):
            if one.HasField("node") and one.node.event:
                event = event_pb2.NodeExecutionEvent.FromString(one.node.event)
                told.append(f"N {event.id.node_id} {N.Phase.Name(event.phase)} in {event.parent_node_metadata.node_id}")
                if event.id.node_id == "m":
                    assert event.is_parent
                    assert event.is_array
            elif one.HasField("task"):
                attempt = event_pb2.TaskExecutionEvent.FromString(one.task.event)
                told.append(f"T {one.task.node_id}/{one.task.attempt} {T.Phase.Name(attempt.phase)}")
        return [each for each in told if "m" in each]

    assert events()[-6:] == [
        "N m-0-n0 QUEUED in m", "T m-0-n0/0 QUEUED", "N m-0-n0 RUNNING in m",
        "N m-0-n1 QUEUED in m", "T m-0-n1/0 QUEUED", "N m-0-n1 RUNNING in m",
    ]  # fmt: skip
    engine.item_succeeded(node, 0, 0, AT)
    engine.item_failed(node, 1, 0, Failure("Lost", "", ErrorKind.SYSTEM, retryable=True), AT)
    engine.item_failed(node, 1, 1, Failure("Broken", "", ErrorKind.USER, retryable=False), AT)
    assert events() == [
        "T m-0-n0/0 SUCCEEDED", "N m-0-n0 SUCCEEDED in m", "T m-0-n1/0 FAILED", "T m-0-n1/1 QUEUED",
        "T m-0-n1/1 FAILED", "N m-0-n1 FAILED in m",
    ]  # fmt: skip


def test_an_item_as_a_node_tells_of_its_cache_its_deck_and_its_end() -> None:
    engine, node = array(size=2)
    layout = Layout(execution="e0", data_dir=DATA, raw_base="s3://b/raw")
    shown = Transcript(EXECUTION, layout, output_uri="", plugin_names={}, item_nodes=True)
    engine.take()
    key = catalog_pb2.CatalogMetadata(artifact_tag=catalog_pb2.CatalogArtifactTag(name="flyte_cached-x"))
    info = ItemInfo(catalog_pb2.CACHE_HIT, catalog_key=key, deck_uri="/deck.html")
    engine.item_succeeded(node, 0, 0, AT, info)
    engine.abort("enough", AT)
    engine.aborted(node, 0, AT)
    written = shown.write(shown.coalesced(engine.take().transitions))
    nodes = [event_pb2.NodeExecutionEvent.FromString(one.node.event) for one in written if one.HasField("node")]
    told = {event.id.node_id: event for event in nodes}
    done = told["m-0-n0"]
    assert (done.deck_uri, done.output_uri) == ("/deck.html", f"{DATA}/m/data/0/0/0/outputs.pb")
    assert (done.task_node_metadata.cache_status, done.task_node_metadata.catalog_key) == (catalog_pb2.CACHE_HIT, key)
    ended = told["m-0-n1"]
    assert (ended.phase, ended.error.code, ended.error.message) == (N.ABORTED, "NodeAborted", "enough")
    attempts = [event_pb2.TaskExecutionEvent.FromString(one.task.event) for one in written if one.HasField("task")]
    (attempt,) = [each for each in attempts if each.parent_node_execution_id.node_id == "m-0-n1"]
    assert (attempt.phase, attempt.error.code) == (T.ABORTED, "Task Aborted")


# Reading back


class Journal(Record):
    """What is durable, kept as the control plane keeps it: opaque states and errors, by node."""

    def __init__(self) -> None:
        super().__init__()
        self.assignment = journal_pb2.Assignment()
        self.snapshots: dict[str, journal_pb2.NodeSnapshot] = {}
        self.newest: dict[str, int] = {}
        self.known_items: dict[str, dict[int, journal_pb2.ItemRange]] = {}

    def append(self, transitions: list[Transition]) -> None:
        super().append(transitions)
        for one in writer().write(coalesced(transitions)):
            match one.WhichOneof("change"):
                case "workflow":
                    self.assignment.workflow_state = one.workflow.state
                case "node":
                    snapshot = self._snapshot(one.node.node_id)
                    snapshot.state = one.node.state
                    event = event_pb2.NodeExecutionEvent.FromString(one.node.event)
                    if one.node.event and event.WhichOneof("output_result") == "error":
                        snapshot.error = event.error.SerializeToString()
                case "task":
                    snapshot = self._snapshot(one.task.node_id)
                    if one.task.attempt > self.newest.get(one.task.node_id, -1):
                        self.newest[one.task.node_id] = one.task.attempt
                        snapshot.attempt_state = b""
                    snapshot.attempt_state = one.task.state or snapshot.attempt_state
                case _:
                    known = self.known_items.setdefault(one.items.node_id, {})
                    for told in one.items.ranges:
                        known.update(dict.fromkeys(range(told.first, told.last + 1), told))

    def _snapshot(self, node_id: str) -> journal_pb2.NodeSnapshot:
        return self.snapshots.setdefault(node_id, journal_pb2.NodeSnapshot(node_id=node_id))

    def read(self) -> SavedWorkflow:
        for node_id, items in self.known_items.items():
            ranges = self._snapshot(node_id).items
            del ranges[:]
            for index, told in sorted(items.items()):
                one = ranges.add()
                one.CopyFrom(told)
                one.first = one.last = index
        del self.assignment.nodes[:]
        self.assignment.nodes.extend(self.snapshots.values())
        return transcript.read(self.assignment)

    def saved(self) -> SavedWorkflow:
        known, read = super().saved(), self.read()
        assert read.phase is known.phase
        assert read.failure == (None if known.failure is None else advised(known.failure))
        assert {name: progress(node) for name, node in read.nodes.items()} == {
            name: progress(node) for name, node in known.nodes.items()
        }
        for name, node in known.nodes.items():
            if node.phase is NodePhase.FAILED:
                assert node.failure is not None
                assert read.nodes[name].failure == advised(node.failure)
            assert read.nodes[name].plan == node.plan
            if node.plan is not None:
                assert {item_progress(item) for item in read.nodes[name].items} == {
                    item_progress(item) for item in node.items
                }
        return read


def item_progress(item: SavedItem) -> tuple[int, ...]:
    return (item.index, item.phase, item.attempt, item.system_failures)


def progress(node: SavedNode) -> tuple[object, ...]:
    return (
        node.phase,
        node.attempts,
        node.system_failures,
        node.queued_at,
        node.attempt_at,
        node.choice,
        node.task_phase,
        node.task_version,
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**9), crashes=st.lists(st.integers(0, 15), min_size=1, max_size=3))
def test_what_was_written_restores_what_the_engine_stood_at(seed: int, crashes: list[int]) -> None:
    rng = random.Random(seed)
    world = World(seed, random_closure(rng, Shape()), failures=0.25, hangs=0.1)
    world.arrays = False
    world.record = Journal()
    for after in [*crashes, None]:
        try:
            world.drive(world.engine(), rng, crash_after=after)
            break
        except Crash:
            continue
    assert world.record.saved().phase.terminal


def restored(journal: Journal) -> NodeState:
    engine = Engine(closure())
    engine.restore(journal.read(), AT)
    return engine.root.node("n0")


def test_the_phase_of_a_running_attempt_is_restored_from_the_attempts_own_state() -> None:
    journal, engine = Journal(), begun()
    node = engine.root.node("n0")
    engine.prepared(node, AT)
    journal.append(engine.take().transitions)
    engine.task_phase(node, 0, TaskPhase.INITIALIZING, 0, AT)
    engine.task_phase(node, 0, TaskPhase.RUNNING, 2, AT)
    journal.append(engine.take().transitions)
    again = restored(journal)
    assert (again.task_phase, again.task_version) == (TaskPhase.RUNNING, 2)


def test_the_phase_of_an_earlier_attempt_is_not_taken_for_the_current_ones() -> None:
    journal, engine = Journal(), begun()
    node = engine.root.node("n0")
    engine.prepared(node, AT)
    engine.task_phase(node, 0, TaskPhase.RUNNING, 1, AT)
    journal.append(engine.take().transitions)
    engine.failed(node, 0, Failure("Lost", "", ErrorKind.SYSTEM, retryable=True), AT + 5)
    journal.append(engine.take().transitions)
    journal.snapshots["n0"].attempt_state = state_pb2.NodeState(
        attempts=0, task_phase=TaskPhase.RUNNING, task_version=1
    ).SerializeToString()
    again = restored(journal)
    assert (again.attempts, again.system_failures, again.attempt_at) == (1, 1, node.attempt_at)
    assert (again.task_phase, again.task_version) == (TaskPhase.QUEUED, 0)


def test_an_execution_without_a_past_begins() -> None:
    assert transcript.read(journal_pb2.Assignment()) == SavedWorkflow()


def test_an_execution_that_was_being_aborted_is_restored_as_running() -> None:
    state = state_pb2.WorkflowState(phase=WorkflowPhase.ABORTING).SerializeToString()
    assert transcript.read(journal_pb2.Assignment(workflow_state=state)).phase is WorkflowPhase.RUNNING


def test_what_a_node_shares_is_told_by_its_events_and_known_to_the_next_holder() -> None:
    layout = Layout(execution="e0", data_dir=DATA, raw_base="s3://b/raw")
    scribe = Transcript(EXECUTION, layout, output_uri=f"{DATA}/out.pb", plugin_names={})
    engine = begun()
    node = engine.root.node("n0")
    layout.share("n0", inputs=b"\x01", outputs=b"\x02")
    engine.prepared(node, AT)
    engine.succeeded(node, 0, AT)
    written = scribe.write(coalesced(engine.take().transitions))
    told = [event_pb2.NodeExecutionEvent.FromString(one.node.event) for one in written if one.HasField("node")]
    assert {event.input_uri for event in told if event.id.node_id == "n0"} == {f"{DATA}/shared/01.pb"}
    (done,) = (event for event in told if event.id.node_id == "n0" and event.phase == N.SUCCEEDED)
    assert done.output_uri == f"{DATA}/shared/02.pb"
    ended = event_pb2.TaskExecutionEvent.FromString([one.task for one in written if one.HasField("task")][-1].event)
    assert (ended.input_uri, ended.output_uri) == (f"{DATA}/shared/01.pb", f"{DATA}/shared/02.pb")
    state = [one.node.state for one in written if one.HasField("node") and one.node.node_id == "n0"][-1]
    assignment = journal_pb2.Assignment(nodes=[journal_pb2.NodeSnapshot(node_id="n0", state=state)])
    assert list(transcript.shared(assignment)) == [("n0", b"\x01", b"\x02")]


@pytest.mark.parametrize("inside", [None, "sub"])
@pytest.mark.parametrize("attempt", [0, 3])
def test_plain_events_say_what_events_made_anew_say(inside: str | None, attempt: int) -> None:
    engine = begun()
    node = engine.root.node("n0")
    if inside is not None:
        owner = engine.root.node(inside)
        engine.prepared(owner, AT)
        assert owner.inner is not None
        node = owner.inner.node("n0")
    node.attempts = attempt
    scribe, reported = writer(), instant_of(AT + 1)
    plain = PlainEvents(
        EXECUTION,
        scribe._layout,
        producer=transcript.PRODUCER,
        plugin_names={"python-task": "container"},
        reported=reported,
    )
    for phase in (NodePhase.QUEUED, NodePhase.RUNNING, NodePhase.SUCCEEDED):
        node.task_phase = TaskPhase.SUCCEEDED if phase is NodePhase.SUCCEEDED else TaskPhase.UNDEFINED
        told = NodeTransition(node, phase, AT)
        written = plain.node(told)
        assert written is not None
        assert event_pb2.NodeExecutionEvent.FromString(written) == scribe._node_event(told, reported)
    for task_phase in (TaskPhase.QUEUED, TaskPhase.SUCCEEDED):
        done = TaskTransition(node, task_phase, 0, AT, PhaseInfo(Phase.SUCCEEDED))
        written = plain.task(done)
        assert written is not None
        assert event_pb2.TaskExecutionEvent.FromString(written) == scribe._task_event(done, reported)
    more = PhaseInfo(Phase.SUCCEEDED, reason="because")
    failure = Failure("Lost", "", ErrorKind.SYSTEM, retryable=True)
    assert plain.task(TaskTransition(node, TaskPhase.SUCCEEDED, 0, AT, more)) is None
    assert plain.node(NodeTransition(node, NodePhase.FAILED, AT, failure)) is None
    assert plain.node(NodeTransition(node, NodePhase.SUCCEEDED, AT, None, {"deck_uri": "x"})) is None
