"""What announcements tell beyond what changed: read when they leave the outbox."""

from __future__ import annotations

from flyteidl.core.identifier_pb2 import Identifier

from aerodrome.stdlib.postgres.database import Connection, Database, Record
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "announced.sql")


class AnnouncedRepository:
    """Reads rows that announcements speak of."""

    def __init__(self, database: Database | Connection) -> None:
        self._db = database

    async def get_execution(self, execution_id: int) -> Record | None:
        """The execution with its parent's name, or None if it was deleted meanwhile."""
        return await self._db.fetchrow(_SQL.get_ended, execution_id)

    async def get_newest_attempt(self, execution_id: int, node_id: str) -> Record | None:
        """The key of a node's newest attempt, if it has one."""
        return await self._db.fetchrow(_SQL.get_newest_attempt, execution_id, node_id)

    async def get_task_closure(self, key: Identifier) -> bytes | None:
        """A serialized flyteidl.admin.TaskClosure."""
        value = await self._db.fetchval(_SQL.get_task_interface, key.project, key.domain, key.name, key.version)
        return None if value is None else bytes(value)

    async def get_workflow_interface(self, key: Identifier) -> bytes | None:
        """A serialized flyteidl.core.TypedInterface."""
        value = await self._db.fetchval(_SQL.get_workflow_interface, key.project, key.domain, key.name, key.version)
        return None if value is None else bytes(value)
