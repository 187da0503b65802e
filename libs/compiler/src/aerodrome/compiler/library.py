"""The interfaces that nodes may refer to: tasks, workflows and launch plans by key, each read once."""

from collections.abc import Mapping
from dataclasses import dataclass

from flyteidl.core.compiler_pb2 import CompiledTask
from flyteidl.core.interface_pb2 import ParameterMap, TypedInterface, VariableMap
from flyteidl.core.types_pb2 import LiteralType
from flyteidl.core.workflow_pb2 import WorkflowTemplate

from aerodrome.compiler.identity import Key

Types = Mapping[str, LiteralType | None]
"""Types of variables by name; None where the variable exists and its type is not known."""


@dataclass(slots=True)
class LaunchPlanInterface:
    """What a launch plan expects and gives: its stored `closure.expected_inputs` and `closure.expected_outputs`."""

    expected_inputs: ParameterMap
    expected_outputs: VariableMap


@dataclass(frozen=True, slots=True)
class Interface:
    """Inputs and outputs of a node.  None where they are not known, or where any name will do."""

    inputs: Types | None
    outputs: Types | None


UNKNOWN = Interface(None, None)
"""The interface of a node about which an error was already reported."""


def types_of(variables: VariableMap) -> dict[str, LiteralType | None]:
    """Types by name; a variable without a type, which is reported where it is declared, is of unknown type."""
    return {name: _known(variable.type) for name, variable in variables.variables.items()}


def _known(declared: LiteralType) -> LiteralType | None:
    return declared if declared.WhichOneof("type") is not None else None


class Library:
    """Interfaces by key.  The sub-workflow that contains everything else is known by its own key too."""

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
        self._required: dict[Key, frozenset[str]] = {}

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

    def launch_plan(self, key: Key, bound: frozenset[str]) -> Interface | None:
        """The interface of a launch plan for a node that binds `bound`; None if there is no such launch plan.

        Its inputs are the required parameters, and those with a default that the node binds.
        """
        if ("launch plan", key) not in self._interfaces:
            if key not in self._launch_plans:
                return None
            plan = self._launch_plans[key]
            parameters = plan.expected_inputs.parameters
            inputs = {name: _known(parameter.var.type) for name, parameter in parameters.items()}
            self._interfaces["launch plan", key] = Interface(inputs, types_of(plan.expected_outputs))
            self._required[key] = frozenset(name for name, parameter in parameters.items() if parameter.required)
        interface = self._interfaces["launch plan", key]
        assert interface.inputs is not None
        wanted = self._required[key] | bound
        return Interface({name: kind for name, kind in interface.inputs.items() if name in wanted}, interface.outputs)


def _interface(interface: TypedInterface) -> Interface:
    return Interface(types_of(interface.inputs), types_of(interface.outputs))
