"""What every store promises, whatever it keeps its objects in."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.errors import InvalidArgument, NotFound, PermissionDenied, ResourceExhausted
from aerodrome.stdlib.storage import Storage

MINUTE = timedelta(minutes=1)


async def references(storage: Storage, prefix: str) -> list[str]:
    return [reference async for reference, _ in storage.list(prefix)]


async def test_what_was_written_is_read(storage: Storage) -> None:
    reference = storage.join("metadata", "p", "d", "exec", "inputs")
    await storage.write(reference, b"content")
    assert await storage.read(reference) == b"content"


async def test_an_empty_object_is_an_object(storage: Storage) -> None:
    reference = storage.join("empty")
    await storage.write(reference, b"")
    assert await storage.read(reference) == b""
    found = await storage.head(reference)
    assert found is not None
    assert found.size_bytes == 0


async def test_a_large_object_comes_back_whole(storage: Storage) -> None:
    data = bytes(range(256)) * 2000
    await storage.write(storage.join("large"), data)
    assert await storage.read(storage.join("large")) == data


async def test_writing_again_replaces(storage: Storage) -> None:
    reference = storage.join("again")
    await storage.write(reference, b"first, and longer")
    before = await storage.head(reference)
    await storage.write(reference, b"second")
    after = await storage.head(reference)
    assert await storage.read(reference) == b"second"
    assert before is not None
    assert after is not None
    assert before.etag != after.etag
    assert after.size_bytes == 6


async def test_names_are_kept_as_they_are(storage: Storage) -> None:
    names = ["with space", "plus+percent%25", "grün", "a.b", "v1:2@x#y?z=1&", "'quoted\""]
    for name in names:
        await storage.write(storage.join("names", name), name.encode())
    for name in names:
        assert await storage.read(storage.join("names", name)) == name.encode()
    assert sorted(await references(storage, storage.join("names"))) == sorted(storage.join("names", n) for n in names)


async def test_reading_nothing_is_not_found(storage: Storage) -> None:
    with pytest.raises(NotFound, match="no/such"):
        await storage.read(storage.join("no/such"))
    assert await storage.head(storage.join("no/such")) is None


async def test_a_prefix_is_no_object(storage: Storage) -> None:
    await storage.write(storage.join("a/b"), b"x")
    assert await storage.head(storage.join("a")) is None
    with pytest.raises(NotFound):
        await storage.read(storage.join("a"))


async def test_an_object_over_the_limit_is_refused_with_both_numbers(storage: Storage) -> None:
    reference = storage.join("big")
    await storage.write(reference, b"x" * 1000)
    with pytest.raises(ResourceExhausted, match=r"1000.*999"):
        await storage.read(reference, limit_bytes=999)
    assert len(await storage.read(reference, limit_bytes=1000)) == 1000


async def test_the_configured_limit_holds_and_zero_lifts_it(storage: Storage) -> None:
    reference = storage.join("big")
    await storage.write(reference, b"x" * (2 * 2**20 + 1))
    with pytest.raises(ResourceExhausted, match=str(2 * 2**20)):
        await storage.read(reference)
    assert len(await storage.read(reference, limit_bytes=0)) == 2 * 2**20 + 1


async def test_a_listing_covers_what_is_below_and_not_beside(storage: Storage) -> None:
    for name in ("a/b/1", "a/b/2/3", "a/bc", "a/b-d", "c"):
        await storage.write(storage.join(name), name.encode())
    assert await references(storage, storage.join("a/b")) == [storage.join("a/b/1"), storage.join("a/b/2/3")]
    assert await references(storage, storage.join("a/bc")) == [storage.join("a/bc")]
    assert await references(storage, storage.join("nothing")) == []
    assert await references(storage, storage.base) == [
        storage.join(name) for name in ("a/b-d", "a/b/1", "a/b/2/3", "a/bc", "c")
    ]


async def test_a_listing_tells_sizes(storage: Storage) -> None:
    await storage.write(storage.join("s/1"), b"12345")
    found = [metadata async for _, metadata in storage.list(storage.join("s"))]
    assert [metadata.size_bytes for metadata in found] == [5]
    assert abs(found[0].modified_at - datetime.now(UTC)) < timedelta(days=365 * 5)


async def test_deleting_is_idempotent(storage: Storage) -> None:
    reference = storage.join("gone")
    await storage.write(reference, b"x")
    await storage.delete(reference)
    await storage.delete(reference)
    assert await storage.head(reference) is None


async def test_deleting_a_prefix_counts_and_leaves_what_is_beside(storage: Storage) -> None:
    for name in ("p/1", "p/2/3", "p/2/4", "pq"):
        await storage.write(storage.join(name), b"x")
    assert await storage.delete_prefix(storage.join("p")) == 3
    assert await references(storage, storage.base) == [storage.join("pq")]
    assert await storage.delete_prefix(storage.join("p")) == 0


async def test_a_copy_has_the_content(storage: Storage) -> None:
    await storage.write(storage.join("from"), b"content")
    await storage.copy(storage.join("from"), storage.join("to/there"))
    assert await storage.read(storage.join("to/there")) == b"content"
    with pytest.raises(NotFound):
        await storage.copy(storage.join("nothing"), storage.join("to/elsewhere"))


async def test_frozen_objects_can_be_read_copied_and_deleted(storage: Storage) -> None:
    await storage.write(storage.join("done/0/outputs.pb"), b"x")
    await storage.freeze(storage.join("done"))
    await storage.freeze(storage.join("nothing"))
    assert await storage.read(storage.join("done/0/outputs.pb")) == b"x"
    await storage.copy(storage.join("done/0/outputs.pb"), storage.join("copy"))
    await storage.write(storage.join("copy"), b"y")
    assert await storage.delete_prefix(storage.join("done")) == 1
    assert await references(storage, storage.join("done")) == []


async def test_readers_see_the_old_or_the_new_object(storage: Storage) -> None:
    reference = storage.join("contended")
    versions = [bytes([version]) * 70_000 for version in range(8)]
    await storage.write(reference, versions[0])

    async def write() -> None:
        for version in versions:
            await storage.write(reference, version)

    async def read() -> None:
        for _ in range(20):
            assert await storage.read(reference) in versions

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        for _ in range(3):
            group.create_task(read())


@pytest.mark.parametrize(
    "outside", ["/etc/passwd", "s3://another/key", "mem://another/key", "relative", "", "file:///etc/passwd"]
)
async def test_nothing_outside_of_the_store_is_touched(storage: Storage, outside: str) -> None:
    inside = storage.join("inside")
    await storage.write(inside, b"x")
    for attempt in (
        storage.read(outside),
        storage.write(outside, b"x"),
        storage.head(outside),
        references(storage, outside),
        storage.delete(outside),
        storage.delete_prefix(outside),
        storage.copy(outside, inside),
        storage.copy(inside, outside),
        storage.freeze(outside),
        storage.sign_upload(outside, expires_in=MINUTE),
        storage.sign_download(outside, expires_in=MINUTE),
    ):
        with pytest.raises(PermissionDenied):
            await attempt


@pytest.mark.parametrize("path", ["../x", "a/../../x", "a/..", "./a", "a\0b"])
async def test_paths_that_climb_or_hide_are_refused(storage: Storage, path: str) -> None:
    reference = f"{storage.base}/{path}"
    for attempt in (
        storage.read(reference),
        storage.write(reference, b""),
        storage.sign_upload(reference, expires_in=MINUTE),
    ):
        with pytest.raises(PermissionDenied):
            await attempt


async def test_the_container_itself_is_no_object(storage: Storage) -> None:
    with pytest.raises(NotFound):
        await storage.write(storage.base, b"x")
    with pytest.raises(NotFound):
        await storage.read(storage.base)
    assert await storage.head(storage.base) is None


async def test_join_trims_slashes_and_starts_from_a_reference(storage: Storage) -> None:
    assert storage.join("a", "b") == f"{storage.base}/a/b"
    assert storage.join("a/", "/b//c/") == f"{storage.base}/a/b/c"
    assert storage.join(f"{storage.base}/x/", "y") == f"{storage.base}/x/y"
    assert storage.join("s3://bucket//a", "", "b") == "s3://bucket/a/b"
    assert storage.join("/abs", "b") == "/abs/b"
    assert storage.join() == storage.base


async def test_a_signed_upload_arrives_with_its_md5(storage: Storage, clock: ManualClock) -> None:
    data = b"uploaded content" * 1000
    digest = hashlib.md5(data).digest()
    reference = storage.join("p/d/ABC=/script mode.tar.gz")
    signed = await storage.sign_upload(
        reference, expires_in=MINUTE, content_md5=digest, add_md5_metadata=True, content_length=len(data)
    )
    assert signed.expires_at == clock.now() + MINUTE
    assert signed.headers.keys() == {"Content-MD5", "x-amz-meta-flyteContentMD5"}
    async with (
        aiohttp.ClientSession() as session,
        session.put(signed.url, data=data, headers=dict(signed.headers)) as response,
    ):
        assert response.status == 200, await response.text()
    assert await storage.read(reference) == data
    found = await storage.head(reference)
    assert found is not None
    assert found.content_md5 == signed.headers["Content-MD5"]
    await storage.copy(reference, storage.join("copy"))
    copied = await storage.head(storage.join("copy"))
    assert copied is not None
    assert copied.content_md5 == found.content_md5


async def test_a_signed_download_gives_the_object(storage: Storage) -> None:
    reference = storage.join("a b/deck.html")
    await storage.write(reference, b"<html>", content_type="text/html")
    signed = await storage.sign_download(reference, expires_in=MINUTE)
    async with (
        aiohttp.ClientSession() as session,
        session.get(signed.url, headers=dict(signed.headers)) as response,
    ):
        assert response.status == 200, await response.text()
        assert await response.read() == b"<html>"
        assert response.content_type == "text/html"


@pytest.mark.parametrize("expires_in", [timedelta(0), timedelta(seconds=-1), timedelta.max])
async def test_a_lifetime_that_cannot_be_is_refused(storage: Storage, expires_in: timedelta) -> None:
    with pytest.raises(InvalidArgument):
        await storage.sign_download(storage.join("x"), expires_in=expires_in)


async def test_an_md5_of_the_wrong_size_is_refused(storage: Storage) -> None:
    with pytest.raises(InvalidArgument, match="16 bytes"):
        await storage.sign_upload(storage.join("x"), expires_in=MINUTE, content_md5=b"short")
