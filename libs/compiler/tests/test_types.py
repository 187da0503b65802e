"""When types fit, what type a literal has, and how types read."""

from typing import Any

import pytest
from flyteidl.core.literals_pb2 import (
    Binary,
    Blob,
    BlobMetadata,
    Literal,
    LiteralOffloadedMetadata,
    Primitive,
    Scalar,
    StructuredDataset,
    Union,
)
from flyteidl.core.types_pb2 import (
    BlobType,
    EnumType,
    LiteralType,
    SchemaType,
    SimpleType,
    StructuredDatasetType,
    TypeStructure,
)
from google.protobuf.struct_pb2 import Struct
from hypothesis import given, settings
from hypothesis import strategies as st

from aerodrome.compiler import InvalidLiteralType, castable, literal_type, type_text
from aerodrome.compiler.types import MAX_TEXT_CHARS, type_texts

NONE = LiteralType(simple=SimpleType.NONE)
INT = LiteralType(simple=SimpleType.INTEGER)
FLOAT = LiteralType(simple=SimpleType.FLOAT)
STR = LiteralType(simple=SimpleType.STRING)
STRUCT = LiteralType(simple=SimpleType.STRUCT)
ENUM = LiteralType(enum_type=EnumType(values=["red", "blue"]))
Column = SchemaType.SchemaColumn
DatasetColumn = StructuredDatasetType.DatasetColumn


def listed(element: LiteralType) -> LiteralType:
    return LiteralType(collection_type=element)


def mapped(value: LiteralType) -> LiteralType:
    return LiteralType(map_value_type=value)


def union(*variants: LiteralType) -> LiteralType:
    made = LiteralType()
    made.union_type.SetInParent()
    made.union_type.variants.extend(variants)
    return made


def tagged(declared: LiteralType, tag: str) -> LiteralType:
    made = LiteralType()
    made.CopyFrom(declared)
    made.structure.CopyFrom(TypeStructure(tag=tag))
    return made


def blob(form: str = "", dimensionality: int = 0) -> LiteralType:
    return LiteralType(blob=BlobType(format=form, dimensionality=dimensionality))  # type: ignore[arg-type]


def schema(**columns: Any) -> LiteralType:
    return LiteralType(schema=SchemaType(columns=[Column(name=n, type=t) for n, t in columns.items()]))


def dataset(form: str = "", **columns: LiteralType) -> LiteralType:
    made = [DatasetColumn(name=name, literal_type=declared) for name, declared in columns.items()]
    return LiteralType(structured_dataset_type=StructuredDatasetType(format=form, columns=made))


def dataclass_type(schema: dict[str, Any]) -> LiteralType:
    metadata = Struct()
    metadata.update(schema)
    return LiteralType(simple=SimpleType.STRUCT, metadata=metadata)


def klass(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "title": "C", "properties": fields, "additionalProperties": False}


INTEGER, TEXT = {"type": "integer"}, {"type": "string"}
SMALL = dataclass_type(klass(a=INTEGER))
BIGGER = dataclass_type(klass(a=INTEGER, b=TEXT))
RECURSIVE = {"$ref": "#/definitions/N", "definitions": {"N": klass(next={"$ref": "#/definitions/N"}, a=INTEGER)}}
RECURSIVE_BIGGER = {
    "$ref": "#/definitions/N",
    "definitions": {"N": klass(next={"$ref": "#/definitions/N"}, a=INTEGER, b=TEXT)},
}


