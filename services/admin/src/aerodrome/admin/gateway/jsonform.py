"""Messages as JSON, and back.

Out, every field appears: defaults too, `null` for messages that are not set, but nothing for members of a oneof that
are not.  64-bit integers are strings, enums names, bytes base64; the well-known types have their own forms.  The
protobuf library cannot write nulls and is several times slower, so an encoder is made here for each type, once.
In, the protobuf library reads it.

What may be large is converted in a process of its own, by the functions that take and give bytes.
Source: spec/control-plane.md, section 11.3; the ProtoJSON format.
"""

from __future__ import annotations

import base64
import importlib
import json
import math
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf import any_pb2, descriptor_pool, json_format, message_factory, struct_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from aerodrome.stdlib.errors import InvalidArgument

MAX_ANYS = 8
"""How many messages of type Any within each other are opened: each may be nested as deeply as a message may be."""

Encode = Callable[[Any], Any]
"""From a value of protobuf to one that `json` writes."""


def to_json(message: Any, *, camel_case: bool) -> bytes:
    """The protobuf `message` as JSON, with names in lowerCamelCase or as in the contract."""
    return _dump(_ENCODERS[camel_case].of(message.DESCRIPTOR)(message))


def from_json(text: bytes, message: Message, *, ignore_unknown: bool) -> None:
    """Read `text`, an object, into `message`; names of either style.  Raises InvalidArgument if it does not fit."""
    if not text.lstrip().startswith(b"{"):
        raise InvalidArgument(f"the body is not a JSON object, as a {message.DESCRIPTOR.full_name} is")
    try:
        json_format.Parse(text.decode(), message, ignore_unknown_fields=ignore_unknown)
    except UnicodeDecodeError as error:
        raise InvalidArgument("the body is not UTF-8") from error
    except RecursionError as error:
        raise InvalidArgument("the body is nested too deeply") from error
    except Exception as error:  # the library's checks are not complete: it lets out what it trips over
        raise InvalidArgument(f"the body is not a {message.DESCRIPTOR.full_name} in JSON: {error}") from error


def to_json_from_bytes(module: str, name: str, data: bytes, camel_case: bool) -> bytes:
    """As `to_json`, of the serialized message `name`, which the generated `module` knows; for another process."""
    return to_json(_made(module, name, data), camel_case=camel_case)


def from_json_to_bytes(module: str, name: str, text: bytes, ignore_unknown: bool) -> bytes:
    """As `from_json`, giving the message serialized; for another process."""
    message = _made(module, name, b"")
    from_json(text, message, ignore_unknown=ignore_unknown)
    return message.SerializeToString()


def module_of(message: Descriptor) -> str:
    """The generated module that holds the type; where it lies does not follow from where its contract does."""
    return str(message_factory.GetMessageClass(message).__module__)


def _made(module: str, name: str, data: bytes) -> Message:
    importlib.import_module(module)
    made: Message = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))()
    made.ParseFromString(data)
    return made


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False).encode()


class _Encoders:
    """The encoders of one naming style, made when first needed."""

    def __init__(self, *, camel_case: bool) -> None:
        self._camel_case = camel_case
        self._opened = 0
        self._made: dict[str, Encode] = {
            "google.protobuf.Timestamp": _timestamp,
            "google.protobuf.Duration": _duration,
            "google.protobuf.Struct": _struct,
            "google.protobuf.Value": _value,
            "google.protobuf.ListValue": _list_value,
            "google.protobuf.FieldMask": lambda mask: mask.ToJsonString(),
            "google.protobuf.Any": self._any,
        }

    def of(self, message: Descriptor) -> Encode:
        made = self._made.get(message.full_name)
        if made is None:
            made = self._made[message.full_name] = self._make(message)
        return made

    def _make(self, message: Descriptor) -> Encode:
        if message.full_name.startswith("google.protobuf.") and message.full_name.endswith("Value"):
            inner = _scalar(message.fields_by_name["value"])
            return lambda wrapper: wrapper.value if inner is None else inner(wrapper.value)
        defaults: dict[str, Any] = {}
        fields: dict[int, tuple[str, Encode | None]] = {}

        def encode(value: Any) -> dict[str, Any]:
            out = defaults.copy()
            for field, inside in value.ListFields():
                name, convert = fields[field.number]
                out[name] = inside if convert is None else convert(inside)
            return out

        self._made[message.full_name] = encode  # types contain themselves
        for field in message.fields:
            name = field.json_name if self._camel_case else field.name
            fields[field.number] = name, self._field(field)
            if field.is_repeated:
                defaults[name] = {} if _is_map(field) else []
            elif not field.has_presence:
                convert = self._one(field)
                defaults[name] = field.default_value if convert is None else convert(field.default_value)
            elif field.containing_oneof is None:
                defaults[name] = None
        return encode

    def _field(self, field: Any) -> Encode | None:
        """How the value of a field is written; None: as it is."""
        if _is_map(field):
            return self._map(field.message_type.fields_by_name)
        convert = self._one(field)
        if not field.is_repeated:
            return convert
        if convert is None:
            return list
        each = convert
        return lambda values: [each(value) for value in values]

    def _map(self, entry: Any) -> Encode:
        convert = self._one(entry["value"])
        boolean = entry["key"].type == FieldDescriptor.TYPE_BOOL

        def encode(items: Any) -> dict[str, Any]:
            return {
                (str(key).lower() if boolean else str(key)): items[key] if convert is None else convert(items[key])
                for key in sorted(items)
            }

        return encode

    def _one(self, field: FieldDescriptor) -> Encode | None:
        if field.message_type is not None:
            return self.of(field.message_type)
        return _scalar(field)

    def _any(self, packed: any_pb2.Any) -> dict[str, Any]:
        """The message inside, with its type; its bytes where the type is not known here, or they are not of it, or too
        many are nested."""
        if not packed.type_url and not packed.value:
            return {}
        self._opened += 1
        try:
            if self._opened > MAX_ANYS:
                raise KeyError(packed.type_url)
            inside = descriptor_pool.Default().FindMessageTypeByName(packed.type_url.rpartition("/")[2])
            message = message_factory.GetMessageClass(inside)()
            message.ParseFromString(packed.value)
            value = self.of(inside)(message)
        except (KeyError, DecodeError):
            return {"@type": packed.type_url, "value": _base64(packed.value)}
        finally:
            self._opened -= 1
        if inside.full_name in self._made and inside.file.package == "google.protobuf":
            return {"@type": packed.type_url, "value": value}
        return {"@type": packed.type_url, **value}


