"""Which encodings bodies are in, what errors look like in each, and what passes through headers."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from flyteidl.admin import event_pb2, execution_pb2, project_pb2, workflow_pb2
from flyteidl.service import identity_pb2
from google.rpc import status_pb2

from aerodrome.stdlib.errors import OF_KIND, AerodromeError, FailedPrecondition, Kind, NotFound
from aerodrome.stdlib.http import STATUS_OF_KIND

PROTOBUF = "application/octet-stream"
PATH = "/api/v1/executions/p/d/n"


@pytest.fixture
def execution(platform: Any) -> Any:
    found = execution_pb2.Execution()
    found.closure.workflow_id.name = "wf"
    found.closure.created_at.FromJsonString("2020-01-31T12:00:00.5Z")
    platform.admin.answers["GetExecution"] = found
    return found


async def test_binary_goes_both_ways(platform: Any, execution: Any) -> None:
    status, body, headers = await platform.send("GET", PATH, headers={"Accept": PROTOBUF})
    assert (status, headers["Content-Type"]) == (200, PROTOBUF)
    assert execution_pb2.Execution.FromString(body) == execution
    cause = execution_pb2.ExecutionTerminateRequest(cause="enough").SerializeToString()
    await platform.send("DELETE", PATH, body=cause, headers={"Accept": PROTOBUF, "Content-Type": PROTOBUF})
    assert (platform.admin.request.cause, platform.admin.request.id.name) == ("enough", "n")
    project = project_pb2.ProjectRegisterRequest(project=project_pb2.Project(id="x"))
    status, body, _ = await platform.send(
        "POST", "/api/v1/projects", body=project.SerializeToString(), headers={"Content-Type": PROTOBUF}
    )
    assert (status, body) == (200, b"")
    assert platform.admin.request == project


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({}, "workflowId"),
        ({"Accept": "*/*"}, "workflowId"),
        ({"Accept": "application/json; charset=utf-8"}, "workflowId"),
        ({"Accept": "application/json, text/plain"}, "workflowId"),
        ({"Accept": "application/json"}, "workflow_id"),
        ({"Content-Type": "application/json"}, "workflow_id"),
        ({"Accept": "*/*", "Content-Type": "application/json"}, "workflow_id"),
        ({"Content-Type": "application/json; charset=utf-8"}, "workflowId"),
    ],
)
async def test_names_in_json_follow_the_exact_headers(
    platform: Any, execution: Any, headers: dict[str, str], name: str
) -> None:
    status, body, answered = await platform.send("GET", PATH, headers=headers)
    assert (status, answered["Content-Type"]) == (200, "application/json")
    closure = json.loads(body)["closure"]
    assert closure[name]["name"] == "wf"
    assert closure["phase"] == "UNDEFINED"
    assert closure["notifications"] == []
    assert closure["duration"] is None
    assert not {"error", "outputs", "abort_cause", "abortCause"} & closure.keys()


async def test_a_response_goes_as_binary_as_the_request_came(platform: Any, execution: Any) -> None:
    _, _, headers = await platform.send("GET", PATH, headers={"Content-Type": PROTOBUF})
    assert headers["Content-Type"] == PROTOBUF


async def test_only_exact_json_refuses_unknown_fields(platform: Any) -> None:
    body = '{"project": {"id": "x", "surprise": 1}}'
    status, text, _ = await platform.send(
        "POST", "/api/v1/projects", body=body, headers={"Content-Type": "application/json"}
    )
    assert status == 400
    assert "surprise" in text.decode()
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/json; charset=utf-8"}):
        status, _, _ = await platform.send("POST", "/api/v1/projects", body=body, headers=headers)
        assert (status, platform.admin.request.project.id) == (200, "x")


async def test_json_requests_take_both_namings(platform: Any) -> None:
    for body in ('{"spec": {"launch_plan": {"name": "x"}}}', '{"spec": {"launchPlan": {"name": "x"}}}'):
        for headers in ({}, {"Content-Type": "application/json"}):
            await platform.send("POST", "/api/v1/executions", body=body, headers=headers)
            assert platform.admin.request.spec.launch_plan.name == "x"


@pytest.mark.parametrize("encoding", [PROTOBUF, "application/json", "*/*"])
@pytest.mark.parametrize("kind", list(Kind), ids=lambda each: each.name)
async def test_each_kind_of_error_has_its_status_and_code(platform: Any, kind: Kind, encoding: str) -> None:
    platform.admin.answers["GetExecution"] = OF_KIND.get(kind, AerodromeError)("what went wrong é")
    status, body, headers = await platform.send("GET", PATH, headers={"Accept": encoding})
    assert status == STATUS_OF_KIND[kind]
    code = 13 if kind is Kind.UNKNOWN else kind.value
    if encoding == PROTOBUF:
        found = status_pb2.Status.FromString(body)
        assert (found.code, found.message, headers["Content-Type"]) == (code, "what went wrong é", PROTOBUF)
    else:
        assert json.loads(body) == {"code": code, "message": "what went wrong é", "details": []}
    assert ("WWW-Authenticate" in headers) == (kind is Kind.UNAUTHENTICATED)


async def test_details_travel_with_errors(platform: Any) -> None:
    reason = event_pb2.EventFailureReason(
        already_in_terminal_state=event_pb2.EventErrorAlreadyInTerminalState(current_phase="SUCCEEDED")
    )
    platform.admin.answers["TerminateExecution"] = FailedPrecondition("it is over", [reason])
    status, body, _ = await platform.send("DELETE", PATH)
    assert (status, json.loads(body)["details"]) == (
        400,
        [
            {
                "@type": "type.googleapis.com/flyteidl.admin.EventFailureReason",
                "alreadyInTerminalState": {"currentPhase": "SUCCEEDED"},
            }
        ],
    )
    _, body, _ = await platform.send("DELETE", PATH, headers={"Accept": PROTOBUF})
    found = event_pb2.EventFailureReason()
    assert status_pb2.Status.FromString(body).details[0].Unpack(found)
    assert found == reason


def first_text(data: bytes) -> str:
    """Field 1 as the stock console reads it: as a string, whatever the wire type; other fields are skipped by it."""
    found, at = "", 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = varint()
        if tag >> 3 == 1:
            size = varint()
            assert at + size <= len(data)
            found = data[at : at + size].decode(errors="replace")
            at += size
        elif tag & 7 == 2:
            size = varint()
            at += size
        else:
            assert tag & 7 == 0
            varint()
    return found


@pytest.mark.parametrize("kind", [kind for kind in OF_KIND if kind is not Kind.CANCELLED], ids=lambda each: each.name)
async def test_the_stock_console_finds_the_message_of_a_binary_error(platform: Any, kind: Kind) -> None:
    text = "missing name é" * 200
    platform.admin.answers["GetExecution"] = OF_KIND[kind](text, [project_pb2.Project(id="x")])
    _, body, _ = await platform.send("GET", PATH, headers={"Accept": PROTOBUF})
    assert first_text(body) == text


async def test_binary_errors_of_the_gateway_itself_are_binary(platform: Any) -> None:
    for verb, path, code in (
        ("GET", "/api/v1/nowhere", 5),
        ("POST", PATH, 12),
        ("GET", "/api/v1/tasks/p/d?limit=x", 3),
    ):
        _, body, _ = await platform.send(verb, path, headers={"Accept": PROTOBUF})
        assert status_pb2.Status.FromString(body).code == code


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"\xff\xff", PROTOBUF),
        (b"\xff", "application/json"),
        (b"[]", "application/json"),
        (b"null", "application/json"),
        (b"{", "application/json"),
        (b'{"project": 1}', "application/json"),
        (b'{"project": {"id": "\xed\xa0\x80"}}', "application/json"),
        (b'{"project": {"id": "\\ud800"}}', "application/json"),
        (b'{"project": {"state": 1e400}}', "application/json"),
        (b'{"project": {"state": ' + b"9" * 5_000 + b"}}", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b'{"a":' * 50_000, "text/plain"),
    ],
)
async def test_a_body_that_cannot_be_read_is_the_clients_fault(platform: Any, body: bytes, content_type: str) -> None:
    status, text, _ = await platform.send(
        "POST", "/api/v1/projects", body=body, headers={"Content-Type": content_type, "Accept": "application/json"}
    )
    assert (status, json.loads(text)["code"]) == (400, 3)
    assert not platform.admin.calls


async def test_a_body_over_the_limit_is_refused_before_it_is_read(platform: Any) -> None:
    status, text, _ = await platform.send("POST", "/api/v1/projects", body=b" " * (5 * 1024 * 1024))
    assert (status, json.loads(text)["code"]) == (413, 8)


async def test_large_messages_take_the_same_form_elsewhere(platform: Any) -> None:
    workflow = workflow_pb2.Workflow()
    for index in range(1_000):
        workflow.closure.compiled_workflow.primary.template.nodes.add(id=f"n{index}").metadata.name = "x" * 100
    platform.admin.answers["GetWorkflow"] = workflow
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    ticking = asyncio.create_task(tick())
    _, body, _ = await platform.send("GET", "/api/v1/workflows/p/d/n/v")
    ticking.cancel()
    nodes = json.loads(body)["closure"]["compiledWorkflow"]["primary"]["template"]["nodes"]
    assert [node["id"] for node in nodes] == [f"n{index}" for index in range(1_000)]
    assert ticks > 3
    inputs = ",".join(f'"k{index}": {{"scalar": {{"primitive": {{"integer": "{index}"}}}}}}' for index in range(1_000))
    status, _, _ = await platform.send("POST", "/api/v1/executions", body=f'{{"inputs": {{"literals": {{{inputs}}}}}}}')
    assert status == 200
    assert platform.admin.request.inputs.literals["k999"].scalar.primitive.integer == 999
    status, text, _ = await platform.send(
        "POST", "/api/v1/executions", body='{"inputs": 1, "x": "' + "y" * 50_000 + '"}'
    )
    assert (status, json.loads(text)["code"]) == (400, 3)


async def test_headers_become_metadata(platform: Any) -> None:
    await platform.send(
        "GET",
        PATH,
        headers={
            "Authorization": "Bearer x",
            "X-Request-Id": "r-1",
            "Cookie": "a=b",
            "Grpc-Metadata-Flyte-Authorization": "Bearer y",
            "Grpc-Metadata-Some-Bin": base64.b64encode(b"\x00\x01").decode(),
            "Grpc-Metadata-X-Request-Id": "forged",
            "X-Forwarded-Host": "flyte.example",
            "X-Forwarded-For": "10.0.0.1",
            "X-Other": "kept out",
        },
    )
    found = platform.admin.metadata
    assert found["authorization"] == found["grpcgateway-authorization"] == "Bearer x"
    assert found["x-request-id"] == "r-1"
    assert found["grpcgateway-cookie"] == "a=b"
    assert found["flyte-authorization"] == "Bearer y"
    assert found["some-bin"] == b"\x00\x01"
    assert found["x-forwarded-host"] == "flyte.example"
    assert found["x-forwarded-for"] == "10.0.0.1, 127.0.0.1"
    assert "x-other" not in found


async def test_metadata_of_the_answer_becomes_headers(platform: Any) -> None:
    platform.admin.initial = (("x-cluster", "east\nwest"),)
    _, _, headers = await platform.send("GET", PATH, headers={"X-Request-Id": "r-2"})
    assert headers["Grpc-Metadata-X-Cluster"] == "east?west"
    assert headers["X-Request-Id"] == "r-2"


async def test_who_the_user_is_stands_in_headers_too(platform: Any) -> None:
    info = identity_pb2.UserInfoResponse(subject="u1", name="N")
    info.additional_claims.update({"team_name": "a", "roles": ["x", "y"]})
    platform.identity.answers["UserInfo"] = info
    status, body, headers = await platform.send("GET", "/me", headers={"Accept": "application/json"})
    assert (status, json.loads(body)["subject"]) == (200, "u1")
    assert headers["X-User-Subject"] == "u1"
    assert headers["X-User-Claim-team-name"] == '"a"'
    assert json.loads(headers["X-User-Claim-roles"]) == ["x", "y"]


async def test_a_call_ends_when_its_client_said(platform: Any) -> None:
    async def never(_: Any) -> None:
        await asyncio.get_running_loop().create_future()

    platform.admin.answers["GetExecution"] = never
    for timeout in ("20m", "0S"):
        status, body, _ = await platform.send("GET", PATH, headers={"Grpc-Timeout": timeout})
        assert (status, json.loads(body)["code"]) == (504, 4)
    status, _, _ = await platform.send("GET", PATH, headers={"Grpc-Timeout": "soon"})
    assert status == 400


async def test_a_defect_is_answered_without_its_text(platform: Any) -> None:
    async def broken(_: Any) -> None:
        raise RuntimeError("a secret of the server")

    platform.admin.answers["GetExecution"] = broken
    status, body, _ = await platform.send("GET", PATH)
    assert (status, json.loads(body)["code"]) == (500, 13)
    assert b"secret" not in body


async def test_large_answers_are_compressed_for_those_who_take_it(platform: Any) -> None:
    platform.admin.answers["GetExecution"] = NotFound("x" * 20_000)
    _, plain, headers = await platform.send("GET", PATH, headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in headers
    _, body, headers = await platform.send("GET", PATH, headers={"Accept-Encoding": "gzip"})
    assert (headers["Content-Encoding"], headers["Vary"]) == ("gzip", "Accept-Encoding")
    assert body == plain
    assert int(headers["Content-Length"]) < 1_000


async def test_the_document_describes_each_binding(platform: Any) -> None:
    status, body, headers = await platform.send("GET", "/api/v1/openapi")
    document = json.loads(body)
    assert (status, headers["Content-Type"], document["openapi"]) == (200, "application/json", "3.0.3")
    terminate = document["paths"]["/api/v1/executions/{id.project}/{id.domain}/{id.name}"]["delete"]
    assert terminate["operationId"] == "TerminateExecution"
    assert "requestBody" in terminate
    listing = document["paths"]["/api/v1/executions/{id.project}/{id.domain}"]["get"]
    names = {(each["in"], each["name"]) for each in listing["parameters"]}
    assert {("path", "id.project"), ("query", "limit"), ("query", "sort_by.direction")} <= names
    assert ("query", "id.project") not in names
    text = body.decode()
    for schema in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert schema in document["components"]["schemas"]
