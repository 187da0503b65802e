"""Templates in commands and arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from flyteidl.core import literals_pb2, tasks_pb2
from google.protobuf import struct_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aerodrome.plugins import templating
from aerodrome.plugins.api import ErrorKind, PluginError, TaskContext

Make = Callable[..., Any]


def primitive(**value: Any) -> literals_pb2.Literal:
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(**value)))


def packed(value: Any) -> literals_pb2.Literal:
    binary = literals_pb2.Binary(value=msgpack.packb(value), tag="msgpack")
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(binary=binary))


def collection(*members: literals_pb2.Literal) -> literals_pb2.Literal:
    return literals_pb2.Literal(collection=literals_pb2.LiteralCollection(literals=members))


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("{{.input}}", "s3://b/meta/n0/data/inputs.pb"),
        ("{{ .InputPrefix }}", "s3://b/meta/n0/data"),
        ("{{.outputPrefix}}/x", "s3://b/meta/n0/data/0/x"),
        ("{{$RAWOUTPUTDATAPREFIX}}", "s3://b/raw/gy/x"),
        ("{{  .rawOutputDataPrefix  }}", "s3://b/raw/gy/x"),
        ("{{.checkpointOutputPrefix}}", "s3://b/raw/gy/x/_flytecheckpoints"),
        ("{{.prevCheckpointPrefix}}", '""'),
        ("{{.PerRetryUniqueKey}}", "f0123456789abcdef012_n0_0"),
        ("{{.taskTemplatePath}}", "s3://b/meta/n0/data/task.pb"),
        ("{{.Namespace}}", "shop-development"),
        ("{{.input}} {{.input}}", "s3://b/meta/n0/data/inputs.pb s3://b/meta/n0/data/inputs.pb"),
        ("{{.unknown}} {{input}} {{ . input }} {.input} {{.input.x}}",) * 2,
    ],
)
def test_variables_have_their_values(make_context: Make, text: str, rendered: str) -> None:
    assert templating.render([text], make_context()) == [rendered]


def test_a_previous_checkpoint_is_named(make_context: Make) -> None:
    context = make_context(prev_checkpoint_prefix="s3://b/raw/aa/y/_flytecheckpoints")
    assert templating.render(["{{.prevCheckpointPrefix}}"], context) == ["s3://b/raw/aa/y/_flytecheckpoints"]


def test_a_value_that_looks_like_a_template_is_not_replaced_again(make_context: Make) -> None:
    inputs = literals_pb2.LiteralMap(literals={"x": primitive(string_value="{{.outputPrefix}}")})
    assert templating.render(["{{.inputs.x}}"], make_context(inputs=lambda: inputs)) == ["{{.outputPrefix}}"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text().filter(lambda text: "{{" not in text)))
def test_text_without_markers_is_left_alone(make_context: Make, texts: list[str]) -> None:
    assert templating.render(texts, make_context(inputs=refuse_inputs)) == texts


def refuse_inputs() -> literals_pb2.LiteralMap:
    raise AssertionError("the inputs were read though nothing refers to them")


def test_inputs_are_read_only_where_a_template_refers_to_them(make_context: Make) -> None:
    assert templating.render(["{{.input}}"], make_context(inputs=refuse_inputs))


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        (primitive(string_value="a b"), "a b"),
        (primitive(string_value=""), ""),
        (primitive(integer=-3), "-3"),
        (primitive(integer=0), "0"),
        (primitive(float_value=1.5), "1.5"),
        (primitive(float_value=3.0), "3"),
        (primitive(boolean=True), "true"),
        (primitive(boolean=False), "false"),
        (primitive(datetime=Timestamp(seconds=1577836800)), "2020-01-01T00:00:00Z"),
        (primitive(datetime=Timestamp(seconds=1577836800, nanos=120)), "2020-01-01T00:00:00.00000012Z"),
        (primitive(duration=Duration(seconds=3600)), "seconds:3600"),
        (primitive(duration=Duration(seconds=1, nanos=5)), "seconds:1 nanos:5"),
        (literals_pb2.Literal(scalar=literals_pb2.Scalar(blob=literals_pb2.Blob(uri="s3://b/f"))), "s3://b/f"),
        (literals_pb2.Literal(scalar=literals_pb2.Scalar(schema=literals_pb2.Schema(uri="s3://b/s"))), "s3://b/s"),
        (packed("text"), "text"),
        (packed(7), "7"),
        (packed(2.5), "2.5"),
        (packed(True), "true"),
        (collection(primitive(integer=1), collection(primitive(string_value="x"))), "[1,[x]]"),
        (collection(), "[]"),
    ],
)
def test_inputs_have_a_text_form(make_context: Make, literal: literals_pb2.Literal, text: str) -> None:
    inputs = literals_pb2.LiteralMap(literals={"x": literal})
    assert templating.render(["<{{ .Inputs.x }}>"], make_context(inputs=lambda: inputs)) == [f"<{text}>"]


@pytest.mark.parametrize(
    ("literal", "why"),
    [
        (literals_pb2.Literal(map=literals_pb2.LiteralMap()), "a map has no text form"),
        (literals_pb2.Literal(scalar=literals_pb2.Scalar(union=literals_pb2.Union())), "a union has no text form"),
        (literals_pb2.Literal(scalar=literals_pb2.Scalar(none_type=literals_pb2.Void())), "a none type has no"),
        (literals_pb2.Literal(scalar=literals_pb2.Scalar(generic=struct_pb2.Struct())), "a generic has no text form"),
        (
            literals_pb2.Literal(scalar=literals_pb2.Scalar(structured_dataset=literals_pb2.StructuredDataset())),
            "a structured dataset has no text form",
        ),
        (literals_pb2.Literal(), "without a value has no text form"),
        (packed({"a": 1}), "a msgpack dict has no text form"),
        (packed(None), "a msgpack NoneType has no text form"),
        (literals_pb2.Literal(scalar=literals_pb2.Scalar(binary=literals_pb2.Binary(tag="x"))), "tagged 'x'"),
        (
            literals_pb2.Literal(scalar=literals_pb2.Scalar(binary=literals_pb2.Binary(value=b"\xc1", tag="msgpack"))),
            "damaged",
        ),
        (collection(literals_pb2.Literal()), "without a value has no text form"),
    ],
)
def test_inputs_without_a_text_form_fail_the_build_for_good(
    make_context: Make, literal: literals_pb2.Literal, why: str
) -> None:
    context = make_context(inputs=lambda: literals_pb2.LiteralMap(literals={"x": literal}))
    failure = build_failure(context, "{{.inputs.x}}")
    assert failure.code == "FailedToBuildResource"
    assert failure.kind is ErrorKind.USER
    assert not failure.retryable
    assert why in failure.message
    assert "input 'x'" in failure.message


def test_a_missing_input_fails_the_build_and_names_those_that_are_there(make_context: Make) -> None:
    inputs = literals_pb2.LiteralMap(literals={"a": primitive(integer=1), "b": primitive(integer=2)})
    failure = build_failure(make_context(inputs=lambda: inputs), "{{.inputs.c}}")
    assert "'c'" in failure.message
    assert "a, b" in failure.message


def test_an_input_is_found_in_other_case_only_where_that_is_unambiguous(make_context: Make) -> None:
    both = literals_pb2.LiteralMap(literals={"ab": primitive(integer=1), "aB": primitive(integer=2)})
    assert templating.render(["{{.inputs.aB}}"], make_context(inputs=lambda: both)) == ["2"]
    assert "'AB'" in build_failure(make_context(inputs=lambda: both), "{{.inputs.AB}}").message
    one = literals_pb2.LiteralMap(literals={"ab": primitive(integer=1)})
    assert templating.render(["{{.inputs.AB}}"], make_context(inputs=lambda: one)) == ["1"]


def build_failure(context: TaskContext, text: str) -> Any:
    with pytest.raises(PluginError) as raised:
        templating.render([text], context)
    return raised.value.failure


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (100000.0, "100000"), (1e6, "1e+06"), (123456789.0, "1.23456789e+08"), (0.0001, "0.0001"),
        (0.00001234, "1.234e-05"), (-2.5, "-2.5"), (1e300, "1e+300"), (0.1, "0.1"), (-0.0, "-0"), (0.0, "0"),
        (float("inf"), "+Inf"), (float("-inf"), "-Inf"), (float("nan"), "NaN"), (1e-300, "1e-300"),
    ],
)  # fmt: skip
def test_floats_are_written_as_go_writes_them(number: float, text: str) -> None:
    assert templating.decimal(number) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_text_of_a_float_identifies_it(number: float) -> None:
    assert float(templating.decimal(number)) == number


@pytest.mark.parametrize(
    ("argument", "inputs", "template"),
    [("{{.input}}", False, False), ("a {{ $inputs.x }}", True, False), ("{{.TASKTEMPLATEPATH}}", False, True)],
)
def test_a_task_says_beforehand_what_its_templates_need(
    make_task: Make, argument: str, inputs: bool, template: bool
) -> None:
    spec = struct_pb2.Struct()
    spec.update({"containers": [{"name": "a", "args": [argument]}]})
    for task in (
        make_task(container=tasks_pb2.Container(args=[argument])),
        make_task(container=tasks_pb2.Container(command=[argument])),
        make_task(pod=tasks_pb2.K8sPod(pod_spec=spec)),
        make_task(custom=spec),
        tasks_pb2.TaskTemplate(sql=tasks_pb2.Sql(statement=argument)),
    ):
        assert templating.uses_inputs(task) is inputs
        assert templating.uses_task_template(task) is template
