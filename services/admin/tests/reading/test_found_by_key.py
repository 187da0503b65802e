"""An execution is found by its key, whatever is around it and whatever the planner knows."""

from __future__ import annotations

import itertools
import json
from typing import Any

import grpc
import pytest
from flyteidl.admin.execution_pb2 import WorkflowExecutionGetDataRequest, WorkflowExecutionGetRequest
from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier

from aerodrome.stdlib.postgres.queries import load_queries

_FILES = {
    "execution_views.sql": ("get_data",),
    "keys.sql": ("find_execution",),
}
_FIELDS = ("project", "domain", "name")
_PROJECT_ROWS = 3_000
_FEW_BLOCKS = 15
"""For one row by its key: the levels of an index, and the row."""


async def test_neighbours_of_a_key_are_not_taken_for_it(admin: Any, rows: Any) -> None:
    parts = ("a", "b", "ba")
    there = [key for number, key in enumerate(itertools.product(parts, repeat=3)) if number % 2]
    for project, domain, name in there:
        await rows.execution(name, execution_project=project, execution_domain=domain)
    for project, domain, name in itertools.product((*parts, "c"), repeat=3):
        key = WorkflowExecutionIdentifier(project=project, domain=domain, name=name)
        for call in (
            lambda key=key: admin.GetExecution(WorkflowExecutionGetRequest(id=key)),
            lambda key=key: admin.GetExecutionData(WorkflowExecutionGetDataRequest(id=key)),
        ):
            if (project, domain, name) in there:
                await call()
            else:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call()
                assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    found = await admin.GetExecution(WorkflowExecutionGetRequest(id=dict(zip(_FIELDS, there[0], strict=True))))
    assert (found.id.project, found.id.domain, found.id.name) == there[0]


@pytest.mark.parametrize("analyzed", [False, True], ids=["no statistics", "statistics of the first row"])
async def test_one_execution_of_many_costs_a_few_blocks_without_statistics(
    database: Any, rows: Any, analyzed: bool
) -> None:
    await database.execute("ALTER TABLE executions SET (autovacuum_enabled = off)")
    if analyzed:
        await rows.execution("first")
        await database.execute("ANALYZE executions")
    await database.execute(
        """
        INSERT INTO executions (execution_id, execution_project, execution_domain, execution_name, created_at, phase,
            spec, closure, workflow_id, launch_entity, execution_created_at, execution_updated_at)
        SELECT next_execution_id(), 'p', 'd', 'e' || number, now(), 'RUNNING', '', '', 1, 'launch_plan', now(), now()
        FROM generate_series(1, $1) AS number
        """,
        _PROJECT_ROWS,
    )
    for file, names in _FILES.items():
        queries = load_queries("aerodrome.admin.repositories", file)
        for name in names:
            assert await _blocks(database, getattr(queries, name), "p", "d", "e2000") <= _FEW_BLOCKS, name
    views = load_queries("aerodrome.admin.repositories", "execution_views.sql")
    keys = [f"e{number}" for number in range(1, 11)]
    assert await _blocks(database, views.get_many, ["p"] * 10, ["d"] * 10, keys) <= 10 * _FEW_BLOCKS


async def _blocks(database: Any, query: str, *args: Any) -> int:
    """Blocks that a statement touches once its plan is made."""
    async with database.connection() as conn:
        for _ in range(2):  # what planning reads of the catalog counts the first time
            text = await conn.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}", *args)
    (plan,) = json.loads(text)
    return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])
