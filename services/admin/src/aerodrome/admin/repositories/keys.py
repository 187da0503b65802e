"""How an execution is found by its key; every other table refers to it by its number."""

from __future__ import annotations

from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier

from aerodrome.stdlib.postgres.database import Connection, Database
from aerodrome.stdlib.postgres.queries import load_queries

_QUERIES = load_queries(__package__, "keys.sql")


async def find_execution(rows: Connection | Database, key: WorkflowExecutionIdentifier) -> int | None:
    """The number of the execution; None if there is none."""
    found = await rows.fetchrow(_QUERIES.find_execution, key.project, key.domain, key.name)
    return None if found is None else int(found["execution_id"])
