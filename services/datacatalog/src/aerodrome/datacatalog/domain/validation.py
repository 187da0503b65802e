"""What a request has to have: everything that is wrong with it, in the order in which the fields are looked at.

Names become keys of an index, which takes values of 2.7 kB at most; so they are bounded here.
Source: spec/datacatalog-scheduler-notifier.md, A.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from flyteidl.datacatalog.datacatalog_pb2 import Artifact, Dataset, DatasetID, Tag

from aerodrome.stdlib.errors import InvalidArgument

MAX_DATASET_BYTES = 2_000
"""Most bytes of UTF-8 that project, domain, name, version and org of a dataset have together."""
MAX_NAME_BYTES = 1_000
"""Most bytes of a tag, an artifact's id, a partition's key and value together, a reservation's owner, a data name."""
MAX_KEY_BYTES = 2_000
"""Most bytes of a key of CacheService."""
MAX_DATA_ITEMS = 10_000
MAX_PARTITIONS = 100

Problems = Iterator[str]


def refuse(problems: Iterable[str]) -> None:
    """Raises InvalidArgument with all of `problems`, if there are any."""
    found = list(problems)
    if found:
        raise InvalidArgument(", ".join(found))


def missing(field: str) -> str:
    """The words for a field that is not given."""
    return f"missing {field}"


def text(field: str, value: str, limit_bytes: int = MAX_NAME_BYTES) -> Problems:
    """A text that has to be there, and to fit into an index."""
    if not value:
        yield missing(field)
    yield from storable(field, value, limit_bytes)


def storable(field: str, value: str, limit_bytes: int = MAX_NAME_BYTES) -> Problems:
    """A text that may be empty."""
    if "\0" in value:
        yield f"invalid value for {field}: it has a NUL character"
    size = len(value.encode(errors="replace"))
    if size > limit_bytes:
        yield f"invalid value for {field}: it has {size} bytes, and at most {limit_bytes} can be kept"


def dataset_id(given: bool, dataset: DatasetID) -> Problems:
    """A dataset's name, whole."""
    if not given:
        yield missing("dataset")
        return
    parts = {
        "project": dataset.project,
        "domain": dataset.domain,
        "name": dataset.name,
        "version": dataset.version,
    }
    for field, value in parts.items():
        yield from text(field, value, MAX_DATASET_BYTES)
    yield from storable("org", dataset.org)
    size = sum(len(value.encode(errors="replace")) for value in (*parts.values(), dataset.org))
    if size > MAX_DATASET_BYTES:
        yield f"invalid value for dataset: its names have {size} bytes, and at most {MAX_DATASET_BYTES} can be kept"


def dataset(given: bool, wanted: Dataset) -> Problems:
    """A dataset that is to be made."""
    if not given:
        yield missing("dataset")
        return
    yield from dataset_id(wanted.HasField("id"), wanted.id)
    seen: set[str] = set()
    for key in wanted.partitionKeys:
        yield from text("partition key", key)
        if key in seen:
            yield f"invalid value for partition keys: {key} is there twice"
        seen.add(key)
    if len(wanted.partitionKeys) > MAX_PARTITIONS:
        yield f"invalid value for partition keys: there are more than {MAX_PARTITIONS}"


def artifact(given: bool, wanted: Artifact) -> Problems:
    """An artifact that is to be made."""
    if not given:
        yield missing("artifact")
        return
    yield from dataset_id(wanted.HasField("dataset"), wanted.dataset)
    yield from text("artifact id", wanted.id)
    yield from data_names([each.name for each in wanted.data])
    for partition in wanted.partitions:
        yield from text("partition key", partition.key)
        yield from text("partition value", partition.value)
    for each in wanted.tags:
        yield from text("tag name", each.name)


def data_names(names: Sequence[str]) -> Problems:
    """The names of an artifact's data: at least one, and all different."""
    if not names:
        yield missing("artifact data")
    if len(names) > MAX_DATA_ITEMS:
        yield f"invalid value for artifact data: there are more than {MAX_DATA_ITEMS}"
        return
    for name in names:
        yield from storable("artifact data name", name)
    if len(set(names)) != len(names):
        yield "invalid value for artifact data: a name is there twice"


def tag(given: bool, wanted: Tag) -> Problems:
    """A tag that is to be added."""
    if not given:
        yield missing("tag")
        return
    yield from dataset_id(wanted.HasField("dataset"), wanted.dataset)
    yield from text("tag name", wanted.name)
    yield from text("artifact id", wanted.artifact_id)


def handle(kind: str | None, artifact_id: str, tag_name: str, *, dataset_given: bool, dataset: DatasetID) -> Problems:
    """What an artifact is asked for by: its id, of a dataset or of any, or a tag of a dataset."""
    if kind == "artifact_id":
        if dataset_given:
            yield from dataset_id(True, dataset)
        yield from text("artifact id", artifact_id)
    elif kind == "tag_name":
        yield from dataset_id(dataset_given, dataset)
        yield from text("tag name", tag_name)
    else:
        yield missing("one of artifact id / tag name")
