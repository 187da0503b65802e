"""A run whose control plane does what a test says, for the handlers that ask it for something."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from flyteidl.admin import execution_pb2, matchable_resource_pb2, signal_pb2
from flyteidl.core import compiler_pb2, identifier_pb2, literals_pb2, workflow_pb2
from flyteidl.service import admin_pb2_grpc, signal_pb2_grpc
from graphs import identifier

from aerodrome.propeller.engine.engine import Engine
from aerodrome.propeller.engine.graph import END, START, Closure
from aerodrome.propeller.engine.state import NodeState
from aerodrome.propeller.layout import Layout
from aerodrome.propeller.literals import Literals
from aerodrome.propeller.nodes.admin_client import AdminClient
from aerodrome.propeller.nodes.handler import Observation, Run
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.config import StorageConfig
from aerodrome.stdlib.errors import AerodromeError, AlreadyExists, FailedPrecondition, NotFound
from aerodrome.stdlib.rpc.direct import DirectChannel
from aerodrome.stdlib.rpc.registry import Registry
from aerodrome.stdlib.storage import open_storage

TERMINAL = {"SUCCEEDED", "FAILED", "ABORTED"}


class ControlPlane(admin_pb2_grpc.AdminServiceServicer, signal_pb2_grpc.SignalServiceServicer):
    """Keeps executions and signals in memory; `refusals` are raised one after the other, of any call."""

    def __init__(self) -> None:
        self.executions: dict[str, execution_pb2.Execution] = {}
        self.created: list[execution_pb2.ExecutionCreateRequest] = []
        self.recovered: list[execution_pb2.ExecutionRecoverRequest] = []
        self.terminated: list[execution_pb2.ExecutionTerminateRequest] = []
        self.signals: dict[str, signal_pb2.Signal] = {}
        self.refusals: list[AerodromeError] = []
        self.lists = 0
        self.gets = 0

    def _refuse(self) -> None:
        if self.refusals:
            raise self.refusals.pop(0)

    def add(self, name: str, metadata: execution_pb2.ExecutionMetadata) -> None:
        if name in self.executions:
            raise AlreadyExists(f"{name} is taken")
        execution = execution_pb2.Execution(spec=execution_pb2.ExecutionSpec(metadata=metadata))
        execution.id.project, execution.id.domain, execution.id.name = "p", "d", name
        self.executions[name] = execution

    def end(self, name: str, phase: str, **closure: Any) -> None:
        self.executions[name].closure.CopyFrom(execution_pb2.ExecutionClosure(phase=phase, **closure))

    async def CreateExecution(self, request: Any, context: Any) -> execution_pb2.ExecutionCreateResponse:
        self._refuse()
        self.add(request.name, request.spec.metadata)
        self.created.append(request)
        return execution_pb2.ExecutionCreateResponse()

    async def RecoverExecution(self, request: Any, context: Any) -> execution_pb2.ExecutionCreateResponse:
        self._refuse()
        self.add(request.name, request.metadata)
        self.recovered.append(request)
        return execution_pb2.ExecutionCreateResponse()

    async def GetExecution(self, request: Any, context: Any) -> execution_pb2.Execution:
        self.gets += 1
        self._refuse()
        if request.id.name not in self.executions:
            raise NotFound(f"there is no {request.id.name}")
        return self.executions[request.id.name]

    async def ListExecutions(self, request: Any, context: Any) -> execution_pb2.ExecutionList:
        self.lists += 1
        self._refuse()
        names = request.filters.removeprefix("value_in(execution_name,").removesuffix(")").split(";")
        return execution_pb2.ExecutionList(
            executions=[self.executions[name] for name in names if name in self.executions]
        )

    async def TerminateExecution(self, request: Any, context: Any) -> execution_pb2.ExecutionTerminateResponse:
        self._refuse()
        if request.id.name not in self.executions:
            raise NotFound("there is no such execution")
        if self.executions[request.id.name].closure.phase:
            raise FailedPrecondition("it is over")
        self.terminated.append(request)
        return execution_pb2.ExecutionTerminateResponse()

    async def GetOrCreateSignal(self, request: Any, context: Any) -> signal_pb2.Signal:
        self._refuse()
        return self.signals.setdefault(request.id.signal_id, signal_pb2.Signal(id=request.id, type=request.type))


class Drive:
    """An engine, and a run whose observations it takes."""

    def __init__(self, run: Run, engine: Engine, posted: asyncio.Queue[Observation]) -> None:
        self.run = run
        self.engine = engine
        self._posted = posted

    def ready(self, node_id: str) -> NodeState:
        """The node, about to start its first attempt."""
        node = self.engine.root.node(node_id)
        self.engine.prepared(node, 1_000.0)
        self.engine.take()
        return node

    async def observe(self) -> None:
        """Let the engine see what is posted next."""
        async with asyncio.timeout(10):
            observation = await self._posted.get()
        observation(self.engine, 1_001.0)

    def nothing_posted(self) -> bool:
        return self._posted.empty()


def workflow() -> Closure:
    """A launch plan, an approval, a signal and a pause, side by side."""
    compiled = compiler_pb2.CompiledWorkflowClosure()
    template = compiled.primary.template
    template.id.CopyFrom(identifier("w"))
    template.nodes.add(id=START)
    template.nodes.add(id="lp").workflow_node.launchplan_ref.CopyFrom(identifier("plan", identifier_pb2.LAUNCH_PLAN))
    template.nodes.add(id="ok").gate_node.approve.signal_id = "sure"
    signal = template.nodes.add(id="value").gate_node.signal
    signal.signal_id, signal.output_variable_name = "number", "o0"
    template.nodes.add(id="pause").gate_node.sleep.duration.seconds = 5
    template.nodes.append(workflow_pb2.Node(id=END))
    for name in ("lp", "ok", "value", "pause"):
        compiled.primary.connections.downstream[START].ids.append(name)
        compiled.primary.connections.downstream[name].ids.append(END)
    return Closure(compiled)


@asynccontextmanager
async def driving(store: Path, plane: ControlPlane) -> AsyncIterator[tuple[Drive, AdminClient]]:
    """A run of `workflow`, whose nodes were given x = 7."""
    registry = Registry()
    admin_pb2_grpc.add_AdminServiceServicer_to_server(plane, registry)
    signal_pb2_grpc.add_SignalServiceServicer_to_server(plane, registry)
    posted: asyncio.Queue[Observation] = asyncio.Queue()
    spawned: set[asyncio.Task[None]] = set()
    closure = workflow()

    def spawn(work: Any) -> object:
        task = asyncio.create_task(work)
        spawned.add(task)
        return task

    async def permit() -> None:
        return None

    async with (
        open_storage(StorageConfig(type="local", container=str(store)), clock=ManualClock()) as storage,
        DirectChannel([registry]) as channel,
    ):
        run = Run(
            id=identifier_pb2.WorkflowExecutionIdentifier(project="p", domain="d", name="e0"),
            workflow_id=identifier("w"),
            namespace="p-d",
            spec=execution_pb2.ExecutionSpec(max_parallelism=7),
            closure=closure,
            layout=Layout(execution="e0", data_dir=storage.join("meta/p-d-e0"), raw_base=storage.join("raw")),
            literals=Literals(storage),
            resources=matchable_resource_pb2.TaskResourceAttributes(),
            plugin_overrides=(),
            post=posted.put_nowait,
            permit=permit,
            spawn=spawn,
        )
        engine = Engine(closure)
        engine.begin(1_000.0)
        engine.take()
        engine.prepared(engine.root.node(START), 1_000.0)
        given = literals_pb2.LiteralMap()
        given.literals["x"].scalar.primitive.integer = 7
        for name in ("lp", "ok", "value", "pause"):
            await run.literals.write(run.layout.inputs(engine.root.node(name)), given)
        yield Drive(run, engine, posted), AdminClient(channel)
        for task in spawned:
            task.cancel()
