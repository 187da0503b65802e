"""Artifacts and their tags.  Source: spec/datacatalog-scheduler-notifier.md, A.2 to A.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flyteidl.core.literals_pb2 import Literal
from flyteidl.datacatalog import datacatalog_pb2 as catalog
from google.protobuf.message import DecodeError

from aerodrome.datacatalog.config import CatalogSection
from aerodrome.datacatalog.domain import filters, validation
from aerodrome.datacatalog.domain.paging import page
from aerodrome.datacatalog.domain.places import data_parts
from aerodrome.datacatalog.managers.blobs import Blobs
from aerodrome.datacatalog.managers.counting import Counting
from aerodrome.datacatalog.managers.datasets import shown, stored
from aerodrome.datacatalog.repositories.artifacts import ArtifactRepository, Kept
from aerodrome.datacatalog.transformers.catalog import artifact, kept, source
from aerodrome.idl.catalog.v1.catalog_pb2 import BrokenEntry
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AlreadyExists, DataLoss, Internal, InvalidArgument, NotFound
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database, Record

log = get_logger(__name__)

_PAGE_BYTES = 48 * 2**20
"""A page of artifacts ends early when its literals have grown to this size; a client may not take more than 64 MiB."""


@dataclass(frozen=True, slots=True)
class Split:
    """Data items, told apart by where they are kept."""

    kept: Sequence[Kept]
    blobs: Mapping[str, bytes]
    """What has to be written to the store, by location."""


class ArtifactManager:
    """CreateArtifact, GetArtifact, UpdateArtifact, AddTag, ListArtifacts."""

    def __init__(
        self, database: Database, blobs: Blobs, clock: Clock, config: CatalogSection, counting: Counting
    ) -> None:
        self._db = database
        self._blobs = blobs
        self._clock = clock
        self._config = config
        self._counting = counting

    async def create(self, request: catalog.CreateArtifactRequest) -> None:
        """Store an artifact, and the tags that it comes with, as one; AlreadyExists changes nothing."""
        validation.refuse(validation.artifact(request.HasField("artifact"), request.artifact))
        wanted = request.artifact
        async with self._db.connection() as conn:
            row = await stored(conn, wanted.dataset)
            dataset_id = int(row["id"])
            _check_partitions(wanted, row["partition_keys"])
            if await ArtifactRepository(conn).row_id(dataset_id, wanted.id) is not None:
                raise self._taken(wanted)
        split = self._split(wanted.dataset, wanted.id, wanted.data)
        async with self._blobs.written(split.blobs), self._db.transaction() as conn:
            now = self._clock.now()
            repository = ArtifactRepository(conn)
            row_id = await repository.insert(
                dataset_id,
                wanted.id,
                metadata=wanted.metadata.SerializeToString(),
                source=source(wanted.metadata),
                at=now,
            )
            if row_id is None:
                raise self._taken(wanted)
            await repository.put_data(row_id, split.kept)
            await repository.add_partitions(row_id, dataset_id, [(each.key, each.value) for each in wanted.partitions])
            names = sorted({each.name for each in wanted.tags})
            if names:
                free = await repository.add_tags(row_id, dataset_id, names, at=now)
                if len(free) != len(names):
                    self._counting.add("create_artifact", "already_exists")
                    raise _tag_taken(next(name for name in names if name not in free), wanted.dataset)
            await self._blobs.keep(conn, split.blobs)
        self._counting.add("create_artifact", "created")

    async def get(self, request: catalog.GetArtifactRequest) -> catalog.Artifact:
        """An artifact by id or tag, with its data.  One of which a blob is gone is NotFound too, and says so.

        The error has a BrokenEntry then: who stores the result anew has to update the artifact, which keeps its tag.
        """
        kind = request.WhichOneof("query_handle")
        row = await self._find(request, kind)
        try:
            found = await self._with_data(row)
        except NotFound as error:
            self._counting.add("get_artifact", "data_gone")
            log.warning("an artifact's data is gone", artifact=row["artifact_id"], reason=error.message)
            broken = BrokenEntry(missing=[each.location for each in kept(row) if each.location][:1])
            raise NotFound(
                f"artifact {row['artifact_id']} is there but its data is gone: {error.message}", [broken]
            ) from error
        self._counting.add("get_artifact", "found")
        return found

    async def update(self, request: catalog.UpdateArtifactRequest) -> str:
        """Replace an artifact's metadata and data; its id.  Partitions, tags and the time of creation stay."""
        kind = request.WhichOneof("query_handle")
        problems = [
            *validation.handle(
                kind,
                request.artifact_id,
                request.tag_name,
                dataset_given=request.HasField("dataset"),
                dataset=request.dataset,
            ),
            *validation.data_names([each.name for each in request.data]),
        ]
        validation.refuse(problems)
        row = await self._find(request, kind, checked=True)
        of = catalog.DatasetID(
            project=row["project"], domain=row["domain"], name=row["name"], version=row["version"], org=row["org"]
        )
        split = self._split(of, row["artifact_id"], request.data)
        async with self._blobs.written(split.blobs), self._db.transaction() as conn:
            repository = ArtifactRepository(conn)
            if not await repository.lock(row["id"]):
                raise _missing(row["artifact_id"], of)
            before = set(await repository.locations([row["id"]]))
            await repository.update(
                row["id"],
                metadata=request.metadata.SerializeToString(),
                source=source(request.metadata),
                at=self._clock.now(),
            )
            await repository.keep_data(row["id"], [each.name for each in split.kept])
            await repository.put_data(row["id"], split.kept)
            await self._blobs.keep(conn, split.blobs)
            dropped = sorted(before - split.blobs.keys())
            await self._blobs.drop(conn, dropped)
        if dropped:
            await self._blobs.try_clean()
        self._counting.add("update_artifact", "updated")
        return str(row["artifact_id"])

    async def add_tag(self, request: catalog.AddTagRequest) -> None:
        """Point a tag at an artifact; a tag never points at another one later: AlreadyExists."""
        validation.refuse(validation.tag(request.HasField("tag"), request.tag))
        wanted = request.tag
        async with self._db.transaction() as conn:
            dataset_id = int((await stored(conn, wanted.dataset))["id"])
            repository = ArtifactRepository(conn)
            row_id = await repository.row_id(dataset_id, wanted.artifact_id)
            # The row is held, so that the artifact is not removed before the tag is there.
            if row_id is None or not await repository.lock(row_id):
                raise _missing(wanted.artifact_id, wanted.dataset)
            if not await repository.add_tags(row_id, dataset_id, [wanted.name], at=self._clock.now()):
                self._counting.add("add_tag", "already_exists")
                raise _tag_taken(wanted.name, wanted.dataset)
        self._counting.add("add_tag", "added")

    async def list(self, request: catalog.ListArtifactsRequest) -> catalog.ListArtifactsResponse:
        """A page of a dataset's artifacts with their data, newest first unless told otherwise."""
        validation.refuse(validation.dataset_id(request.HasField("dataset"), request.dataset))
        conditions = filters.of_artifacts(request.filter)
        wanted = page(request.HasField("pagination"), request.pagination, most=self._config.max_page_size)
        async with self._db.connection() as conn:
            dataset_id = int((await stored(conn, request.dataset))["id"])
            rows = await ArtifactRepository(conn).page(dataset_id, conditions, wanted)
        found: list[catalog.Artifact] = []
        size = 0
        for row in rows[: wanted.limit]:
            loaded = await self._loaded_for_list(row)
            size += loaded.ByteSize()
            if found and size > _PAGE_BYTES:
                break
            found.append(loaded)
        more = len(rows) > len(found)
        last = rows[len(found) - 1] if more and found else None
        return catalog.ListArtifactsResponse(
            artifacts=found, next_token="" if last is None else wanted.token(last["created_at"], last["id"])
        )

    async def _find(
        self,
        request: catalog.GetArtifactRequest | catalog.UpdateArtifactRequest,
        kind: str | None,
        *,
        checked: bool = False,
    ) -> Record:
        given = request.HasField("dataset")
        if not checked:
            validation.refuse(
                validation.handle(
                    kind, request.artifact_id, request.tag_name, dataset_given=given, dataset=request.dataset
                )
            )
        async with self._db.connection() as conn:
            repository = ArtifactRepository(conn)
            if kind == "artifact_id":
                row = await repository.by_id(request.dataset if given else None, request.artifact_id)
            else:
                row = await repository.by_tag(request.dataset, request.tag_name)
        if row is None:
            self._counting.add("find_artifact", "does_not_exist")
            if kind == "artifact_id":
                raise _missing(request.artifact_id, request.dataset)
            raise NotFound(
                f"missing entity of type Tag with identifier {request.tag_name} in dataset {shown(request.dataset)}"
            )
        return row

    async def _with_data(self, row: Record) -> catalog.Artifact:
        """Raises NotFound if a blob is gone, Internal for an artifact without data, DataLoss for what is no literal."""
        items = kept(row)
        if not items:
            raise Internal(f"artifact {row['artifact_id']} has no data, which should not be possible")
        offloaded = [each.location for each in items if each.value is None]
        contents = dict(zip(offloaded, await self._blobs.read(offloaded), strict=True)) if offloaded else {}
        data = []
        for each in items:
            try:
                value = Literal.FromString(contents[each.location] if each.value is None else each.value)
            except DecodeError as error:
                raise DataLoss(
                    f"what is stored as {each.name} of artifact {row['artifact_id']} is not a literal"
                ) from error
            data.append(catalog.ArtifactData(name=each.name, value=value))
        return artifact(row, data)

    async def _loaded_for_list(self, row: Record) -> catalog.Artifact:
        try:
            return await self._with_data(row)
        except NotFound as error:  # a list goes on: one broken artifact must not hide the others
            log.warning("an artifact's data is gone", artifact=row["artifact_id"], reason=error.message)
            return artifact(row, ())

    def _split(self, of: catalog.DatasetID, artifact_id: str, data: Sequence[catalog.ArtifactData]) -> Split:
        items: list[Kept] = []
        blobs: dict[str, bytes] = {}
        for each in data:
            content = each.value.SerializeToString()
            if len(content) <= self._config.inline_data_bytes and self._config.inline_data_bytes:
                items.append(Kept(each.name, "", content))
                continue
            location = self._blobs.join(data_parts(self._config.storage_prefix, of, artifact_id, each.name))
            blobs[location] = content
            items.append(Kept(each.name, location, None))
        return Split(items, blobs)

    def _taken(self, wanted: catalog.Artifact) -> AlreadyExists:
        self._counting.add("create_artifact", "already_exists")
        return AlreadyExists(f"a matching artifact is stored already: {wanted.id} in dataset {shown(wanted.dataset)}")


def _check_partitions(wanted: catalog.Artifact, keys: Sequence[str]) -> None:
    given = [each.key for each in wanted.partitions]
    if len(given) != len(keys) or set(given) != set(keys):
        raise InvalidArgument(
            f"invalid value for partitions: the dataset's partition keys are [{', '.join(keys)}], and the artifact has "
            f"[{', '.join(given)}]"
        )


def _missing(artifact_id: str, of: catalog.DatasetID) -> NotFound:
    where = f" in dataset {shown(of)}" if of.name else ""
    return NotFound(f"missing entity of type Artifact with identifier {artifact_id}{where}")


def _tag_taken(name: str, of: catalog.DatasetID) -> AlreadyExists:
    return AlreadyExists(f"a matching tag is stored already: {name} in dataset {shown(of)}")
