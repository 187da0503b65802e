"""The read cache: bounded, shared by those who read at once, and never behind what this process wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

import aiohttp
import pytest

from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.config import StorageCache, StorageConfig
from aerodrome.stdlib.errors import NotFound, ResourceExhausted
from aerodrome.stdlib.storage import LocalSigner, ServedStorage, Storage, open_storage
from aerodrome.stdlib.storage.cache import CachingStorage
from aerodrome.stdlib.storage.memory import MemStorage


class Counting(MemStorage):
    """Counts reads, and holds them up until `go` is set."""

    def __init__(self) -> None:
        super().__init__("x", clock=ManualClock())
        self.reads: list[str] = []
        self.go = asyncio.Event()
        self.go.set()

    async def read(self, reference: str, *, limit_bytes: int | None = None) -> bytes:
        self.reads.append(reference)
        data = await super().read(reference, limit_bytes=limit_bytes)
        await self.go.wait()
        return data


@pytest.fixture
async def inner() -> AsyncIterator[Counting]:
    async with Counting() as storage:
        yield storage


@pytest.fixture
def cache(inner: Counting) -> CachingStorage:
    return CachingStorage(inner, 0.001)  # 1048 bytes


async def test_a_second_read_is_answered_from_memory(cache: CachingStorage, inner: Counting) -> None:
    await cache.write(cache.join("a"), b"1")
    assert await cache.read(cache.join("a")) == b"1"
    assert await cache.read(cache.join("a")) == b"1"
    assert len(inner.reads) == 1
    assert (cache.hits, cache.misses) == (1, 1)


async def test_the_least_recently_read_goes_first(cache: CachingStorage, inner: Counting) -> None:
    for name in "abc":
        await cache.write(cache.join(name), name.encode() * 400)
    for name in "abac":
        await cache.read(cache.join(name))
    inner.reads.clear()
    for name in "acb":
        await cache.read(cache.join(name))
    assert inner.reads == [cache.join("b")]
    assert cache.size_bytes <= 1048


async def test_what_is_larger_than_the_cache_is_not_kept(cache: CachingStorage, inner: Counting) -> None:
    await cache.write(cache.join("a"), b"x" * 2000)
    await cache.read(cache.join("a"))
    await cache.read(cache.join("a"))
    assert len(inner.reads) == 2
    assert cache.size_bytes == 0


async def test_those_who_read_at_once_share_one_read(cache: CachingStorage, inner: Counting) -> None:
    await cache.write(cache.join("a"), b"1")
    inner.go.clear()
    readers = [asyncio.create_task(cache.read(cache.join("a"))) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    readers[0].cancel()
    inner.go.set()
    assert await asyncio.gather(*readers[1:]) == [b"1"] * 4
    assert len(inner.reads) == 1


async def test_writing_copying_and_deleting_forget(cache: CachingStorage) -> None:
    a, b = cache.join("d/a"), cache.join("d/b")
    await cache.write(a, b"1")
    await cache.write(b, b"2")
    assert await cache.read(a) == b"1"
    await cache.write(a, b"changed")
    assert await cache.read(a) == b"changed"
    await cache.copy(b, a)
    assert await cache.read(a) == b"2"
    await cache.delete(a)
    with pytest.raises(NotFound):
        await cache.read(a)
    assert await cache.read(b) == b"2"
    assert await cache.delete_prefix(cache.join("d")) == 1
    with pytest.raises(NotFound):
        await cache.read(b)


async def test_a_read_that_was_overtaken_by_a_write_is_not_kept(cache: CachingStorage, inner: Counting) -> None:
    a = cache.join("a")
    await cache.write(a, b"old")
    inner.go.clear()
    reader = asyncio.create_task(cache.read(a))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await cache.write(a, b"new")
    inner.go.set()
    assert await reader == b"old"
    assert await cache.read(a) == b"new"


async def test_limits_hold_for_what_is_kept(cache: CachingStorage) -> None:
    await cache.write(cache.join("a"), b"x" * 100)
    await cache.read(cache.join("a"))
    with pytest.raises(ResourceExhausted):
        await cache.read(cache.join("a"), limit_bytes=99)


async def test_errors_reach_every_reader_and_are_not_kept(cache: CachingStorage) -> None:
    readers = [asyncio.create_task(cache.read(cache.join("a"))) for _ in range(3)]
    found = await asyncio.gather(*readers, return_exceptions=True)
    assert [type(each) for each in found] == [NotFound] * 3
    await cache.write(cache.join("a"), b"1")
    assert await cache.read(cache.join("a")) == b"1"


async def test_a_store_is_opened_with_the_cache_that_is_configured(clock: ManualClock) -> None:
    config = StorageConfig(type="mem", container="x", cache=StorageCache(max_size_mbs=1))
    async with open_storage(config, clock=clock) as storage:
        assert isinstance(storage, CachingStorage)
        await storage.write(storage.join("a/b"), b"1")
        await storage.freeze(storage.join("a"))
        assert [reference async for reference, _ in storage.list(storage.base)] == ["mem://x/a/b"]
        assert await storage.head(storage.join("a/b")) is not None


async def test_what_is_uploaded_is_forgotten(
    clock: ManualClock, signer: LocalSigner, serve: Callable[[Storage], AbstractAsyncContextManager[None]]
) -> None:
    config = StorageConfig(type="mem", container="x", cache=StorageCache(max_size_mbs=1))
    async with open_storage(config, clock=clock, signer=signer) as storage, serve(storage):
        assert isinstance(storage, ServedStorage)
        await storage.write(storage.join("a"), b"old")
        assert await storage.read(storage.join("a")) == b"old"
        signed = await storage.sign_upload(storage.join("a"), expires_in=timedelta(minutes=1))
        async with aiohttp.ClientSession() as session:
            async with session.put(signed.url, data=b"new") as response:
                assert response.status == 200
            assert await storage.read(storage.join("a")) == b"new"
            signed = await storage.sign_download(storage.join("a"), expires_in=timedelta(minutes=1))
            async with session.get(signed.url) as response:
                assert await response.read() == b"new"


async def test_only_stores_that_we_serve_can_be_served(s3: Storage, mem: Storage, local: Storage) -> None:
    assert isinstance(mem, ServedStorage)
    assert isinstance(local, ServedStorage)
    assert not isinstance(s3, ServedStorage)
