"""Text from paths and queries, put into the fields of a request.

Names are dotted paths of proto or JSON names.  Enums come by name or number, timestamps as RFC 3339, durations as
`3.5s`, bytes in base64, repeated fields by repetition.  What is badly typed raises InvalidArgument that names the
parameter; names that the request does not have are ignored.  Source: spec/control-plane.md, section 11.2.
"""

from __future__ import annotations

import base64
import binascii
import functools
import math
import re
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import parse_qsl

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from aerodrome.admin.gateway.bindings import FieldPath
from aerodrome.stdlib.errors import InvalidArgument

MAX_PARAMETERS = 1_000
"""More query parameters than this are refused."""

_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))
_WHOLE = re.compile(r"[+-]?\d{1,20}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?|nan", re.ASCII | re.IGNORECASE)

_LOST_PLUS = re.compile(r"\) (?=[a-z_]{2,20}\()")
"""Where the expressions of a filter meet, if their plus was not encoded and so became a space."""

_AS_TEXT = {
    "google.protobuf.Timestamp": "a time such as 2020-01-31T12:00:00Z",
    "google.protobuf.Duration": "a duration such as 3.5s",
    "google.protobuf.FieldMask": "a field mask",
}
"""Messages whose JSON form is a string, and what to call it."""

_WRAPPERS = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Bool", "String", "Bytes", "Int32", "Int64", "UInt32", "UInt64", "Float", "Double")
)


def set_variable(message: Message, path: FieldPath, text: str) -> None:
    """Set the field at the end of `path` to what a path's segment says."""
    inside: Any = message
    for step in path[:-1]:
        inside = getattr(inside, step.name)
    _set(inside, path[-1], text, ".".join(step.name for step in path))


def set_query(message: Message, query: str, taken: Collection[str]) -> None:
    """Set fields of `message` to what an undecoded query says.

    Parameters at or below the dotted proto names in `taken` are ignored: the path has set them.  The plus between
    expressions of `filters` may be encoded or not (spec/console.md, section 1).
    """
    for name, text in _split(query):
        path = _resolve(message.DESCRIPTOR, name)
        if path is None:
            continue
        dotted = ".".join(step.name for step in path)
        if any(dotted == each or dotted.startswith(f"{each}.") for each in taken):
            continue
        inside: Any = message
        for step in path[:-1]:
            if step.is_repeated:
                raise InvalidArgument(f"parameter {name}: {step.name} is a list of messages; its fields cannot be set")
            inside = getattr(inside, step.name)
        last = path[-1]
        if not last.is_repeated and _is_set(inside, last, name):
            raise InvalidArgument(f"parameter {name} is given more than once")
        _set(inside, last, _LOST_PLUS.sub(")+", text) if last.name == "filters" else text, name)


def _split(query: str) -> list[tuple[str, str]]:
    if not query:
        return []
    try:
        return parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
    except UnicodeDecodeError as error:
        raise InvalidArgument("the query is not UTF-8; encode it so") from error
    except ValueError as error:
        raise InvalidArgument(f"the query has more than {MAX_PARAMETERS} parameters") from error


@functools.lru_cache(maxsize=4096)
def _resolve(message: Descriptor, name: str) -> FieldPath | None:
    """The fields that a dotted parameter names, in either naming; None if there is no such field."""
    path: list[FieldDescriptor] = []
    inside: Descriptor | None = message
    for part in name.split("."):
        if inside is None:
            return None
        step = inside.fields_by_name.get(part) or inside.fields_by_camelcase_name.get(part)
        if step is None:
            return None
        path.append(step)
        inside = step.message_type
    return tuple(path)


def _is_set(inside: Message, field: FieldDescriptor, name: str) -> bool:
    """Whether a singular field got a value already; another member of its oneof is refused."""
    oneof = field.containing_oneof
    if oneof is not None:
        other = inside.WhichOneof(oneof.name)
        if other is not None and other != field.name:
            raise InvalidArgument(f"parameter {name}: {other} is set already, and only one of them may be")
        return other is not None
    if field.has_presence:
        return inside.HasField(field.name)
    return bool(getattr(inside, field.name) != field.default_value)


