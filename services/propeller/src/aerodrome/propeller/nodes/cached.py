"""How task nodes and the items of maps use the cache: looked up before, stored after, and computed by one at a time.

A node is looked up when its inputs are known, an item when it is started.  Where a task is cached serially, its start
waits for the reservation beside everything else, so that it can be aborted at any moment; the reservation is given back
when the attempt is over, however it ends.  Source: spec/data-plane.md, 4.1, 4.4 to 4.6.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from flyteidl.core import catalog_pb2, interface_pb2, literals_pb2, tasks_pb2
from flyteidl.event import event_pb2

from aerodrome.plugins.api import ErrorKind, Failure, Phase, PhaseInfo, PluginError
from aerodrome.plugins.catalog_key import CacheKey
from aerodrome.propeller.caching import HeldBy, Hit, Miss, Producer, TaskCache
from aerodrome.propeller.engine.phases import TaskPhase
from aerodrome.propeller.engine.state import NodeState
from aerodrome.propeller.layout import OUTPUTS
from aerodrome.propeller.nodes.handler import Observation, Run
from aerodrome.stdlib import faults
from aerodrome.stdlib.errors import AerodromeError
from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)

Begin = Callable[[Run, NodeState, int], Coroutine[Any, Any, None]]
"""Starts an attempt for good."""

_KEY = "cache key"
"""Key of a node's memo, as the following."""
_REPLACE = "cache replace"
_HOLDING = "cache reservation"
_SERVED = "cache served"
_ELEMENT = "element"
"""Of an item: gives its inputs."""
_R = catalog_pb2.CatalogReservation


@dataclass(frozen=True, slots=True)
class _Settings:
    """What a node wants of the cache: its own word where it has one, else its task's."""

    cacheable: bool
    serial: bool
    version: str | None
    overwrite: bool


@dataclass(eq=False, slots=True)
class _Holding:
    """A reservation that is waited for or held."""

    owner: str
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """The attempt needs it no more."""
    waiting: asyncio.Task[None] | None = None
    """While the attempt has not begun."""
    released: bool = False


