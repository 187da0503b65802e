"""Datasets, artifacts, tags and lists, with the codes that clients depend on.

Source: spec/datacatalog-scheduler-notifier.md, A.2 to A.5, and part E, 1 to 5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from flyteidl.datacatalog import datacatalog_pb2 as catalog
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.datacatalog.domain.explaining import version_parts
from aerodrome.datacatalog.domain.places import element

from .conftest import World, text, values

Code = grpc.StatusCode
LARGE = "x" * 500
"""More than is kept in the database."""


async def refused(call: Awaitable[Any], code: grpc.StatusCode, *words: str) -> str:
    """What a call says that has to fail with `code`, and to mention `words`."""
    with pytest.raises(grpc.RpcError) as caught:
        await call
    error: Any = caught.value
    assert error.code() is code, error.details()
    for word in words:
        assert word in error.details()
    return str(error.details())


async def test_a_dataset_is_made_once_and_keeps_its_partition_keys(world: World) -> None:
    identity = await world.make_dataset(keys=["ds", "region"])
    again = catalog.Dataset(id=identity, partitionKeys=["other"])
    await refused(
        world.catalog.CreateDataset(catalog.CreateDatasetRequest(dataset=again)), Code.ALREADY_EXISTS, "stored already"
    )
    known = (await world.catalog.GetDataset(catalog.GetDatasetRequest(dataset=identity))).dataset
    assert list(known.partitionKeys) == ["ds", "region"]
    assert known.id.UUID
    await world.catalog.GetDataset(catalog.GetDatasetRequest(dataset=known.id))
    identity.UUID = "another"
    await refused(world.catalog.GetDataset(catalog.GetDatasetRequest(dataset=identity)), Code.NOT_FOUND, "Dataset")


async def test_datasets_of_different_orgs_are_different(world: World) -> None:
    await world.make_dataset()
    await world.make_dataset(org="acme")
    listed = (await world.catalog.ListDatasets(catalog.ListDatasetsRequest())).datasets
    assert [each.id.org for each in listed] == ["acme", ""]


async def test_everything_that_is_wrong_with_a_request_is_said_at_once(world: World) -> None:
    create = world.catalog.CreateDataset
    await refused(create(catalog.CreateDatasetRequest()), Code.INVALID_ARGUMENT, "dataset")
    broken = catalog.Dataset(id=catalog.DatasetID(project="p"), partitionKeys=["a", "", "a"])
    said = await refused(create(catalog.CreateDatasetRequest(dataset=broken)), Code.INVALID_ARGUMENT)
    assert said.split(", ") == [
        "missing domain",
        "missing name",
        "missing version",
        "missing partition key",
        "invalid value for partition keys: a is there twice",
    ]
    named = world.dataset("n\0ul")
    await refused(
        world.catalog.GetDataset(catalog.GetDatasetRequest(dataset=named)), Code.INVALID_ARGUMENT, "name", "NUL"
    )
    long = catalog.Dataset(id=world.dataset("n" * 5000))
    await refused(create(catalog.CreateDatasetRequest(dataset=long)), Code.INVALID_ARGUMENT, "5000 bytes")


async def test_an_artifact_comes_back_as_it_was_given(world: World) -> None:
    identity = await world.make_dataset(keys=["ds", "region"])
    await world.make_artifact(
        identity,
        "a1",
        {"small": "1", "large": LARGE},
        metadata={"execution-name": "e"},
        partitions={"region": "eu", "ds": "2026-01-01"},
    )
    await world.add_tag(identity, "a1", "latest")
    for found in (await world.by_id(identity, "a1"), await world.by_tag(identity, "latest")):
        assert values(found) == {"small": "1", "large": LARGE}
        assert [(each.key, each.value) for each in found.partitions] == [("region", "eu"), ("ds", "2026-01-01")]
        assert [each.name for each in found.tags] == ["latest"]
        assert found.dataset.UUID
        assert found.created_at.ToDatetime() == world.clock.now().replace(tzinfo=None)
    assert await world.blobs() == ["mem://catalog/metadata/p/development/d/v/a1/large/data.pb"]
    anywhere = await world.catalog.GetArtifact(catalog.GetArtifactRequest(artifact_id="a1"))
    assert anywhere.artifact.id == "a1"


async def test_an_artifact_has_exactly_the_partitions_of_its_dataset(world: World) -> None:
    identity = await world.make_dataset(keys=["ds"])
    for partitions in ({}, {"ds": "1", "more": "2"}, {"other": "1"}):
        artifact = world.artifact(identity, "a", partitions=partitions)
        request = catalog.CreateArtifactRequest(artifact=artifact)
        await refused(world.catalog.CreateArtifact(request), Code.INVALID_ARGUMENT, "partition")
    empty = world.artifact(identity, "a", partitions={"ds": ""})
    request = catalog.CreateArtifactRequest(artifact=empty)
    await refused(world.catalog.CreateArtifact(request), Code.INVALID_ARGUMENT, "missing partition value")


async def test_what_an_artifact_must_have(world: World) -> None:
    create = world.catalog.CreateArtifact
    await refused(create(catalog.CreateArtifactRequest()), Code.INVALID_ARGUMENT, "artifact")
    nothing = catalog.Artifact(dataset=world.dataset())
    said = await refused(create(catalog.CreateArtifactRequest(artifact=nothing)), Code.INVALID_ARGUMENT)
    assert said == "missing artifact id, missing artifact data"
    lost = catalog.CreateArtifactRequest(artifact=world.artifact(world.dataset(), "a"))
    await refused(create(lost), Code.NOT_FOUND, "Dataset")
    identity = await world.make_dataset()
    await world.make_artifact(identity, "a", {"o": LARGE})
    again = catalog.CreateArtifactRequest(artifact=world.artifact(identity, "a", {"o": LARGE + "other"}))
    await refused(create(again), Code.ALREADY_EXISTS, "stored already")
    assert values(await world.by_id(identity, "a")) == {"o": LARGE}


async def test_how_an_artifact_is_asked_for(world: World) -> None:
    get = world.catalog.GetArtifact
    identity = await world.make_dataset()
    await refused(get(catalog.GetArtifactRequest(dataset=identity)), Code.INVALID_ARGUMENT, "one of artifact id")
    await refused(get(catalog.GetArtifactRequest(artifact_id="")), Code.INVALID_ARGUMENT, "artifact id")
    await refused(get(catalog.GetArtifactRequest(tag_name="t")), Code.INVALID_ARGUMENT, "dataset")
    await refused(get(catalog.GetArtifactRequest(artifact_id="a")), Code.NOT_FOUND, "Artifact", "a")
    await refused(get(catalog.GetArtifactRequest(dataset=identity, tag_name="t")), Code.NOT_FOUND, "Tag", "t")


async def test_a_tag_never_points_at_another_artifact(world: World) -> None:
    identity = await world.make_dataset()
    await world.make_artifact(identity, "first")
    await world.make_artifact(identity, "second")
    await world.add_tag(identity, "first", "t")
    await refused(world.add_tag(identity, "second", "t"), Code.ALREADY_EXISTS, "stored already")
    assert (await world.by_tag(identity, "t")).id == "first"
    await refused(world.add_tag(identity, "none", "t"), Code.NOT_FOUND, "Artifact", "none")
    await refused(world.add_tag(world.dataset("none"), "first", "t"), Code.NOT_FOUND, "Dataset")


async def test_an_artifact_and_its_tag_are_stored_as_one(world: World) -> None:
    identity = await world.make_dataset()
    await world.make_artifact(identity, "first", tags=["t"])
    await refused(world.make_artifact(identity, "second", {"o": LARGE}, tags=["u", "t"]), Code.ALREADY_EXISTS, "tag")
    await refused(world.by_id(identity, "second"), Code.NOT_FOUND)
    await refused(world.by_tag(identity, "u"), Code.NOT_FOUND)
    await world.service.upkeep.tick()
    assert await world.blobs() == []


async def test_of_those_who_store_at_once_exactly_one_wins(world: World) -> None:
    identity = await world.make_dataset()
    made = await asyncio.gather(
        *(world.make_artifact(identity, "a", {"o": f"{LARGE}{each}"}) for each in range(6)), return_exceptions=True
    )
    assert sum(each is None for each in made) == 1
    winner = next(number for number, each in enumerate(made) if each is None)
    assert values(await world.by_id(identity, "a")) == {"o": f"{LARGE}{winner}"}
    tagged = await asyncio.gather(
        *(world.make_artifact(identity, f"b{each}", tags=["t"]) for each in range(6)), return_exceptions=True
    )
    assert sum(each is None for each in tagged) == 1
    assert (await world.by_tag(identity, "t")).id == f"b{tagged.index(None)}"


async def update(world: World, data: dict[str, str], **handle: Any) -> str:
    items = [catalog.ArtifactData(name=name, value=text(value)) for name, value in data.items()]
    metadata = catalog.Metadata(key_map={"new": "yes"})
    request = catalog.UpdateArtifactRequest(data=items, metadata=metadata, **handle)
    return str((await world.catalog.UpdateArtifact(request)).artifact_id)


async def test_an_update_replaces_data_and_metadata_and_nothing_else(world: World) -> None:
    identity = await world.make_dataset(keys=["ds"])
    await world.make_artifact(
        identity, "a", {"kept": LARGE, "gone": LARGE}, metadata={"old": "1"}, partitions={"ds": "1"}, tags=["t", "u"]
    )
    created = (await world.by_id(identity, "a")).created_at
    await world.clock.advance(5)
    assert await update(world, {"kept": LARGE + "2", "added": "3"}, dataset=identity, tag_name="t") == "a"
    found = await world.by_tag(identity, "u")
    assert values(found) == {"kept": LARGE + "2", "added": "3"}
    assert dict(found.metadata.key_map) == {"new": "yes"}
    assert [each.name for each in found.tags] == ["t", "u"]
    assert [each.value for each in found.partitions] == ["1"]
    assert found.created_at == created
    assert await world.blobs() == ["mem://catalog/metadata/p/development/d/v/a/kept/data.pb"]
    await update(world, {"kept": "small now"}, artifact_id="a")
    assert values(await world.by_id(identity, "a")) == {"kept": "small now"}
    assert await world.blobs() == []


async def test_an_update_of_what_is_not_there(world: World) -> None:
    identity = await world.make_dataset()
    await refused(update(world, {"o": "1"}, dataset=identity, tag_name="t"), Code.NOT_FOUND, "Tag")
    await refused(update(world, {}, dataset=identity, tag_name="t"), Code.INVALID_ARGUMENT, "artifact data")
    await refused(update(world, {"o": "1"}), Code.INVALID_ARGUMENT, "one of artifact id")


async def test_an_artifact_whose_blob_is_gone_is_not_found_and_says_so(world: World) -> None:
    identity = await world.make_dataset()
    await world.make_artifact(identity, "a", {"o": LARGE}, tags=["t"])
    await world.make_artifact(identity, "b", {"o": "here"})
    (blob,) = await world.blobs()
    await world.storage.delete(blob)
    await refused(world.by_tag(identity, "t"), Code.NOT_FOUND, "data is gone", blob)
    listed = (await world.catalog.ListArtifacts(catalog.ListArtifactsRequest(dataset=identity))).artifacts
    assert {each.id: values(each) for each in listed} == {"a": {}, "b": {"o": "here"}}
    await update(world, {"o": LARGE}, dataset=identity, tag_name="t")
    assert values(await world.by_tag(identity, "t")) == {"o": LARGE}


async def pages(world: World, identity: catalog.DatasetID, limit: int, **options: Any) -> list[list[str]]:
    found, token = [], ""
    while True:
        request = catalog.ListArtifactsRequest(
            dataset=identity, pagination=catalog.PaginationOptions(limit=limit, token=token, **options)
        )
        answer = await world.catalog.ListArtifacts(request)
        found.append([each.id for each in answer.artifacts])
        token = answer.next_token
        if not token:
            return found
        await world.clock.advance(1)
        await world.make_artifact(identity, f"later{len(found)}")


async def test_pages_are_stable_while_others_insert(world: World) -> None:
    identity = await world.make_dataset()
    names = [f"a{number:03}" for number in range(120)]
    for name in names:
        await world.make_artifact(identity, name)
    listed = await pages(world, identity, 50)
    assert [len(each) for each in listed] == [50, 50, 20]
    assert [name for each in listed for name in each] == names[::-1]
    first = await world.catalog.ListArtifacts(catalog.ListArtifactsRequest(dataset=identity))
    assert len(first.artifacts) == 50
    none = catalog.ListArtifactsRequest(dataset=identity, pagination=catalog.PaginationOptions(limit=0))
    assert len((await world.catalog.ListArtifacts(none)).artifacts) == 50
    skipped = catalog.PaginationOptions(limit=2, token="3", sortOrder=catalog.PaginationOptions.ASCENDING)
    request = catalog.ListArtifactsRequest(dataset=identity, pagination=skipped)
    assert [each.id for each in (await world.catalog.ListArtifacts(request)).artifacts] == ["a003", "a004"]


async def test_a_token_that_is_not_ours_is_refused(world: World) -> None:
    identity = await world.make_dataset()
    for token in ("x", "-1", "d.1", "a.1.1", "d.999999999999999999.1", "99999999999", "d.1.1\0"):
        request = catalog.ListArtifactsRequest(dataset=identity, pagination=catalog.PaginationOptions(token=token))
        await refused(world.catalog.ListArtifacts(request), Code.INVALID_ARGUMENT, "token")


def one(**property_filter: Any) -> catalog.FilterExpression:
    return catalog.FilterExpression(filters=[catalog.SinglePropertyFilter(**property_filter)])


def partition(key: str, value: str) -> catalog.SinglePropertyFilter:
    pair = catalog.KeyValuePair(key=key, value=value)
    return catalog.SinglePropertyFilter(partition_filter=catalog.PartitionPropertyFilter(key_val=pair))


async def test_artifacts_are_filtered_by_tag_partition_and_id(world: World) -> None:
    identity = await world.make_dataset(keys=["ds", "region"])
    for name, day, region in (("a", "1", "eu"), ("b", "1", "us"), ("c", "2", "us")):
        await world.make_artifact(identity, name, partitions={"ds": day, "region": region}, tags=[f"tag-{name}"])

    async def listed(expression: catalog.FilterExpression) -> list[str]:
        request = catalog.ListArtifactsRequest(dataset=identity, filter=expression)
        return [each.id for each in (await world.catalog.ListArtifacts(request)).artifacts]

    both = catalog.FilterExpression(filters=[partition("ds", "1"), partition("region", "us")])
    assert await listed(both) == ["b"]
    assert await listed(catalog.FilterExpression(filters=[partition("region", "us")])) == ["c", "b"]
    assert await listed(one(tag_filter=catalog.TagPropertyFilter(tag_name="tag-a"))) == ["a"]
    assert await listed(one(artifact_filter=catalog.ArtifactPropertyFilter(artifact_id="c"))) == ["c"]
    for expression in (
        one(dataset_filter=catalog.DatasetPropertyFilter(project="p")),
        one(tag_filter=catalog.TagPropertyFilter()),
        catalog.FilterExpression(filters=[partition("", "x")]),
        catalog.FilterExpression(filters=[catalog.SinglePropertyFilter()]),
    ):
        await refused(listed(expression), Code.INVALID_ARGUMENT)


async def test_datasets_are_filtered_by_what_names_them(world: World) -> None:
    await world.make_dataset("a", version="1")
    await world.make_dataset("a", version="2")
    await world.make_dataset("b", version="1", org="acme")

    async def listed(**wanted: str) -> list[str]:
        expression = one(dataset_filter=catalog.DatasetPropertyFilter(**wanted))
        answer = await world.catalog.ListDatasets(catalog.ListDatasetsRequest(filter=expression))
        return [f"{each.id.name}{each.id.version}" for each in answer.datasets]

    assert await listed(name="a") == ["a2", "a1"]
    assert await listed(version="1") == ["b1", "a1"]
    assert await listed(org="acme") == ["b1"]
    assert await listed(project="none") == []
    tagged = one(tag_filter=catalog.TagPropertyFilter(tag_name="t"))
    await refused(
        world.catalog.ListDatasets(catalog.ListDatasetsRequest(filter=tagged)), Code.INVALID_ARGUMENT, "filter"
    )


@given(st.text(max_size=400))
def test_a_name_becomes_one_element_of_a_path(name: str) -> None:
    made = element(name)
    assert made not in ("", ".", "..")
    assert "/" not in made
    assert "\0" not in made
    assert len(made.encode()) <= 255


@given(st.lists(st.text(max_size=300), unique=True, min_size=2, max_size=2))
def test_different_names_are_different_elements(names: list[str]) -> None:
    assert element(names[0]) != element(names[1])


@given(
    st.text(min_size=1).filter(str.strip),
    st.text("abc-_", min_size=8, max_size=8),
    st.text("xyz-_", min_size=8, max_size=8),
)
def test_a_version_is_taken_apart_as_it_was_put_together(version: str, inputs: str, outputs: str) -> None:
    parts = version_parts(f"{version}-{inputs}-{outputs}")
    assert (parts.cache_version, parts.inputs, parts.outputs) == (version, inputs, outputs)
