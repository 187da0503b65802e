"""The whole servicer as a client sees it, on a database and a store of one's own."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flyteidl.admin import execution_pb2, launch_plan_pb2, task_pb2, workflow_pb2
from flyteidl.admin.common_pb2 import NamedEntityIdentifier
from flyteidl.admin.matchable_resource_pb2 import MatchingAttributes
from flyteidl.core import interface_pb2, literals_pb2, types_pb2
from flyteidl.core.identifier_pb2 import Identifier, ResourceType, WorkflowExecutionIdentifier
from flyteidl.event.event_pb2 import WorkflowExecutionEvent
from flyteidl.service.admin_pb2_grpc import AdminServiceStub
from google.protobuf.json_format import ParseDict

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.main import Admin
from aerodrome.idl.journal.v1.journal_pb2 import (
    AppendRequest,
    Assignment,
    ExecutionAppend,
    LeaseRequest,
    OpenSessionRequest,
    Transition,
    WorkflowChange,
)
from aerodrome.idl.journal.v1.journal_pb2_grpc import JournalServiceStub
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.testing import ServerForTests, fresh_database, postgres_server
from aerodrome.stdlib.rpc.direct import DirectChannel
from aerodrome.stdlib.rpc.registry import Registry
from aerodrome.stdlib.storage.local import LocalStorage
from aerodrome.stdlib.telemetry import Telemetry

__all__ = ["postgres_server"]


PROJECT, DOMAIN = "flytesnacks", "development"


class Build:
    """Requests as clients send them."""

    @staticmethod
    def identifier(kind: ResourceType | str, name: str, version: str = "v1", project: str = PROJECT) -> Identifier:
        return Identifier(resource_type=kind, project=project, domain=DOMAIN, name=name, version=version)

    @staticmethod
    def task_request(
        name: str = "t", version: str = "v1", simple: types_pb2.SimpleType = types_pb2.INTEGER
    ) -> task_pb2.TaskCreateRequest:
        """A container task from an integer `a` to an integer `o`."""
        request = task_pb2.TaskCreateRequest(id=Build.identifier(ResourceType.TASK, name, version))
        template = request.spec.template
        template.type = "python-task"
        template.metadata.runtime.version = "1.0"
        template.interface.inputs.variables["a"].type.simple = simple
        template.interface.outputs.variables["o"].type.simple = types_pb2.INTEGER
        template.container.image = "python:3.11"
        template.container.args.append("run")
        return request

    @staticmethod
    def workflow_request(
        name: str = "w", version: str = "v1", task: str = "t", simple: types_pb2.SimpleType = types_pb2.INTEGER
    ) -> workflow_pb2.WorkflowCreateRequest:
        """A workflow that hands its integer `a` to one task and gives back what that gives."""
        request = workflow_pb2.WorkflowCreateRequest(id=Build.identifier(ResourceType.WORKFLOW, name, version))
        template = request.spec.template
        template.interface.inputs.variables["a"].type.simple = simple
        template.interface.outputs.variables["o"].type.simple = types_pb2.INTEGER
        node = template.nodes.add(id="n0")
        node.task_node.reference_id.CopyFrom(Build.identifier(ResourceType.TASK, task))
        binding = node.inputs.add(var="a")
        binding.binding.promise.node_id = ""
        binding.binding.promise.var = "a"
        output = template.outputs.add(var="o")
        output.binding.promise.node_id = "n0"
        output.binding.promise.var = "o"
        return request

    @staticmethod
    def launch_plan_request(
        name: str = "lp", version: str = "v1", workflow: str = "w", default: int | None = None
    ) -> launch_plan_pb2.LaunchPlanCreateRequest:
        request = launch_plan_pb2.LaunchPlanCreateRequest(id=Build.identifier(ResourceType.LAUNCH_PLAN, name, version))
        request.spec.workflow_id.CopyFrom(Build.identifier(ResourceType.WORKFLOW, workflow))
        if default is not None:
            parameter = request.spec.default_inputs.parameters["a"]
            parameter.var.CopyFrom(Build.variable(types_pb2.INTEGER))
            parameter.default.CopyFrom(Build.integer(default))
        return request

    @staticmethod
    def key(name: str) -> WorkflowExecutionIdentifier:
        return WorkflowExecutionIdentifier(project=PROJECT, domain=DOMAIN, name=name)

    @staticmethod
    def name(name: str) -> NamedEntityIdentifier:
        return NamedEntityIdentifier(project=PROJECT, domain=DOMAIN, name=name)

    @staticmethod
    async def attribute(
        platform: Platform,
        kind: str,
        attributes: dict[str, Any],
        *,
        domain: str = "",
        workflow: str = "",
        launch_plan: str = "",
    ) -> None:
        """Store a matchable attribute of the project."""
        priority = 1_000 if launch_plan else 100 if workflow else 10 if domain else 5
        await platform.database.execute(
            "INSERT INTO resources (project, domain, workflow, launch_plan, resource_type, priority, attributes) "
            "VALUES ($1, $2, $3, $4, $5, $6, $7)",
            PROJECT, domain, workflow, launch_plan, kind, priority,
            ParseDict(attributes, MatchingAttributes()).SerializeToString(),
        )  # fmt: skip

    @staticmethod
    def variable(simple: types_pb2.SimpleType) -> interface_pb2.Variable:
        return interface_pb2.Variable(type=types_pb2.LiteralType(simple=simple))

    @staticmethod
    def integer(value: int) -> literals_pb2.Literal:
        return literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(integer=value)))

    @staticmethod
    def execution_request(
        name: str = "e1", launch: Identifier | None = None, a: int | None = 1
    ) -> execution_pb2.ExecutionCreateRequest:
        request = execution_pb2.ExecutionCreateRequest(project=PROJECT, domain=DOMAIN, name=name)
        request.spec.launch_plan.CopyFrom(launch or Build.identifier(ResourceType.LAUNCH_PLAN, "lp"))
        if a is not None:
            request.inputs.literals["a"].CopyFrom(Build.integer(a))
        return request


@dataclass
class Platform:
    """A control plane for one test."""

    stub: Any
    journal: Any
    database: Database
    storage: LocalStorage
    clock: ManualClock
    config: AdminConfig
    telemetry: Telemetry


@pytest.fixture
async def database(postgres_server: ServerForTests) -> AsyncIterator[Database]:
    async with fresh_database(postgres_server, "aerodrome.admin.migrations", service="admin") as database:
        yield database


@pytest.fixture
def config() -> AdminConfig:
    """The settings of the test's control plane; a test module may override it."""
    return AdminConfig.model_validate({"flyte": {"admin": {"seed_projects": ["flytesnacks"]}}})


