"""The places where clients depend on exact behaviour: spec/control-plane.md, section 16.3, a test for each line."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import grpc
import msgpack
import pytest
import pytest_asyncio
from flyteidl.admin.event_pb2 import EventFailureReason
from flyteidl.admin.execution_pb2 import Execution, ExecutionList, ExecutionUpdateResponse
from flyteidl.admin.project_pb2 import InactiveProject
from flyteidl.service.auth_pb2 import OAuth2MetadataRequest
from flyteidl.service.auth_pb2_grpc import AuthMetadataServiceStub
from flyteidl.service.identity_pb2 import UserInfoRequest
from flyteidl.service.identity_pb2_grpc import IdentityServiceStub
from google.rpc.status_pb2 import Status

from aerodrome.stdlib.postgres.testing import ServerForTests

from .doors import DOORS, REMOVED, Answer, by_grpc, changed, entity, everywhere, granted, opened, place_of, request_of
from .serving import DOMAIN, PROJECT, Served, instant, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

_numbers = itertools.count(1)

INTEGER, STRING = {"simple": "INTEGER"}, {"simple": "STRING"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(postgres_server: ServerForTests, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served(postgres_server, tmp_path_factory.mktemp("store")) as made:
        await granted(made, "CreateTask", task("t"))
        await granted(made, "CreateWorkflow", workflow("w"))
        await granted(made, "CreateLaunchPlan", plan("w"))
        yield made


def interface(inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    def variables(types: Mapping[str, Any]) -> dict[str, Any]:
        return {"variables": {name: {"type": type_} for name, type_ in types.items()}}

    return {"inputs": variables(inputs), "outputs": variables(outputs or {})}


def literal(value: int | str) -> dict[str, Any]:
    kind = {"integer": str(value)} if isinstance(value, int) else {"stringValue": value}
    return {"scalar": {"primitive": kind}}


def task(name: str, version: str = "v1") -> dict[str, Any]:
    template = {
        "type": "python-task",
        "metadata": {"runtime": {"version": "1"}},
        "interface": interface({"a": INTEGER}, {"o": INTEGER}),
        "container": {"image": "python:3.11", "args": ["run"]},
        "config": {"k": "v", "l": "w", "m": "x"},
    }
    return {"id": entity("TASK", name, version), "spec": {"template": template}}


def node(name: str, **more: Any) -> dict[str, Any]:
    inputs = [{"var": "a", "binding": literal(1)}]
    return {"id": name, "inputs": inputs, "taskNode": {"referenceId": entity("TASK", "t")}} | more


def workflow(name: str, *nodes: dict[str, Any], inputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    outputs = [{"var": "o", "binding": {"promise": {"nodeId": "n0", "var": "o"}}}]
    template = {
        "interface": interface({"x": INTEGER} if inputs is None else inputs, {"o": INTEGER}),
        "nodes": list(nodes) or [node("n0")],
        "outputs": outputs,
    }
    return {"id": entity("WORKFLOW", name), "spec": {"template": template}}


def plan(name: str, of: str = "") -> dict[str, Any]:
    return {"id": entity("LAUNCH_PLAN", name), "spec": {"workflowId": entity("WORKFLOW", of or name)}}


def launch(plan_name: str = "w", name: str = "", **inputs: Any) -> dict[str, Any]:
    return {
        "project": PROJECT,
        "domain": DOMAIN,
        "name": name or f"e{next(_numbers)}",
        "spec": {"launchPlan": entity("LAUNCH_PLAN", plan_name)},
        "inputs": {"literals": inputs},
    }


async def launched(platform: Served, **inputs: Any) -> Any:
    """An execution's identifier."""
    return (await granted(platform, "CreateExecution", launch(**(inputs or {"x": literal(1)})))).id


