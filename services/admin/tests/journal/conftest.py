"""A control plane's journal as a data plane sees it, on a database of one's own."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from flyteidl.admin.event_pb2 import (
    NodeExecutionEventRequest,
    TaskExecutionEventRequest,
    WorkflowExecutionEventRequest,
)
from flyteidl.admin.execution_pb2 import ExecutionClosure, ExecutionSpec
from flyteidl.admin.node_execution_pb2 import NodeExecutionClosure, NodeExecutionMetaData
from flyteidl.admin.task_execution_pb2 import TaskExecutionClosure
from flyteidl.core.identifier_pb2 import (
    Identifier,
    NodeExecutionIdentifier,
    ResourceType,
    WorkflowExecutionIdentifier,
)
from flyteidl.event.event_pb2 import NodeExecutionEvent, TaskExecutionEvent, WorkflowExecutionEvent

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.managers.children import ChildManager
from aerodrome.admin.managers.journal import JournalWriter
from aerodrome.admin.managers.leases import LeaseManager, WorkAnnouncer
from aerodrome.admin.managers.replaying import differences
from aerodrome.admin.managers.sessions import SessionManager
from aerodrome.admin.rpc.events import EventRpcs
from aerodrome.admin.rpc.journal import JournalRpcs
from aerodrome.idl.journal.v1.journal_pb2 import (
    AppendRequest,
    Assignment,
    Control,
    ExecutionAppend,
    ExecutionAppendResult,
    LeaseRequest,
    NodeChange,
    OpenSessionRequest,
    TaskChange,
    Transition,
    TransitionStatus,
    WorkflowChange,
)
from aerodrome.idl.journal.v1.journal_pb2_grpc import JournalServiceStub, add_JournalServiceServicer_to_server
from aerodrome.stdlib.clock import Clock, ManualClock
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.notify import Announcer, Listener
from aerodrome.stdlib.postgres.testing import ServerForTests, fresh_database, postgres_server
from aerodrome.stdlib.rpc.direct import DirectChannel
from aerodrome.stdlib.rpc.registry import Registry
from aerodrome.stdlib.storage.memory import MemStorage

__all__ = ["postgres_server"]

PROJECT, DOMAIN = "flytesnacks", "development"
START = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE = 20
"""Seconds after which a test gives up waiting."""

ACCEPTED = TransitionStatus.TRANSITION_STATUS_ACCEPTED
REPEATED = TransitionStatus.TRANSITION_STATUS_REPEATED
REFUSED = TransitionStatus.TRANSITION_STATUS_REFUSED
ABORTING = TransitionStatus.TRANSITION_STATUS_ABORTING


AnyEvent = WorkflowExecutionEvent | NodeExecutionEvent | TaskExecutionEvent


@dataclass
class Events:
    """Events of one execution, each a second after the one before."""

    name: str = "one"
    producer: str = "propeller"
    seconds: Iterator[int] = field(default_factory=itertools.count)

    @property
    def identifier(self) -> WorkflowExecutionIdentifier:
        return WorkflowExecutionIdentifier(project=PROJECT, domain=DOMAIN, name=self.name)

    def _stamp(self, event: AnyEvent) -> None:
        event.occurred_at.FromDatetime(START + timedelta(seconds=next(self.seconds)))
        event.producer_id = self.producer

    def workflow(self, phase: str, **more: Any) -> WorkflowExecutionEvent:
        event = WorkflowExecutionEvent(execution_id=self.identifier, phase=phase, **more)
        self._stamp(event)
        return event

    def node(self, node_id: str, phase: str, **more: Any) -> NodeExecutionEvent:
        event = NodeExecutionEvent(
            id=NodeExecutionIdentifier(node_id=node_id, execution_id=self.identifier),
            phase=phase,
            spec_node_id=node_id,
            event_version=1,
            **more,
        )
        self._stamp(event)
        return event

    def task(self, node_id: str, phase: str, attempt: int = 0, version: int = 0, **more: Any) -> TaskExecutionEvent:
        event = TaskExecutionEvent(
            task_id=Identifier(resource_type=ResourceType.TASK, project=PROJECT, domain=DOMAIN, name="t", version="v1"),
            parent_node_execution_id=NodeExecutionIdentifier(node_id=node_id, execution_id=self.identifier),
            retry_attempt=attempt,
            phase=phase,
            phase_version=version,
            task_type="python-task",
            **more,
        )
        self._stamp(event)
        return event


def transition(event: Any, state: bytes = b"") -> Transition:
    """`event` as a holder appends it."""
    if isinstance(event, WorkflowExecutionEvent):
        return Transition(workflow=WorkflowChange(event=event.SerializeToString(), state=state))
    if isinstance(event, NodeExecutionEvent):
        return Transition(node=NodeChange(node_id=event.id.node_id, event=event.SerializeToString(), state=state))
    return Transition(
        task=TaskChange(
            node_id=event.parent_node_execution_id.node_id,
            attempt=event.retry_attempt,
            event=event.SerializeToString(),
            state=state,
        )
    )


@dataclass
class Replica:
    """One process of the control plane."""

    database: Database
    storage: MemStorage
    journal: JournalWriter
    sessions: SessionManager
    leases: LeaseManager
    work: WorkAnnouncer
    stub: Any
    events: EventRpcs

    async def report(self, event: Any) -> None:
        """Report as an outside engine does."""
        if isinstance(event, WorkflowExecutionEvent):
            await self.events.CreateWorkflowEvent(WorkflowExecutionEventRequest(event=event), None)
        elif isinstance(event, NodeExecutionEvent):
            await self.events.CreateNodeEvent(NodeExecutionEventRequest(event=event), None)
        else:
            await self.events.CreateTaskEvent(TaskExecutionEventRequest(event=event), None)


@asynccontextmanager
async def replica(
    database: Database,
    config: AdminConfig | None = None,
    *,
    storage: MemStorage | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Replica]:
    """A running process of the control plane on `database`."""
    config = config or AdminConfig()
    clock = clock or ManualClock()
    storage = storage or MemStorage("test", clock=clock)
    journal = JournalWriter(database, storage, clock, config)
    sessions = SessionManager(database, clock, config)
    async with Announcer(database.dsn) as announcer, Listener(database.dsn) as listener:
        work = WorkAnnouncer(announcer)
        leases = LeaseManager(database, sessions, work, config, announcer=announcer, listener=listener)
        journal.subscribe(leases.told)
        children = ChildManager(database, journal, clock, push=leases.push, announcer=announcer, listener=listener)
        journal.subscribe(children.told)
        registry = Registry()
        registry.add(add_JournalServiceServicer_to_server, JournalRpcs(journal, sessions, leases, children))
        events = EventRpcs()
        events._journal = journal
        parts = [asyncio.create_task(part.run()) for part in (journal, sessions, leases, children)]
        async with DirectChannel([registry]) as channel:
            yield Replica(database, storage, journal, sessions, leases, work, JournalServiceStub(channel), events)
        for part in parts:
            part.cancel()
        await asyncio.wait(parts)
        assert all(part.cancelled() for part in parts), parts


class Executions:
    """Makes executions as CreateExecution leaves them, and looks at what became of them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, name: str = "one", *, cluster: str = "local", phase: str = "UNDEFINED") -> int:
        """A new execution that waits for a data plane; returns its id."""
        closure = ExecutionClosure(phase=phase)
        closure.created_at.FromDatetime(START)
        closure.updated_at.FromDatetime(START)
        async with self._database.transaction() as connection:
            execution_id: int = await connection.fetchval(
                """
                INSERT INTO executions (
                    execution_project, execution_domain, execution_name, phase, spec, closure, workflow_id, cluster,
                    launch_entity, execution_created_at, execution_updated_at
                )
                VALUES ($1, $2, $3, $4, $5, $6, 0, $7, 'launch_plan', $8, $8)
                RETURNING execution_id
                """,
                PROJECT, DOMAIN, name, phase, ExecutionSpec().SerializeToString(), closure.SerializeToString(),
                cluster, START,
            )  # fmt: skip
            if phase == "UNDEFINED":
                await connection.execute(
                    "INSERT INTO leases (execution_id, cluster) VALUES ($1, $2)", execution_id, cluster
                )
        return execution_id

    async def phase(self, execution_id: int) -> str:
        return str(await self._database.fetchval("SELECT phase FROM executions WHERE execution_id = $1", execution_id))

    async def closure(self, execution_id: int) -> ExecutionClosure:
        return ExecutionClosure.FromString(
            await self._database.fetchval("SELECT closure FROM executions WHERE execution_id = $1", execution_id)
        )

    async def row(self, execution_id: int) -> Any:
        return await self._database.fetchrow("SELECT * FROM executions WHERE execution_id = $1", execution_id)

    async def lease(self, execution_id: int) -> Any:
        return await self._database.fetchrow("SELECT * FROM leases WHERE execution_id = $1", execution_id)

    async def node(self, execution_id: int, node_id: str) -> tuple[Any, NodeExecutionClosure, NodeExecutionMetaData]:
        row = await self._database.fetchrow(
            "SELECT * FROM node_executions WHERE execution_id = $1 AND node_id = $2", execution_id, node_id
        )
        assert row is not None, node_id
        return (
            row,
            NodeExecutionClosure.FromString(row["closure"]),
            NodeExecutionMetaData.FromString(row["node_execution_metadata"]),
        )

    async def task(self, execution_id: int, node_id: str, attempt: int = 0) -> tuple[Any, TaskExecutionClosure]:
        row = await self._database.fetchrow(
            "SELECT * FROM task_executions WHERE execution_id = $1 AND node_id = $2 AND retry_attempt = $3",
            execution_id, node_id, attempt,
        )  # fmt: skip
        assert row is not None, (node_id, attempt)
        return row, TaskExecutionClosure.FromString(row["closure"])

    async def entries(self, execution_id: int) -> list[Any]:
        return await self._database.fetch(
            "SELECT * FROM journal WHERE execution_id = $1 ORDER BY sequence", execution_id
        )

    async def check(self, execution_id: int) -> None:
        """The rows are the fold of the journal."""
        async with self._database.transaction(isolation="repeatable_read") as connection:
            assert await differences(connection, execution_id) == []


