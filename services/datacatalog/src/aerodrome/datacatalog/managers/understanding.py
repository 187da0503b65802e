"""Why a task was or was not answered from the cache; removing entries; and finding those that are broken."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from flyteidl.core.interface_pb2 import TypedInterface
from flyteidl.core.literals_pb2 import Literal, LiteralMap
from flyteidl.core.tasks_pb2 import TaskTemplate
from flyteidl.datacatalog import datacatalog_pb2 as catalog
from google.protobuf.message import DecodeError

from aerodrome.datacatalog.domain import validation
from aerodrome.datacatalog.domain.explaining import DATASET_PREFIX, Known, differences, sentence, version_parts
from aerodrome.datacatalog.managers.blobs import Blobs
from aerodrome.datacatalog.managers.counting import Counting
from aerodrome.datacatalog.repositories.artifacts import ArtifactRepository, Selected, Source
from aerodrome.datacatalog.transformers.catalog import INPUT_HASH, SOURCE_NODE, kept
from aerodrome.idl.catalog.v1 import catalog_pb2 as messages
from aerodrome.plugins.api import PluginError
from aerodrome.plugins.catalog_key import CacheKey, cache_key
from aerodrome.plugins.references import missing_references
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import FailedPrecondition, InvalidArgument, NotFound
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database, Record
from aerodrome.stdlib.storage import Storage

log = get_logger(__name__)

_COMPARED = 300
"""Entries of a task that are compared with a key, the newest first."""
_NEAREST = 3
_MOST_NEAREST = 50
_BATCH = 200
_SHOWN = 100
_SHOWN_MISSING = 20
_CHECKED = 100
_MOST_CHECKED = 1_000
_TOKEN = re.compile(r"e\.(?P<id>\d{1,18})", re.ASCII)
_LARGE_INPUT_BYTES = 64 * 2**10


@dataclass(frozen=True, slots=True)
class Subject:
    """A task and what it is run on."""

    task: TaskTemplate
    inputs: LiteralMap
    cacheable: bool
    cache_version: str | None = None
    interface: TypedInterface | None = None


class Nodes(Protocol):
    """Knows what nodes of executions are."""

    async def subject(self, node: messages.NodeOfExecution) -> Subject:
        """The task that a node runs, and its inputs.  Raises NotFound, InvalidArgument for what is no task."""
        ...


class UnderstandingManager:
    """Explain, Evict, EvictByExecution, Verify."""

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        storage: Storage,
        clock: Clock,
        counting: Counting,
        nodes: Nodes | None,
    ) -> None:
        self._db = database
        self._blobs = blobs
        self._storage = storage
        self._clock = clock
        self._counting = counting
        self._nodes = nodes

    # Explain

    async def explain(self, request: messages.ExplainRequest) -> messages.ExplainResponse:
        """What the key is made of, what is under it, and what comes nearest."""
        subject = await self._subject(request)
        task = subject.task
        if not subject.cacheable:
            return messages.ExplainResponse(
                outcome=messages.OUTCOME_NOT_CACHEABLE,
                reason=f"task {task.id.name} is not cached: set cache and cache_version on it",
            )
        interface = task.interface if subject.interface is None else subject.interface
        if not interface.outputs.variables:
            return messages.ExplainResponse(
                outcome=messages.OUTCOME_NOT_CACHEABLE,
                reason=f"task {task.id.name} has no outputs, so there is nothing to keep",
            )
        try:
            if subject.inputs.ByteSize() < _LARGE_INPUT_BYTES:
                key = _key(subject)
            else:
                key = await asyncio.to_thread(_key, subject)
        except PluginError as error:
            raise InvalidArgument(str(error)) from error
        asker = request.node if request.WhichOneof("subject") == "node" else None
        return await self._explained(key, task, min(request.limit or _NEAREST, _MOST_NEAREST), asker)

    async def _subject(self, request: messages.ExplainRequest) -> Subject:
        match request.WhichOneof("subject"):
            case "node":
                node = request.node
                problems = [
                    *validation.text("project", node.project),
                    *validation.text("domain", node.domain),
                    *validation.text("execution", node.execution),
                    *validation.text("node id", node.node_id),
                ]
                validation.refuse(problems)
                if self._nodes is None:
                    raise FailedPrecondition(
                        "the data catalog does not know where the control plane is, so it cannot look at nodes: set "
                        "admin.endpoint, or ask with the task and its inputs"
                    )
                return await self._nodes.subject(node)
            case "task":
                try:
                    task = TaskTemplate.FromString(request.task.template)
                    inputs = LiteralMap.FromString(request.task.inputs)
                except DecodeError as error:
                    raise InvalidArgument(
                        "invalid value for task: the template has to be a serialized flyteidl.core.TaskTemplate, the "
                        "inputs a serialized flyteidl.core.LiteralMap"
                    ) from error
                problems = [
                    *validation.text("project", task.id.project),
                    *validation.text("domain", task.id.domain),
                    *validation.text("task name", task.id.name),
                ]
                validation.refuse(problems)
                return Subject(task, inputs, task.metadata.discoverable, request.task.cache_version or None)
            case _:
                raise InvalidArgument(validation.missing("one of node / task"))

    async def _explained(
        self, key: CacheKey, task: TaskTemplate, limit: int, asker: messages.NodeOfExecution | None
    ) -> messages.ExplainResponse:
        validation.refuse(validation.dataset_id(True, key.dataset))
        parts = _parts(key, task)
        async with self._db.connection() as conn:
            repository = ArtifactRepository(conn)
            row = await repository.by_tag(key.dataset, key.tag)
            of_task = Selected(dataset=key.dataset.name)
            rows = await repository.newest(of_task, limit=_COMPARED)
            with_tag = Selected(dataset=key.dataset.name, tag=key.tag)
            rows += await repository.newest(with_tag, limit=_MOST_NEAREST)
        response = messages.ExplainResponse(outcome=messages.OUTCOME_MISS, key=parts)
        if row is not None:
            response.entry.CopyFrom(_entry(row))
            missing = await self._missing(row)
            if missing:
                response.outcome = messages.OUTCOME_BROKEN
                response.reason = f"there is an entry, but nothing is stored any more at {missing[0]}: it is a miss"
            else:
                response.outcome = messages.OUTCOME_HIT
                response.reason = f"there is an entry, {_maker(response.entry)}"
        for near in _nearest(parts, rows, None if row is None else row["id"])[:limit]:
            response.nearest.append(near)
        others = "there is no other entry of this task"
        if response.nearest:
            nearest = response.nearest[0]
            said = "; ".join(sentence(each) for each in nearest.differences[:5])
            others = f"the nearest other entry, {_maker(nearest.entry)}, differs: {said}"
        if row is None:
            response.reason = f"there is no entry with this key; {others}"
        elif asker is not None and response.outcome == messages.OUTCOME_HIT and _is_maker(asker, response.entry):
            response.reason = f"the node found no entry and made this one, so that the next run is a hit; {others}"
        return response

    # Evict

    async def evict(self, request: messages.EvictRequest) -> messages.EvictResponse:
        """Remove the entries that are selected, or say which they are."""
        selected = self._selected(request.selection)
        if not selected:
            raise InvalidArgument("missing selection: say at least one of task, execution, age, project, domain")
        return await self._evict(selected, dry_run=request.dry_run)

    async def evict_by_execution(self, request: messages.EvictByExecutionRequest) -> messages.EvictByExecutionResponse:
        """Remove the entries that one execution made."""
        problems = [
            *validation.text("project", request.project),
            *validation.text("domain", request.domain),
            *validation.text("name", request.name),
        ]
        validation.refuse(problems)
        selected = Selected(source=Source(request.project, request.domain, request.name))
        return messages.EvictByExecutionResponse(count=(await self._evict(selected, dry_run=False)).count)

    async def _evict(self, selected: Selected, *, dry_run: bool) -> messages.EvictResponse:
        response = messages.EvictResponse()
        after = 0
        while True:
            async with self._db.transaction() as conn:
                repository = ArtifactRepository(conn)
                rows = await repository.selected(selected, after=after, limit=_BATCH)
                if rows and not dry_run:
                    ids = [row["id"] for row in rows]
                    locations = await repository.locations(ids)
                    await repository.delete(ids)
                    await self._blobs.drop(conn, locations)
            response.count += len(rows)
            for row in rows[: _SHOWN - len(response.entries)]:
                response.entries.append(_entry(row))
            if len(rows) < _BATCH:
                break
            after = rows[-1]["id"]
        if response.count and not dry_run:
            self._counting.add("evict", "evicted", response.count)
            log.info("cache entries evicted", count=response.count, selection=repr(selected))
            await self._blobs.try_clean()
        return response

    # Verify

    async def verify(self, request: messages.VerifyRequest) -> messages.VerifyResponse:
        """Look whether what entries consist of and refer to exists."""
        selected = self._selected(request.selection)
        limit = min(request.limit or _CHECKED, _MOST_CHECKED)
        after = 0
        if request.token:
            match = _TOKEN.fullmatch(request.token)
            if match is None:
                raise InvalidArgument("invalid value for token: it is not one that this service gave")
            after = int(match["id"])
        async with self._db.connection() as conn:
            rows = await ArtifactRepository(conn).selected(selected, after=after, limit=limit)
        response = messages.VerifyResponse(checked=len(rows))
        broken: list[int] = []
        for row in rows:
            missing = await self._missing(row)
            if missing:
                broken.append(row["id"])
                response.broken.add(entry=_entry(row), missing=missing[:_SHOWN_MISSING], evicted=request.evict)
        if broken and request.evict:
            async with self._db.transaction() as conn:
                repository = ArtifactRepository(conn)
                locations = await repository.locations(broken)
                await repository.delete(broken)
                await self._blobs.drop(conn, locations)
            self._counting.add("evict", "broken", len(broken))
            await self._blobs.try_clean()
        if len(rows) == limit:
            response.next_token = f"e.{rows[-1]['id']}"
        return response

    async def _missing(self, row: Record) -> list[str]:
        """References of an entry at which nothing is stored: of its literals, and of what these refer to."""
        items = kept(row)
        offloaded = [each.location for each in items if each.value is None]
        missing = await self._blobs.missing(offloaded)
        if missing:
            return missing
        try:
            contents = dict(zip(offloaded, await self._blobs.read(offloaded), strict=True))
        except NotFound:  # removed since
            return offloaded
        outputs = LiteralMap()
        for each in items:
            content = contents[each.location] if each.value is None else each.value
            try:
                outputs.literals[each.name].CopyFrom(Literal.FromString(content))
            except DecodeError:
                return [each.location or f"{each.name}, which is not a literal"]
        return await missing_references(self._storage, outputs)

    def _selected(self, selection: messages.Selection) -> Selected:
        problems: list[str] = []
        for field, value in (
            ("project", selection.project),
            ("domain", selection.domain),
            ("task", selection.task),
            ("cache version", selection.cache_version),
            ("source execution", selection.source_execution),
            ("source project", selection.source_project),
            ("source domain", selection.source_domain),
        ):
            problems += validation.storable(field, value, 4_000)
        before: datetime | None = None
        if selection.HasField("older_than"):
            seconds = selection.older_than.seconds + selection.older_than.nanos / 1e9
            if seconds < 0 or seconds > 3e9:
                problems.append("invalid value for older than: it is not an age from zero to a hundred years")
            else:
                before = self._clock.now() - timedelta(seconds=seconds)
        validation.refuse(problems)
        return Selected(
            project=selection.project,
            domain=selection.domain,
            dataset=f"{DATASET_PREFIX}{selection.task}" if selection.task else "",
            cache_version=selection.cache_version.strip(),
            source=Source(selection.source_project, selection.source_domain, selection.source_execution),
            updated_before=before,
        )


def _key(subject: Subject) -> CacheKey:
    return cache_key(subject.task, subject.inputs, cache_version=subject.cache_version, interface=subject.interface)


def _parts(key: CacheKey, task: TaskTemplate) -> messages.KeyParts:
    version = version_parts(key.dataset.version)
    return messages.KeyParts(
        project=key.dataset.project,
        domain=key.dataset.domain,
        task=task.id.name,
        cache_version=version.cache_version,
        inputs_interface=version.inputs,
        outputs_interface=version.outputs,
        input_hashes=key.input_hashes,
        ignored_inputs=sorted(task.metadata.cache_ignore_input_vars),
        dataset_name=key.dataset.name,
        dataset_version=key.dataset.version,
        tag=key.tag,
    )


def _nearest(wanted: messages.KeyParts, rows: Sequence[Record], but: int | None) -> list[messages.NearEntry]:
    """Entries with what they differ in: the fewest differences first, the newest first among equals."""
    unique = {row["id"]: row for row in rows if row["id"] != but and row["tags"]}
    ranked = []
    for row in unique.values():
        hashes = _metadata(row).key_map
        known = Known(
            project=row["project"],
            domain=row["domain"],
            version=version_parts(row["version"]),
            tags=frozenset(row["tags"]),
            input_hashes={
                key.removeprefix(INPUT_HASH): value for key, value in hashes.items() if key.startswith(INPUT_HASH)
            },
        )
        found = list(differences(wanted, known))
        ranked.append((len(found), -row["created_at"].timestamp(), row, found))
    ranked.sort(key=lambda each: each[:2])
    return [messages.NearEntry(entry=_entry(row), differences=found) for _, _, row, found in ranked]


def _entry(row: Record) -> messages.Entry:
    entry = messages.Entry(
        project=row["project"],
        domain=row["domain"],
        task=row["name"].removeprefix(DATASET_PREFIX),
        dataset_version=row["version"],
        tag=row["tags"][0] if row["tags"] else "",
        artifact_id=row["artifact_id"],
        source_project=row["source_project"],
        source_domain=row["source_domain"],
        source_execution=row["source_execution"],
        source_node=_metadata(row).key_map.get(SOURCE_NODE, ""),
    )
    entry.created_at.FromDatetime(row["created_at"])
    entry.updated_at.FromDatetime(row["updated_at"])
    return entry


def _metadata(row: Record) -> catalog.Metadata:
    return catalog.Metadata.FromString(row["metadata"])


def _is_maker(node: messages.NodeOfExecution, entry: messages.Entry) -> bool:
    execution = (entry.source_project, entry.source_domain, entry.source_execution)
    return (node.project, node.domain, node.execution) == execution and (
        entry.source_node == node.node_id or entry.source_node.startswith(f"{node.node_id}-")
    )


def _maker(entry: messages.Entry) -> str:
    when = entry.updated_at.ToDatetime().strftime("%Y-%m-%d %H:%M:%S UTC")
    if not entry.source_execution:
        return f"made at {when}"
    return f"made by node {entry.source_node} of execution {entry.source_execution} at {when}"
