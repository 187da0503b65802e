"""Messages as JSON say what the protobuf library reads back, whatever is in them."""

from __future__ import annotations

import importlib
import json
from contextlib import suppress
from typing import Any

import pytest
from flyteidl.admin import execution_pb2, launch_plan_pb2, node_execution_pb2, task_execution_pb2
from flyteidl.core import literals_pb2, workflow_pb2
from google.protobuf import any_pb2, json_format, message_factory, struct_pb2, timestamp_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.admin.gateway import jsonform
from aerodrome.idl.items.v1 import items_pb2
from aerodrome.idl.retention.v1 import retention_pb2
from aerodrome.stdlib.errors import InvalidArgument

KINDS = [
    execution_pb2.Execution,
    execution_pb2.ExecutionCreateRequest,
    node_execution_pb2.NodeExecution,
    task_execution_pb2.TaskExecution,
    launch_plan_pb2.LaunchPlan,
    workflow_pb2.WorkflowTemplate,
    literals_pb2.LiteralMap,
]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
}


def scalar(draw: st.DrawFn, field: Any) -> Any:
    if field.cpp_type in INTEGERS:
        return draw(INTEGERS[field.cpp_type])
    match field.type:
        case FieldDescriptorProto.TYPE_BOOL:
            return draw(st.booleans())
        case FieldDescriptorProto.TYPE_BYTES:
            return draw(st.binary(max_size=6))
        case FieldDescriptorProto.TYPE_ENUM:
            return draw(st.sampled_from([value.number for value in field.enum_type.values]))
        case FieldDescriptorProto.TYPE_DOUBLE:
            return draw(st.floats(allow_nan=False))
        case FieldDescriptorProto.TYPE_FLOAT:
            return draw(st.floats(width=32, allow_nan=False))
    return draw(TEXT)


@st.composite
def messages(draw: st.DrawFn, kind: Any, depth: int = 4) -> Any:
    """A message of `kind` with some of its fields set."""
    message: Any = message_factory.GetMessageClass(kind)()
    match kind.full_name:
        case "google.protobuf.Timestamp":
            message.seconds = draw(st.integers(-62_135_596_800, 253_402_300_799))
            message.nanos = draw(st.sampled_from([0, 1, 1_000, 500_000_000, 999_999_999]))
            return message
        case "google.protobuf.Duration":
            message.seconds = draw(st.integers(-315_576_000_000, 315_576_000_000))
            nanos = draw(st.sampled_from([0, 1, 20_000, 500_000_000]))
            message.nanos = -nanos if message.seconds < 0 else nanos
            return message
        case "google.protobuf.Struct":
            values = st.recursive(
                st.none() | st.booleans() | TEXT | st.floats(allow_nan=False, allow_infinity=False),
                lambda each: st.lists(each, max_size=2) | st.dictionaries(TEXT, each, max_size=2),
                max_leaves=4,
            )
            message.update(draw(st.dictionaries(TEXT, values, max_size=2)))
            return message
        case "google.protobuf.Any":
            message.Pack(draw(messages(workflow_pb2.NodeMetadata.DESCRIPTOR, 1)))
            return message
    fields = list(kind.fields)
    for field in (
        draw(st.lists(st.sampled_from(fields), max_size=5, unique_by=lambda each: each.number)) if fields else []
    ):
        inside: Any = field.message_type
        if inside is not None and depth == 0:
            continue
        if inside is not None and inside.GetOptions().map_entry:
            value = inside.fields_by_name["value"]
            for key in draw(st.lists(TEXT, max_size=2)):
                if value.message_type is not None:
                    getattr(message, field.name)[key].CopyFrom(draw(messages(value.message_type, depth - 1)))
                else:
                    getattr(message, field.name)[key] = scalar(draw, value)
        elif field.is_repeated:
            for _ in range(draw(st.integers(0, 2))):
                target = getattr(message, field.name)
                target.append(draw(messages(inside, depth - 1)) if inside is not None else scalar(draw, field))
        elif inside is not None:
            getattr(message, field.name).CopyFrom(draw(messages(inside, depth - 1)))
        else:
            setattr(message, field.name, scalar(draw, field))
    return message


@given(st.data(), st.sampled_from(KINDS), st.booleans())
def test_what_was_written_is_read_back(data: st.DataObject, kind: Any, camel_case: bool) -> None:
    message = data.draw(messages(kind.DESCRIPTOR))
    text = jsonform.to_json(message, camel_case=camel_case)
    back = kind()
    json_format.Parse(text.decode(), back)
    assert back.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)
    again = kind()
    jsonform.from_json(text, again, ignore_unknown=False)
    assert again == back


