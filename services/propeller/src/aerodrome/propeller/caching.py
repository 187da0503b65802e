"""The cache of the data plane: results of tasks in the data catalog, and who computes those that are not there yet.

It knows tasks, inputs and outputs, and nothing of nodes: nodes and the items of maps use it alike.  A result of which
anything is gone that it consists of or refers to is a miss, and is replaced by the next result.  A catalog that does
not answer is never a miss: the caller gets its error.  Source: spec/data-plane.md, section 4;
spec/datacatalog-scheduler-notifier.md, A.7.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import grpc
from flyteidl.core import catalog_pb2, identifier_pb2, interface_pb2, literals_pb2, tasks_pb2
from flyteidl.datacatalog import datacatalog_pb2
from flyteidl.datacatalog.datacatalog_pb2_grpc import DataCatalogStub

from aerodrome.compiler.types import InvalidLiteralType, castable, literal_type
from aerodrome.idl.catalog.v1.catalog_pb2 import BrokenEntry
from aerodrome.plugins.catalog_key import CacheKey, cache_key
from aerodrome.plugins.references import missing_references
from aerodrome.stdlib import faults
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import (
    AerodromeError,
    AlreadyExists,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    NotFound,
    Unavailable,
)
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.rpc.status import aerodrome_error
from aerodrome.stdlib.storage import Storage

log = get_logger(__name__)

T = TypeVar("T")

TASK_VERSION = "task-version"
SOURCE_PROJECT = "exec-project"
SOURCE_DOMAIN = "exec-domain"
SOURCE_EXECUTION = "execution-name"
SOURCE_NODE = "exec-node"
SOURCE_ATTEMPT = "exec-attempt"
STORED_AT = "stored-at"
"""When the outputs were written, in seconds since 1970: the catalog keeps the time of an entry's creation only."""
INPUT_HASH = "input-hash/"
"""What metadata keys begin with that hold the hash of one input, by its name."""
MAX_INPUT_HASHES = 200
"""Inputs of which hashes are kept in an entry."""

_CALL_SECONDS = 20.0
_LARGE_INPUT_BYTES = 64 * 2**10
"""Inputs of this size are hashed in a thread."""
_POLL_SECONDS = 2.0
"""Longest between two looks at what another process computes; within one process the waiting are told."""
_STORE_PATIENCE = timedelta(seconds=5)
"""How long a catalog that does not answer is asked to keep or release something: a task that is done waits for it."""
_PASSING = (Unavailable, DeadlineExceeded, Cancelled, Conflict)


@dataclass(frozen=True, slots=True)
class Producer:
    """Which attempt made a result."""

    execution: identifier_pb2.WorkflowExecutionIdentifier
    node_id: str
    attempt: int
    task_version: str


@dataclass(frozen=True, slots=True)
class Hit:
    """The outputs of an earlier run, and where they come from."""

    outputs: literals_pb2.LiteralMap
    metadata: catalog_pb2.CatalogMetadata


