"""Names of tasks, workflows and launch plans: what is kept about them whatever the version.

Source: spec/control-plane.md, sections 1.7 and 6.7.
"""

from __future__ import annotations

from flyteidl.admin.common_pb2 import (
    NamedEntity,
    NamedEntityGetRequest,
    NamedEntityState,
    NamedEntityUpdateRequest,
)
from flyteidl.core.identifier_pb2 import ResourceType

from aerodrome.admin.domain.validation import (
    check_named_entity_id,
    check_text,
    invalid_value,
    missing,
    resource_type_name,
)
from aerodrome.admin.repositories.named_entities import KINDS, NamedEntityRepository
from aerodrome.stdlib.errors import InvalidArgument, NotFound
from aerodrome.stdlib.postgres.database import Database

MAX_DESCRIPTION_CHARS = 4_096


class NamedEntityManager:
    """Names."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def get(self, request: NamedEntityGetRequest) -> NamedEntity:
        """A name with its metadata.  Raises InvalidArgument, NotFound if no version under it is registered."""
        if request.resource_type not in KINDS:
            raise invalid_value("resource_type")
        check_named_entity_id(request.id)
        async with self._db.connection() as conn:
            names = NamedEntityRepository(conn)
            if not await names.exists(request.resource_type, request.id):
                raise NotFound("entry not found")
            metadata = await names.get(request.resource_type, request.id)
        return NamedEntity(resource_type=request.resource_type, id=request.id, metadata=metadata)

    async def update(self, request: NamedEntityUpdateRequest) -> None:
        """Write the metadata of a name.  Raises InvalidArgument, NotFound."""
        if request.resource_type not in ResourceType.values() or request.resource_type == ResourceType.UNSPECIFIED:
            raise invalid_value("resource_type")
        check_named_entity_id(request.id)
        if not request.HasField("metadata"):
            raise missing("metadata")
        if request.metadata.state not in NamedEntityState.values():
            raise invalid_value("state")
        if request.resource_type not in KINDS:
            if request.metadata.state != NamedEntityState.NAMED_ENTITY_ACTIVE:
                raise InvalidArgument(
                    f"Resource [{resource_type_name(request.resource_type)}] cannot have its state updated"
                )
            raise NotFound("entry not found")
        check_text("description", request.metadata.description, max_chars=MAX_DESCRIPTION_CHARS, max_bytes=None)
        async with self._db.transaction() as conn:
            names = NamedEntityRepository(conn)
            if not await names.exists(request.resource_type, request.id):
                raise NotFound("entry not found")
            await names.put(request.resource_type, request.id, request.metadata)
