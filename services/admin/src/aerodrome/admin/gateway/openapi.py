"""The OpenAPI document of the HTTP API, derived from the same annotations as its routes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

from aiohttp import web
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from aerodrome.admin.gateway.bindings import Binding

_Schema = dict[str, Any]

_WELL_KNOWN: dict[str, _Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "example": "3.5s"},
    "google.protobuf.FieldMask": {"type": "string"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Any": {"type": "object", "properties": {"@type": {"type": "string"}}},
    "google.protobuf.BoolValue": {"type": "boolean", "nullable": True},
    "google.protobuf.StringValue": {"type": "string", "nullable": True},
    "google.protobuf.BytesValue": {"type": "string", "format": "byte", "nullable": True},
    "google.protobuf.Int32Value": {"type": "integer", "format": "int32", "nullable": True},
    "google.protobuf.UInt32Value": {"type": "integer", "format": "int64", "nullable": True},
    "google.protobuf.Int64Value": {"type": "string", "format": "int64", "nullable": True},
    "google.protobuf.UInt64Value": {"type": "string", "format": "uint64", "nullable": True},
    "google.protobuf.FloatValue": {"type": "number", "format": "float", "nullable": True},
    "google.protobuf.DoubleValue": {"type": "number", "format": "double", "nullable": True},
}

_SCALARS: dict[int, _Schema] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "format": "byte"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_SINT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_SFIXED32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "format": "int64"},
    FieldDescriptor.TYPE_FIXED32: {"type": "integer", "format": "int64"},
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64"},
    FieldDescriptor.TYPE_SINT64: {"type": "string", "format": "int64"},
    FieldDescriptor.TYPE_SFIXED64: {"type": "string", "format": "int64"},
    FieldDescriptor.TYPE_UINT64: {"type": "string", "format": "uint64"},
    FieldDescriptor.TYPE_FIXED64: {"type": "string", "format": "uint64"},
}


class Document:
    """The document, made when first asked for."""

    def __init__(self, known: Sequence[Binding]) -> None:
        self._known = known
        self._made: asyncio.Future[bytes] | None = None

    async def handle(self, _: web.Request) -> web.Response:
        if self._made is None:
            self._made = asyncio.ensure_future(asyncio.to_thread(lambda: json.dumps(openapi(self._known)).encode()))
        return web.Response(body=await asyncio.shield(self._made), content_type="application/json")


def openapi(known: Sequence[Binding]) -> dict[str, Any]:
    """An OpenAPI 3.0 document that describes `known`."""
    schemas: dict[str, _Schema] = {}
    paths: dict[str, dict[str, Any]] = {}
    ids: dict[str, int] = {}
    for binding in known:
        name = binding.method.name
        ids[name] = ids.get(name, 0) + 1
        operation = _operation(binding, schemas)
        operation["operationId"] = name if ids[name] == 1 else f"{name}{ids[name]}"
        paths.setdefault(binding.template, {})[binding.verb.lower()] = operation
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Aerodrome",
            "version": "v1",
            "description": "The Flyte control plane over HTTP. Names are those of the contract; JSON requests may use "
            "lowerCamelCase too. Bodies may also be binary protobuf, as application/octet-stream.",
        },
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


def _operation(binding: Binding, schemas: dict[str, _Schema]) -> dict[str, Any]:
    parameters = [
        {
            "name": ".".join(step.name for step in path),
            "in": "path",
            "required": True,
            "schema": _field(path[-1], schemas),
        }
        for path in binding.variables
    ]
    operation: dict[str, Any] = {
        "tags": [binding.method.containing_service.name],
        "parameters": parameters,
        "responses": {
            "200": {"description": "The answer.", "content": _content(_message(binding.response, schemas))},
            "default": {
                "description": "A google.rpc.Status that says what is wrong.",
                "content": _content(_status(schemas)),
            },
        },
    }
    if binding.body == "*":
        operation["requestBody"] = {"required": True, "content": _content(_message(binding.request, schemas))}
        return operation
    taken = {str(each["name"]) for each in parameters}
    if binding.body:
        taken.add(binding.body)
        field = binding.request.fields_by_name[binding.body]
        operation["requestBody"] = {"required": True, "content": _content(_field(field, schemas))}
    parameters.extend(
        {"name": name, "in": "query", "required": False, "schema": _field(field, schemas)}
        for name, field in _leaves(binding.request, "", ())
        if name not in taken and not any(name.startswith(f"{each}.") for each in taken)
    )
    return operation


def _leaves(message: Descriptor, prefix: str, above: tuple[str, ...]) -> Iterator[tuple[str, FieldDescriptor]]:
    """The fields below `message` that a query can set, by their dotted names."""
    for field in message.fields:
        inside = field.message_type
        if inside is None or inside.full_name in _WELL_KNOWN:
            yield f"{prefix}{field.name}", field
        elif not field.is_repeated and inside.full_name not in above:
            yield from _leaves(inside, f"{prefix}{field.name}.", (*above, message.full_name))


def _content(schema: _Schema) -> dict[str, Any]:
    return {
        "application/json": {"schema": schema},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }


def _status(schemas: dict[str, _Schema]) -> _Schema:
    schemas["google.rpc.Status"] = {
        "type": "object",
        "properties": {
            "code": {"type": "integer", "format": "int32"},
            "message": {"type": "string"},
            "details": {"type": "array", "items": _WELL_KNOWN["google.protobuf.Any"]},
        },
    }
    return {"$ref": "#/components/schemas/google.rpc.Status"}


def _message(message: Descriptor, schemas: dict[str, _Schema]) -> _Schema:
    known = _WELL_KNOWN.get(message.full_name)
    if known is not None:
        return known
    if message.full_name not in schemas:
        schema: _Schema = {"type": "object", "properties": {}}
        schemas[message.full_name] = schema  # types contain themselves
        schema["properties"].update({field.name: _field(field, schemas) for field in message.fields})
    return {"$ref": f"#/components/schemas/{message.full_name}"}


def _field(field: FieldDescriptor, schemas: dict[str, _Schema]) -> _Schema:
    inside = field.message_type
    if inside is not None and inside.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": _field(inside.fields_by_name["value"], schemas)}
    one = _one(field, schemas)
    return {"type": "array", "items": one} if field.is_repeated else one


def _one(field: FieldDescriptor, schemas: dict[str, _Schema]) -> _Schema:
    if field.message_type is not None:
        return _message(field.message_type, schemas)
    if field.enum_type is not None:
        return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    return _SCALARS.get(field.type, {"type": "string"})
