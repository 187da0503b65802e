"""Literals as people read them: complete where they are small, bounded where they are not, never an error."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from flyteidl.core import literals_pb2, types_pb2
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.console import entities, literals
from aerodrome.console.literals import Value


def primitive(**fields: Any) -> Any:
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(**fields)))


def binary(value: bytes, tag: str = "msgpack") -> Any:
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(binary=literals_pb2.Binary(value=value, tag=tag)))


def test_primitives() -> None:
    instant = literals_pb2.Primitive()
    instant.datetime.FromJsonString("2024-05-01T10:00:00.25Z")
    span = literals_pb2.Primitive()
    span.duration.FromMilliseconds(90_500)
    for literal, value in (
        (primitive(integer=-(2**63)), Value("number", str(-(2**63)))),
        (primitive(float_value=0.1), Value("number", "0.1")),
        (primitive(boolean=False), Value("number", "false")),
        (primitive(string_value=""), Value("text", "")),
        (
            literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=instant)),
            Value("time", "2024-05-01 10:00:00.25 UTC"),
        ),
        (literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=span)), Value("time", "1 min 30 s", "90.5 seconds")),
    ):
        assert literals.of_literal(literal) == value


def test_references() -> None:
    blob = literals_pb2.Literal()
    blob.scalar.blob.uri = "s3://b/k"
    blob.scalar.blob.metadata.type.format = "csv"
    assert literals.of_literal(blob) == Value("uri", "s3://b/k", "file, csv")
    blob.scalar.blob.metadata.type.dimensionality = types_pb2.BlobType.MULTIPART
    assert literals.of_literal(blob).note == "directory, csv"
    dataset = literals_pb2.Literal()
    dataset.scalar.structured_dataset.uri = "/data"
    dataset.scalar.structured_dataset.metadata.structured_dataset_type.columns.add(name="a")
    assert literals.of_literal(dataset) == Value("uri", "/data", "dataset; a")
    offloaded = literals_pb2.Literal()
    offloaded.offloaded_metadata.uri = "/far"
    offloaded.offloaded_metadata.size_bytes = 3 * 1024 * 1024
    assert literals.of_literal(offloaded) == Value("uri", "/far", "stored apart, 3.0 MiB")


def test_dataclasses_are_shown_as_their_fields() -> None:
    assert literals.of_literal(binary(msgpack.packb({"a": [1, 2.5], 3: None}))).text == (
        '{\n  "a": [\n    1,\n    2.5\n  ],\n  "3": null\n}'
    )


@given(st.binary(max_size=50))
def test_bytes_of_any_kind_can_be_shown(data: bytes) -> None:
    for tag in ("msgpack", "other", ""):
        shown = literals.of_literal(binary(data, tag))
        assert shown.kind in ("json", "none")


def test_a_union_is_the_value_inside() -> None:
    union = literals_pb2.Literal()
    union.scalar.union.value.CopyFrom(primitive(integer=1))
    assert literals.of_literal(union) == Value("number", "1")


def test_collections_are_bounded_and_say_so() -> None:
    many = literals_pb2.Literal()
    for index in range(literals.MAX_ITEMS + 5):
        many.collection.literals.add().CopyFrom(primitive(integer=index))
    shown = literals.of_literal(many)
    assert (len(shown.entries), shown.more) == (literals.MAX_ITEMS, 5)
    assert literals.of_literal(primitive(string_value="x" * 10_000)).text.endswith("… (10000 characters)")


def count(value: Value) -> int:
    return 1 + sum(count(each) for _, each in value.entries)


def test_lists_of_lists_of_lists_are_bounded_in_all() -> None:
    outer = literals_pb2.LiteralMap()
    for _ in range(40):
        row = outer.literals["x"].collection.literals.add()
        for _ in range(40):
            cell = row.collection.literals.add()
            for _ in range(40):
                cell.collection.literals.add().CopyFrom(primitive(integer=1))
    shown = literals.of_map(outer)
    assert count(shown) <= literals.MAX_VALUES + 1
    assert shown.entries[0][1].entries[-1][1].more > 0


@pytest.mark.parametrize("kind", ["collection", "map", "union"])
def test_nesting_is_bounded(kind: str) -> None:
    literal = primitive(integer=1)
    for _ in range(25):
        outer = literals_pb2.Literal()
        if kind == "collection":
            outer.collection.literals.add().CopyFrom(literal)
        elif kind == "map":
            outer.map.literals["x"].CopyFrom(literal)
        else:
            outer.scalar.union.value.CopyFrom(literal)
        literal = outer
    shown = literals.of_literal(literal)
    while shown.entries:
        shown = shown.entries[0][1]
    assert "nested" in shown.text


def test_deep_msgpack_is_not_followed_without_end() -> None:
    assert literals.of_literal(binary(b"\x91" * 900 + b"\x01")).kind in ("json", "none")
    assert literals.of_literal(binary(b"\x91" * 100_000)).kind == "none"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0004, "0 ms"), (0.25, "250 ms"), (1.25, "1.2 s"), (59.94, "59.9 s"), (61, "1 min 1 s"), (120, "2 min"),
        (3_600, "1 h"), (5_400, "1 h 30 min"), (90_000, "1 d 1 h"), (-5, "-5.0 s"),
    ],
)  # fmt: skip
def test_spans(seconds: float, text: str) -> None:
    assert literals.span(seconds) == text


@given(st.floats(min_value=0, max_value=1e9))
def test_every_span_has_a_text(seconds: float) -> None:
    assert literals.span(seconds)[-1] in "smhdn"


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 999_999_999))
def test_every_instant_has_a_text(seconds: int, nanos: int) -> None:
    literal = literals_pb2.Literal()
    literal.scalar.primitive.datetime.seconds = seconds
    literal.scalar.primitive.datetime.nanos = nanos
    assert literals.of_literal(literal).text


def test_types_in_words() -> None:
    kind = types_pb2.LiteralType
    simple = kind(simple=types_pb2.INTEGER)
    for found, text in (
        (simple, "integer"),
        (kind(collection_type=simple), "list of integer"),
        (kind(map_value_type=simple), "map of integer"),
        (kind(enum_type=types_pb2.EnumType(values=["a", "b"])), "one of a, b"),
        (kind(union_type=types_pb2.UnionType(variants=[simple, kind(simple=types_pb2.NONE)])), "integer or none"),
        (kind(blob=types_pb2.BlobType(format="csv")), "file (csv)"),
        (kind(structured_dataset_type=types_pb2.StructuredDatasetType()), "dataset"),
        (kind(schema=types_pb2.SchemaType()), "schema"),
        (kind(), "unknown"),
    ):
        assert entities.type_text(found) == text
