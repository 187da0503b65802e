"""Literals in a form that people read: a tree of values, bounded in depth, length and number.

What was left out is said.  Source: spec/console.md, section 3.9; flyteidl core/literals.proto.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgpack
from google.protobuf import json_format

MAX_ITEMS = 100
"""Of one list or map; the rest is counted."""

MAX_VALUES = 1_000
"""Of one map of literals, all that is inside counted."""

MAX_CHARACTERS = 8_000
"""Of one text."""

MAX_DEPTH = 12


@dataclass(frozen=True, slots=True)
class Value:
    """A value to show: a text with its kind, or entries with names; `more` entries are left out."""

    kind: str
    """`text`, `number`, `time`, `uri`, `json`, `none`, `error`, `list` or `map`: how to show it."""
    text: str = ""
    note: str = ""
    """What else there is to say, such as a format."""
    entries: tuple[tuple[str, Value], ...] = ()
    more: int = 0


def of_map(literals: Any) -> Value:
    """A flyteidl.core.LiteralMap."""
    return _map(literals.literals, 0, _Room())


def of_literal(literal: Any) -> Value:
    """A flyteidl.core.Literal."""
    return _literal(literal, 0, _Room())


class _Room:
    """How many values may still be shown."""

    def __init__(self) -> None:
        self.left = MAX_VALUES

    def take(self, items: Sequence[Any]) -> int:
        """How many of `items` there is room for."""
        taken = min(len(items), MAX_ITEMS, self.left)
        self.left -= taken
        return taken


def _literal(literal: Any, depth: int, room: _Room) -> Value:
    if depth > MAX_DEPTH:
        return Value("none", "nested more deeply than is shown")
    kind = literal.WhichOneof("value")
    if kind == "collection":
        items = literal.collection.literals
        count = room.take(items)
        shown = ((str(index), each) for index, each in enumerate(items[:count]))
        return Value("list", entries=_entries(shown, depth, room), more=len(items) - count)
    if kind == "map":
        return _map(literal.map.literals, depth, room)
    if kind == "offloaded_metadata":
        offloaded = literal.offloaded_metadata
        return Value("uri", offloaded.uri, f"stored apart, {size(offloaded.size_bytes)}")
    return _scalar(literal.scalar, depth, room) if kind == "scalar" else Value("none", "not set")


def size(count: int) -> str:
    """A number of bytes for people."""
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def instant(timestamp: Any) -> str:
    """A google.protobuf.Timestamp, in UTC; its seconds where no calendar has it."""
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=timestamp.seconds)
    except OverflowError:
        return f"{timestamp.seconds} seconds after 1970"
    fraction = f".{timestamp.nanos:09d}".rstrip("0").rstrip(".") if timestamp.nanos else ""
    return f"{moment:%Y-%m-%d %H:%M:%S}{fraction} UTC"


def second(timestamp: Any) -> str:
    """As `instant`, cut to the second: nobody reads more in a table."""
    kept = type(timestamp)()
    kept.seconds = timestamp.seconds
    return instant(kept)


def span(seconds: float) -> str:
    """A duration for people: its two largest units."""
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    if seconds < 1:
        return f"{sign}{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{sign}{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, below, below_name in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            rest = whole % unit // below
            return f"{sign}{whole // unit} {name}" + (f" {rest} {below_name}" if rest else "")
    return f"{sign}{whole} s"


def _map(literals: Mapping[str, Any], depth: int, room: _Room) -> Value:
    names = sorted(literals)
    count = room.take(names)
    shown = ((name, literals[name]) for name in names[:count])
    return Value("map", entries=_entries(shown, depth, room), more=len(names) - count)


def _entries(items: Iterable[tuple[str, Any]], depth: int, room: _Room) -> tuple[tuple[str, Value], ...]:
    return tuple((name, _literal(each, depth + 1, room)) for name, each in items)


def _scalar(scalar: Any, depth: int, room: _Room) -> Value:
    kind = scalar.WhichOneof("value")
    if kind == "primitive":
        return _primitive(scalar.primitive)
    if kind == "union":
        return _literal(scalar.union.value, depth + 1, room)
    if kind == "blob":
        kind_of = scalar.blob.metadata.type
        what = "directory" if kind_of.dimensionality else "file"
        return Value("uri", scalar.blob.uri, f"{what}, {kind_of.format}" if kind_of.format else what)
    if kind == "structured_dataset":
        dataset = scalar.structured_dataset
        columns = [str(column.name) for column in dataset.metadata.structured_dataset_type.columns[:20]]
        details = [each for each in (dataset.metadata.structured_dataset_type.format, ", ".join(columns)) if each]
        return Value("uri", dataset.uri, "; ".join(["dataset", *details]))
    if kind == "schema":
        columns = [str(column.name) for column in scalar.schema.type.columns[:20]]
        return Value("uri", scalar.schema.uri, "; ".join(["schema", *([", ".join(columns)] if columns else [])]))
    if kind == "generic":
        return _json(json_format.MessageToDict(scalar.generic), sort_keys=True)  # a Struct has no order
    if kind == "binary":
        return _binary(scalar.binary)
    if kind == "error":
        return Value("error", _cut(scalar.error.message), f"from node {scalar.error.failed_node_id}")
    return Value("none", "none")


def _primitive(primitive: Any) -> Value:
    kind = primitive.WhichOneof("value")
    if kind == "datetime":
        return Value("time", instant(primitive.datetime))
    if kind == "duration":
        seconds = primitive.duration.seconds + primitive.duration.nanos / 1e9
        return Value("time", span(seconds), f"{seconds:.15g} seconds")
    if kind == "boolean":
        return Value("number", "true" if primitive.boolean else "false")
    if kind == "integer":
        return Value("number", str(primitive.integer))
    if kind == "float_value":
        return Value("number", repr(primitive.float_value))
    return Value("text", _cut(primitive.string_value)) if kind == "string_value" else Value("none", "not set")


def _binary(binary: Any) -> Value:
    if binary.tag == "msgpack":
        try:
            value = msgpack.unpackb(binary.value, strict_map_key=False)  # type: ignore[attr-defined, no-untyped-call]  # it has no types
        except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException):
            return Value("none", f"{size(len(binary.value))}, which are not the MessagePack that they claim to be")
        return _json(value)
    return Value("none", f"{size(len(binary.value))} of {binary.tag or 'unknown'} data")


def _json(value: Any, *, sort_keys: bool = False) -> Value:
    try:
        text = json.dumps(_plain(value), indent=2, ensure_ascii=False, default=repr, sort_keys=sort_keys)
    except (ValueError, RecursionError):
        return Value("none", "nested more deeply than is shown")
    return Value("json", _cut(text))


def _plain(value: Any) -> Any:
    """`value` with whole numbers written as such (a Struct knows only fractions), and keys that JSON can have."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else repr(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}… ({len(text)} characters)"
