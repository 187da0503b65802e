"""A cache in memory before a store whose objects do not change once written."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from datetime import timedelta

from aerodrome.stdlib.storage.port import Metadata, Opened, ServedStorage, SignedUrl, Storage, Upload, check_size


class CachingStorage:
    """Keeps the objects read most recently, up to `max_size_mbs` MiB of content; everything else passes through.

    Several who read the same object at once share one read.  What this process writes or removes is forgotten; what
    others change is not noticed, which is why only immutable objects belong behind it.
    """

    def __init__(self, inner: Storage, max_size_mbs: float, *, limit_bytes: int = 2 * 2**20) -> None:
        self._inner = inner
        self._capacity = int(max_size_mbs * 2**20)
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._reading: dict[tuple[str, int], asyncio.Task[bytes]] = {}
        self._generation = 0
        self.hits = 0
        self.misses = 0

    @property
    def base(self) -> str:
        return self._inner.base

    @property
    def size_bytes(self) -> int:
        """How much content is kept."""
        return self._size

    @property
    def inner(self) -> Storage:
        """The store behind the cache."""
        return self._inner

    def join(self, *parts: str) -> str:
        return self._inner.join(*parts)

    async def read(self, reference: str, *, limit_bytes: int | None = None) -> bytes:
        limit = self._limit_bytes if limit_bytes is None else limit_bytes
        kept = self._kept.get(reference)
        if kept is not None:
            self.hits += 1
            self._kept.move_to_end(reference)
            check_size(reference, len(kept), limit)
            return kept
        self.misses += 1
        key = (reference, limit)
        reading = self._reading.get(key)
        if reading is None:
            reading = asyncio.create_task(self._read(reference, limit), name=f"read {reference}")
            self._reading[key] = reading
            reading.add_done_callback(lambda done: self._read_done(key, done))
        return await asyncio.shield(reading)

    async def write(self, reference: str, data: bytes, *, content_type: str | None = None) -> None:
        try:
            await self._inner.write(reference, data, content_type=content_type)
        finally:
            self._forget(reference)

    async def head(self, reference: str) -> Metadata | None:
        return await self._inner.head(reference)

    def list(self, prefix: str) -> AsyncIterator[tuple[str, Metadata]]:
        return self._inner.list(prefix)

    async def delete(self, reference: str) -> None:
        try:
            await self._inner.delete(reference)
        finally:
            self._forget(reference)

    async def delete_prefix(self, prefix: str) -> int:
        try:
            return await self._inner.delete_prefix(prefix)
        finally:
            below = prefix.rstrip("/") + "/"
            for reference in [each for each in self._kept if each == prefix or each.startswith(below)]:
                self._forget(reference)
            self._generation += 1

    async def copy(self, source: str, destination: str) -> None:
        try:
            await self._inner.copy(source, destination)
        finally:
            self._forget(destination)

    async def freeze(self, prefix: str) -> None:
        await self._inner.freeze(prefix)

    async def sign_upload(
        self,
        reference: str,
        *,
        expires_in: timedelta,
        content_md5: bytes | None = None,
        add_md5_metadata: bool = False,
        content_length: int | None = None,
    ) -> SignedUrl:
        return await self._inner.sign_upload(
            reference,
            expires_in=expires_in,
            content_md5=content_md5,
            add_md5_metadata=add_md5_metadata,
            content_length=content_length,
        )

    async def sign_download(self, reference: str, *, expires_in: timedelta) -> SignedUrl:
        return await self._inner.sign_download(reference, expires_in=expires_in)

    async def _read(self, reference: str, limit: int) -> bytes:
        generation = self._generation
        data = await self._inner.read(reference, limit_bytes=limit)
        if generation == self._generation and len(data) <= self._capacity:
            self._keep(reference, data)
        return data

    def _read_done(self, key: tuple[str, int], done: asyncio.Task[bytes]) -> None:
        if self._reading.get(key) is done:
            del self._reading[key]
        if not done.cancelled():
            done.exception()  # those who waited were told; if none is left, nobody needs to be

    def _keep(self, reference: str, data: bytes) -> None:
        self._drop(reference)
        self._kept[reference] = data
        self._size += len(data)
        while self._size > self._capacity:
            _, oldest = self._kept.popitem(last=False)
            self._size -= len(oldest)

    def _forget(self, reference: str) -> None:
        """Drop what is kept, and let reads under way neither be kept nor be joined: they may have the old content."""
        self._drop(reference)
        self._generation += 1
        for key in [key for key in self._reading if key[0] == reference]:
            del self._reading[key]

    def _drop(self, reference: str) -> None:
        kept = self._kept.pop(reference, None)
        if kept is not None:
            self._size -= len(kept)


class ServedCachingStorage(CachingStorage):
    """The cache before a store that we serve ourselves; what is uploaded is forgotten like what is written."""

    def __init__(self, inner: ServedStorage, max_size_mbs: float, *, limit_bytes: int = 2 * 2**20) -> None:
        super().__init__(inner, max_size_mbs, limit_bytes=limit_bytes)
        self._served = inner

    async def begin_upload(self, reference: str) -> Upload:
        return _ForgettingUpload(self, reference, await self._served.begin_upload(reference))

    async def open(self, reference: str) -> Opened:
        """Raises NotFound."""
        return await self._served.open(reference)


class _ForgettingUpload:
    def __init__(self, cache: CachingStorage, reference: str, upload: Upload) -> None:
        self._cache = cache
        self._reference = reference
        self._upload = upload

    async def write(self, chunk: bytes) -> None:
        await self._upload.write(chunk)

    async def commit(self, content_md5: str | None) -> None:
        try:
            await self._upload.commit(content_md5)
        finally:
            self._cache._forget(self._reference)

    async def abort(self) -> None:
        await self._upload.abort()