@dataclass(frozen=True, slots=True)
class Miss:
    """There is no result to use."""

    replace: bool = False
    """There is an entry that cannot be used: the next result takes its place."""
    why: str = "there is no entry"


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a result."""

    status: catalog_pb2.CatalogCacheStatus
    metadata: catalog_pb2.CatalogMetadata


@dataclass(frozen=True, slots=True)
class Reserved:
    """The caller is the one to compute the result; it extends its reservation at least every `heartbeat`."""

    heartbeat: timedelta


@dataclass(frozen=True, slots=True)
class HeldBy:
    """Somebody else computes the result."""

    owner: str
    until: datetime


class TaskCache:
    """The data catalog behind `channel`, for results whose blobs are in `storage`.

    `max_age` is how old a result may be (zero: any age), `heartbeat` how often a reservation is extended at most, and
    `patience` how long a catalog that does not answer is asked again.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        storage: Storage,
        *,
        clock: Clock,
        max_age: timedelta = timedelta(0),
        heartbeat: timedelta = timedelta(seconds=10),
        patience: timedelta = timedelta(seconds=30),
    ) -> None:
        self._catalog: Any = DataCatalogStub(channel)
        self._storage = storage
        self._clock = clock
        self._max_age = max_age
        self._heartbeat = heartbeat
        self._patience = patience
        self._datasets: dict[tuple[str, ...], None] = {}
        self._waiting: dict[tuple[str, ...], set[asyncio.Event]] = {}
        self._tags_with_artifacts = False
        """The catalog is known to take an artifact together with its tags; the reference's does not."""

    # Keys

    async def key(
        self,
        task: tasks_pb2.TaskTemplate,
        inputs: literals_pb2.LiteralMap,
        *,
        interface: interface_pb2.TypedInterface | None = None,
        cacheable: bool | None = None,
        cache_version: str | None = None,
    ) -> CacheKey | None:
        """The key of `task` run on `inputs`; None if its results are not cached: it does not say so, or has none.

        `cacheable` and `cache_version` replace what the task says, `interface` its interface (`cache_key`).  Raises
        PluginError for a task that is cached and has no cache version, and for inputs that cannot be hashed.
        """
        if not (task.metadata.discoverable if cacheable is None else cacheable):
            return None
        if not (task.interface if interface is None else interface).outputs.variables:
            return None
        if inputs.ByteSize() < _LARGE_INPUT_BYTES:
            return cache_key(task, inputs, cache_version=cache_version, interface=interface)
        return await asyncio.to_thread(cache_key, task, inputs, cache_version=cache_version, interface=interface)

    # Results

    async def look_up(self, key: CacheKey) -> Hit | Miss:
        """The result under `key`, if there is one of which everything exists.  Raises the catalog's errors."""
        request = datacatalog_pb2.GetArtifactRequest(dataset=key.dataset, tag_name=key.tag)
        try:
            artifact = (await self._call(self._catalog.GetArtifact, request)).artifact
        except NotFound as error:
            broken = any(isinstance(detail, BrokenEntry) for detail in error.details)
            if broken:
                log.warning("a cached result is gone, so it counts as a miss", tag=key.tag, reason=error.message)
            return Miss(replace=broken, why=error.message)
        known = artifact.metadata.key_map
        if self._max_age and self._age(artifact) > self._max_age:
            return Miss(replace=True, why=f"the entry is older than {self._max_age}")
        outputs = literals_pb2.LiteralMap(literals={item.name: item.value for item in artifact.data})
        wrong = _mismatch(outputs, key.outputs)
        if wrong is not None:
            log.warning("a cached result does not fit its task", dataset=key.dataset.name, tag=key.tag, reason=wrong)
            return Miss(replace=True, why=wrong)
        missing = await missing_references(self._storage, outputs)
        if missing:
            log.warning(
                "a cached result is gone, so it counts as a miss",
                dataset=key.dataset.name,
                tag=key.tag,
                artifact=artifact.id,
                missing=missing[0],
                count=len(missing),
            )
            return Miss(replace=True, why=f"nothing is stored any more at {missing[0]}")
        version = known.get(TASK_VERSION, "")
        if not version:
            version = await self._task_version(key)
        return Hit(outputs, _metadata(key, artifact.id, artifact.metadata, version))

    async def store(
        self, key: CacheKey, outputs: literals_pb2.LiteralMap, producer: Producer, *, replace: bool = False
    ) -> catalog_pb2.CatalogCacheStatus:
        """Keep a result; CACHE_POPULATED, or CACHE_PUT_FAILURE, which is logged and nobody's failure."""
        return (await self.put(key, outputs, producer, replace=replace)).status

    async def put(
        self, key: CacheKey, outputs: literals_pb2.LiteralMap, producer: Producer, *, replace: bool = False
    ) -> Stored:
        """`store`, and the entry as events name it.  With `replace` an entry that is there takes these outputs."""
        faults.point("cache.putting")
        metadata = _put_metadata(key, producer, self._clock.now())
        data = [datacatalog_pb2.ArtifactData(name=name, value=value) for name, value in outputs.literals.items()]
        try:
            artifact_id = await self._update(key, metadata, data) if replace else ""
            if not artifact_id:
                artifact_id = await self._create(key, metadata, data, producer.task_version)
        except AerodromeError as error:
            log.warning("a result was not cached", dataset=key.dataset.name, tag=key.tag, reason=error.message)
            failed = catalog_pb2.CatalogMetadata(dataset_id=key.identifier())
            return Stored(catalog_pb2.CACHE_PUT_FAILURE, failed)
        finally:
            self._tell(key)
        faults.point("cache.put")
        stored = catalog_pb2.CatalogMetadata(
            dataset_id=key.identifier(),
            artifact_tag=catalog_pb2.CatalogArtifactTag(artifact_id=artifact_id, name=key.tag),
        )  # without an id if another run was quicker
        return Stored(catalog_pb2.CACHE_POPULATED, stored)

    # Reservations

    async def reserve(self, key: CacheKey, owner: str) -> Reserved | HeldBy:
        """Take the right to compute the result, or extend it; or learn who has it.  Raises the catalog's errors."""
        request = datacatalog_pb2.GetOrExtendReservationRequest(reservation_id=_reservation(key), owner_id=owner)
        request.heartbeat_interval.FromTimedelta(self._heartbeat)
        held = (await self._call(self._catalog.GetOrExtendReservation, request)).reservation
        if held.owner_id != owner:
            return HeldBy(held.owner_id, held.expires_at.ToDatetime(UTC))
        granted = held.heartbeat_interval.ToTimedelta() if held.HasField("heartbeat_interval") else self._heartbeat
        return Reserved(min(granted, self._heartbeat) if granted else self._heartbeat)

    async def extend(self, key: CacheKey, owner: str) -> bool:
        """Keep a reservation; False if it is somebody else's by now, which stops nobody who has begun."""
        return isinstance(await self.reserve(key, owner), Reserved)

    async def release(self, key: CacheKey, owner: str) -> bool:
        """Give a reservation back; whether the catalog was told: if not, it ends by itself.  Repeatable."""
        request = datacatalog_pb2.ReleaseReservationRequest(reservation_id=_reservation(key), owner_id=owner)
        try:
            await self._keep(self._catalog.ReleaseReservation, request)
        except AerodromeError as error:
            log.warning("a reservation is left to run out", tag=key.tag, owner=owner, reason=error.message)
            return False
        finally:
            self._tell(key)
        return True

    async def acquire(
        self,
        key: CacheKey,
        owner: str,
        *,
        mine: Callable[[str], bool] = lambda _: False,
        waiting: Callable[[HeldBy], None] = lambda _: None,
    ) -> Hit | Miss:
        """Wait until the result is there, or until the caller is the one to compute it and holds the reservation.

        `mine` tells owners that are earlier attempts of the caller, which no one waits for; `waiting` is told each new
        holder.  Whoever cancels this releases.
        """
        told = ""
        while True:
            wake = self._listen(key)
            try:
                held = await self.reserve(key, owner)
                if isinstance(held, Reserved) or mine(held.owner):
                    # Somebody may have finished between the caller's look and its reservation.
                    found = await self.look_up(key)
                    if isinstance(found, Hit):
                        await self.release(key, owner)
                    return found
                if held.owner != told:
                    told = held.owner
                    waiting(held)
                await self._wait(wake, held)
                found = await self.look_up(key)
                if isinstance(found, Hit):
                    return found
            finally:
                self._forget(key, wake)

    async def hold(self, key: CacheKey, owner: str, over: asyncio.Event, *, live: Callable[[], bool]) -> None:
        """Extend a reservation until `over` is set or `live` is false (which is looked at every second)."""
        pause = self._heartbeat.total_seconds()
        next_at = self._clock.boottime() + pause / 2
        while live():
            try:
                async with asyncio.timeout(min(1.0, pause)):
                    await over.wait()
                return
            except TimeoutError:
                pass
            if self._clock.boottime() < next_at:
                continue
            try:
                held = await self.reserve(key, owner)
                if isinstance(held, Reserved):
                    pause = held.heartbeat.total_seconds()
                else:
                    log.warning("a reservation was lost; the task goes on", tag=key.tag, owner=owner, to=held.owner)
            except AerodromeError as error:
                log.warning("a reservation could not be extended", tag=key.tag, owner=owner, reason=error.message)
            next_at = self._clock.boottime() + pause

    # Inside

    def _age(self, artifact: datacatalog_pb2.Artifact) -> timedelta:
        stored = artifact.metadata.key_map.get(STORED_AT, "")
        try:
            at = datetime.fromtimestamp(float(stored), UTC) if stored else artifact.created_at.ToDatetime(UTC)
        except (ValueError, OverflowError, OSError):
            at = artifact.created_at.ToDatetime(UTC)
        return self._clock.now() - at

    async def _task_version(self, key: CacheKey) -> str:
        """What the reference keeps with the dataset."""
        try:
            answer = await self._call(self._catalog.GetDataset, datacatalog_pb2.GetDatasetRequest(dataset=key.dataset))
        except NotFound:
            return ""
        return str(answer.dataset.metadata.key_map.get(TASK_VERSION, ""))

    async def _update(
        self, key: CacheKey, metadata: datacatalog_pb2.Metadata, data: list[datacatalog_pb2.ArtifactData]
    ) -> str:
        """The id of the entry that took the outputs; empty if there is none."""
        request = datacatalog_pb2.UpdateArtifactRequest(
            dataset=key.dataset, tag_name=key.tag, data=data, metadata=metadata
        )
        try:
            return str((await self._keep(self._catalog.UpdateArtifact, request)).artifact_id)
        except NotFound:
            return ""

    async def _create(
        self,
        key: CacheKey,
        metadata: datacatalog_pb2.Metadata,
        data: list[datacatalog_pb2.ArtifactData],
        task_version: str,
    ) -> str:
        artifact_id = str(uuid.uuid4())
        tag = datacatalog_pb2.Tag(name=key.tag, artifact_id=artifact_id, dataset=key.dataset)
        artifact = datacatalog_pb2.Artifact(
            id=artifact_id, dataset=key.dataset, data=data, metadata=metadata, tags=[tag]
        )
        request = datacatalog_pb2.CreateArtifactRequest(artifact=artifact)
        dataset = _identity(key)[:-1]
        if dataset not in self._datasets:
            await self._make_dataset(key, task_version)
        try:
            try:
                await self._keep(self._catalog.CreateArtifact, request)
            except NotFound:  # the dataset was there once
                await self._make_dataset(key, task_version)
                await self._keep(self._catalog.CreateArtifact, request)
        except AlreadyExists:
            log.debug("a result is cached already", tag=key.tag)
            return ""
        if self._tags_with_artifacts:
            return artifact_id
        try:
            await self._keep(self._catalog.AddTag, datacatalog_pb2.AddTagRequest(tag=tag))
        except AlreadyExists:
            tagged = datacatalog_pb2.GetArtifactRequest(dataset=key.dataset, tag_name=key.tag)
            winner = str((await self._keep(self._catalog.GetArtifact, tagged)).artifact.id)
            self._tags_with_artifacts = winner == artifact_id
            return winner
        return artifact_id

    async def _make_dataset(self, key: CacheKey, task_version: str) -> None:
        metadata = datacatalog_pb2.Metadata(key_map={TASK_VERSION: task_version})
        dataset = datacatalog_pb2.Dataset(id=key.dataset, metadata=metadata)
        try:
            await self._keep(self._catalog.CreateDataset, datacatalog_pb2.CreateDatasetRequest(dataset=dataset))
        except AlreadyExists:
            pass
        self._datasets[_identity(key)[:-1]] = None
        while len(self._datasets) > 10_000:
            self._datasets.pop(next(iter(self._datasets)))

    async def _keep(self, method: Callable[..., Awaitable[T]], request: object) -> T:
        """`_call`, for what no task depends on."""
        return await self._call(method, request, min(self._patience, _STORE_PATIENCE))

    async def _call(self, method: Callable[..., Awaitable[T]], request: object, patience: timedelta | None = None) -> T:
        """Ask the catalog, again and again while it does not answer.  Raises its error as ours."""
        deadline = self._clock.boottime() + (self._patience if patience is None else patience).total_seconds()
        delay = 0.05
        while True:
            try:
                return await method(request, timeout=_CALL_SECONDS)
            except grpc.RpcError as error:
                ours = aerodrome_error(error)
                if not isinstance(ours, _PASSING) or self._clock.boottime() + delay > deadline:
                    raise ours from error
            await self._clock.sleep(delay)
            delay = min(delay * 2, 2.0)

    def _listen(self, key: CacheKey) -> asyncio.Event:
        wake = asyncio.Event()
        self._waiting.setdefault(_identity(key), set()).add(wake)
        return wake

    def _forget(self, key: CacheKey, wake: asyncio.Event) -> None:
        identity = _identity(key)
        listening = self._waiting.get(identity)
        if listening is not None:
            listening.discard(wake)
            if not listening:
                del self._waiting[identity]

    def _tell(self, key: CacheKey) -> None:
        for wake in self._waiting.get(_identity(key), ()):
            wake.set()

    async def _wait(self, wake: asyncio.Event, held: HeldBy) -> None:
        """Until the holder is done, as far as this process knows; else until a look is due."""
        left = (held.until - self._clock.now()).total_seconds() + 0.05
        try:
            async with asyncio.timeout(min(max(left, 0.1), _POLL_SECONDS)):
                await wake.wait()
        except TimeoutError:
            pass


