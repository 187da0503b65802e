"""Rows about names of tasks, workflows and launch plans, and descriptions of their versions."""

from __future__ import annotations

from flyteidl.admin.common_pb2 import NamedEntityIdentifier, NamedEntityMetadata
from flyteidl.admin.description_entity_pb2 import DescriptionEntity
from flyteidl.core.identifier_pb2 import Identifier, ResourceType

from aerodrome.stdlib.postgres.database import Connection
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "named_entities.sql")
_EXISTS = {
    int(ResourceType.TASK): _SQL.exists_task,
    int(ResourceType.WORKFLOW): _SQL.exists_workflow,
    int(ResourceType.LAUNCH_PLAN): _SQL.exists_launch_plan,
}

KINDS = frozenset(_EXISTS)
"""The resource types whose names can carry metadata."""


class NamedEntityRepository:
    """Names and descriptions, on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def exists(self, resource_type: int, identifier: NamedEntityIdentifier) -> bool:
        """Whether any version under this name is registered."""
        return bool(
            await self._conn.fetchval(_EXISTS[resource_type], identifier.project, identifier.domain, identifier.name)
        )

    async def get(self, resource_type: int, identifier: NamedEntityIdentifier) -> NamedEntityMetadata:
        """The metadata of a name; without any it is active and has no description."""
        row = await self._conn.fetchrow(_SQL.get, resource_type, identifier.project, identifier.domain, identifier.name)
        if row is None:
            return NamedEntityMetadata()
        return NamedEntityMetadata(description=row["description"], state=row["state"])

    async def put(self, resource_type: int, identifier: NamedEntityIdentifier, metadata: NamedEntityMetadata) -> None:
        """Write the metadata of a name."""
        await self._conn.execute(_SQL.put, *_values(resource_type, identifier, metadata))

    async def put_if_absent(
        self, resource_type: int, identifier: NamedEntityIdentifier, metadata: NamedEntityMetadata
    ) -> None:
        """Write the metadata of a name unless somebody did."""
        await self._conn.execute(_SQL.put_if_absent, *_values(resource_type, identifier, metadata))

    async def describe(self, identifier: Identifier, description: DescriptionEntity) -> None:
        """Keep the description of a version."""
        await self._conn.execute(
            _SQL.describe,
            identifier.resource_type,
            identifier.project,
            identifier.domain,
            identifier.name,
            identifier.version,
            description.short_description,
            description.long_description.SerializeToString(),
            description.source_code.link,
        )


def _values(
    resource_type: int, identifier: NamedEntityIdentifier, metadata: NamedEntityMetadata
) -> tuple[int, str, str, str, str, int]:
    return (
        resource_type,
        identifier.project,
        identifier.domain,
        identifier.name,
        metadata.description,
        metadata.state,
    )
