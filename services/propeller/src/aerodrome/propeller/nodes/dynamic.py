"""Dynamic nodes: what a task made at run time becomes the graph that its node goes on with.

The futures file is parsed, what it refers to is looked up, and the closure is compiled, stored beside it and given to
the engine; a later holder reads the stored closure again.  Large ones are compiled in a process of their own.
Source: spec/data-plane.md, 2.1, 3.1, 3.6.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flyteidl.admin import launch_plan_pb2
from flyteidl.core import compiler_pb2, dynamic_job_pb2, identifier_pb2, interface_pb2
from flyteidl.event import event_pb2
from google.protobuf.message import DecodeError

from aerodrome.compiler import CompileErrors, Key, LaunchPlanInterface, compile_dynamic, dynamic_requirements, key_of
from aerodrome.plugins.api import ErrorKind, Failure
from aerodrome.plugins.names import base32, fnv1a
from aerodrome.propeller.engine.graph import END, START, BadSpecification, Closure, Graph
from aerodrome.propeller.engine.state import NodeState
from aerodrome.propeller.layout import FUTURES, OUTPUTS
from aerodrome.propeller.nodes.admin_client import AdminClient, patiently
from aerodrome.propeller.nodes.handler import Run
from aerodrome.stdlib import faults
from aerodrome.stdlib.errors import InvalidArgument, NotFound, ResourceExhausted
from aerodrome.stdlib.workers import Workers

COMPILED = "dynamic_compiled.pb"
"""The `flyteidl.core.CompiledWorkflowClosure`, beside the futures file."""
MAX_FUTURES_BYTES = 64 << 20
"""Largest futures file that is read."""
MAX_CLOSURE_BYTES = 48 << 20
"""Largest compiled closure: the event that tells of it has to fit into a message."""
_INLINE_BYTES = 40_000
"""Futures up to this size are compiled in this process."""
_VERSION_LENGTH = 10


@dataclass(frozen=True, slots=True)
class Expanded:
    """What a dynamic task made, compiled and stored."""

    graph: Graph
    reference: str
    """Where the compiled closure is."""
    metadata: event_pb2.TaskNodeMetadata


class Expander:
    """Makes graphs of futures files; `close` ends its processes."""

    def __init__(self, admin: AdminClient, *, default_max_attempts: int, inline_bytes: int = _INLINE_BYTES) -> None:
        self._admin = admin
        self._default_max_attempts = default_max_attempts
        self._inline_bytes = inline_bytes
        self._workers = Workers(1, ended=_process_ended)

    async def expand(self, run: Run, node: NodeState, attempt: int) -> Expanded | Failure:
        """What the futures file of an attempt stands for, or why the node fails.  Raises storage errors that may pass.

        May be repeated: the same file gives the same result.
        """
        prefix = run.layout.output_dir(node, attempt)
        futures = f"{prefix}/{FUTURES}"
        try:
            data, spec = await run.literals.read_as(
                futures, lambda data: (data, _parse(data)), limit_bytes=MAX_FUTURES_BYTES
            )
        except DecodeError as error:
            return _failed(f"{FUTURES}, which the task left, is not a dynamic job specification: {error}")
        except ResourceExhausted:
            return _failed(
                f"the workflow that the task made takes more than {MAX_FUTURES_BYTES} bytes; make less of it"
            )
        small = len(data) <= self._inline_bytes
        try:
            needs = dynamic_requirements(spec) if small else await asyncio.to_thread(dynamic_requirements, spec)
            tasks = [await self._task(node, identifier) for identifier in needs.tasks]
            plans = {key_of(identifier): await self._launch_plan(identifier) for identifier in needs.launch_plans}
        except (NotFound, InvalidArgument) as error:
            return _failed(f"the workflow that the task made refers to what is not registered: {error.message}")
        compiled = await self._compile(run, node, attempt, spec, data, tasks, plans, small=small)
        if isinstance(compiled, Failure):
            return compiled
        if len(compiled) > MAX_CLOSURE_BYTES:
            return Failure(
                "NodeFailed",
                f"the workflow that task {node.spec.id} made takes {len(compiled)} bytes when compiled, and at most "
                f"{MAX_CLOSURE_BYTES} can be reported; make fewer nodes, or let a map task do it",
                ErrorKind.USER,
                retryable=False,
            )
        reference = f"{prefix}/{COMPILED}"
        faults.point("dynamic.compiled")
        await run.literals.storage.write(reference, compiled)
        faults.point("dynamic.stored")
        inputs = await run.literals.read(run.layout.inputs(node))
        await run.literals.write(f"{prefix}/{START}/0/{OUTPUTS}", inputs)
        try:
            message, graph = await self._built(compiled)
        except BadSpecification as error:
            return _failed(str(error))
        metadata = event_pb2.TaskNodeMetadata()
        metadata.checkpoint_uri = run.layout.checkpoints(node, attempt)
        metadata.dynamic_workflow.id.CopyFrom(message.primary.template.id)
        metadata.dynamic_workflow.compiled_workflow.CopyFrom(message)
        metadata.dynamic_workflow.dynamic_job_spec_uri = futures
        return Expanded(graph, reference, metadata)

    async def restore(self, run: Run, reference: str) -> Graph:
        """The graph of a closure that was stored.  Raises the storage's errors, DecodeError, BadSpecification."""
        return await run.literals.read_as(
            reference, lambda data: _graph(data, self._default_max_attempts)[1], limit_bytes=0
        )

    async def close(self) -> None:
        """End the processes; what they still compute is given up."""
        await self._workers.close()

    # --- inside

    async def _task(self, node: NodeState, identifier: identifier_pb2.Identifier) -> compiler_pb2.CompiledTask:
        closure = node.scope.graph.closure
        if closure is not None:
            try:
                return compiler_pb2.CompiledTask(template=closure.task(identifier))
            except BadSpecification:
                pass  # not one that the workflow around it uses as well
        found = await patiently("find a task", lambda: self._admin.get_task(identifier))
        return found.closure.compiled_task

    async def _launch_plan(self, identifier: identifier_pb2.Identifier) -> launch_plan_pb2.LaunchPlanClosure:
        found = await patiently("find a launch plan", lambda: self._admin.get_launch_plan(identifier))
        return found.closure

    async def _compile(
        self,
        run: Run,
        node: NodeState,
        attempt: int,
        spec: dynamic_job_pb2.DynamicJobSpec,
        data: bytes,
        tasks: Sequence[compiler_pb2.CompiledTask],
        plans: Mapping[Key, launch_plan_pb2.LaunchPlanClosure],
        *,
        small: bool,
    ) -> bytes | Failure:
        assert node.spec.task is not None
        generated = run.layout.generated_name(node, attempt)
        names = {
            "project": run.id.project,
            "domain": run.id.domain,
            "node_id": node.spec.id,
            "version": base32(fnv1a(generated.encode(), 64).to_bytes(8, "big"))[:_VERSION_LENGTH],
        }
        interface = node.spec.task.interface
        interfaces = {key: (plan.expected_inputs, plan.expected_outputs) for key, plan in plans.items()}
        try:
            if small:
                return _compiled(spec, names, interface, tasks, interfaces)
            answer = await self._workers.run(
                _compiled_bytes,
                data,
                names,
                interface.SerializeToString(),
                [task.SerializeToString() for task in tasks],
                {
                    key: (inputs.SerializeToString(), outputs.SerializeToString())
                    for key, (inputs, outputs) in interfaces.items()
                },
            )
            return answer if isinstance(answer, bytes) else _inconsistent(answer)
        except CompileErrors as error:
            return _inconsistent(str(error))

    async def _built(self, data: bytes) -> tuple[compiler_pb2.CompiledWorkflowClosure, Graph]:
        if len(data) <= self._inline_bytes:
            return _graph(data, self._default_max_attempts)
        return await asyncio.to_thread(_graph, data, self._default_max_attempts)


