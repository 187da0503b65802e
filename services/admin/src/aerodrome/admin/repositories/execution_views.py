"""Executions as they are read; writing them is the business of the launching and of the journal."""

from __future__ import annotations

from collections.abc import Sequence

from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier

from aerodrome.admin.domain.validation import not_found
from aerodrome.admin.repositories.keys import find_execution
from aerodrome.admin.repositories.together import Together
from aerodrome.stdlib.postgres.database import Connection, Database, Record
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "execution_views.sql")


class ExecutionViews:
    """Reads rows of `executions` by their key."""

    def __init__(self, database: Database | Connection) -> None:
        self._db = database
        self._rows: Together[tuple[str, str, str], Record] = Together(self._get_many)

    async def get(self, key: WorkflowExecutionIdentifier) -> Record:
        """What the API shows of an execution.  Raises NotFound."""
        row = await self._rows.find((key.project, key.domain, key.name))
        if row is None:
            raise not_found("execution", key)
        return row

    async def get_data(self, key: WorkflowExecutionIdentifier) -> Record:
        """The closure of an execution, and where its inputs are.  Raises NotFound."""
        row = await self._db.fetchrow(_SQL.get_data, key.project, key.domain, key.name)
        if row is None:
            raise not_found("execution", key)
        return row

    async def find_key(self, key: WorkflowExecutionIdentifier) -> int | None:
        """The number of an execution, by which the tables that grow with it refer to it."""
        return await find_execution(self._db, key)

    async def _get_many(self, keys: Sequence[tuple[str, str, str]]) -> dict[tuple[str, str, str], Record]:
        rows = await self._db.fetch(_SQL.get_many, *(list(column) for column in zip(*keys, strict=True)))
        return {(row["execution_project"], row["execution_domain"], row["execution_name"]): row for row in rows}