def _is_map(field: Any) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _scalar(field: Any) -> Encode | None:
    """How values of the field are written; None: as they are."""
    if field.type == FieldDescriptor.TYPE_ENUM:
        return _enum(field.enum_type)
    encode: Encode | None = _SCALARS.get(field.type)
    return encode


def _enum(kind: EnumDescriptor) -> Encode:
    if kind.full_name == "google.protobuf.NullValue":
        return lambda _: None
    names = {number: value.name for number, value in kind.values_by_number.items()}
    return lambda number: names.get(number, number)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _double(number: float) -> float | str:
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _float(number: float) -> float | str:
    """A 32-bit number in as few digits as tell it from its neighbours."""
    if not math.isfinite(number):
        return _double(number)
    for digits in (6, 7, 8):
        short = float(f"{number:.{digits}g}")
        if abs(short) < 3.5e38 and _round32(short) == number:
            return short
    return number


def _round32(number: float) -> float:
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", number))[0]
    except OverflowError:
        return math.inf
    return rounded


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = -62_135_596_800, 253_402_300_799


def _timestamp(value: Any) -> str:
    """RFC 3339.  What is outside of its years, which the format cannot say, comes as seconds of the epoch."""
    seconds, nanos = value.seconds, value.nanos
    if not _FIRST <= seconds <= _LAST or not 0 <= nanos < 1_000_000_000:
        return f"{seconds}s" if not nanos else f"{seconds}s {nanos}ns"
    whole = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    return f"{whole}{_fraction(nanos)}Z"


def _duration(value: Any) -> str:
    seconds, nanos = value.seconds, value.nanos
    sign = "-" if seconds < 0 or nanos < 0 else ""
    return f"{sign}{abs(seconds)}{_fraction(abs(nanos))}s"


def _fraction(nanos: int) -> str:
    """A dot and three, six or nine digits; nothing for zero."""
    if not nanos:
        return ""
    if nanos % 1_000_000 == 0:
        return f".{nanos // 1_000_000:03d}"
    if nanos % 1_000 == 0:
        return f".{nanos // 1_000:06d}"
    return f".{nanos:09d}"


def _struct(value: struct_pb2.Struct) -> dict[str, Any]:
    return {key: _value(value.fields[key]) for key in sorted(value.fields)}


def _list_value(value: struct_pb2.ListValue) -> list[Any]:
    return [_value(each) for each in value.values]


def _value(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind is None or kind == "null_value":
        return None
    inside = getattr(value, kind)
    if kind == "number_value":
        return int(inside) if inside.is_integer() and abs(inside) < 2**53 else _double(inside)
    if kind == "struct_value":
        return _struct(inside)
    return _list_value(inside) if kind == "list_value" else inside


_SCALARS: dict[int, Encode] = {
    FieldDescriptor.TYPE_BYTES: _base64,
    FieldDescriptor.TYPE_DOUBLE: _double,
    FieldDescriptor.TYPE_FLOAT: _float,
    FieldDescriptor.TYPE_INT64: str,
    FieldDescriptor.TYPE_SINT64: str,
    FieldDescriptor.TYPE_SFIXED64: str,
    FieldDescriptor.TYPE_UINT64: str,
    FieldDescriptor.TYPE_FIXED64: str,
}

_ENCODERS = {camel_case: _Encoders(camel_case=camel_case) for camel_case in (False, True)}
