"""What a launch plan expects, what an execution gets, and the form of an interface that caches compare."""

from typing import Any

import pytest
from flyteidl.core.artifact_id_pb2 import ArtifactQuery
from flyteidl.core.interface_pb2 import Parameter, TypedInterface, Variable
from flyteidl.core.literals_pb2 import Literal, LiteralMap, LiteralOffloadedMetadata, Primitive, Scalar
from flyteidl.core.types_pb2 import LiteralType, SimpleType, StructuredDatasetType
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.compiler import (
    InterfaceError,
    expected_inputs,
    literal_map_problems,
    resolve_execution_inputs,
    strip_interface,
)


def test_expected_inputs_are_defaults_and_all_that_is_not_fixed(build: Any) -> None:
    variables = build.variables(a="int", b="str", c="int", d="int")
    variables.variables["b"].description = "about b"
    expected = expected_inputs(variables, build.parameters(a=("int", 1), d=("int", 4)), build.literals(c=3, d=5))
    assert set(expected.parameters) == {"a", "b", "d"}
    assert expected.parameters["a"].default == build.literal(1)
    assert expected.parameters["d"].default == build.literal(4)
    assert expected.parameters["b"] == Parameter(
        var=Variable(type=build.type("str"), description="about b"), required=True
    )


@pytest.mark.parametrize(
    ("variables", "defaults", "fixed", "message"),
    [
        ({}, {"a": ("int", 1)}, {}, "invalid launch plan default inputs, expected none but found 1"),
        ({}, {}, {"a": 1, "b": 2}, "invalid launch plan fixed inputs, expected none but found 2"),
        ({"a": "int"}, {"b": ("int", 1)}, {}, "unexpected default_input b"),
        (
            {"a": "int"},
            {"a": ("str", "x")},
            {},
            "invalid default_input wrong type a, expected str, got int instead",
        ),
        ({"a": "int"}, {}, {"b": 1}, "unexpected fixed_input b"),
        ({"a": "int"}, {}, {"a": "x"}, "invalid fixed_input wrong type a, expected int, got str instead"),
        (
            {"a": "int"},
            {},
            {"a": Literal()},
            "Failed to validate literal type for [a] with err: got unknown literal type: a literal without a value",
        ),
    ],
)
def test_launch_plans_that_do_not_fit_their_workflow(
    build: Any, variables: Any, defaults: Any, fixed: Any, message: str
) -> None:
    with pytest.raises(InterfaceError) as caught:
        expected_inputs(build.variables(**variables), build.parameters(**defaults), build.literals(**fixed))
    assert str(caught.value) == message


def test_a_workflow_without_inputs_expects_none(build: Any) -> None:
    assert not expected_inputs(build.variables(), build.parameters(), build.literals()).parameters


def test_an_execution_gets_what_is_supplied_then_defaults_then_fixed_values(build: Any) -> None:
    expected = build.parameters(a="int", b=("int", 2), c=("int", 3))
    resolved = resolve_execution_inputs(expected, build.literals(f=6), build.literals(a=1, c=30))
    assert resolved == build.literals(a=1, b=2, c=30, f=6)


@pytest.mark.parametrize(
    ("supplied", "fixed", "message"),
    [
        ({"a": 1, "x": 1}, {}, "invalid input x"),
        ({}, {}, "expected_inputs a missing"),
        ({"a": "x"}, {}, "invalid a input wrong type. Expected int, but got str"),
        ({"a": 1}, {"b": 1}, "fixed_inputs b cannot be overridden"),
        (
            {"a": Literal(scalar=Scalar())},
            {},
            "Failed to validate literal type for [a] with err: got unknown literal type: a scalar without a value",
        ),
    ],
)
def test_inputs_that_an_execution_refuses(build: Any, supplied: Any, fixed: Any, message: str) -> None:
    with pytest.raises(InterfaceError) as caught:
        resolve_execution_inputs(
            build.parameters(a="int", b=("int", 2)), build.literals(**fixed), build.literals(**supplied)
        )
    assert str(caught.value) == message


