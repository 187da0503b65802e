"""Rows of matchable attributes, and what a launch has to know of its surroundings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aerodrome.admin.domain.attributes import AttributeRow, Level
from aerodrome.admin.domain.projects import ProjectFacts
from aerodrome.admin.repositories.together import SharedStatements
from aerodrome.stdlib.postgres.database import Connection, Database, Record
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "resources.sql")


@dataclass(frozen=True, slots=True)
class Situation:
    """What surrounds a launch right now, and the id that its execution is going to have."""

    execution_id: int
    project: ProjectFacts | None
    attributes: tuple[AttributeRow, ...]


class Situations:
    """Looks around for many launches at once."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._shared: SharedStatements[tuple[str, ...], Situation] = SharedStatements(self._look_around)

    async def find(
        self,
        project: str,
        domain: str,
        *,
        workflow_project: str = "",
        workflow_domain: str = "",
        workflow: str = "",
        launch_plan: str = "",
    ) -> Situation:
        """What surrounds the launch of a workflow into `project` and `domain`, with an id that nobody else gets."""
        place = (project, workflow_project, domain, workflow_domain, workflow, launch_plan)
        return await self._shared.add(place, project)

    async def _look_around(self, places: Sequence[tuple[str, ...]]) -> list[Situation]:
        different = list(dict.fromkeys(places))
        rows = await self._db.fetch(_SQL.situations, *zip(*different, strict=True), len(places))
        known = {place: _surroundings(row) for place, row in zip(different, rows, strict=True)}
        ids: Sequence[int] = rows[0]["execution_ids"]
        return [Situation(execution_id, *known[place]) for place, execution_id in zip(places, ids, strict=True)]


def _surroundings(row: Record) -> tuple[ProjectFacts | None, tuple[AttributeRow, ...]]:
    return (
        None if row["state"] is None else ProjectFacts(state=row["state"], labels=row["labels"]),
        tuple(AttributeRow(*each) for each in row["attributes"]),
    )


class ResourceRepository:
    """Matchable attributes, on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def matching(
        self, project: str, domain: str, workflow: str = "", launch_plan: str = ""
    ) -> tuple[AttributeRow, ...]:
        """The rows of every kind and level that may apply."""
        rows = await self._conn.fetch(_SQL.matching, project, domain, workflow, launch_plan)
        return tuple(AttributeRow(*row) for row in rows)

    async def find(self, level: Level, kind: str) -> AttributeRow | None:
        """The most specific attributes of `kind` (a `MatchableResource` by its name) at `level` or above."""
        row = await self._conn.fetchrow(_SQL.find, level.project, level.domain, level.workflow, kind)
        return None if row is None else AttributeRow(*row)

    async def put(self, level: Level, kind: str, attributes: bytes) -> None:
        """Store the attributes of `kind` at `level`, in place of those that were there."""
        await self._conn.execute(
            _SQL.put, level.project, level.domain, level.workflow, kind, level.priority, attributes
        )

    async def put_and_lock(self, level: Level, kind: str, attributes: bytes) -> bytes:
        """Store the attributes if there are none; returns what is stored, which nobody changes in this transaction."""
        stored: bytes = await self._conn.fetchval(
            _SQL.put_and_lock, level.project, level.domain, level.workflow, kind, level.priority, attributes
        )
        return stored

    async def delete(self, level: Level, kind: str) -> None:
        """Forget the attributes of `kind` at exactly this level, if there are any."""
        await self._conn.execute(_SQL.delete, level.project, level.domain, level.workflow, kind)

    async def list_kind(self, kind: str) -> list[AttributeRow]:
        """All attributes of `kind`, the most specific first."""
        return [AttributeRow(*row) for row in await self._conn.fetch(_SQL.list_kind, kind)]
