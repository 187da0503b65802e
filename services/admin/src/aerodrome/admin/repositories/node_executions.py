"""Node executions as they are read.  A row without a phase has no event folded into it yet and is not seen."""

from __future__ import annotations

from flyteidl.core.identifier_pb2 import NodeExecutionIdentifier

from aerodrome.admin.domain.validation import not_found
from aerodrome.stdlib.postgres.database import Connection, Database, Record
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "node_executions.sql")


class NodeExecutionViews:
    """Reads rows of `node_executions` by their key."""

    def __init__(self, database: Database | Connection) -> None:
        self._db = database

    async def get(self, key: NodeExecutionIdentifier) -> Record:
        """What the API shows of a node execution.  Raises NotFound."""
        execution = key.execution_id
        row = await self._db.fetchrow(_SQL.get, execution.project, execution.domain, execution.name, key.node_id)
        if row is None:
            raise not_found("node execution", key)
        return row

    async def exists(self, execution_id: int, node_id: str) -> bool:
        """Whether the execution has such a node."""
        return await self._db.fetchrow(_SQL.exists, execution_id, node_id) is not None
