"""The interfaces that nodes may refer to: tasks, workflows and launch plans by key, each read once."""

from collections.abc import Mapping
from dataclasses import dataclass

from flyteidl.core.compiler_pb2 import CompiledTask
from flyteidl.core.interface_pb2 import ParameterMap, TypedInterface, VariableMap
from flyteidl.core.types_pb2 import LiteralType, SimpleType, UnionType
from flyteidl.core.workflow_pb2 import WorkflowTemplate

from aerodrome.compiler.identity import Key
from aerodrome.compiler.types import accepts_none

Types = Mapping[str, LiteralType | None]
"""Types of variables by name; None where the variable exists and its type is not known."""


@dataclass(slots=True)
class LaunchPlanInterface:
    """What a launch plan expects and gives: its stored `closure.expected_inputs` and `closure.expected_outputs`."""

    expected_inputs: ParameterMap
    expected_outputs: VariableMap


@dataclass(frozen=True, slots=True)
class Interface:
    """Inputs and outputs of a node; None where they are not known, or where any name will do."""

    inputs: Types | None
    outputs: Types | None
    required: frozenset[str] = frozenset()
    """Inputs that have to be bound."""


UNKNOWN = Interface(None, None)
"""The interface of a node about which an error was already reported."""


def types_of(variables: VariableMap) -> dict[str, LiteralType | None]:
    """Types by name; a variable without a type, which is reported where it is declared, is of unknown type."""
    return {name: _known(variable.type) for name, variable in variables.variables.items()}


def _known(declared: LiteralType) -> LiteralType | None:
    return declared if declared.WhichOneof("type") is not None else None


def must_be_bound(inputs: Types) -> frozenset[str]:
    """The inputs that may not stay unbound: all but those that accept None."""
    return frozenset(name for name, declared in inputs.items() if declared is None or not accepts_none(declared))


class Library:
    """Interfaces by key.  The workflow that contains everything else is known by its own key too."""

    def __init__(
        self,
        tasks: Mapping[Key, CompiledTask],
        workflows: Mapping[Key, WorkflowTemplate],
        launch_plans: Mapping[Key, LaunchPlanInterface],
    ) -> None:
        self._tasks = tasks
        self._workflows = workflows
        self._launch_plans = launch_plans
        self._interfaces: dict[tuple[str, Key], Interface] = {}
        self._lists: dict[tuple[int, frozenset[str], bool], tuple[Interface, Interface]] = {}

    def task(self, key: Key) -> Interface | None:
        """The interface of a task; None if there is no such task."""
        if ("task", key) not in self._interfaces:
            if key not in self._tasks:
                return None
            self._interfaces["task", key] = _interface(self._tasks[key].template.interface)
        return self._interfaces["task", key]

    def workflow(self, key: Key) -> Interface | None:
        """The interface of a workflow; None if there is no such workflow."""
        if ("workflow", key) not in self._interfaces:
            if key not in self._workflows:
                return None
            self._interfaces["workflow", key] = _interface(self._workflows[key].interface)
        return self._interfaces["workflow", key]

    def launch_plan(self, key: Key) -> Interface | None:
        """The interface of a launch plan, whose defaults need not be bound; None if there is no such launch plan."""
        if ("launch plan", key) not in self._interfaces:
            if key not in self._launch_plans:
                return None
            plan = self._launch_plans[key]
            parameters = plan.expected_inputs.parameters
            inputs = {name: _known(parameter.var.type) for name, parameter in parameters.items()}
            required = frozenset(name for name in must_be_bound(inputs) if parameters[name].required)
            self._interfaces["launch plan", key] = Interface(inputs, types_of(plan.expected_outputs), required)
        return self._interfaces["launch plan", key]

    def mapped(self, interface: Interface, whole: frozenset[str], some_may_fail: bool) -> Interface:
        """An interface as lists: inputs but for those in `whole`, and outputs, with None for items that may fail."""
        key = id(interface), whole, some_may_fail
        if key not in self._lists:
            inputs, outputs = interface.inputs, interface.outputs
            if inputs is not None:
                inputs = {name: t if name in whole else _list_of(t, False) for name, t in inputs.items()}
            if outputs is not None:
                outputs = {name: _list_of(t, some_may_fail) for name, t in outputs.items()}
            # The interface is kept as well, so that no other can get its identity.
            self._lists[key] = interface, Interface(inputs, outputs, interface.required)
        return self._lists[key][1]


def _interface(interface: TypedInterface) -> Interface:
    inputs = types_of(interface.inputs)
    return Interface(inputs, types_of(interface.outputs), must_be_bound(inputs))


def _list_of(declared: LiteralType | None, some_may_fail: bool) -> LiteralType | None:
    if declared is None:
        return None
    if some_may_fail and not accepts_none(declared):
        declared = LiteralType(union_type=UnionType(variants=[declared, LiteralType(simple=SimpleType.NONE)]))
    return LiteralType(collection_type=declared)
