"""Literals in the store, so that none is left behind and none is taken away that something refers to.

A location is claimed in the database before anything is written to it, and let go in the transaction that refers to it.
Whoever finds a claim that ran out, or a location that is not referred to any more, removes the blob.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

from aerodrome.datacatalog.repositories.garbage import GarbageRepository
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AerodromeError, Conflict
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Connection, Database
from aerodrome.stdlib.storage import Storage

log = get_logger(__name__)

T = TypeVar("T")

_CLAIM = timedelta(minutes=5)
"""How long writing may take; a claim is looked at again before anything refers to what was written."""
_AT_ONCE = 16
_BATCH = 500


class Blobs:
    """Reads, writes and removes literals in the store."""

    def __init__(self, database: Database, storage: Storage, clock: Clock) -> None:
        self._db = database
        self._storage = storage
        self._clock = clock

    def join(self, parts: Sequence[str]) -> str:
        """The reference of a path below the store's container."""
        return self._storage.join(*parts)

    async def read(self, locations: Sequence[str]) -> list[bytes]:
        """What is stored at each location.  Raises NotFound for one that is gone."""
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(location: str) -> bytes:
            async with room:
                return await self._storage.read(location, limit_bytes=0)

        return await gathered([one(each) for each in locations])

    async def missing(self, locations: Sequence[str]) -> list[str]:
        """Those of `locations` at which nothing is stored."""
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(location: str) -> bool:
            async with room:
                return await self._storage.head(location) is None

        gone = await gathered([one(each) for each in locations])
        return [location for location, is_gone in zip(locations, gone, strict=True) if is_gone]

    @asynccontextmanager
    async def written(self, contents: Mapping[str, bytes]) -> AsyncIterator[None]:
        """Write blobs; the block makes something refer to them, and calls `keep` in its transaction.

        Raises Conflict if somebody else is writing to one of the locations.
        """
        if not contents:
            yield
            return
        locations = list(contents)
        async with self._db.transaction() as conn:
            now = self._clock.now()
            if not await GarbageRepository(conn).claim(locations, now=now, until=now + _CLAIM):
                raise Conflict("the same data is being written or removed by another call; try again")
        try:
            room = asyncio.Semaphore(_AT_ONCE)

            async def one(location: str, content: bytes) -> None:
                async with room:
                    await self._storage.write(location, content)

            await gathered([one(location, content) for location, content in contents.items()])
            yield
        except BaseException:
            await asyncio.shield(self._let_go(locations))
            raise

    async def keep(self, conn: Connection, contents: Mapping[str, bytes]) -> None:
        """The transaction of `conn` refers to what was written.  Raises Conflict if that took too long."""
        if contents and not await GarbageRepository(conn).forget(list(contents)):
            raise Conflict("writing the data took so long that it counts as abandoned; try again")

    async def drop(self, conn: Connection, locations: Sequence[str]) -> None:
        """The transaction of `conn` takes away what referred to these; `clean` removes them."""
        if locations:
            await GarbageRepository(conn).note(locations, due=self._clock.now())

    async def clean(self) -> int:
        """Remove blobs that nothing refers to and whose time has come; how many."""
        removed = 0
        while True:
            now = self._clock.now()
            async with self._db.transaction() as conn:
                repository = GarbageRepository(conn)
                locations = await repository.take(now, again=now + _CLAIM, limit=_BATCH)
                used = await repository.referred(locations)
                await repository.forget(list(used))
            if not locations:
                return removed
            unused = [each for each in locations if each not in used]
            for each in unused:
                await self._storage.delete(each)
            async with self._db.connection() as conn:
                await GarbageRepository(conn).forget(unused)
            removed += len(unused)

    async def try_clean(self) -> None:
        """`clean`, for whoever has done their own work already: the next upkeep does what fails here."""
        try:
            await self.clean()
        except AerodromeError as error:
            log.warning("blobs could not be removed yet", reason=error.message)

    async def _let_go(self, locations: Sequence[str]) -> None:
        try:
            async with self._db.connection() as conn:
                await GarbageRepository(conn).release(locations, now=self._clock.now())
        except AerodromeError as error:
            log.warning("claims are left to run out", reason=error.message)


async def gathered(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all of `work`, in order; when one fails the others are cancelled, and its error is raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
