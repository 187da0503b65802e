"""Attempts of tasks as they are read.  A row without a phase has no event folded into it yet and is not seen."""

from __future__ import annotations

from flyteidl.core.identifier_pb2 import (
    Identifier,
    NodeExecutionIdentifier,
    ResourceType,
    TaskExecutionIdentifier,
)

from aerodrome.admin.domain.validation import not_found
from aerodrome.stdlib.postgres.database import Connection, Database, Record
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "task_executions.sql")


class TaskExecutionViews:
    """Reads rows of `task_executions` by their key."""

    def __init__(self, database: Database | Connection) -> None:
        self._db = database

    async def get(self, key: TaskExecutionIdentifier) -> Record:
        """What the API shows of an attempt, with its numbers.  Raises NotFound."""
        node, task = key.node_execution_id, key.task_id
        execution = node.execution_id
        row = await self._db.fetchrow(
            _SQL.get, execution.project, execution.domain, execution.name, node.node_id, key.retry_attempt,
            task.project, task.domain, task.name, task.version,
        )  # fmt: skip
        if row is None:
            raise not_found("task execution", key)
        return row

    async def count_items(self, execution_id: int, node_id: str) -> dict[int, int]:
        """How many items of a map are in each phase (a `core.TaskExecution.Phase`)."""
        return {row["phase"]: row["count"] for row in await self._db.fetch(_SQL.count_items, execution_id, node_id)}

    async def list_items(self, execution_id: int, node_id: str, limit: int) -> list[Record]:
        """Up to `limit` items of a map, those first that people look for: failed, then running."""
        return list(await self._db.fetch(_SQL.list_items, execution_id, node_id, limit))

    async def find_task(self, node: NodeExecutionIdentifier, retry_attempt: int) -> Identifier | None:
        """The task that an attempt of a node ran; None if there was no such attempt."""
        execution = node.execution_id
        row = await self._db.fetchrow(
            _SQL.get_by_attempt, execution.project, execution.domain, execution.name, node.node_id, retry_attempt
        )
        if row is None:
            return None
        return Identifier(
            resource_type=ResourceType.TASK,
            project=row["project"], domain=row["domain"], name=row["name"], version=row["version"],
        )  # fmt: skip
