"""The data plane's cache on a real data catalog: hits, misses, results that are gone, and who computes.

Source: spec/data-plane.md, 4.1 to 4.5; invariant I11.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from flyteidl.core import catalog_pb2, identifier_pb2, interface_pb2, literals_pb2, tasks_pb2, types_pb2
from flyteidl.datacatalog import datacatalog_pb2
from flyteidl.datacatalog.datacatalog_pb2_grpc import DataCatalogServicer, add_DataCatalogServicer_to_server

from aerodrome.datacatalog.config import CatalogConfig
from aerodrome.datacatalog.main import MIGRATIONS, SERVICE, DataCatalog
from aerodrome.plugins.api import PluginError
from aerodrome.plugins.catalog_key import CacheKey
from aerodrome.propeller.caching import HeldBy, Hit, Miss, Producer, Reserved, TaskCache
from aerodrome.stdlib.clock import ManualClock, SystemClock
from aerodrome.stdlib.errors import Internal, Unavailable
from aerodrome.stdlib.postgres.testing import ServerForTests, fresh_database, postgres_server
from aerodrome.stdlib.rpc.direct import DirectChannel
from aerodrome.stdlib.rpc.registry import Registry
from aerodrome.stdlib.storage.memory import MemStorage

__all__ = ["postgres_server"]

EXECUTION = identifier_pb2.WorkflowExecutionIdentifier(project="p", domain="development", name="e")
PRODUCER = Producer(EXECUTION, "n0", 2, "v7")


def typed(simple: Any) -> interface_pb2.Variable:
    return interface_pb2.Variable(type=types_pb2.LiteralType(simple=simple))


def task(**metadata: Any) -> tasks_pb2.TaskTemplate:
    template = tasks_pb2.TaskTemplate(metadata=tasks_pb2.TaskMetadata(discoverable=True, discovery_version="1"))
    for name, value in metadata.items():
        setattr(template.metadata, name, value)
    template.id.project, template.id.domain, template.id.name, template.id.version = "p", "development", "app.t", "v7"
    template.interface.inputs.variables["x"].CopyFrom(typed(types_pb2.INTEGER))
    template.interface.outputs.variables["o"].CopyFrom(typed(types_pb2.INTEGER))
    return template


def literals(**values: int | str) -> literals_pb2.LiteralMap:
    made = literals_pb2.LiteralMap()
    for name, value in values.items():
        if isinstance(value, int):
            made.literals[name].scalar.primitive.integer = value
        else:
            made.literals[name].scalar.blob.uri = value
    return made


@dataclass
class World:
    """A catalog, a store, and a data plane's view of them."""

    channel: DirectChannel
    storage: MemStorage
    clock: ManualClock
    cache: TaskCache
    service: DataCatalog

    async def key(self, x: int = 1, **metadata: Any) -> CacheKey:
        key = await self.cache.key(task(**metadata), literals(x=x))
        assert key is not None
        return key


@pytest.fixture
async def world(postgres_server: ServerForTests) -> AsyncIterator[World]:
    clock = ManualClock()
    async with (
        fresh_database(postgres_server, MIGRATIONS, service=SERVICE) as database,
        MemStorage("plane", clock=clock) as storage,
    ):
        service = DataCatalog(CatalogConfig(), database=database, storage=storage, clock=clock)
        registry = Registry()
        for add_to_server, servicer in service.services():
            registry.add(add_to_server, servicer)
        async with DirectChannel([registry]) as channel:
            yield World(channel, storage, clock, TaskCache(channel, storage, clock=clock), service)


async def test_a_result_comes_back_with_the_attempt_that_made_it(world: World) -> None:
    key = await world.key()
    assert isinstance(await world.cache.look_up(key), Miss)
    assert await world.cache.store(key, literals(o=3), PRODUCER) == catalog_pb2.CACHE_POPULATED
    found = await world.cache.look_up(await world.key())
    assert isinstance(found, Hit)
    assert found.outputs == literals(o=3)
    source = found.metadata.source_task_execution
    assert (source.task_id.name, source.task_id.version, source.retry_attempt) == ("app.t", "v7", 2)
    assert source.node_execution_id.execution_id == EXECUTION
    assert source.node_execution_id.node_id == "n0"
    assert found.metadata.dataset_id.version.startswith("1-")
    assert found.metadata.artifact_tag.name == key.tag
    for other in (await world.key(x=2), await world.key(discovery_version="2")):
        assert isinstance(await world.cache.look_up(other), Miss)


