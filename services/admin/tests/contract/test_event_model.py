"""Events in any order, repeated at will, against a model of section 5: what it accepts is folded, what it refuses gets
its code and changes nothing.

The model is written from spec/control-plane.md, sections 5.1 to 5.3, and knows nothing of the code under test.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
import pytest_asyncio
from flyteidl.admin import event_pb2, execution_pb2, node_execution_pb2, task_execution_pb2
from flyteidl.admin.event_pb2 import EventFailureReason
from flyteidl.core.execution_pb2 import NodeExecution, TaskExecution, WorkflowExecution
from flyteidl.core.identifier_pb2 import (
    NodeExecutionIdentifier,
    TaskExecutionIdentifier,
    WorkflowExecutionIdentifier,
)
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aerodrome.stdlib.postgres.testing import ServerForTests

from .serving import Served, identifier, reference, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORKFLOW_TERMINAL = {"SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"}
NODE_TERMINAL = {"SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED", "SKIPPED", "RECOVERED"}
TASK_TERMINAL = {"SUCCEEDED", "FAILED", "ABORTED"}
NODES = ("a", "b")

EPOCH = 1_767_225_600
"""2026 begins."""

_names = itertools.count()


@dataclass(frozen=True)
class Event:
    """`what` is workflow, abort (which is TerminateExecution), node or task."""

    what: str
    phase: str
    second: int
    node: str = ""
    attempt: int = 0
    version: int = 0
    error: bool = False


@dataclass
class Entity:
    """What the rows must tell of an execution, a node or an attempt."""

    phase: str = "UNDEFINED"
    version: int = 0
    updated: int | None = None
    started: int | None = None
    duration: int | None = None
    error: bool = False


@dataclass
class Model:
    """Section 5."""

    workflow: Entity = field(default_factory=Entity)
    nodes: dict[str, Entity] = field(default_factory=dict)
    tasks: dict[tuple[str, int], Entity] = field(default_factory=dict)

    def take(self, event: Event) -> tuple[str, str | None]:
        """The code, and the phase in the detail of a late event."""
        match event.what:
            case "abort":
                if self.workflow.phase in WORKFLOW_TERMINAL:
                    return "FAILED_PRECONDITION", None
                self.workflow.phase = "ABORTING"
                return "OK", None
            case "workflow":
                return self._workflow(event)
            case "node":
                return self._node(event)
            case _:
                return self._task(event)

    def _workflow(self, event: Event) -> tuple[str, str | None]:
        own = self.workflow
        if event.phase != "QUEUED" and event.phase == own.phase:
            return "ALREADY_EXISTS", None
        if own.phase in WORKFLOW_TERMINAL:
            return "FAILED_PRECONDITION", own.phase
        if own.phase == "RUNNING" and event.phase == "QUEUED":
            return "FAILED_PRECONDITION", None
        if own.phase == "ABORTING" and event.phase not in WORKFLOW_TERMINAL:
            return "FAILED_PRECONDITION", None
        own.phase, own.updated = event.phase, event.second
        if event.phase == "RUNNING":
            own.started = event.second
        self._end(own, event, WORKFLOW_TERMINAL)
        own.error = own.error or event.error
        return "OK", None

    def _node(self, event: Event) -> tuple[str, str | None]:
        own = self.nodes.get(event.node)
        if own is not None:
            if own.phase == event.phase:
                return "ALREADY_EXISTS", None
            if own.phase in NODE_TERMINAL:
                return "FAILED_PRECONDITION", own.phase  # the reference tells the requested one; either will do
        own = self.nodes.setdefault(event.node, Entity())
        own.phase, own.updated = event.phase, event.second
        if event.phase == "RUNNING":
            own.started = event.second
        self._end(own, event, NODE_TERMINAL)
        own.error = own.error or (event.error and event.phase in NODE_TERMINAL)
        return "OK", None

    def _task(self, event: Event) -> tuple[str, str | None]:
        key = event.node, event.attempt
        own = self.tasks.get(key)
        if own is None:
            if event.node not in self.nodes:
                return "NOT_FOUND", None
            own = self.tasks[key] = Entity()
            if event.phase == "RUNNING":
                own.started = event.second
        else:
            if own.phase == event.phase and own.version >= event.version:
                return "ALREADY_EXISTS", None
            if own.phase in TASK_TERMINAL:
                return "FAILED_PRECONDITION", own.phase  # as for nodes
            if event.phase == "RUNNING" and own.phase != "RUNNING" and own.started is None:
                own.started = event.second
        own.phase, own.version, own.updated = event.phase, event.version, event.second
        self._end(own, event, TASK_TERMINAL)
        own.error = own.error or (event.error and event.phase in TASK_TERMINAL)
        return "OK", None

    @staticmethod
    def _end(own: Entity, event: Event, terminal: set[str]) -> None:
        if event.phase in terminal and own.started is not None:
            own.duration = event.second - own.started


def events() -> st.SearchStrategy[list[Event]]:
    """Mostly what engines send, in any order, with repeats."""
    workflow = ["QUEUED", "RUNNING", "SUCCEEDING", "FAILING", "SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED", "ABORTING"]
    node = [
        "QUEUED", "RUNNING", "FAILING", "DYNAMIC_RUNNING", "SUCCEEDED", "FAILED", "ABORTED", "SKIPPED", "TIMED_OUT",
        "RECOVERED",
    ]  # fmt: skip
    task = ["QUEUED", "INITIALIZING", "WAITING_FOR_RESOURCES", "RUNNING", "SUCCEEDED", "FAILED", "ABORTED"]
    seconds, errors = st.integers(1, 3_000), st.booleans()
    one = st.one_of(
        st.builds(Event, st.just("workflow"), st.sampled_from(workflow), seconds, error=errors),
        st.builds(Event, st.just("node"), st.sampled_from(node), seconds, st.sampled_from(NODES), error=errors),
        st.builds(
            Event, st.just("task"), st.sampled_from(task), seconds, st.sampled_from(NODES), st.integers(0, 1),
            st.integers(0, 2), error=errors,
        ),
    )  # fmt: skip
    aborts = st.just(Event("abort", "", 0))
    some = st.lists(st.one_of(*[one] * 12, aborts), min_size=5, max_size=18)

    def repeat(found: list[Event]) -> st.SearchStrategy[list[Event]]:
        again = st.lists(st.sampled_from(found), max_size=6)
        return again.flatmap(lambda more: st.permutations(found + more)).map(list)

    return some.flatmap(repeat)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(postgres_server: ServerForTests, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served(postgres_server, tmp_path_factory.mktemp("store")) as made:
        nodes = [{"id": name, "taskNode": {"referenceId": reference("TASK", "t")}} for name in NODES]
        await made.register("w", nodes, tasks=["t"])
        yield made


def sequences(count: int) -> list[list[Event]]:
    """Random ones; failing examples are printed by the assertion, since the test itself runs on the loop."""
    found: list[list[Event]] = []

    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(events())
    def collect(sequence: list[Event]) -> None:
        found.append(sequence)

    collect()
    return found


async def send(made: Served, execution: WorkflowExecutionIdentifier, event: Event) -> tuple[str, str | None]:
    at = Timestamp(seconds=EPOCH + event.second)
    error = {"code": "Oops", "message": "it broke"} if event.error else None
    more: dict[str, Any] = {"error": error} if error else {}
    node = NodeExecutionIdentifier(node_id=event.node, execution_id=execution)
    try:
        match event.what:
            case "abort":
                await made.admin.TerminateExecution(
                    execution_pb2.ExecutionTerminateRequest(id=execution, cause="enough")
                )
            case "workflow":
                workflow = event_pb2.WorkflowExecutionEventRequest()
                workflow.event.execution_id.CopyFrom(execution)
                workflow.event.phase = getattr(WorkflowExecution, event.phase)
                _fill(workflow.event, at, more)
                await made.admin.CreateWorkflowEvent(workflow)
            case "node":
                request = event_pb2.NodeExecutionEventRequest()
                request.event.id.CopyFrom(node)
                request.event.phase = getattr(NodeExecution, event.phase)
                request.event.spec_node_id = event.node
                request.event.event_version = 1
                _fill(request.event, at, more)
                await made.admin.CreateNodeEvent(request)
            case _:
                task = event_pb2.TaskExecutionEventRequest()
                task.event.task_id.CopyFrom(identifier("TASK", "t"))
                task.event.parent_node_execution_id.CopyFrom(node)
                task.event.retry_attempt, task.event.phase_version = event.attempt, event.version
                task.event.phase = getattr(TaskExecution, event.phase)
                _fill(task.event, at, more)
                await made.admin.CreateTaskEvent(task)
    except grpc.aio.AioRpcError as refused:
        return refused.code().name, _detail(refused, event)
    return "OK", None


def _fill(event: Any, at: Timestamp, more: dict[str, Any]) -> None:
    event.occurred_at.CopyFrom(at)
    if "error" in more:
        event.error.code, event.error.message = more["error"]["code"], more["error"]["message"]


def _detail(refused: grpc.aio.AioRpcError, event: Event) -> str | None:
    status = rpc_status.from_call(refused)  # type: ignore[arg-type]  # its stubs know only synchronous calls
    if status is None or event.what == "abort":
        return None
    for detail in status.details:
        reason = EventFailureReason()
        if detail.Unpack(reason) and reason.WhichOneof("reason") == "already_in_terminal_state":
            return reason.already_in_terminal_state.current_phase
    return None


async def shown(made: Served, execution: WorkflowExecutionIdentifier, model: Model) -> Model:
    """What the API tells of everything that the model knows."""
    found = Model()
    answer = await made.admin.GetExecution(execution_pb2.WorkflowExecutionGetRequest(id=execution))
    found.workflow = _entity(answer.closure, WorkflowExecution.Phase.Name(answer.closure.phase))
    for name in model.nodes:
        node_id = NodeExecutionIdentifier(node_id=name, execution_id=execution)
        node = await made.admin.GetNodeExecution(node_execution_pb2.NodeExecutionGetRequest(id=node_id))
        found.nodes[name] = _entity(node.closure, NodeExecution.Phase.Name(node.closure.phase))
    for name, attempt in model.tasks:
        node_id = NodeExecutionIdentifier(node_id=name, execution_id=execution)
        task_id = TaskExecutionIdentifier(
            task_id=identifier("TASK", "t"), node_execution_id=node_id, retry_attempt=attempt
        )
        task = await made.admin.GetTaskExecution(task_execution_pb2.TaskExecutionGetRequest(id=task_id))
        found.tasks[name, attempt] = _entity(task.closure, TaskExecution.Phase.Name(task.closure.phase))
    return found


def _entity(closure: Any, phase: str) -> Entity:
    return Entity(
        phase=phase,
        updated=closure.updated_at.seconds - EPOCH,
        started=closure.started_at.seconds - EPOCH if closure.HasField("started_at") else None,
        duration=_seconds(closure.duration) if closure.HasField("duration") else None,
        error=closure.HasField("error"),
    )


def _seconds(duration: Duration) -> int:
    return duration.seconds


def _comparable(model: Model) -> Model:
    """Without what the API does not show."""
    for task in model.tasks.values():
        task.version = 0
    if model.workflow.phase in ("ABORTING", "ABORTED"):
        model.workflow.error = False  # the cause of an abort takes its place
    return model


async def test_rows_are_the_fold_of_what_section_5_accepts(platform: Served) -> None:
    codes: set[str] = set()
    for sequence in sequences(60):
        name = f"m{next(_names)}"
        execution = await platform.launch("w", name)
        model = Model()
        for at, event in enumerate(sequence):
            expected = model.take(event)
            codes.add(expected[0])
            assert await send(platform, execution, event) == expected, (at, sequence)
        found = await shown(platform, execution, model)
        if model.workflow.updated is None or any(event.what == "abort" for event in sequence):
            # TerminateExecution stamps the time at which it came; the model does not know it.
            found.workflow.updated = model.workflow.updated
        if found.workflow.phase in ("ABORTING", "ABORTED"):
            found.workflow.error = False
        assert found == _comparable(model), sequence
        entries = await platform.database.fetchval(
            "SELECT count(*) FROM journal j JOIN executions e USING (execution_id) WHERE execution_name = $1", name
        )
        assert entries == sum(1 for code in replay(sequence) if code == "OK"), sequence
    assert codes == {"OK", "ALREADY_EXISTS", "FAILED_PRECONDITION", "NOT_FOUND"}


def replay(sequence: list[Event]) -> list[str]:
    model = Model()
    return [model.take(event)[0] for event in sequence]
