"""What changes executions and projects: spec/control-plane.md, sections 4.1, 4.2, 4.8, 5.1 to 5.3, 7 and 8.1."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from flyteidl.admin.event_pb2 import EventFailureReason

from aerodrome.stdlib.postgres.testing import ServerForTests

from .doors import DOORS, REMOVED, Row, by_grpc, changed, entity, everywhere, granted, place_of, request_of, rows
from .serving import DOMAIN, PROJECT, Served, instant, reference, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

_numbers = itertools.count(1)

CONFIG = {"remote_data": {"max_size_in_bytes": 1_000}}
NODES = [{"id": "a", "taskNode": {"referenceId": reference("TASK", "t")}}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(postgres_server: ServerForTests, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served(postgres_server, tmp_path_factory.mktemp("store"), CONFIG) as made:
        await made.register("w", NODES, tasks=["t"])
        for name in ("new", "taken"):
            await made.launch("w", name)
        queued = await made.launch("w", "queued")
        await made.workflow_event(queued, "QUEUED", "00:01", producerId="one")
        running = await made.launch("w", "running")
        aborting = await made.launch("w", "aborting")
        done = await made.launch("w", "done")
        for execution in (running, aborting, done):
            await made.workflow_event(execution, "RUNNING", "00:01")
            await made.node_event(execution, "a", "RUNNING", "00:02")
            await made.task_event(execution, "a", "t", 0, "RUNNING", "00:03")
        await granted(made, "TerminateExecution", {"id": place_of("aborting"), "cause": "enough"})
        await made.task_event(done, "a", "t", 0, "SUCCEEDED", "00:04")
        await made.node_event(done, "a", "SUCCEEDED", "00:05")
        await made.workflow_event(done, "SUCCEEDED", "00:06")
        yield made


# 4.1 and 4.2


LAUNCH = {
    "project": PROJECT,
    "domain": DOMAIN,
    "name": "wrong",
    "spec": {"launchPlan": entity("LAUNCH_PLAN", "w")},
    "inputs": {},
}
RULE = "does not match regex '^[a-z][a-z\\-0-9]*$'"


def launch(*changes: tuple[str, Any]) -> dict[str, Any]:
    return changed(LAUNCH, *changes)


@rows(
    Row("CreateExecution", launch(("project", "")), "missing project"),
    Row("CreateExecution", launch(("domain", "")), "missing domain"),
    Row("CreateExecution", launch(("name", "x" * 64)), f"size of name exceeded length 63 : {'x' * 64}"),
    [
        Row("CreateExecution", launch(("name", name)), f"invalid name format: {name}, {RULE}")
        for name in ("1a", "-a", "a_b", "a.b", "a b", "Upper")
    ],
    Row("CreateExecution", launch(("name", "A"), ("project", "nowhere")), f"invalid name format: A, {RULE}"),
    Row("CreateExecution", launch(("spec", REMOVED)), "missing spec"),
    Row("CreateExecution", launch(("spec.launchPlan", REMOVED)), "missing id"),
    [
        Row("CreateExecution", launch((f"spec.launchPlan.{field}", "")), f"missing {field}")
        for field in ("project", "domain", "name", "version")
    ],
    [
        Row("CreateExecution", launch(("spec.launchPlan.resourceType", kind)),
            f"Invalid reference entity resource type [{kind}], only […] allowed")
        for kind in ("WORKFLOW", "DATASET", "UNSPECIFIED")
    ],
    Row("CreateExecution", launch(("inputs.literals", {"": {"scalar": {"noneType": {}}}})), "missing key in inputs"),
    Row("CreateExecution", launch(("inputs.literals", {"x": {}})), "missing valid literal in inputs x"),
    Row("CreateExecution", launch(("inputs.literals", {"x": {"scalar": {"noneType": {}}}})), "invalid input x"),
    Row("CreateExecution", launch(("inputs", REMOVED), ("spec.inputs.literals", {"y": {}})),
        "missing valid literal in inputs y"),
    Row("CreateExecution", launch(("spec.notifications.notifications", [{"phases": ["FAILED"]}])),
        "invalid value for notification type"),
    Row("CreateExecution", launch(("spec.notifications.notifications", [{"email": {}}])), "missing recipients"),
    Row("CreateExecution", launch(("spec.notifications.notifications", [
        {"email": {"recipientsEmail": ["a"]}, "phases": ["QUEUED"]}])), "invalid value for phase"),
    Row("CreateExecution", launch(("spec.labels.values", {f"k{at}": "v" for at in range(17)})),
        "labels map cannot exceed 16 entries"),
    Row("CreateExecution", launch(("spec.labels.values", {"no spaces": "v"})), "invalid label key [no spaces]: …"),
    Row("CreateExecution", launch(("name", "taken")), "…already exists…", "ALREADY_EXISTS"),
    Row("CreateExecution", launch(("spec.launchPlan.name", "nothing")),
        "missing entity of type LAUNCH_PLAN with identifier …", "NOT_FOUND"),
    Row("CreateExecution", launch(("spec.launchPlan", entity("TASK", "nothing"))),
        "missing entity of type TASK with identifier …", "NOT_FOUND"),
    [
        Row(rpc, {"name": "again"}, "missing entity of type execution with identifier …", "NOT_FOUND")
        for rpc in ("RelaunchExecution", "RecoverExecution")
    ],
    [
        Row(rpc, {"name": "again", "id": place_of("nobody")},
            "missing entity of type execution with identifier …", "NOT_FOUND")
        for rpc in ("RelaunchExecution", "RecoverExecution")
    ],
    [
        Row(rpc, {"name": "taken", "id": place_of("done")}, "…already exists…", "ALREADY_EXISTS")
        for rpc in ("RelaunchExecution", "RecoverExecution")
    ],
)  # fmt: skip
async def test_what_is_wrong_with_a_launch(platform: Served, row: Row) -> None:
    await row.check(platform)


async def test_an_execution_without_a_name_gets_one(platform: Served) -> None:
    for door in DOORS:
        made = await granted(platform, "CreateExecution", launch(("name", "")), door)
        assert len(made.id.name) == 20
        assert made.id.name[0] == "a"
        assert set(made.id.name[1:]) <= set("bcdfghjklmnpqrstvwxz2456789")


@pytest.mark.parametrize(("rpc", "mode"), [("RelaunchExecution", 3), ("RecoverExecution", 5)])
async def test_an_execution_is_launched_again(platform: Served, rpc: str, mode: int) -> None:
    for door in DOORS:
        name = f"again{next(_numbers)}"
        made = await granted(platform, rpc, {"id": place_of("done"), "name": name}, door)
        found = await everywhere(platform, "GetExecution", {"id": place_of(made.id.name)})
        assert made.id.name == name
        assert found.spec.metadata.mode == mode
        assert found.spec.metadata.reference_execution.name == "done"
        assert found.spec.launch_plan.name == "w"


# 5.1 to 5.3


OVER = EventFailureReason(already_in_terminal_state={"current_phase": "SUCCEEDED"})
ELSEWHERE = EventFailureReason(incompatible_cluster={"cluster": "two"})
STRANGER = "Cluster/producer from event [two] does not match existing workflow execution clusterInDB: […]"
LARGE = {"literals": {"o": {"scalar": {"primitive": {"stringValue": "x" * 1_000}}}}}
TOO_LARGE = "Output data size exceeds platform configured threshold (… > 1000)"


def workflow_event(execution: str, phase: str, **more: Any) -> dict[str, Any]:
    event = {"executionId": place_of(execution), "phase": phase, "occurredAt": instant("01:00"), **more}
    return {"event": event}


def node_event(execution: str, phase: str, node: str = "a", **more: Any) -> dict[str, Any]:
    event = {
        "id": {"executionId": place_of(execution), "nodeId": node},
        "phase": phase,
        "occurredAt": instant("01:00"),
        **more,
    }
    return {"event": event}


def task_event(execution: str, phase: str, node: str = "a", **more: Any) -> dict[str, Any]:
    event = {
        "taskId": entity("TASK", "t"),
        "parentNodeExecutionId": {"executionId": place_of(execution), "nodeId": node},
        "phase": phase,
        "occurredAt": instant("01:00"),
        **more,
    }
    return {"event": event}


def without(request: dict[str, Any], *fields: str) -> dict[str, Any]:
    return changed(request, *((f"event.{field}", REMOVED) for field in fields))


@rows(
    Row("CreateWorkflowEvent", {}, "missing event"),
    Row("CreateWorkflowEvent", without(workflow_event("new", "RUNNING"), "executionId"), "missing execution_id"),
    Row("CreateWorkflowEvent", without(workflow_event("new", "RUNNING"), "occurredAt"), "missing occurred_at"),
    Row("CreateWorkflowEvent", workflow_event("nobody", "SUCCEEDED", outputData=LARGE), TOO_LARGE,
        "RESOURCE_EXHAUSTED"),
    Row("CreateWorkflowEvent", workflow_event("nobody", "RUNNING"),
        "missing entity of type execution with identifier …", "NOT_FOUND"),
    Row("CreateWorkflowEvent", workflow_event("running", "RUNNING", producerId="two"),
        "This phase RUNNING was already recorded for workflow execution …", "ALREADY_EXISTS"),
    Row("CreateWorkflowEvent", workflow_event("done", "SUCCEEDED"),
        "This phase SUCCEEDED was already recorded for workflow execution …", "ALREADY_EXISTS"),
    Row("CreateWorkflowEvent", workflow_event("queued", "RUNNING", producerId="two"), STRANGER, "FAILED_PRECONDITION",
        (ELSEWHERE,)),
    [
        Row("CreateWorkflowEvent", workflow_event("done", phase),
            f"Invalid phase change from SUCCEEDED to {phase} for workflow execution …", "FAILED_PRECONDITION", (OVER,))
        for phase in ("UNDEFINED", "QUEUED", "RUNNING", "SUCCEEDING", "FAILING", "FAILED", "ABORTED", "TIMED_OUT",
                      "ABORTING")
    ],
    Row("CreateWorkflowEvent", workflow_event("running", "QUEUED"),
        "Cannot go from RUNNING to QUEUED for workflow execution …", "FAILED_PRECONDITION"),
    [
        Row("CreateWorkflowEvent", workflow_event("aborting", phase),
            f"Invalid phase change from aborting to {phase} for workflow execution …", "FAILED_PRECONDITION")
        for phase in ("UNDEFINED", "QUEUED", "RUNNING", "SUCCEEDING", "FAILING")
    ],
    Row("CreateNodeEvent", {}, "missing event"),
    Row("CreateNodeEvent", without(node_event("new", "RUNNING"), "id"), "missing id"),
    Row("CreateNodeEvent", without(node_event("new", "RUNNING"), "id.nodeId"), "missing node_id"),
    Row("CreateNodeEvent", without(node_event("new", "RUNNING"), "id.executionId"), "missing execution_id"),
    Row("CreateNodeEvent", node_event("nobody", "RUNNING"),
        "Failed to get existing execution id: […] with err: …", "NOT_FOUND"),
    Row("CreateNodeEvent", node_event("queued", "RUNNING", producerId="two"), STRANGER, "FAILED_PRECONDITION",
        (ELSEWHERE,)),
    Row("CreateNodeEvent", node_event("queued", "QUEUED", producerId="two"), STRANGER, "FAILED_PRECONDITION",
        (ELSEWHERE,)),
    Row("CreateNodeEvent", node_event("running", "QUEUED", "b", parentNodeMetadata={"nodeId": "nobody"}),
        "…nobody…", "NOT_FOUND"),
    Row("CreateNodeEvent", node_event("running", "QUEUED", "b", parentTaskMetadata={"id": {
        "taskId": entity("TASK", "t"), "nodeExecutionId": {"executionId": place_of("running"), "nodeId": "a"},
        "retryAttempt": 7}}), "…", "NOT_FOUND"),
    Row("CreateNodeEvent", node_event("running", "SUCCEEDED", workflowNodeMetadata={
        "executionId": place_of("nobody")}), "…nobody…", "NOT_FOUND"),
    Row("CreateNodeEvent", node_event("running", "RUNNING"), "This phase was already recorded RUNNING for …",
        "ALREADY_EXISTS"),
    Row("CreateNodeEvent", node_event("done", "SUCCEEDED"), "This phase was already recorded SUCCEEDED for …",
        "ALREADY_EXISTS"),
    Row("CreateTaskEvent", {}, "missing event"),
    Row("CreateTaskEvent", without(task_event("new", "RUNNING"), "occurredAt"), "missing occurred_at"),
    Row("CreateTaskEvent", without(task_event("new", "RUNNING"), "taskId"), "missing task_id"),
    Row("CreateTaskEvent", without(task_event("new", "RUNNING"), "parentNodeExecutionId"),
        "missing node_execution_id"),
    Row("CreateTaskEvent", without(task_event("new", "RUNNING"), "parentNodeExecutionId.nodeId"), "missing node_id"),
    Row("CreateTaskEvent", changed(task_event("new", "RUNNING"), ("event.taskId.resourceType", "WORKFLOW")),
        "unexpected resource type workflow for identifier […], expected task instead"),
    Row("CreateTaskEvent", without(task_event("new", "RUNNING"), "taskId.version"), "missing version"),
    Row("CreateTaskEvent", task_event("nobody", "SUCCEEDED", outputData=LARGE), TOO_LARGE, "RESOURCE_EXHAUSTED"),
    Row("CreateTaskEvent", task_event("nobody", "RUNNING"),
        "Failed to get existing execution id: […] with err: …", "NOT_FOUND"),
    Row("CreateTaskEvent", task_event("queued", "RUNNING", producerId="two"), STRANGER, "FAILED_PRECONDITION",
        (ELSEWHERE,)),
    Row("CreateTaskEvent", task_event("running", "RUNNING", node="nobody"),
        "Failed to get existing node execution id: […] with err: …", "NOT_FOUND"),
    Row("CreateTaskEvent", task_event("running", "RUNNING"),
        "have already recorded task execution phase RUNNING (version: 0) for …", "ALREADY_EXISTS"),
    Row("CreateTaskEvent", task_event("done", "SUCCEEDED"),
        "have already recorded task execution phase SUCCEEDED (version: 0) for …", "ALREADY_EXISTS"),
)  # fmt: skip
async def test_an_event_that_is_not_accepted_says_what_the_engine_decides_by(platform: Served, row: Row) -> None:
    await row.check(platform)


@pytest.mark.parametrize(
    ("rpc", "phase"),
    [
        *(("CreateNodeEvent", phase) for phase in ("QUEUED", "RUNNING", "FAILED", "ABORTED", "SKIPPED", "RECOVERED")),
        *(("CreateTaskEvent", phase) for phase in ("QUEUED", "RUNNING", "FAILED", "ABORTED", "RETRYABLE_FAILED")),
    ],
)
async def test_a_node_or_an_attempt_that_is_over_stays_so(platform: Served, rpc: str, phase: str) -> None:
    event = (node_event if rpc == "CreateNodeEvent" else task_event)("done", phase)
    for door in DOORS:
        answer = await door(platform, rpc, request_of(rpc, event))
        assert answer is not None
        assert answer.code == "FAILED_PRECONDITION", answer
        assert f"nvalid phase change from SUCCEEDED to {phase} for " in answer.text
        (detail,) = answer.details  # whose phase is either the stored or the requested one
        assert isinstance(detail, EventFailureReason)
        assert detail.already_in_terminal_state.current_phase in ("SUCCEEDED", phase)


async def test_events_come_through_every_door(platform: Served) -> None:
    for door in DOORS:
        name = f"told{next(_numbers)}"
        await platform.launch("w", name)
        for rpc, event in (
            ("CreateWorkflowEvent", workflow_event(name, "RUNNING")),
            ("CreateNodeEvent", node_event(name, "RUNNING")),
            ("CreateTaskEvent", task_event(name, "RUNNING")),
            ("CreateTaskEvent", task_event(name, "RUNNING", phaseVersion=1)),
            ("CreateTaskEvent", task_event(name, "SUCCEEDED")),
            ("CreateNodeEvent", node_event(name, "SUCCEEDED")),
            ("CreateWorkflowEvent", workflow_event(name, "FAILING")),
            ("CreateWorkflowEvent", workflow_event(name, "RUNNING")),
            ("CreateWorkflowEvent", workflow_event(name, "SUCCEEDED")),
        ):
            await granted(platform, rpc, event, door)
        found = await everywhere(platform, "GetExecution", {"id": place_of(name)})
        assert found.closure.phase == 4


async def test_an_execution_that_is_queued_again_may_change_its_cluster(platform: Served) -> None:
    execution = await platform.launch("w", "moving")
    for cluster in ("one", "two"):
        await platform.workflow_event(execution, "QUEUED", "00:01", producerId=cluster)
        found = await everywhere(platform, "GetExecution", {"id": place_of("moving")})
        assert found.spec.metadata.system_metadata.execution_cluster == cluster


# 7


@rows(
    Row("TerminateExecution", {"cause": "x"}, "missing id"),
    [
        Row("TerminateExecution", changed({"id": place_of("done")}, (f"id.{field}", "")), f"missing {field}")
        for field in ("project", "domain", "name")
    ],
    Row("TerminateExecution", {"id": place_of("nobody")}, "missing entity of type execution with identifier …",
        "NOT_FOUND"),
    Row("TerminateExecution", {"id": place_of("done")}, "Cannot abort an already terminated workflow execution",
        "FAILED_PRECONDITION", (OVER,)),
)  # fmt: skip
async def test_what_cannot_be_terminated(platform: Served, row: Row) -> None:
    await row.check(platform)


async def test_an_abort_is_recorded_at_once_and_may_be_repeated(platform: Served) -> None:
    execution = await platform.launch("w", "stopped")
    await platform.workflow_event(execution, "RUNNING", "00:01")
    before = await everywhere(platform, "GetExecution", {"id": place_of("stopped")})
    for door in DOORS:
        cause = f"because of {door.__name__}"
        await granted(platform, "TerminateExecution", {"id": place_of("stopped"), "cause": cause}, door)
        found = await everywhere(platform, "GetExecution", {"id": place_of("stopped")})
        assert found.closure.phase == 9
        assert found.closure.abort_metadata.cause == cause
        assert found.closure.updated_at == before.closure.updated_at
        listed = await everywhere(
            platform,
            "ListExecutions",
            {"id": place_of(), "limit": 5, "filters": f"eq(abort_cause,{cause})+eq(phase,ABORTING)"},
        )
        assert [each.id.name for each in listed.executions] == ["stopped"]
    error = {"code": "Aborted", "message": "the engine's words", "kind": "SYSTEM"}
    await platform.workflow_event(execution, "ABORTED", "00:05", error=error)
    found = await everywhere(platform, "GetExecution", {"id": place_of("stopped")})
    assert found.closure.phase == 7
    assert found.closure.abort_metadata.cause == cause


# 8.1


async def test_a_project_is_changed_as_far_as_a_request_says(platform: Served) -> None:
    for door in DOORS:
        name = f"p{next(_numbers)}"
        whole = {"id": name, "name": "Full", "description": "about", "labels": {"values": {"k": "v"}}}
        await granted(platform, "RegisterProject", {"project": whole}, door)
        found = await everywhere(platform, "GetProject", {"id": name})
        assert (found.name, found.description, dict(found.labels.values), found.state) == (
            "Full",
            "about",
            {"k": "v"},
            0,
        )
        assert [each.id for each in found.domains] == ["development", "staging", "production"]
        await granted(platform, "UpdateProject", {"id": name, "state": "ARCHIVED"}, door)
        found = await everywhere(platform, "GetProject", {"id": name})
        assert (found.name, found.description, dict(found.labels.values), found.state) == (
            "Full",
            "about",
            {"k": "v"},
            1,
        )
        await granted(platform, "UpdateProject", {"id": name, "name": "New", "labels": {}}, door)
        found = await everywhere(platform, "GetProject", {"id": name})
        assert (found.name, found.description, dict(found.labels.values), found.state) == ("New", "about", {}, 0)


async def test_archived_projects_are_listed_to_whoever_filters(platform: Served) -> None:
    for state in ("ARCHIVED", "SYSTEM_GENERATED", "SYSTEM_ARCHIVED"):
        name = f"is-{state.lower().replace('_', '-')}"
        await granted(platform, "RegisterProject", {"project": {"id": name, "name": name, "state": state}})

    async def listed(**request: Any) -> list[str]:
        found = await everywhere(platform, "ListProjects", request)
        assert all(len(each.domains) == 3 for each in found.projects)
        return [each.id for each in found.projects if each.id.startswith("is-")]

    assert await listed() == ["is-system-archived", "is-system-generated"]
    assert await listed(filters="eq(state,1)") == ["is-archived"]
    assert await listed(filters="gte(state,0)") == ["is-archived", "is-system-archived", "is-system-generated"]
    order = {"key": "identifier", "direction": "DESCENDING"}
    assert await listed(sortBy=order) == ["is-system-generated", "is-system-archived"]


async def test_reading_and_aborting_work_in_an_archived_project(platform: Served) -> None:
    await granted(platform, "RegisterProject", {"project": {"id": "closing", "name": "closing"}})
    made = await granted(platform, "CreateExecution", launch(("project", "closing"), ("name", "last")))
    await granted(platform, "UpdateProject", {"id": "closing", "state": "ARCHIVED"})
    refused = await by_grpc(
        platform, "CreateExecution", request_of("CreateExecution", launch(("project", "closing"), ("name", "late")))
    )
    assert refused.text == "project [closing] is not active"
    await everywhere(platform, "GetExecution", {"id": place_of("last", project="closing")})
    await platform.workflow_event(made.id, "RUNNING", "00:01")
    await granted(platform, "TerminateExecution", {"id": place_of("last", project="closing")})


async def test_domains_come_in_the_order_of_the_settings(platform: Served) -> None:
    found = await everywhere(platform, "GetDomains", {})
    assert [(each.id, each.name) for each in found.domains] == [
        (name, name) for name in ("development", "staging", "production")
    ]
