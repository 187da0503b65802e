"""What can be wrong with a workflow: the error values, their rendering, and the collector that gathers them.

The codes and the rendered form are what clients print (`pyflyte register` shows them unchanged); descriptions are ours.
Everything that comes from the input passes through `clip` before it enters a description, so that an error stays small
whatever was sent.  Source: control-plane specification, section 2.8.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

START_NODE = "start-node"
"""Id of the node that stands for the workflow's inputs; also where errors of the whole graph are located."""

END_NODE = "end-node"
"""Id of the node that stands for the workflow's outputs."""

MAX_ERRORS = 1_000
"""Distinct errors collected before compilation gives up: nobody reads more, and hostile input could make millions."""

MAX_RENDERED_CHARS = 16_384
"""Size at which `str(CompileErrors)` stops listing; gRPC status messages travel in a header."""

MAX_NAME_CHARS = 120
"""Length to which one name out of the input is cut inside a description."""


class Code(StrEnum):
    """The error codes that clients know; the strings are contract."""

    CYCLE_DETECTED = "CycleDetected"
    BRANCH_NODE_ID_NOT_FOUND = "BranchNodeIdNotFound"
    BRANCH_NODE_HAS_NO_CONDITION = "BranchNodeHasNoCondition"
    BRANCH_NODE_HAS_NO_DEFAULT = "BranchNodeHasNoDefault"
    VALUE_REQUIRED = "ValueRequired"
    INVALID_VALUE = "InvalidValue"
    NODE_REFERENCE_NOT_FOUND = "NodeReferenceNotFound"
    TASK_REFERENCE_NOT_FOUND = "TaskReferenceNotFound"
    WORKFLOW_REFERENCE_NOT_FOUND = "WorkflowReferenceNotFound"
    VARIABLE_NAME_NOT_FOUND = "VariableNameNotFound"
    DUPLICATE_ALIAS = "DuplicateAlias"
    DUPLICATE_ID = "DuplicateId"
    MISMATCHING_TYPES = "MismatchingTypes"
    MISMATCHING_BINDINGS = "MismatchingBindings"
    PARAMETER_BOUND_MORE_THAN_ONCE = "ParameterBoundMoreThanOnce"
    PARAMETER_NOT_BOUND = "ParameterNotBound"
    UNREACHABLE_NODES = "UnreachableNodes"
    UNRECOGNIZED_VALUE = "UnrecognizedValue"
    VALUE_COLLISION = "ValueCollision"
    SYNTAX_ERROR = "SyntaxError"
    NO_NODES_FOUND = "NoNodesFound"
    ILLEGAL_ENUM_VALUE = "IllegalEnumValue"
    AMBIGUOUS_BINDING_UNION_VALUE = "AmbiguousBindingUnionValue"
    INCOMPATIBLE_BINDING_UNION_VALUE = "IncompatibleBindingUnionValue"
    NO_CONDITION_FOUND = "NoConditionFound"
    FIELD_NOT_FOUND = "FieldNotFound"


@dataclass(frozen=True, slots=True, order=True)
class CompileError:
    """One thing that is wrong, and the node where it is wrong."""

    code: str
    node_id: str
    description: str

    def __str__(self) -> str:
        return f"Code: {self.code}, Node Id: {self.node_id}, Description: {self.description}"


class CompileErrors(Exception):
    """Everything found wrong with a task or a workflow: distinct, and sorted by code, node and description."""

    def __init__(self, errors: Iterable[CompileError]) -> None:
        self.errors: tuple[CompileError, ...] = tuple(sorted(set(errors)))
        super().__init__(self.errors)

    def __reduce__(self) -> tuple[type["CompileErrors"], tuple[tuple[CompileError, ...]]]:
        return CompileErrors, (self.errors,)

    def __str__(self) -> str:
        """`Collected Errors: N`, then a line for each; the listing ends early when it grows past its bound."""
        text = f"Collected Errors: {len(self.errors)}\n"
        for index, error in enumerate(self.errors):
            line = f"\tError {index}: {error}\n"
            if len(text) + len(line) > MAX_RENDERED_CHARS:
                return f"{text}\t... and {len(self.errors) - index} more\n"
            text += line
        return text


class Collector:
    """Gathers errors while compilation goes on; `check` ends it if there were any."""

    def __init__(self) -> None:
        self._errors: set[CompileError] = set()
        self._place = ""

    def locate(self, place: str) -> None:
        """Name the sub-workflow that later errors belong to; an empty `place` is the workflow itself."""
        self._place = f" (in sub-workflow {clip(place)})" if place else ""

    def add(self, code: Code, node_id: str, description: str) -> None:
        """Record an error; raises CompileErrors at once when there are more than anyone would read."""
        self._errors.add(CompileError(code.value, clip(node_id), description + self._place))
        if len(self._errors) >= MAX_ERRORS:
            self.check()

    def extend(self, errors: Iterable[CompileError]) -> None:
        """Take over errors that were found elsewhere."""
        self._errors.update(errors)

    def check(self) -> None:
        """Raises CompileErrors if anything was recorded."""
        if self._errors:
            raise CompileErrors(self._errors)


def clip(text: str, limit: int = MAX_NAME_CHARS) -> str:
    """`text` on one line and in at most `limit` characters, with the middle left out where it is longer."""
    if len(text) > limit:
        head = (limit - 3) // 2
        text = f"{text[:head]}...{text[len(text) - (limit - 3 - head) :]}"
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def clip_list(names: Iterable[str], separator: str, limit: int = 20) -> str:
    """`names` joined by `separator`, each clipped; of more than `limit`, the first ones and how many are left."""
    listed = list(names)
    shown = [clip(name) for name in listed[:limit]]
    if len(listed) > limit:
        shown.append(f"... {len(listed) - limit} more")
    return separator.join(shown)
