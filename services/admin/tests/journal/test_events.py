"""What an outside engine reports by the standard events: the acceptance rules, codes and details of section 5."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from flyteidl.admin.event_pb2 import (
    EventFailureReason,
    NodeExecutionEventRequest,
    TaskExecutionEventRequest,
    WorkflowExecutionEventRequest,
)
from flyteidl.admin.execution_pb2 import ExecutionSpec
from flyteidl.core.compiler_pb2 import CompiledWorkflowClosure
from flyteidl.core.execution_pb2 import ExecutionError
from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier
from flyteidl.core.literals_pb2 import LiteralMap
from flyteidl.event.event_pb2 import (
    NodeExecutionEvent,
    ParentNodeExecutionMetadata,
    ParentTaskExecutionMetadata,
    TaskExecutionEvent,
    TaskNodeMetadata,
    WorkflowExecutionEvent,
    WorkflowNodeMetadata,
)

from aerodrome.admin.config import AdminConfig
from aerodrome.stdlib.errors import (
    AerodromeError,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from aerodrome.stdlib.postgres.database import Database

from .conftest import (
    ACCEPTED,
    REPEATED,
    Events,
    Executions,
    Hold,
    Replica,
    open_session,
    open_stream,
    replica,
    transition,
)


def detail(error: AerodromeError) -> str:
    """The reason that an engine decodes."""
    (reason,) = error.details
    assert isinstance(reason, EventFailureReason)
    return str(reason.WhichOneof("reason"))


def literals(size_bytes: int = 10) -> LiteralMap:
    data = LiteralMap()
    data.literals["o"].scalar.primitive.string_value = "x" * size_bytes
    return data


# --- executions


async def test_an_outside_engine_drives_an_execution(plane: Replica, executions: Executions) -> None:
    execution_id = await executions.create()
    events = Events()
    for event in (
        events.workflow("QUEUED"),
        events.workflow("QUEUED"),  # a second one announces a new cluster
        events.workflow("RUNNING"),
        events.node("start-node", "SUCCEEDED", output_uri="/inputs"),
        events.node("n0", "QUEUED", input_uri="/in"),
        events.task("n0", "QUEUED"),
        events.node("n0", "RUNNING", input_uri="/other"),
        events.task("n0", "RUNNING", version=0),
        events.task("n0", "RUNNING", version=1),
        events.task("n0", "SUCCEEDED", output_uri="/out"),
        events.node("n0", "SUCCEEDED", output_uri="/out", deck_uri="/deck"),
        events.workflow("SUCCEEDING"),
        events.workflow("SUCCEEDED", output_uri="/end"),
    ):
        await plane.report(event)

    row = await executions.row(execution_id)
    closure = await executions.closure(execution_id)
    assert (row["phase"], closure.outputs.uri, closure.started_at.ToDatetime()) == (
        "SUCCEEDED",
        "/end",
        row["started_at"].replace(tzinfo=None),
    )
    node, node_closure, _ = await executions.node(execution_id, "n0")
    assert (node["input_uri"], node_closure.deck_uri, node["event_version"]) == ("/in", "/deck", 1)
    task, _ = await executions.task(execution_id, "n0")
    assert (task["phase"], task["phase_version"]) == ("SUCCEEDED", 0)
    lease = await executions.lease(execution_id)
    assert (lease["writer"], lease["state"]) == ("events", "closed")
    assert {entry["kind"] for entry in await executions.entries(execution_id)} == {6}
    await executions.check(execution_id)


@pytest.mark.parametrize(
    ("stored", "event", "kind", "message", "reason"),
    [
        (["RUNNING"], "RUNNING", AlreadyExists, "This phase RUNNING was already recorded for workflow execution", ""),
        (["RUNNING"], "QUEUED", FailedPrecondition, "Cannot go from RUNNING to QUEUED for workflow execution", ""),
        (["FAILED"], "RUNNING", FailedPrecondition, "Invalid phase change from FAILED to RUNNING for workflow",
         "already_in_terminal_state"),
        (["FAILED"], "FAILED", AlreadyExists, "This phase FAILED was already recorded", ""),
        (["SUCCEEDED"], "ABORTED", FailedPrecondition, "Invalid phase change from SUCCEEDED to ABORTED",
         "already_in_terminal_state"),
        (["TIMED_OUT"], "QUEUED", FailedPrecondition, "Invalid phase change", "already_in_terminal_state"),
        ([], "UNDEFINED", AlreadyExists, "This phase UNDEFINED was already recorded", ""),
    ],
)  # fmt: skip
async def test_workflow_events_that_do_not_follow_are_refused(
    plane: Replica,
    executions: Executions,
    stored: list[str],
    event: str,
    kind: type[AerodromeError],
    message: str,
    reason: str,
) -> None:
    execution_id = await executions.create()
    events = Events()
    for phase in stored:
        await plane.report(events.workflow(phase))
    before = await executions.row(execution_id)
    with pytest.raises(kind, match=message) as caught:
        await plane.report(events.workflow(event))

    assert (detail(caught.value) if caught.value.details else "") == reason
    after = await executions.row(execution_id)
    assert dict(after.items()) == dict(before.items())


async def test_the_terminal_detail_names_the_stored_phase(plane: Replica, executions: Executions) -> None:
    await executions.create()
    events = Events()
    await plane.report(events.workflow("FAILED"))
    with pytest.raises(FailedPrecondition) as caught:
        await plane.report(events.workflow("RUNNING"))
    (reason,) = caught.value.details
    assert isinstance(reason, EventFailureReason)
    assert reason.already_in_terminal_state.current_phase == "FAILED"


async def test_phases_may_be_skipped_and_taken_back(plane: Replica, executions: Executions) -> None:
    execution_id = await executions.create()
    events = Events()
    for phase in ("RUNNING", "FAILING", "RUNNING", "SUCCEEDED"):
        await plane.report(events.workflow(phase))
    assert await executions.phase(execution_id) == "SUCCEEDED"


async def test_an_aborting_execution_only_ends(plane: Replica, executions: Executions) -> None:
    execution_id = await executions.create()
    events = Events()
    await plane.report(events.workflow("RUNNING"))
    await plane.journal.request_abort(events.identifier, "enough", "me")
    with pytest.raises(FailedPrecondition, match="Invalid phase change from aborting to RUNNING") as caught:
        await plane.report(events.workflow("RUNNING"))
    assert caught.value.details == ()
    await plane.report(events.workflow("ABORTED", error=ExecutionError(code="X", message="the engine's words")))

    closure = await executions.closure(execution_id)
    assert (closure.abort_metadata.cause, closure.abort_metadata.principal) == ("enough", "me")
    assert (await executions.row(execution_id))["error_code"] is None
    await executions.check(execution_id)


async def test_an_error_is_kept_with_its_kind(plane: Replica, executions: Executions) -> None:
    execution_id = await executions.create()
    events = Events()
    await plane.report(events.workflow("RUNNING"))
    error = ExecutionError(code="USER:Oops", message="m" * 200_000, kind=ExecutionError.USER)
    await plane.report(events.workflow("FAILED", error=error))
    row, closure = await executions.row(execution_id), await executions.closure(execution_id)
    assert (row["error_kind"], row["error_code"]) == ("USER", "USER:Oops")
    assert len(closure.error.message) <= 102_400
    assert "cut" in closure.error.message


async def test_a_real_producer_must_be_the_recorded_one(plane: Replica, executions: Executions) -> None:
    execution_id = await executions.create(cluster="east")
    here, there = Events(producer="east"), Events(producer="west")
    await plane.report(here.workflow("RUNNING"))
    for event in (there.workflow("SUCCEEDING"), there.node("n0", "QUEUED")):
        with pytest.raises(FailedPrecondition, match=r"Cluster/producer from event \[west\] does not match") as caught:
            await plane.report(event)
        assert detail(caught.value) == "incompatible_cluster"
    await plane.report(here.node("n0", "QUEUED"))
    with pytest.raises(FailedPrecondition) as caught:
        await plane.report(there.task("n0", "QUEUED"))
    assert detail(caught.value) == "incompatible_cluster"
    assert await executions.phase(execution_id) == "RUNNING"


async def test_a_queued_event_moves_the_execution_to_its_producer(
    plane: Replica, executions: Executions, database: Database
) -> None:
    execution_id = await executions.create(cluster="east")
    there = Events(producer="west")
    await plane.report(there.workflow("QUEUED"))
    row = await executions.row(execution_id)
    assert row["cluster"] == "west"
    assert ExecutionSpec.FromString(row["spec"]).metadata.system_metadata.execution_cluster == "west"
    await plane.report(there.workflow("RUNNING"))
    assert await executions.phase(execution_id) == "RUNNING"


async def test_a_leased_execution_takes_no_events(plane: Replica, hold: Hold, executions: Executions) -> None:
    holder = await hold()
    events = Events()
    for event in (events.workflow("RUNNING"), events.node("n0", "QUEUED"), events.task("n0", "QUEUED")):
        with pytest.raises(FailedPrecondition) as caught:
            await plane.report(event)
        assert detail(caught.value) == "incompatible_cluster"
    assert await executions.entries(holder.execution_id) == []


async def test_an_execution_with_events_is_not_leased(plane: Replica, executions: Executions) -> None:
    await executions.create("taken")
    await plane.report(Events("taken").workflow("RUNNING"))
    await executions.create("free")
    stream = open_stream(plane.stub, await open_session(plane.stub))
    assert (await stream.assignment()).name == "free"
    stream.cancel()


async def test_a_refused_event_does_not_take_an_execution_from_the_data_planes(
    plane: Replica, executions: Executions
) -> None:
    execution_id = await executions.create()
    with pytest.raises(NotFound):
        await plane.report(Events().task("n0", "QUEUED"))
    assert (await executions.lease(execution_id))["state"] == "open"


async def test_an_execution_that_failed_to_launch_is_over(plane: Replica, executions: Executions) -> None:
    await executions.create(phase="FAILED")
    with pytest.raises(FailedPrecondition) as caught:
        await plane.report(Events().workflow("RUNNING"))
    assert detail(caught.value) == "already_in_terminal_state"


@pytest.mark.parametrize("event", ["workflow", "node", "task"])
async def test_events_of_an_unknown_execution_are_not_found(plane: Replica, event: str) -> None:
    events = Events("nobody")
    made: Any = {
        "workflow": events.workflow("RUNNING"),
        "node": events.node("n0", "QUEUED"),
        "task": events.task("n0", "QUEUED"),
    }[event]
    expected = "missing entity of type execution" if event == "workflow" else "Failed to get existing execution id"
    with pytest.raises(NotFound, match=expected):
        await plane.report(made)


async def test_events_of_an_execution_that_was_removed_are_not_found(
    plane: Replica, executions: Executions, database: Database
) -> None:
    execution_id = await executions.create()
    events = Events()
    await plane.report(events.workflow("RUNNING"))
    await database.execute("DELETE FROM executions WHERE execution_id = $1", execution_id)
    for _ in range(2):
        with pytest.raises(NotFound, match="missing entity of type execution"):
            await plane.report(events.workflow("FAILED"))


async def test_two_terminal_events_at_once_cannot_both_succeed(
    plane: Replica, executions: Executions, database: Database
) -> None:
    execution_id = await executions.create()
    events = Events()
    await plane.report(events.workflow("RUNNING"))
    async with replica(database) as other:
        answers = await asyncio.gather(
            *(
                (plane, other)[number % 2].report(events.workflow(phase))
                for number, phase in enumerate(["SUCCEEDED", "FAILED", "ABORTED", "TIMED_OUT"])
            ),
            return_exceptions=True,
        )
    assert sorted(type(answer).__name__ for answer in answers) == ["FailedPrecondition"] * 3 + ["NoneType"]
    assert await database.fetchval("SELECT count(*) FROM outbox") == 1
    await executions.check(execution_id)


# --- nodes


async def test_a_node_event_that_repeats_or_comes_late_is_refused(plane: Replica, executions: Executions) -> None:
    await executions.create()
    events = Events()
    await plane.report(events.node("n0", "RUNNING"))
    with pytest.raises(AlreadyExists, match="This phase was already recorded RUNNING for"):
        await plane.report(events.node("n0", "RUNNING"))
    await plane.report(events.node("n0", "QUEUED"))  # no order among phases that are not terminal
    await plane.report(events.node("n0", "FAILED"))
    with pytest.raises(FailedPrecondition, match="Invalid phase change from FAILED to SUCCEEDED") as caught:
        await plane.report(events.node("n0", "SUCCEEDED"))
    assert detail(caught.value) == "already_in_terminal_state"


async def test_parents_must_exist(plane: Replica, executions: Executions) -> None:
    execution_id = await executions.create()
    events = Events()
    child = ParentNodeExecutionMetadata(node_id="n0")
    with pytest.raises(NotFound, match="missing entity of type node execution"):
        await plane.report(events.node("n0-0-n1", "QUEUED", parent_node_metadata=child))
    await plane.report(events.node("n0", "RUNNING", is_parent=True))
    await plane.report(events.node("n0-0-n1", "QUEUED", parent_node_metadata=child, retry_group="0"))
    row, _, metadata = await executions.node(execution_id, "n0-0-n1")
    assert (row["parent_node_id"], metadata.retry_group) == ("n0", "0")
    assert (await executions.node(execution_id, "n0"))[2].is_parent_node

    task = events.task("n0", "RUNNING")
    parent = ParentTaskExecutionMetadata()
    parent.id.task_id.CopyFrom(task.task_id)
    parent.id.node_execution_id.CopyFrom(task.parent_node_execution_id)
    with pytest.raises(NotFound, match="missing entity of type task execution"):
        await plane.report(events.node("legacy", "QUEUED", parent_task_metadata=parent))
    await plane.report(task)
    await plane.report(events.node("legacy", "QUEUED", parent_task_metadata=parent))
    attempt, _ = await executions.task(execution_id, "n0")
    assert (await executions.node(execution_id, "legacy"))[0]["parent_task_execution_id"] == attempt["id"]
    await executions.check(execution_id)


async def test_a_child_execution_is_recorded_once_and_must_exist(plane: Replica, executions: Executions) -> None:
    execution_id = await executions.create()
    await executions.create("child")
    events = Events()
    child = WorkflowNodeMetadata(execution_id=Events("child").identifier)
    nobody = WorkflowNodeMetadata(execution_id=Events("nobody").identifier)
    await plane.report(events.node("on-create", "RUNNING", workflow_node_metadata=child))
    await plane.report(events.node("unknown", "RUNNING", workflow_node_metadata=nobody))
    await plane.report(events.node("n0", "QUEUED"))
    with pytest.raises(NotFound, match="missing entity of type execution"):
        await plane.report(events.node("n0", "RUNNING", workflow_node_metadata=nobody))
    await plane.report(events.node("n0", "RUNNING", workflow_node_metadata=child))

    names = {
        node_id: (await executions.node(execution_id, node_id))[1].workflow_node_metadata.executionId.name
        for node_id in ("on-create", "unknown", "n0")
    }
    assert names == {"on-create": "child", "unknown": "", "n0": "child"}


async def test_cache_status_is_recorded_along_with_a_catalog_key(plane: Replica, executions: Executions) -> None:
    execution_id = await executions.create()
    events = Events()
    hit = TaskNodeMetadata(cache_status="CACHE_HIT", checkpoint_uri="/c")
    hit.catalog_key.dataset_id.name = "d"
    await plane.report(events.node("hit", "SUCCEEDED", task_node_metadata=hit))
    plain = TaskNodeMetadata(cache_status="CACHE_MISS", checkpoint_uri="/c")
    await plane.report(events.node("plain", "SUCCEEDED", task_node_metadata=plain))

    row, closure, _ = await executions.node(execution_id, "hit")
    assert (row["cache_status"], closure.task_node_metadata.catalog_key.dataset_id.name) == ("CACHE_HIT", "d")
    row, closure, _ = await executions.node(execution_id, "plain")
    assert (row["cache_status"], closure.task_node_metadata.checkpoint_uri) == (None, "/c")


async def test_a_dynamic_workflow_is_stored_and_its_reference_never_cleared(
    plane: Replica, executions: Executions
) -> None:
    execution_id = await executions.create()
    events = Events()
    compiled = CompiledWorkflowClosure()
    compiled.primary.template.id.name = "made"
    dynamic = TaskNodeMetadata()
    dynamic.dynamic_workflow.id.name = "made"
    dynamic.dynamic_workflow.compiled_workflow.CopyFrom(compiled)
    dynamic.dynamic_workflow.dynamic_job_spec_uri = "/futures.pb"
    await plane.report(events.node("n0", "RUNNING"))
    await plane.report(events.node("n0", "DYNAMIC_RUNNING", task_node_metadata=dynamic, is_dynamic=True))
    await plane.report(events.node("n0", "SUCCEEDED", output_uri="/o"))

    row, closure, metadata = await executions.node(execution_id, "n0")
    reference = row["dynamic_workflow_remote_closure_reference"]
    assert CompiledWorkflowClosure.FromString(await plane.storage.read(reference)) == compiled
    assert (metadata.is_dynamic, closure.dynamic_job_spec_uri) == (True, "/futures.pb")
    await executions.check(execution_id)


async def test_inline_data_are_stored_and_referred_to(plane: Replica, executions: Executions) -> None:
    execution_id = await executions.create()
    events = Events()
    await plane.report(events.workflow("RUNNING"))
    await plane.report(events.node("n0", "RUNNING", input_data=literals(5)))
    await plane.report(events.task("n0", "RUNNING", input_data=literals(6)))
    await plane.report(events.task("n0", "SUCCEEDED", output_data=literals(7)))
    await plane.report(events.node("n0", "SUCCEEDED", output_data=literals(8)))
    await plane.report(events.workflow("SUCCEEDED", output_data=literals(9)))
    with pytest.raises(AlreadyExists):  # its data do not replace what was accepted
        await plane.report(events.workflow("SUCCEEDED", output_data=literals(10)))

    node, node_closure, _ = await executions.node(execution_id, "n0")
    task, task_closure = await executions.task(execution_id, "n0")
    closure = await executions.closure(execution_id)
    stored = {
        5: node["input_uri"],
        6: task["input_uri"],
        7: task_closure.output_uri,
        8: node_closure.output_uri,
        9: closure.outputs.uri,
    }
    for size, reference in stored.items():
        assert LiteralMap.FromString(await plane.storage.read(reference)) == literals(size)
        assert str(execution_id) in reference
    await executions.check(execution_id)


async def test_data_of_what_was_not_recorded_are_taken_away_again(plane: Replica, hold: Hold) -> None:
    holder = await hold()
    events = Events()
    done = events.node("n0", "SUCCEEDED", output_data=literals(8))
    request = holder.request(transition(done), transition(done))
    for _ in range(2):  # the second time it is a repeat
        statuses = [each.status for each in (await holder.send(request)).results]
        assert statuses == [ACCEPTED, REPEATED]
    assert (await holder.send(holder.request(transition(done), epoch=holder.epoch + 1))).status != 1
    with pytest.raises(FailedPrecondition):
        await plane.report(events.task("n0", "RUNNING", input_data=literals(6)))
    stored = [reference async for reference, _ in plane.storage.list(plane.storage.base)]
    assert len(stored) == 1
    assert LiteralMap.FromString(await plane.storage.read(stored[0])) == literals(8)


async def test_inline_data_stay_where_the_policy_says_so(database: Database, executions: Executions) -> None:
    config = AdminConfig.model_validate({"remote_data": {"inline_event_data_policy": "StoreInline"}})
    execution_id = await executions.create()
    events = Events()
    async with replica(database, config) as plane:
        await plane.report(events.workflow("SUCCEEDED", output_data=literals()))
    assert (await executions.closure(execution_id)).output_data == literals()


@pytest.mark.parametrize("event", ["workflow", "task"])
async def test_inline_data_have_a_limit(database: Database, executions: Executions, event: str) -> None:
    config = AdminConfig.model_validate({"remote_data": {"max_size_in_bytes": 100}})
    execution_id = await executions.create()
    events = Events()
    data = literals(200)
    async with replica(database, config) as plane:
        await plane.report(events.node("n0", "RUNNING", input_data=data, output_data=data))
        made: Any = {
            "workflow": events.workflow("SUCCEEDED", output_data=data),
            "task": events.task("n0", "SUCCEEDED", output_data=data),
        }[event]
        expected = rf"Output data size exceeds platform configured threshold \({data.ByteSize()} > 100\)"
        with pytest.raises(ResourceExhausted, match=expected):
            await plane.report(made)
    assert len(await executions.entries(execution_id)) == 1


# --- attempts


async def test_a_task_event_needs_its_node(plane: Replica, executions: Executions) -> None:
    await executions.create()
    with pytest.raises(NotFound, match="Failed to get existing node execution id"):
        await plane.report(Events().task("n0", "QUEUED"))


async def test_versions_of_a_phase_only_grow_and_begin_anew_with_the_next_phase(
    plane: Replica, executions: Executions
) -> None:
    execution_id = await executions.create()
    events = Events()
    await plane.report(events.node("n0", "RUNNING"))
    await plane.report(events.task("n0", "QUEUED", version=1))
    with pytest.raises(AlreadyExists, match=r"have already recorded task execution phase QUEUED \(version: 0\) for"):
        await plane.report(events.task("n0", "QUEUED", version=0))
    await plane.report(events.task("n0", "RUNNING", version=0))
    await plane.report(events.task("n0", "RUNNING", version=1))
    with pytest.raises(AlreadyExists):
        await plane.report(events.task("n0", "RUNNING", version=1))
    await plane.report(events.task("n0", "FAILED", error=ExecutionError(code="X")))
    with pytest.raises(FailedPrecondition, match="invalid phase change from FAILED to RUNNING") as caught:
        await plane.report(events.task("n0", "RUNNING", version=9))
    assert detail(caught.value) == "already_in_terminal_state"
    await executions.check(execution_id)


async def test_events_of_one_node_at_the_same_time_are_applied_once(
    plane: Replica, executions: Executions, database: Database
) -> None:
    execution_id = await executions.create()
    events = Events()
    await plane.report(events.workflow("RUNNING"))
    async with replica(database) as other:
        answers = await asyncio.gather(
            *((plane, other)[number % 2].report(events.node("n0", "QUEUED")) for number in range(10)),
            return_exceptions=True,
        )
    assert sorted(type(answer).__name__ for answer in answers) == ["AlreadyExists"] * 9 + ["NoneType"]
    await executions.check(execution_id)


# --- malformed


def _malformed() -> list[tuple[str, Any, str]]:
    events = Events()
    cases: list[tuple[str, Any, str]] = [
        ("no event", WorkflowExecutionEventRequest(), "missing event"),
        ("no node event", NodeExecutionEventRequest(), "missing event"),
        ("no task event", TaskExecutionEventRequest(), "missing event"),
        ("nothing in it", WorkflowExecutionEvent(), "missing execution_id"),
        ("no node id", NodeExecutionEvent(), "missing id"),
        ("no task time", TaskExecutionEvent(), "missing occurred_at"),
    ]
    event = events.workflow("RUNNING")
    event.execution_id.CopyFrom(WorkflowExecutionIdentifier(project="p", domain="d"))
    cases.append(("no name", event, "missing name"))
    event = events.workflow("RUNNING")
    event.execution_id.name = "a\0b"
    cases.append(("NUL in a name", event, "NUL"))
    event = events.workflow("RUNNING", output_uri="/a\0b")
    cases.append(("NUL in a reference", event, "NUL"))
    event = events.workflow("FAILED", error=ExecutionError(code="a\0b"))
    cases.append(("NUL in a code", event, "NUL"))
    task = events.task("n0", "RUNNING")
    task.ClearField("task_id")
    cases.append(("no task", task, "missing task_id"))
    task = events.task("n0", "RUNNING")
    task.ClearField("parent_node_execution_id")
    cases.append(("no parent", task, "missing node_execution_id"))
    task = events.task("n0", "RUNNING")
    task.task_id.resource_type = 2  # type: ignore[assignment]
    cases.append(("a workflow for a task", task, "unexpected resource type workflow"))
    cases.append(("version beyond a column", events.task("n0", "RUNNING", version=2**31), "phase_version"))
    node = events.node("n0", "RUNNING", parent_node_metadata=ParentNodeExecutionMetadata(node_id="x" * 1000))
    cases.append(("long parent", node, "too long"))
    node = events.node("n0", "RUNNING", workflow_node_metadata=WorkflowNodeMetadata())
    cases.append(("child without a name", node, "missing"))
    node = events.node("n0", "RUNNING")
    node.event_version = 70_000
    cases.append(("event version beyond a column", node, "event_version"))
    node = events.node("n0", "RUNNING")
    node.reported_at.nanos = -5
    cases.append(("broken time", node, "reported_at"))
    return cases


async def test_malformed_events_are_invalid_and_leave_nothing(plane: Replica, executions: Executions) -> None:
    execution_id = await executions.create()
    calls: dict[type, Any] = {
        WorkflowExecutionEventRequest: plane.events.CreateWorkflowEvent,
        NodeExecutionEventRequest: plane.events.CreateNodeEvent,
        TaskExecutionEventRequest: plane.events.CreateTaskEvent,
    }
    for what, event, message in _malformed():
        call = calls[type(event)](event, None) if type(event) in calls else plane.report(event)
        with pytest.raises(InvalidArgument) as caught:
            await call
        assert message in caught.value.message, what
        assert await executions.entries(execution_id) == []