@pytest.mark.parametrize(
    ("up", "down", "fits"),
    [
        pytest.param(INT, INT, True, id="the same simple type"),
        pytest.param(INT, FLOAT, False, id="no numeric widening"),
        pytest.param(NONE, NONE, True, id="none to none"),
        pytest.param(INT, NONE, False, id="nothing else to none"),
        pytest.param(NONE, INT, False, id="none is no int"),
        pytest.param(INT, union(INT, STR), True, id="one variant accepts"),
        pytest.param(FLOAT, union(INT, STR), False, id="no variant accepts"),
        pytest.param(STR, union(STR, ENUM), False, id="two variants accept: ambiguous"),
        pytest.param(union(INT, STR), union(STR, INT, FLOAT), True, id="each variant casts to some variant"),
        pytest.param(union(INT, FLOAT), union(STR, INT), False, id="one variant casts to none"),
        pytest.param(union(INT), INT, True, id="a union of one variant is that variant"),
        pytest.param(union(INT, NONE), INT, False, id="an optional is not its type"),
        pytest.param(NONE, union(INT, NONE), True, id="none to optional"),
        pytest.param(listed(INT), listed(INT), True, id="lists of the same"),
        pytest.param(listed(INT), listed(union(INT, NONE)), True, id="list to list of optional"),
        pytest.param(listed(NONE), listed(STR), True, id="an empty list"),
        pytest.param(listed(listed(NONE)), listed(listed(STR)), True, id="a list of empty lists"),
        pytest.param(INT, listed(INT), False, id="an element is no list"),
        pytest.param(mapped(INT), listed(INT), False, id="a map is no list"),
        pytest.param(mapped(NONE), mapped(STR), True, id="an empty map"),
        pytest.param(mapped(INT), mapped(STR), False, id="maps of different types"),
        pytest.param(blob("csv"), blob("csv"), True, id="blobs of one format"),
        pytest.param(blob("csv"), blob(), True, id="a blob to any format"),
        pytest.param(blob(), blob("csv"), True, id="any format to a blob"),
        pytest.param(blob("csv"), blob("png"), False, id="blobs of different formats"),
        pytest.param(blob("", 0), blob("", 1), True, id="dimensionality is ignored"),
        pytest.param(STR, blob(), False, id="text is no blob"),
        pytest.param(schema(a=Column.INTEGER), schema(), True, id="schema to any columns"),
        pytest.param(schema(), schema(a=Column.INTEGER), True, id="any columns to schema"),
        pytest.param(schema(a=Column.INTEGER, b=Column.STRING), schema(a=Column.INTEGER), True, id="more columns"),
        pytest.param(schema(b=Column.STRING), schema(a=Column.INTEGER), False, id="fewer columns"),
        pytest.param(schema(a=Column.STRING), schema(a=Column.INTEGER), False, id="a column of another type"),
        pytest.param(dataset("Parquet", a=INT), schema(a=Column.INTEGER), True, id="dataset to schema"),
        pytest.param(dataset("csv", a=INT), schema(a=Column.INTEGER), False, id="csv dataset to schema"),
        pytest.param(dataset("", a=STR), schema(a=Column.INTEGER), False, id="dataset to schema of another type"),
        pytest.param(NONE, schema(), False, id="none to schema"),
        pytest.param(NONE, dataset(), True, id="none to dataset"),
        pytest.param(dataset("PARQUET"), dataset("parquet"), True, id="formats of datasets without case"),
        pytest.param(dataset("csv"), dataset("parquet"), False, id="datasets of different formats"),
        pytest.param(dataset("", a=INT, b=STR), dataset("", a=INT), True, id="dataset with more columns"),
        pytest.param(dataset("", b=STR), dataset("", a=INT), False, id="dataset with fewer columns"),
        pytest.param(schema(a=Column.INTEGER), dataset("parquet", a=INT), True, id="schema to dataset"),
        pytest.param(schema(a=Column.INTEGER), dataset("csv", a=INT), False, id="schema to csv dataset"),
        pytest.param(schema(a=Column.STRING), dataset("", a=INT), False, id="schema to dataset of another type"),
        pytest.param(ENUM, STR, True, id="enum to text"),
        pytest.param(STR, ENUM, True, id="text to enum"),
        pytest.param(ENUM, LiteralType(enum_type=EnumType(values=["red"])), False, id="another enum"),
        pytest.param(tagged(INT, "int"), tagged(INT, "int"), True, id="the same tag"),
        pytest.param(tagged(INT, "int"), tagged(INT, "bigint"), False, id="another tag"),
        pytest.param(tagged(INT, "int"), INT, False, id="a tag that is not asked for"),
        pytest.param(INT, tagged(INT, "int"), True, id="no tag where one is asked for"),
        pytest.param(STRUCT, SMALL, True, id="struct without schema to a dataclass"),
        pytest.param(SMALL, STRUCT, True, id="a dataclass to struct"),
        pytest.param(BIGGER, SMALL, True, id="a dataclass with more fields"),
        pytest.param(SMALL, BIGGER, False, id="a dataclass with fewer fields"),
        pytest.param(dataclass_type(klass(a=TEXT)), SMALL, False, id="a field of another type"),
        pytest.param(
            dataclass_type(klass(c=klass(a=INTEGER, b=TEXT))),
            dataclass_type(klass(c=klass(a=INTEGER))),
            True,
            id="more fields in a nested dataclass",
        ),
        pytest.param(
            dataclass_type(klass(c=klass(a=INTEGER))),
            dataclass_type(klass(c=klass(a=INTEGER, b=TEXT))),
            False,
            id="fewer fields in a nested dataclass",
        ),
        pytest.param(dataclass_type(RECURSIVE_BIGGER), dataclass_type(RECURSIVE), True, id="a recursive dataclass"),
        pytest.param(dataclass_type(RECURSIVE), dataclass_type(RECURSIVE_BIGGER), False, id="recursive, fewer fields"),
        pytest.param(
            dataclass_type(klass(a=INTEGER)),
            dataclass_type(klass(a={"anyOf": [INTEGER, {"type": "null"}]})),
            True,
            id="a field that became optional",
        ),
        pytest.param(
            dataclass_type(klass(a={"anyOf": [INTEGER, {"type": "null"}]})),
            dataclass_type(klass(a=INTEGER)),
            False,
            id="a field that is no longer optional",
        ),
        pytest.param(
            dataclass_type(klass(a={"type": "array", "items": klass(x=INTEGER, y=TEXT)})),
            dataclass_type(klass(a={"type": "array", "items": klass(x=INTEGER)})),
            True,
            id="a list field of a bigger dataclass",
        ),
        pytest.param(
            dataclass_type(klass(a={"type": "object", "additionalProperties": TEXT})),
            dataclass_type(klass(a={"type": "object", "additionalProperties": INTEGER})),
            False,
            id="a map field of another type",
        ),
        pytest.param(
            dataclass_type(klass(a={"enum": ["x"]})),
            dataclass_type(klass(a={"enum": ["x", "y"]})),
            True,
            id="an enum field with fewer values",
        ),
        pytest.param(
            dataclass_type(klass(a={"enum": ["x", "z"]})),
            dataclass_type(klass(a={"enum": ["x", "y"]})),
            False,
            id="an enum field with other values",
        ),
        pytest.param(LiteralType(), INT, False, id="no type"),
    ],
)
def test_whether_a_type_fits(up: LiteralType, down: LiteralType, fits: bool) -> None:
    assert castable(up, down) is fits


