"""Bindings to literals.  Pure, but for asking the caller for the outputs of other nodes.

Source: spec/data-plane.md, 3.3.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgpack
from flyteidl.core import literals_pb2, types_pb2
from google.protobuf import struct_pb2

from aerodrome.plugins.api import ErrorKind, Failure

Outputs = Callable[[str], Awaitable[literals_pb2.LiteralMap]]
"""The outputs of a node that a promise names."""
Load = Callable[[literals_pb2.Literal], Awaitable[literals_pb2.Literal]]
"""The value of an offloaded literal."""

MAX_DEPTH = 45
"""Levels of nested bindings: protobuf reads messages of 100 levels, and each of these takes two."""

_MSGPACK = "msgpack"


class Unresolvable(Exception):
    """A binding cannot be resolved; `failure` is what the node fails with."""

    def __init__(self, message: str, code: str = "BindingResolutionFailure") -> None:
        super().__init__(message)
        self.failure = Failure(code, message, ErrorKind.SYSTEM, retryable=False)


async def resolve(bindings: Iterable[literals_pb2.Binding], outputs: Outputs, load: Load) -> literals_pb2.LiteralMap:
    """The inputs that `bindings` stand for.  Raises Unresolvable, with the variable's name in the message."""
    resolved = literals_pb2.LiteralMap()
    for binding in bindings:
        try:
            literal = await _resolve(binding.binding, outputs, load, 0)
        except Unresolvable as error:
            code = error.failure.code
            raise Unresolvable(f"input {binding.var}: {error}", code) from error
        resolved.literals[binding.var].CopyFrom(literal)
    return resolved


async def _resolve(data: literals_pb2.BindingData, outputs: Outputs, load: Load, depth: int) -> literals_pb2.Literal:
    if depth > MAX_DEPTH:
        raise Unresolvable(f"the binding is nested more than {MAX_DEPTH} levels deep")
    match data.WhichOneof("value"):
        case "promise":
            return await _promise(data.promise, outputs, load)
        case "scalar":
            return literals_pb2.Literal(scalar=data.scalar)
        case "collection":
            members = [await _resolve(member, outputs, load, depth + 1) for member in data.collection.bindings]
            literal = literals_pb2.Literal()
            literal.collection.literals.extend(members)
            literal.collection.SetInParent()
            return literal
        case "map":
            literal = literals_pb2.Literal()
            literal.map.SetInParent()
            for key, member in data.map.bindings.items():
                literal.map.literals[key].CopyFrom(await _resolve(member, outputs, load, depth + 1))
            return literal
        case _:
            return literals_pb2.Literal()


async def _promise(promise: types_pb2.OutputReference, outputs: Outputs, load: Load) -> literals_pb2.Literal:
    known = await outputs(promise.node_id)
    index, name = _variable(promise.var)
    if name not in known.literals:
        have = ", ".join(sorted(known.literals)) or "no outputs"
        raise Unresolvable(f"node {promise.node_id or 'start-node'} has no output {name}; it has {have}")
    literal = known.literals[name]
    if index is None and not promise.attr_path:
        return literal
    if literal.HasField("offloaded_metadata"):
        literal = await load(literal)
    if index is not None:
        literal = _element(literal, index)
    return attribute(literal, promise.attr_path)


def _variable(text: str) -> tuple[int | None, str]:
    """`name`, or the legacy `[i].name`."""
    if text.startswith("[") and "]." in text:
        number, _, name = text[1:].partition("].")
        if number.isdigit():
            return int(number), name
    return None, text


def attribute(literal: literals_pb2.Literal, path: Sequence[types_pb2.PromiseAttribute]) -> literals_pb2.Literal:
    """What `path` selects inside `literal`.  Raises Unresolvable with code `PromiseAttributeResolveError`."""
    for position, step in enumerate(path):
        kind = literal.WhichOneof("value")
        if kind == "collection" and step.WhichOneof("value") == "int_value":
            literal = _element(literal, step.int_value)
        elif kind == "map" and step.WhichOneof("value") == "string_value":
            if step.string_value not in literal.map.literals:
                raise _bad(f"there is no key {step.string_value!r}")
            literal = literal.map.literals[step.string_value]
        elif kind == "scalar" and literal.scalar.WhichOneof("value") == "union":
            return attribute(literal.scalar.union.value, path[position:])
        elif kind == "scalar" and literal.scalar.WhichOneof("value") == "generic":
            return _from_struct(_walk(_struct(literal.scalar.generic), path[position:]))
        elif kind == "scalar" and literal.scalar.WhichOneof("value") == "binary":
            return _from_binary(literal.scalar.binary, path[position:])
        else:
            raise _bad(f"{_text(step)} cannot be selected from a {kind or 'literal without a value'}")
    if literal.scalar.binary.tag == _MSGPACK:
        # A member of a packed list that was selected whole: as plain as if the path had led into it.
        return _from_binary(literal.scalar.binary, ())
    return literal


