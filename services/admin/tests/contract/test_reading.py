"""What the reading calls give and refuse: spec/control-plane.md, sections 6.1 to 6.8, 6.10 and 6.11."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier

from aerodrome.stdlib.postgres.testing import ServerForTests

from .doors import Row, changed, entity, everywhere, granted, place_of, rows
from .serving import DOMAIN, PROJECT, Served, reference, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

HERE = {"project": PROJECT, "domain": DOMAIN}
LONG = "é" * 80
"""An error whose hundredth byte ends no character."""
NODES = [{"id": name, "taskNode": {"referenceId": reference("TASK", "t")}} for name in ("a", "b")]
FAILURE = {"code": "USER:Broken", "message": f"x{LONG}", "kind": "USER"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(postgres_server: ServerForTests, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served(postgres_server, tmp_path_factory.mktemp("store")) as made:
        await made.register("w", NODES, tasks=["t"])
        await made.register("other", NODES[:1], tasks=["u"])
        await granted(made, "UpdateLaunchPlan", {"id": entity("LAUNCH_PLAN", "w"), "state": "ACTIVE"})
        await _succeed(made, await made.launch("w", "done"))
        await _fail(made, await made.launch("other", "failed"))
        plan = {"launchPlan": entity("LAUNCH_PLAN", "w"), "tags": ["blue", "green"]}
        await granted(made, "CreateExecution", {**HERE, "name": "new", "spec": plan})
        await made.launch("w", "hidden")
        await granted(made, "UpdateExecution", {"id": place_of("hidden"), "state": "EXECUTION_ARCHIVED"})
        task = {"launchPlan": entity("TASK", "t"), "tags": ["red"]}  # which are not kept of single tasks
        await granted(made, "CreateExecution", {**HERE, "name": "single", "spec": task})
        yield made


async def _succeed(made: Served, execution: WorkflowExecutionIdentifier) -> None:
    """a ran a task; b has a node of its own below it."""
    say = made.node_event
    await made.workflow_event(execution, "RUNNING", "00:01")
    await say(execution, "start-node", "SUCCEEDED", "00:02")
    await say(execution, "a", "RUNNING", "00:03")
    await made.task_event(execution, "a", "t", 0, "RUNNING", "00:04")
    await made.task_event(execution, "a", "t", 0, "FAILED", "00:05")
    await made.task_event(execution, "a", "t", 1, "RUNNING", "00:06")
    await made.task_event(execution, "a", "t", 1, "SUCCEEDED", "00:07")
    outputs = {"literals": {"o": {"scalar": {"primitive": {"integer": "7"}}}}}
    await say(
        execution,
        "a",
        "SUCCEEDED",
        "00:08",
        outputData=outputs,
        deckUri=made.storage.join(made.storage.base, "deck.html"),
    )
    await say(execution, "b", "RUNNING", "00:09", isParent=True)
    await say(execution, "b/0/c", "RUNNING", "00:10", parent="b")
    await say(execution, "b/0/c", "FAILED", "00:11", parent="b", error=FAILURE)
    await say(execution, "b", "SUCCEEDED", "00:12")
    await say(execution, "end-node", "SUCCEEDED", "00:13")
    await made.workflow_event(execution, "SUCCEEDED", "00:21", outputData=outputs)


async def _fail(made: Served, execution: WorkflowExecutionIdentifier) -> None:
    await made.workflow_event(execution, "RUNNING", "10:01")
    await made.workflow_event(execution, "FAILED", "10:04", error=FAILURE)


def at_node(execution: str, node: str) -> dict[str, Any]:
    return {"executionId": place_of(execution), "nodeId": node}


def at_attempt(execution: str, node: str, number: int = 0, **task: Any) -> dict[str, Any]:
    return {
        "taskId": entity("TASK", "t") | task,
        "nodeExecutionId": at_node(execution, node),
        "retryAttempt": number,
    }


LISTS: dict[str, tuple[dict[str, Any], str]] = {
    "ListTasks": ({"id": HERE}, "ListTasks"),
    "ListTaskIds": (HERE, "ListUniqueTaskIdentifiers"),
    "ListWorkflows": ({"id": HERE}, "ListWorkflows"),
    "ListWorkflowIds": (HERE, "ListWorkflowIdentifiers"),
    "ListLaunchPlans": ({"id": HERE}, "ListLaunchPlans"),
    "ListLaunchPlanIds": (HERE, ""),
    "ListActiveLaunchPlans": (HERE, "ListActiveLaunchPlans"),
    "ListExecutions": ({"id": HERE}, "ListExecutions"),
    "ListNodeExecutions": ({"workflowExecutionId": place_of("done")}, "ListNodeExecutions"),
    "ListNodeExecutionsForTask": ({"taskExecutionId": at_attempt("done", "a")}, "ListNodeExecutions"),
    "ListTaskExecutions": ({"nodeExecutionId": at_node("done", "a")}, "ListTaskExecutions"),
    "ListNamedEntities": ({"resourceType": "TASK", **HERE}, "ListNamedEntities"),
    "ListDescriptionEntities": ({"resourceType": "TASK", "id": place_of("t")}, "ListWorkflows"),
    "ListSignals": ({"workflowExecutionId": place_of("done")}, "ListSignals"),
    "ListProjects": ({}, "ListProjects"),
}
"""What each list cannot do without, and how its errors call it."""
IDENTIFIER_LISTS = ("ListTaskIds", "ListWorkflowIds", "ListLaunchPlanIds")


# 6.1 to 6.3


@rows(
    [
        Row(rpc, request, "missing and/or invalid parameters: limit" if rpc == "ListLaunchPlanIds"
            else "invalid value for limit")
        for rpc, (request, _) in LISTS.items()
        if rpc != "ListProjects"
    ],
    [
        Row(rpc, request | {"limit": 5, "token": token},
            f"invalid pagination token {token}" + (f" for {name}" if name else "") + "…")
        for rpc, (request, name) in LISTS.items()
        for token in ("next", "-1", "1.5")
    ],
    [
        Row(rpc, request | {"limit": 5, "sortBy": {"key": key}}, f"invalid sort key '{key}'")
        for rpc, (request, _) in LISTS.items()
        for key in ("createdAt", "nothing")
    ],
)  # fmt: skip
async def test_a_page_is_asked_for_as_the_contract_says(platform: Served, row: Row) -> None:
    await row.check(platform)


FILTERED = [rpc for rpc in LISTS if rpc not in (*IDENTIFIER_LISTS, "ListActiveLaunchPlans")]
CODES = {
    "ListTasks": "t", "ListWorkflows": "w", "ListLaunchPlans": "l", "ListExecutions": "e", "ListNodeExecutions": "ne",
    "ListNodeExecutionsForTask": "ne", "ListTaskExecutions": "te", "ListNamedEntities": "nen", "ListProjects": "p",
    "ListSignals": "s",
}  # fmt: skip


@rows(
    [
        Row(rpc, LISTS[rpc][0] | {"limit": 5, "filters": filters}, text)
        for rpc in FILTERED
        for filters, text in (
            ("phase", "invalid value for filters"),
            ("eq(phase)", "invalid value for filters"),
            ("eq(phase,)", "invalid value for filters"),
            ("eq(phase,RUNNING)+", "invalid value for filters"),
            ("like(created_at,x)", "unrecognized filter function: like"),
            ("eq(admin_tag.nothing,x)", "…"),
            ("eq(created_at,yesterday)", "…"),
        )
        if (rpc, filters) != ("ListNamedEntities", "eq(created_at,yesterday)")
    ],
    [
        Row(rpc, LISTS[rpc][0] | {"limit": 5, "filters": "eq(nothing,x)"}, f"'{code}.nothing' is invalid filter")
        for rpc, code in CODES.items()
    ],
    [
        Row(rpc, LISTS[rpc][0] | {"limit": 5, "filters": f"eq({prefix}.name,x)"},
            f"'{code}' entity is not allowed in filters")
        for rpc, prefix, code in (
            ("ListTasks", "workflow", "w"), ("ListWorkflows", "task", "t"), ("ListLaunchPlans", "execution", "e"),
            ("ListExecutions", "node_execution", "ne"), ("ListExecutions", "signal", "s"),
            ("ListNodeExecutions", "task", "t"), ("ListNodeExecutions", "task_execution", "te"),
            ("ListTaskExecutions", "workflow", "w"), ("ListProjects", "execution", "e"),
            ("ListSignals", "execution", "e"), ("ListNamedEntities", "project", "p"),
            ("ListExecutions", "named_entity_metadata", "nem"), ("ListExecutions", "entities", "nen"),
        )
    ],
    Row("ListExecutions", {"id": HERE, "limit": 5, "filters": "eq(name,x)"}, "'e.name' is invalid filter"),
    Row("ListExecutions", {"id": HERE, "limit": 5, "filters": "eq(phase,RUNNING;QUEUED)"}, "eq takes one value…"),
    Row("ListExecutions", {"id": HERE, "limit": 5, "filters": "gt(duration,long)"}, "Failed to parse duration [long]"),
    Row("ListExecutions", {"id": HERE, "limit": 5, "filters": "eq(state,none)"}, "…none…"),
    Row("ListExecutions", {"id": HERE, "limit": 5, "filters": "contains(started_at,2026)"}, "contains…"),
)  # fmt: skip
async def test_a_filter_that_means_nothing_is_refused(platform: Served, row: Row) -> None:
    await row.check(platform)


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ("", ["done", "failed", "new", "single"]),
        ("eq(state,0)", ["done", "failed", "new", "single"]),
        ("eq(state,1)", ["hidden"]),
        ("gte(state,0)", ["done", "failed", "hidden", "new", "single"]),
        ("eq(phase,SUCCEEDED)", ["done"]),
        ("value_in(phase,SUCCEEDED;FAILED)", ["done", "failed"]),
        ("value_in(phase,FAILED)", ["failed"]),
        ("value_not_in(phase,SUCCEEDED;FAILED)", ["new", "single"]),
        ("ne(phase,SUCCEEDED)+ne(execution_name,new)", ["failed", "single"]),
        ("gte(started_at,2026-01-01T00:00:01Z)+lt(started_at,2026-01-01T00:00:02.5Z)", ["done"]),
        ("gt(started_at,2026-01-01T00:00:01.000Z)", ["failed"]),
        ("gt(duration,3)", ["done"]),
        ("lte(duration,3s)", ["failed"]),
        ("gte(duration,2.5)+lt(duration,1h)", ["done", "failed"]),
        ("eq(mode,0)", ["done", "failed", "new", "single"]),
        ("eq(error_kind,USER)", ["failed"]),
        ("contains(error_code,Broken)", ["failed"]),
        ("contains(execution_name,e)+not_like(execution_name,n%)", ["done", "failed", "single"]),
        (f"eq(launch_plan.name,w)+eq(launch_plan.project,{PROJECT})+eq(launch_plan.domain,{DOMAIN})", ["done", "new"]),
        ("eq(launch_plan.name,w)+eq(launch_plan.version,v2)", []),
        ("eq(launch_plan.state,1)", ["done", "new"]),
        ("eq(workflow.name,other)", ["failed"]),
        ("eq(task.name,t)", ["single"]),
        ("eq(launch_entity,task)", ["single"]),
        ("value_in(execution_tag.key,blue;green)", ["new"]),
        ("eq(admin_tag.name,blue)", ["new"]),
        ("eq(admin_tag.name,red)", []),
    ],
)
async def test_the_filters_of_stock_clients_find_executions(
    platform: Served, filters: str, found: Sequence[str]
) -> None:
    request = {
        "id": HERE,
        "limit": 100,
        "filters": filters,
        "sortBy": {"key": "execution_name", "direction": "ASCENDING"},
    }
    listed = await everywhere(platform, "ListExecutions", request)
    assert [each.id.name for each in listed.executions] == found
    assert listed.token == ""


@pytest.mark.parametrize(
    ("rpc", "more", "filters", "found"),
    [
        ("ListNodeExecutions", {}, "", ["a", "b", "end-node", "start-node"]),
        ("ListNodeExecutions", {"uniqueParentId": "b"}, "", ["b-0-c"]),
        ("ListNodeExecutions", {}, "value_in(node_id,a;b-0-c)", ["a"]),
        ("ListNodeExecutions", {}, "eq(phase,SUCCEEDED)+ne(node_id,a)", ["b", "end-node", "start-node"]),
        ("ListNodeExecutions", {}, "eq(execution.phase,FAILED)", []),
        ("ListNodeExecutions", {"workflowExecutionId": place_of("nobody")}, "", []),
        ("ListTaskExecutions", {}, "", [0, 1]),
        ("ListTaskExecutions", {}, "eq(retry_attempt,1)", [1]),
        ("ListTaskExecutions", {}, "eq(phase,FAILED)+eq(task.name,t)", [0]),
        ("ListTaskExecutions", {"nodeExecutionId": at_node("done", "nobody")}, "", []),
        ("ListNodeExecutionsForTask", {}, "", []),
        ("ListSignals", {}, "", []),
    ],
)
async def test_nodes_and_attempts_are_found(
    platform: Served, rpc: str, more: dict[str, Any], filters: str, found: Sequence[Any]
) -> None:
    key = "retry_attempt" if rpc == "ListTaskExecutions" else "signal_id" if rpc == "ListSignals" else "node_id"
    order = {"sortBy": {"key": key, "direction": "ASCENDING"}}
    listed = await everywhere(platform, rpc, LISTS[rpc][0] | {"limit": 100, "filters": filters} | order | more)
    if rpc == "ListTaskExecutions":
        assert [each.id.retry_attempt for each in listed.task_executions] == found
    elif rpc == "ListSignals":
        assert not listed.signals
    else:
        assert [each.id.node_id for each in listed.node_executions] == found


@pytest.mark.parametrize(
    ("rpc", "field"),
    [
        ("ListTasks", "tasks"), ("ListTaskIds", "entities"), ("ListWorkflows", "workflows"),
        ("ListWorkflowIds", "entities"), ("ListLaunchPlans", "launch_plans"), ("ListLaunchPlanIds", "entities"),
        ("ListExecutions", "executions"), ("ListNodeExecutions", "node_executions"),
        ("ListTaskExecutions", "task_executions"), ("ListNamedEntities", "entities"), ("ListProjects", "projects"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("direction", ["ASCENDING", "DESCENDING", ""])
async def test_pages_follow_each_other_until_one_is_not_full(
    platform: Served, rpc: str, field: str, direction: str
) -> None:
    keys = {"ListProjects": "identifier", "ListExecutions": "execution_name", "ListNodeExecutions": "node_id"}
    key = keys.get(rpc, "retry_attempt" if rpc == "ListTaskExecutions" else "name")
    request = LISTS[rpc][0] | ({"sortBy": {"key": key, "direction": direction}} if direction else {})
    whole = list(getattr(await everywhere(platform, rpc, request | {"limit": 100}), field))
    named = [_name_of(rpc, each) for each in whole]
    if direction:
        assert named == sorted(named, reverse=direction == "DESCENDING")
    one_by_one, token = [], ""
    for _ in whole:
        page = await everywhere(platform, rpc, request | {"limit": 1, "token": token})
        one_by_one += getattr(page, field)
        token = page.token
        assert token
    assert one_by_one == whole
    last = await everywhere(platform, rpc, request | {"limit": 1, "token": token})
    assert not getattr(last, field)
    assert last.token == ""
    by_offset = await everywhere(platform, rpc, request | {"limit": 100, "token": "1"})  # as scripts compute it
    assert list(getattr(by_offset, field)) == whole[1:]


def _name_of(rpc: str, listed: Any) -> Any:
    match rpc:
        case "ListProjects":
            return listed.id
        case "ListNodeExecutions":
            return listed.id.node_id
        case "ListTaskExecutions":
            return listed.id.retry_attempt
        case _:
            return listed.name if rpc in IDENTIFIER_LISTS else listed.id.name


async def test_lists_of_names_take_no_filters(platform: Served) -> None:
    for rpc in IDENTIFIER_LISTS:
        request = LISTS[rpc][0] | {"limit": 100}
        assert await everywhere(platform, rpc, request | {"filters": "nonsense"}) == await everywhere(
            platform, rpc, request
        )


# 6.5 to 6.8


def incomplete(rpc: str, at: str, *, node: bool = False) -> list[Row]:
    """An execution's key, or a node's, that lacks something."""
    execution = f"{at}.executionId" if node else at
    whole: dict[str, Any] = {at: at_node("done", "a") if node else place_of("done")}
    lacking = [
        Row(rpc, changed(whole, (f"{execution}.{field}", "")), f"missing {field}")
        for field in ("project", "domain", "name")
    ]
    return [Row(rpc, {}, "missing id"), *lacking]


@rows(
    *(incomplete(rpc, "id") for rpc in ("GetExecution", "GetExecutionData", "UpdateExecution", "GetExecutionMetrics")),
    [
        Row(rpc, {"id": place_of("nobody")}, "missing entity of type execution with identifier …", "NOT_FOUND")
        for rpc in ("GetExecution", "GetExecutionData", "UpdateExecution", "GetExecutionMetrics")
    ],
    [
        Row(rpc, {"id": at_node(execution, node)}, "missing entity of type node execution with identifier …",
            "NOT_FOUND")
        for rpc in ("GetNodeExecution", "GetNodeExecutionData", "GetDynamicNodeWorkflow")
        for execution, node in (("done", "nobody"), ("nobody", "a"))
    ],
    Row("GetDynamicNodeWorkflow", {"id": at_node("done", "a")}, "node does not contain dynamic workflow", "NOT_FOUND"),
    [
        Row(rpc, {name: value}, text)
        for rpc, name in (("GetTaskExecution", "id"), ("GetTaskExecutionData", "id"),
                          ("ListNodeExecutionsForTask", "taskExecutionId"))
        for value, text in (
            ({}, "missing id"),
            ({"taskId": entity("TASK", "t")}, "missing node_execution_id"),
            ({"taskId": entity("TASK", "t"), "nodeExecutionId": {"nodeId": "a"}}, "missing execution_id"),
            ({"taskId": entity("TASK", "t"), "nodeExecutionId": {"executionId": place_of("done")}}, "missing node_id"),
            ({"nodeExecutionId": at_node("done", "a")}, "missing task_id"),
            (at_attempt("done", "a", resourceType="WORKFLOW"),
             "unexpected resource type workflow for identifier […], expected task instead"),
            (at_attempt("done", "a", version=""), "missing version"),
        )
    ],
    [
        Row(rpc, {name: value, "limit": 5}, "missing entity of type task execution with identifier …", "NOT_FOUND")
        for rpc, name in (("ListNodeExecutionsForTask", "taskExecutionId"),)
        for value in (at_attempt("done", "a", 2), at_attempt("done", "b"), at_attempt("done", "a", version="v2"))
    ],
    [
        Row(rpc, {"id": value}, "missing entity of type task execution with identifier …", "NOT_FOUND")
        for rpc in ("GetTaskExecution", "GetTaskExecutionData")
        for value in (at_attempt("done", "a", 2), at_attempt("done", "b"), at_attempt("done", "a", version="v2"))
    ],
    [
        Row("ListNodeExecutions", {"workflowExecutionId": place_of("done") | {field: ""}, "limit": 5},
            "missing execution_id")
        for field in ("project", "domain", "name")
    ],
    Row("ListNodeExecutions", {"limit": 5}, "missing execution_id"),
    Row("ListNodeExecutions", {"workflowExecutionId": place_of("done"), "limit": 5, "uniqueParentId": "nobody"},
        "missing entity of type node execution with identifier …", "NOT_FOUND"),
    Row("ListTaskExecutions", {"limit": 5}, "missing id"),
    Row("ListTaskExecutions", {"limit": 5, "nodeExecutionId": {"nodeId": "a"}}, "missing execution_id"),
    Row("ListTaskExecutions", {"limit": 5, "nodeExecutionId": {"executionId": place_of("done")}}, "missing node_id"),
    [
        Row(rpc, {"limit": 5, "id": {"domain": DOMAIN}}, "missing project")
        for rpc in ("ListTasks", "ListWorkflows", "ListLaunchPlans", "ListExecutions")
    ],
    [
        Row(rpc, {"limit": 5, "id": {"project": PROJECT}}, "missing domain")
        for rpc in ("ListTasks", "ListWorkflows", "ListLaunchPlans", "ListExecutions")
    ],
    [
        Row(rpc, {"limit": 5, "domain": DOMAIN}, "missing project")
        for rpc in ("ListTaskIds", "ListWorkflowIds", "ListActiveLaunchPlans")
    ],
    [
        Row(rpc, {"limit": 5, "project": PROJECT}, "missing domain")
        for rpc in ("ListTaskIds", "ListWorkflowIds", "ListActiveLaunchPlans")
    ],
    Row("ListNamedEntities", {"limit": 5, **HERE}, "invalid value for resource_type"),
    Row("ListDescriptionEntities", {"limit": 5, "id": HERE}, "invalid value for resource_type"),
    Row("ListDescriptionEntities", {"limit": 5, "resourceType": "TASK"}, "missing id"),
    Row("ListDescriptionEntities", {"limit": 5, "resourceType": "TASK", "id": HERE}, "missing name"),
    Row("GetDescriptionEntity", {"id": entity("WORKFLOW", "w")}, "…", "NOT_FOUND"),
    Row("GetDescriptionEntity", {"id": entity("TASK", "t", version="")}, "missing version"),
)  # fmt: skip
async def test_a_key_is_complete_and_leads_somewhere(platform: Served, row: Row) -> None:
    await row.check(platform)


async def test_errors_are_cut_in_lists_of_executions_and_nodes_only(platform: Served) -> None:
    cut = f"x{'é' * 49}"
    listed = await everywhere(
        platform, "ListExecutions", {"id": place_of("failed"), "limit": 5}
    )  # the name in the identifier is an equality
    (one,) = listed.executions
    assert one.closure.error.message == cut
    whole = await everywhere(platform, "GetExecution", {"id": place_of("failed")})
    assert whole.closure.error.message == FAILURE["message"]
    nodes = await everywhere(
        platform, "ListNodeExecutions", {"workflowExecutionId": place_of("done"), "limit": 5, "uniqueParentId": "b"}
    )
    assert nodes.node_executions[0].closure.error.message == cut
    node = await everywhere(platform, "GetNodeExecution", {"id": at_node("done", "b-0-c")})
    assert node.closure.error.message == FAILURE["message"]


async def test_archiving_is_a_flag_only(platform: Served) -> None:
    found = await everywhere(platform, "GetExecution", {"id": place_of("hidden")})
    assert found.closure.state_change_details.state == 1
    assert found.closure.state_change_details.HasField("occurred_at")
    await granted(platform, "UpdateExecution", {"id": place_of("hidden"), "state": "EXECUTION_ACTIVE"})
    found = await everywhere(platform, "GetExecution", {"id": place_of("hidden")})
    assert found.closure.state_change_details.state == 0
    await granted(platform, "UpdateExecution", {"id": place_of("hidden"), "state": "EXECUTION_ARCHIVED"})


async def test_data_of_executions_nodes_and_attempts(platform: Served) -> None:
    for rpc, key in (("GetExecutionData", place_of("done")), ("GetNodeExecutionData", at_node("done", "a"))):
        found = await everywhere(platform, rpc, {"id": key})
        assert found.full_outputs.literals["o"].scalar.primitive.integer == 7
        assert found.HasField("full_inputs")
        assert found.HasField("inputs")
        assert found.HasField("outputs")
        assert not found.inputs.url
    prefix = f"flyte://v1/{PROJECT}/{DOMAIN}/done"
    assert (found.flyte_urls.inputs, found.flyte_urls.outputs, found.flyte_urls.deck) == (
        f"{prefix}/a/i", f"{prefix}/a/o", f"{prefix}/a/d",
    )  # fmt: skip
    assert not found.HasField("dynamic_workflow")
    no_deck = await everywhere(platform, "GetNodeExecutionData", {"id": at_node("done", "b")})
    assert no_deck.flyte_urls.deck == ""
    attempt = await everywhere(platform, "GetTaskExecutionData", {"id": at_attempt("done", "a", 1)})
    assert (attempt.flyte_urls.inputs, attempt.flyte_urls.outputs, attempt.flyte_urls.deck) == (
        f"{prefix}/a/1/i", f"{prefix}/a/1/o", "",
    )  # fmt: skip
    running = await everywhere(platform, "GetExecutionData", {"id": place_of("new")})
    assert running.HasField("full_outputs")
    assert not running.full_outputs.literals


async def test_outputs_that_cannot_be_read_are_empty(platform: Served) -> None:
    execution = await platform.launch("w", "unreadable")
    await platform.workflow_event(execution, "RUNNING", "20:01")
    await platform.node_event(execution, "a", "RUNNING", "20:02", inputUri=f"{platform.storage.base}/none")
    broken = platform.storage.join(platform.storage.base, "broken.pb")
    await platform.storage.write(broken, b"\xff no protobuf")
    await platform.node_event(execution, "a", "SUCCEEDED", "20:03", outputUri=broken)
    found = await everywhere(platform, "GetNodeExecutionData", {"id": at_node("unreadable", "a")})
    assert found.HasField("full_inputs")
    assert not found.full_inputs.literals
    assert found.HasField("full_outputs")
    assert not found.full_outputs.literals
    await granted(platform, "UpdateExecution", {"id": place_of("unreadable"), "state": "EXECUTION_ARCHIVED"})


async def test_a_dynamic_workflow_is_shown_to_whoever_asks(platform: Served) -> None:
    execution = await platform.launch("w", "dynamic")
    await platform.workflow_event(execution, "RUNNING", "30:01")
    made = {"primary": {"template": {"id": entity("WORKFLOW", "made"), "interface": {}}}}
    dynamic = {"id": entity("WORKFLOW", "made"), "compiledWorkflow": made, "dynamicJobSpecUri": "/futures.pb"}
    await platform.node_event(
        execution, "a", "DYNAMIC_RUNNING", "30:02", isDynamic=True, isParent=True,
        taskNodeMetadata={"dynamicWorkflow": dynamic},
    )  # fmt: skip
    found = await everywhere(platform, "GetDynamicNodeWorkflow", {"id": at_node("dynamic", "a")})
    data = await everywhere(platform, "GetNodeExecutionData", {"id": at_node("dynamic", "a")})
    assert found.compiled_workflow == data.dynamic_workflow.compiled_workflow
    assert found.compiled_workflow.primary.template.id.name == "made"
    assert data.dynamic_workflow.id.name == "made"
    assert data.dynamic_workflow.dynamic_job_spec_uri == "/futures.pb"
    await granted(platform, "UpdateExecution", {"id": place_of("dynamic"), "state": "EXECUTION_ARCHIVED"})


# 6.7, 6.10 and 6.11


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ("", ["other", "w"]),
        ("eq(state,0)", ["other"]),
        ("eq(state,1)", ["w"]),
        ("eq(named_entity_metadata.state,1)", ["w"]),
        ("contains(name,the)", ["other"]),
        ("contains(name,t)", [".flytegen.t", "other"]),
        ("eq(description,about w)", ["w"]),
    ],
)
async def test_names_are_listed_once_and_generated_ones_are_hidden(
    platform: Served, filters: str, found: list[str]
) -> None:
    metadata = {"state": "NAMED_ENTITY_ARCHIVED", "description": "about w"}
    await granted(
        platform, "UpdateNamedEntity", {"resourceType": "WORKFLOW", "id": place_of("w"), "metadata": metadata}
    )
    order = {"key": "name", "direction": "ASCENDING"}
    request = {"resourceType": "WORKFLOW", **HERE, "limit": 100, "filters": filters, "sortBy": order}
    listed = await everywhere(platform, "ListNamedEntities", request)
    names = [each.id.name for each in listed.entities]
    assert [name if not name.startswith(".flytegen") else ".flytegen.t" for name in names] == found
    single = await everywhere(platform, "ListNamedEntities", request | {"limit": 1})
    assert [each.id.name for each in single.entities] == names[:1]


async def test_the_version_is_one_that_clients_understand(platform: Served) -> None:
    version = (await everywhere(platform, "GetVersion", {})).control_plane_version
    assert version.Version.startswith("v1.16.")