TYPES = st.recursive(
    st.sampled_from([NONE, INT, FLOAT, STR, STRUCT, ENUM, SMALL, BIGGER, blob("csv"), blob(), schema(), dataset()]),
    lambda inner: st.one_of(
        inner.map(listed),
        inner.map(mapped),
        st.lists(inner, min_size=1, max_size=3).map(lambda variants: union(*variants)),
        inner.map(lambda declared: tagged(declared, "t")),
    ),
    max_leaves=6,
)


@given(TYPES)
def test_every_type_fits_itself(declared: LiteralType) -> None:
    assert castable(declared, declared)


@given(TYPES, TYPES)
def test_lists_and_maps_fit_when_their_elements_do(up: LiteralType, down: LiteralType) -> None:
    fits = castable(up, down) or (up.WhichOneof("type") == "simple" and up.simple == SimpleType.NONE)
    assert castable(listed(up), listed(down)) is fits
    assert castable(mapped(up), mapped(down)) is fits


@given(TYPES)
@settings(max_examples=50)
def test_types_have_short_texts(declared: LiteralType) -> None:
    assert 0 < len(type_text(declared)) <= MAX_TEXT_CHARS


def test_comparing_huge_types_ends_soon_with_no() -> None:
    up, down = INT, STR
    for _ in range(24):  # each level doubles the pairs to be compared
        up, down = union(up), union(down, FLOAT)
    assert not castable(up, down)
    wide = union(*(listed(tagged(INT, str(index))) for index in range(1_000)))
    other = union(*(listed(tagged(STR, str(index))) for index in range(1_000)))
    assert not castable(wide, other)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, INT),
        (1.0, FLOAT),
        ("x", STR),
        (None, NONE),
        ([], listed(NONE)),
        ({}, mapped(NONE)),
        ([1, 2], listed(INT)),
        ({"a": "x"}, mapped(STR)),
        ([1, "x", 2], listed(union(INT, STR))),
        ([[], [1]], listed(listed(INT))),
        ([[], []], listed(listed(NONE))),
    ],
)
def test_the_type_of_a_literal(build: Any, value: Any, expected: LiteralType) -> None:
    assert literal_type(build.literal(value)) == expected