def _set(inside: Any, field: FieldDescriptor, text: str, name: str) -> None:
    try:
        if field.message_type is not None:
            _set_message(inside, field, text)
        elif field.is_repeated:
            getattr(inside, field.name).append(_READ[field.type](field, text))
        else:
            setattr(inside, field.name, _READ[field.type](field, text))
    except _BadError as error:
        raise InvalidArgument(f"parameter {name}: {text[:200]!r} is not {error}") from error


class _BadError(Exception):
    """A text does not fit a field; says what would."""


def _set_message(inside: Any, field: Any, text: str) -> None:
    kind = field.message_type.full_name
    if kind not in _AS_TEXT and kind not in _WRAPPERS:
        raise _BadError("a value for a message; set its fields, each by its dotted name")
    target = getattr(inside, field.name).add() if field.is_repeated else getattr(inside, field.name)
    if kind in _WRAPPERS:
        target.value = _READ[target.DESCRIPTOR.fields_by_name["value"].type](
            target.DESCRIPTOR.fields_by_name["value"], text
        )
        target.SetInParent()
        return
    try:
        target.FromJsonString(text)
    except (ValueError, OverflowError, json_format.ParseError) as error:
        raise _BadError(_AS_TEXT[kind]) from error
    target.SetInParent()


def _whole(low: int, high: int) -> Callable[[FieldDescriptor, str], int]:
    def read(_: FieldDescriptor, text: str) -> int:
        if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
            raise _BadError(f"a whole number between {low} and {high}")
        return int(text)

    return read


def _float(_: FieldDescriptor, text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise _BadError("a number")
    return float(text)


def _float32(field: FieldDescriptor, text: str) -> float:
    number = _float(field, text)
    if math.isfinite(number) and abs(number) > 3.4028234663852886e38:
        raise _BadError("a number of 32 bits")
    return number


def _bool(_: FieldDescriptor, text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise _BadError("true or false")


def _bytes(_: FieldDescriptor, text: str) -> bytes:
    plain = text.replace("-", "+").replace("_", "/").replace(" ", "+").rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _BadError("base64") from error


def _enum(field: Any, text: str) -> int:
    kind = field.enum_type
    value = kind.values_by_name.get(text)
    if value is None and _WHOLE.fullmatch(text):
        value = kind.values_by_number.get(int(text))
    if value is None:
        names = [each.name for each in kind.values]
        raise _BadError(f"one of {', '.join(names[:40])}, or the number of one")
    return int(value.number)


def _string(_: FieldDescriptor, text: str) -> str:
    if "\0" in text:
        raise _BadError("a text: it holds a zero byte")
    return text


_INT32 = _whole(-(2**31), 2**31 - 1)
_INT64 = _whole(-(2**63), 2**63 - 1)
_UINT32 = _whole(0, 2**32 - 1)
_UINT64 = _whole(0, 2**64 - 1)

_READ: dict[int, Callable[[FieldDescriptor, str], Any]] = {
    FieldDescriptor.TYPE_STRING: _string,
    FieldDescriptor.TYPE_BYTES: _bytes,
    FieldDescriptor.TYPE_BOOL: _bool,
    FieldDescriptor.TYPE_ENUM: _enum,
    FieldDescriptor.TYPE_DOUBLE: _float,
    FieldDescriptor.TYPE_FLOAT: _float32,
    FieldDescriptor.TYPE_INT32: _INT32,
    FieldDescriptor.TYPE_SINT32: _INT32,
    FieldDescriptor.TYPE_SFIXED32: _INT32,
    FieldDescriptor.TYPE_INT64: _INT64,
    FieldDescriptor.TYPE_SINT64: _INT64,
    FieldDescriptor.TYPE_SFIXED64: _INT64,
    FieldDescriptor.TYPE_UINT32: _UINT32,
    FieldDescriptor.TYPE_FIXED32: _UINT32,
    FieldDescriptor.TYPE_UINT64: _UINT64,
    FieldDescriptor.TYPE_FIXED64: _UINT64,
}
