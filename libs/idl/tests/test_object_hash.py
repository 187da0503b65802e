"""The content hash: golden values of the reference, and the rule of section 4.3 written out a second time."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pytest
from flyteidl.core import interface_pb2, literals_pb2, types_pb2
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.idl.object_hash import json_hash, number_text, object_hash, object_hash_text


def integer(value: int) -> literals_pb2.Literal:
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(integer=value)))


def test_golden_values_of_interfaces_and_inputs() -> None:
    variable = interface_pb2.Variable(type=types_pb2.LiteralType(simple=types_pb2.INTEGER))
    assert object_hash_text(interface_pb2.VariableMap())[:8] == "GKw-c0Pw"
    assert object_hash_text(interface_pb2.VariableMap(variables={"1": variable, "2": variable}))[:8] == "UxVtPm0k"
    assert (
        object_hash_text(literals_pb2.LiteralMap(literals={"1": integer(1), "2": integer(2)}))
        == "GQid5LjHbakcW68DS3P2jp80QLbiF0olFHF2hTh5bg8"
    )


def test_digest_has_32_bytes_and_its_text_has_no_padding() -> None:
    assert len(object_hash(literals_pb2.LiteralMap())) == 32
    assert len(object_hash_text(literals_pb2.LiteralMap())) == 43


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "+0:"),
        (-0.0, "+0:"),
        (1.0, "+0:1"),
        (2.0, "+1:1"),
        (0.5, "+-1:1"),
        (3.0, "+2:011"),
        (-1.5, "-1:011"),
        (2.0**1000, "+1000:1"),
    ],
)
def test_numbers_are_hashed_by_sign_exponent_and_bits(value: float, text: str) -> None:
    assert number_text(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_number_text_follows_the_written_rule(value: float) -> None:
    assert number_text(value) == number_by_the_rule(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="no place"):
        number_text(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_trees_are_hashed_by_the_written_rule(value: Any) -> None:
    assert json_hash(value) == tree_by_the_rule(value)


@given(st.dictionaries(st.text(max_size=6), st.integers(-(2**63), 2**63 - 1), max_size=6))
def test_order_of_map_entries_does_not_matter(values: dict[str, int]) -> None:
    forwards = literals_pb2.LiteralMap(literals={name: integer(value) for name, value in values.items()})
    backwards = literals_pb2.LiteralMap(literals={name: integer(values[name]) for name in reversed(values)})
    assert object_hash(forwards) == object_hash(backwards)


def test_64_bit_integers_count_as_text_and_stay_exact() -> None:
    assert object_hash(integer(2**53)) != object_hash(integer(2**53 + 1))


def test_a_struct_counts_as_the_json_it_holds() -> None:
    struct = struct_pb2.Struct()
    struct.update({"a": 1, "b": [True, None, "x"]})
    assert object_hash(struct) == json_hash({"a": 1.0, "b": [True, None, "x"]})


def test_a_struct_with_nan_is_refused() -> None:
    struct = struct_pb2.Struct(fields={"a": struct_pb2.Value(number_value=math.nan)})
    with pytest.raises(ValueError):
        object_hash(struct)


def test_nan_of_a_literal_is_text_in_json_and_has_a_hash() -> None:
    literal = literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(float_value=math.nan)))
    assert object_hash(literal) == json_hash({"scalar": {"primitive": {"floatValue": "NaN"}}})


def number_by_the_rule(value: float) -> str:
    if value == 0:
        return "+0:"
    sign, rest, exponent = ("-" if value < 0 else "+"), abs(value), 0
    while rest > 1:
        rest, exponent = rest / 2, exponent + 1
    while rest <= 0.5:
        rest, exponent = rest * 2, exponent - 1
    bits = ""
    while rest:
        bit = rest >= 1
        bits, rest = bits + "01"[bit], (rest - bit) * 2
    return f"{sign}{exponent}:{bits}"


def tree_by_the_rule(value: Any) -> bytes:
    def digest(data: bytes) -> bytes:
        return hashlib.sha256(data).digest()

    match value:
        case None:
            return digest(b"n")
        case bool():
            return digest(b"b" + str(int(value)).encode())
        case str():
            return digest(b"u" + value.encode())
        case float():
            return digest(b"f" + number_by_the_rule(value).encode())
        case list():
            return digest(b"l" + b"".join(tree_by_the_rule(item) for item in value))
    pairs = {tree_by_the_rule(key): tree_by_the_rule(member) for key, member in value.items()}
    return digest(b"d" + b"".join(key + pairs[key] for key in sorted(pairs)))