class NodeCache:
    """The cache as handlers of tasks use it."""

    def __init__(self, cache: TaskCache) -> None:
        self._cache = cache

    def concerns(self, run: Run, node: NodeState) -> bool:
        """Whether results of the node are cached; asked for every node, so it costs nothing."""
        task, metadata = node.spec.task, node.spec.template.metadata
        assert task is not None
        return metadata.cacheable if metadata.WhichOneof("cacheable_value") else task.metadata.discoverable

    async def prepare(self, run: Run, node: NodeState, inputs: literals_pb2.LiteralMap) -> Observation:
        """What follows from the inputs of a node that is cached: its outputs, or that it has to run."""
        settings = _settings(run, node)
        try:
            key = node.memo[_KEY] = await self._key_of(node, settings, inputs)
            if key is None:
                disabled = {"task_node_metadata": _status(catalog_pb2.CACHE_DISABLED)}
                return lambda engine, now: engine.prepared(node, now, detail=disabled)
            if settings.overwrite:
                found: Hit | Miss = Miss(replace=True)
                status = catalog_pb2.CACHE_SKIPPED
            else:
                found = await self._cache.look_up(key)
                status = catalog_pb2.CACHE_MISS
        except PluginError as error:
            refused = error.failure
            return lambda engine, now: engine.prepare_failed(node, refused, now)
        except AerodromeError as error:
            failure = _unanswered(error)
            return lambda engine, now: engine.prepare_failed(node, failure, now)
        if isinstance(found, Hit):
            await _publish(run, node, 0, found)
            hit = {"task_node_metadata": _status(catalog_pb2.CACHE_HIT, found.metadata)}
            return lambda engine, now: engine.already_done(node, now, recovered=False, detail=hit)
        node.memo[_REPLACE] = found.replace
        missed = {"task_node_metadata": _status(status, catalog_pb2.CatalogMetadata(dataset_id=key.identifier()))}
        return lambda engine, now: engine.prepared(node, now, detail=missed)

    async def start(self, run: Run, node: NodeState, attempt: int, begin: Begin) -> None:
        """Start an attempt of what is cached, once it is known that it has to be."""
        settings = _settings(run, node)
        try:
            key = await self._key(run, node)
            if key is None:
                await begin(run, node, attempt)
                return
            if _ELEMENT in node.memo and not settings.overwrite and not settings.serial:
                found = await self._cache.look_up(key)
                if isinstance(found, Hit):
                    await self._serve(run, node, attempt, found)
                    return
                node.memo[_REPLACE] = found.replace
        except PluginError as error:
            refused = error.failure
            run.post(lambda engine, now: engine.failed(node, attempt, refused, now))
            return
        except AerodromeError as error:
            failure = _unanswered(error)
            run.post(lambda engine, now: engine.failed(node, attempt, failure, now))
            return
        if settings.overwrite or not settings.serial:
            await begin(run, node, attempt)
            return
        holding = node.memo[_HOLDING] = _Holding(run.layout.generated_name(node, attempt))
        run.spawn(self._start_alone(run, node, attempt, begin, key, holding))

    async def succeeded(self, run: Run, node: NodeState, attempt: int) -> event_pb2.TaskNodeMetadata | None:
        """Store the outputs of an attempt; what its last event says of the cache, None if it is not concerned.

        Nothing that fails here fails the node.
        """
        settings = _settings(run, node)
        if not settings.cacheable or node.memo.get(_SERVED) == attempt:
            return None
        try:
            key = await self._key(run, node)
            if key is None:
                return _status(catalog_pb2.CACHE_DISABLED)
            outputs = await run.literals.read(f"{run.layout.output_dir(node, attempt)}/{OUTPUTS}")
        except (AerodromeError, PluginError) as error:
            log.warning("a result was not cached", node=node.unique_id, reason=str(error))
            return _status(catalog_pb2.CACHE_PUT_FAILURE)
        assert node.spec.task is not None
        producer = Producer(run.id, node.unique_id, attempt, node.spec.task.id.version)
        replace = settings.overwrite or node.memo.get(_REPLACE, False)
        stored = await self._cache.put(key, outputs, producer, replace=replace)
        metadata = _status(stored.status, stored.metadata)
        if settings.serial and not settings.overwrite:
            released = await self._release(run, node, attempt, key)
            metadata.reservation_status = _R.RESERVATION_RELEASED if released else _R.RESERVATION_FAILURE
        return metadata

    async def ended(self, run: Run, node: NodeState, attempt: int) -> None:
        """Give back what an attempt holds, and keep one from beginning that waits.  Repeatable."""
        settings = _settings(run, node)
        if not (settings.cacheable and settings.serial) or settings.overwrite or node.memo.get(_SERVED) == attempt:
            return
        holding: _Holding | None = node.memo.get(_HOLDING)
        if holding is not None and holding.released:
            return
        if holding is not None:
            holding.over.set()
            if holding.waiting is not None and holding.waiting is not asyncio.current_task():
                holding.waiting.cancel()
                await asyncio.wait([holding.waiting])
        try:
            key = await self._key(run, node)
        except (AerodromeError, PluginError) as error:
            log.warning("a reservation is left to run out", node=node.unique_id, reason=str(error))
            return
        if key is not None:
            await self._release(run, node, attempt, key)

    # Inside

    async def _start_alone(
        self, run: Run, node: NodeState, attempt: int, begin: Begin, key: CacheKey, holding: _Holding
    ) -> None:
        """Wait for the reservation, start the attempt, and hold the reservation while it runs."""
        if holding.over.is_set():
            return
        holding.waiting = asyncio.current_task()
        try:
            if node.task_phase not in (TaskPhase.RUNNING, TaskPhase.INITIALIZING):
                found = await self._acquire(run, node, attempt, key, holding)
                if found is None:
                    return
                if isinstance(found, Hit):
                    holding.released = True
                    await self._serve(run, node, attempt, found)
                    return
                node.memo[_REPLACE] = found.replace
            faults.point("reservation.held")
            await run.permit()
        finally:
            holding.waiting = None
        if holding.over.is_set():
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(begin(run, node, attempt))
            group.create_task(self._cache.hold(key, holding.owner, holding.over, live=lambda: _runs(node, attempt)))
        if not holding.released:
            await self._release(run, node, attempt, key)

    async def _acquire(
        self, run: Run, node: NodeState, attempt: int, key: CacheKey, holding: _Holding
    ) -> Hit | Miss | None:
        """As `TaskCache.acquire`; None if it failed, which is posted."""
        earlier = {run.layout.generated_name(node, number) for number in range(attempt)}

        def waits(held: HeldBy) -> None:
            info = PhaseInfo(
                Phase.WAITING_FOR_RESOURCES,
                reason=f"waits for {held.owner}, which computes the same result: the task is cached serially",
                occurred_at=datetime.now(UTC),
            )
            phase = TaskPhase.WAITING_FOR_RESOURCES
            run.post(lambda engine, now: engine.task_phase(node, attempt, phase, 0, now, info))

        try:
            return await self._cache.acquire(key, holding.owner, mine=earlier.__contains__, waiting=waits)
        except AerodromeError as error:
            failure = _unanswered(error)
            run.post(lambda engine, now: engine.failed(node, attempt, failure, now))
            return None

    async def _serve(self, run: Run, node: NodeState, attempt: int, found: Hit) -> None:
        """The attempt is over before it has begun."""
        node.memo[_SERVED] = attempt
        try:
            await _publish(run, node, attempt, found)
        except AerodromeError as error:
            failure = Failure("OutputsNotWritten", error.message, ErrorKind.SYSTEM, retryable=True)
            run.post(lambda engine, now: engine.failed(node, attempt, failure, now))
            return
        hit = {"task_node_metadata": _status(catalog_pb2.CACHE_HIT, found.metadata)}
        run.post(lambda engine, now: engine.succeeded(node, attempt, now, None, hit))

    async def _release(self, run: Run, node: NodeState, attempt: int, key: CacheKey) -> bool:
        holding: _Holding | None = node.memo.get(_HOLDING)
        if holding is not None:
            holding.over.set()
            holding.released = True
        return await self._cache.release(key, run.layout.generated_name(node, attempt))

    async def _key(self, run: Run, node: NodeState) -> CacheKey | None:
        """The key of a node or item; after a restart from its inputs as they were stored."""
        if _KEY not in node.memo:
            element = node.memo.get(_ELEMENT)
            inputs = element() if element is not None else await run.literals.read(run.layout.inputs(node))
            node.memo[_KEY] = await self._key_of(node, _settings(run, node), inputs)
        key: CacheKey | None = node.memo[_KEY]
        return key

    async def _key_of(self, node: NodeState, settings: _Settings, inputs: literals_pb2.LiteralMap) -> CacheKey | None:
        task = node.spec.task
        assert task is not None
        return await self._cache.key(
            task,
            inputs,
            interface=_item_interface(node, task),
            cacheable=settings.cacheable,
            cache_version=settings.version,
        )