async def _never(message: object) -> None:
    await asyncio.Event().wait()


@asynccontextmanager
async def running(
    database: Database, directory: Path, config: AdminConfig, clock: ManualClock | None = None
) -> AsyncIterator[Platform]:
    """A control plane on `database`, with its store below `directory`."""
    clock, telemetry = clock or ManualClock(), Telemetry()
    async with LocalStorage(str(directory / "store")) as storage:
        admin = Admin(
            config,
            database=database,
            storage=storage,
            clock=clock,
            public_url=lambda: "http://here",
            telemetry=telemetry,
            publish=_never,  # what is in the outbox stays there for tests to see
        )
        await admin.prepare()
        registry = Registry()
        for add_to_server, servicer in admin.services():
            registry.add(add_to_server, servicer)
        background = asyncio.create_task(admin.run())
        async with DirectChannel([registry]) as channel:
            yield Platform(
                AdminServiceStub(channel), JournalServiceStub(channel), database, storage, clock, config, telemetry
            )
        background.cancel()
        await asyncio.wait({background})
        assert background.cancelled(), background


@pytest.fixture
async def platform(database: Database, tmp_path: Path, config: AdminConfig) -> AsyncIterator[Platform]:
    async with running(database, tmp_path, config) as platform:
        yield platform


@pytest.fixture
async def another(database: Database, tmp_path: Path, config: AdminConfig) -> Callable[[], Any]:
    """Runs a further control plane on the same database and store: `async with another() as platform`."""
    return lambda: running(database, tmp_path, config)


class DataPlane:
    """A data plane that does what it is told: it takes executions and reports what the test says of them."""

    def __init__(self, platform: Platform, session_id: int, call: Any) -> None:
        self._platform = platform
        self._session_id = session_id
        self._call = call
        self.held: dict[str, Assignment] = {}
        """What it was handed, by the names of the executions and in that order."""
        self._next: dict[str, int] = {}
        self._times = itertools.count(1)

    async def take(self) -> str:
        """The name of the next execution that is handed out."""
        async with asyncio.timeout(20):
            while True:
                response = await self._call.read()
                if response.WhichOneof("item") == "assignment":
                    assignment = response.assignment
                    self.held[assignment.name] = assignment
                    self._next[assignment.name] = assignment.last_sequence + 1
                    return str(assignment.name)

    async def nothing_comes(self) -> None:
        """For a moment nothing is handed out."""
        waiting = asyncio.ensure_future(self.take())
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done, waiting.result()
        self._resume = waiting

    async def resumed(self) -> str:
        """What comes after `nothing_comes`."""
        return await self._resume

    async def report(self, name: str, *phases: str) -> list[int]:
        """Report phases of an execution; returns how each was answered."""
        transitions = []
        assignment = self.held[name]
        key = WorkflowExecutionIdentifier(project=assignment.project, domain=assignment.domain, name=name)
        for phase in phases:
            event = WorkflowExecutionEvent(execution_id=key, phase=phase, producer_id="propeller")
            event.occurred_at.FromDatetime(self._platform.clock.now() + timedelta(seconds=next(self._times)))
            transitions.append(Transition(workflow=WorkflowChange(event=event.SerializeToString())))
        append = ExecutionAppend(
            execution_id=assignment.execution_id,
            epoch=assignment.epoch,
            first_sequence=self._next[name],
            transitions=transitions,
        )
        answer = await self._platform.journal.Append(
            AppendRequest(session_id=self._session_id, executions=[append]), timeout=20
        )
        (result,) = answer.executions
        self._next[name] = result.last_sequence + 1
        return [each.status for each in result.results]


@asynccontextmanager
async def data_plane(platform: Platform, capacity: int = 1_000) -> AsyncIterator[DataPlane]:
    """A data plane of the cluster `local`."""
    session = await platform.journal.OpenSession(OpenSessionRequest(cluster="local", holder=uuid.uuid4().hex))
    call = platform.journal.Lease(LeaseRequest(session_id=session.session_id, capacity=capacity))
    yield DataPlane(platform, session.session_id, call)
    call.cancel()


@pytest.fixture
def engine() -> Callable[..., Any]:
    """Data planes: `async with engine(platform, capacity=3) as plane`."""
    return data_plane


@pytest.fixture
def build() -> type[Build]:
    """How tests make requests."""
    return Build


@pytest.fixture(scope="module")
def builder() -> type[Build]:
    """The same for fixtures of a module."""
    return Build