async def refused(platform: Served, rpc: str, value: Mapping[str, Any]) -> Answer:
    """The error of an rpc, which is the same through every door."""
    answers = [answer for door in DOORS if (answer := await door(platform, rpc, request_of(rpc, value))) is not None]
    assert len({(each.code, each.text) for each in answers}) == 1, answers
    assert all(each.details == answers[0].details for each in answers)
    return answers[0]


async def test_1_registering_again_is_already_exists_if_identical_and_invalid_argument_if_not(platform: Served) -> None:
    changes: Sequence[tuple[str, dict[str, Any], tuple[str, Any]]] = (
        ("CreateTask", task("t"), ("spec.template.container.args", ["other"])),
        ("CreateWorkflow", workflow("w"), ("spec.template.nodes.0.inputs", [{"var": "a", "binding": literal(2)}])),
        ("CreateLaunchPlan", plan("w"), ("spec.maxParallelism", 7)),
    )
    for rpc, request, change in changes:
        assert (await refused(platform, rpc, request)).code == "ALREADY_EXISTS"
        assert (await refused(platform, rpc, changed(request, change))).code == "INVALID_ARGUMENT"
    # the order of a map is nothing but how it was written
    written = [
        request_of("CreateTask", {"spec": {"template": {"config": {key: value}}}}).SerializeToString()
        for key, value in task("t")["spec"]["template"]["config"].items()
    ]
    rest = request_of("CreateTask", changed(task("t"), ("spec.template.config", REMOVED))).SerializeToString()
    for order in itertools.permutations(written):
        octets = {"Content-Type": "application/octet-stream"}
        url = f"{platform.url}/api/v1/tasks"
        async with platform.session.post(url, data=b"".join((rest, *order)), headers=octets) as response:
            assert response.status == 409


async def test_2_dependencies_are_registered_first_and_what_is_missing_says_so(platform: Served) -> None:
    names = [f"many{at}" for at in range(6)]

    async def all_of(rpc: str, requests: list[dict[str, Any]]) -> None:
        await asyncio.gather(*(granted(platform, rpc, request) for request in requests))

    await all_of("CreateTask", [task(name) for name in names])
    inner = {"id": entity("WORKFLOW", "inner"), **workflow("inner")["spec"]["template"]}
    outer = [
        changed(
            workflow(
                name,
                node("n0"),
                node("n1", taskNode={"referenceId": entity("TASK", name)}),
                {
                    "id": "n2",
                    "inputs": [{"var": "x", "binding": literal(1)}],
                    "workflowNode": {"subWorkflowRef": entity("WORKFLOW", "inner")},
                },
                {
                    "id": "n3",
                    "inputs": [{"var": "x", "binding": literal(1)}],
                    "workflowNode": {"launchplanRef": entity("LAUNCH_PLAN", "w")},
                },
            ),
            ("spec.subWorkflows", [inner]),
        )
        for name in names
    ]
    await all_of("CreateWorkflow", outer)
    await all_of("CreateLaunchPlan", [plan(name) for name in names])
    for missing in (
        {"taskNode": {"referenceId": entity("TASK", "nothing")}},
        {"workflowNode": {"launchplanRef": entity("LAUNCH_PLAN", "nothing")}},
        {"workflowNode": {"subWorkflowRef": entity("WORKFLOW", "nothing")}},
    ):
        lacking = workflow("lacking", node("n0"), {"id": "n1", **missing})
        answer = await refused(platform, "CreateWorkflow", lacking)
        assert answer.code == "INVALID_ARGUMENT"
        assert "nothing" in answer.text
    assert (await refused(platform, "CreateLaunchPlan", plan("p", "nothing"))).code == "NOT_FOUND"


async def test_3_a_used_name_already_exists_and_wrong_inputs_are_named(platform: Served) -> None:
    used = launch(x=literal(1))
    await granted(platform, "CreateExecution", used)
    assert (await refused(platform, "CreateExecution", used)).code == "ALREADY_EXISTS"
    given: Sequence[tuple[dict[str, Any], str]] = (
        ({}, "x"),
        ({"x": literal("text")}, "x"),
        ({"x": literal(1), "surplus": literal(1)}, "surplus"),
    )
    for inputs, name in given:
        answer = await refused(platform, "CreateExecution", launch(**inputs))
        assert answer.code == "INVALID_ARGUMENT"
        assert name in answer.text.split()


