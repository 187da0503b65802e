"""What CacheService keeps: outputs by keys that mean nothing here.  Source: A.8 of the specification."""

from __future__ import annotations

from flyteidl.cacheservice import cacheservice_pb2 as cache
from google.protobuf.message import DecodeError

from aerodrome.datacatalog.config import CatalogSection
from aerodrome.datacatalog.domain import validation
from aerodrome.datacatalog.domain.places import output_parts
from aerodrome.datacatalog.managers.blobs import Blobs
from aerodrome.datacatalog.repositories.outputs import OutputRepository
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AlreadyExists, DataLoss, NotFound
from aerodrome.stdlib.postgres.database import Database, Record


class OutputManager:
    """Get, Put, Delete."""

    def __init__(self, database: Database, blobs: Blobs, clock: Clock, config: CatalogSection) -> None:
        self._db = database
        self._blobs = blobs
        self._clock = clock
        self._config = config

    async def get(self, key: str) -> cache.CachedOutput:
        """What is kept under a key; NotFound if there is nothing, or if its blob is gone."""
        row = await self._row(key)
        if row is None:
            raise _missing(key)
        content = row["output"]
        if content is None:
            try:
                (content,) = await self._blobs.read([row["location"]])
            except NotFound as error:
                raise NotFound(f"the output of key {key} is known but gone: {error.message}") from error
        try:
            output = cache.CachedOutput.FromString(content)
        except DecodeError as error:
            raise DataLoss(f"what is stored under key {key} is not an output") from error
        output.metadata.created_at.FromDatetime(row["created_at"])
        output.metadata.last_updated_at.FromDatetime(row["updated_at"])
        return output

    async def put(self, request: cache.PutCacheRequest) -> None:
        """Keep an output; AlreadyExists if the key has one that is not to be overwritten."""
        problems = [*validation.text("key", request.key, validation.MAX_KEY_BYTES)]
        if request.output.WhichOneof("output") is None:
            problems.append(validation.missing("output"))
        validation.refuse(problems)
        known = await self._row(request.key)
        if known is not None and not request.overwrite:
            raise AlreadyExists(f"an output is stored already under key {request.key}")
        output = cache.CachedOutput()
        output.CopyFrom(request.output)
        output.metadata.ClearField("created_at")
        output.metadata.ClearField("last_updated_at")
        content = output.SerializeToString()
        location = ""
        if len(content) > self._config.inline_data_bytes:
            location = self._blobs.join(output_parts(self._config.storage_prefix, request.key))
        blobs = {location: content} if location else {}
        inline = None if location else content
        dropped = ""
        async with self._blobs.written(blobs), self._db.transaction() as conn:
            repository = OutputRepository(conn)
            now = self._clock.now()
            if request.overwrite:
                await repository.put(request.key, location=location, output=inline, at=now)
                dropped = "" if known is None or known["location"] == location else known["location"]
                await self._blobs.drop(conn, [dropped] if dropped else [])
            elif not await repository.insert(request.key, location=location, output=inline, at=now):
                raise AlreadyExists(f"an output is stored already under key {request.key}")
            await self._blobs.keep(conn, blobs)
        if dropped:
            await self._blobs.try_clean()

    async def delete(self, key: str) -> None:
        """Remove what is kept under a key; NotFound if there is nothing."""
        validation.refuse(validation.text("key", key, validation.MAX_KEY_BYTES))
        async with self._db.transaction() as conn:
            location = await OutputRepository(conn).delete(key)
            if location is None:
                raise _missing(key)
            await self._blobs.drop(conn, [location] if location else [])
        if location:
            await self._blobs.try_clean()

    async def _row(self, key: str) -> Record | None:
        validation.refuse(validation.text("key", key, validation.MAX_KEY_BYTES))
        async with self._db.connection() as conn:
            return await OutputRepository(conn).find(key)


def _missing(key: str) -> NotFound:
    return NotFound(f"missing entity of type CachedOutput with key {key}")