async def test_what_is_not_cached_has_no_key(world: World) -> None:
    assert await world.cache.key(task(discoverable=False), literals(x=1)) is None
    assert await world.cache.key(task(), literals(x=1), cacheable=False) is None
    silent = task()
    silent.interface.outputs.Clear()
    assert await world.cache.key(silent, literals(x=1)) is None
    own = await world.cache.key(task(discoverable=False), literals(x=1), cacheable=True, cache_version="9")
    assert own is not None
    assert own.dataset.version.startswith("9-")
    with pytest.raises(PluginError, match="cache version"):
        await world.cache.key(task(discovery_version=""), literals(x=1))


async def test_the_first_result_stays_unless_it_is_to_be_replaced(world: World) -> None:
    key = await world.key()
    first = await world.cache.put(key, literals(o=1), PRODUCER)
    second = await world.cache.put(key, literals(o=2), PRODUCER)
    assert first.metadata.artifact_tag.artifact_id
    assert (second.status, second.metadata.artifact_tag.artifact_id) == (catalog_pb2.CACHE_POPULATED, "")
    found = await world.cache.look_up(key)
    assert isinstance(found, Hit)
    assert found.outputs == literals(o=1)
    replaced = await world.cache.put(key, literals(o=3), PRODUCER, replace=True)
    assert replaced.metadata.artifact_tag.artifact_id == first.metadata.artifact_tag.artifact_id
    fresh = await world.key(x=5)
    await world.cache.put(fresh, literals(o=5), PRODUCER, replace=True)
    for wanted, value in ((key, 3), (fresh, 5)):
        found = await world.cache.look_up(wanted)
        assert isinstance(found, Hit)
        assert found.outputs == literals(o=value)


async def test_a_result_whose_file_is_gone_is_a_miss_and_is_replaced(world: World) -> None:
    template = task()
    template.interface.outputs.variables["o"].type.blob.SetInParent()
    key = await world.cache.key(template, literals(x=1))
    assert key is not None
    await world.storage.write("mem://plane/data/1", b"content")
    await world.cache.store(key, literals(o="mem://plane/data/1"), PRODUCER)
    assert isinstance(await world.cache.look_up(key), Hit)
    await world.storage.delete("mem://plane/data/1")
    missed = await world.cache.look_up(key)
    assert isinstance(missed, Miss)
    assert missed.replace
    assert "mem://plane/data/1" in missed.why
    await world.storage.write("mem://plane/data/2", b"content")
    await world.cache.store(key, literals(o="mem://plane/data/2"), PRODUCER, replace=missed.replace)
    assert isinstance(await world.cache.look_up(key), Hit)


async def test_a_result_of_which_a_literal_is_gone_is_a_miss_and_is_replaced(world: World) -> None:
    template = task()
    template.interface.outputs.variables["o"].CopyFrom(typed(types_pb2.STRING))
    key = await world.cache.key(template, literals(x=1))
    assert key is not None
    large = literals_pb2.LiteralMap()
    large.literals["o"].scalar.primitive.string_value = "x" * 10_000
    await world.cache.store(key, large, PRODUCER)
    (blob,) = [reference async for reference, _ in world.storage.list("mem://plane")]
    await world.storage.delete(blob)
    missed = await world.cache.look_up(key)
    assert isinstance(missed, Miss)
    assert missed.replace
    await world.cache.store(key, large, PRODUCER, replace=missed.replace)
    assert isinstance(await world.cache.look_up(key), Hit)


async def test_a_result_that_is_too_old_or_does_not_fit_is_a_miss(world: World) -> None:
    key = await world.key()
    await world.cache.store(key, literals(o=1), PRODUCER)
    picky = TaskCache(world.channel, world.storage, clock=world.clock, max_age=timedelta(hours=1))
    await world.clock.advance(timedelta(minutes=59))
    assert isinstance(await picky.look_up(key), Hit)
    await world.clock.advance(timedelta(minutes=2))
    old = await picky.look_up(key)
    assert isinstance(old, Miss)
    assert old.replace
    await picky.store(key, literals(o=2), PRODUCER, replace=old.replace)
    assert isinstance(await picky.look_up(key), Hit)
    for wrong in (literals(o="mem://plane/x"), literals(p=1)):
        await world.cache.store(key, wrong, PRODUCER, replace=True)
        assert isinstance(await world.cache.look_up(key), Miss)


async def wait(world: World, key: CacheKey, owner: str, told: asyncio.Queue[str]) -> Hit | Miss:
    """As whoever computes only what nobody else does."""
    return await world.cache.acquire(key, owner, waiting=lambda held: told.put_nowait(held.owner))


