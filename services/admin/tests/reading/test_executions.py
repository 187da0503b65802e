"""GetExecution, ListExecutions and the calls for nodes and attempts, through the servicer."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from flyteidl.admin import common_pb2, execution_pb2, node_execution_pb2, task_execution_pb2
from flyteidl.core import execution_pb2 as core_execution_pb2
from flyteidl.core.identifier_pb2 import ResourceType, WorkflowExecutionIdentifier


def listing(**fields: Any) -> common_pb2.ResourceListRequest:
    identifier = common_pb2.NamedEntityIdentifier(project="p", domain="d", name=fields.pop("name", ""))
    return common_pb2.ResourceListRequest(id=identifier, **{"limit": 100} | fields)


async def names(admin: Any, **fields: Any) -> list[str]:
    answer = await admin.ListExecutions(listing(**fields))
    return [each.id.name for each in answer.executions]


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_an_execution_is_given_as_it_was_stored(admin: Any, rows: Any, ids: Any) -> None:
    spec = execution_pb2.ExecutionSpec(max_parallelism=7)
    spec.inputs.literals["a"].scalar.primitive.integer = 1
    closure = execution_pb2.ExecutionClosure(error=core_execution_pb2.ExecutionError(message="x" * 500))
    closure.state_change_details.principal = "alice"
    await rows.execution("e1", phase="FAILED", spec=spec, closure=closure)
    found = await admin.GetExecution(execution_pb2.WorkflowExecutionGetRequest(id=ids.execution("e1")))
    assert found.id == ids.execution("e1")
    assert found.spec == spec
    assert found.closure == closure


async def test_fields_of_a_later_release_survive(admin: Any, rows: Any, ids: Any, database: Any) -> None:
    await rows.execution("e1")
    unknown = b"\xfa\x3f\x03abc"
    await database.execute("UPDATE executions SET closure = closure || $1", unknown)
    found = await admin.GetExecution(execution_pb2.WorkflowExecutionGetRequest(id=ids.execution("e1")))
    assert unknown in found.closure.SerializeToString()


async def test_an_organisation_in_the_key_changes_nothing(admin: Any, rows: Any, ids: Any) -> None:
    await rows.execution("e1")
    key = WorkflowExecutionIdentifier(project="p", domain="d", name="e1", org="acme")
    found = await admin.GetExecution(execution_pb2.WorkflowExecutionGetRequest(id=key))
    assert found.id == ids.execution("e1")


async def test_a_change_of_state_is_part_of_the_closure(admin: Any, rows: Any, ids: Any) -> None:
    changed = execution_pb2.ExecutionClosure()
    changed.state_change_details.state = execution_pb2.EXECUTION_ARCHIVED
    changed.state_change_details.principal = "bob"
    await rows.execution("e1", state=1, state_change=changed.SerializeToString())
    found = await admin.GetExecution(execution_pb2.WorkflowExecutionGetRequest(id=ids.execution("e1")))
    (listed,) = (await admin.ListExecutions(listing(filters="eq(state,1)"))).executions
    for each in (found, listed):
        assert each.closure.state_change_details == changed.state_change_details
        assert each.closure.phase == core_execution_pb2.WorkflowExecution.RUNNING


async def test_what_old_rows_lack_is_made_up(admin: Any, rows: Any, ids: Any) -> None:
    await rows.execution("e1", phase="ABORTED", abort_cause="no need", user="alice")
    found = await admin.GetExecution(execution_pb2.WorkflowExecutionGetRequest(id=ids.execution("e1")))
    assert found.closure.abort_metadata.cause == "no need"
    assert found.closure.state_change_details.state == execution_pb2.EXECUTION_ACTIVE
    assert found.closure.state_change_details.principal == "alice"


@pytest.mark.parametrize(
    ("key", "code", "text"),
    [
        (WorkflowExecutionIdentifier(), "INVALID_ARGUMENT", "missing id"),
        (WorkflowExecutionIdentifier(domain="d", name="n"), "INVALID_ARGUMENT", "missing project"),
        (WorkflowExecutionIdentifier(project="p", name="n"), "INVALID_ARGUMENT", "missing domain"),
        (WorkflowExecutionIdentifier(project="p", domain="d"), "INVALID_ARGUMENT", "missing name"),
        (WorkflowExecutionIdentifier(project="p", domain="d", name="\x00"), "INVALID_ARGUMENT", "NUL"),
        (WorkflowExecutionIdentifier(project="p", domain="d", name="n" * 300), "INVALID_ARGUMENT", "too long"),
        (
            WorkflowExecutionIdentifier(project="p", domain="d", name="n"),
            "NOT_FOUND",
            'missing entity of type execution with identifier project: "p" domain: "d" name: "n"',
        ),
    ],
)
async def test_keys_that_lead_nowhere_are_refused(
    admin: Any, key: WorkflowExecutionIdentifier, code: str, text: str
) -> None:
    for call in (
        admin.GetExecution(execution_pb2.WorkflowExecutionGetRequest(id=key)),
        admin.GetExecutionData(execution_pb2.WorkflowExecutionGetDataRequest(id=key)),
    ):
        got, details = await refusal(call)
        assert (got.name, text in details) == (code, True), details


async def test_lists_leave_out_inputs_and_cut_errors_between_characters(admin: Any, rows: Any) -> None:
    spec = execution_pb2.ExecutionSpec()
    spec.inputs.literals["a"].scalar.primitive.integer = 1
    closure = execution_pb2.ExecutionClosure(error=core_execution_pb2.ExecutionError(message="é" * 99 + "x"))
    closure.computed_inputs.literals["a"].scalar.primitive.integer = 1
    await rows.execution("e1", phase="FAILED", spec=spec, closure=closure)
    closure.error.message = "x" + "é" * 99
    await rows.execution("e2", phase="FAILED", spec=spec, closure=closure)
    answer = await admin.ListExecutions(listing())
    assert [each.closure.error.message for each in answer.executions] == ["é" * 50, "x" + "é" * 49]
    assert not any(each.spec.HasField("inputs") for each in answer.executions)
    assert not any(each.closure.HasField("computed_inputs") for each in answer.executions)


async def test_archived_executions_are_listed_only_when_their_state_is_asked_for(admin: Any, rows: Any) -> None:
    workflow = await rows.workflow()
    plan = await rows.launch_plan(workflow, state=1)
    await rows.execution("active", launch_plan_id=plan)
    await rows.execution("archived", launch_plan_id=plan, state=1)
    assert await names(admin) == ["active"]
    assert await names(admin, filters="eq(state,1)") == ["archived"]
    assert await names(admin, filters="value_in(execution.state,0;1)") == ["active", "archived"]
    assert await names(admin, filters="eq(launch_plan.state,1)") == ["active"]


async def test_executions_are_found_by_what_they_launched(admin: Any, rows: Any) -> None:
    workflow = await rows.workflow("w1")
    other = await rows.workflow("w2")
    task = await rows.task("t1")
    plan = await rows.launch_plan(workflow, "lp1")
    await rows.execution("by-plan", launch_plan_id=plan, workflow_id=workflow)
    await rows.execution("by-task", launch_plan_id=plan, workflow_id=other, task_id=task, launch_entity="task")
    assert await names(admin, filters="eq(launch_plan.name,lp1)+eq(launch_plan.project,p)") == ["by-plan"]
    assert await names(admin, filters="eq(workflow.name,w2)") == ["by-task"]
    assert await names(admin, filters="eq(task.name,t1)+eq(task.version,v1)") == ["by-task"]
    assert await names(admin, filters="ne(task.name,zzz)") == ["by-task"]
    assert await names(admin, filters="eq(workflow.name,w1)+eq(launch_plan.version,v2)") == []


async def test_tags_belong_to_their_own_execution_and_never_repeat_it(admin: Any, rows: Any) -> None:
    await rows.execution("a", tags=("team=x", "stage=y"))
    await rows.execution("b", tags=("team=y",))
    await rows.execution("b", execution_project="q", tags=("secret",))
    await rows.execution("c")
    assert await names(admin, filters="value_in(execution_tag.key,team;stage)") == ["a", "b"]
    assert await names(admin, filters="eq(execution_tag.key,team)+eq(execution_tag.value,y)") == ["b"]
    assert await names(admin, filters="eq(admin_tag.name,stage)") == ["a"]
    assert await names(admin, filters="eq(admin_tag.name,secret)") == []


async def test_the_filters_of_stock_clients(admin: Any, rows: Any) -> None:
    from datetime import UTC, datetime

    await rows.execution(
        "a", user="alice", mode=1, started_at=datetime(2026, 1, 2, tzinfo=UTC), duration=90 * 10**9, phase="SUCCEEDED"
    )
    await rows.execution("b", user="bob", error_kind="USER", phase="FAILED")
    for filters, expected in {
        "value_in(phase,RUNNING;SUCCEEDED)": ["a"],
        "value_not_in(phase,RUNNING;SUCCEEDED)": ["b"],
        "eq(user,bob)": ["b"],
        "gte(started_at,2026-01-01T00:00:00.000Z)+lt(started_at,2026-01-03T00:00:00Z)": ["a"],
        "gt(duration,89.5)+lte(duration,1m30s)": ["a"],
        "gt(duration,1m30s)": [],
        "eq(mode,1)": ["a"],
        "contains(execution_name,a)": ["a"],
        "not_like(execution_name,a%)": ["b"],
        "eq(execution_name,a)+eq(state,0)": ["a"],
        "eq(error_kind,USER)": ["b"],
        "ne(phase,FAILED)": ["a"],
    }.items():
        assert await names(admin, filters=filters) == expected, filters


async def test_a_pattern_takes_backslashes_as_they_are(admin: Any, rows: Any) -> None:
    await rows.execution("a", cluster="c\\")
    assert await names(admin, filters="contains(cluster,\\)") == ["a"]
    assert await names(admin, filters="not_like(cluster,%\\)") == []


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"limit": 0}, "invalid value for limit"),
        ({"filters": "eq(name,x)"}, "'e.name' is invalid filter"),
        ({"filters": "eq(node_execution.phase,x)"}, "'ne' entity is not allowed in filters"),
        ({"filters": "same(phase,x)"}, "unrecognized filter function: same"),
        ({"filters": "phase=x"}, "invalid value for filters"),
        ({"filters": "gt(duration,soon)"}, "Failed to parse duration [soon]"),
        ({"filters": "eq(execution_name,\x00)"}, "NUL"),
        ({"token": "-1"}, "invalid pagination token -1 for ListExecutions"),
        ({"token": "abc"}, "invalid pagination token abc for ListExecutions"),
        ({"sort_by": common_pb2.Sort(key="createdAt")}, "invalid sort key 'createdAt'"),
        ({"sort_by": common_pb2.Sort(key="spec")}, "invalid sort key 'spec'"),
        ({"sort_by": common_pb2.Sort(key="phase", direction=9)}, "invalid sort direction '9'"),  # type: ignore[arg-type]
    ],
)
async def test_lists_say_what_is_wrong_with_a_request(admin: Any, fields: dict[str, Any], text: str) -> None:
    code, details = await refusal(admin.ListExecutions(listing(**fields)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text in details


async def test_lists_need_a_project_and_a_domain(admin: Any) -> None:
    for request, text in (
        (common_pb2.ResourceListRequest(limit=1), "missing id"),
        (common_pb2.ResourceListRequest(limit=1, id=common_pb2.NamedEntityIdentifier(domain="d")), "missing project"),
        (common_pb2.ResourceListRequest(limit=1, id=common_pb2.NamedEntityIdentifier(project="p")), "missing domain"),
    ):
        for call in (admin.ListExecutions, admin.ListTasks, admin.ListWorkflows, admin.ListLaunchPlans):
            assert await refusal(call(request)) == (grpc.StatusCode.INVALID_ARGUMENT, text)


async def test_nodes_are_listed_by_level(admin: Any, rows: Any, ids: Any) -> None:
    execution = await rows.execution("e1")
    other = await rows.execution("e2")
    await rows.node(execution, "start-node")
    await rows.node(execution, "n0")
    await rows.node(execution, "n0-0-dn0", parent_node_id="n0")
    await rows.node(execution, "hidden", phase="")
    await rows.node(other, "n9")

    async def nodes(**fields: Any) -> list[str]:
        request = node_execution_pb2.NodeExecutionListRequest(
            **{"workflow_execution_id": ids.execution("e1"), "limit": 10} | fields
        )
        return [each.id.node_id for each in (await admin.ListNodeExecutions(request)).node_executions]

    assert await nodes() == ["start-node", "n0"]
    assert await nodes(unique_parent_id="n0") == ["n0-0-dn0"]
    assert await nodes(workflow_execution_id=ids.execution("unknown")) == []
    assert await nodes(filters="value_in(node_id,n0;n9)+eq(execution.phase,RUNNING)") == ["n0"]
    assert await nodes(filters="eq(execution_name,e1)", sort_by=common_pb2.Sort(key="created_at")) == [
        "n0",
        "start-node",
    ]
    code, details = await refusal(nodes(unique_parent_id="nope"))
    assert code is grpc.StatusCode.NOT_FOUND
    assert details.startswith("missing entity of type node execution with identifier")
    for broken in (WorkflowExecutionIdentifier(), WorkflowExecutionIdentifier(project="p")):
        assert await refusal(nodes(workflow_execution_id=broken)) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "missing execution_id",
        )
    assert (await refusal(nodes(limit=0)))[1] == "invalid value for limit"
    assert (await refusal(nodes(token="x")))[1] == "invalid pagination token x for ListNodeExecutions"


async def test_a_node_is_a_parent_by_its_flags_or_for_old_engines_by_its_children(
    admin: Any, rows: Any, ids: Any
) -> None:
    execution = await rows.execution("e1")
    await rows.node(execution, "old", event_version=0, dynamic_workflow_remote_closure_reference="mem://s/x")
    await rows.node(execution, "new")
    await rows.node(execution, "leaf", event_version=0)
    for parent in ("old", "new"):
        await rows.node(execution, f"{parent}-child", parent_node_id=parent)
    listed = await admin.ListNodeExecutions(
        node_execution_pb2.NodeExecutionListRequest(workflow_execution_id=ids.execution("e1"), limit=10)
    )
    flags = {
        each.id.node_id: (each.metadata.is_parent_node, each.metadata.is_dynamic) for each in listed.node_executions
    }
    assert flags == {"old": (True, True), "new": (False, False), "leaf": (False, False)}
    for node_id, expected in flags.items():
        found = await admin.GetNodeExecution(node_execution_pb2.NodeExecutionGetRequest(id=ids.node("e1", node_id)))
        assert (found.metadata.is_parent_node, found.metadata.is_dynamic) == expected


async def test_node_errors_are_cut_in_lists_but_not_in_get(admin: Any, rows: Any, ids: Any) -> None:
    execution = await rows.execution("e1")
    closure = node_execution_pb2.NodeExecutionClosure(error=core_execution_pb2.ExecutionError(message="x" * 500))
    await rows.node(execution, "n0", phase="FAILED", closure=closure, input_uri="mem://s/in")
    listed = await admin.ListNodeExecutions(
        node_execution_pb2.NodeExecutionListRequest(workflow_execution_id=ids.execution("e1"), limit=10)
    )
    assert listed.node_executions[0].closure.error.message == "x" * 100
    found = await admin.GetNodeExecution(node_execution_pb2.NodeExecutionGetRequest(id=ids.node("e1", "n0")))
    assert found.closure == closure
    assert found.id == ids.node("e1", "n0")
    assert found.input_uri == "mem://s/in"
    assert found.metadata.spec_node_id == "n0"


async def test_attempts_are_listed_in_full(admin: Any, rows: Any, ids: Any) -> None:
    execution = await rows.execution("e1")
    task = await rows.task()
    await rows.node(execution, "n0")
    error = task_execution_pb2.TaskExecutionClosure(error=core_execution_pb2.ExecutionError(message="x" * 500))
    await rows.task_execution(execution, "n0", 0, phase="FAILED", closure=error)
    second = await rows.task_execution(execution, "n0", 1)
    await rows.task_execution(execution, "n0", 2, phase="")
    await rows.task_execution(execution, "n1", 0)
    await rows.node(execution, "n0-child", parent_task_execution_id=second)

    async def attempts(**fields: Any) -> list[Any]:
        request = task_execution_pb2.TaskExecutionListRequest(
            **{"node_execution_id": ids.node("e1", "n0"), "limit": 10} | fields
        )
        return list((await admin.ListTaskExecutions(request)).task_executions)

    first, last = await attempts()
    assert first.id == ids.task_execution("e1", "n0", 0)
    assert (first.closure, first.is_parent) == (error, False)
    assert (last.id.retry_attempt, last.is_parent) == (1, True)
    assert [each.id.retry_attempt for each in await attempts(filters="eq(retry_attempt,1)")] == [1]
    assert [each.id.retry_attempt for each in await attempts(filters="eq(task.type,python-task)")] == [0, 1]
    assert [each.id.retry_attempt for each in await attempts(filters="eq(node_execution.phase,SUCCEEDED)")] == [0, 1]
    assert await attempts(filters="eq(execution.phase,FAILED)") == []
    assert await attempts(node_execution_id=ids.node("e1", "nope")) == []
    assert await attempts(node_execution_id=ids.node("nope", "n0")) == []
    assert (await refusal(attempts(node_execution_id=None)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert task


async def test_nodes_made_by_an_attempt_are_listed_below_it(admin: Any, rows: Any, ids: Any) -> None:
    execution = await rows.execution("e1")
    attempt = await rows.task_execution(execution, "n0")
    await rows.node(execution, "made", parent_task_execution_id=attempt)
    await rows.node(execution, "n0")
    key = ids.task_execution("e1", "n0")
    key.task_id.resource_type = ResourceType.UNSPECIFIED  # HTTP paths do not carry it
    request = node_execution_pb2.NodeExecutionForTaskListRequest(task_execution_id=key, limit=10)
    answer = await admin.ListNodeExecutionsForTask(request)
    assert [each.id.node_id for each in answer.node_executions] == ["made"]
    request.task_execution_id.retry_attempt = 5
    assert (await refusal(admin.ListNodeExecutionsForTask(request)))[0] is grpc.StatusCode.NOT_FOUND


async def test_an_attempt_is_found_by_its_whole_key(admin: Any, rows: Any, ids: Any) -> None:
    execution = await rows.execution("e1")
    await rows.task_execution(execution, "n0", 1, input_uri="mem://s/in")
    found = await admin.GetTaskExecution(
        task_execution_pb2.TaskExecutionGetRequest(id=ids.task_execution("e1", "n0", 1))
    )
    assert found.id == ids.task_execution("e1", "n0", 1)
    assert (found.input_uri, found.closure.task_type) == ("mem://s/in", "python-task")
    for wrong in (ids.task_execution("e1", "n0", 0), ids.task_execution("e2", "n0", 1)):
        code, details = await refusal(admin.GetTaskExecution(task_execution_pb2.TaskExecutionGetRequest(id=wrong)))
        assert code is grpc.StatusCode.NOT_FOUND
        assert details.startswith("missing entity of type task execution with identifier")
    wrong = ids.task_execution("e1", "n0", 1)
    wrong.retry_attempt = 2**32 - 1
    assert (await refusal(admin.GetTaskExecution(task_execution_pb2.TaskExecutionGetRequest(id=wrong))))[
        0
    ] is grpc.StatusCode.INVALID_ARGUMENT
    wrong.task_id.resource_type = ResourceType.WORKFLOW
    code, details = await refusal(admin.GetTaskExecution(task_execution_pb2.TaskExecutionGetRequest(id=wrong)))
    assert details.startswith("unexpected resource type workflow for identifier")
