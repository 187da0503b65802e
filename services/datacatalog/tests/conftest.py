"""The data catalog as a client sees it: over a channel, on a database and a store of its own."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from flyteidl.cacheservice.cacheservice_pb2_grpc import CacheServiceStub
from flyteidl.core.literals_pb2 import Literal
from flyteidl.datacatalog import datacatalog_pb2 as catalog
from flyteidl.datacatalog.datacatalog_pb2_grpc import DataCatalogStub

from aerodrome.datacatalog.config import CatalogConfig, CatalogSection
from aerodrome.datacatalog.main import MIGRATIONS, SERVICE, DataCatalog
from aerodrome.idl.catalog.v1.catalog_pb2_grpc import CatalogServiceStub
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.testing import ServerForTests, postgres_server
from aerodrome.stdlib.rpc.direct import DirectChannel
from aerodrome.stdlib.rpc.registry import Registry
from aerodrome.stdlib.storage.memory import MemStorage

__all__ = ["postgres_server"]

INLINE_BYTES = 100
"""Literals up to this size are rows in these tests."""


def text(value: str) -> Literal:
    literal = Literal()
    literal.scalar.primitive.string_value = value
    return literal


@dataclass
class World:
    """A running catalog, and what tests need to talk about it."""

    service: DataCatalog
    database: Database
    storage: MemStorage
    clock: ManualClock
    catalog: Any
    cache: Any
    understanding: Any
    numbers: Iterable[int] = field(default_factory=itertools.count)

    @staticmethod
    def dataset(name: str = "d", **other: str) -> catalog.DatasetID:
        parts = {"project": "p", "domain": "development", "name": name, "version": "v"} | other
        return catalog.DatasetID(**parts)

    async def make_dataset(self, name: str = "d", keys: Iterable[str] = (), **other: str) -> catalog.DatasetID:
        identity = self.dataset(name, **other)
        wanted = catalog.Dataset(id=identity, partitionKeys=keys)
        await self.catalog.CreateDataset(catalog.CreateDatasetRequest(dataset=wanted))
        return identity

    async def make_artifact(
        self,
        dataset: catalog.DatasetID,
        artifact_id: str,
        data: Mapping[str, str] | None = None,
        *,
        tags: Iterable[str] = (),
        metadata: Mapping[str, str] | None = None,
        partitions: Mapping[str, str] | None = None,
    ) -> None:
        artifact = self.artifact(dataset, artifact_id, data, metadata=metadata, partitions=partitions)
        artifact.tags.extend(catalog.Tag(name=tag, artifact_id=artifact_id, dataset=dataset) for tag in tags)
        await self.catalog.CreateArtifact(catalog.CreateArtifactRequest(artifact=artifact))

    @staticmethod
    def artifact(
        dataset: catalog.DatasetID,
        artifact_id: str,
        data: Mapping[str, str] | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        partitions: Mapping[str, str] | None = None,
    ) -> catalog.Artifact:
        return catalog.Artifact(
            id=artifact_id,
            dataset=dataset,
            data=[catalog.ArtifactData(name=name, value=text(value)) for name, value in (data or {"o": "1"}).items()],
            metadata=catalog.Metadata(key_map=metadata or {}),
            partitions=[catalog.Partition(key=key, value=value) for key, value in (partitions or {}).items()],
        )

    async def add_tag(self, dataset: catalog.DatasetID, artifact_id: str, name: str) -> None:
        tag = catalog.Tag(name=name, artifact_id=artifact_id, dataset=dataset)
        await self.catalog.AddTag(catalog.AddTagRequest(tag=tag))

    async def by_tag(self, dataset: catalog.DatasetID, tag: str) -> catalog.Artifact:
        request = catalog.GetArtifactRequest(dataset=dataset, tag_name=tag)
        return (await self.catalog.GetArtifact(request)).artifact

    async def by_id(self, dataset: catalog.DatasetID, artifact_id: str) -> catalog.Artifact:
        request = catalog.GetArtifactRequest(dataset=dataset, artifact_id=artifact_id)
        return (await self.catalog.GetArtifact(request)).artifact

    async def blobs(self) -> list[str]:
        """What lies in the store."""
        return [reference async for reference, _ in self.storage.list(self.storage.base)]


def values(artifact: catalog.Artifact) -> dict[str, str]:
    """An artifact's texts by name."""
    return {each.name: each.value.scalar.primitive.string_value for each in artifact.data}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tables(postgres_server: ServerForTests) -> AsyncIterator[str]:
    """A database for the tests of a file, which start with empty tables each."""
    dsn = await postgres_server.create((MIGRATIONS, SERVICE))
    try:
        yield dsn
    finally:
        await postgres_server.drop(dsn)


@pytest.fixture
async def world(tables: str) -> AsyncIterator[World]:
    clock = ManualClock()
    config = CatalogConfig(datacatalog=CatalogSection(inline_data_bytes=INLINE_BYTES))
    async with (
        Database(tables, min_size=1, max_size=8) as database,
        MemStorage("catalog", clock=clock) as storage,
    ):
        await database.execute(
            "TRUNCATE catalog_datasets, catalog_garbage, catalog_reservations, catalog_outputs CASCADE"
        )
        service = DataCatalog(config, database=database, storage=storage, clock=clock)
        registry = Registry()
        for add_to_server, servicer in service.services():
            registry.add(add_to_server, servicer)
        async with DirectChannel([registry]) as channel:
            yield World(
                service,
                database,
                storage,
                clock,
                catalog=DataCatalogStub(channel),
                cache=CacheServiceStub(channel),
                understanding=CatalogServiceStub(channel),
            )
