"""The interface of a launch plan, and the inputs of an execution: what is expected, and what is finally given.

The messages of the errors are contract: clients print them, and tests of clients look for the variable's name in them.
Source: control-plane specification, sections 1.7, 3.2 and 4.4; data-plane specification, section 4.2.
"""

from flyteidl.core.interface_pb2 import Parameter, ParameterMap, TypedInterface, Variable, VariableMap
from flyteidl.core.literals_pb2 import Literal, LiteralMap
from flyteidl.core.types_pb2 import LiteralType

from aerodrome.compiler.errors import clip
from aerodrome.compiler.types import InvalidLiteralType, castable, literal_type, type_text

_MIN_TIMESTAMP_SECONDS = -62_135_596_800
"""0001-01-01T00:00:00Z."""
_MAX_TIMESTAMP_SECONDS = 253_402_300_799
"""9999-12-31T23:59:59Z."""
_NANOS_PER_SECOND = 1_000_000_000

_CACHE_KEY_METADATA = "cache-key-metadata"
"""An annotation with this key takes part in the cache key, so that it stays."""


class InterfaceError(ValueError):
    """Inputs that do not fit an interface; the text is what the caller is told."""


def expected_inputs(workflow_inputs: VariableMap, defaults: ParameterMap, fixed: LiteralMap) -> ParameterMap:
    """What a launch plan expects from its caller.

    Defaults are taken verbatim, also where a fixed value exists; a variable that is only fixed is not expected; all
    others are required.  Raises InterfaceError for the first name, in alphabetical order, that the workflow does not
    have or whose type does not fit.  Source: control-plane specification, section 3.2.
    """
    variables = workflow_inputs.variables
    if not variables:
        for kind, given in (("default", len(defaults.parameters)), ("fixed", len(fixed.literals))):
            if given:
                raise InterfaceError(f"invalid launch plan {kind} inputs, expected none but found {given}")
    for name in sorted(defaults.parameters):
        if name not in variables:
            raise InterfaceError(f"unexpected default_input {clip(name)}")
        declared, wanted = defaults.parameters[name].var.type, variables[name].type
        if not castable(declared, wanted):
            raise InterfaceError(
                f"invalid default_input wrong type {clip(name)}, expected {type_text(declared)}, "
                f"got {type_text(wanted)} instead"
            )
    for name in sorted(fixed.literals):
        if name not in variables:
            raise InterfaceError(f"unexpected fixed_input {clip(name)}")
        found, wanted = _type_of(name, fixed.literals[name]), variables[name].type
        if not castable(found, wanted):
            raise InterfaceError(
                f"invalid fixed_input wrong type {clip(name)}, expected {type_text(wanted)}, "
                f"got {type_text(found)} instead"
            )
    expected = ParameterMap()
    for name in sorted(variables):
        if name in defaults.parameters:
            expected.parameters[name].CopyFrom(defaults.parameters[name])
        elif name not in fixed.literals:
            variable = Variable(type=variables[name].type, description=variables[name].description)
            expected.parameters[name].CopyFrom(Parameter(var=variable, required=True))
    return expected


def resolve_execution_inputs(expected: ParameterMap, fixed: LiteralMap, supplied: LiteralMap) -> LiteralMap:
    """The inputs that an execution runs with: supplied values, else defaults, and the fixed values.

    Raises InterfaceError for the first name, in alphabetical order, that is not expected, missing, of a wrong type, or
    fixed.  A parameter whose only default is an artifact counts as missing: there is no artifact service to ask.
    Source: control-plane specification, section 4.4.
    """
    for name in sorted(supplied.literals):
        if name not in expected.parameters:
            raise InterfaceError(f"invalid input {clip(name)}")
    resolved = LiteralMap()
    for name in sorted(expected.parameters):
        parameter = expected.parameters[name]
        if name in supplied.literals:
            value = supplied.literals[name]
            found = _type_of(name, value)
            if not castable(found, parameter.var.type):
                raise InterfaceError(
                    f"invalid {clip(name)} input wrong type. Expected {type_text(parameter.var.type)}, "
                    f"but got {type_text(found)}"
                )
        elif parameter.WhichOneof("behavior") == "default":
            value = parameter.default
        else:
            raise InterfaceError(f"expected_inputs {clip(name)} missing")
        resolved.literals[name].CopyFrom(value)
    for name in sorted(fixed.literals):
        if name in resolved.literals:
            raise InterfaceError(f"fixed_inputs {clip(name)} cannot be overridden")
        resolved.literals[name].CopyFrom(fixed.literals[name])
    return resolved


