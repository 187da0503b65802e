"""What makes the literals and parameters of a request acceptable.

Source: spec/control-plane.md, sections 1.7 and 3.1.
"""

from __future__ import annotations

from flyteidl.core.interface_pb2 import ParameterMap
from flyteidl.core.literals_pb2 import LiteralMap

from aerodrome.admin.domain.validation import shown
from aerodrome.compiler import InvalidLiteralType, castable, literal_map_problems, literal_type, type_text
from aerodrome.stdlib.errors import InvalidArgument


def check_literals(field: str, literals: LiteralMap) -> None:
    """Every literal of a request's `field` has a name and a value."""
    if problems := literal_map_problems(field, literals):
        raise InvalidArgument(problems[0])


def check_parameters(field: str, parameters: ParameterMap, *, artifacts_enabled: bool) -> None:
    """Every parameter of a launch plan's `field` has a type, and a default that fits it or is required."""
    for name in sorted(parameters.parameters):
        parameter = parameters.parameters[name]
        behavior = parameter.WhichOneof("behavior")
        if behavior == "artifact_query" and not artifacts_enabled:
            raise InvalidArgument(f"artifact mode not enabled but query found {field} {shown(name)}")
        if parameter.var.type.WhichOneof("type") is None:
            raise InvalidArgument(
                f"The Variable component of the Parameter {shown(name)} in {field} either is missing, "
                "or has a missing Type"
            )
        if behavior in ("artifact_query", "artifact_id"):
            continue
        if behavior is None or (behavior == "required" and not parameter.required):
            raise InvalidArgument(
                f"Invalid variable {shown(name)} in {field} - variable has neither default, nor is required. "
                "One must be specified"
            )
        if behavior == "default":
            try:
                found = literal_type(parameter.default)
            except InvalidLiteralType as error:
                raise InvalidArgument(
                    f"Failed to validate literal type for [{shown(name)}] with err: {error}"
                ) from error
            if not castable(found, parameter.var.type):
                raise InvalidArgument(
                    f"Type mismatch for Parameter {shown(name)} in {field} has type {type_text(parameter.var.type)}, "
                    f"expected {type_text(found)}"
                )
