"""Whatever a request holds, it is answered or refused with a reason: never a fault of ours."""

from __future__ import annotations

import random
from typing import Any

import grpc
import pytest
from flyteidl.cacheservice import cacheservice_pb2
from flyteidl.datacatalog import datacatalog_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from aerodrome.idl.catalog.v1 import catalog_pb2

from .conftest import World

TEXTS = ("", "d", "v", "p", "t", "a\0b", "..", "/", "x" * 700, "é" * 3000, "\ud7ff\U0010ffff", "d.1.1", "7", " ")
NUMBERS = (0, 1, 2, -1, 50, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63))
OURS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.FAILED_PRECONDITION,
}
DEPTH = 5


def fill(message: Message, dice: random.Random, depth: int = DEPTH) -> None:
    """Give random fields random values, those more often that something depends on."""
    fields: Any = message.DESCRIPTOR.fields
    for field in fields:
        if dice.random() < (0.25 if depth == DEPTH else 0.35):
            continue
        if field.message_type is not None:
            if depth == 0:
                continue
            if field.message_type.GetOptions().map_entry:
                put_entry(getattr(message, field.name), field, dice, depth)
            elif field.is_repeated:
                for _ in range(dice.randrange(3)):
                    fill(getattr(message, field.name).add(), dice, depth - 1)
            else:
                child = getattr(message, field.name)
                child.SetInParent()
                fill(child, dice, depth - 1)
        elif field.is_repeated:
            getattr(message, field.name).extend(value(field, dice) for _ in range(dice.randrange(3)))
        else:
            setattr(message, field.name, value(field, dice))


def put_entry(entries: Any, field: Any, dice: random.Random, depth: int) -> None:
    of = field.message_type.fields_by_name["value"]
    if of.message_type is None:
        entries[dice.choice(TEXTS)] = value(of, dice)
    else:
        fill(entries[dice.choice(TEXTS)], dice, depth - 1)


def value(field: Any, dice: random.Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return dice.choice((b"", b"\xff\x00", b"\x0a\x02\x08\x01"))
            return dice.choice(TEXTS[1:4]) if dice.random() < 0.6 else dice.choice(TEXTS)
        case FieldDescriptor.CPPTYPE_BOOL:
            return dice.random() < 0.5
        case FieldDescriptor.CPPTYPE_ENUM:
            return dice.choice((0, 1, 99))
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return dice.choice((0.0, float("nan"), float("inf"), 1e300))
        case FieldDescriptor.CPPTYPE_UINT32:
            return dice.choice([each for each in NUMBERS if 0 <= each < 2**32])
        case FieldDescriptor.CPPTYPE_INT32:
            return dice.choice([each for each in NUMBERS if -(2**31) <= each < 2**31])
        case FieldDescriptor.CPPTYPE_UINT64:
            return dice.choice([each for each in NUMBERS if each >= 0])
        case _:
            return dice.choice([each for each in NUMBERS if each < 2**63])


async def test_random_requests_are_answered_or_refused(world: World) -> None:
    dice = random.Random(20260101)
    services = (
        (world.catalog, datacatalog_pb2.DESCRIPTOR.services_by_name["DataCatalog"], datacatalog_pb2),
        (world.cache, cacheservice_pb2.DESCRIPTOR.services_by_name["CacheService"], cacheservice_pb2),
        (world.understanding, catalog_pb2.DESCRIPTOR.services_by_name["CatalogService"], catalog_pb2),
    )
    await world.make_dataset("d")
    answered = 0
    for stub, service, module in services:
        for method in service.methods:
            for _ in range(40):
                request = getattr(module, method.input_type.name)()
                fill(request, dice)
                try:
                    await getattr(stub, method.name)(request)
                    answered += 1
                except grpc.RpcError as error:
                    refusal: Any = error
                    assert refusal.code() in OURS, f"{method.name}: {refusal.details()}\n{request}"
                    assert refusal.details(), method.name
    assert answered > 50


async def test_more_data_than_an_artifact_may_have_is_refused(world: World) -> None:
    identity = await world.make_dataset()
    with pytest.raises(grpc.RpcError, match="more than 10000"):
        await world.make_artifact(identity, "a", {f"o{number}": "1" for number in range(10_001)})
