"""The items of a map, as its task execution shows them.  Source: spec/control-plane.md, 5.3."""

from __future__ import annotations

from typing import Any

import pytest
from flyteidl.admin.task_execution_pb2 import TaskExecution, TaskExecutionGetRequest, TaskExecutionListRequest
from flyteidl.core.execution_pb2 import ExecutionError
from flyteidl.core.identifier_pb2 import (
    Identifier,
    NodeExecutionIdentifier,
    ResourceType,
    TaskExecutionIdentifier,
    WorkflowExecutionIdentifier,
)
from google.protobuf.json_format import MessageToDict

from aerodrome.admin.managers.reading import MAX_SHOWN_ITEMS
from aerodrome.stdlib.postgres.database import Database

from .conftest import Rows

SUCCEEDED, FAILED, RUNNING, QUEUED, ABORTED = 3, 5, 2, 1, 4
NODE = NodeExecutionIdentifier(
    node_id="n0", execution_id=WorkflowExecutionIdentifier(project="p", domain="d", name="e")
)


@pytest.fixture
async def execution_id(rows: Rows) -> int:
    execution_id = await rows.execution("e")
    await rows.node(execution_id, "n0")
    await rows.task_execution(execution_id, "n0", 0)
    return execution_id


async def put(database: Database, execution_id: int, first: int, last: int, phase: int, **more: Any) -> None:
    columns = {"attempt": 0, "cache_status": 0, "error": None, "log_uri": "", **more}
    await database.execute(
        "INSERT INTO node_items (execution_id, node_id, item_index, phase, attempt, cache_status, error, log_uri) "
        "SELECT $1, 'n0', index, $4, $5, $6, $7, $8 FROM generate_series($2::integer, $3::integer) AS index",
        execution_id, first, last, phase, *columns.values(),
    )  # fmt: skip


async def seen(admin: Any, attempt: int = 0) -> TaskExecution:
    """The attempt, which looks the same in a list."""
    task = Identifier(resource_type=ResourceType.TASK, project="p", domain="d", name="t", version="v1")
    key = TaskExecutionIdentifier(task_id=task, node_execution_id=NODE, retry_attempt=attempt)
    found: TaskExecution = await admin.GetTaskExecution(TaskExecutionGetRequest(id=key))
    listed = await admin.ListTaskExecutions(TaskExecutionListRequest(node_execution_id=NODE, limit=10))
    assert found in listed.task_executions
    return found


async def test_an_attempt_without_items_shows_none(admin: Any, execution_id: int) -> None:
    found = await seen(admin)
    assert not found.closure.metadata.external_resources
    assert not found.closure.HasField("custom_info")


async def test_items_are_shown_with_what_is_known_of_each(admin: Any, database: Database, execution_id: int) -> None:
    error = ExecutionError(code="USER:x", message="m" * 200, kind=ExecutionError.USER)
    await put(database, execution_id, 0, 0, SUCCEEDED, cache_status=2)
    await put(database, execution_id, 1, 1, FAILED, attempt=2, error=error.SerializeToString(), log_uri="http://log")
    await put(database, execution_id, 2, 2, RUNNING)
    closure = (await seen(admin)).closure
    first, second, third = closure.metadata.external_resources
    assert (first.index, first.phase, first.cache_status, first.external_id) == (0, SUCCEEDED, 2, "e-n0-0-n0-0")
    assert (second.index, second.retry_attempt, second.phase, second.external_id) == (1, 2, FAILED, "e-n0-0-n1-2")
    assert [(log.uri, log.name) for log in second.logs] == [("http://log", "Log 1-2")]
    assert MessageToDict(second.custom_info) == {"error": {"code": "USER:x", "message": "m" * 100}}
    assert (third.phase, len(third.logs)) == (RUNNING, 0)
    assert MessageToDict(closure.custom_info)["items"] == {
        "total": 3, "shown": 3, "RUNNING": 1, "SUCCEEDED": 1, "FAILED": 1,
    }  # fmt: skip


async def test_of_many_items_those_that_failed_and_those_that_run_are_shown(
    admin: Any, database: Database, execution_id: int
) -> None:
    await put(database, execution_id, 0, 2999, SUCCEEDED)
    await put(database, execution_id, 3000, 3299, QUEUED)
    await put(database, execution_id, 3300, 3399, RUNNING)
    await put(database, execution_id, 3400, 3409, FAILED)
    closure = (await seen(admin)).closure
    shown = list(closure.metadata.external_resources)
    assert len(shown) == MAX_SHOWN_ITEMS
    assert [each.index for each in shown] == sorted(each.index for each in shown)
    phases = [int(each.phase) for each in shown]
    assert (phases.count(FAILED), phases.count(RUNNING), phases.count(QUEUED)) == (10, 100, 300)
    assert MessageToDict(closure.custom_info)["items"] == {
        "total": 3410, "shown": 2000, "QUEUED": 300, "RUNNING": 100, "SUCCEEDED": 3000, "FAILED": 10,
    }  # fmt: skip


async def test_only_the_newest_attempt_shows_them(
    admin: Any, database: Database, rows: Rows, execution_id: int
) -> None:
    await rows.task_execution(execution_id, "n0", 1)
    await put(database, execution_id, 0, 0, ABORTED)
    assert not (await seen(admin, 0)).closure.metadata.external_resources
    assert len((await seen(admin, 1)).closure.metadata.external_resources) == 1
