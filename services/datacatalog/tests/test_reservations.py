"""Who computes what is not cached yet.  Source: spec/datacatalog-scheduler-notifier.md, A.6, A.8, and part E, 6."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import grpc
import pytest
from flyteidl.cacheservice import cacheservice_pb2 as cache
from flyteidl.core.literals_pb2 import LiteralMap
from flyteidl.datacatalog import datacatalog_pb2 as catalog
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.datacatalog.domain.reservations import interval

from .conftest import World, text
from .test_catalog import LARGE, Code, refused


async def take(world: World, owner: str, tag: str = "t", seconds: float | None = None) -> catalog.Reservation:
    request = catalog.GetOrExtendReservationRequest(
        reservation_id=catalog.ReservationID(dataset_id=world.dataset(), tag_name=tag), owner_id=owner
    )
    if seconds is not None:
        request.heartbeat_interval.FromTimedelta(timedelta(seconds=seconds))
    return (await world.catalog.GetOrExtendReservation(request)).reservation


async def release(world: World, owner: str, tag: str = "t") -> None:
    identity = catalog.ReservationID(dataset_id=world.dataset(), tag_name=tag)
    await world.catalog.ReleaseReservation(catalog.ReleaseReservationRequest(reservation_id=identity, owner_id=owner))


async def test_of_two_who_race_one_wins_and_both_are_told_who(world: World) -> None:
    held = await asyncio.gather(*(take(world, owner) for owner in "abcdef"))
    assert len({each.owner_id for each in held}) == 1
    assert held[0].reservation_id.tag_name == "t"
    assert held[0].heartbeat_interval.ToTimedelta() == timedelta(seconds=10)
    left = held[0].expires_at.ToDatetime() - world.clock.now().replace(tzinfo=None)
    assert left == timedelta(seconds=30)


async def test_a_reservation_is_kept_by_extending_it_and_passes_on_when_it_ends(world: World) -> None:
    await take(world, "a", seconds=2)
    await world.clock.advance(5)
    assert (await take(world, "a", seconds=2)).owner_id == "a"
    await world.clock.advance(5)
    assert (await take(world, "b")).owner_id == "a"
    await world.clock.advance(1)
    assert (await take(world, "b")).owner_id == "b"
    assert (await take(world, "a")).owner_id == "b"


async def test_only_the_owner_gives_a_reservation_back(world: World) -> None:
    await take(world, "a")
    await release(world, "b")
    assert (await take(world, "b")).owner_id == "a"
    await release(world, "a")
    await release(world, "a")
    assert (await take(world, "b")).owner_id == "b"
    assert (await take(world, "c", tag="other")).owner_id == "c"


async def test_nobody_is_not_an_owner(world: World) -> None:
    await take(world, "a")
    await refused(release(world, ""), Code.INVALID_ARGUMENT, "owner")
    await refused(take(world, ""), Code.INVALID_ARGUMENT, "owner")
    await refused(take(world, "b", tag=""), Code.INVALID_ARGUMENT, "tag")
    request = catalog.GetOrExtendReservationRequest(owner_id="a")
    await refused(world.catalog.GetOrExtendReservation(request), Code.INVALID_ARGUMENT, "dataset")
    await refused(take(world, "b", seconds=-1), Code.INVALID_ARGUMENT, "heartbeat interval")
    assert (await take(world, "b")).owner_id == "a"


async def test_what_ended_long_ago_is_removed(world: World) -> None:
    await take(world, "a")
    await world.clock.advance(timedelta(days=2))
    await take(world, "b", tag="new")
    await world.service.upkeep.tick()
    assert await world.database.fetchval("SELECT array_agg(owner_id) FROM catalog_reservations") == ["b"]


@given(st.integers(0, 300_000_000_000), st.integers(0, 999_999_999))
def test_an_interval_is_what_is_asked_for_up_to_the_most(seconds: int, nanos: int) -> None:
    most = timedelta(seconds=10)
    granted = interval(True, Duration(seconds=seconds, nanos=nanos), most)
    assert granted == min(timedelta(seconds=min(seconds, 100), microseconds=nanos // 1000), most)
    assert interval(False, Duration(), most) == most


# CacheService


def output(value: str) -> cache.CachedOutput:
    return cache.CachedOutput(output_literals=LiteralMap(literals={"o": text(value)}))


async def put(world: World, value: str, *, overwrite: bool = False, key: str = "k") -> None:
    await world.cache.Put(cache.PutCacheRequest(key=key, output=output(value), overwrite=overwrite))


async def get(world: World, key: str = "k") -> cache.CachedOutput:
    return (await world.cache.Get(cache.GetCacheRequest(key=key))).output


async def test_an_output_is_kept_until_it_is_overwritten_or_deleted(world: World) -> None:
    for first, second in (("1", "2"), (LARGE, "2"), ("1", LARGE), (LARGE, LARGE + "2")):
        await refused(get(world), Code.NOT_FOUND, "CachedOutput")
        await put(world, first)
        known = await get(world)
        assert known.output_literals == output(first).output_literals
        await world.clock.advance(3)
        await refused(put(world, second), Code.ALREADY_EXISTS)
        await put(world, second, overwrite=True)
        changed = await get(world)
        assert changed.output_literals == output(second).output_literals
        assert changed.metadata.created_at == known.metadata.created_at
        assert changed.metadata.last_updated_at.seconds == known.metadata.last_updated_at.seconds + 3
        assert len(await world.blobs()) == (len(second) > 100)
        await world.cache.Delete(cache.DeleteCacheRequest(key="k"))
        assert await world.blobs() == []
    await refused(world.cache.Delete(cache.DeleteCacheRequest(key="k")), Code.NOT_FOUND)


async def test_an_output_has_a_key_and_a_value(world: World) -> None:
    await refused(get(world, ""), Code.INVALID_ARGUMENT, "key")
    await refused(put(world, "1", key="x" * 5000), Code.INVALID_ARGUMENT, "key")
    await refused(world.cache.Put(cache.PutCacheRequest(key="k")), Code.INVALID_ARGUMENT, "output")
    await put(world, LARGE)
    await world.storage.delete((await world.blobs())[0])
    await refused(get(world), Code.NOT_FOUND, "gone")


async def test_keys_are_reserved_like_tags(world: World) -> None:
    async def owner_of(who: str) -> str:
        request = cache.GetOrExtendReservationRequest(key="k", owner_id=who)
        return str((await world.cache.GetOrExtendReservation(request)).reservation.owner_id)

    assert await owner_of("a") == "a"
    assert await owner_of("b") == "a"
    assert (await take(world, "c", tag="k")).owner_id == "c"
    await world.cache.ReleaseReservation(cache.ReleaseReservationRequest(key="k", owner_id="a"))
    assert await owner_of("b") == "b"
    with pytest.raises(grpc.RpcError):
        await owner_of("")