STRUCT = {"simple": "STRUCT"}
UNION: dict[str, Any] = {"unionType": {"variants": [
    STRING | {"structure": {"tag": "str"}}, {"simple": "NONE", "structure": {"tag": "none"}},
]}}  # fmt: skip
NESTED = {"collectionType": {"mapValueType": {"collectionType": INTEGER}}}
FRAME = {"structuredDatasetType": {"format": "parquet"}}


def chosen(value: dict[str, Any], type_: dict[str, Any]) -> dict[str, Any]:
    return {"scalar": {"union": {"value": value, "type": type_}}}


def listed(*values: dict[str, Any]) -> dict[str, Any]:
    return {"collection": {"literals": list(values)}}


PACKED = b64encode(msgpack.packb({"a": 1, "b": [1.5]})).decode()
INPUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "enum": ({"enumType": {"values": ["red", "green"]}}, literal("red")),
    "dataclass": (STRUCT, {"scalar": {"binary": {"value": PACKED, "tag": "msgpack"}}}),
    "generic": (STRUCT, {"scalar": {"generic": {"a": 1}}}),
    "optional, given": (UNION, chosen(literal("x"), UNION["unionType"]["variants"][0])),
    "optional, not given": (UNION, chosen({"scalar": {"noneType": {}}}, UNION["unionType"]["variants"][1])),
    "bare variant of a union": (UNION, literal("x")),
    "nested": (NESTED, listed({"map": {"literals": {"k": listed(literal(1), literal(2))}}})),
    "empty list": ({"collectionType": STRING}, listed()),
    "empty list of lists": (NESTED, listed()),
    "list of empty maps": (NESTED, listed({"map": {}})),
    "offloaded": (
        {"collectionType": INTEGER},
        {"offloadedMetadata": {
            "uri": "s3://bucket/key", "sizeBytes": "20000000", "inferredType": {"collectionType": INTEGER},
        }},
    ),
    "dataframe": (FRAME, {"scalar": {"structuredDataset": {
        "uri": "s3://bucket/frame", "metadata": {"structuredDatasetType": FRAME["structuredDatasetType"]},
    }}}),
    "datetime": ({"simple": "DATETIME"}, {"scalar": {"primitive": {"datetime": "2026-01-01T00:00:00Z"}}}),
    "duration": ({"simple": "DURATION"}, {"scalar": {"primitive": {"duration": "3.5s"}}}),
    "nothing": ({"simple": "NONE"}, {"scalar": {"noneType": {}}}),
}  # fmt: skip


@pytest.mark.parametrize("kind", INPUTS)
async def test_4_inputs_of_every_kind_pass_the_type_checks(platform: Served, kind: str) -> None:
    type_, value = INPUTS[kind]
    name = f"typed{next(_numbers)}"
    await granted(platform, "CreateWorkflow", workflow(name, inputs={"it": type_}))
    await granted(platform, "CreateLaunchPlan", plan(name))
    made = await granted(platform, "CreateExecution", launch(name, it=value))
    data = await everywhere(platform, "GetExecutionData", {"id": place_of(made.id.name)})
    assert (
        data.full_inputs.literals["it"] == request_of("CreateExecution", launch(name, it=value)).inputs.literals["it"]
    )
    again = await granted(platform, "RelaunchExecution", {"id": place_of(made.id.name)})
    assert again.id.name != made.id.name


