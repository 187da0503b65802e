"""Rows of projects."""

from __future__ import annotations

from flyteidl.admin.project_pb2 import Project

from aerodrome.admin.domain.projects import ProjectFacts
from aerodrome.admin.transformers.projects import project_of
from aerodrome.stdlib.errors import NotFound
from aerodrome.stdlib.postgres.database import Connection
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "projects.sql")


class ProjectRepository:
    """Projects, on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def insert(self, project: Project) -> bool:
        """Add a project; False if its id is taken."""
        row = await self._conn.fetchrow(
            _SQL.insert,
            project.id,
            project.name,
            project.description,
            project.labels.SerializeToString(),
            project.state,
        )
        return row is not None

    async def get(self, identifier: str) -> Project:
        """The project, without its domains.  Raises NotFound."""
        row = await self._conn.fetchrow(_SQL.get, identifier)
        if row is None:
            raise _not_found(identifier)
        return project_of(row)

    async def find_facts(self, identifier: str) -> ProjectFacts | None:
        """What a write has to know of the project."""
        row = await self._conn.fetchrow(_SQL.facts, identifier)
        return None if row is None else ProjectFacts(state=row["state"], labels=row["labels"])

    async def update(self, project: Project) -> None:
        """Write the state, and what of name, description and labels the message carries.  Raises NotFound."""
        labels = project.labels.SerializeToString() if project.HasField("labels") else None
        row = await self._conn.fetchrow(
            _SQL.update, project.id, project.name, project.description, labels, project.state
        )
        if row is None:
            raise _not_found(project.id)


def _not_found(identifier: str) -> NotFound:
    return NotFound(f"project [{identifier}] not found")
