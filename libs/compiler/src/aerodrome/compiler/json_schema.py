"""Whether every value of one dataclass can be read as another, judged by their JSON schemas.

flytekit stores the schema of a dataclass in `LiteralType.metadata`: draft 2020-12 in place, or draft 7 with
definitions and references.  Only what decides compatibility is read: properties, items, variants, enumerations,
types.  A value with more fields than asked for is accepted, one with fewer is not.  Source: control-plane
specification, section 2.7.
"""

from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

MAX_STEPS = 20_000
"""Pairs of sub-schemas compared before two schemas count as incompatible."""

_VARIANTS = ("anyOf", "oneOf")


def covers(upstream: Struct, downstream: Struct) -> bool:
    """Whether what `upstream` describes has all that `downstream` asks for, recursively and with compatible types.

    Schemas that are too large to compare (more than `MAX_STEPS` pairs) are not compatible.
    """
    if upstream == downstream:
        return True
    return _Comparison(_plain_object(upstream), _plain_object(downstream)).run()


def _plain_object(struct: Struct) -> dict[str, Any]:
    return {name: _plain(value) for name, value in struct.fields.items()}


def _plain(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _plain_object(value.struct_value)
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


class _Comparison:
    """One comparison of two schema documents; references are resolved within the document that holds them."""

    def __init__(self, upstream: dict[str, Any], downstream: dict[str, Any]) -> None:
        self._upstream = upstream
        self._downstream = downstream
        self._steps = MAX_STEPS
        self._assumed: set[tuple[int, int]] = set()

    def run(self) -> bool:
        try:
            return self._covers(self._upstream, self._downstream)
        except RecursionError:
            return False

    def _covers(self, up: Any, down: Any) -> bool:
        self._steps -= 1
        if self._steps < 0:
            return False
        up, down = _resolve(up, self._upstream), _resolve(down, self._downstream)
        if down is True or not isinstance(down, dict) or not isinstance(up, dict):
            return down is True or (up is not True and up == down)
        pair = (id(up), id(down))
        if pair in self._assumed:  # a recursive class: true unless something else in it differs
            return True
        self._assumed.add(pair)
        if _variants(up) is not None or _variants(down) is not None:
            return self._covers_variants(_variants(up) or [up], _variants(down) or [down])
        return (
            _types(up) <= _types(down)
            and _values_within(up, down)
            and (not down.get("format") or up.get("format") == down["format"])
            and self._covers_properties(up, down)
            and self._covers_items(up, down)
        )

    def _covers_variants(self, up: list[Any], down: list[Any]) -> bool:
        for have in up:
            for want in down:
                assumed = set(self._assumed)  # what a failed attempt took for granted proves nothing
                if self._covers(have, want):
                    break
                self._assumed = assumed
            else:
                return False
        return True

    def _covers_properties(self, up: dict[str, Any], down: dict[str, Any]) -> bool:
        have, want = _object(up.get("properties")), _object(down.get("properties"))
        if any(name not in have or not self._covers(have[name], field) for name, field in want.items()):
            return False
        want_rest = down.get("additionalProperties")
        if not isinstance(want_rest, dict) or not want_rest:
            return True
        have_rest = up.get("additionalProperties")
        return isinstance(have_rest, dict) and self._covers(have_rest, want_rest)

    def _covers_items(self, up: dict[str, Any], down: dict[str, Any]) -> bool:
        want, have = down.get("items"), up.get("items")
        if isinstance(want, dict) and want and not (isinstance(have, dict) and self._covers(have, want)):
            return False
        want_each, have_each = down.get("prefixItems"), up.get("prefixItems")
        if not isinstance(want_each, list):
            return True
        return (
            isinstance(have_each, list)
            and len(have_each) == len(want_each)
            and all(self._covers(one, other) for one, other in zip(have_each, want_each, strict=True))
        )


def _resolve(schema: Any, document: dict[str, Any]) -> Any:
    """Follow `$ref` within `document`; a reference that leads nowhere, or round in a circle, stays as it is."""
    for _ in range(32):
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if not isinstance(reference, str) or not reference.startswith("#"):
            return schema
        target: Any = document
        for part in reference[1:].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, dict) or name not in target:
                return schema
            target = target[name]
        schema = target
    return schema


def _variants(schema: dict[str, Any]) -> list[Any] | None:
    for name in _VARIANTS:
        variants = schema.get(name)
        if isinstance(variants, list) and variants:
            return variants
    return None


def _types(schema: dict[str, Any]) -> frozenset[str]:
    declared = schema.get("type")
    if isinstance(declared, str):
        return frozenset((declared,))
    if isinstance(declared, list):
        return frozenset(name for name in declared if isinstance(name, str))
    if "properties" in schema or "additionalProperties" in schema:
        return frozenset(("object",))
    return _ANY_TYPE


_ANY_TYPE = frozenset(("object", "array", "string", "number", "integer", "boolean", "null"))


def _values_within(up: dict[str, Any], down: dict[str, Any]) -> bool:
    want = _values(down)
    if want is None:
        return True
    have = _values(up)
    return have is not None and all(value in want for value in have)


def _values(schema: dict[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _object(schema: Any) -> dict[str, Any]:
    return schema if isinstance(schema, dict) else {}