async def test_5_an_execution_is_complete_from_the_start(platform: Served) -> None:
    for door in DOORS:
        request = launch(x=literal(1))
        made = await granted(platform, "CreateExecution", request, door)
        found = await everywhere(platform, "GetExecution", {"id": place_of(made.id.name)})
        assert found.id == made.id
        assert found.closure.phase == 0
        workflow_id = request_of("GetWorkflow", {"id": entity("WORKFLOW", "w")}).id
        assert found.closure.workflow_id == workflow_id
        assert found.spec.launch_plan == request_of("CreateExecution", request).spec.launch_plan
        assert found.spec.metadata.system_metadata.namespace == f"{PROJECT}-{DOMAIN}"


async def test_6_the_sync_loop_of_flytekit_finds_what_it_reads(platform: Served) -> None:
    execution = await launched(platform)
    child = await launched(platform)
    key = place_of(execution.name)
    before = await everywhere(platform, "GetExecutionData", {"id": key})
    assert before.HasField("full_outputs")
    assert not before.full_outputs.literals
    say = platform.node_event
    await platform.workflow_event(execution, "RUNNING", "00:01")
    await say(execution, "start-node", "SUCCEEDED", "00:01")
    await say(execution, "n0", "RUNNING", "00:02", isParent=True)
    for at in range(3):
        inner = f"n0-{at}"
        await say(execution, f"n0/{at}", "RUNNING", "00:03", parent="n0", specNodeId=f"n0-n{at}")
        await platform.task_event(execution, inner, "t", 0, "RUNNING", "00:03")
    await say(execution, "n1", "RUNNING", "00:03", isArray=True)
    await say(execution, "n2", "RUNNING", "00:03", workflowNodeMetadata={"executionId": place_of(child.name)})
    await say(execution, "n2", "FAILING", "00:04", workflowNodeMetadata={"executionId": place_of(child.name)})
    compiled = {"primary": {"template": {"id": entity("WORKFLOW", "made"), "interface": {}}}}
    dynamic = {"dynamicWorkflow": {"id": entity("WORKFLOW", "made"), "compiledWorkflow": compiled}}
    await say(execution, "n3", "DYNAMIC_RUNNING", "00:03", isDynamic=True, isParent=True, taskNodeMetadata=dynamic)
    cached = {"cacheStatus": "CACHE_HIT", "catalogKey": {"datasetId": entity("DATASET", "d")}}
    await say(execution, "n4", "SUCCEEDED", "00:03", taskNodeMetadata=cached)

    async def nodes(**more: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        token = ""
        while True:
            request = {
                "workflowExecutionId": key, "limit": 2, "token": token,
                "sortBy": {"key": "created_at", "direction": "ASCENDING"}, **more,
            }  # fmt: skip
            page = await everywhere(platform, "ListNodeExecutions", request)
            found |= {each.id.node_id: each for each in page.node_executions}
            token = page.token
            if not token:
                return found

    top = await nodes()
    assert list(top) == ["start-node", "n0", "n1", "n2", "n3", "n4"]
    assert top["n0"].metadata.is_parent_node
    assert top["n1"].metadata.is_array
    assert top["n3"].metadata.is_dynamic
    assert top["n2"].closure.workflow_node_metadata.executionId == child
    assert top["n4"].closure.task_node_metadata.cache_status == 2
    below = await nodes(uniqueParentId="n0")
    assert [each.metadata.spec_node_id for each in below.values()] == ["n0-n0", "n0-n1", "n0-n2"]
    tasks = await everywhere(
        platform, "ListTaskExecutions", {"nodeExecutionId": {"executionId": key, "nodeId": "n0-1"}, "limit": 100}
    )
    assert [each.id.task_id.name for each in tasks.task_executions] == ["t"]
    data = await everywhere(platform, "GetNodeExecutionData", {"id": {"executionId": key, "nodeId": "n3"}})
    assert data.dynamic_workflow.compiled_workflow.primary.template.id.name == "made"
    plain = await everywhere(platform, "GetNodeExecutionData", {"id": {"executionId": key, "nodeId": "n0"}})
    assert not plain.HasField("dynamic_workflow")
    for rpc, kind, name in (
        ("GetTask", "TASK", "t"),
        ("GetWorkflow", "WORKFLOW", "w"),
        ("GetLaunchPlan", "LAUNCH_PLAN", "w"),
    ):
        assert (await everywhere(platform, rpc, {"id": entity(kind, name)})).id.name == name


def event_of(what: str, execution: Any, phase: str) -> tuple[str, dict[str, Any]]:
    """An rpc that reports, and its request."""
    key = place_of(execution.name)
    common = {"phase": phase, "occurredAt": instant("00:09")}
    at_node = {"executionId": key, "nodeId": "n0"}
    match what:
        case "workflow":
            return "CreateWorkflowEvent", {"event": {"executionId": key, **common}}
        case "node":
            return "CreateNodeEvent", {"event": {"id": at_node, **common}}
        case _:
            return "CreateTaskEvent", {
                "event": {"taskId": entity("TASK", "t"), "parentNodeExecutionId": at_node, **common}
            }


async def run(platform: Served, execution: Any) -> None:
    """From beginning to end, with one node and one attempt."""
    await platform.workflow_event(execution, "RUNNING", "00:01")
    await platform.node_event(execution, "n0", "QUEUED", "00:02")
    await platform.node_event(execution, "n0", "RUNNING", "00:03")
    await platform.task_event(execution, "n0", "t", 0, "QUEUED", "00:04")
    await platform.task_event(execution, "n0", "t", 0, "RUNNING", "00:05")
    await platform.task_event(execution, "n0", "t", 0, "SUCCEEDED", "00:07")
    await platform.node_event(execution, "n0", "SUCCEEDED", "00:08")
    await platform.workflow_event(execution, "SUCCEEDED", "00:11")


@pytest.mark.parametrize("what", ["workflow", "node", "task"])
async def test_7_events_that_repeat_or_come_late_say_so(platform: Served, what: str) -> None:
    execution = await launched(platform)
    await run(platform, execution)
    assert (await refused(platform, *event_of(what, execution, "SUCCEEDED"))).code == "ALREADY_EXISTS"
    late = await refused(platform, *event_of(what, execution, "RUNNING"))
    assert late.code == "FAILED_PRECONDITION"
    (detail,) = late.details
    assert isinstance(detail, EventFailureReason)
    assert detail.WhichOneof("reason") == "already_in_terminal_state"


async def test_8_times_are_those_of_the_events(platform: Served) -> None:
    execution = await launched(platform)
    await run(platform, execution)
    key = place_of(execution.name)
    node_key = {"executionId": key, "nodeId": "n0"}
    attempt = {"taskId": entity("TASK", "t"), "nodeExecutionId": node_key}
    for rpc, id_, seconds in (
        ("GetExecution", key, (1, 11)), ("GetNodeExecution", node_key, (3, 8)), ("GetTaskExecution", attempt, (5, 7)),
    ):  # fmt: skip
        closure = (await everywhere(platform, rpc, {"id": id_})).closure
        began, ended = seconds
        assert closure.started_at.ToJsonString() == f"2026-01-01T00:00:{began:02}Z"
        assert closure.updated_at.ToJsonString() == f"2026-01-01T00:00:{ended:02}Z"
        assert closure.duration.ToTimedelta().total_seconds() == ended - began
        if rpc != "GetExecution":  # an execution is created by the server's own clock
            assert closure.created_at.ToNanoseconds() <= closure.started_at.ToNanoseconds()


async def test_9_an_abort_is_seen_at_once_and_its_cause_stays(platform: Served) -> None:
    for door in DOORS:
        execution = await launched(platform)
        await platform.workflow_event(execution, "RUNNING", "00:01")
        key = {"id": place_of(execution.name)}
        await granted(platform, "TerminateExecution", key | {"cause": "my cause"}, door)
        found = await everywhere(platform, "GetExecution", key)
        assert (found.closure.phase, found.closure.abort_metadata.cause) == (9, "my cause")
        await platform.workflow_event(execution, "ABORTED", "00:03", error={"code": "x", "message": "of the engine"})
        found = await everywhere(platform, "GetExecution", key)
        assert (found.closure.phase, found.closure.abort_metadata.cause) == (7, "my cause")


async def test_10_uploads_are_put_as_announced(platform: Served) -> None:
    content = b"distribution"
    md5 = hashlib.md5(content, usedforsecurity=False).digest()
    upload = {"project": PROJECT, "domain": DOMAIN, "filename": "fast.tar.gz", "contentMd5": b64encode(md5).decode()}
    for where in (upload, upload | {"filenameRoot": "root"}):
        for _ in range(2):  # the same file may be put again
            made = await granted(platform, "CreateUploadLocation", where)
            sent = {**made.headers, "Content-Length": str(len(content))}
            async with platform.session.put(made.signed_url, data=content, headers=sent) as response:
                assert response.status == 200
            assert await platform.storage.read(made.native_url) == content
    other = b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()
    answer = await refused(platform, "CreateUploadLocation", upload | {"filenameRoot": "root", "contentMd5": other})
    assert answer.code == "ALREADY_EXISTS"


async def test_11_everything_goes_over_http_in_protobuf(platform: Served) -> None:
    names = [(await launched(platform)).name for _ in range(3)]
    octets = {"Accept": "application/octet-stream", "Content-Type": "application/octet-stream"}

    async def ask(verb: str, path: str, body: Any = None, **query: str) -> tuple[int, bytes]:
        url = f"{platform.url}/api/v1/{path}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")
        data = None if body is None else body.SerializeToString()
        async with platform.session.request(verb, url, data=data, headers=octets) as response:
            assert response.content_type == "application/octet-stream"
            return response.status, await response.read()

    question = {
        "limit": "2", "sort_by.key": "created_at", "sort_by.direction": "DESCENDING",
        "filters": f"value_in(execution_name,{';'.join(names)})+eq(phase,UNDEFINED)",
    }  # fmt: skip
    status, body = await ask("GET", f"executions/{PROJECT}/{DOMAIN}", **question)
    first = ExecutionList.FromString(body)
    _, body = await ask("GET", f"executions/{PROJECT}/{DOMAIN}", **question, token=first.token)
    second = ExecutionList.FromString(body)
    assert status == 200
    assert [each.id.name for page in (first, second) for each in page.executions] == names[::-1]
    made = launch(x=literal(1))
    assert (await ask("POST", "executions", request_of("CreateExecution", made)))[0] == 200
    path = f"executions/{PROJECT}/{DOMAIN}/{made['name']}"
    state = request_of("UpdateExecution", {"state": "EXECUTION_ARCHIVED"})
    assert await ask("PUT", path, state) == (200, ExecutionUpdateResponse().SerializeToString())
    cause = request_of("TerminateExecution", {"cause": "of the console"})
    assert (await ask("DELETE", path, cause))[0] == 200
    found = Execution.FromString((await ask("GET", path))[1])
    assert found.closure.abort_metadata.cause == "of the console"
    assert found.closure.state_change_details.state == 1
    status, body = await ask("GET", f"executions/{PROJECT}/{DOMAIN}/nobody")
    error = Status.FromString(body)
    assert (status, error.code) == (404, grpc.StatusCode.NOT_FOUND.value[0])
    assert "missing entity of type execution" in error.message
    await run(
        platform,
        (await by_grpc(platform, "GetExecution", request_of("GetExecution", {"id": place_of(names[0])}))).message.id,
    )
    status, body = await ask("DELETE", f"executions/{PROJECT}/{DOMAIN}/{names[0]}", cause)
    assert status == 400
    (detail,) = opened(Status.FromString(body))
    assert detail == EventFailureReason(already_in_terminal_state={"current_phase": "SUCCEEDED"})


