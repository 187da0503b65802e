"""Descriptions of tasks and workflows as they are read; they are written together with what they describe."""

from __future__ import annotations

from flyteidl.core.identifier_pb2 import Identifier

from aerodrome.admin.domain.validation import not_found, resource_type_name
from aerodrome.stdlib.postgres.database import Connection, Database, Record
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "description_entities.sql")


class DescriptionEntityViews:
    """Reads rows of `description_entities` by their key."""

    def __init__(self, database: Database | Connection) -> None:
        self._db = database

    async def get(self, key: Identifier) -> Record:
        """The description of one version of an entity.  Raises NotFound."""
        row = await self._db.fetchrow(_SQL.get, key.resource_type, key.project, key.domain, key.name, key.version)
        if row is None:
            raise not_found(f"description of {resource_type_name(key.resource_type)}", key)
        return row
