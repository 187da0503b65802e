"""Flyte's type system: which value fits where, which type a value has, and how a type reads in a message.

Both rules are total and bounded: types that are too large to compare are not castable, and a literal that has no type
says so.  Source: control-plane specification, section 2.7.
"""

from collections.abc import Iterable, Mapping

from flyteidl.core.literals_pb2 import Literal, Primitive, Scalar
from flyteidl.core.types_pb2 import (
    LiteralType,
    SchemaType,
    SimpleType,
    StructuredDatasetType,
    TypeStructure,
    UnionType,
)

from aerodrome.compiler import json_schema
from aerodrome.compiler.errors import clip

MAX_STEPS = 20_000
"""Pairs of parts of two types compared before the types count as not castable."""

MAX_TEXT_CHARS = 240
"""Length of the text of one type."""

_SCHEMA_BYTES_PER_STEP = 64
"""Comparing JSON schemas costs as much as comparing one pair of types for so many of their bytes."""

_TEXT_DEPTH = 8
_TEXT_ITEMS = 6

_NONE = LiteralType(simple=SimpleType.NONE)

_SIMPLE_TEXT: Mapping[int, str] = {
    SimpleType.NONE: "None",
    SimpleType.INTEGER: "int",
    SimpleType.FLOAT: "float",
    SimpleType.STRING: "str",
    SimpleType.BOOLEAN: "bool",
    SimpleType.DATETIME: "datetime",
    SimpleType.DURATION: "timedelta",
    SimpleType.BINARY: "binary",
    SimpleType.ERROR: "error",
    SimpleType.STRUCT: "struct",
}

_PRIMITIVE_TYPES: Mapping[str, LiteralType] = {
    "integer": LiteralType(simple=SimpleType.INTEGER),
    "float_value": LiteralType(simple=SimpleType.FLOAT),
    "string_value": LiteralType(simple=SimpleType.STRING),
    "boolean": LiteralType(simple=SimpleType.BOOLEAN),
    "datetime": LiteralType(simple=SimpleType.DATETIME),
    "duration": LiteralType(simple=SimpleType.DURATION),
}

_COLUMN_TYPES: Mapping[int, int] = {
    SchemaType.SchemaColumn.INTEGER: SimpleType.INTEGER,
    SchemaType.SchemaColumn.FLOAT: SimpleType.FLOAT,
    SchemaType.SchemaColumn.STRING: SimpleType.STRING,
    SchemaType.SchemaColumn.BOOLEAN: SimpleType.BOOLEAN,
    SchemaType.SchemaColumn.DATETIME: SimpleType.DATETIME,
    SchemaType.SchemaColumn.DURATION: SimpleType.DURATION,
}
"""How a column type of a schema reads as a simple type."""


class InvalidLiteralType(ValueError):
    """A literal from which no type can be derived."""


# --- castability -----------------------------------------------------------------------------------------------------


class Budget:
    """How much comparing of types may still be done; shared by comparisons that should not take long together."""

    def __init__(self, steps: int) -> None:
        self.left = steps


def castable(upstream: LiteralType, downstream: LiteralType, budget: Budget | None = None) -> bool:
    """Whether a value of type `upstream` may be given to a variable of type `downstream`.

    Types that are too large to compare (more than `MAX_STEPS` pairs of their parts), and all that are compared when the
    `budget` is used up, are not castable.
    """
    if upstream == downstream:
        return True
    steps = MAX_STEPS if budget is None else min(MAX_STEPS, budget.left)
    casting = _Casting(steps)
    try:
        return casting.casts(upstream, downstream)
    except (_TooLarge, RecursionError):
        return False
    finally:
        if budget is not None:
            budget.left -= steps - max(0, casting.left)


def accepts_none(declared: LiteralType) -> bool:
    """Whether a variable of this type may stay unbound: its type is a union with a NONE variant."""
    return declared.WhichOneof("type") == "union_type" and any(
        _is_none(variant) for variant in declared.union_type.variants
    )


class _TooLarge(Exception):
    """The comparison was given up."""