@given(st.data(), st.sampled_from(KINDS), st.booleans())
def test_it_is_what_the_library_writes_and_the_nulls(data: st.DataObject, kind: Any, camel_case: bool) -> None:
    message = data.draw(messages(kind.DESCRIPTOR))
    ours = json.loads(jsonform.to_json(message, camel_case=camel_case))
    library = json_format.MessageToDict(
        message, preserving_proto_field_name=not camel_case, always_print_fields_with_no_presence=True
    )

    def compared(mine: Any, theirs: Any) -> None:
        if isinstance(theirs, dict) and isinstance(mine, dict):
            assert theirs.keys() <= mine.keys()
            for key, value in mine.items():
                if key in theirs:
                    compared(value, theirs[key])
                else:
                    assert value is None, key
        elif isinstance(theirs, list):
            assert len(mine) == len(theirs)
            for left, right in zip(mine, theirs, strict=True):
                compared(left, right)
        else:
            assert mine == theirs or (mine is None and theirs is None)

    compared(ours, json.loads(json.dumps(library)))


@given(st.sampled_from(KINDS), st.binary(max_size=40) | TEXT.map(str.encode), st.booleans())
def test_no_text_is_more_than_an_invalid_argument(kind: Any, text: bytes, ignore_unknown: bool) -> None:
    with suppress(InvalidArgument):
        jsonform.from_json(b"{" + text, kind(), ignore_unknown=ignore_unknown)


@pytest.mark.parametrize("value", [1e308, -0.0, 1.5, float("inf"), float("-inf"), float("nan")])
def test_every_number_can_be_written(value: float) -> None:
    primitive = literals_pb2.Primitive(float_value=value)
    back = literals_pb2.Primitive()
    json_format.Parse(jsonform.to_json(primitive, camel_case=False).decode(), back)
    assert str(back) == str(primitive)


@pytest.mark.parametrize("seconds", [-(2**63), -62_135_596_801, 253_402_300_800, 2**63 - 1])
def test_an_instant_outside_of_the_calendar_is_still_shown(seconds: int) -> None:
    text = jsonform.to_json(timestamp_pb2.Timestamp(seconds=seconds), camel_case=False)
    assert json.loads(text) == f"{seconds}s"


def test_the_first_years_have_four_digits() -> None:
    text = jsonform.to_json(timestamp_pb2.Timestamp(seconds=-62_135_596_800), camel_case=False)
    assert json.loads(text) == "0001-01-01T00:00:00Z"


def test_an_enum_value_that_is_not_known_is_its_number() -> None:
    execution: Any = execution_pb2.Execution()
    execution.closure.phase = 99
    assert json.loads(jsonform.to_json(execution, camel_case=False))["closure"]["phase"] == 99


def test_an_any_that_cannot_be_opened_shows_its_bytes() -> None:
    for packed in (
        any_pb2.Any(type_url="type.googleapis.com/unknown.Type", value=b"\x00"),
        any_pb2.Any(type_url="type.googleapis.com/flyteidl.core.Identifier", value=b"\xff"),
    ):
        assert json.loads(jsonform.to_json(packed, camel_case=False)) == {
            "@type": packed.type_url,
            "value": "AA==" if packed.value == b"\x00" else "/w==",
        }


def test_anys_within_anys_end() -> None:
    packed = any_pb2.Any()
    packed.Pack(struct_pb2.Value(number_value=1))
    for _ in range(2_000):
        outer = any_pb2.Any()
        outer.Pack(packed)
        packed = outer
    assert json.loads(jsonform.to_json(packed, camel_case=False))["@type"].endswith("google.protobuf.Any")


def test_conversion_by_bytes_is_the_same() -> None:
    execution: Any = execution_pb2.Execution()
    execution.closure.workflow_id.name = "wf"
    module, name = jsonform.module_of(execution.DESCRIPTOR), execution.DESCRIPTOR.full_name
    text = jsonform.to_json_from_bytes(module, name, execution.SerializeToString(), True)
    assert text == jsonform.to_json(execution, camel_case=True)
    assert jsonform.from_json_to_bytes(module, name, text, False) == execution.SerializeToString()


@pytest.mark.parametrize("descriptor", [execution_pb2.DESCRIPTOR, items_pb2.DESCRIPTOR, retention_pb2.DESCRIPTOR])
def test_another_process_finds_the_types_of_every_contract(descriptor: Any) -> None:
    for message in descriptor.message_types_by_name.values():
        module = importlib.import_module(jsonform.module_of(message))
        assert getattr(module, message.name).DESCRIPTOR is message
