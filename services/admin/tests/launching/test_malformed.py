"""Whatever a request holds, the answer says what is wrong with it, and nothing is left behind."""

from __future__ import annotations

import random
from typing import Any

import grpc
import pytest
from flyteidl.admin import common_pb2, execution_pb2, launch_plan_pb2, project_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

TEXTS = (
    "", "a", "v1", "t", "w", "lp", "flytesnacks", "development", "x" * 300, "\x00", "a\x00b", "../../x", "é" * 200,
    "🦆", "{{ project }}", "1", "-1", "1e400", "n0", "start-node", "python-task", "@every 1s", "* * * * *", "\u2028",
    "0x10",
)  # fmt: skip
NUMBERS = (0, 1, 2, 7, 2**31 - 1)
DEFINITE = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
}
COUNTED = ("tasks", "workflows", "launch_plans", "executions", "leases", "execution_tags", "description_entities")


def scramble(message: Message, chance: random.Random, depth: int = 0) -> Message:
    """Fill `message` with whatever its fields may hold."""
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.35 + 0.1 * depth:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value_field = field.message_type.fields_by_name["value"]
            for _ in range(chance.randrange(3)):
                key = chance.choice(TEXTS)
                if value_field.message_type is not None:
                    if depth < 6:
                        scramble(getattr(message, field.name)[key], chance, depth + 1)
                else:
                    getattr(message, field.name)[key] = value_of(value_field, chance)
        elif field.message_type is not None:
            if depth >= 6:
                continue
            if field.is_repeated:
                for _ in range(chance.randrange(3)):
                    scramble(getattr(message, field.name).add(), chance, depth + 1)
            else:
                getattr(message, field.name).SetInParent()
                scramble(getattr(message, field.name), chance, depth + 1)
        elif field.is_repeated:
            getattr(message, field.name).extend(value_of(field, chance) for _ in range(chance.randrange(3)))
        else:
            setattr(message, field.name, value_of(field, chance))
    return message


def value_of(field: Any, chance: random.Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return chance.randbytes(chance.randrange(20))
        case FieldDescriptor.CPPTYPE_STRING:
            return chance.choice(TEXTS)
        case FieldDescriptor.CPPTYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.CPPTYPE_ENUM:
            return chance.choice([*field.enum_type.values_by_number, 77])
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return chance.choice((0.0, 1.5, float("nan"), float("inf")))
        case _:
            return chance.choice(NUMBERS)


def damage(message: Message, chance: random.Random) -> Message:
    """Spoil one to three places of a good `message`."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        place = message
        while chance.random() < 0.75:
            inner = [value for field, value in place.ListFields() for value in messages_in(field, value)]
            if not inner:
                break
            place = chance.choice(inner)
        if chance.random() < 0.5:
            place.Clear()
        scramble(place, chance, depth=2)
    return message


def messages_in(field: FieldDescriptor, value: Any) -> list[Message]:
    if field.message_type is None:
        return []
    if field.message_type.GetOptions().map_entry:
        return [each for each in value.values() if isinstance(each, Message)]
    return list(value) if field.is_repeated else [value]


CALLS = {
    "CreateTask": lambda build, at: build.task_request(version=f"r{at}"),
    "CreateWorkflow": lambda build, at: build.workflow_request(version=f"r{at}"),
    "CreateLaunchPlan": lambda build, at: build.launch_plan_request(version=f"r{at}", default=3),
    "UpdateLaunchPlan": lambda build, at: launch_plan_pb2.LaunchPlanUpdateRequest(
        id=build.identifier("LAUNCH_PLAN", "lp"), state="ACTIVE"
    ),
    "CreateExecution": lambda build, at: build.execution_request(f"e{at}"),
    "RelaunchExecution": lambda build, at: execution_pb2.ExecutionRelaunchRequest(id=build.key("first"), name=f"e{at}"),
    "RecoverExecution": lambda build, at: execution_pb2.ExecutionRecoverRequest(id=build.key("first"), name=f"e{at}"),
    "UpdateExecution": lambda build, at: execution_pb2.ExecutionUpdateRequest(
        id=build.key("first"), state="EXECUTION_ARCHIVED"
    ),
    "RegisterProject": lambda build, at: project_pb2.ProjectRegisterRequest(
        project=project_pb2.Project(id=f"p{at}", name="p")
    ),
    "UpdateProject": lambda build, at: project_pb2.Project(id="spare", name="p"),
    "GetProject": lambda build, at: project_pb2.ProjectGetRequest(id="flytesnacks"),
    "ListProjects": lambda build, at: project_pb2.ProjectListRequest(limit=3, filters="eq(name,p)"),
    "UpdateNamedEntity": lambda build, at: common_pb2.NamedEntityUpdateRequest(
        resource_type="TASK", id=build.name("t"), metadata=common_pb2.NamedEntityMetadata(description="x")
    ),
    "GetNamedEntity": lambda build, at: common_pb2.NamedEntityGetRequest(resource_type="TASK", id=build.name("t")),
    "GetTask": lambda build, at: common_pb2.ObjectGetRequest(id=build.identifier("TASK", "t")),
    "GetWorkflow": lambda build, at: common_pb2.ObjectGetRequest(id=build.identifier("WORKFLOW", "w")),
    "GetLaunchPlan": lambda build, at: common_pb2.ObjectGetRequest(id=build.identifier("LAUNCH_PLAN", "lp")),
    "GetActiveLaunchPlan": lambda build, at: launch_plan_pb2.ActiveLaunchPlanRequest(id=build.name("lp")),
}


@pytest.mark.parametrize("rpc", CALLS)
async def test_no_request_is_answered_with_a_defect(rpc: str, platform: Any, build: Any) -> None:
    stub = platform.stub
    await stub.CreateTask(build.task_request())
    await stub.CreateWorkflow(build.workflow_request())
    await stub.CreateLaunchPlan(build.launch_plan_request())
    await stub.CreateExecution(build.execution_request("first"))
    await stub.RegisterProject(project_pb2.ProjectRegisterRequest(project=project_pb2.Project(id="spare", name="p")))
    chance = random.Random(rpc)
    for at in range(100):
        request = damage(CALLS[rpc](build, at), chance)
        before = await everything_stored(platform)
        code, text = await outcome(getattr(stub, rpc)(request))
        assert code in DEFINITE, (code, text, request)
        if code is not grpc.StatusCode.OK:
            assert text, request
            assert await everything_stored(platform) == before, (text, request)


async def outcome(call: Any) -> tuple[grpc.StatusCode, str]:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


async def everything_stored(platform: Any) -> list[Any]:
    rows = [await platform.database.fetchval(f"SELECT count(*) FROM {table}") for table in COUNTED]
    return [*rows, [reference async for reference, _ in platform.storage.list(platform.storage.base)]]