def _mismatch(outputs: literals_pb2.LiteralMap, declared: interface_pb2.VariableMap) -> str | None:
    """In what a result does not fit the interface of its task."""
    if outputs.literals.keys() != declared.variables.keys():
        return f"it has the outputs {sorted(outputs.literals)}, and the task has {sorted(declared.variables)}"
    for name, variable in declared.variables.items():
        literal = outputs.literals[name]
        if literal.WhichOneof("value") == "offloaded_metadata":
            continue
        try:
            fits = castable(literal_type(literal), variable.type)
        except InvalidLiteralType:
            fits = True  # of a kind whose type only its reader knows
        if not fits:
            return f"its output {name} is not of the task's type"
    return None


def _reservation(key: CacheKey) -> datacatalog_pb2.ReservationID:
    return datacatalog_pb2.ReservationID(dataset_id=key.dataset, tag_name=key.tag)


def _identity(key: CacheKey) -> tuple[str, ...]:
    dataset = key.dataset
    return (dataset.project, dataset.domain, dataset.name, dataset.version, key.tag)


def _put_metadata(key: CacheKey, producer: Producer, now: datetime) -> datacatalog_pb2.Metadata:
    known = {
        TASK_VERSION: producer.task_version,
        SOURCE_PROJECT: producer.execution.project,
        SOURCE_DOMAIN: producer.execution.domain,
        SOURCE_EXECUTION: producer.execution.name,
        SOURCE_NODE: producer.node_id,
        SOURCE_ATTEMPT: str(producer.attempt),
        STORED_AT: f"{now.timestamp():.6f}",
    }
    for name in sorted(key.input_hashes)[:MAX_INPUT_HASHES]:
        known[f"{INPUT_HASH}{name}"] = key.input_hashes[name]
    return datacatalog_pb2.Metadata(key_map=known)


