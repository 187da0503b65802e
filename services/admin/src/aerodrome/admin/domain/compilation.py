"""What takes long for large messages, from bytes to bytes, so that it can happen in a process of its own.

Everything here is pure and picklable: a process that only computes gets bytes and gives bytes.
Source: spec/control-plane.md, sections 1.4, 1.6 and 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flyteidl.admin.launch_plan_pb2 import LaunchPlan, LaunchPlanCreateRequest
from flyteidl.admin.workflow_pb2 import WorkflowClosure, WorkflowSpec
from flyteidl.core.compiler_pb2 import CompiledTask
from flyteidl.core.identifier_pb2 import Identifier
from flyteidl.core.interface_pb2 import ParameterMap, TypedInterface, VariableMap
from flyteidl.core.literals_pb2 import LiteralMap
from flyteidl.core.tasks_pb2 import TaskTemplate
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.admin.domain.launch_plans import stored_launch_plan
from aerodrome.admin.domain.literals import check_literals
from aerodrome.compiler import (
    CompileErrors,
    InterfaceError,
    Key,
    LaunchPlanInterface,
    compile_task,
    compile_workflow,
    digest_launch_plan,
    digest_task,
    digest_workflow,
    requirements,
    resolve_execution_inputs,
    structural_diff,
)
from aerodrome.stdlib.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Needs:
    """Serialized identifiers of what a workflow refers to."""

    tasks: tuple[bytes, ...]
    launch_plans: tuple[bytes, ...]

    def task_ids(self) -> list[Identifier]:
        return [Identifier.FromString(each) for each in self.tasks]

    def launch_plan_ids(self) -> list[Identifier]:
        return [Identifier.FromString(each) for each in self.launch_plans]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled workflow."""

    closure: bytes
    """flyteidl.admin.WorkflowClosure."""
    interface: bytes
    """flyteidl.core.TypedInterface of the workflow itself."""
    digest: bytes
    node_count: int
    """Nodes of the workflow's own level, without the two that every workflow has."""


def needs_of(spec: WorkflowSpec) -> Needs:
    """What `spec` refers to.  Raises InvalidArgument with the compiler's errors."""
    try:
        found = requirements(spec.template, spec.sub_workflows)
    except CompileErrors as errors:
        raise InvalidArgument(str(errors)) from errors
    return Needs(
        tasks=tuple(each.SerializeToString() for each in found.tasks),
        launch_plans=tuple(each.SerializeToString() for each in found.launch_plans),
    )


def compiled(
    spec: WorkflowSpec,
    tasks: Sequence[CompiledTask],
    launch_plans: Mapping[Key, LaunchPlanInterface],
    created_at: Timestamp,
) -> Compiled:
    """The closure of `spec`.  Raises InvalidArgument with the compiler's errors."""
    try:
        closure = compile_workflow(spec.template, spec.sub_workflows, tasks, launch_plans)
    except CompileErrors as errors:
        raise InvalidArgument(str(errors)) from errors
    return Compiled(
        closure=WorkflowClosure(compiled_workflow=closure, created_at=created_at).SerializeToString(),
        interface=closure.primary.template.interface.SerializeToString(),
        digest=digest_workflow(closure),
        node_count=len(closure.primary.template.nodes) - 2,
    )


def closure_diff(old: bytes, new: bytes) -> str:
    """How two serialized workflow closures differ, for people."""
    before, after = WorkflowClosure.FromString(old), WorkflowClosure.FromString(new)
    return structural_diff(before.compiled_workflow, after.compiled_workflow)


def compiled_task(template: TaskTemplate) -> tuple[CompiledTask, bytes]:
    """The compiled form of a task, and its digest.  Raises InvalidArgument with the compiler's errors."""
    try:
        compiled = compile_task(template)
    except CompileErrors as errors:
        raise InvalidArgument(f"task failed compilation with {errors}") from errors
    return compiled, digest_task(compiled)


def launch_plan(
    request: LaunchPlanCreateRequest, workflow: TypedInterface, artifacts_enabled: bool
) -> tuple[LaunchPlan, bytes]:
    """The stored form of a launch plan, and its digest.  Raises InvalidArgument."""
    stored = stored_launch_plan(request, workflow, artifacts_enabled=artifacts_enabled)
    closure = stored.closure
    return stored, digest_launch_plan(stored.id, stored.spec, closure.expected_inputs, closure.expected_outputs)


def resolved_inputs(expected: ParameterMap, fixed: LiteralMap, supplied: LiteralMap) -> LiteralMap:
    """What an execution is given that was supplied with these inputs.  Raises InvalidArgument."""
    check_literals("inputs", supplied)
    try:
        return resolve_execution_inputs(expected, fixed, supplied)
    except InterfaceError as error:
        raise InvalidArgument(str(error)) from error


# The same from bytes alone, for a process of its own


def compiled_task_bytes(template: bytes) -> tuple[bytes, bytes]:
    compiled, digest = compiled_task(TaskTemplate.FromString(template))
    return compiled.SerializeToString(), digest


def launch_plan_bytes(request: bytes, workflow: bytes, artifacts_enabled: bool) -> tuple[bytes, bytes]:
    stored, digest = launch_plan(
        LaunchPlanCreateRequest.FromString(request), TypedInterface.FromString(workflow), artifacts_enabled
    )
    return stored.SerializeToString(), digest


def resolved_inputs_bytes(expected: bytes, fixed: bytes, supplied: bytes) -> bytes:
    return resolved_inputs(
        ParameterMap.FromString(expected), LiteralMap.FromString(fixed), LiteralMap.FromString(supplied)
    ).SerializeToString()


def needs_of_bytes(spec: bytes) -> Needs:
    return needs_of(WorkflowSpec.FromString(spec))


def compiled_bytes(
    spec: bytes,
    tasks: Sequence[bytes],
    launch_plans: Mapping[Key, tuple[bytes, bytes]],
    created_at: bytes,
) -> Compiled:
    interfaces = {
        key: LaunchPlanInterface(ParameterMap.FromString(inputs), VariableMap.FromString(outputs))
        for key, (inputs, outputs) in launch_plans.items()
    }
    return compiled(
        WorkflowSpec.FromString(spec),
        [CompiledTask.FromString(task) for task in tasks],
        interfaces,
        Timestamp.FromString(created_at),
    )