def _element(literal: literals_pb2.Literal, index: int) -> literals_pb2.Literal:
    members = literal.collection.literals
    if not 0 <= index < len(members):
        raise _bad(f"index {index} is beyond the collection, which has {len(members)} members")
    return members[index]


def _from_binary(binary: literals_pb2.Binary, path: Sequence[types_pb2.PromiseAttribute]) -> literals_pb2.Literal:
    if binary.tag != _MSGPACK:
        raise _bad(f"attributes can be selected from msgpack values only, and this one is tagged {binary.tag!r}")
    try:
        value = msgpack.unpackb(binary.value, strict_map_key=False)  # type: ignore[attr-defined, no-untyped-call]  # it has no types
    except (ValueError, TypeError, msgpack.UnpackException) as error:  # TypeError: a list or a map as a key
        raise _bad(f"the value is not valid msgpack: {error}") from error
    return _from_msgpack(_walk(value, path))


def _walk(value: Any, path: Sequence[types_pb2.PromiseAttribute]) -> Any:
    for step in path:
        if step.WhichOneof("value") == "string_value" and isinstance(value, dict):
            if step.string_value not in value:
                raise _bad(f"there is no attribute {step.string_value!r}; there are {', '.join(map(str, value))}")
            value = value[step.string_value]
        elif step.WhichOneof("value") == "int_value" and isinstance(value, list):
            if not 0 <= step.int_value < len(value):
                raise _bad(f"index {step.int_value} is beyond the list, which has {len(value)} members")
            value = value[step.int_value]
        else:
            raise _bad(f"{_text(step)} cannot be selected from a {type(value).__name__}")
    return value


def _from_msgpack(value: Any) -> literals_pb2.Literal:
    if isinstance(value, list):
        literal = literals_pb2.Literal()
        literal.collection.SetInParent()
        literal.collection.literals.extend(_packed(member) for member in value)
        return literal
    if isinstance(value, bool):
        return _primitive(boolean=value)
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise _bad(f"{value} does not fit into 64 bits")
        return _primitive(integer=value)
    if isinstance(value, float):
        return _primitive(float_value=value)
    if isinstance(value, str):
        return _primitive(string_value=value)
    return _packed(value)


def _packed(value: Any) -> literals_pb2.Literal:
    return literals_pb2.Literal(
        scalar=literals_pb2.Scalar(binary=literals_pb2.Binary(value=msgpack.packb(value), tag=_MSGPACK))
    )


def _struct(value: struct_pb2.Struct) -> dict[str, Any]:
    return {key: _plain(member) for key, member in value.fields.items()}


def _plain(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return _struct(value.struct_value)
        case "list_value":
            return [_plain(member) for member in value.list_value.values]
        case "number_value":
            return value.number_value
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def _from_struct(value: Any) -> literals_pb2.Literal:
    if value is None:
        return literals_pb2.Literal()
    if isinstance(value, bool):
        return _primitive(boolean=value)
    if isinstance(value, float):
        return _primitive(float_value=value)
    if isinstance(value, str):
        return _primitive(string_value=value)
    literal = literals_pb2.Literal()
    if isinstance(value, list):
        literal.collection.SetInParent()
        literal.collection.literals.extend(_from_struct(member) for member in value)
    else:
        literal.scalar.generic.SetInParent()
        literal.scalar.generic.update(value)
    return literal


def _primitive(**value: Any) -> literals_pb2.Literal:
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(**value)))


def _bad(message: str) -> Unresolvable:
    return Unresolvable(message, "PromiseAttributeResolveError")


def _text(step: types_pb2.PromiseAttribute) -> str:
    return f"attribute {step.string_value!r}" if step.WhichOneof("value") == "string_value" else f"[{step.int_value}]"
