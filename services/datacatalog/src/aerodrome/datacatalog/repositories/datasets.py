"""Rows of datasets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from flyteidl.datacatalog.datacatalog_pb2 import DatasetID

from aerodrome.datacatalog.domain.filters import Equals
from aerodrome.datacatalog.domain.paging import Page
from aerodrome.datacatalog.repositories.listing import Conditions
from aerodrome.stdlib.postgres.database import Connection, Record
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "datasets.sql")


class DatasetRepository:
    """Datasets, on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def insert(
        self, identity: DatasetID, *, uuid: str, metadata: bytes, partition_keys: Sequence[str], at: datetime
    ) -> bool:
        """Add a dataset; False if there is one of that name."""
        row = await self._conn.fetchrow(
            _SQL.insert,
            uuid,
            identity.project,
            identity.domain,
            identity.name,
            identity.version,
            identity.org,
            metadata,
            list(partition_keys),
            at,
        )
        return row is not None

    async def find(self, identity: DatasetID) -> Record | None:
        """The row of a dataset, by everything but its UUID."""
        return await self._conn.fetchrow(
            _SQL.get, identity.name, identity.project, identity.domain, identity.version, identity.org
        )

    async def page(self, filters: Sequence[Equals], page: Page) -> list[Record]:
        """The rows of a page, and one more if there is one."""
        conditions = Conditions()
        for each in filters:
            conditions.add(f"d.{each.what.value} = {{}}", each.value)
        return await self._conn.fetch(conditions.page(_SQL.page, page, "d"), *conditions.parameters)
