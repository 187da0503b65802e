"""Spoils requests by what their descriptors say: any field, with what its type permits and its meaning does not.

`spoil` starts from a request that is good and changes one to three of its places, `scramble` fills a message with
whatever fits, `noise` makes bytes that need not be a message at all.  All take their choices from a `random.Random`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from flyteidl.core.execution_pb2 import ExecutionError
from flyteidl.event.event_pb2 import NodeExecutionEvent, TaskExecutionEvent, WorkflowExecutionEvent
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

TEXTS = (
    "", "a", "v1", "n0", "flytesnacks", "development", "../../x", "/", ".", "..", "a/b", "é" * 200, "🦆", "x" * 64,
    "x" * 256, "x" * 70_000, "\x00", "a\x00b", "\u2028", "\ufeff", "\ud7ff\ue000", "\x7f\r\n\t", "{{ project }}",
    "{{.inputs.a}}", "$(rm)", "1", "-1", "1e400", "NaN", "0x10", "9" * 400, "start-node", "end-node", "python-task",
    "@every 1s", "@daily", "* * * * *", "60 25 32 13 8", "0 0 30 2 *", "P1D", "P9999999Y", "eq(name,a)", "eq(name",
    "value_in(phase,RUNNING;X)", "gt(created_at,never)", "id desc; drop table tasks", "flyte://v1/p/d/e/n0/o", "flyte://",
    "s3://bucket/key", "gs://b/k", "file:///etc/passwd", "/etc/passwd", "mem://x", "http://localhost/x",
    "type.googleapis.com/flyteidl.core.Literal", "100Ei", "-5", "1.5.5", "10Mi", "%", "%00", "%zz", "\\", "'", '"',
)  # fmt: skip
DOUBLES = (0.0, -0.0, 1.5, -1.0, 5e-324, 1.7e308, float("nan"), float("inf"), float("-inf"))
SECONDS = (-(2**63), -62_135_596_801, -62_135_596_800, -1, 0, 1, 253_402_300_799, 253_402_300_800, 2**53, 2**63 - 1)
NANOS = (-(2**31), -1, 0, 1, 999_999_999, 1_000_000_000, 2**31 - 1)
FUNCTIONS = ("eq", "ne", "gt", "gte", "lt", "lte", "contains", "value_in", "value_not_in", "EQ", "drop", "")
COLUMNS = (
    "id", "project", "domain", "name", "version", "type", "state", "phase", "mode", "user", "node_id", "duration",
    "cluster", "created_at", "updated_at", "started_at", "deleted_at", "error_kind", "error_code", "retry_attempt",
    "parent_id", "resource_type", "identifier", "description", "schedule_type", "launch_plan_id", "execution_name",
    "closure", "",
)  # fmt: skip
ENTITIES = (
    "", "", "", "task.", "workflow.", "launch_plan.", "execution.", "node_execution.", "task_execution.", "admin_tag.",
    "execution_tag.", "named_entity_metadata.", "project.", "signal.", "none.", "..",
)  # fmt: skip
OPERANDS = (
    "a", "1", "-1", "1.5", "1e400", "99999999999999999999", "2026-01-01T00:00:00Z", "0001-01-01",
    "9999-12-31T23:59:59Z", "RUNNING", "1h", "-3s", "9999999999h", "true", "", "%", "_", "'", "a;b;c", ";",
    "x" * 300,
    "\x00", "é",
)  # fmt: skip
INSIDE: Mapping[str, type[Message]] = {
    "aerodrome.journal.v1.WorkflowChange.event": WorkflowExecutionEvent,
    "aerodrome.journal.v1.NodeChange.event": NodeExecutionEvent,
    "aerodrome.journal.v1.TaskChange.event": TaskExecutionEvent,
    "aerodrome.journal.v1.ItemRange.error": ExecutionError,
}
"""Fields whose bytes are a message, and of which type."""
DEEPEST = 6
"""How far `scramble` goes into messages within messages."""
SENTINEL = "\x7fspoiled\x7f"
NOT_UTF8 = (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xe2\x82")

_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def spoil(chance: Random, request: Message) -> bytes:
    """`request` on the wire, with one to three of its places changed."""
    message = type(request)()
    message.CopyFrom(request)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        _change(chance, message)
    data = message.SerializePartialToString()
    return _not_utf8(chance, data) if SENTINEL.encode() in data else data


def noise(chance: Random, request: Message) -> bytes:
    """Bytes that are made of `request`, or of nothing, and that may mean anything."""
    data = bytearray(request.SerializeToString())
    match chance.randrange(8):
        case 0:
            return _bytes(chance, chance.choice((1, 2, 10, 200)))
        case 1:
            return bytes(data[: chance.randrange(len(data) + 1)])
        case 2:
            for _ in range(chance.choice((1, 2, 8))):
                if data:
                    data[chance.randrange(len(data))] = chance.randrange(256)
            return bytes(data)
        case 3:
            at = chance.randrange(len(data) + 1)
            return bytes(data[:at]) + _bytes(chance, 8) + bytes(data[at:])
        case 4:
            return bytes(data) + _odd_field(chance, request.DESCRIPTOR)
        case 5:
            return bytes(data) + b"\x0b" * chance.choice((1, 60, 5_000))  # groups that never end
        case 6:
            return nested(request.DESCRIPTOR, chance.choice((50, 99, 101, 3_000)))
        case _:
            return bytes(data) + bytes(data)


def scramble(chance: Random, message: Message, depth: int = 0) -> None:
    """Fill `message` with whatever its fields may hold."""
    fields: Sequence[Any] = message.DESCRIPTOR.fields
    for field in fields:
        if chance.random() < 0.4 + 0.1 * depth or (field.message_type is not None and depth >= DEEPEST):
            continue
        _set(chance, message, field, depth)


def nested(descriptor: Any, depth: int) -> bytes:
    """A message of this type on the wire that holds itself, or one of its parts that can, `depth` levels deep."""
    way = _to_a_loop(descriptor)
    if way is None:
        return b""
    path, loop = way
    data = b""
    for level in range(depth):
        for field in reversed(loop):
            data = _wrapped(field, data)
        if len(data) > 2**20 or level * len(loop) > depth:
            break
    for field in reversed(path):
        data = _wrapped(field, data)
    return data


def texts_of(message: Message) -> Iterator[tuple[Callable[[str], None], str]]:
    """Every text field that `message` could hold where it holds something: how to set it, and its name."""
    for place in _places(message):
        for field in place.DESCRIPTOR.fields:
            if field.type != FieldDescriptor.TYPE_STRING or _is_map(field):
                continue
            name = field.full_name

            def put(value: str, place: Message = place, field: Any = field) -> None:
                if field.is_repeated:
                    getattr(place, field.name)[:] = [value]
                else:
                    setattr(place, field.name, value)

            yield put, name


def _change(chance: Random, message: Message) -> None:
    """Change one field of `message`, of one of its parts, or of a message inside its bytes."""
    place = chance.choice(list(_places(message)))
    fields: Sequence[Any] = place.DESCRIPTOR.fields
    if not fields:
        return
    present: list[Any] = [field for field, _ in place.ListFields()]
    field: Any = chance.choice(present) if present and chance.random() < 0.7 else chance.choice(fields)
    inside = INSIDE.get(field.full_name)
    if inside is not None and chance.random() < 0.85:
        inner = _parsed(inside, getattr(place, field.name))
        _change(chance, inner)
        setattr(place, field.name, inner.SerializePartialToString())
        return
    if (field.has_presence or field.is_repeated) and chance.random() < 0.2:
        place.ClearField(field.name)
        return
    if field.is_repeated and not _is_map(field) and chance.random() < 0.4:
        _rearrange(chance, getattr(place, field.name))
    elif field.message_type is not None and not field.is_repeated and chance.random() < 0.4:
        _replace(chance, message, getattr(place, field.name))
    else:
        _set(chance, place, field, depth=3)


def _set(chance: Random, place: Message, field: Any, depth: int) -> None:
    """Give `field` of `place` any value of its type."""
    if _is_map(field):
        entries = getattr(place, field.name)
        for _ in range(chance.choice((1, 1, 2, 30))):
            key = _value(chance, field.message_type.fields_by_name["key"])
            inner = field.message_type.fields_by_name["value"]
            if inner.message_type is None:
                entries[key] = _value(chance, inner)
            else:
                scramble(chance, entries[key], depth + 1)
    elif field.message_type is not None:
        if field.is_repeated:
            for _ in range(chance.choice((1, 1, 2, 3))):
                scramble(chance, getattr(place, field.name).add(), depth + 1)
            return
        inner_message = getattr(place, field.name)
        inner_message.SetInParent()
        if field.message_type.full_name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
            inner_message.seconds = chance.choice(SECONDS)
            inner_message.nanos = chance.choice(NANOS)
        else:
            scramble(chance, inner_message, depth + 1)
    elif field.is_repeated:
        getattr(place, field.name).extend(_value(chance, field) for _ in range(chance.choice((1, 1, 2, 100))))
    else:
        setattr(place, field.name, _value(chance, field))


def _value(chance: Random, field: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _bytes(chance, chance.choice((0, 1, 15, 16, 17, 300)))
    if field.type == FieldDescriptor.TYPE_STRING:
        if field.name in ("filters", "key") and chance.random() < 0.8:
            return _filters(chance) if field.name == "filters" else chance.choice(ENTITIES) + chance.choice(COLUMNS)
        return SENTINEL if chance.random() < 0.05 else chance.choice(TEXTS)
    if field.enum_type is not None:
        return chance.choice((*field.enum_type.values_by_number, -1, 77, 2**31 - 1, -(2**31)))
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return chance.random() < 0.5
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return chance.choice(DOUBLES)
    low, high = _RANGES[field.cpp_type]
    return chance.choice([n for n in (low, -1, 0, 1, 2, 7, 2**15, 2**31 - 1, 2**31, high) if low <= n <= high])


def _filters(chance: Random) -> str:
    """Conditions of a list, of which each may make sense by itself."""
    return "+".join(
        f"{chance.choice(FUNCTIONS)}({chance.choice(ENTITIES)}{chance.choice(COLUMNS)},{chance.choice(OPERANDS)})"
        for _ in range(chance.choice((1, 1, 2, 40)))
    )


def _rearrange(chance: Random, items: Any) -> None:
    """Repeat, reverse, multiply or shorten what a repeated field holds."""
    kept = list(items)
    if not kept:
        return
    match chance.randrange(4):
        case 0:
            kept.append(chance.choice(kept))
        case 1:
            kept.reverse()
        case 2:
            kept = [chance.choice(kept) for _ in range(500)]
        case _:
            del kept[chance.randrange(len(kept))]
    copies = [_copied(each) for each in kept]
    del items[:]
    items.extend(copies)


def _replace(chance: Random, message: Message, place: Message) -> None:
    """Put another part of `message`, of the same type, where `place` is: itself among its own parts, for one."""
    others = [other for other in _places(message) if other.DESCRIPTOR is place.DESCRIPTOR]
    copy = _copied(chance.choice(others)) if others else type(place)()
    place.CopyFrom(copy)


def _places(message: Message) -> Iterator[Message]:
    """`message` and all messages in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if _is_map(field):
            parts = [each for each in value.values() if isinstance(each, Message)]
        else:
            parts = list(value) if field.is_repeated else [value]
        for part in parts:
            yield from _places(part)


