"""Schedules fired a second: all due in the same second, each an execution of the real control plane, durable.

A real PostgreSQL (fsync and synchronous_commit on), the control plane and the scheduler in this process as in the
sandbox, with the scheduler's rate limit out of the way.

    python tests/bench/scheduling.py --schedules 1000
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flyteidl.admin.launch_plan_pb2 import ACTIVE, LaunchPlanCreateRequest, LaunchPlanUpdateRequest
from flyteidl.admin.task_pb2 import TaskCreateRequest
from flyteidl.admin.workflow_pb2 import WorkflowCreateRequest
from flyteidl.core.identifier_pb2 import Identifier, ResourceType
from flyteidl.service.admin_pb2_grpc import AdminServiceStub

PROJECT, DOMAIN = "flytesnacks", "development"
START = datetime(2026, 3, 2, 12, 30, tzinfo=UTC)
SLOT = datetime(2026, 3, 2, 13, tzinfo=UTC)


@dataclass(frozen=True)
class Measured:
    """What one run gave."""

    schedules: int
    fired_per_second: float
    learned_per_second: float


async def measure(schedules: int = 1_000) -> Measured:
    """Register the launch plans, let the scheduler learn of them, and fire them all at once."""
    from aerodrome.admin.config import AdminConfig
    from aerodrome.admin.main import Admin
    from aerodrome.scheduler.config import SchedulerConfig
    from aerodrome.scheduler.main import Scheduler
    from aerodrome.stdlib.clock import ManualClock
    from aerodrome.stdlib.config import StorageConfig
    from aerodrome.stdlib.postgres.database import Database
    from aerodrome.stdlib.postgres.embedded import EmbeddedPostgres
    from aerodrome.stdlib.postgres.migrations import migrate
    from aerodrome.stdlib.rpc.direct import DirectChannel
    from aerodrome.stdlib.rpc.registry import Registry
    from aerodrome.stdlib.storage import open_storage

    clock = ManualClock(START)
    unlimited = {"local": {"admin_rate_limit": {"tps": 1e9, "burst": 1_000_000}}}
    settings = SchedulerConfig.model_validate({"scheduler": {"workflow_executor": unlimited}})
    with tempfile.TemporaryDirectory(prefix="aerodrome-bench-") as directory:
        postgres = EmbeddedPostgres(Path(directory) / "pg")
        dsn = await postgres.start()
        try:
            async with AsyncExitStack() as stack:
                database = await stack.enter_async_context(Database(dsn, min_size=4, max_size=20))
                await migrate(database, "aerodrome.admin.migrations", service="admin")
                await migrate(database, "aerodrome.scheduler.migrations", service="scheduler")
                storage = await stack.enter_async_context(
                    open_storage(StorageConfig(type="mem", container="bench"), clock=clock, signer=None)
                )
                admin = Admin(
                    AdminConfig(), database=database, storage=storage, clock=clock, public_url=lambda: "http://bench"
                )
                await admin.prepare()
                registry = Registry()
                for add_to_server, servicer in admin.services():
                    registry.add(add_to_server, servicer)
                channel = await stack.enter_async_context(DirectChannel([registry]))
                await _register(channel, schedules)
                scheduler = Scheduler(settings, database=database, channel=channel, clock=clock)
                begun = time.perf_counter()
                await scheduler.resync()
                learned = time.perf_counter() - begun
                await scheduler.tick()
                clock.set(SLOT)
                begun = time.perf_counter()
                await scheduler.tick()
                fired = time.perf_counter() - begun
                count = await database.fetchval("SELECT count(*) FROM executions")
                if count != schedules:
                    raise RuntimeError(f"{count} executions for {schedules} schedules")
                return Measured(schedules, schedules / fired, schedules / learned)
        finally:
            await postgres.stop()


async def _register(channel: Any, schedules: int) -> None:
    make: Any = AdminServiceStub
    stub = make(channel)
    task = TaskCreateRequest(id=_identifier(ResourceType.TASK, "t"))
    task.spec.template.type = "python-task"
    task.spec.template.metadata.runtime.version = "1.0"
    task.spec.template.interface.SetInParent()
    task.spec.template.container.image = "python:3.11"
    task.spec.template.container.args.append("run")
    await stub.CreateTask(task)
    workflow = WorkflowCreateRequest(id=_identifier(ResourceType.WORKFLOW, "w"))
    workflow.spec.template.interface.SetInParent()
    workflow.spec.template.nodes.add(id="n0").task_node.reference_id.CopyFrom(task.id)
    await stub.CreateWorkflow(workflow)
    for number in range(schedules):
        plan = LaunchPlanCreateRequest(id=_identifier(ResourceType.LAUNCH_PLAN, f"plan-{number}"))
        plan.spec.workflow_id.CopyFrom(workflow.id)
        plan.spec.entity_metadata.schedule.cron_schedule.schedule = "0 * * * *"
        await stub.CreateLaunchPlan(plan)
        await stub.UpdateLaunchPlan(LaunchPlanUpdateRequest(id=plan.id, state=ACTIVE))


def _identifier(kind: Any, name: str) -> Identifier:
    return Identifier(resource_type=kind, project=PROJECT, domain=DOMAIN, name=name, version="v1")


def main() -> None:
    """Measure once, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=1_000)
    figures = asyncio.run(measure(parser.parse_args().schedules))
    sys.stdout.write(json.dumps(asdict(figures)) + "\n")


if __name__ == "__main__":
    main()