def optional_int(build: Any, value: int | None) -> Literal:
    inner = build.literal(value)
    declared = tagged(INT, "int") if value is not None else tagged(NONE, "none")
    return Literal(scalar=Scalar(union=Union(value=inner, type=declared)))


def test_nested_lists_of_optionals_fit_their_declared_type(build: Any) -> None:
    declared = listed(listed(union(tagged(INT, "int"), tagged(NONE, "none"))))
    rows = [[optional_int(build, 1), optional_int(build, 2)], [optional_int(build, None), optional_int(build, 3)], []]
    assert castable(literal_type(build.literal(rows)), declared)


def test_the_order_of_elements_does_not_change_the_type(build: Any) -> None:
    assert literal_type(build.literal([1, "x", 2.0])) == literal_type(build.literal([2.0, "y", 3, 1]))


@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        (Literal(scalar=Scalar(binary=Binary(tag="msgpack"))), STRUCT),
        (Literal(scalar=Scalar(binary=Binary(tag="x"))), LiteralType(simple=SimpleType.BINARY)),
        (Literal(scalar=Scalar(generic=Struct())), STRUCT),
        (Literal(scalar=Scalar(blob=Blob(metadata=BlobMetadata(type=BlobType(format="csv"))))), blob("csv")),
        (Literal(scalar=Scalar(structured_dataset=StructuredDataset())), dataset()),
        (Literal(scalar=Scalar(union=Union(value=Literal(), type=INT))), union(INT)),
        (Literal(offloaded_metadata=LiteralOffloadedMetadata(uri="s3://x", inferred_type=INT)), INT),
    ],
)
def test_the_type_of_a_special_literal(literal: Literal, expected: LiteralType) -> None:
    assert literal_type(literal) == expected


@pytest.mark.parametrize(
    "literal",
    [
        Literal(),
        Literal(scalar=Scalar()),
        Literal(scalar=Scalar(primitive=Primitive())),
        Literal(scalar=Scalar(blob=Blob(uri="x"))),
        Literal(scalar=Scalar(union=Union())),
        Literal(offloaded_metadata=LiteralOffloadedMetadata(uri="x")),
    ],
)
def test_a_literal_without_a_type_is_refused(build: Any, literal: Literal) -> None:
    with pytest.raises(InvalidLiteralType, match="got unknown literal type"):
        literal_type(literal)
    with pytest.raises(InvalidLiteralType):
        literal_type(build.literal([literal]))


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        (INT, "int"),
        (listed(STR), "List[str]"),
        (mapped(listed(FLOAT)), "Dict[str, List[float]]"),
        (union(INT, NONE), "Optional[int]"),
        (union(INT, STR), "Union[int, str]"),
        (union(INT, STR, NONE), "Optional[Union[int, str]]"),
        (union(NONE), "None"),
        (ENUM, "Enum[red|blue]"),
        (blob("csv"), "File[csv]"),
        (blob("", 1), "Directory"),
        (schema(a=Column.INTEGER), "Schema[a]"),
        (dataset("parquet", a=INT), "StructuredDataset[parquet; a: int]"),
        (LiteralType(), "no type"),
    ],
)
def test_the_text_of_a_type(declared: LiteralType, text: str) -> None:
    assert type_text(declared) == text


def test_types_that_read_the_same_are_told_apart() -> None:
    assert type_texts(tagged(INT, "a"), tagged(INT, "b")) == ("int tagged `a`", "int tagged `b`")
    one, other = type_texts(SMALL, STRUCT)
    assert one != other
