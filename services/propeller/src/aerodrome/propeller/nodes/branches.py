"""Which arm of a branch is taken.  Pure.  Source: spec/data-plane.md, 3.4."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from flyteidl.core import condition_pb2, literals_pb2

from aerodrome.plugins.api import ErrorKind, Failure
from aerodrome.propeller.engine.graph import NodeSpec

_COMPARE: Mapping[int, Callable[[Any, Any], bool]] = {
    condition_pb2.ComparisonExpression.EQ: operator.eq,
    condition_pb2.ComparisonExpression.NEQ: operator.ne,
    condition_pb2.ComparisonExpression.GT: operator.gt,
    condition_pb2.ComparisonExpression.GTE: operator.ge,
    condition_pb2.ComparisonExpression.LT: operator.lt,
    condition_pb2.ComparisonExpression.LTE: operator.le,
}
_EQUALITY = (condition_pb2.ComparisonExpression.EQ, condition_pb2.ComparisonExpression.NEQ)


class MalformedBranch(Exception):
    """A condition cannot be evaluated with these inputs."""


def choose(spec: NodeSpec, inputs: literals_pb2.LiteralMap) -> int | Failure:
    """The number of the arm to run, or the failure of the branch node; the first condition that holds wins."""
    try:
        for choice in spec.choices:
            if choice.condition is None or holds(choice.condition, inputs):
                return choice.node
    except MalformedBranch as error:
        return Failure("MalformedBranchUserError", f"branch {spec.id}: {error}", ErrorKind.USER, retryable=False)
    if spec.otherwise is not None:
        return Failure("UserProvidedError", spec.otherwise.message, ErrorKind.USER, retryable=False)
    return Failure(
        "MalformedBranchUserError",
        f"no condition of branch {spec.id} holds, and it has neither an else nor a fail",
        ErrorKind.USER,
        retryable=False,
    )


def holds(expression: condition_pb2.BooleanExpression, inputs: literals_pb2.LiteralMap) -> bool:
    """Whether a condition is true of `inputs`.  Both sides of a conjunction are evaluated, so errors always surface."""
    match expression.WhichOneof("expr"):
        case "conjunction":
            conjunction = expression.conjunction
            left, right = holds(conjunction.left_expression, inputs), holds(conjunction.right_expression, inputs)
            match conjunction.operator:
                case condition_pb2.ConjunctionExpression.AND:
                    return left and right
                case condition_pb2.ConjunctionExpression.OR:
                    return left or right
                case unknown:
                    raise MalformedBranch(f"this version of propeller does not know the conjunction number {unknown}")
        case "comparison":
            return _compare(expression.comparison, inputs)
        case _:
            raise MalformedBranch("a condition is empty")


def _compare(comparison: condition_pb2.ComparisonExpression, inputs: literals_pb2.LiteralMap) -> bool:
    left_kind, left = _operand(comparison.left_value, inputs)
    right_kind, right = _operand(comparison.right_value, inputs)
    if left_kind != right_kind:
        raise MalformedBranch(f"a {left_kind} cannot be compared with a {right_kind}")
    if left_kind == "boolean" and comparison.operator not in _EQUALITY:
        raise MalformedBranch("booleans can only be compared for equality")
    compare = _COMPARE.get(comparison.operator)
    if compare is None:
        raise MalformedBranch(f"this version of propeller does not know the comparison number {comparison.operator}")
    return compare(left, right)


def _operand(operand: condition_pb2.Operand, inputs: literals_pb2.LiteralMap) -> tuple[str, Any]:
    match operand.WhichOneof("val"):
        case "var":
            if operand.var not in inputs.literals:
                raise MalformedBranch(f"the condition names {operand.var}, which is not an input of the branch")
            literal = inputs.literals[operand.var]
            while literal.scalar.WhichOneof("value") == "union":
                literal = literal.scalar.union.value
            if literal.scalar.WhichOneof("value") != "primitive":
                raise MalformedBranch(f"{operand.var} is not a primitive value, so it cannot be compared")
            return _value(literal.scalar.primitive)
        case "primitive":
            return _value(operand.primitive)
        case "scalar" if operand.scalar.WhichOneof("value") == "primitive":
            return _value(operand.scalar.primitive)
        case _:
            raise MalformedBranch("an operand of the condition is neither a variable nor a primitive value")


def _value(primitive: literals_pb2.Primitive) -> tuple[str, Any]:
    kind = primitive.WhichOneof("value")
    if kind is None:
        raise MalformedBranch("an operand of the condition has no value")
    value = getattr(primitive, kind)
    if kind in ("datetime", "duration"):
        return kind, value.seconds
    return kind, value
