"""Rows from which the spans of an execution are made."""

from __future__ import annotations

from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier

from aerodrome.stdlib.postgres.database import Connection, Record
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "metrics.sql")


class MetricsRepository:
    """Reads on the connection that it is given."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def find_execution(self, key: WorkflowExecutionIdentifier) -> Record | None:
        """An execution, and where the closure of its workflow is."""
        return await self._conn.fetchrow(_SQL.find_execution, key.project, key.domain, key.name)

    async def list_nodes(self, execution_id: int, *, top_only: bool, limit: int) -> list[Record]:
        """Up to `limit` nodes of an execution, in the order in which they appeared."""
        return list(await self._conn.fetch(_SQL.list_nodes, execution_id, top_only, limit))

    async def list_tasks(self, execution_id: int, *, limit: int) -> list[Record]:
        """Up to `limit` attempts of an execution, by node and attempt."""
        return list(await self._conn.fetch(_SQL.list_tasks, execution_id, limit))