def _not_utf8(chance: Random, data: bytes) -> bytes:
    bad = chance.choice(NOT_UTF8)
    return data.replace(SENTINEL.encode(), bad + b"x" * (len(SENTINEL.encode()) - len(bad)))


def _odd_field(chance: Random, descriptor: Any) -> bytes:
    """A field that the type does not have, or has in another form."""
    number = chance.choice((0, 19_000, 2**29 - 1, 1_000, *(field.number for field in descriptor.fields)))
    return _varint(number << 3 | chance.randrange(8)) + chance.choice(
        (b"", b"\x01", b"\xff" * 12, _varint(3) + b"abc", _varint(2**40), struct.pack("<d", 1.0))
    )


def _wrapped(field: Any, data: bytes) -> bytes:
    if _is_map(field):
        data = _wrapped(field.message_type.fields_by_name["value"], data)
    return _varint(field.number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    data.append(value)
    return bytes(data)


def _to_a_loop(descriptor: Any) -> tuple[list[Any], list[Any]] | None:
    """The way from a type to the nearest one that can hold itself, and the way from there to itself."""
    for path, found in _reachable(descriptor):
        for loop, again in _reachable(found):
            if loop and again is found:
                return path, loop
    return None


def _reachable(descriptor: Any) -> Iterator[tuple[list[Any], Any]]:
    """The types of all parts of a type, nearest first, the type itself at the beginning and where it is met again."""
    seen = {descriptor.full_name}
    queue: list[tuple[list[Any], Any]] = [([], descriptor)]
    yield queue[0]
    while queue:
        path, current = queue.pop(0)
        for field in current.fields:
            inner = field.message_type
            if inner is not None and _is_map(field):
                inner = inner.fields_by_name["value"].message_type
            if inner is None:
                continue
            if inner is descriptor:
                yield [*path, field], inner
            if inner.full_name not in seen:
                seen.add(inner.full_name)
                queue.append(([*path, field], inner))
                yield queue[-1]


def _is_map(field: Any) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _copied(value: Any) -> Any:
    if not isinstance(value, Message):
        return value
    copy = type(value)()
    copy.CopyFrom(value)
    return copy


def _parsed(kind: type[Message], data: bytes) -> Message:
    try:
        return kind.FromString(data)
    except DecodeError:
        return kind()


def _bytes(chance: Random, size: int) -> bytes:
    return bytes(chance.randrange(256) for _ in range(size))
