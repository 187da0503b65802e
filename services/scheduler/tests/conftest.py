"""Schedulers on a manual clock, before a real control plane on a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flyteidl.admin.common_pb2 import NamedEntityIdentifier, ResourceListRequest
from flyteidl.admin.execution_pb2 import Execution, ExecutionCreateRequest, ExecutionCreateResponse
from flyteidl.admin.launch_plan_pb2 import LaunchPlanCreateRequest, LaunchPlanState, LaunchPlanUpdateRequest
from flyteidl.admin.schedule_pb2 import CronSchedule, FixedRate, FixedRateUnit, Schedule
from flyteidl.admin.task_pb2 import TaskCreateRequest
from flyteidl.admin.workflow_pb2 import WorkflowCreateRequest
from flyteidl.core import types_pb2
from flyteidl.core.identifier_pb2 import Identifier, ResourceType
from flyteidl.service.admin_pb2_grpc import AdminServiceServicer, AdminServiceStub, add_AdminServiceServicer_to_server

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.main import Admin
from aerodrome.idl.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceStub
from aerodrome.scheduler.config import SchedulerConfig
from aerodrome.scheduler.main import Scheduler
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.errors import AerodromeError
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.testing import ServerForTests, postgres_server
from aerodrome.stdlib.rpc.direct import DirectChannel
from aerodrome.stdlib.rpc.registry import Registry
from aerodrome.stdlib.storage.local import LocalStorage

__all__ = ["postgres_server"]

PROJECT, DOMAIN = "flytesnacks", "development"
START = datetime(2026, 3, 2, 12, 0, 0, tzinfo=UTC)
FAST = {"workflow_executor": {"local": {"admin_rate_limit": {"tps": 1e6, "burst": 1_000_000}}}}
"""Rates that no test notices."""


def at(text: str, zone: Any = UTC) -> datetime:
    """`2026-03-02 12:00` or with seconds, as an instant."""
    return datetime.fromisoformat(text).replace(tzinfo=zone)


def cron(expression: str, kickoff: str = "") -> Schedule:
    return Schedule(cron_schedule=CronSchedule(schedule=expression), kickoff_time_input_arg=kickoff)


def rate(value: int, unit: FixedRateUnit = FixedRateUnit.MINUTE, kickoff: str = "") -> Schedule:
    return Schedule(rate=FixedRate(value=value, unit=unit), kickoff_time_input_arg=kickoff)


def identifier(kind: Any, name: str, version: str = "v1") -> Identifier:
    return Identifier(resource_type=kind, project=PROJECT, domain=DOMAIN, name=name, version=version)


@dataclass
class Door:
    """Where the control plane can be made unreachable, or slow, and where calls are counted."""

    error: AerodromeError | None = None
    created: list[ExecutionCreateRequest] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    passing: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.passing.set()


class Behind(AdminServiceServicer):
    """The control plane behind the door."""

    def __init__(self, real: Any, door: Door) -> None:
        self._real = real
        self._door = door

    async def CreateExecution(self, request: ExecutionCreateRequest, context: Any) -> ExecutionCreateResponse:
        self._door.asked.set()
        await self._door.passing.wait()
        if self._door.error is not None:
            raise self._door.error
        response: ExecutionCreateResponse = await self._real.CreateExecution(request, context)
        self._door.created.append(request)
        return response

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name == "CreateExecution":
            return object.__getattribute__(self, name)
        return getattr(object.__getattribute__(self, "_real"), name)


@dataclass
class World:
    """A control plane and its clock; schedulers are added by `scheduler`."""

    clock: ManualClock
    database: Database
    channel: DirectChannel
    stub: Any
    door: Door

    def scheduler(self, **settings: Any) -> Scheduler:
        """Another replica."""
        config = SchedulerConfig.model_validate({"scheduler": {**FAST, **settings}})
        return Scheduler(config, database=self.database, channel=self.channel, clock=self.clock)

    def ask(self, scheduler: Scheduler) -> Any:
        """The scheduler's own service."""
        registry = Registry()
        for add_to_server, servicer in scheduler.services():
            registry.add(add_to_server, servicer)
        make: Any = SchedulerServiceStub
        return make(DirectChannel([registry]))

    async def launch_plan(
        self,
        schedule: Schedule | None,
        name: str = "lp",
        version: str = "v1",
        annotations: dict[str, str] | None = None,
        *,
        activate: bool = True,
    ) -> Identifier:
        """Register a launch plan, and activate it."""
        request = LaunchPlanCreateRequest(id=identifier(ResourceType.LAUNCH_PLAN, name, version))
        request.spec.workflow_id.CopyFrom(identifier(ResourceType.WORKFLOW, "w"))
        if schedule is not None:
            request.spec.entity_metadata.schedule.CopyFrom(schedule)
        if schedule is None or not schedule.kickoff_time_input_arg:
            request.spec.fixed_inputs.literals["when"].scalar.primitive.datetime.FromDatetime(START)
        request.spec.annotations.values.update(annotations or {})
        await self.stub.CreateLaunchPlan(request)
        if activate:
            await self.set_state(request.id, LaunchPlanState.ACTIVE)
        return request.id

    async def set_state(self, launch_plan: Identifier, state: Any) -> None:
        await self.stub.UpdateLaunchPlan(LaunchPlanUpdateRequest(id=launch_plan, state=state))

    async def deactivate(self, launch_plan: Identifier) -> None:
        await self.set_state(launch_plan, LaunchPlanState.INACTIVE)

    async def executions(self, name: str = "") -> list[Execution]:
        """Those of a launch plan (or all), in the order of their slots."""
        found: list[Execution] = []
        token = ""
        while True:
            page = await self.stub.ListExecutions(
                ResourceListRequest(id=NamedEntityIdentifier(project=PROJECT, domain=DOMAIN), limit=100, token=token)
            )
            found += [each for each in page.executions if name in ("", each.spec.launch_plan.name)]
            token = page.token
            if not token:
                return sorted(found, key=lambda each: each.spec.metadata.scheduled_at.ToDatetime())

    async def slots(self, name: str = "") -> list[datetime]:
        """The slots that have an execution."""
        return [each.spec.metadata.scheduled_at.ToDatetime(UTC) for each in await self.executions(name)]

    async def pass_time(self, scheduler: Scheduler, until: datetime, step: timedelta = timedelta(seconds=20)) -> None:
        """Let a scheduler live until then."""
        while self.clock.now() < until:
            await self.clock.advance(min(step, until - self.clock.now()))
            assert await scheduler.tick()