def _metadata(
    key: CacheKey, artifact_id: str, metadata: datacatalog_pb2.Metadata, task_version: str
) -> catalog_pb2.CatalogMetadata:
    """A hit as events carry it, with the attempt that made it as far as the entry tells."""
    hit = catalog_pb2.CatalogMetadata(
        dataset_id=key.identifier(),
        artifact_tag=catalog_pb2.CatalogArtifactTag(artifact_id=artifact_id, name=key.tag),
    )
    known = metadata.key_map
    if known.get(SOURCE_EXECUTION):
        attempt = known.get(SOURCE_ATTEMPT, "")
        source = hit.source_task_execution
        source.task_id.CopyFrom(
            identifier_pb2.Identifier(
                resource_type=identifier_pb2.TASK,
                project=key.dataset.project,
                domain=key.dataset.domain,
                name=key.dataset.name.removeprefix("flyte_task-"),
                version=task_version,
            )
        )
        source.node_execution_id.node_id = known.get(SOURCE_NODE, "")
        execution = source.node_execution_id.execution_id
        execution.project = known.get(SOURCE_PROJECT, "")
        execution.domain = known.get(SOURCE_DOMAIN, "")
        execution.name = known[SOURCE_EXECUTION]
        source.retry_attempt = int(attempt) if attempt.isascii() and attempt.isdigit() and len(attempt) < 9 else 0
    return hit
