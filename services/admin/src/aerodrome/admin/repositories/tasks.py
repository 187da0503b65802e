"""Rows of registered tasks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from flyteidl.admin.task_pb2 import TaskClosure
from flyteidl.core.compiler_pb2 import CompiledTask
from flyteidl.core.identifier_pb2 import Identifier

from aerodrome.stdlib.postgres.database import Connection, Record
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "tasks.sql")


class TaskRepository:
    """Tasks, on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def insert(
        self, identifier: Identifier, closure: TaskClosure, *, digest: bytes, short_description: str, at: datetime
    ) -> bool:
        """Add a task; False if its key is taken."""
        row = await self._conn.fetchrow(
            _SQL.insert,
            identifier.project,
            identifier.domain,
            identifier.name,
            identifier.version,
            at,
            closure.SerializeToString(),
            digest,
            closure.compiled_task.template.type,
            short_description,
        )
        return row is not None

    async def find(self, identifier: Identifier) -> Record | None:
        """The row of a task."""
        return await self._conn.fetchrow(
            _SQL.get, identifier.project, identifier.domain, identifier.name, identifier.version
        )

    async def compiled(self, identifiers: Sequence[Identifier]) -> list[CompiledTask]:
        """The compiled forms of those of the tasks that exist, in no particular order."""
        if not identifiers:
            return []
        rows = await self._conn.fetch(
            _SQL.closures,
            [each.project for each in identifiers],
            [each.domain for each in identifiers],
            [each.name for each in identifiers],
            [each.version for each in identifiers],
        )
        return [TaskClosure.FromString(row["closure"]).compiled_task for row in rows]
