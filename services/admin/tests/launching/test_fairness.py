"""Projects take turns: what one has queued does not keep another waiting."""

from __future__ import annotations

import time
from typing import Any

import pytest
from flyteidl.admin.execution_pb2 import ExecutionClosure, ExecutionSpec

QUEUED = 10_000


async def queue(platform: Any, project: str, count: int) -> None:
    """Executions that wait for a data plane, as CreateExecution leaves them."""
    async with platform.database.transaction() as connection:
        await connection.execute(
            """
            WITH made AS (
                INSERT INTO executions (
                    execution_project, execution_domain, execution_name, phase, spec, closure, workflow_id, cluster,
                    launch_entity, execution_created_at, execution_updated_at
                )
                SELECT $1, 'development', $1 || '-' || lpad(at::text, 5, '0'), 'UNDEFINED', $3, $4, 0, 'local',
                       'launch_plan', now(), now()
                FROM generate_series(1, $2::integer) AS at
                ORDER BY at
                RETURNING execution_id
            )
            INSERT INTO leases (execution_id, cluster, project) SELECT execution_id, 'local', $1 FROM made
            """,
            project, count, ExecutionSpec().SerializeToString(), ExecutionClosure().SerializeToString(),
        )  # fmt: skip


@pytest.fixture
async def crowded(platform: Any) -> Any:
    """A platform where one project has queued thousands of executions before another queues a few."""
    await queue(platform, "crowd", QUEUED)
    await queue(platform, "few", 3)
    return platform


async def test_a_project_with_few_executions_is_not_kept_waiting(crowded: Any, engine: Any) -> None:
    started = time.perf_counter()
    async with engine(crowded, capacity=8) as plane:
        names = [await plane.take() for _ in range(8)]
    crowd, few = [f"crowd-0000{at}" for at in range(1, 6)], [f"few-0000{at}" for at in range(1, 4)]
    assert sorted(names) == [*crowd, *few]
    assert time.perf_counter() - started < 5  # milliseconds, on a machine that has nothing else to do


async def test_room_for_one_goes_to_each_in_turn(crowded: Any, engine: Any) -> None:
    await queue(crowded, "third", 2)
    names = []
    async with engine(crowded, capacity=1) as plane:
        for _ in range(7):
            names.append(await plane.take())
            if len(names) == 2:
                await queue(crowded, "late", 1)
            await plane.report(names[-1], "FAILED")
    projects = [name.partition("-")[0] for name in names]
    assert projects == ["crowd", "few", "third", "late", "crowd", "few", "third"]


async def test_each_project_has_its_oldest_first_and_nobody_is_left(platform: Any, engine: Any) -> None:
    for project in ("b", "a", ""):  # the last as an older release left them
        await queue(platform, project, 50)
    async with engine(platform) as plane:
        names = [await plane.take() for _ in range(150)]
    for project in ("a", "b", ""):
        own = [name for name in names if name.rpartition("-")[0] == project]
        assert own == sorted(own)
        assert len(own) == 50
