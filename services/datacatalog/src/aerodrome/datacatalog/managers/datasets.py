"""Datasets: made once, never changed."""

from __future__ import annotations

import uuid

from flyteidl.datacatalog import datacatalog_pb2 as catalog

from aerodrome.datacatalog.config import CatalogSection
from aerodrome.datacatalog.domain import filters, validation
from aerodrome.datacatalog.domain.paging import page
from aerodrome.datacatalog.managers.counting import Counting
from aerodrome.datacatalog.repositories.datasets import DatasetRepository
from aerodrome.datacatalog.transformers.catalog import dataset
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AlreadyExists, NotFound
from aerodrome.stdlib.postgres.database import Connection, Database, Record


class DatasetManager:
    """CreateDataset, GetDataset, ListDatasets."""

    def __init__(self, database: Database, clock: Clock, config: CatalogSection, counting: Counting) -> None:
        self._db = database
        self._clock = clock
        self._config = config
        self._counting = counting

    async def create(self, request: catalog.CreateDatasetRequest) -> None:
        """Make a dataset; one of that name is never changed: AlreadyExists."""
        validation.refuse(validation.dataset(request.HasField("dataset"), request.dataset))
        wanted = request.dataset
        async with self._db.connection() as conn:
            made = await DatasetRepository(conn).insert(
                wanted.id,
                uuid=str(uuid.uuid4()),
                metadata=wanted.metadata.SerializeToString(),
                partition_keys=wanted.partitionKeys,
                at=self._clock.now(),
            )
        self._counting.add("create_dataset", "created" if made else "already_exists")
        if not made:
            raise AlreadyExists(f"a matching dataset is stored already: {shown(wanted.id)}")

    async def get(self, request: catalog.GetDatasetRequest) -> catalog.Dataset:
        """A dataset by its name, and by its UUID too if the request has one."""
        validation.refuse(validation.dataset_id(request.HasField("dataset"), request.dataset))
        async with self._db.connection() as conn:
            row = await DatasetRepository(conn).find(request.dataset)
        if row is None or (request.dataset.UUID and row["uuid"] != request.dataset.UUID):
            raise missing(request.dataset)
        return dataset(row)

    async def list(self, request: catalog.ListDatasetsRequest) -> catalog.ListDatasetsResponse:
        """A page of datasets, newest first unless told otherwise."""
        conditions = filters.of_datasets(request.filter)
        wanted = page(request.HasField("pagination"), request.pagination, most=self._config.max_page_size)
        async with self._db.connection() as conn:
            rows = await DatasetRepository(conn).page(conditions, wanted)
        last = rows[wanted.limit - 1] if len(rows) > wanted.limit else None
        return catalog.ListDatasetsResponse(
            datasets=[dataset(row) for row in rows[: wanted.limit]],
            next_token="" if last is None else wanted.token(last["created_at"], last["id"]),
        )


async def stored(conn: Connection, identity: catalog.DatasetID) -> Record:
    """The row of a dataset; raises NotFound."""
    row = await DatasetRepository(conn).find(identity)
    if row is None:
        raise missing(identity)
    return row


def missing(identity: catalog.DatasetID) -> NotFound:
    """There is no such dataset."""
    return NotFound(f"missing entity of type Dataset with identifier {shown(identity)}")


def shown(identity: catalog.DatasetID) -> str:
    """A dataset's name for people."""
    parts = (identity.org, identity.project, identity.domain, identity.name, identity.version)
    text = "/".join(part for part in parts if part)
    return f"{text} with UUID {identity.UUID}" if identity.UUID else text
