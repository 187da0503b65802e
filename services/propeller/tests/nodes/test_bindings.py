"""Bindings resolve to the literals that the reference gives, or fail with the variable's name and the right code.

Source: spec/data-plane.md, 3.3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import msgpack
import pytest
from flyteidl.admin import execution_pb2, matchable_resource_pb2
from flyteidl.core import compiler_pb2, identifier_pb2, literals_pb2, tasks_pb2, types_pb2, workflow_pb2
from google.protobuf import json_format, struct_pb2
from graphs import identifier
from hypothesis import given, settings
from hypothesis import strategies as st

from aerodrome.plugins.api import ErrorKind
from aerodrome.propeller.engine.graph import END, START, Closure
from aerodrome.propeller.engine.state import Scope
from aerodrome.propeller.layout import Layout
from aerodrome.propeller.literals import Literals
from aerodrome.propeller.nodes.bindings import MAX_DEPTH, Unresolvable, attribute, resolve
from aerodrome.propeller.nodes.handler import Run
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.config import StorageConfig
from aerodrome.stdlib.errors import NotFound
from aerodrome.stdlib.storage import open_storage

Literal = literals_pb2.Literal
BindingData = literals_pb2.BindingData


def integer(value: int) -> literals_pb2.Literal:
    return Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(integer=value)))


def text(value: str) -> literals_pb2.Literal:
    return Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(string_value=value)))


def number(value: float) -> literals_pb2.Literal:
    return Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(float_value=value)))


def boolean(value: bool) -> literals_pb2.Literal:
    return Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(boolean=value)))


def collection(*members: literals_pb2.Literal) -> literals_pb2.Literal:
    return Literal(collection=literals_pb2.LiteralCollection(literals=members))


def mapping(**members: literals_pb2.Literal) -> literals_pb2.Literal:
    return Literal(map=literals_pb2.LiteralMap(literals=members))


def generic(value: dict[str, Any]) -> literals_pb2.Literal:
    struct = json_format.ParseDict(value, struct_pb2.Struct())
    return Literal(scalar=literals_pb2.Scalar(generic=struct))


def packed(value: object, tag: str = "msgpack") -> literals_pb2.Literal:
    return Literal(scalar=literals_pb2.Scalar(binary=literals_pb2.Binary(value=msgpack.packb(value), tag=tag)))


def union(inner: literals_pb2.Literal) -> literals_pb2.Literal:
    return Literal(scalar=literals_pb2.Scalar(union=literals_pb2.Union(value=inner)))


def unpacked(literal: literals_pb2.Literal) -> object:
    assert literal.scalar.binary.tag == "msgpack"
    return msgpack.unpackb(literal.scalar.binary.value, strict_map_key=False)  # type: ignore[attr-defined]


def steps(*path: str | int) -> list[types_pb2.PromiseAttribute]:
    return [
        types_pb2.PromiseAttribute(string_value=step)
        if isinstance(step, str)
        else types_pb2.PromiseAttribute(int_value=step)
        for step in path
    ]


def promise(node_id: str, var: str, *path: str | int) -> literals_pb2.BindingData:
    return BindingData(promise=types_pb2.OutputReference(node_id=node_id, var=var, attr_path=steps(*path)))


def bind(var: str, data: literals_pb2.BindingData) -> literals_pb2.Binding:
    return literals_pb2.Binding(var=var, binding=data)


class World:
    """Nodes with outputs, and offloaded values."""

    def __init__(self, **nodes: Mapping[str, literals_pb2.Literal]) -> None:
        self.nodes = {name.replace("_", "-"): outputs for name, outputs in nodes.items()}
        self.offloaded: dict[str, literals_pb2.Literal] = {}
        self.loaded: list[str] = []

    async def outputs(self, node_id: str) -> literals_pb2.LiteralMap:
        return literals_pb2.LiteralMap(literals=self.nodes[node_id or START])

    async def load(self, literal: literals_pb2.Literal) -> literals_pb2.Literal:
        self.loaded.append(literal.offloaded_metadata.uri)
        return self.offloaded[literal.offloaded_metadata.uri]

    async def one(self, data: literals_pb2.BindingData) -> literals_pb2.Literal:
        resolved = await resolve([bind("x", data)], self.outputs, self.load)
        return resolved.literals["x"]


@pytest.mark.parametrize(
    "scalar",
    [
        integer(7).scalar,
        generic({"a": 1}).scalar,
        packed({"a": 1}).scalar,
        union(text("u")).scalar,
        literals_pb2.Scalar(none_type=literals_pb2.Void()),
        literals_pb2.Scalar(blob=literals_pb2.Blob(uri="s3://b/k")),
    ],
    ids=["primitive", "generic", "binary", "union", "none", "blob"],
)
async def test_a_scalar_stands_for_itself(scalar: literals_pb2.Scalar) -> None:
    assert await World().one(BindingData(scalar=scalar)) == Literal(scalar=scalar)


async def test_collections_and_maps_are_resolved_member_by_member() -> None:
    world = World(n0={"o0": integer(1)})
    members = literals_pb2.BindingDataCollection(bindings=[promise("n0", "o0"), BindingData(scalar=text("a").scalar)])
    nested = literals_pb2.BindingDataMap(bindings={"list": BindingData(collection=members), "one": promise("n0", "o0")})
    assert await world.one(BindingData(map=nested)) == mapping(list=collection(integer(1), text("a")), one=integer(1))


async def test_empty_collections_and_maps_keep_their_kind() -> None:
    empty_list = await World().one(BindingData(collection=literals_pb2.BindingDataCollection()))
    empty_map = await World().one(BindingData(map=literals_pb2.BindingDataMap()))
    assert (empty_list.WhichOneof("value"), empty_map.WhichOneof("value")) == ("collection", "map")


async def test_an_absent_binding_gives_a_literal_without_value() -> None:
    assert (await World().one(BindingData())).WhichOneof("value") is None


async def test_the_last_of_several_bindings_of_a_variable_wins() -> None:
    bindings = [bind("x", BindingData(scalar=integer(1).scalar)), bind("x", BindingData(scalar=text("b").scalar))]
    world = World()
    assert (await resolve(bindings, world.outputs, world.load)).literals["x"] == text("b")


async def test_a_promise_gives_what_the_node_gave() -> None:
    world = World(start_node={"a": text("in")}, n0={"o0": collection(integer(1))})
    assert await world.one(promise("n0", "o0")) == collection(integer(1))
    assert await world.one(promise("start-node", "a")) == text("in")
    assert await world.one(promise("", "a")) == text("in")


async def test_a_legacy_indexed_variable_selects_one_element() -> None:
    world = World(n0={"o0": collection(integer(4), integer(5)), "[x].o": text("odd name")})
    assert await world.one(promise("n0", "[1].o0")) == integer(5)
    assert await world.one(promise("n0", "[x].o")) == text("odd name")
    with pytest.raises(Unresolvable, match="index 2 is beyond the collection, which has 2 members"):
        await world.one(promise("n0", "[2].o0"))


async def test_a_missing_variable_is_named_with_what_there_is() -> None:
    world = World(n0={"b": integer(1), "a": integer(1)}, n1={})
    with pytest.raises(Unresolvable, match="input x: node n0 has no output c; it has a, b") as caught:
        await world.one(promise("n0", "c"))
    failure = caught.value.failure
    assert (failure.code, failure.kind, failure.retryable) == ("BindingResolutionFailure", ErrorKind.SYSTEM, False)
    assert failure.message.startswith("input x: ")
    with pytest.raises(Unresolvable, match="it has no outputs"):
        await world.one(promise("n1", "c"))


async def test_a_failure_deep_inside_names_the_variable_once_and_keeps_its_code() -> None:
    world = World(n0={"o0": mapping(k=integer(1))})
    data = literals_pb2.BindingDataCollection(bindings=[promise("n0", "o0", "missing")])
    with pytest.raises(Unresolvable) as caught:
        await resolve([bind("deep", BindingData(collection=data))], world.outputs, world.load)
    assert caught.value.failure.code == "PromiseAttributeResolveError"
    assert caught.value.failure.message == "input deep: there is no key 'missing'"


async def test_nesting_is_bounded() -> None:
    data = BindingData(scalar=integer(1).scalar)
    for _ in range(MAX_DEPTH):
        data = BindingData(collection=literals_pb2.BindingDataCollection(bindings=[data]))
    assert (await World().one(data)).WhichOneof("value") == "collection"
    deeper = BindingData(collection=literals_pb2.BindingDataCollection(bindings=[data]))
    with pytest.raises(Unresolvable, match=f"more than {MAX_DEPTH} levels"):
        await World().one(deeper)


async def test_an_offloaded_value_is_loaded_only_where_something_is_selected_from_it() -> None:
    offloaded = Literal(offloaded_metadata=literals_pb2.LiteralOffloadedMetadata(uri="s3://b/big"))
    world = World(n0={"o0": offloaded})
    world.offloaded["s3://b/big"] = collection(integer(8), integer(9))
    assert await world.one(promise("n0", "o0")) == offloaded
    assert world.loaded == []
    assert await world.one(promise("n0", "o0", 1)) == integer(9)
    assert world.loaded == ["s3://b/big"]


@pytest.mark.parametrize(
    ("value", "path", "expected"),
    [
        (collection(integer(1), integer(2)), (1,), integer(2)),
        (mapping(k=text("v")), ("k",), text("v")),
        (collection(mapping(k=collection(text("deep")))), (0, "k", 0), text("deep")),
        (union(mapping(k=text("v"))), ("k",), text("v")),
        (collection(union(collection(integer(3)))), (0, 0), integer(3)),
        (generic({"a": {"b": ["x", "y"]}}), ("a", "b", 1), text("y")),
        (generic({"a": 3}), ("a",), number(3.0)),
        (generic({"a": True}), ("a",), boolean(True)),
        (generic({"a": {"b": 1}}), ("a",), generic({"b": 1})),
        (generic({"a": {}}), ("a",), generic({})),
        (
            generic({"a": [1, ["x"], {"k": None}]}),
            ("a",),
            collection(number(1), collection(text("x")), generic({"k": None})),
        ),
        (generic({"a": []}), ("a",), collection()),
        (generic({"a": None}), ("a",), Literal()),
        (packed({"a": [{"b": 5}]}), ("a", 0, "b"), integer(5)),
        (packed({"a": 5.0}), ("a",), number(5.0)),
        (packed({"a": False}), ("a",), boolean(False)),
        (packed({"a": "s"}), ("a",), text("s")),
        (packed({"a": -(2**63)}), ("a",), integer(-(2**63))),
        (packed({"a": []}), ("a",), collection()),
        (packed({"a": [1, {"k": 2}]}), ("a",), collection(packed(1), packed({"k": 2}))),
        (packed([1, 2]), (1,), integer(2)),
        (mapping(k=packed({"a": 1})), ("k", "a"), integer(1)),
        (collection(packed(1)), (0,), integer(1)),
        (collection(packed([1])), (0,), collection(packed(1))),
        (collection(packed({"a": 1})), (0,), packed({"a": 1})),
    ],
)
def test_an_attribute_path_selects(
    value: literals_pb2.Literal, path: tuple[str | int, ...], expected: literals_pb2.Literal
) -> None:
    selected = attribute(value, steps(*path))
    assert selected == expected
    assert selected.WhichOneof("value") == expected.WhichOneof("value")
    assert selected.scalar.WhichOneof("value") == expected.scalar.WhichOneof("value")


@pytest.mark.parametrize("value", [{"k": 1}, {}, None])
def test_objects_and_nothing_inside_msgpack_stay_msgpack(value: object) -> None:
    assert unpacked(attribute(packed({"a": value}), steps("a"))) == value


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        (collection(integer(1)), (1,), "index 1 is beyond the collection, which has 1 members"),
        (collection(integer(1)), (-1,), "index -1 is beyond the collection"),
        (collection(integer(1)), ("k",), "attribute 'k' cannot be selected from a collection"),
        (mapping(k=integer(1)), ("j",), "there is no key 'j'"),
        (mapping(k=integer(1)), (0,), r"\[0\] cannot be selected from a map"),
        (integer(1), ("k",), "attribute 'k' cannot be selected from a scalar"),
        (Literal(), ("k",), "cannot be selected from a literal without a value"),
        (generic({"a": 1}), ("b",), "there is no attribute 'b'; there are a"),
        (generic({"a": [1]}), ("a", 1), "index 1 is beyond the list, which has 1 members"),
        (generic({"a": 1}), ("a", "b"), "attribute 'b' cannot be selected from a float"),
        (packed({"a": 1}), ("b",), "there is no attribute 'b'; there are a"),
        (packed({1: "one"}), (1,), r"\[1\] cannot be selected from a dict"),
        (packed([1]), ("a",), "attribute 'a' cannot be selected from a list"),
        (packed({"a": [1]}), ("a", 1), "index 1 is beyond the list"),
        (packed({"a": 2**63}), ("a",), "9223372036854775808 does not fit into 64 bits"),
        (packed({"a": 1}, tag="pickle"), ("a",), "msgpack values only, and this one is tagged 'pickle'"),
        (packed({"a": 1}, tag=""), ("a",), "msgpack values only"),
        (
            Literal(scalar=literals_pb2.Scalar(binary=literals_pb2.Binary(value=b"\xc1", tag="msgpack"))),
            ("a",),
            "valid msgpack",
        ),
        (
            Literal(scalar=literals_pb2.Scalar(binary=literals_pb2.Binary(value=b"", tag="msgpack"))),
            ("a",),
            "valid msgpack",
        ),
        (
            Literal(scalar=literals_pb2.Scalar(binary=literals_pb2.Binary(value=b"\x81\x90\x01", tag="msgpack"))),
            ("a",),
            "valid msgpack",
        ),
    ],
)
def test_a_path_that_leads_nowhere_says_why(
    value: literals_pb2.Literal, path: tuple[str | int, ...], message: str
) -> None:
    with pytest.raises(Unresolvable, match=message) as caught:
        attribute(value, steps(*path))
    assert caught.value.failure.code == "PromiseAttributeResolveError"
    assert (caught.value.failure.kind, caught.value.failure.retryable) == (ErrorKind.SYSTEM, False)


_leaves = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=5)
)
_trees = st.recursive(
    _leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@settings(max_examples=50, deadline=None)
@given(_trees, st.lists(st.text(max_size=3) | st.integers(-2, 3), min_size=1, max_size=4))
def test_any_path_into_any_msgpack_value_selects_or_says_why(tree: object, path: list[str | int]) -> None:
    try:
        attribute(packed(tree), steps(*path))
    except Unresolvable as error:
        assert error.failure.code == "PromiseAttributeResolveError"  # noqa: PT017 - either way is right


# Through `Run`: outputs from storage, aliases, scopes.


def closure() -> Closure:
    """n0, which calls its output `o0` also `answer`; a branch `b` whose arm `arm` reads n0."""
    compiled = compiler_pb2.CompiledWorkflowClosure()
    compiled.tasks.add().template.CopyFrom(tasks_pb2.TaskTemplate(id=identifier("t", identifier_pb2.TASK)))
    template = compiled.primary.template
    template.id.CopyFrom(identifier("w"))
    template.nodes.add(id=START)
    n0 = template.nodes.add(id="n0", output_aliases=[workflow_pb2.Alias(var="o0", alias="answer")])
    n0.output_aliases.add(var="absent", alias="nothing")
    n0.task_node.reference_id.CopyFrom(identifier("t", identifier_pb2.TASK))
    arm = template.nodes.add(id="b").branch_node.if_else.case.then_node
    arm.id = "arm"
    arm.task_node.reference_id.CopyFrom(identifier("t", identifier_pb2.TASK))
    arm.inputs.append(bind("x", promise("n0", "answer")))
    template.nodes.add(id=END, inputs=[bind("x", promise("n0", "answer")), bind("y", promise("n0", "o0"))])
    return Closure(compiled)


async def run_in(store: Path) -> tuple[Run, Scope, dict[str, literals_pb2.LiteralMap]]:
    """A run whose n0 gave o0 = 42."""
    known = closure()
    clock = ManualClock()
    config = StorageConfig(type="local", container=str(store))
    async with open_storage(config, clock=clock) as storage:
        layout = Layout(execution="e", data_dir=storage.join("meta/p-d-e"), raw_base=storage.join("raw"))
        run = Run(
            id=identifier_pb2.WorkflowExecutionIdentifier(project="p", domain="d", name="e"),
            workflow_id=identifier("w"),
            namespace="p-d",
            spec=execution_pb2.ExecutionSpec(),
            closure=known,
            layout=layout,
            literals=Literals(storage),
            resources=matchable_resource_pb2.TaskResourceAttributes(),
            plugin_overrides=(),
            post=lambda observation: None,
            permit=AsyncMock(),
            spawn=asyncio.ensure_future,
        )
        scope = Scope(known.root(), None)
        given = literals_pb2.LiteralMap(literals={"o0": integer(42)})
        await run.literals.write(layout.outputs(scope.node("n0")), given)
        found = {"n0": await run.outputs(scope, "n0"), "end": await run.inputs(scope.node(END))}
        with pytest.raises(Unresolvable, match="there is no node nowhere"):
            await run.outputs(scope, "nowhere")
        with pytest.raises(Unresolvable, match="the outputs of node start-node are gone") as caught:
            await run.outputs(scope, START)
        assert isinstance(caught.value.__cause__, NotFound)
        branch = scope.node("b")
        branch.inner = Scope(branch.spec.arms, branch)  # type: ignore[arg-type]
        found["arm"] = await run.inputs(branch.inner.node("arm"))
        found["stored"] = await run.literals.read(layout.outputs(scope.node("n0")))
    return run, scope, found


async def test_aliases_name_the_same_values_and_leave_what_is_stored_alone(tmp_path: Path) -> None:
    _, _, found = await run_in(tmp_path / "store")
    assert dict(found["n0"].literals) == {"o0": integer(42), "answer": integer(42)}
    assert dict(found["end"].literals) == {"x": integer(42), "y": integer(42)}
    assert dict(found["arm"].literals) == {"x": integer(42)}, "an arm sees the nodes around its branch"
    assert dict(found["stored"].literals) == {"o0": integer(42)}
