"""Rows of reservations."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Literal

from aerodrome.datacatalog.domain.reservations import Held
from aerodrome.stdlib.postgres.database import Connection, Record
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "reservations.sql")


@dataclass(frozen=True, slots=True)
class Reserved:
    """What is reserved: a tag of a dataset, or a key of CacheService."""

    scope: Literal["dataset", "cache"]
    project: str
    domain: str
    name: str
    version: str
    org: str
    tag: str


class ReservationRepository:
    """Reservations, on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def acquire(self, what: Reserved, wanted: Held, *, now: datetime) -> tuple[Held, bool] | None:
        """Take a reservation that nobody has or that is over, or extend one's own; None if somebody else has it.

        Also says whether it is a new one.
        """
        row = await self._conn.fetchrow(
            _SQL.acquire, *astuple(what), wanted.owner_id, wanted.heartbeat, wanted.expires_at, now
        )
        return None if row is None else (_held(row), bool(row["is_new"]))

    async def find(self, what: Reserved) -> Held | None:
        """Who has it."""
        row = await self._conn.fetchrow(_SQL.get, *astuple(what))
        return None if row is None else _held(row)

    async def release(self, what: Reserved, owner_id: str) -> bool:
        """Give it back; whether it was the owner's."""
        return await self._conn.fetchrow(_SQL.release, *astuple(what), owner_id) is not None

    async def purge(self, before: datetime) -> int:
        """Remove reservations that ended before then; how many."""
        return len(await self._conn.fetch(_SQL.purge, before))


def _held(row: Record) -> Held:
    return Held(row["owner_id"], row["heartbeat"], row["expires_at"])
