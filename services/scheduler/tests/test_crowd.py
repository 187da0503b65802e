"""Ten thousand schedules that are due in the same second, on real PostgreSQL; the control plane only counts."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flyteidl.admin.execution_pb2 import ExecutionCreateRequest, ExecutionCreateResponse
from flyteidl.admin.launch_plan_pb2 import ActiveLaunchPlanListRequest, LaunchPlan, LaunchPlanList, LaunchPlanState
from flyteidl.admin.project_pb2 import Domain, Project, ProjectListRequest, Projects
from flyteidl.core.identifier_pb2 import ResourceType
from flyteidl.service.admin_pb2_grpc import AdminServiceServicer, add_AdminServiceServicer_to_server

from aerodrome.scheduler.config import SchedulerConfig
from aerodrome.scheduler.domain.naming import Key, execution_name
from aerodrome.scheduler.main import Scheduler
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.errors import AlreadyExists, Unavailable
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.testing import ServerForTests, fresh_database
from aerodrome.stdlib.rpc.direct import DirectChannel
from aerodrome.stdlib.rpc.registry import Registry

from .conftest import DOMAIN, FAST, PROJECT, START

CROWD = 10_000
SLOT = START + timedelta(hours=1)


class Counting(AdminServiceServicer):
    """A control plane that knows many launch plans, and which executions were created when."""

    def __init__(self, clock: ManualClock, activated: datetime, crowd: int) -> None:
        self._clock = clock
        self._activated = activated
        self._crowd = crowd
        self.created: dict[str, datetime] = {}
        self.asked: Counter[str] = Counter()
        self.at_once = 0
        self.most_at_once = 0
        self.refuse_every = 0

    async def ListProjects(self, request: ProjectListRequest, context: Any) -> Projects:
        return Projects(projects=[Project(id=PROJECT, domains=[Domain(id=DOMAIN)])])

    async def ListActiveLaunchPlans(self, request: ActiveLaunchPlanListRequest, context: Any) -> LaunchPlanList:
        first = int(request.token or 0)
        page = LaunchPlanList()
        for number in range(first, min(first + request.limit, self._crowd)):
            page.launch_plans.append(self._launch_plan(number))
        if first + request.limit < self._crowd:
            page.token = str(first + request.limit)
        return page

    def _launch_plan(self, number: int) -> LaunchPlan:
        plan = LaunchPlan()
        plan.id.resource_type, plan.id.project, plan.id.domain = ResourceType.LAUNCH_PLAN, PROJECT, DOMAIN
        plan.id.name, plan.id.version = f"plan-{number}", "v1"
        plan.spec.entity_metadata.schedule.cron_schedule.schedule = "0 * * * *"
        plan.closure.state = LaunchPlanState.ACTIVE
        plan.closure.updated_at.FromDatetime(self._activated)
        return plan

    async def CreateExecution(self, request: ExecutionCreateRequest, context: Any) -> ExecutionCreateResponse:
        self.asked[request.name] += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.refuse_every and sum(self.asked.values()) % self.refuse_every == 0:
            raise Unavailable("busy")
        if request.name in self.created:
            raise AlreadyExists(request.name)
        assert request.spec.metadata.scheduled_at.ToDatetime(UTC) <= self._clock.now()
        self.created[request.name] = self._clock.now()
        return ExecutionCreateResponse()


@pytest.fixture
async def database(postgres_server: ServerForTests) -> AsyncIterator[Database]:
    async with fresh_database(postgres_server, "aerodrome.scheduler.migrations", service="scheduler") as database:
        yield database


def scheduler(database: Database, clock: ManualClock, control_plane: Counting, **settings: Any) -> Scheduler:
    registry = Registry()
    registry.add(add_AdminServiceServicer_to_server, control_plane)
    config = SchedulerConfig.model_validate({"scheduler": {**FAST, **settings}})
    return Scheduler(config, database=database, channel=DirectChannel([registry]), clock=clock)


async def test_ten_thousand_in_one_second_fire_once_each(database: Database) -> None:
    clock = ManualClock(START)
    control_plane = Counting(clock, START, CROWD)
    first = scheduler(database, clock, control_plane, concurrency=64)
    await first.resync()
    assert await first.tick()
    clock.set(SLOT)
    begun = time.perf_counter()
    assert await first.tick()
    taken = time.perf_counter() - begun
    names = {execution_name(Key(PROJECT, DOMAIN, f"plan-{number}", "v1"), SLOT) for number in range(CROWD)}
    assert set(control_plane.created) == names
    assert set(control_plane.created.values()) == {SLOT}
    assert set(control_plane.asked.values()) == {1}
    assert control_plane.most_at_once <= 64
    assert taken < 60, f"{CROWD / taken:.0f} per second"
    assert await database.fetchval("SELECT count(*) FROM scheduler_decisions WHERE outcome = 1") == CROWD
    await first.leadership.release()
    second = scheduler(database, clock, control_plane)
    await clock.advance(30)
    assert await second.tick()
    assert set(control_plane.asked.values()) == {1}


async def test_a_rate_spares_the_control_plane_and_failures_are_made_good(database: Database) -> None:
    clock = ManualClock(START)
    control_plane = Counting(clock, START, 300)
    control_plane.refuse_every = 7
    limits = {"workflow_executor": {"local": {"admin_rate_limit": {"tps": 50, "burst": 10}}}}
    only = scheduler(database, clock, control_plane, **limits)
    await only.resync()
    assert await only.tick()
    clock.set(SLOT)
    counts = []
    while len(control_plane.created) < 300:
        before = sum(control_plane.asked.values())
        assert await only.tick()
        counts.append(sum(control_plane.asked.values()) - before)
        await clock.advance(0.1)
        assert len(counts) < 1_000
    assert max(counts) <= 10
    assert clock.now() - SLOT < timedelta(seconds=30)
    assert len(control_plane.created) == 300