def _type_of(name: str, literal: Literal) -> LiteralType:
    try:
        return literal_type(literal)
    except InvalidLiteralType as why:
        raise InterfaceError(f"Failed to validate literal type for [{clip(name)}] with err: {why}") from why


def literal_map_problems(field: str, literals: LiteralMap) -> list[str]:
    """What is wrong with the literals of a request's `field`, one message each, ordered by name; empty if nothing is.

    Every literal is looked at, also inside collections and maps.  Source: control-plane specification, section 1.7.
    """
    problems: list[str] = []
    for name in sorted(literals.literals):
        literal = literals.literals[name]
        if not name:
            problems.append(f"missing key in {field}")
        elif literal.WhichOneof("value") is None:
            problems.append(f"missing valid literal in {field} {clip(name)}")
        elif not _datetimes_valid(literal):
            problems.append(
                f"invalid datetime literal in {field} {clip(name)}: it must lie within the years 0001 to 9999"
            )
    return problems


def _datetimes_valid(root: Literal) -> bool:
    pending = [root]
    while pending:
        literal = pending.pop()
        match literal.WhichOneof("value"):
            case "collection":
                pending.extend(literal.collection.literals)
            case "map":
                pending.extend(literal.map.literals.values())
            case "scalar":
                scalar = literal.scalar
                kind = scalar.WhichOneof("value")
                if kind == "union":
                    pending.append(scalar.union.value)
                elif kind == "primitive" and scalar.primitive.WhichOneof("value") == "datetime":
                    moment = scalar.primitive.datetime
                    if not (
                        _MIN_TIMESTAMP_SECONDS <= moment.seconds <= _MAX_TIMESTAMP_SECONDS
                        and 0 <= moment.nanos < _NANOS_PER_SECOND
                    ):
                        return False
            case _:
                pass
    return True


def strip_interface(interface: TypedInterface) -> TypedInterface:
    """A copy of `interface` in the form that cache keys are computed over.

    Leaves out descriptions of variables, and the metadata and annotation of types at every level, except annotations
    that carry `cache-key-metadata`; `structure` stays as it is.  Source: data-plane specification, section 4.2.
    """
    stripped = TypedInterface()
    stripped.CopyFrom(interface)
    for field in ("inputs", "outputs"):
        if not stripped.HasField(field):
            continue
        variables = (stripped.inputs if field == "inputs" else stripped.outputs).variables
        for name in variables:
            variable = variables[name]
            variable.ClearField("description")
            if variable.HasField("type"):
                _strip_type(variable.type)
    return stripped


def _strip_type(root: LiteralType) -> None:
    pending = [root]
    while pending:
        declared = pending.pop()
        declared.ClearField("metadata")
        if declared.HasField("annotation") and _CACHE_KEY_METADATA not in declared.annotation.annotations.fields:
            declared.ClearField("annotation")
        match declared.WhichOneof("type"):
            case "collection_type":
                pending.append(declared.collection_type)
            case "map_value_type":
                pending.append(declared.map_value_type)
            case "union_type":
                pending.extend(declared.union_type.variants)
            case "structured_dataset_type":
                pending.extend(
                    column.literal_type
                    for column in declared.structured_dataset_type.columns
                    if column.HasField("literal_type")
                )
            case _:
                pass