class Holder:
    """A data plane's side of one lease."""

    def __init__(self, stub: Any, session_id: int, assignment: Assignment) -> None:
        self.stub = stub
        self.session_id = session_id
        self.execution_id: int = assignment.execution_id
        self.epoch: int = assignment.epoch
        self.last_sequence: int = assignment.last_sequence
        self.assignment = assignment

    def request(self, *transitions: Transition, first: int | None = None, epoch: int | None = None) -> AppendRequest:
        append = ExecutionAppend(
            execution_id=self.execution_id,
            epoch=self.epoch if epoch is None else epoch,
            first_sequence=self.last_sequence + 1 if first is None else first,
            transitions=transitions,
        )
        return AppendRequest(session_id=self.session_id, executions=[append])

    async def send(self, request: AppendRequest) -> ExecutionAppendResult:
        response = await self.stub.Append(request, timeout=PATIENCE)
        result: ExecutionAppendResult = response.executions[0]
        self.last_sequence = max(self.last_sequence, result.last_sequence)
        return result

    async def append(self, *changes: Any) -> list[int]:
        """Append events (or transitions); returns the status of each."""
        transitions = [change if isinstance(change, Transition) else transition(change) for change in changes]
        result = await self.send(self.request(*transitions))
        return [each.status for each in result.results]