async def test_one_computes_and_the_others_wait_for_what_it_finds(world: World) -> None:
    key = await world.key()
    first = await world.cache.acquire(key, "first")
    assert isinstance(first, Miss)
    assert isinstance(await world.cache.reserve(key, "other"), HeldBy)
    told: asyncio.Queue[str] = asyncio.Queue()
    waiting = [asyncio.create_task(wait(world, key, f"w{each}", told)) for each in range(3)]
    async with asyncio.timeout(10):
        assert [await told.get() for _ in waiting] == ["first"] * 3
        await world.cache.store(key, literals(o=4), PRODUCER)
        await world.cache.release(key, "first")
        found = await asyncio.gather(*waiting)
    assert all(isinstance(each, Hit) and each.outputs == literals(o=4) for each in found)
    assert isinstance(await world.cache.reserve(key, "next"), Reserved)


async def test_when_the_one_fails_another_one_computes(world: World) -> None:
    key = await world.key()
    await world.cache.acquire(key, "first")
    told: asyncio.Queue[str] = asyncio.Queue()
    waiting = {asyncio.create_task(wait(world, key, f"w{each}", told)) for each in range(2)}
    async with asyncio.timeout(10):
        for _ in range(2):
            await told.get()
        await world.cache.release(key, "first")
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert [isinstance(each.result(), Miss) for each in done] == [True]
        await world.cache.store(key, literals(o=1), PRODUCER)
        (other,) = waiting
        assert isinstance(await other, Hit)


async def test_an_earlier_attempt_is_not_waited_for(world: World) -> None:
    key = await world.key()
    await world.cache.reserve(key, "e-n0-0")
    async with asyncio.timeout(10):
        found = await world.cache.acquire(key, "e-n0-1", mine={"e-n0-0"}.__contains__)
    assert isinstance(found, Miss)


async def test_a_reservation_is_held_while_the_attempt_runs_and_ends_with_its_process(
    postgres_server: ServerForTests,
) -> None:
    clock = SystemClock()
    async with (
        fresh_database(postgres_server, MIGRATIONS, service=SERVICE) as database,
        MemStorage("plane", clock=clock) as storage,
    ):
        service = DataCatalog(CatalogConfig(), database=database, storage=storage, clock=clock)
        registry = Registry()
        for add_to_server, servicer in service.services():
            registry.add(add_to_server, servicer)
        async with DirectChannel([registry]) as channel:
            quick = TaskCache(channel, storage, clock=clock, heartbeat=timedelta(seconds=0.1))
            other = TaskCache(channel, storage, clock=clock)
            key = await quick.key(task(), literals(x=1))
            assert key is not None
            await quick.acquire(key, "a")
            over = asyncio.Event()
            holding = asyncio.create_task(quick.hold(key, "a", over, live=lambda: True))
            await asyncio.sleep(0.6)
            assert isinstance(await other.reserve(key, "b"), HeldBy)
            holding.cancel()  # as if its process were killed: nothing is given back
            async with asyncio.timeout(10):
                assert isinstance(await other.acquire(key, "b"), Miss)
                over.set()
                await quick.hold(key, "a", over, live=lambda: True)
                await quick.hold(key, "a", asyncio.Event(), live=lambda: False)


class Broken(DataCatalogServicer):
    """A catalog that fails as told."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    async def GetArtifact(self, request: Any, context: Any) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        return datacatalog_pb2.GetArtifactResponse()

    async def CreateDataset(self, request: Any, context: Any) -> Any:
        raise Internal("the disk is full")


def behind(servicer: Broken) -> DirectChannel:
    registry = Registry()
    registry.add(add_DataCatalogServicer_to_server, servicer)
    return DirectChannel([registry])


async def test_a_catalog_that_fails_is_asked_again_and_is_never_a_miss() -> None:
    clock = SystemClock()
    async with MemStorage("plane", clock=clock) as storage:
        cache = TaskCache(behind(Broken(Unavailable("away"), Unavailable("away"))), storage, clock=clock)
        key = await cache.key(task(), literals(x=1))
        assert key is not None
        assert isinstance(await cache.look_up(key), Miss)  # an empty artifact fits no task
        for error in (Internal("broken"), Unavailable("away")):
            channel = behind(Broken(error, *[Unavailable("away")] * 50))
            hasty = TaskCache(channel, storage, clock=clock, patience=timedelta(seconds=0.1))
            with pytest.raises(type(error), match=error.message):
                await hasty.look_up(key)
        assert await cache.store(key, literals(o=1), PRODUCER) == catalog_pb2.CACHE_PUT_FAILURE