def _process_ended() -> ResourceExhausted:
    return ResourceExhausted(
        "the process that compiled what the task made ended before it was done, perhaps for lack of memory"
    )


def outputs_of(run: Run, node: NodeState) -> str:
    """Where the outputs are of the graph that a dynamic node has gone on with."""
    assert node.inner is not None
    return run.layout.outputs(node.inner.node(END))


def _parse(data: bytes) -> dynamic_job_pb2.DynamicJobSpec:
    return dynamic_job_pb2.DynamicJobSpec.FromString(data)


def _graph(data: bytes, default_max_attempts: int) -> tuple[compiler_pb2.CompiledWorkflowClosure, Graph]:
    message = compiler_pb2.CompiledWorkflowClosure.FromString(data)
    return message, Closure(message, default_max_attempts=default_max_attempts).root()


def _compiled(
    spec: dynamic_job_pb2.DynamicJobSpec,
    names: Mapping[str, str],
    interface: interface_pb2.TypedInterface,
    tasks: Sequence[compiler_pb2.CompiledTask],
    plans: Mapping[Key, tuple[interface_pb2.ParameterMap, interface_pb2.VariableMap]],
) -> bytes:
    closure = compile_dynamic(
        spec,
        project=names["project"],
        domain=names["domain"],
        node_id=names["node_id"],
        version=names["version"],
        interface=interface,
        tasks=tasks,
        launch_plans={key: LaunchPlanInterface(inputs, outputs) for key, (inputs, outputs) in plans.items()},
    )
    return closure.SerializeToString(deterministic=True)


def _compiled_bytes(
    data: bytes,
    names: Mapping[str, str],
    interface: bytes,
    tasks: Sequence[bytes],
    plans: Mapping[Key, tuple[bytes, bytes]],
) -> bytes | str:
    """`_compiled` in another process; the compiler's errors come back as text."""
    try:
        return _compiled(
            _parse(data),
            names,
            interface_pb2.TypedInterface.FromString(interface),
            [compiler_pb2.CompiledTask.FromString(task) for task in tasks],
            {
                key: (interface_pb2.ParameterMap.FromString(inputs), interface_pb2.VariableMap.FromString(outputs))
                for key, (inputs, outputs) in plans.items()
            },
        )
    except CompileErrors as error:
        return str(error)


def _inconsistent(errors: str) -> Failure:
    return _failed(f"the workflow that the task made does not hold together: {errors}")


def _failed(message: str) -> Failure:
    return Failure("DynamicWorkflowBuildFailed", message, ErrorKind.USER, retryable=False)