def _settings(run: Run, node: NodeState) -> _Settings:
    task, metadata = node.spec.task, node.spec.template.metadata
    assert task is not None
    known = task.metadata
    return _Settings(
        cacheable=metadata.cacheable if metadata.WhichOneof("cacheable_value") else known.discoverable,
        serial=(
            metadata.cache_serializable if metadata.WhichOneof("cache_serializable_value") else known.cache_serializable
        ),
        version=metadata.cache_version if metadata.WhichOneof("cache_version_value") else None,
        overwrite=run.spec.overwrite_cache,
    )


def _item_interface(node: NodeState, task: tasks_pb2.TaskTemplate) -> interface_pb2.TypedInterface | None:
    """Items are keyed by the inputs of the map as it was registered, and by the outputs of one of them."""
    owner = node.scope.owner
    if _ELEMENT not in node.memo or owner is None or owner.spec.item is None or owner.spec.item.task is None:
        return None
    return interface_pb2.TypedInterface(inputs=owner.spec.item.task.interface.inputs, outputs=task.interface.outputs)


def _runs(node: NodeState, attempt: int) -> bool:
    """Whether an attempt may still be under way; an item says so by what it holds alone."""
    return _ELEMENT in node.memo or (node.live and node.attempts == attempt)


async def _publish(run: Run, node: NodeState, attempt: int, found: Hit) -> None:
    """Make outputs the attempt's own.  Repeatable: a restart may find them there, frozen, and nobody has read them."""
    prefix = run.layout.output_dir(node, attempt)
    reference = f"{prefix}/{OUTPUTS}"
    storage = run.literals.storage
    if await storage.head(reference) is not None:
        await storage.delete(reference)
    await run.literals.write(reference, found.outputs)
    await storage.freeze(prefix)


def _status(
    status: catalog_pb2.CatalogCacheStatus, key: catalog_pb2.CatalogMetadata | None = None, **more: Any
) -> event_pb2.TaskNodeMetadata:
    return event_pb2.TaskNodeMetadata(cache_status=status, catalog_key=key, **more)


def _unanswered(error: AerodromeError) -> Failure:
    return Failure(
        "CacheLookupFailure",
        f"the data catalog could not say whether the result is cached: {error.message}",
        ErrorKind.SYSTEM,
        retryable=True,
    )
