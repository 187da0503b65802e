"""The row that says which replica leads."""

from __future__ import annotations

from datetime import timedelta

from aerodrome.stdlib.postgres.database import Connection
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "leader.sql")


class LeaderRepository:
    """The lead, on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def take(self, holder: str, epoch: int, term: timedelta) -> int | None:
        """Lead, or go on leading in `epoch`, for `term`; the epoch, or None while somebody else leads."""
        found = await self._conn.fetchval(_SQL.take, holder, epoch, term)
        return None if found is None else int(found)

    async def release(self, holder: str, epoch: int) -> None:
        """Let somebody else lead at once."""
        await self._conn.execute(_SQL.release, holder, epoch)