async def test_12_without_identity_nobody_is_asked_who_they_are(platform: Served) -> None:
    """The rest of this line is for when there is identity: then UNAUTHENTICATED makes clients ask for its metadata."""
    channel = platform.channel
    for call in (
        AuthMetadataServiceStub(channel).GetOAuth2Metadata(OAuth2MetadataRequest()),
        IdentityServiceStub(channel).UserInfo(UserInfoRequest()),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    for path in ("/me", "/.well-known/oauth-authorization-server", "/config/v1/flyte_client"):
        async with platform.session.get(platform.url + path) as response:
            assert response.status in (404, 501)
    expired = (("flyte-authorization", "Bearer expired"), ("authorization", "Bearer expired"))
    assert await platform.admin.GetVersion(request_of("GetVersion"), metadata=expired)


async def test_13_generated_names_are_hidden_and_single_tasks_show_their_task(platform: Served) -> None:
    made: dict[str, Any] = {"project": PROJECT, "domain": DOMAIN, "spec": {"launchPlan": entity("TASK", "t")}}
    inputs = {"literals": {"a": literal(1)}}
    single = (await granted(platform, "CreateExecution", made | {"inputs": inputs})).id
    for kind in ("WORKFLOW", "LAUNCH_PLAN"):
        request = {"resourceType": kind, "project": PROJECT, "domain": DOMAIN, "limit": 1_000}
        shown = await everywhere(platform, "ListNamedEntities", request)
        assert not [each for each in shown.entities if each.id.name.startswith(".flytegen")]
        hidden = await everywhere(platform, "ListNamedEntities", request | {"filters": "contains(name,.flytegen)"})
        assert hidden.entities
        active = await everywhere(platform, "ListNamedEntities", request | {"filters": "eq(state,0)"})
        assert not [each for each in active.entities if each.id.name.startswith(".flytegen")]
    found = await everywhere(platform, "GetExecution", {"id": place_of(single.name)})
    assert found.spec.launch_plan == request_of("GetTask", {"id": entity("TASK", "t")}).id
    question = {"id": place_of(), "limit": 10, "filters": "eq(launch_entity,task)"}
    of_tasks = await everywhere(platform, "ListExecutions", question)
    assert [each.id.name for each in of_tasks.executions] == [single.name]


async def test_14_an_inactive_project_is_named_in_a_detail(platform: Served) -> None:
    await granted(platform, "RegisterProject", {"project": {"id": "old", "name": "old", "state": "ARCHIVED"}})
    for rpc, request in (
        ("CreateTask", changed(task("x"), ("id.project", "old"))),
        ("CreateWorkflow", changed(workflow("x"), ("id.project", "old"))),
        ("CreateLaunchPlan", changed(plan("x", "w"), ("id.project", "old"))),
        ("CreateExecution", changed(launch(x=literal(1)), ("project", "old"))),
    ):
        answer = await refused(platform, rpc, request)
        assert answer.code == "INVALID_ARGUMENT"
        assert answer.details == (InactiveProject(id="old"),)


async def test_15_a_tick_that_is_sent_again_launches_nothing(platform: Served) -> None:
    """How the names come about is tried where the scheduler is."""
    tick = launch(name="f5ba3a1ba4a1e6a2f000", x=literal(1))
    tick["spec"]["metadata"] = {"mode": "SCHEDULED", "scheduledAt": "2026-01-01T00:00:00Z"}
    answers = await asyncio.gather(
        *(by_grpc(platform, "CreateExecution", request_of("CreateExecution", tick)) for _ in range(5))
    )
    assert sorted(each.code for each in answers) == ["ALREADY_EXISTS"] * 4 + ["OK"]
    request = {"id": place_of(), "limit": 10, "filters": "eq(mode,1)"}
    assert [each.id.name for each in (await everywhere(platform, "ListExecutions", request)).executions] == [
        tick["name"]
    ]