@pytest.fixture
async def world(postgres_server: ServerForTests, tmp_path: Path) -> AsyncIterator[World]:
    """A project with one workflow, whose only input is a time."""
    dsn = await postgres_server.create(
        ("aerodrome.admin.migrations", "admin"), ("aerodrome.scheduler.migrations", "scheduler")
    )
    clock = ManualClock(START)
    door = Door()
    config = AdminConfig.model_validate({"flyte": {"admin": {"seed_projects": [PROJECT]}}})
    try:
        async with (
            Database(dsn, min_size=2, max_size=12, application_name="test") as database,
            LocalStorage(str(tmp_path / "store")) as storage,
        ):
            admin = Admin(config, database=database, storage=storage, clock=clock, public_url=lambda: "http://here")
            await admin.prepare()
            registry = Registry()
            for add_to_server, servicer in admin.services():
                if add_to_server is add_AdminServiceServicer_to_server:
                    servicer = Behind(servicer, door)
                registry.add(add_to_server, servicer)
            async with DirectChannel([registry]) as channel:
                make: Any = AdminServiceStub
                world = World(clock, database, channel, make(channel), door)
                await register(world)
                yield world
    finally:
        await postgres_server.drop(dsn)


async def register(world: World) -> None:
    """A workflow whose only input is a time."""
    task = TaskCreateRequest(id=identifier(ResourceType.TASK, "t"))
    task.spec.template.type = "python-task"
    task.spec.template.metadata.runtime.version = "1.0"
    task.spec.template.interface.inputs.variables["when"].type.simple = types_pb2.DATETIME
    task.spec.template.container.image = "python:3.11"
    task.spec.template.container.args.append("run")
    await world.stub.CreateTask(task)
    workflow = WorkflowCreateRequest(id=identifier(ResourceType.WORKFLOW, "w"))
    template = workflow.spec.template
    template.interface.inputs.variables["when"].type.simple = types_pb2.DATETIME
    node = template.nodes.add(id="n0")
    node.task_node.reference_id.CopyFrom(task.id)
    binding = node.inputs.add(var="when")
    binding.binding.promise.var = "when"
    await world.stub.CreateWorkflow(workflow)
