"""Templates in the commands and arguments of tasks: `{{ .input }}`, `{{$OutputPrefix}}`, `{{.inputs.x}}`.

All variables are replaced in one pass, so that a value which looks like a template is not replaced again.  What is
not a variable of ours stays as it is.  Source: spec/data-plane.md, section 2.2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Final

import msgpack
from flyteidl.core import literals_pb2, tasks_pb2
from google.protobuf import struct_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.plugins import names
from aerodrome.plugins.api import TaskContext, failed_to_build

_MARKER: Final = re.compile(r"\{\{\s*[.$](?P<name>[A-Za-z]+)(?:\.(?P<input>[^}\s]+))?\s*\}\}")
_MSGPACK: Final = "msgpack"
_EXPONENT_FROM: Final = 6
"""Power of ten from which floats are written with an exponent."""
_NO_PREVIOUS: Final = '""'
"""What flytekit reads as "there is no previous checkpoint" on a command line."""


def render(texts: Iterable[str], context: TaskContext) -> list[str]:
    """`texts` with every variable replaced.

    Raises PluginError (FailedToBuildResource) if an input is missing or has no text form.
    """
    return [_MARKER.sub(lambda match: _value(match, context), text) if "{{" in text else text for text in texts]


def uses_inputs(task: tasks_pb2.TaskTemplate) -> bool:
    """Whether building this task needs the values of its inputs."""
    return any(match["input"] and match["name"].lower() == "inputs" for match in _markers(task))


def uses_task_template(task: tasks_pb2.TaskTemplate) -> bool:
    """Whether the task reads `task.pb`, which must then be written before it starts."""
    return any(not match["input"] and match["name"].lower() == "tasktemplatepath" for match in _markers(task))


def render_literal(literal: literals_pb2.Literal) -> str:
    """The text of an input on a command line.  Raises ValueError for what has none."""
    if literal.WhichOneof("value") == "collection":
        return f"[{','.join(map(render_literal, literal.collection.literals))}]"
    if literal.WhichOneof("value") != "scalar":
        raise ValueError(f"a {_kind(literal)} has no text form")
    scalar = literal.scalar
    match scalar.WhichOneof("value"):
        case "primitive":
            return _render_primitive(scalar.primitive)
        case "blob":
            return scalar.blob.uri
        case "schema":
            return scalar.schema.uri
        case "binary":
            return _render_binary(scalar.binary)
    raise ValueError(f"a {_kind(literal)} has no text form")


def decimal(number: float) -> str:
    """A float in the fewest digits that identify it, as Go's `%v` writes it.

    That has an exponent below 1e-4 and from 1e+06 on.
    """
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "+Inf" if number > 0 else "-Inf"
    if number == 0:
        return "-0" if math.copysign(1, number) < 0 else "0"
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    text = "".join(map(str, digits))
    power = len(digits) - 1 + int(exponent)
    if -4 <= power < _EXPONENT_FROM:
        plain = f"{Decimal(repr(number)):f}"
        return plain.removesuffix(".0")
    fraction = f".{text[1:]}" if len(text) > 1 else ""
    return f"{'-' if sign else ''}{text[0]}{fraction}e{'-' if power < 0 else '+'}{abs(power):02d}"


def _value(match: re.Match[str], context: TaskContext) -> str:
    name = match["name"].lower()
    if match["input"]:
        return _input(match["input"], context) if name == "inputs" else match[0]
    match name:
        case "input":
            return context.inputs_path
        case "inputprefix":
            return context.input_prefix
        case "outputprefix":
            return context.output_prefix
        case "rawoutputdataprefix":
            return context.raw_output_prefix
        case "checkpointoutputprefix":
            return context.checkpoint_prefix
        case "prevcheckpointprefix":
            return context.prev_checkpoint_prefix or _NO_PREVIOUS
        case "perretryuniquekey":
            return names.per_retry_unique_key(context.generated_name)
        case "tasktemplatepath":
            return context.task_template_path
        case "namespace":
            return context.namespace
    return match[0]


def _input(name: str, context: TaskContext) -> str:
    literals = context.inputs().literals
    if name not in literals:
        alike = [known for known in literals if known.lower() == name.lower()]
        if len(alike) != 1:
            known = ", ".join(sorted(literals)) or "none"
            raise failed_to_build(
                f"{context.describe()}: a template refers to the input {name!r}, which was not given; inputs: {known}"
            )
        name = alike[0]
    try:
        return render_literal(literals[name])
    except ValueError as error:
        raise failed_to_build(
            f"{context.describe()}: input {name!r} cannot be put on a command line: {error}"
        ) from error


def _render_primitive(primitive: literals_pb2.Primitive) -> str:
    match primitive.WhichOneof("value"):
        case "integer":
            return str(primitive.integer)
        case "float_value":
            return decimal(primitive.float_value)
        case "string_value":
            return primitive.string_value
        case "boolean":
            return _boolean(primitive.boolean)
        case "datetime":
            return _render_datetime(primitive.datetime)
        case "duration":
            return _render_duration(primitive.duration)
    raise ValueError("a primitive without a value has no text form")


def _render_binary(binary: literals_pb2.Binary) -> str:
    if binary.tag != _MSGPACK:
        raise ValueError(f"binary data tagged {binary.tag!r} has no text form (only {_MSGPACK} scalars do)")
    try:
        # msgpack has no types
        value = msgpack.unpackb(binary.value, raw=False, strict_map_key=False)  # type: ignore[attr-defined,no-untyped-call]
    except (ValueError, msgpack.UnpackException) as error:
        raise ValueError(f"its {_MSGPACK} data is damaged: {error}") from error
    match value:
        case bool():
            return _boolean(value)
        case str():
            return value
        case int():
            return str(value)
        case float():
            return decimal(value)
    raise ValueError(f"a {_MSGPACK} {type(value).__name__} has no text form, only strings, numbers and booleans do")


def _render_datetime(moment: Timestamp) -> str:
    """RFC 3339 in UTC, with as many digits of a second as there are."""
    whole = Timestamp(seconds=moment.seconds).ToJsonString().removesuffix("Z")
    fraction = f".{moment.nanos:09d}".rstrip("0") if moment.nanos else ""
    return f"{whole}{fraction}Z"


def _render_duration(duration: Duration) -> str:
    """The text form of the protobuf message, such as `seconds:3600`."""
    parts = (("seconds", duration.seconds), ("nanos", duration.nanos))
    return " ".join(f"{name}:{value}" for name, value in parts if value)


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _kind(literal: literals_pb2.Literal) -> str:
    """What a literal holds, in words."""
    kind = literal.WhichOneof("value")
    if kind == "scalar":
        kind = literal.scalar.WhichOneof("value")
    return (kind or "literal without a value").replace("_", " ")


def _markers(task: tasks_pb2.TaskTemplate) -> Iterator[re.Match[str]]:
    for text in _texts(task):
        yield from _MARKER.finditer(text)


def _texts(task: tasks_pb2.TaskTemplate) -> Iterator[str]:
    """Everything in the task that may hold templates."""
    yield from task.container.command
    yield from task.container.args
    yield task.sql.statement
    yield from _strings(task.k8s_pod.pod_spec)
    yield from _strings(task.custom)


def _strings(value: struct_pb2.Struct | struct_pb2.ListValue | struct_pb2.Value) -> Iterator[str]:
    if isinstance(value, struct_pb2.Struct):
        for member in value.fields.values():
            yield from _strings(member)
    elif isinstance(value, struct_pb2.ListValue):
        for member in value.values:
            yield from _strings(member)
    else:
        match value.WhichOneof("kind"):
            case "string_value":
                yield value.string_value
            case "struct_value":
                yield from _strings(value.struct_value)
            case "list_value":
                yield from _strings(value.list_value)