class _Casting:
    """One comparison of two types, which may take only so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def casts(self, up: LiteralType, down: LiteralType) -> bool:
        if up == down:
            return True
        self._spend(1)
        up_kind, down_kind = up.WhichOneof("type"), down.WhichOneof("type")
        if up_kind == "union_type" and len(up.union_type.variants) == 1 and self.casts(up.union_type.variants[0], down):
            return True
        match down_kind:
            case "union_type":
                return self._to_union(up, down.union_type)
            case "collection_type":
                return up_kind == "collection_type" and self._to_element(up.collection_type, down.collection_type)
            case "map_value_type":
                return up_kind == "map_value_type" and self._to_element(up.map_value_type, down.map_value_type)
            case "blob":
                return up_kind == "blob" and (
                    not up.blob.format or not down.blob.format or up.blob.format == down.blob.format
                )
            case "schema":
                return _to_schema(up, down.schema)
            case "structured_dataset_type":
                return self._to_structured_dataset(up, down.structured_dataset_type)
            case _:
                return self._to_trivial(up, down)

    def _spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise _TooLarge

    def _to_union(self, up: LiteralType, down: UnionType) -> bool:
        if up.WhichOneof("type") == "union_type":
            return all(any(self.casts(have, want) for want in down.variants) for have in up.union_type.variants)
        accepting = 0
        for want in down.variants:
            accepting += self.casts(up, want)
            if accepting > 1:
                return False
        return accepting == 1

    def _to_element(self, up: LiteralType, down: LiteralType) -> bool:
        return _is_none(up) or self.casts(up, down)

    def _to_structured_dataset(self, up: LiteralType, down: StructuredDatasetType) -> bool:
        if _is_none(up):
            return True
        want = {column.name: column.literal_type for column in down.columns}
        match up.WhichOneof("type"):
            case "structured_dataset_type":
                dataset = up.structured_dataset_type
                have_format, want_format = dataset.format.lower(), down.format.lower()
                if have_format and want_format and have_format != want_format:
                    return False
                have = {column.name: column.literal_type for column in dataset.columns}
                return not have or not want or all(n in have and self.casts(have[n], t) for n, t in want.items())
            case "schema":
                if down.format.lower() not in ("", "parquet"):
                    return False
                simple = {column.name: _COLUMN_TYPES.get(column.type) for column in up.schema.columns}
                return not simple or not want or all(_is_simple(t, simple.get(n)) for n, t in want.items())
            case _:
                return False

    def _to_trivial(self, up: LiteralType, down: LiteralType) -> bool:
        """Simple types, enumerations, and whatever is declared without a type."""
        if _is_none(down):
            return _is_none(up)
        up_enum, down_enum = up.WhichOneof("type") == "enum_type", down.WhichOneof("type") == "enum_type"
        if (up_enum and _is_simple(down, SimpleType.STRING)) or (down_enum and _is_simple(up, SimpleType.STRING)):
            return True
        if up.structure.tag and up.structure.tag != down.structure.tag:
            return False
        if _is_simple(up, SimpleType.STRUCT) and _is_simple(down, SimpleType.STRUCT):
            if not up.HasField("metadata") or not down.HasField("metadata"):
                return True
            self._spend((up.metadata.ByteSize() + down.metadata.ByteSize()) // _SCHEMA_BYTES_PER_STEP)
            return json_schema.covers(up.metadata, down.metadata)
        return _bare(up) == _bare(down)


def _to_schema(up: LiteralType, down: SchemaType) -> bool:
    want = {column.name: column.type for column in down.columns}
    match up.WhichOneof("type"):
        case "schema":
            have = {column.name: column.type for column in up.schema.columns}
            return not have or not want or all(have.get(name) == kind for name, kind in want.items())
        case "structured_dataset_type":
            dataset = up.structured_dataset_type
            if dataset.format.lower() not in ("", "parquet"):
                return False
            columns = {column.name: column.literal_type for column in dataset.columns}
            return (
                not columns
                or not want
                or all(n in columns and _is_simple(columns[n], _COLUMN_TYPES.get(kind)) for n, kind in want.items())
            )
        case _:
            return False


def _bare(declared: LiteralType) -> LiteralType:
    """The type without what only describes it."""
    bare = LiteralType()
    bare.CopyFrom(declared)
    for field in ("structure", "metadata", "annotation"):
        bare.ClearField(field)
    return bare


def _is_simple(declared: LiteralType, simple: int | None) -> bool:
    return declared.WhichOneof("type") == "simple" and declared.simple == simple


def _is_none(declared: LiteralType) -> bool:
    return _is_simple(declared, SimpleType.NONE)


# --- the type of a literal -------------------------------------------------------------------------------------------


def literal_type(literal: Literal) -> LiteralType:
    """The type that a literal has by itself.

    Elements of different types become a union.  Raises InvalidLiteralType, with a text that says `got unknown literal
    type`, where the literal or one inside it holds nothing that has a type.
    """
    match literal.WhichOneof("value"):
        case "scalar":
            return scalar_type(literal.scalar)
        case "collection":
            return LiteralType(collection_type=_element_type(literal.collection.literals))
        case "map":
            return LiteralType(map_value_type=_element_type(literal.map.literals.values()))
        case "offloaded_metadata":
            inferred = literal.offloaded_metadata.inferred_type
            if inferred.WhichOneof("type") is None:
                raise _unknown("an offloaded value without an inferred type")
            return inferred
        case _:
            raise _unknown("a literal without a value")


def scalar_type(scalar: Scalar) -> LiteralType:
    """The type of a scalar.  Raises InvalidLiteralType where it has none."""
    match scalar.WhichOneof("value"):
        case "primitive":
            return primitive_type(scalar.primitive)
        case "blob":
            if not scalar.blob.metadata.HasField("type"):
                raise _unknown("a blob without a type in its metadata")
            return LiteralType(blob=scalar.blob.metadata.type)
        case "binary":
            simple = SimpleType.STRUCT if scalar.binary.tag == "msgpack" else SimpleType.BINARY
            return LiteralType(simple=simple)
        case "generic":
            return LiteralType(simple=SimpleType.STRUCT)
        case "schema":
            return LiteralType(schema=scalar.schema.type)
        case "structured_dataset":
            return LiteralType(structured_dataset_type=scalar.structured_dataset.metadata.structured_dataset_type)
        case "none_type":
            return _NONE
        case "error":
            return LiteralType(simple=SimpleType.ERROR)
        case "union":
            if scalar.union.type.WhichOneof("type") is None:
                raise _unknown("a union value without its type")
            return LiteralType(union_type=UnionType(variants=[scalar.union.type]))
        case _:
            raise _unknown("a scalar without a value")


def primitive_type(primitive: Primitive) -> LiteralType:
    """The type of a primitive.  Raises InvalidLiteralType where it holds nothing."""
    kind = primitive.WhichOneof("value")
    if kind is None:
        raise _unknown("a primitive without a value")
    return _PRIMITIVE_TYPES[kind]


def _unknown(what: str) -> InvalidLiteralType:
    return InvalidLiteralType(f"got unknown literal type: {what}")


def _element_type(literals: Iterable[Literal]) -> LiteralType:
    """One type for the elements of a collection or a map."""
    distinct: dict[bytes, LiteralType] = {}
    empty: LiteralType | None = None
    last: LiteralType | None = None
    for literal in literals:
        found = literal_type(literal)
        if found is last:  # the types of primitives are shared
            continue
        last = found
        if found.WhichOneof("type") == "collection_type" and _is_none(found.collection_type):
            empty = found  # an empty list among others says nothing about the element type
        else:
            distinct.setdefault(found.SerializeToString(deterministic=True), found)
    if not distinct:
        return empty if empty is not None else _NONE
    if len(distinct) == 1:
        return next(iter(distinct.values()))
    ordered = [distinct[key] for key in sorted(distinct)]
    if not (
        all(one.WhichOneof("type") == "collection_type" for one in ordered)
        and any(one.collection_type.WhichOneof("type") == "union_type" for one in ordered)
    ):
        return LiteralType(union_type=UnionType(variants=ordered))
    variants: dict[bytes, LiteralType] = {}  # lists of optional values: one list of the union of all that they hold
    for one in ordered:
        element = one.collection_type
        inner = element.union_type.variants if element.WhichOneof("type") == "union_type" else [element]
        for variant in inner:
            variants.setdefault(variant.SerializeToString(deterministic=True), variant)
    flattened = [variants[key] for key in sorted(variants)]
    return LiteralType(collection_type=LiteralType(union_type=UnionType(variants=flattened)))


# --- text ------------------------------------------------------------------------------------------------------------


def type_text(declared: LiteralType) -> str:
    """A short readable text of a type, such as `int`, `List[str]`, `Optional[float]`; at most `MAX_TEXT_CHARS` long."""
    return clip(_text(declared, _TEXT_DEPTH), MAX_TEXT_CHARS)


def type_texts(upstream: LiteralType, downstream: LiteralType) -> tuple[str, str]:
    """The texts of two types that do not fit; where they would read the same, with what tells them apart."""
    up, down = type_text(upstream), type_text(downstream)
    if up != down:
        return up, down
    return f"{up}{_detail(upstream)}", f"{down}{_detail(downstream)}"


def _detail(declared: LiteralType) -> str:
    if declared.structure.tag:
        return f" tagged `{clip(declared.structure.tag)}`"
    return " with other fields" if declared.HasField("metadata") else " (another definition)"


def _text(declared: LiteralType, depth: int) -> str:
    if depth <= 0:
        return "..."
    match declared.WhichOneof("type"):
        case "simple":
            return _SIMPLE_TEXT.get(declared.simple, f"simple type {declared.simple}")
        case "collection_type":
            return f"List[{_text(declared.collection_type, depth - 1)}]"
        case "map_value_type":
            return f"Dict[str, {_text(declared.map_value_type, depth - 1)}]"
        case "union_type":
            return _union_text(declared.union_type, depth - 2)
        case "enum_type":
            return f"Enum[{_joined(declared.enum_type.values, '|')}]"
        case "blob":
            name = "Directory" if declared.blob.dimensionality else "File"
            return f"{name}[{clip(declared.blob.format)}]" if declared.blob.format else name
        case "schema":
            return f"Schema[{_joined((column.name for column in declared.schema.columns), ', ')}]"
        case "structured_dataset_type":
            dataset = declared.structured_dataset_type
            columns = _joined((f"{c.name}: {_text(c.literal_type, depth - 2)}" for c in dataset.columns), ", ")
            return f"StructuredDataset[{'; '.join(part for part in (clip(dataset.format), columns) if part)}]"
        case _:
            return "no type"


def _union_text(union: UnionType, depth: int) -> str:
    texts = [_text(variant, depth) for variant in union.variants[:_TEXT_ITEMS] if not _is_none(variant)]
    if len(union.variants) > _TEXT_ITEMS:
        texts.append("...")
    optional = any(_is_none(variant) for variant in union.variants)
    if optional and not texts:
        return "None"
    inner = texts[0] if len(texts) == 1 else f"Union[{', '.join(texts)}]"
    return f"Optional[{inner}]" if optional else inner


def _joined(texts: Iterable[str], separator: str) -> str:
    shown: list[str] = []
    for text in texts:
        if len(shown) == _TEXT_ITEMS:
            shown.append("...")
            break
        shown.append(clip(text))
    return separator.join(shown)


def field_type(declared: LiteralType, selector: str) -> LiteralType | None:
    """The type of one field of a dataclass that declares its fields; None if it has no such field."""
    fields = declared.structure.dataclass_type
    return fields.get(selector)


def declares_fields(structure: TypeStructure) -> bool:
    """Whether a type's structure lists the fields of a dataclass."""
    return len(structure.dataclass_type) > 0
