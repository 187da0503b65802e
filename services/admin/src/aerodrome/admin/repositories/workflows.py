"""Rows of registered workflows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from flyteidl.core.identifier_pb2 import Identifier
from flyteidl.core.interface_pb2 import TypedInterface

from aerodrome.stdlib.postgres.database import Connection
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "workflows.sql")


@dataclass(frozen=True, slots=True)
class WorkflowRow:
    """A registered workflow without its closure, which is at `closure_reference`."""

    id: int
    created_at: datetime
    interface: TypedInterface
    closure_reference: str
    digest: bytes
    short_description: str


class WorkflowRepository:
    """Workflows, on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def insert(
        self,
        identifier: Identifier,
        *,
        interface: TypedInterface,
        closure_reference: str,
        digest: bytes,
        short_description: str,
        at: datetime,
    ) -> int | None:
        """Add a workflow; its row's id, or None if its key is taken."""
        row = await self._conn.fetchrow(
            _SQL.insert,
            identifier.project,
            identifier.domain,
            identifier.name,
            identifier.version,
            at,
            interface.SerializeToString(),
            closure_reference,
            digest,
            short_description,
        )
        return None if row is None else int(row["id"])

    async def find(self, identifier: Identifier) -> WorkflowRow | None:
        """The row of a workflow."""
        row = await self._conn.fetchrow(
            _SQL.get, identifier.project, identifier.domain, identifier.name, identifier.version
        )
        if row is None:
            return None
        return WorkflowRow(
            id=row["id"],
            created_at=row["created_at"],
            interface=TypedInterface.FromString(row["typed_interface"]),
            closure_reference=row["remote_closure_identifier"],
            digest=row["digest"],
            short_description=row["short_description"],
        )
