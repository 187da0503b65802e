"""The spans of executions from the outside.  Source: spec/control-plane.md, section 6.9."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from flyteidl.admin.execution_pb2 import WorkflowExecutionGetMetricsRequest
from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier
from flyteidl.core.metrics_pb2 import Span

from aerodrome.admin.managers.metrics import MetricsManager
from aerodrome.stdlib.errors import ResourceExhausted
from aerodrome.stdlib.postgres.testing import ServerForTests

from .serving import DOMAIN, PROJECT, Served, reference, refused, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

_numbers = itertools.count(1)


def task(name: str, *upstream: str) -> dict[str, Any]:
    return {"id": name, "taskNode": {"referenceId": reference("TASK", "t")}, "upstreamNodeIds": list(upstream)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(postgres_server: ServerForTests, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served(postgres_server, tmp_path_factory.mktemp("store")) as made:
        await made.register("chain", [task("a"), task("b", "a")], tasks=["t"])
        below = {"id": reference("WORKFLOW", "below"), "interface": {}, "nodes": [task("x")]}
        branch = {
            "ifElse": {
                "case": {
                    "condition": {
                        "comparison": {
                            "operator": "EQ",
                            "leftValue": {"primitive": {"integer": 1}},
                            "rightValue": {"primitive": {"integer": 1}},
                        }
                    },
                    "thenNode": task("yes"),
                },
                "elseNode": task("no"),
            }
        }
        await made.register(
            "kinds",
            [
                {"id": "sub", "workflowNode": {"subWorkflowRef": reference("WORKFLOW", "below")}},
                {"id": "plan", "workflowNode": {"launchplanRef": reference("LAUNCH_PLAN", "chain")}},
                {"id": "gate", "gateNode": {"sleep": {"duration": "1s"}}},
                {"id": "branch", "branchNode": branch},
            ],
            tasks=[],
            subWorkflows=[below],
        )
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def execution(platform: Served) -> WorkflowExecutionIdentifier:
    return await platform.launch("chain", f"chain-{next(_numbers)}")


async def span_of(platform: Served, execution: WorkflowExecutionIdentifier, depth: int = -1) -> Span:
    request = WorkflowExecutionGetMetricsRequest(id=execution, depth=depth)
    span: Span = (await platform.admin.GetExecutionMetrics(request)).span
    return span


def shape(span: Span) -> Any:
    """What a span is, and what is in it; times as seconds within the first minutes of 2026."""
    times = [
        f"{each.seconds % 3600 // 60:02}:{each.seconds % 60:02}" if each.seconds else ""
        for each in (span.start_time, span.end_time)
    ]
    match span.WhichOneof("id"):
        case "operation_id":
            return (span.operation_id, *times)
        case "node_id":
            name = span.node_id.node_id
        case "task_id":
            name = f"{span.task_id.task_id.name}/{span.task_id.retry_attempt}"
        case _:
            name = span.workflow_id.name.split("-")[0]
    return {f"{name} {times[0]}-{times[1]}": [shape(each) for each in span.spans]}


async def run_chain(platform: Served, execution: WorkflowExecutionIdentifier) -> None:
    """a with two attempts, then b, which never had one."""
    say, task_says = platform.node_event, platform.task_event
    await platform.workflow_event(execution, "RUNNING", "00:01")
    await say(execution, "start-node", "SUCCEEDED", "00:02")
    await say(execution, "a", "QUEUED", "00:03")
    await task_says(execution, "a", "t", 0, "QUEUED", "00:04")
    await task_says(execution, "a", "t", 0, "RUNNING", "00:05")
    await task_says(execution, "a", "t", 0, "FAILED", "00:07")
    await task_says(execution, "a", "t", 1, "QUEUED", "00:09")
    await task_says(execution, "a", "t", 1, "RUNNING", "00:10")
    await say(execution, "a", "RUNNING", "00:10")
    await task_says(execution, "a", "t", 1, "SUCCEEDED", "00:14")
    await say(execution, "a", "SUCCEEDED", "00:15")
    await say(execution, "b", "QUEUED", "00:17")
    await say(execution, "b", "FAILED", "00:20", error={"code": "x", "message": "y"})


FIRST = ("TASK_SETUP", "00:04", "00:05"), ("TASK_RUNTIME", "00:05", "00:07"), ("TASK_TEARDOWN", "00:07", "00:07")
SECOND = ("TASK_SETUP", "00:09", "00:10"), ("TASK_RUNTIME", "00:10", "00:14"), ("TASK_TEARDOWN", "00:14", "00:14")


async def test_a_chain_of_tasks_is_told_level_by_level(
    platform: Served, execution: WorkflowExecutionIdentifier
) -> None:
    await run_chain(platform, execution)
    assert not (await span_of(platform, execution, 0)).spans
    span = await span_of(platform, execution, 1)
    assert span.workflow_id == execution
    setup, a, b = span.spans
    assert setup.operation_id == "WORKFLOW_SETUP"
    assert shape(setup)[2] == "00:02"
    assert shape(a) == {"a 00:03-00:15": [("NODE_TRANSITION", "00:02", "00:03")]}
    assert shape(b) == {"b 00:17-00:20": [("NODE_TRANSITION", "00:15", "00:17")]}
    _, a, b = (await span_of(platform, execution, 2)).spans
    around = [
        ("NODE_TRANSITION", "00:02", "00:03"),
        ("NODE_SETUP", "00:03", "00:04"),
        ("NODE_RESET", "00:07", "00:09"),
        ("NODE_TEARDOWN", "00:14", "00:15"),
    ]
    assert shape(a) == {"a 00:03-00:15": around}
    assert shape(b) == {"b 00:17-00:20": [("NODE_TRANSITION", "00:15", "00:17"), ("NODE_SETUP", "00:17", "00:20")]}
    _, a, _ = (await span_of(platform, execution, 3)).spans
    assert shape(a) == {
        "a 00:03-00:15": [
            around[0],
            around[1],
            {"t/0 00:04-00:07": list(FIRST)},
            around[2],
            {"t/1 00:09-00:14": list(SECOND)},
            around[3],
        ]
    }
    everything = await span_of(platform, execution)
    assert everything == await span_of(platform, execution, 3) == await span_of(platform, execution, 1000)


async def test_the_end_is_teardown(platform: Served, execution: WorkflowExecutionIdentifier) -> None:
    await platform.workflow_event(execution, "RUNNING", "00:01")
    await platform.node_event(execution, "start-node", "SUCCEEDED", "00:02")
    for node, at in (("a", "00:05"), ("b", "00:08"), ("end-node", "00:09")):
        await platform.node_event(execution, node, "QUEUED", at)
        await platform.node_event(execution, node, "SUCCEEDED", at)
    await platform.workflow_event(execution, "SUCCEEDED", "00:11", outputUri="s3://b/o")
    span = await span_of(platform, execution, 1)
    assert [shape(each) for each in span.spans][1:] == [
        {"a 00:05-00:05": [("NODE_TRANSITION", "00:02", "00:05")]},
        {"b 00:08-00:08": [("NODE_TRANSITION", "00:05", "00:08")]},
        ("WORKFLOW_TEARDOWN", "00:08", "00:11"),
    ]


async def test_an_execution_that_has_not_started_is_all_setup(
    platform: Served, execution: WorkflowExecutionIdentifier
) -> None:
    span = await span_of(platform, execution)
    assert [each.operation_id for each in span.spans] == ["WORKFLOW_SETUP"]
    assert (span.spans[0].start_time, span.spans[0].end_time) == (span.start_time, span.end_time)


async def test_nodes_of_every_kind(platform: Served) -> None:
    parent = await platform.launch("kinds", f"kinds-{next(_numbers)}")
    child = await platform.launch("chain", f"chain-{next(_numbers)}")
    say = platform.node_event
    await run_chain(platform, child)
    await platform.workflow_event(parent, "RUNNING", "00:01")
    await say(parent, "start-node", "SUCCEEDED", "00:02")
    await say(parent, "sub", "RUNNING", "00:10", isParent=True)
    await say(parent, "sub/start-node", "SUCCEEDED", "00:11", parent="sub")
    await say(parent, "sub/x", "QUEUED", "00:12", parent="sub")
    await say(parent, "sub/x", "SUCCEEDED", "00:13", parent="sub")
    await say(parent, "sub/end-node", "SUCCEEDED", "00:13", parent="sub")
    await say(parent, "sub", "SUCCEEDED", "00:14", isParent=True)
    launched = {"executionId": {"project": child.project, "domain": child.domain, "name": child.name}}
    await say(parent, "plan", "QUEUED", "00:20")
    await say(parent, "plan", "RUNNING", "00:21", workflowNodeMetadata=launched)
    await say(parent, "gate", "QUEUED", "00:30")
    await say(parent, "gate", "RUNNING", "00:31")
    await say(parent, "gate", "SUCCEEDED", "00:33")
    await say(parent, "branch", "RUNNING", "00:40", isParent=True)
    arm = "branch-yes"  # what the compiler calls it
    await say(parent, "branch/" + arm, "QUEUED", "00:41", parent="branch")
    await say(parent, "branch/" + arm, "SUCCEEDED", "00:42", parent="branch")
    await say(parent, "branch", "SUCCEEDED", "00:43", isParent=True)
    _, sub, plan, gate, branch = (await span_of(platform, parent)).spans
    ready = "NODE_TRANSITION", "00:02"
    assert shape(sub) == {
        "sub 00:10-00:14": [
            (*ready, "00:10"),
            ("NODE_SETUP", "00:10", "00:11"),
            {"sub-x 00:12-00:13": [("NODE_TRANSITION", "00:11", "00:12"), ("NODE_SETUP", "00:12", "00:13")]},
            ("NODE_TEARDOWN", "00:13", "00:14"),
        ]
    }
    assert [each.operation_id for each in plan.spans if each.WhichOneof("id") == "operation_id"][:2] == [
        "NODE_TRANSITION",
        "NODE_SETUP",
    ]
    nested = next(each for each in plan.spans if each.WhichOneof("id") == "workflow_id")
    assert nested == await span_of(platform, child)
    assert shape(gate) == {
        "gate 00:30-00:33": [
            (*ready, "00:30"),
            ("NODE_SETUP", "00:30", "00:31"),
            ("NODE_IDLE", "00:31", "00:33"),
            ("NODE_TEARDOWN", "00:33", "00:33"),
        ]
    }
    assert shape(branch) == {
        "branch 00:40-00:43": [
            (*ready, "00:40"),
            ("NODE_SETUP", "00:40", "00:41"),
            {f"branch-{arm} 00:41-00:42": [("NODE_SETUP", "00:41", "00:42")]},
            ("NODE_TEARDOWN", "00:42", "00:43"),
        ]
    }


async def test_a_dynamic_node_is_told_by_the_workflow_that_it_made(
    platform: Served, execution: WorkflowExecutionIdentifier
) -> None:
    status, found = await platform.ask("GET", f"/api/v1/workflows/{PROJECT}/{DOMAIN}/chain/v1")
    assert status == 200
    say = platform.node_event
    await platform.workflow_event(execution, "RUNNING", "00:01")
    await say(execution, "start-node", "SUCCEEDED", "00:02")
    await say(execution, "a", "QUEUED", "00:03")
    await platform.task_event(execution, "a", "t", 0, "QUEUED", "00:04")
    await platform.task_event(execution, "a", "t", 0, "SUCCEEDED", "00:06")
    made = {"id": reference("WORKFLOW", "chain"), "compiledWorkflow": found["closure"]["compiledWorkflow"]}
    flags: dict[str, Any] = {"isParent": True, "isDynamic": True}
    await say(execution, "a", "DYNAMIC_RUNNING", "00:07", taskNodeMetadata={"dynamicWorkflow": made}, **flags)
    await say(execution, "a/start-node", "SUCCEEDED", "00:08", parent="a")
    await say(execution, "a/a", "QUEUED", "00:09", parent="a")
    await say(execution, "a/a", "SUCCEEDED", "00:10", parent="a")
    await say(execution, "a/b", "QUEUED", "00:11", parent="a")
    await say(execution, "a/b", "SUCCEEDED", "00:12", parent="a")
    await say(execution, "a", "SUCCEEDED", "00:14", **flags)
    _, a = (await span_of(platform, execution)).spans
    assert shape(a) == {
        "a 00:03-00:14": [
            ("NODE_TRANSITION", "00:02", "00:03"),
            ("NODE_SETUP", "00:03", "00:04"),
            {"t/0 00:04-00:06": [("TASK_SETUP", "00:04", "00:06")]},
            ("NODE_RESET", "00:06", "00:08"),
            {"a-a 00:09-00:10": [("NODE_TRANSITION", "00:08", "00:09"), ("NODE_SETUP", "00:09", "00:10")]},
            {"a-b 00:11-00:12": [("NODE_TRANSITION", "00:10", "00:11"), ("NODE_SETUP", "00:11", "00:12")]},
            ("NODE_TEARDOWN", "00:12", "00:14"),
        ]
    }


async def test_nested_nodes_without_a_start_node_begin_with_the_first_of_them(platform: Served) -> None:
    parent = await platform.launch("kinds", f"kinds-{next(_numbers)}")
    say = platform.node_event
    await platform.workflow_event(parent, "RUNNING", "00:01")
    await say(parent, "start-node", "SUCCEEDED", "00:11")  # reported late, after what follows it
    await say(parent, "sub", "RUNNING", "00:10", isParent=True)
    await say(parent, "sub/x", "QUEUED", "00:12", parent="sub")
    await say(parent, "sub/x", "SUCCEEDED", "00:13", parent="sub")
    await say(parent, "sub", "SUCCEEDED", "00:14", isParent=True)
    _, sub = (await span_of(platform, parent)).spans
    assert shape(sub) == {
        "sub 00:10-00:14": [
            ("NODE_TRANSITION", "00:10", "00:10"),
            ("NODE_SETUP", "00:10", "00:12"),
            {"sub-x 00:12-00:13": [("NODE_SETUP", "00:12", "00:13")]},
            ("NODE_TEARDOWN", "00:13", "00:14"),
        ]
    }


async def test_what_cannot_be_told_is_refused(platform: Served, execution: WorkflowExecutionIdentifier) -> None:
    get = platform.admin.GetExecutionMetrics
    assert await refused(get(WorkflowExecutionGetMetricsRequest())) == ("INVALID_ARGUMENT", "missing id")
    half = WorkflowExecutionIdentifier(project="p", domain="d")
    assert await refused(get(WorkflowExecutionGetMetricsRequest(id=half))) == ("INVALID_ARGUMENT", "missing name")
    nowhere = WorkflowExecutionIdentifier(project="p", domain="d", name="nowhere")
    code, text = await refused(get(WorkflowExecutionGetMetricsRequest(id=nowhere, depth=1)))
    assert code == "NOT_FOUND"
    assert text.startswith("missing entity of type execution")
    await run_chain(platform, execution)
    few = MetricsManager(platform.database, platform.storage, max_rows=2)
    with pytest.raises(ResourceExhausted, match="smaller depth"):
        await few.execution_metrics(WorkflowExecutionGetMetricsRequest(id=execution, depth=1))
    assert (await few.execution_metrics(WorkflowExecutionGetMetricsRequest(id=execution))).span.workflow_id == execution


async def test_spans_over_http(platform: Served, execution: WorkflowExecutionIdentifier) -> None:
    await run_chain(platform, execution)
    path = f"/api/v1/metrics/executions/{PROJECT}/{DOMAIN}/{execution.name}"
    status, found = await platform.ask("GET", f"{path}?depth=1")
    assert status == 200
    assert [each.get("operationId", "") for each in found["span"]["spans"]] == ["WORKFLOW_SETUP", "", ""]
    status, found = await platform.ask("GET", path.replace(execution.name, "nowhere"))
    assert (status, found["code"]) == (404, 5)
