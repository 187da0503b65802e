"""Rows of CacheService's outputs."""

from __future__ import annotations

from datetime import datetime

from aerodrome.stdlib.postgres.database import Connection, Record
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "outputs.sql")


class OutputRepository:
    """Outputs by their opaque keys, on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def find(self, key: str) -> Record | None:
        return await self._conn.fetchrow(_SQL.get, key)

    async def insert(self, key: str, *, location: str, output: bytes | None, at: datetime) -> bool:
        """Add an output; False if the key has one."""
        return await self._conn.fetchrow(_SQL.insert, key, location, output, at) is not None

    async def put(self, key: str, *, location: str, output: bytes | None, at: datetime) -> None:
        """Add an output, or replace the one that the key has; when it was created stays."""
        await self._conn.execute(_SQL.upsert, key, location, output, at)

    async def delete(self, key: str) -> str | None:
        """Remove an output; where it was stored (empty: in the row), None if there was none."""
        row = await self._conn.fetchrow(_SQL.delete, key)
        return None if row is None else str(row["location"])
