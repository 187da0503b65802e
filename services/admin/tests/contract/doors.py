"""Every rpc through every door: gRPC, and HTTP with JSON and with protobuf; and rows that say how it has to answer.

`ROUTES` is the table of spec/control-plane.md, section 15, written down by hand: the gateway derives its own from the
descriptors.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

import aiohttp
import grpc
import pytest
from flyteidl.service import admin_pb2, dataproxy_pb2, signal_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import MessageToDict, MessageToJson, Parse, ParseDict
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc_status import rpc_status

from .serving import DOMAIN, PROJECT, Served

ENTITY = "{id.project}/{id.domain}/{id.name}/{id.version}"
EXECUTION = "{id.project}/{id.domain}/{id.name}"
IN_EXECUTION = "{id.execution_id.project}/{id.execution_id.domain}/{id.execution_id.name}"
OF_EXECUTION = "{workflow_execution_id.project}/{workflow_execution_id.domain}/{workflow_execution_id.name}"
PLACE = "{project}/{domain}"


def attempt(at: str) -> str:
    """The path to the attempt that the field `at` of a request names."""
    node = f"{at}.node_execution_id"
    execution = f"{node}.execution_id"
    task = "/".join(f"{{{at}.task_id.{field}}}" for field in ("project", "domain", "name", "version"))
    return (
        f"{{{execution}.project}}/{{{execution}.domain}}/{{{execution}.name}}/{{{node}.node_id}}/{task}"
        f"/{{{at}.retry_attempt}}"
    )


ATTEMPT = attempt("id")
NODE_OF_ATTEMPT = (
    "{node_execution_id.execution_id.project}/{node_execution_id.execution_id.domain}/"
    "{node_execution_id.execution_id.name}/{node_execution_id.node_id}"
)

ROUTES: Final[Mapping[str, tuple[str, ...]]] = {
    "CreateTask": ("POST tasks",),
    "GetTask": (f"GET tasks/{ENTITY}",),
    "ListTaskIds": (f"GET task_ids/{PLACE}",),
    "ListTasks": (f"GET tasks/{EXECUTION}", "GET tasks/{id.project}/{id.domain}"),
    "CreateWorkflow": ("POST workflows",),
    "GetWorkflow": (f"GET workflows/{ENTITY}",),
    "ListWorkflowIds": (f"GET workflow_ids/{PLACE}",),
    "ListWorkflows": (f"GET workflows/{EXECUTION}", "GET workflows/{id.project}/{id.domain}"),
    "CreateLaunchPlan": ("POST launch_plans",),
    "GetLaunchPlan": (f"GET launch_plans/{ENTITY}",),
    "GetActiveLaunchPlan": (f"GET active_launch_plans/{EXECUTION}",),
    "ListActiveLaunchPlans": (f"GET active_launch_plans/{PLACE}",),
    "ListLaunchPlanIds": (f"GET launch_plan_ids/{PLACE}",),
    "ListLaunchPlans": (f"GET launch_plans/{EXECUTION}", "GET launch_plans/{id.project}/{id.domain}"),
    "UpdateLaunchPlan": (f"PUT launch_plans/{ENTITY}",),
    "CreateExecution": ("POST executions",),
    "RelaunchExecution": ("POST executions/relaunch",),
    "RecoverExecution": ("POST executions/recover",),
    "GetExecution": (f"GET executions/{EXECUTION}",),
    "UpdateExecution": (f"PUT executions/{EXECUTION}",),
    "GetExecutionData": (f"GET data/executions/{EXECUTION}",),
    "ListExecutions": ("GET executions/{id.project}/{id.domain}",),
    "TerminateExecution": (f"DELETE executions/{EXECUTION}",),
    "GetNodeExecution": (f"GET node_executions/{IN_EXECUTION}/{{id.node_id}}",),
    "GetDynamicNodeWorkflow": (f"GET node_executions/{IN_EXECUTION}/{{id.node_id}}/dynamic_workflow",),
    "ListNodeExecutions": (f"GET node_executions/{OF_EXECUTION}",),
    "ListNodeExecutionsForTask": (f"GET children/task_executions/{attempt('task_execution_id')}",),
    "GetNodeExecutionData": (f"GET data/node_executions/{IN_EXECUTION}/{{id.node_id}}",),
    "RegisterProject": ("POST projects",),
    "UpdateProject": ("PUT projects/{id}",),
    "GetProject": ("GET projects/{id}",),
    "ListProjects": ("GET projects",),
    "GetDomains": ("GET domains",),
    "CreateWorkflowEvent": ("POST events/workflows",),
    "CreateNodeEvent": ("POST events/nodes",),
    "CreateTaskEvent": ("POST events/tasks",),
    "GetTaskExecution": (f"GET task_executions/{ATTEMPT}",),
    "ListTaskExecutions": (f"GET task_executions/{NODE_OF_ATTEMPT}",),
    "GetTaskExecutionData": (f"GET data/task_executions/{ATTEMPT}",),
    "UpdateProjectDomainAttributes": ("PUT project_domain_attributes/{attributes.project}/{attributes.domain}",),
    "GetProjectDomainAttributes": (f"GET project_domain_attributes/{PLACE}",),
    "DeleteProjectDomainAttributes": (f"DELETE project_domain_attributes/{PLACE}",),
    "UpdateProjectAttributes": ("PUT project_attributes/{attributes.project}",),
    "GetProjectAttributes": ("GET project_attributes/{project}",),
    "DeleteProjectAttributes": ("DELETE project_attributes/{project}",),
    "UpdateWorkflowAttributes": (
        "PUT workflow_attributes/{attributes.project}/{attributes.domain}/{attributes.workflow}",
    ),
    "GetWorkflowAttributes": (f"GET workflow_attributes/{PLACE}/{{workflow}}",),
    "DeleteWorkflowAttributes": (f"DELETE workflow_attributes/{PLACE}/{{workflow}}",),
    "ListMatchableAttributes": ("GET matchable_attributes",),
    "ListNamedEntities": (f"GET named_entities/{{resource_type}}/{PLACE}",),
    "GetNamedEntity": (f"GET named_entities/{{resource_type}}/{EXECUTION}",),
    "UpdateNamedEntity": (f"PUT named_entities/{{resource_type}}/{EXECUTION}",),
    "GetVersion": ("GET version",),
    "GetDescriptionEntity": (f"GET description_entities/{{id.resource_type}}/{ENTITY}",),
    "ListDescriptionEntities": (
        f"GET description_entities/{{resource_type}}/{EXECUTION}",
        "GET description_entities/{resource_type}/{id.project}/{id.domain}",
    ),
    "GetExecutionMetrics": (f"GET metrics/executions/{EXECUTION}",),
    "CreateUploadLocation": ("POST dataproxy/artifact_urn",),
    "CreateDownloadLocation": ("GET dataproxy/artifact_urn",),
    "CreateDownloadLink": ("POST dataproxy/artifact_link",),
    "GetData": ("GET data",),
    "GetOrCreateSignal": (),
    "ListSignals": (f"GET signals/{OF_EXECUTION}",),
    "SetSignal": ("POST signals",),
}
METHODS: Final[Mapping[str, MethodDescriptor]] = {
    method.name: method
    for service in (
        admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
        dataproxy_pb2.DESCRIPTOR.services_by_name["DataProxyService"],
        signal_pb2.DESCRIPTOR.services_by_name["SignalService"],
    )
    for method in service.methods
}
STATUS: Final[Mapping[grpc.StatusCode, int]] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
}
"""Section 11.3; what is not here no row expects."""
BINARY, JSON = "application/octet-stream", "application/json"


@dataclass(frozen=True)
class Answer:
    """How a call ended: a message, or the parts of an error."""

    code: str
    message: Any = None
    text: str = ""
    details: tuple[Message, ...] = ()


Door = Callable[[Served, str, Message], Awaitable[Answer | None]]
"""Makes a call; None where its request cannot be said there."""


def request_of(rpc: str, value: Mapping[str, Any] | None = None) -> Any:
    """The request of an rpc, from JSON."""
    return ParseDict(dict(value or {}), message_factory.GetMessageClass(METHODS[rpc].input_type)())


async def by_grpc(platform: Served, rpc: str, request: Message) -> Answer:
    """Over a channel."""
    service = METHODS[rpc].containing_service.name
    stub = {"AdminService": platform.admin, "DataProxyService": platform.data, "SignalService": platform.signals}
    try:
        return Answer("OK", await getattr(stub[service], rpc)(request))
    except grpc.aio.AioRpcError as error:
        status: Any = rpc_status.from_call(error)  # type: ignore[arg-type]
        return Answer(error.code().name, text=error.details() or "", details=() if status is None else opened(status))


async def by_json(platform: Served, rpc: str, request: Message) -> Answer | None:
    """Over HTTP, in JSON as the contract spells it."""
    return await _by_http(platform, rpc, request, JSON)


async def by_protobuf(platform: Served, rpc: str, request: Message) -> Answer | None:
    """Over HTTP, as the console does it."""
    return await _by_http(platform, rpc, request, BINARY)


DOORS: Final[Sequence[Door]] = (by_grpc, by_json, by_protobuf)


async def granted(platform: Served, rpc: str, value: Mapping[str, Any], door: Door = by_grpc) -> Any:
    """The answer of an rpc that must not be refused."""
    answer = await door(platform, rpc, request_of(rpc, value))
    assert answer is not None, rpc
    assert answer.code == "OK", (rpc, answer)
    return answer.message


async def everywhere(platform: Served, rpc: str, value: Mapping[str, Any] | Message) -> Any:
    """The answer of an rpc that changes nothing, which is the same through every door."""
    request = value if isinstance(value, Message) else request_of(rpc, value)
    first = await by_grpc(platform, rpc, request)
    assert first.code == "OK", (rpc, first, request)
    for door in (by_json, by_protobuf):
        answer = await door(platform, rpc, request)
        assert answer is None or answer.code == "OK", (rpc, answer, request)
        assert answer is None or answer.message == first.message, (rpc, door)
    return first.message


async def _by_http(platform: Served, rpc: str, request: Message, encoding: str) -> Answer | None:
    for route in ROUTES[rpc]:
        verb, template = route.split(" ")
        target = _target(template, verb, request)
        if target is None:
            continue
        body = None
        if verb in ("POST", "PUT", "DELETE"):
            body = MessageToJson(request).encode() if encoding == JSON else request.SerializeToString()
        async with platform.session.request(
            verb,
            f"{platform.url}/api/v1/{target}",
            data=body,
            headers={"Accept": encoding, "Content-Type": encoding},
            timeout=aiohttp.ClientTimeout(total=30),
        ) as response:
            said, status = await response.read(), response.status
            assert response.headers["Content-Type"].split(";")[0] == encoding, (route, said)
        if status == 200:
            return Answer("OK", _read(message_factory.GetMessageClass(METHODS[rpc].output_type)(), said, encoding))
        error = _read(status_pb2.Status(), said, encoding)
        code = next(each for each in grpc.StatusCode if each.value[0] == error.code)
        assert STATUS[code] == status, (route, status, error)
        return Answer(code.name, text=error.message, details=opened(error))
    return None


def _target(template: str, verb: str, request: Message) -> str | None:
    """The path and query that say `request`; None if a field that belongs in the path is empty."""
    rest = MessageToDict(request, preserving_proto_field_name=True)
    taken: list[str] = []
    for name in re.findall(r"\{([a-z_.]+)\}", template):
        value: Any = request
        for step in name.split("."):
            field = value.DESCRIPTOR.fields_by_name[step]
            value = getattr(value, step)
        if value == "":
            return None
        if field.enum_type is not None and value in field.enum_type.values_by_number:
            value = field.enum_type.values_by_number[value].name
        template = template.replace(f"{{{name}}}", quote(str(value), safe=""))
        taken.append(name)
    if verb != "GET":
        return template
    query = [(name, value) for name, value in _flat("", rest) if name not in taken]
    return f"{template}?{urlencode(query)}" if query else template


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else name, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _flat(prefix, inner)
    else:
        yield prefix, str(value).lower() if isinstance(value, bool) else str(value)


def _read(message: Any, said: bytes, encoding: str) -> Any:
    if encoding == BINARY:
        message.ParseFromString(said)
        return message
    return Parse(said, message)


def opened(status: Any) -> tuple[Message, ...]:
    """The details of a status."""
    found = []
    for each in status.details:
        kind = each.TypeName()
        detail = message_factory.GetMessageClass(_POOL.FindMessageTypeByName(kind))()
        assert each.Unpack(detail)
        found.append(detail)
    return tuple(found)


_POOL = admin_pb2.DESCRIPTOR.pool


@dataclass(frozen=True)
class Row:
    """A request, and the error that it must end with; `…` in its text stands for anything."""

    rpc: str
    request: Mapping[str, Any]
    text: str
    code: str = "INVALID_ARGUMENT"
    details: tuple[Message, ...] = ()

    async def check(self, platform: Served) -> None:
        """It does, through every door."""
        for door in DOORS:
            answer = await door(platform, self.rpc, request_of(self.rpc, self.request))
            if answer is not None:
                told = f"{door.__name__}: {answer}"
                assert (answer.code, answer.details) == (self.code, self.details), told
                assert re.fullmatch(".*".join(map(re.escape, self.text.split("…"))), answer.text, re.DOTALL), told


def rows(*given: Row | Sequence[Row]) -> Any:
    """Makes a test of each row, named after what it is about."""
    flat = [row for each in given for row in ([each] if isinstance(each, Row) else each)]
    return pytest.mark.parametrize("row", [pytest.param(row, id=f"{row.rpc}: {row.text[:60]}") for row in flat])


REMOVED: Final = object()


def changed(base: Mapping[str, Any], *changes: tuple[str, Any]) -> dict[str, Any]:
    """A copy of a JSON object in which the places of these dotted paths hold something else, or nothing (`REMOVED`)."""
    made = deepcopy(dict(base))
    for path, value in changes:
        *way, last = path.split(".")
        place: Any = made
        for step in way:
            place = place.setdefault(step, {}) if isinstance(place, dict) else place[int(step)]
        if value is REMOVED:
            place.pop(last, None)
        elif isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value
    return made


def entity(kind: str, name: str, version: str = "v1", **other: str) -> dict[str, Any]:
    """An Identifier as JSON."""
    return {
        "resourceType": kind, "project": PROJECT, "domain": DOMAIN, "name": name, "version": version, **other,
    }  # fmt: skip


def place_of(name: str = "", **other: str) -> dict[str, Any]:
    """The key of an execution or a name, as JSON."""
    return {"project": PROJECT, "domain": DOMAIN} | ({"name": name} if name else {}) | other
