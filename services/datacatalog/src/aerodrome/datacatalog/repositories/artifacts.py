"""Rows of artifacts, with their data, partitions and tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from flyteidl.datacatalog.datacatalog_pb2 import DatasetID

from aerodrome.datacatalog.domain.filters import Equals, Property
from aerodrome.datacatalog.domain.paging import Page
from aerodrome.datacatalog.repositories.listing import Conditions
from aerodrome.stdlib.postgres.database import Connection, Record
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "artifacts.sql")
INTERFACE_CHARACTERS = 18
"""What a dataset's version has behind the cache version: the hashes of both sides of the interface, 8 each."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Where one data item is: in the store at `location`, or here as `value`."""

    name: str
    location: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Source:
    """The execution that made an artifact, as far as its metadata says."""

    project: str = ""
    domain: str = ""
    execution: str = ""


@dataclass(frozen=True, slots=True)
class Selected:
    """Conditions on artifacts; empty ones hold for all."""

    project: str = ""
    domain: str = ""
    dataset: str = ""
    cache_version: str = ""
    source: Source = Source()
    updated_before: datetime | None = None
    tag: str = ""

    def __bool__(self) -> bool:
        return self != Selected()


class ArtifactRepository:
    """Artifacts, on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def insert(
        self, dataset_id: int, artifact_id: str, *, metadata: bytes, source: Source, at: datetime
    ) -> int | None:
        """Add an artifact; its row's id, None if there is one of that id in the dataset."""
        row = await self._conn.fetchrow(
            _SQL.insert, dataset_id, artifact_id, metadata, source.project, source.domain, source.execution, at
        )
        return None if row is None else int(row["id"])

    async def row_id(self, dataset_id: int, artifact_id: str) -> int | None:
        """The row of an artifact, if there is one."""
        found = await self._conn.fetchval(_SQL.exists, dataset_id, artifact_id)
        return None if found is None else int(found)

    async def lock(self, row_id: int) -> bool:
        """Hold the row until the end of the transaction; False if it is gone."""
        return await self._conn.fetchval(_SQL.lock, row_id) is not None

    async def update(self, row_id: int, *, metadata: bytes, source: Source, at: datetime) -> None:
        """Replace an artifact's metadata."""
        await self._conn.execute(_SQL.update, row_id, metadata, source.project, source.domain, source.execution, at)

    async def put_data(self, row_id: int, data: Sequence[Kept]) -> None:
        """Add data items, and replace those of the same names."""
        await self._conn.execute(
            _SQL.add_data,
            row_id,
            [each.name for each in data],
            [each.location for each in data],
            [each.value for each in data],
        )

    async def keep_data(self, row_id: int, names: Sequence[str]) -> list[str]:
        """Remove the data items that have other names; the locations of those that were removed."""
        rows = await self._conn.fetch(_SQL.remove_data_but, row_id, list(names))
        return [row["location"] for row in rows if row["location"]]

    async def locations(self, row_ids: Sequence[int]) -> list[str]:
        """Where the artifacts' data lies in the store."""
        return [row["location"] for row in await self._conn.fetch(_SQL.locations, list(row_ids))]

    async def add_partitions(self, row_id: int, dataset_id: int, pairs: Sequence[tuple[str, str]]) -> None:
        """Add an artifact's partitions, in their order."""
        if pairs:
            await self._conn.execute(
                _SQL.add_partitions, row_id, dataset_id, [key for key, _ in pairs], [value for _, value in pairs]
            )

    async def add_tags(self, row_id: int, dataset_id: int, names: Sequence[str], *, at: datetime) -> list[str]:
        """Point tags at an artifact; the names that were free."""
        rows = await self._conn.fetch(_SQL.add_tags, dataset_id, row_id, list(names), at)
        return [row["name"] for row in rows]

    async def by_id(self, dataset: DatasetID | None, artifact_id: str) -> Record | None:
        """An artifact of a dataset, or the newest of that id of any."""
        conditions = Conditions()
        conditions.add("a.artifact_id = {}", artifact_id)
        if dataset is not None:
            _of_dataset(conditions, dataset)
        text = f"{conditions.sql(_SQL.select)} ORDER BY a.created_at DESC, a.id DESC LIMIT 1"
        return await self._conn.fetchrow(text, *conditions.parameters)

    async def by_tag(self, dataset: DatasetID, tag: str) -> Record | None:
        """The artifact that a tag points at."""
        conditions = Conditions()
        _of_dataset(conditions, dataset)
        conditions.add("t0.name = {}", tag)
        return await self._conn.fetchrow(conditions.sql(f"{_SQL.select} {_SQL.by_tag}"), *conditions.parameters)

    async def page(self, dataset_id: int, filters: Sequence[Equals], page: Page) -> list[Record]:
        """The rows of a page, and one more if there is one."""
        conditions = Conditions()
        conditions.add("a.dataset_id = {}", dataset_id)
        for each in filters:
            match each.what:
                case Property.TAG:
                    conditions.add(
                        "EXISTS (SELECT FROM catalog_tags t WHERE t.artifact = a.id AND t.name = {})", each.value
                    )
                case Property.PARTITION:
                    conditions.add(
                        "EXISTS (SELECT FROM catalog_partitions p WHERE p.artifact = a.id"
                        " AND p.key = {} AND p.value = {})",
                        each.key,
                        each.value,
                    )
                case _:
                    conditions.add("a.artifact_id = {}", each.value)
        return await self._conn.fetch(conditions.page(_SQL.select, page, "a"), *conditions.parameters)

    async def selected(self, selected: Selected, *, after: int, limit: int) -> list[Record]:
        """Artifacts for which the conditions hold, in the order of their rows from behind `after`."""
        conditions = _conditions(selected)
        conditions.add("a.id > {}", after)
        text = f"{conditions.sql(_SQL.select)} ORDER BY a.id LIMIT {int(limit)}"
        return await self._conn.fetch(text, *conditions.parameters)

    async def newest(self, selected: Selected, *, limit: int) -> list[Record]:
        """The artifacts for which the conditions hold that were written last."""
        conditions = _conditions(selected)
        text = f"{conditions.sql(_SQL.select)} ORDER BY a.created_at DESC, a.id DESC LIMIT {int(limit)}"
        return await self._conn.fetch(text, *conditions.parameters)

    async def delete(self, row_ids: Sequence[int]) -> None:
        """Remove artifacts, and what belongs to them."""
        await self._conn.execute(_SQL.delete, list(row_ids))

    async def count(self) -> int:
        """How many artifacts there are."""
        return int(await self._conn.fetchval(_SQL.count))


def _of_dataset(conditions: Conditions, dataset: DatasetID) -> None:
    conditions.add(
        "d.name = {} AND d.project = {} AND d.domain = {} AND d.version = {} AND d.org = {}",
        dataset.name,
        dataset.project,
        dataset.domain,
        dataset.version,
        dataset.org,
    )


def _conditions(selected: Selected) -> Conditions:
    conditions = Conditions()
    for column, value in (
        ("d.project", selected.project),
        ("d.domain", selected.domain),
        ("d.name", selected.dataset),
        ("a.source_project", selected.source.project),
        ("a.source_domain", selected.source.domain),
        ("a.source_execution", selected.source.execution),
    ):
        if value:
            conditions.add(f"{column} = {{}}", value)
    if selected.cache_version:
        conditions.add("starts_with(d.version, {})", f"{selected.cache_version}-")
        conditions.add("length(d.version) = {}", len(selected.cache_version) + INTERFACE_CHARACTERS)
    if selected.updated_before is not None:
        conditions.add("a.updated_at < {}", selected.updated_before)
    if selected.tag:
        conditions.add("EXISTS (SELECT FROM catalog_tags t WHERE t.artifact = a.id AND t.name = {})", selected.tag)
    return conditions
