"""Compiles and checks: what is small here, what is large in processes of its own.

So the service goes on answering, whatever it is handed.  Source: design.md, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from flyteidl.admin.launch_plan_pb2 import LaunchPlan, LaunchPlanCreateRequest
from flyteidl.admin.workflow_pb2 import WorkflowSpec
from flyteidl.core.compiler_pb2 import CompiledTask
from flyteidl.core.interface_pb2 import ParameterMap, TypedInterface
from flyteidl.core.literals_pb2 import LiteralMap
from flyteidl.core.tasks_pb2 import TaskTemplate
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.admin.domain import compilation
from aerodrome.admin.domain.compilation import Compiled, Needs
from aerodrome.compiler import Key, LaunchPlanInterface
from aerodrome.stdlib.errors import Internal
from aerodrome.stdlib.workers import IDLE, Workers


class Compiler:
    """Where specifications are compiled and inputs are checked; `close` ends the processes.

    `inline_bytes` is the size up to which that happens in this process.  Other processes start when first needed and
    end when there was nothing to do for `idle`, and with them the memory that large messages took.
    """

    def __init__(self, *, inline_bytes: int, workers: int, idle: timedelta = IDLE) -> None:
        self._inline_bytes = inline_bytes
        self._workers = Workers(workers, ended=_process_ended, idle=idle)

    async def needs_of(self, spec: WorkflowSpec) -> Needs:
        """What the workflow refers to.  Raises InvalidArgument with the compiler's errors."""
        if self.is_small(spec):
            return compilation.needs_of(spec)
        return await self._workers.run(compilation.needs_of_bytes, spec.SerializeToString())

    async def compile(
        self,
        spec: WorkflowSpec,
        tasks: Sequence[CompiledTask],
        launch_plans: Mapping[Key, LaunchPlanInterface],
        created_at: Timestamp,
    ) -> Compiled:
        """The closure of the workflow.  Raises InvalidArgument with the compiler's errors."""
        if self.is_small(spec):
            return compilation.compiled(spec, tasks, launch_plans, created_at)
        return await self._workers.run(
            compilation.compiled_bytes,
            spec.SerializeToString(),
            [task.SerializeToString() for task in tasks],
            {
                key: (each.expected_inputs.SerializeToString(), each.expected_outputs.SerializeToString())
                for key, each in launch_plans.items()
            },
            created_at.SerializeToString(),
        )

    async def diff(self, old: bytes, new: bytes) -> str:
        """How two serialized workflow closures differ, for people."""
        if len(old) + len(new) <= self._inline_bytes:
            return compilation.closure_diff(old, new)
        return await self._workers.run(compilation.closure_diff, old, new)

    async def close(self) -> None:
        """End the processes; what they still compute is given up."""
        await self._workers.close()

    async def compile_task(self, template: TaskTemplate) -> tuple[CompiledTask, bytes]:
        """The compiled form of a task, and its digest.  Raises InvalidArgument with the compiler's errors."""
        if self.is_small(template):
            return compilation.compiled_task(template)
        compiled, digest = await self._workers.run(compilation.compiled_task_bytes, template.SerializeToString())
        return CompiledTask.FromString(compiled), digest

    async def launch_plan(
        self, request: LaunchPlanCreateRequest, workflow: TypedInterface, *, artifacts_enabled: bool
    ) -> tuple[LaunchPlan, bytes]:
        """The stored form of a launch plan, and its digest.  Raises InvalidArgument."""
        if self.is_small(request, workflow):
            return compilation.launch_plan(request, workflow, artifacts_enabled)
        stored, digest = await self._workers.run(
            compilation.launch_plan_bytes,
            request.SerializeToString(),
            workflow.SerializeToString(),
            artifacts_enabled,
        )
        return LaunchPlan.FromString(stored), digest

    async def resolve_inputs(self, expected: ParameterMap, fixed: LiteralMap, supplied: LiteralMap) -> LiteralMap:
        """What an execution is given that was supplied with these inputs.  Raises InvalidArgument."""
        if self.is_small(expected, fixed, supplied):
            return compilation.resolved_inputs(expected, fixed, supplied)
        return LiteralMap.FromString(
            await self._workers.run(
                compilation.resolved_inputs_bytes,
                expected.SerializeToString(),
                fixed.SerializeToString(),
                supplied.SerializeToString(),
            )
        )

    def is_small(self, *messages: Message) -> bool:
        """Whether the messages together are dealt with in this process."""
        return sum(message.ByteSize() for message in messages) <= self._inline_bytes


def _process_ended() -> Internal:
    return Internal("the process that did the work ended before it was done, perhaps for lack of memory; try again")