class Stream:
    """An open lease stream, read with patience."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self._items: asyncio.Queue[Any] = asyncio.Queue()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for response in self.call:
                item = response.WhichOneof("item")
                await self._items.put(getattr(response, item))
        except grpc.aio.AioRpcError as error:
            await self._items.put(error)

    async def next(self) -> Any:
        """The next assignment or control; raises the call's error where it ends."""
        async with asyncio.timeout(PATIENCE):
            item = await self._items.get()
        if isinstance(item, grpc.aio.AioRpcError):
            raise item
        return item

    async def nothing_comes(self) -> None:
        """For a moment, in which the stream looks again, nothing arrives."""
        waiting = asyncio.create_task(self._items.get())
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        waiting.cancel()
        assert not done, waiting.result()

    async def assignment(self) -> Assignment:
        """The next item, which is an assignment."""
        item = await self.next()
        assert isinstance(item, Assignment), item
        return item

    async def control(self) -> Control:
        """The next item, which is a control."""
        item = await self.next()
        assert isinstance(item, Control), item
        return item

    def cancel(self) -> None:
        self.call.cancel()
        self._reader.cancel()


async def open_session(stub: Any, cluster: str = "local", holder: str = "") -> int:
    """A session of a data plane, unless told otherwise of one that was not there before; returns its id."""
    holder = holder or f"test-{secrets.token_hex(4)}"
    response = await stub.OpenSession(OpenSessionRequest(cluster=cluster, holder=holder), timeout=PATIENCE)
    return int(response.session_id)


def open_stream(stub: Any, session_id: int, capacity: int = 100) -> Stream:
    """A lease stream of a session."""
    return Stream(stub.Lease(LeaseRequest(session_id=session_id, capacity=capacity)))


@pytest.fixture
async def database(postgres_server: ServerForTests) -> AsyncIterator[Database]:
    async with fresh_database(postgres_server, "aerodrome.admin.migrations", service="admin") as database:
        yield database


@pytest.fixture
async def executions(database: Database) -> Executions:
    return Executions(database)


@pytest.fixture
async def plane(database: Database) -> AsyncIterator[Replica]:
    """The control plane."""
    async with replica(database) as running:
        yield running


Hold = Callable[..., Any]


@pytest.fixture
async def hold(plane: Replica, executions: Executions) -> Hold:
    """Make executions and hold them in a new session: `holder = await hold("one")`."""

    async def holding(name: str = "one") -> Holder:
        await executions.create(name)
        session_id = await open_session(plane.stub)
        stream = open_stream(plane.stub, session_id)
        holder = Holder(plane.stub, session_id, await stream.assignment())
        stream.cancel()
        return holder

    return holding
