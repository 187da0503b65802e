"""The echo plugin: gives a task's inputs back as its outputs, without a pod.  For tests, and to measure the platform.

An output takes the input of its own name; the others take the inputs that are left, type by type, in the order of the
names.  Source: spec/data-plane.md, section 5.14; flytekit's `Echo`, whose inputs `a, b` become the outputs `o0, o1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from flyteidl.core import interface_pb2, literals_pb2, tasks_pb2

from aerodrome.plugins import names
from aerodrome.plugins.api import Outcome, Phase, PhaseInfo, TaskContext, bad_task
from aerodrome.plugins.config import EchoConfig
from aerodrome.stdlib.clock import Clock, SystemClock

ECHO_TYPES: Final = frozenset({"echo"})
_DONE: Final = PhaseInfo(Phase.SUCCEEDED)


@dataclass(frozen=True, slots=True)
class EchoPlugin:
    """Completes within the engine's process, at once unless `plugins.echo.sleep-duration` says otherwise."""

    config: EchoConfig = field(default_factory=EchoConfig)
    clock: Clock = field(default_factory=SystemClock)
    id: str = "echo"
    task_types: frozenset[str] = ECHO_TYPES
    max_generated_name: int = names.MAX_GENERATED_NAME

    def at_once(self, task: tasks_pb2.TaskTemplate, inputs: literals_pb2.LiteralMap) -> Outcome | None:
        """The inputs as outputs, unless that takes time or they do not fit."""
        if self.config.sleep_duration:
            return None
        interface = task.interface
        if len(interface.outputs.variables) == len(inputs.literals) and all(
            name in inputs.literals and interface.inputs.variables[name].type == variable.type
            for name, variable in interface.outputs.variables.items()
        ):
            return Outcome(_DONE, inputs)
        return None

    async def run(self, context: TaskContext) -> Outcome:
        """The inputs as outputs.  Raises PluginError if they do not fit."""
        if self.config.sleep_duration:
            await self.clock.sleep(self.config.sleep_duration.total_seconds())
        interface = context.task.interface
        if not interface.outputs.variables:
            return Outcome(_DONE, literals_pb2.LiteralMap())
        given = context.inputs().literals
        outputs = literals_pb2.LiteralMap()
        for output, source in _pairs(context, interface).items():
            if source not in given:
                raise bad_task(f"{context.describe()}: its input {source!r} was not given, so nothing can be echoed")
            outputs.literals[output].CopyFrom(given[source])
        return Outcome(_DONE, outputs)


def _pairs(context: TaskContext, interface: interface_pb2.TypedInterface) -> Mapping[str, str]:
    """Output -> the input that it repeats."""
    inputs, outputs = interface.inputs.variables, interface.outputs.variables
    pairs = {name: name for name in outputs if name in inputs and outputs[name].type == inputs[name].type}
    free = [name for name in sorted(inputs) if name not in pairs]
    for output in sorted(outputs):
        if output in pairs:
            continue
        source = next((name for name in free if inputs[name].type == outputs[output].type), None)
        if source is None:
            raise bad_task(
                f"{context.describe()}: an echo task gives its inputs back, and no input of the type of the output "
                f"{output!r} is left; inputs: {', '.join(sorted(inputs)) or 'none'}"
            )
        free.remove(source)
        pairs[output] = source
    return pairs
