"""Compiling workflows from bytes to bytes, so that it can happen in a process of its own.

Everything here is pure and picklable: a process that only computes gets bytes and gives bytes.
Source: spec/control-plane.md, sections 1.4, 1.6 and 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flyteidl.admin.workflow_pb2 import WorkflowClosure, WorkflowSpec
from flyteidl.core.compiler_pb2 import CompiledTask
from flyteidl.core.identifier_pb2 import Identifier
from flyteidl.core.interface_pb2 import ParameterMap, VariableMap
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.compiler import (
    CompileErrors,
    Key,
    LaunchPlanInterface,
    compile_workflow,
    digest_workflow,
    requirements,
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


# The same from bytes alone, for a process of its own


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