def test_a_parameter_that_only_an_artifact_could_fill_is_missing(build: Any) -> None:
    expected = build.parameters()
    expected.parameters["a"].CopyFrom(Parameter(var=Variable(type=build.type("int")), artifact_query=ArtifactQuery()))
    with pytest.raises(InterfaceError, match="expected_inputs a missing"):
        resolve_execution_inputs(expected, build.literals(), build.literals())


def test_an_offloaded_value_is_judged_by_its_inferred_type(build: Any) -> None:
    expected = build.parameters(a=build.list_of("int"))
    offloaded = Literal(offloaded_metadata=LiteralOffloadedMetadata(uri="x", inferred_type=build.list_of("int")))
    supplied = LiteralMap(literals={"a": offloaded})
    assert resolve_execution_inputs(expected, LiteralMap(), supplied) == supplied


def test_names_in_messages_are_cut(build: Any) -> None:
    with pytest.raises(InterfaceError) as caught:
        resolve_execution_inputs(build.parameters(), build.literals(), build.literals(**{"x" * 1_000_000: 1}))
    assert len(str(caught.value)) < 200


def moment(seconds: int, nanos: int = 0) -> Literal:
    return Literal(scalar=Scalar(primitive=Primitive(datetime=Timestamp(seconds=seconds, nanos=nanos))))


def test_problems_of_a_literal_map_are_all_found_in_order_of_names(build: Any) -> None:
    literals = build.literals(
        a=moment(0), b=moment(10**15), c=Literal(), d=moment(0, -1), e=[{"k": moment(-(10**15))}], f=1
    )
    literals.literals[""].CopyFrom(build.literal(1))
    assert [problem.split(":")[0] for problem in literal_map_problems("inputs", literals)] == [
        "missing key in inputs",
        "invalid datetime literal in inputs b",
        "missing valid literal in inputs c",
        "invalid datetime literal in inputs d",
        "invalid datetime literal in inputs e",
    ]
    assert literal_map_problems("inputs", build.literals(a=moment(253402300799, 999999999))) == []


def described(declared: LiteralType) -> LiteralType:
    made = LiteralType()
    made.CopyFrom(declared)
    made.metadata.update({"schema": "x"})
    made.annotation.annotations.update({"note": "x"})
    made.structure.tag = "kept"
    return made


def test_stripping_leaves_out_what_only_describes(build: Any) -> None:
    column = StructuredDatasetType.DatasetColumn(name="c", literal_type=described(build.type("int")))
    nested = described(
        build.union(
            described(build.list_of(described(build.map_of(described(build.type("int")))))),
            LiteralType(structured_dataset_type=StructuredDatasetType(columns=[column])),
        )
    )
    interface = TypedInterface(inputs=build.variables(x=nested), outputs=build.variables(y=described(nested)))
    interface.inputs.variables["x"].description = "about x"
    before = interface.SerializeToString(deterministic=True)
    stripped = strip_interface(interface)
    assert interface.SerializeToString(deterministic=True) == before
    text = str(stripped)
    assert "metadata" not in text
    assert "annotation" not in text
    assert "description" not in text
    assert text.count("kept") == str(interface).count("kept")


def test_stripping_keeps_annotations_for_cache_keys(build: Any) -> None:
    declared = described(build.type("int"))
    declared.annotation.annotations.update({"cache-key-metadata": {"version": "1"}})
    stripped = strip_interface(TypedInterface(inputs=build.variables(x=declared)))
    assert stripped.inputs.variables["x"].type.annotation == declared.annotation
    assert not stripped.inputs.variables["x"].type.HasField("metadata")
    assert not stripped.HasField("outputs")


def test_stripping_twice_changes_nothing_more(build: Any) -> None:
    interface = TypedInterface(inputs=build.variables(x=described(build.type("int"))))
    once = strip_interface(interface)
    assert strip_interface(once) == once
    assert once.inputs.variables["x"].type.simple == SimpleType.INTEGER
