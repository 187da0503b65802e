"""The cache key: golden values, what counts, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flyteidl.core import identifier_pb2, interface_pb2, literals_pb2, tasks_pb2, types_pb2
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.idl.object_hash import object_hash_text
from aerodrome.plugins.api import PluginError
from aerodrome.plugins.catalog_key import cache_key, hashified, interface_hash, stripped_type, tag_name

Make = Callable[..., Any]
INTEGER = types_pb2.LiteralType(simple=types_pb2.INTEGER)


def integer(value: int, **more: Any) -> literals_pb2.Literal:
    primitive = literals_pb2.Primitive(integer=value)
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=primitive), **more)


def inputs(**values: literals_pb2.Literal) -> literals_pb2.LiteralMap:
    return literals_pb2.LiteralMap(literals=values)


def variables(**types: types_pb2.LiteralType) -> interface_pb2.VariableMap:
    return interface_pb2.VariableMap(variables={name: interface_pb2.Variable(type=t) for name, t in types.items()})


def test_golden_values() -> None:
    assert interface_hash(interface_pb2.VariableMap()) == "GKw-c0Pw"
    assert interface_hash(variables(**{"1": INTEGER, "2": INTEGER})) == "UxVtPm0k"
    golden = literals_pb2.LiteralMap(literals={"1": integer(1), "2": integer(2)})
    assert tag_name(golden) == "flyte_cached-GQid5LjHbakcW68DS3P2jp80QLbiF0olFHF2hTh5bg8"
    assert tag_name(literals_pb2.LiteralMap()) == "flyte_cached-GKw-c0PwFokMUQ6T-TUmEWnZ4_VlQ2Qpgw-vCTT0-OQ"


def test_the_dataset_is_of_the_task_its_cache_version_and_its_interface(make_task: Make) -> None:
    interface = interface_pb2.TypedInterface(inputs=variables(**{"1": INTEGER, "2": INTEGER}))
    task = make_task(interface=interface, metadata=tasks_pb2.TaskMetadata(discovery_version=" 1.0 "))
    key = cache_key(task, inputs())
    assert (key.dataset.project, key.dataset.domain) == ("shop", "development")
    assert key.dataset.name == "flyte_task-app.Train"
    assert key.dataset.version == "1.0-UxVtPm0k-GKw-c0Pw"
    assert (key.dataset.UUID, key.dataset.org) == ("", "")
    assert key.identifier() == identifier_pb2.Identifier(
        resource_type=identifier_pb2.DATASET,
        project="shop",
        domain="development",
        name="flyte_task-app.Train",
        version="1.0-UxVtPm0k-GKw-c0Pw",
    )


def test_a_node_may_override_the_version_and_a_map_item_the_interface(make_task: Make) -> None:
    task = make_task(metadata=tasks_pb2.TaskMetadata(discovery_version="1"))
    interface = interface_pb2.TypedInterface(outputs=variables(**{"1": INTEGER, "2": INTEGER}))
    assert cache_key(task, inputs(), cache_version="2").dataset.version == "2-GKw-c0Pw-GKw-c0Pw"
    assert cache_key(task, inputs(), interface=interface).dataset.version == "1-GKw-c0Pw-UxVtPm0k"


@pytest.mark.parametrize("version", ["", "  "])
def test_caching_without_a_version_is_an_error(make_task: Make, version: str) -> None:
    with pytest.raises(PluginError, match=r"app\.Train is cached but has no cache version"):
        cache_key(make_task(metadata=tasks_pb2.TaskMetadata(discovery_version=version)), inputs())


def test_ignored_inputs_do_not_count(make_task: Make) -> None:
    task = make_task(metadata=tasks_pb2.TaskMetadata(discovery_version="1", cache_ignore_input_vars=["b"]))
    assert cache_key(task, inputs(a=integer(1), b=integer(2))).tag == tag_name(inputs(a=integer(1)))


def test_a_literal_with_a_hash_counts_by_its_hash_alone_at_every_depth() -> None:
    small, large = integer(1, hash="h"), literals_pb2.Literal(hash="h")
    assert hashified(small) == large
    for wrap in (in_list, in_map):
        assert tag_name(inputs(x=wrap(small))) == tag_name(inputs(x=wrap(large)))
        assert tag_name(inputs(x=wrap(small))) != tag_name(inputs(x=wrap(integer(1))))


def in_list(one: literals_pb2.Literal) -> literals_pb2.Literal:
    return literals_pb2.Literal(collection=literals_pb2.LiteralCollection(literals=[one]))


def in_map(one: literals_pb2.Literal) -> literals_pb2.Literal:
    return literals_pb2.Literal(map=literals_pb2.LiteralMap(literals={"k": one}))


def test_hashing_leaves_the_inputs_as_they_are() -> None:
    given_inputs = inputs(x=integer(1, hash="h"))
    before = given_inputs.SerializeToString(deterministic=True)
    tag_name(given_inputs)
    assert given_inputs.SerializeToString(deterministic=True) == before


def annotated(**annotations: Any) -> types_pb2.TypeAnnotation:
    struct = struct_pb2.Struct()
    struct.update(annotations)
    return types_pb2.TypeAnnotation(annotations=struct)


def metadata() -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update({"schema": "x"})
    return struct


NOISY = types_pb2.LiteralType(simple=types_pb2.INTEGER, metadata=metadata(), annotation=annotated(doc="x"))


@pytest.mark.parametrize(
    ("noisy", "plain"),
    [
        (NOISY, INTEGER),
        (types_pb2.LiteralType(collection_type=NOISY), types_pb2.LiteralType(collection_type=INTEGER)),
        (types_pb2.LiteralType(map_value_type=NOISY), types_pb2.LiteralType(map_value_type=INTEGER)),
        (
            types_pb2.LiteralType(union_type=types_pb2.UnionType(variants=[NOISY, NOISY])),
            types_pb2.LiteralType(union_type=types_pb2.UnionType(variants=[INTEGER, INTEGER])),
        ),
        (
            types_pb2.LiteralType(
                structured_dataset_type=types_pb2.StructuredDatasetType(
                    columns=[types_pb2.StructuredDatasetType.DatasetColumn(name="c", literal_type=NOISY)]
                )
            ),
            types_pb2.LiteralType(
                structured_dataset_type=types_pb2.StructuredDatasetType(
                    columns=[types_pb2.StructuredDatasetType.DatasetColumn(name="c", literal_type=INTEGER)]
                )
            ),
        ),
    ],
)
def test_metadata_and_annotations_do_not_count(noisy: types_pb2.LiteralType, plain: types_pb2.LiteralType) -> None:
    assert stripped_type(noisy) == plain
    assert interface_hash(variables(x=noisy)) == interface_hash(variables(x=plain))


def test_descriptions_do_not_count() -> None:
    described = interface_pb2.VariableMap(variables={"x": interface_pb2.Variable(type=INTEGER, description="an x")})
    assert interface_hash(described) == interface_hash(variables(x=INTEGER))


def test_what_is_meant_for_the_key_and_the_structure_do_count() -> None:
    keyed = types_pb2.LiteralType(simple=types_pb2.STRUCT, annotation=annotated(**{"cache-key-metadata": {"v": 1}}))
    tagged = types_pb2.LiteralType(simple=types_pb2.STRUCT, structure=types_pb2.TypeStructure(tag="T"))
    plain = types_pb2.LiteralType(simple=types_pb2.STRUCT)
    assert len({interface_hash(variables(x=kind)) for kind in (keyed, tagged, plain)}) == 3


@given(st.dictionaries(st.text(max_size=5), st.integers(-10, 10), max_size=5))
def test_the_order_of_inputs_does_not_matter(values: dict[str, int]) -> None:
    forwards = literals_pb2.LiteralMap(literals={name: integer(value) for name, value in values.items()})
    backwards = literals_pb2.LiteralMap(literals={name: integer(values[name]) for name in reversed(values)})
    assert tag_name(forwards) == tag_name(backwards)


@given(st.dictionaries(st.text(max_size=80), st.integers(-(2**62), 2**62), max_size=6))
def test_the_hash_of_each_input_is_of_the_same_bytes_as_the_tag(values: dict[str, int]) -> None:
    given_inputs = literals_pb2.LiteralMap(literals={name: integer(value) for name, value in values.items()})
    template = tasks_pb2.TaskTemplate(metadata=tasks_pb2.TaskMetadata(discovery_version="1"))
    key = cache_key(template, given_inputs)
    assert key.tag == f"flyte_cached-{object_hash_text(given_inputs)}"
    assert key.input_hashes == {name: object_hash_text(integer(value)) for name, value in values.items()}


def test_an_input_that_cannot_be_hashed_is_named(make_task: Make) -> None:
    generic = struct_pb2.Struct(fields={"x": struct_pb2.Value(number_value=float("nan"))})
    broken = literals_pb2.Literal(scalar=literals_pb2.Scalar(generic=generic))
    task = make_task(metadata=tasks_pb2.TaskMetadata(discovery_version="1"))
    with pytest.raises(PluginError, match="input config cannot be part of a cache key"):
        cache_key(task, inputs(config=broken))


def test_the_reference_names_a_variable_map_of_one_string() -> None:
    assert interface_hash(variables(test=types_pb2.LiteralType(simple=types_pb2.STRING))) == "ue5g6uuI"


def test_a_literal_that_is_large_enough_to_be_stored_gets_the_hash_of_its_map() -> None:
    text = literals_pb2.Literal(
        scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(string_value="output1-stringval"))
    )
    assert object_hash_text(inputs(out1=text)) == "BE6CZsMk6N3ExR_4X9EuwBgj2Jh2UwasXK3a_pM9xlY"
