"""Which arm of a branch is taken, and what its failure says.  Source: spec/data-plane.md, 3.4."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
from flyteidl.core import compiler_pb2, condition_pb2, identifier_pb2, literals_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from graphs import identifier
from hypothesis import given, settings
from hypothesis import strategies as st

from aerodrome.plugins.api import ErrorKind, Failure
from aerodrome.propeller.engine.graph import START, Closure, NodeSpec
from aerodrome.propeller.nodes.branches import MalformedBranch, choose, holds

Comparison = condition_pb2.ComparisonExpression
Primitive = literals_pb2.Primitive

OPERATORS: dict[int, Callable[[Any, Any], bool]] = {
    Comparison.EQ: operator.eq,
    Comparison.NEQ: operator.ne,
    Comparison.GT: operator.gt,
    Comparison.GTE: operator.ge,
    Comparison.LT: operator.lt,
    Comparison.LTE: operator.le,
}
NOTHING = literals_pb2.LiteralMap()


def value(primitive: literals_pb2.Primitive) -> condition_pb2.Operand:
    return condition_pb2.Operand(primitive=primitive)


def number(integer: int) -> condition_pb2.Operand:
    return value(Primitive(integer=integer))


def variable(name: str) -> condition_pb2.Operand:
    return condition_pb2.Operand(var=name)


def compare(
    left: condition_pb2.Operand, operation: int, right: condition_pb2.Operand
) -> condition_pb2.BooleanExpression:
    comparison = Comparison(left_value=left, right_value=right)
    comparison.operator = operation  # type: ignore[assignment]
    return condition_pb2.BooleanExpression(comparison=comparison)


def both(
    left: condition_pb2.BooleanExpression, operation: int, right: condition_pb2.BooleanExpression
) -> condition_pb2.BooleanExpression:
    conjunction = condition_pb2.ConjunctionExpression(left_expression=left, right_expression=right)
    conjunction.operator = operation  # type: ignore[assignment]
    return condition_pb2.BooleanExpression(conjunction=conjunction)


def inputs(**literals: literals_pb2.Literal) -> literals_pb2.LiteralMap:
    return literals_pb2.LiteralMap(literals=literals)


def primitive(**member: Any) -> literals_pb2.Literal:
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=Primitive(**member)))


TRUE = compare(number(1), Comparison.EQ, number(1))
FALSE = compare(number(1), Comparison.EQ, number(2))
WRONG = compare(variable("absent"), Comparison.EQ, number(1))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(OPERATORS)), st.integers(-3, 3), st.integers(-3, 3))
def test_integers_compare_as_integers(operation: int, left: int, right: int) -> None:
    assert holds(compare(number(left), operation, number(right)), NOTHING) is OPERATORS[operation](left, right)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(OPERATORS)), st.floats(-1, 1), st.floats(-1, 1))
def test_floats_compare_as_floats(operation: int, left: float, right: float) -> None:
    condition = compare(value(Primitive(float_value=left)), operation, value(Primitive(float_value=right)))
    assert holds(condition, NOTHING) is OPERATORS[operation](left, right)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(OPERATORS)), st.text("ab", max_size=2), st.text("ab", max_size=2))
def test_strings_compare_as_strings(operation: int, left: str, right: str) -> None:
    condition = compare(value(Primitive(string_value=left)), operation, value(Primitive(string_value=right)))
    assert holds(condition, NOTHING) is OPERATORS[operation](left, right)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(OPERATORS)), st.integers(0, 2), st.integers(0, 2), st.integers(0, 999_999_999))
def test_instants_and_spans_compare_at_whole_seconds(operation: int, left: int, right: int, nanos: int) -> None:
    instants = compare(
        value(Primitive(datetime=Timestamp(seconds=left, nanos=nanos))),
        operation,
        value(Primitive(datetime=Timestamp(seconds=right))),
    )
    spans = compare(
        value(Primitive(duration=Duration(seconds=left, nanos=nanos))),
        operation,
        value(Primitive(duration=Duration(seconds=right))),
    )
    assert holds(instants, NOTHING) is OPERATORS[operation](left, right)
    assert holds(spans, NOTHING) is OPERATORS[operation](left, right)


@pytest.mark.parametrize("operation", sorted(OPERATORS))
def test_booleans_compare_for_equality_only(operation: int) -> None:
    condition = compare(value(Primitive(boolean=True)), operation, value(Primitive(boolean=False)))
    if operation in (Comparison.EQ, Comparison.NEQ):
        assert holds(condition, NOTHING) is (operation == Comparison.NEQ)
    else:
        with pytest.raises(MalformedBranch, match="only be compared for equality"):
            holds(condition, NOTHING)


def test_an_operand_may_be_a_variable_a_primitive_or_a_scalar() -> None:
    scalar = condition_pb2.Operand(scalar=literals_pb2.Scalar(primitive=Primitive(integer=3)))
    known = inputs(x=primitive(integer=3))
    assert holds(compare(variable("x"), Comparison.EQ, scalar), known)
    assert holds(compare(scalar, Comparison.EQ, number(3)), known)


def test_a_value_of_a_union_is_unwrapped() -> None:
    wrapped = literals_pb2.Literal(scalar=literals_pb2.Scalar(union=literals_pb2.Union(value=primitive(integer=3))))
    twice = literals_pb2.Literal(scalar=literals_pb2.Scalar(union=literals_pb2.Union(value=wrapped)))
    assert holds(compare(variable("x"), Comparison.EQ, number(3)), inputs(x=twice))


@pytest.mark.parametrize(
    ("condition", "known", "message"),
    [
        (WRONG, NOTHING, "the condition names absent, which is not an input of the branch"),
        (
            compare(variable("x"), Comparison.EQ, number(1)),
            inputs(x=literals_pb2.Literal(scalar=literals_pb2.Scalar(none_type=literals_pb2.Void()))),
            "x is not a primitive value",
        ),
        (
            compare(variable("x"), Comparison.EQ, number(1)),
            inputs(x=literals_pb2.Literal(collection=literals_pb2.LiteralCollection())),
            "x is not a primitive value",
        ),
        (
            compare(number(1), Comparison.EQ, value(Primitive(float_value=1.0))),
            NOTHING,
            "a integer cannot be compared with a float_value",
        ),
        (compare(value(Primitive()), Comparison.EQ, number(1)), NOTHING, "has no value"),
        (compare(condition_pb2.Operand(), Comparison.EQ, number(1)), NOTHING, "neither a variable nor a primitive"),
        (condition_pb2.BooleanExpression(), NOTHING, "a condition is empty"),
    ],
)
def test_what_cannot_be_compared_says_why(
    condition: condition_pb2.BooleanExpression, known: literals_pb2.LiteralMap, message: str
) -> None:
    with pytest.raises(MalformedBranch, match=message):
        holds(condition, known)


@settings(max_examples=40, deadline=None)
@given(st.booleans(), st.booleans())
def test_conjunctions_are_and_and_or(left: bool, right: bool) -> None:
    sides = (TRUE if left else FALSE), (TRUE if right else FALSE)
    conjunction = condition_pb2.ConjunctionExpression
    assert holds(both(sides[0], conjunction.AND, sides[1]), NOTHING) is (left and right)
    assert holds(both(sides[0], conjunction.OR, sides[1]), NOTHING) is (left or right)


@pytest.mark.parametrize(
    ("first", "operation"),
    [(TRUE, condition_pb2.ConjunctionExpression.OR), (FALSE, condition_pb2.ConjunctionExpression.AND)],
)
def test_an_error_on_the_right_surfaces_though_the_left_decides(
    first: condition_pb2.BooleanExpression, operation: int
) -> None:
    with pytest.raises(MalformedBranch, match="absent"):
        holds(both(first, operation, WRONG), NOTHING)


def branch(*conditions: condition_pb2.BooleanExpression, otherwise: bool = False, error: str | None = None) -> NodeSpec:
    """A branch with an arm per condition, and maybe an else or a fail."""
    compiled = compiler_pb2.CompiledWorkflowClosure()
    compiled.tasks.add().template.id.CopyFrom(identifier("t", identifier_pb2.TASK))
    template = compiled.primary.template
    template.id.CopyFrom(identifier("w"))
    template.nodes.add(id=START)
    block = template.nodes.add(id="b").branch_node.if_else
    for position, condition in enumerate(conditions):
        case = block.case if position == 0 else block.other.add()
        case.condition.CopyFrom(condition)
        case.then_node.id = f"arm{position}"
        case.then_node.task_node.reference_id.CopyFrom(identifier("t", identifier_pb2.TASK))
    if otherwise:
        block.else_node.id = "else"
        block.else_node.task_node.reference_id.CopyFrom(identifier("t", identifier_pb2.TASK))
    if error is not None:
        block.error.message = error
    return Closure(compiled).root().nodes[1]


def taken(spec: NodeSpec) -> str:
    number = choose(spec, NOTHING)
    assert isinstance(number, int)
    assert spec.arms is not None
    return spec.arms.nodes[number].id


def failure(spec: NodeSpec) -> Failure:
    verdict = choose(spec, NOTHING)
    assert isinstance(verdict, Failure)
    assert (verdict.kind, verdict.retryable) == (ErrorKind.USER, False)
    return verdict


def test_the_first_condition_that_holds_wins() -> None:
    assert taken(branch(TRUE, TRUE, otherwise=True)) == "arm0"
    assert taken(branch(FALSE, TRUE, TRUE, otherwise=True)) == "arm1"
    assert taken(branch(FALSE, FALSE, TRUE)) == "arm2"


def test_conditions_behind_the_one_that_holds_are_not_looked_at() -> None:
    assert taken(branch(TRUE, WRONG)) == "arm0"


def test_the_else_is_the_last_resort() -> None:
    assert taken(branch(FALSE, FALSE, otherwise=True)) == "else"


def test_a_fail_speaks_with_the_users_words() -> None:
    verdict = failure(branch(FALSE, error="neither big nor small"))
    assert (verdict.code, verdict.message) == ("UserProvidedError", "neither big nor small")


def test_a_branch_that_leads_nowhere_is_malformed() -> None:
    verdict = failure(branch(FALSE))
    assert verdict.code == "MalformedBranchUserError"
    assert "branch b" in verdict.message


def test_a_condition_that_cannot_be_evaluated_fails_the_branch_though_there_is_an_else() -> None:
    verdict = failure(branch(WRONG, otherwise=True))
    assert verdict.code == "MalformedBranchUserError"
    assert verdict.message == "branch b: the condition names absent, which is not an input of the branch"
