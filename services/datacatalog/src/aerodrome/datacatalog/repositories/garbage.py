"""Blobs that are to be removed unless something refers to them by then."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from aerodrome.stdlib.postgres.database import Connection
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "garbage.sql")


class GarbageRepository:
    """Locations in the store, on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def note(self, locations: Sequence[str], *, due: datetime) -> None:
        """These are to be looked at from `due` on."""
        await self._conn.execute(_SQL.note, list(locations), due)

    async def claim(self, locations: Sequence[str], *, now: datetime, until: datetime) -> bool:
        """Nobody else writes or removes these before `until`; False if somebody has some of them already."""
        return len(await self._conn.fetch(_SQL.claim, list(locations), now, until)) == len(set(locations))

    async def forget(self, locations: Sequence[str]) -> bool:
        """These are in use, or gone; False if some of them were not noted any more."""
        return len(await self._conn.fetch(_SQL.forget, list(locations))) == len(set(locations))

    async def release(self, locations: Sequence[str], *, now: datetime) -> None:
        """Give back a claim: whether these are in use is found out by whoever looks next."""
        await self._conn.execute(_SQL.release, list(locations), now)

    async def take(self, now: datetime, *, again: datetime, limit: int) -> list[str]:
        """Locations that are due; whoever takes them has until `again` before somebody else does."""
        return [row["location"] for row in await self._conn.fetch(_SQL.due, now, again, limit)]

    async def referred(self, locations: Sequence[str]) -> set[str]:
        """Those of `locations` that something refers to."""
        return {row["location"] for row in await self._conn.fetch(_SQL.referred, list(locations))}
